"""Volatility estimators shared by features and labels, and the features that compare short with long volatility."""

import math

import polars as pl

from features.exact import checked, samples_min, standard_score, steps

RETURN_STEP = 1e-8  # log return
RETURN_STEPS_MAX = 64_000_000  # one minute saturates at 0.64; squares of a day still sum within Int64
SIGMA_FLOOR = 5e-5  # half a basis point per minute: below it a market counts as flat
LOG_SIGMA_FLOOR = 0.1  # spread of log volatility below which a baseline counts as constant


def log_return(minutes: int = 1) -> pl.Expr:
    """`log(close[t] / close[t - minutes])`; null where either close is missing."""
    close = pl.col("close")
    return (close / close.shift(minutes)).log()


def return_steps() -> pl.Expr:
    """One-minute log return as a whole number of RETURN_STEP, Int64."""
    return steps(log_return(), RETURN_STEP, RETURN_STEPS_MAX).cast(pl.Int64)


def range_steps() -> pl.Expr:
    """`log(high / low)` of the bar as a whole number of RETURN_STEP, Int64."""
    return steps((pl.col("high") / pl.col("low")).log(), RETURN_STEP, RETURN_STEPS_MAX).cast(pl.Int64)


def realised_variance(window: int) -> pl.Expr:
    """`sum(r ** 2)` of the one-minute log returns in `(t - window, t]`; null until the window is full."""
    return return_steps().pow(2).rolling_sum(window).cast(pl.Float64) * RETURN_STEP**2


def bipower_variance(window: int) -> pl.Expr:
    """`pi / 2 * sum(abs(r[i]) * abs(r[i - 1]))` over the `window - 1` neighbouring pairs in `(t - window, t]`.

    Robust to jumps (Barndorff-Nielsen and Shephard, 2004).
    """
    r = return_steps().abs()
    return (r * r.shift(1)).rolling_sum(window - 1).cast(pl.Float64) * (RETURN_STEP**2 * math.pi / 2)


def realised_sigma(window: int, full: float = 1.0) -> pl.Expr:
    """Root mean square one-minute log return over `(t - window, t]`; null below `full` of the window."""
    if full >= 1.0:
        return (realised_variance(window) / window).sqrt()
    squares, least = return_steps().pow(2), samples_min(window, full)
    total = squares.rolling_sum(window, min_samples=least).cast(pl.Float64)
    count = squares.is_not_null().cast(pl.Int64).rolling_sum(window, min_samples=least)
    return (total / count).sqrt() * RETURN_STEP


def parkinson_variance() -> pl.Expr:
    """Variance of one bar from its range: `log(high / low) ** 2 / (4 log 2)` (Parkinson, 1980).

    >>> bar = pl.DataFrame({"high": [110.0], "low": [95.0]})
    >>> round(bar.select(parkinson_variance()).item(), 10)
    0.0077518092
    """
    return (pl.col("high") / pl.col("low")).log() ** 2 / (4 * math.log(2))


def garman_klass_variance() -> pl.Expr:
    """Variance of one bar: `log(h / l) ** 2 / 2 - (2 log 2 - 1) log(c / o) ** 2` (Garman and Klass, 1980).

    >>> bar = pl.DataFrame({"open": [100.0], "high": [110.0], "low": [95.0], "close": [105.0]})
    >>> round(bar.select(garman_klass_variance()).item(), 10)
    0.0098267233
    """
    wide = (pl.col("high") / pl.col("low")).log() ** 2
    body = (pl.col("close") / pl.col("open")).log() ** 2
    return 0.5 * wide - (2 * math.log(2) - 1) * body


def rogers_satchell_variance() -> pl.Expr:
    """Variance of one bar, free of drift: `log(h / c) log(h / o) + log(l / c) log(l / o)` (Rogers, Satchell, 1991).

    >>> bar = pl.DataFrame({"open": [100.0], "high": [110.0], "low": [95.0], "close": [105.0]})
    >>> round(bar.select(rogers_satchell_variance()).item(), 10)
    0.0095674414
    """
    o, h, low, c = (pl.col(name) for name in ("open", "high", "low", "close"))
    return (h / c).log() * (h / o).log() + (low / c).log() * (low / o).log()


def yang_zhang_weight(bars: int) -> float:
    """Weight of the open-to-close variance in the Yang-Zhang estimator: `.34 / (1.34 + (n + 1) / (n - 1))`.

    >>> round(yang_zhang_weight(10), 6), round(yang_zhang_weight(30), 6)
    (0.132697, 0.141139)
    """
    return 0.34 / (1.34 + (checked("bars", bars, 2) + 1) / (bars - 1))


def _sample_variance(whole: pl.Expr, window: int) -> pl.Expr:
    """Sample variance of whole numbers over `(t - window, t]`, from exact sums."""
    squares = whole.pow(2).rolling_sum(window).cast(pl.Float64)
    total = whole.rolling_sum(window).cast(pl.Float64)
    return ((squares - total.pow(2) / window) / (window - 1)).clip(lower_bound=0.0)


