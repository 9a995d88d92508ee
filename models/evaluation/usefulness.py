"""What alerts are worth to somebody who minds a missed event this much and a false alarm that much."""

from collections.abc import Sequence

PREFERENCES = (0.5, 0.7, 0.8, 0.9, 0.95, 0.99)


def relative_usefulness(missed_share: float, false_share: float, prevalence: float, preference: float) -> float | None:
    """Sarlin's usefulness over that of a perfect signal: 1 perfect, 0 no better than ignoring it, below 0 harmful.

        loss       = mu P1 T1 + (1 - mu) P2 T2          T1 missed share of P1 bars before events, T2 false share of P2
        usefulness = min(mu P1, (1 - mu) P2) - loss      over min(mu P1, (1 - mu) P2)

    Base rates are in it: an alarm for rare events must be precise. Null where the prevalence is 0 or 1.
    Raises ValueError unless 0 < preference < 1. Source: Sarlin 2013.

    >>> relative_usefulness(0.5, 0.01, 0.1, 0.5)
    0.41
    """
    if not 0 < preference < 1:
        raise ValueError(f"preference must be in (0, 1), was {preference}")
    missed, false = preference * prevalence, (1 - preference) * (1 - prevalence)
    best = min(missed, false)
    return round((best - missed * missed_share - false * false_share) / best, 12) if best > 0 else None


def by_preference(
    missed_share: float, false_share: float, prevalence: float, preferences: Sequence[float] = PREFERENCES
) -> dict[str, float | None]:
    return {f"{mu:g}": relative_usefulness(missed_share, false_share, prevalence, mu) for mu in preferences}
