"""What every test shares: hypothesis profiles and where the real market data lies."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.examples import LONG, LONG_EXAMPLES

REAL_DATA = Path(__file__).parents[2] / "shared" / "data"

settings.register_profile("quick", deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("long", deadline=None, max_examples=LONG_EXAMPLES, suppress_health_check=list(HealthCheck))
settings.load_profile("long" if LONG else "quick")


@pytest.fixture(scope="session")
def real_data() -> Path:
    if not REAL_DATA.is_dir():
        pytest.skip(f"real market data is not there: {REAL_DATA}")
    return REAL_DATA
