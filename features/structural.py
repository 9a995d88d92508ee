"""Structure: how far forced selling would run, and whom it would drag along."""

from features.feature import Feature, Step


def family(step: Step) -> tuple[Feature, ...]:
    """The features of this family."""
    del step
    return ()
