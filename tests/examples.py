"""How many examples a property is tried on: few in every run, 10,000 under `HYPOTHESIS_PROFILE=long` (`make long`)."""

import os

from hypothesis import HealthCheck, settings

LONG = os.environ.get("HYPOTHESIS_PROFILE") == "long"
LONG_EXAMPLES = int(os.environ.get("HYPOTHESIS_LONG_EXAMPLES", "10000"))


def examples(quick: int) -> settings:
    """The settings of a property that is dear: `quick` examples, as many as everybody's in the long profile."""
    return settings(
        max_examples=LONG_EXAMPLES if LONG else quick, deadline=None, suppress_health_check=list(HealthCheck)
    )
