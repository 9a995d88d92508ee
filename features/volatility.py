"""Volatility estimators shared by features and labels, and the features that compare short with long volatility."""

import math

import polars as pl

from features.exact import checked, once, rolling_std, samples_min, standard_score, steps

RETURN_STEP = 1e-8  # log return
RETURN_STEPS_MAX = 64_000_000  # one minute saturates at 0.64; squares of a day still sum within Int64
# Windows divide as `* (1 / window)`: polars divides a run of one row by a number, and multiplies longer ones by its
# reciprocal, which may differ in the last bit.
SIGMA_FLOOR = 5e-5  # half a basis point per minute: below it a market counts as flat
LOG_SIGMA_FLOOR = 0.1  # spread of log volatility below which a baseline counts as constant
YEAR_S = 365 * 86_400  # perpetuals trade every day
BASELINE_FULL = 0.8


def log_return(minutes: int = 1) -> pl.Expr:
    """`log(close[t] / close[t - minutes])`; null where either close is missing."""
    close = pl.col("close")
    return (close / close.shift(minutes)).log()


def return_steps() -> pl.Expr:
    """One-minute log return as a whole number of RETURN_STEP, Int64."""
    return once(steps(log_return(), RETURN_STEP, RETURN_STEPS_MAX).cast(pl.Int64))


def _log_steps(above: pl.Expr, below: pl.Expr) -> pl.Expr:
    """`log(above / below)` as a whole number of RETURN_STEP, Int64."""
    return once(steps((above / below).log(), RETURN_STEP, RETURN_STEPS_MAX).cast(pl.Int64))


def range_steps() -> pl.Expr:
    """`log(high / low)` of the bar as a whole number of RETURN_STEP, Int64."""
    return _log_steps(pl.col("high"), pl.col("low"))


def _rogers_satchell_total(window: int) -> pl.Expr:
    """Sum of Rogers-Satchell variances over `(t - window, t]` in squared RETURN_STEPs, exact, as Float64."""
    o, h, low, c = (pl.col(name) for name in ("open", "high", "low", "close"))
    inside = _log_steps(h, c) * _log_steps(h, o) + _log_steps(low, c) * _log_steps(low, o)
    # A bar whose high is below its low would be negative; beyond the clip a day of bars would leave Int64.
    return once(inside.clip(-(RETURN_STEPS_MAX**2), RETURN_STEPS_MAX**2).rolling_sum(window).cast(pl.Float64))


def realised_variance(window: int) -> pl.Expr:
    """`sum(r ** 2)` of the one-minute log returns in `(t - window, t]`; null until the window is full."""
    return once(return_steps().pow(2).rolling_sum(window).cast(pl.Float64) * RETURN_STEP**2)


def bipower_variance(window: int) -> pl.Expr:
    """`pi / 2 * sum(abs(r[i]) * abs(r[i - 1]))` over the `window - 1` neighbouring pairs in `(t - window, t]`.

    Robust to jumps (Barndorff-Nielsen and Shephard, 2004).
    """
    r = return_steps().abs()
    return (r * r.shift(1)).rolling_sum(window - 1).cast(pl.Float64) * (RETURN_STEP**2 * math.pi / 2)


def realised_sigma(window: int, full: float = 1.0) -> pl.Expr:
    """Root mean square one-minute log return over `(t - window, t]`; null below `full` of the window."""
    if full >= 1.0:
        return once((realised_variance(window) * (1 / window)).sqrt())
    squares, least = return_steps().pow(2), samples_min(window, full)
    total = squares.rolling_sum(window, min_samples=least).cast(pl.Float64)
    count = squares.is_not_null().cast(pl.Int64).rolling_sum(window, min_samples=least)
    return once((total / count).sqrt() * RETURN_STEP)


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
    return ((squares - total.pow(2) * (1 / window)) * (1 / (window - 1))).clip(lower_bound=0.0)


def _gap_variance(window: int) -> pl.Expr:
    """Sample variance over `(t - window, t]` of `log(open / close of the bar before)`, in squared RETURN_STEPs."""
    return once(_sample_variance(_log_steps(pl.col("open"), pl.col("close").shift(1)), window))


def yang_zhang_variance(window: int) -> pl.Expr:
    """Variance of a bar from open, high, low, close over `(t - window, t]`, gaps between bars included.

        gap[i] = log(open[i] / close[i - 1]), body[i] = log(close[i] / open[i])
        k = yang_zhang_weight(window)
        out[t] = var(gap) + k * var(body) + (1 - k) * mean(Rogers-Satchell variance)        sample variances

    Free of drift; sums are exact in steps of RETURN_STEP. Null until the window and the close before it are there.
    Raises ValueError if `window` < 2 (Yang and Zhang, 2000).
    """
    k = yang_zhang_weight(window)
    body = _sample_variance(_log_steps(pl.col("close"), pl.col("open")), window)
    inside = _rogers_satchell_total(window) * (1 / window)
    return (_gap_variance(window) + k * body + (1 - k) * inside) * RETURN_STEP**2


def parkinson_sigma(window: int) -> pl.Expr:
    """Root mean Parkinson variance per minute over `(t - window, t]`."""
    total = range_steps().pow(2).rolling_sum(window).cast(pl.Float64)
    return once((total * (RETURN_STEP**2 / (4 * math.log(2) * window))).sqrt())


