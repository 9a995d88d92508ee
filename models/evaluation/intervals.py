"""Exact intervals of a share and of a rate: few events are the rule, and a normal interval would flatter them."""

CONFIDENCE = 0.95

Interval = tuple[float, float]


def clopper_pearson(hits: int, of: int, confidence: float = CONFIDENCE) -> Interval | None:
    """The shares that `hits` of `of` do not contradict. Null without a trial.

        low: P(at least `hits` | low) = (1 - confidence) / 2, 0 for no hit; high likewise, 1 for all

    Raises ValueError unless 0 <= hits <= of. Source: Clopper and Pearson 1934.

    >>> [round(bound, 4) for bound in clopper_pearson(7, 11)]
    [0.3079, 0.8907]
    """
    from scipy.stats import beta  # noqa: PLC0415 - a second to import; only an evaluation needs it

    if not 0 <= hits <= of:
        raise ValueError(f"hits must be from 0 to of={of}, was {hits}")
    if of == 0:
        return None
    tail = (1 - confidence) / 2
    low = float(beta.ppf(tail, hits, of - hits + 1)) if hits else 0.0
    high = float(beta.ppf(1 - tail, hits + 1, of - hits)) if hits < of else 1.0
    return low, high


def poisson_rate(count: int, exposure: float, confidence: float = CONFIDENCE) -> Interval | None:
    """The rates per unit of `exposure` that `count` events do not contradict. Null without exposure.

        low: P(at least `count` | low) = (1 - confidence) / 2, 0 for none; high likewise

    Raises ValueError for a negative count. Source: Garwood 1936.

    >>> [round(bound, 4) for bound in poisson_rate(3, 2.0)]
    [0.3093, 4.3836]
    """
    from scipy.stats import chi2  # noqa: PLC0415 - a second to import; only an evaluation needs it

    if count < 0:
        raise ValueError(f"count must be at least 0, was {count}")
    if not exposure > 0:
        return None
    tail = (1 - confidence) / 2
    low = float(chi2.ppf(tail, 2 * count)) / 2 if count else 0.0
    return low / exposure, float(chi2.ppf(1 - tail, 2 * count + 2)) / 2 / exposure