def yang_zhang_variance(window: int) -> pl.Expr:
    """Variance of a bar from open, high, low, close over `(t - window, t]`, gaps between bars included.

        gap[i] = log(open[i] / close[i - 1]), body[i] = log(close[i] / open[i])
        k = yang_zhang_weight(window)
        out[t] = var(gap) + k * var(body) + (1 - k) * mean(Rogers-Satchell variance)        sample variances

    Free of drift; sums are exact in steps of RETURN_STEP. Null until the window and the close before it are there.
    Raises ValueError if `window` < 2 (Yang and Zhang, 2000).
    """
    k = yang_zhang_weight(window)
    o, h, low, c = (pl.col(name) for name in ("open", "high", "low", "close"))

    def whole(above: pl.Expr, below: pl.Expr) -> pl.Expr:
        return steps((above / below).log(), RETURN_STEP, RETURN_STEPS_MAX).cast(pl.Int64)

    inside = whole(h, c) * whole(h, o) + whole(low, c) * whole(low, o)
    inside_mean = inside.clip(upper_bound=RETURN_STEPS_MAX**2).rolling_sum(window).cast(pl.Float64) / window
    gap, body = _sample_variance(whole(o, c.shift(1)), window), _sample_variance(whole(c, o), window)
    return (gap + k * body + (1 - k) * inside_mean) * RETURN_STEP**2


def parkinson_sigma(window: int) -> pl.Expr:
    """Root mean Parkinson variance per minute over `(t - window, t]`."""
    total = range_steps().pow(2).rolling_sum(window).cast(pl.Float64)
    return (total * (RETURN_STEP**2 / (4 * math.log(2) * window))).sqrt()


def log_ratio(short: pl.Expr, long: pl.Expr, floor: float) -> pl.Expr:
    """`log(max(short, floor) / max(long, floor))`."""
    return (short.clip(lower_bound=floor) / long.clip(lower_bound=floor)).log()


def vol_ratio(window: int, baseline: int) -> pl.Expr:
    """Log ratio of short to long realised volatility.

        s = rms of one-minute log returns in (t - window, t]
        b = rms of one-minute log returns in (t - window - baseline, t - window]
        out[t] = log(max(s, SIGMA_FLOOR) / max(b, SIGMA_FLOOR))

    Returns `vol_ratio_{window}`: Float64, 0 when volatility is as usual. Null until both windows are full.
    Raises ValueError if `window` < 2 or `baseline` <= `window`.
    """
    checked("baseline", baseline, checked("window", window, 2) + 1)
    long = realised_sigma(baseline).shift(window)
    return log_ratio(realised_sigma(window), long, SIGMA_FLOOR).alias(f"vol_ratio_{window}")


def parkinson_ratio(window: int, baseline: int) -> pl.Expr:
    """The same ratio from bar ranges, which see a wick that comes back.

        out[t] = log(max(p over (t - window, t], SIGMA_FLOOR) / max(p over the baseline before it, SIGMA_FLOOR))

    Returns `parkinson_ratio_{window}`: Float64. Null until both windows are full.
    Raises ValueError if `window` < 2 or `baseline` <= `window`.
    """
    checked("baseline", baseline, checked("window", window, 2) + 1)
    long = parkinson_sigma(baseline).shift(window)
    return log_ratio(parkinson_sigma(window), long, SIGMA_FLOOR).alias(f"parkinson_ratio_{window}")


def vol_score(window: int, baseline: int) -> pl.Expr:
    """Standard score of log realised volatility against its own trailing values.

        x[t] = log(max(rms return in (t - window, t], SIGMA_FLOOR))
        out[t] = (x[t] - mean(x[b])) / max(std(x[b]), LOG_SIGMA_FLOOR), b = (t - window - baseline, t - window]

    Returns `vol_score_{window}`: Float64, standard deviations. Null until the window and 80 % of the baseline are
    there. Raises ValueError if `window` < 2 or `baseline` <= `window`.
    """
    checked("baseline", baseline, checked("window", window, 2) + 1)
    x = realised_sigma(window).clip(lower_bound=SIGMA_FLOOR).log()
    return standard_score(x, window, baseline, LOG_SIGMA_FLOOR).alias(f"vol_score_{window}")


def jump_share(window: int) -> pl.Expr:
    """Share of realised variance that came in jumps: `max(1 - bipower / realised, 0)` over `(t - window, t]`.

    Returns `jump_share_{window}`: Float64 in [0, 1]. Null until the window is full and where realised variance is
    below `window * SIGMA_FLOOR ** 2` (a flat market has no jumps to speak of).
    Raises ValueError if `window` < 3.
    """
    checked("window", window, 3)
    total = realised_variance(window)
    share = (1 - bipower_variance(window) / total).clip(0.0, 1.0)
    return pl.when(total >= window * SIGMA_FLOOR**2).then(share).alias(f"jump_share_{window}")