def _root_mean(total: pl.Expr, window: int) -> pl.Expr:
    """Standard deviation of a bar from the sum of a window's variances in squared RETURN_STEPs; never below 0."""
    return (total.clip(lower_bound=0.0) * (1 / window)).sqrt() * RETURN_STEP


def garman_klass_sigma(window: int) -> pl.Expr:
    """Root mean Garman-Klass variance of a bar over `(t - window, t]`, from two exact sums."""
    wide = range_steps().pow(2).rolling_sum(window).cast(pl.Float64)
    body = _log_steps(pl.col("close"), pl.col("open")).pow(2).rolling_sum(window).cast(pl.Float64)
    return _root_mean(0.5 * wide - (2 * math.log(2) - 1) * body, window)


def rogers_satchell_sigma(window: int) -> pl.Expr:
    """Root mean Rogers-Satchell variance of a bar over `(t - window, t]`."""
    return _root_mean(_rogers_satchell_total(window), window)


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


def vol_annual(window: int, bar_s: int = 60) -> pl.Expr:
    """Realised volatility a year of 365 days, from closes.

        out[t] = sqrt(sum(r ** 2 over (t - window, t]) / window * YEAR_S / bar_s)       r = log return of a bar

    Returns `vol_annual_{window}`: Float64, 0 and above; 1 is 100 % a year. Null until the window is full.
    Raises ValueError if `window` < 2.
    """
    sigma = realised_sigma(checked("window", window, 2))
    return (sigma * math.sqrt(YEAR_S / bar_s)).alias(f"vol_annual_{window}")


def vol_wick(window: int) -> pl.Expr:
    """What ranges say of volatility over what closes say: wicks that go out and come back.

        p = root mean Parkinson variance, s = rms log return, both over (t - window, t]
        out[t] = log(max(p, SIGMA_FLOOR) / max(s, SIGMA_FLOOR))

    Returns `vol_wick_{window}`: Float64, about 0 for a walk. Null until the window and the close before it are there.
    Raises ValueError if `window` < 2. Source: Parkinson (1980) over realised variance.
    """
    close = realised_sigma(checked("window", window, 2))
    return log_ratio(parkinson_sigma(window), close, SIGMA_FLOOR).alias(f"vol_wick_{window}")


def vol_one_way(window: int) -> pl.Expr:
    """How much of the volatility within bars is drift: one estimator is blind to it, the other is not.

        g, s = root mean Garman-Klass and Rogers-Satchell variance over (t - window, t]
        out[t] = log(max(g, SIGMA_FLOOR) / max(s, SIGMA_FLOOR))

    Returns `vol_one_way_{window}`: Float64, about 0 for a walk, large where every bar runs from one end of its range
    to the other. Null until the window is full. Raises ValueError if `window` < 2. Source: Garman and Klass (1980)
    over Rogers and Satchell (1991).
    """
    blind = rogers_satchell_sigma(checked("window", window, 2))
    return log_ratio(garman_klass_sigma(window), blind, SIGMA_FLOOR).alias(f"vol_one_way_{window}")


def vol_gap_share(window: int) -> pl.Expr:
    """Share of the Yang-Zhang variance that lies between one bar's close and the next one's open.

        out[t] = var(log(open[i] / close[i - 1])) / yang_zhang_variance, over (t - window, t]

    Returns `vol_gap_share_{window}`: Float64 in [0, 1]. Null until the window and the close before it are there, and
    where the Yang-Zhang variance is below SIGMA_FLOOR ** 2 (a flat market has no gaps to speak of).
    Raises ValueError if `window` < 2. Source: Yang and Zhang (2000).
    """
    total = once(yang_zhang_variance(checked("window", window, 2)))
    share = (_gap_variance(window) * RETURN_STEP**2 / total).clip(0.0, 1.0)
    return pl.when(total >= SIGMA_FLOOR**2).then(share).alias(f"vol_gap_share_{window}")


def vol_of_vol(short: int, window: int) -> pl.Expr:
    """How restless volatility is: the spread of its logarithm.

        x[t] = log(max(rms return in (t - short, t], SIGMA_FLOOR))
        out[t] = std(x over (t - window, t])

    Returns `vol_of_vol_{window}`: Float64, 0 and above, log units. Null until 80 % of the window is there.
    Raises ValueError if `short` < 2 or `window` <= `short`.
    """
    checked("window", window, checked("short", short, 2) + 1)
    x = realised_sigma(short).clip(lower_bound=SIGMA_FLOOR).log()
    return rolling_std(x, window, full=BASELINE_FULL).alias(f"vol_of_vol_{window}")


def vol_short_long(window: int, baseline: int) -> pl.Expr:
    """How volatility of the last few minutes stands to that of the hour before: the onset of a move.

        s, b = rms return in (t - window, t] and in (t - window - baseline, t - window]
        out[t] = log(max(s, SIGMA_FLOOR) / max(b, SIGMA_FLOOR))

    Returns `vol_short_long_{window}`: Float64, 0 when volatility is as in the baseline. Null until both windows are
    full. Raises ValueError if `window` < 1 or `baseline` <= `window`.
    """
    checked("baseline", baseline, checked("window", window) + 1)
    long = realised_sigma(baseline).shift(window)
    return log_ratio(realised_sigma(window), long, SIGMA_FLOOR).alias(f"vol_short_long_{window}")
