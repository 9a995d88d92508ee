"""Labels: what a cascade was. The only module that looks forward; what does is named `future_`.

A label flags bars from what had happened by then. Events join flagged bars; only `future_event_within` turns them
round into a target for training.
"""

import math
from collections.abc import Callable

import polars as pl

from features.exact import checked, finite
from features.feature import Step
from features.inputs import FLOW_FLOOR_USD, usable
from features.volatility import SIGMA_FLOOR, log_return, realised_sigma

SIGMA_MIN = 1_440  # minutes, before the window, that set the scale of an ordinary move
SIGMA_FULL = 0.8  # share of their bars that must have a return
FLAG_SCHEMA = pl.Schema(
    {
        "venue": pl.String(),
        "symbol": pl.String(),
        "ts": pl.Datetime("us", "UTC"),
        "label": pl.String(),
        "flag": pl.Boolean(),
        "severity": pl.Float64(),
    }
)
EVENT_SCHEMA = pl.Schema(
    {
        "symbol": pl.String(),
        "onset": pl.Datetime("us", "UTC"),
        "end": pl.Datetime("us", "UTC"),
        "label": pl.String(),
        "severity": pl.Float64(),
    }
)


def _moved(window: int, sigmas: float, step: Step) -> pl.Expr:
    """Whether the absolute log return over `(t - window, t]` exceeds `sigmas` ordinary ones; true for `sigmas` 0.

    ordinary = max(rms return of a bar over the SIGMA_MIN before the window, SIGMA_FLOOR of a minute) * sqrt(window)
    """
    if sigmas == 0:
        return pl.lit(True)
    least = SIGMA_FLOOR * math.sqrt(step.bar_s / 60)
    ordinary = realised_sigma(step.bars(SIGMA_MIN), full=SIGMA_FULL).shift(window).clip(lower_bound=least)
    return log_return(window).abs() > ordinary * (sigmas * math.sqrt(window))


def _flags(bars: pl.DataFrame, label: str, severity_pct: pl.Expr, fall_pct: float, moved: pl.Expr) -> pl.DataFrame:
    """One row per bar: flag = severity >= fall_pct and moved; null where an unknown one of them decides."""
    return _told(bars, label, severity_pct, (finite(severity_pct) >= fall_pct) & moved)


def _told(bars: pl.DataFrame, label: str, severity_pct: pl.Expr, flag: pl.Expr) -> pl.DataFrame:
    """One row per bar: `severity_pct` and `flag` of every symbol on its own, read from what is usable."""
    columns = {"label": pl.lit(label), "flag": flag, "severity": finite(severity_pct)}
    clean = usable(bars.sort("symbol", "ts")).partition_by("symbol", maintain_order=True)
    rows = [part.select("venue", "symbol", "ts", **columns) for part in clean]
    return pl.concat([pl.DataFrame(schema=FLAG_SCHEMA), *rows])


def _checked(fall_pct: float, window_min: int, sigmas: float, step: Step) -> int:
    """The window in bars."""
    if not fall_pct > 0:
        raise ValueError(f"fall_pct must be above 0, was {fall_pct}")
    if not sigmas >= 0:
        raise ValueError(f"sigmas must be at least 0, was {sigmas}")
    return checked("window_min", step.bars(window_min))


def oi_flush(
    bars: pl.DataFrame, fall_pct: float = 2.0, window_min: int = 30, sigmas: float = 4.0, *, bar_s: int = 60
) -> pl.DataFrame:
    """Open interest falls while the price moves as it ordinarily does not: the default label for public data.

        severity[t] = 100 * (1 - oi_base[t] / oi_base[t - window_min])
        flag[t] = severity[t] >= fall_pct and |log return over (t - window_min, t]| > sigmas * ordinary

    Returns venue, symbol, ts, label, flag, severity (percent), one row per bar, causal. `flag` is null where open
    interest is missing or stale at either end, and where a fall meets a price history shorter than a day.
    Raises ValueError for `fall_pct` <= 0, `sigmas` < 0, a window outside [1, 1440] or not whole bars of `bar_s`.
    """
    step = Step(bar_s)
    window = _checked(fall_pct, window_min, sigmas, step)
    fall = 100 * (1 - pl.col("oi_base") / pl.col("oi_base").shift(window))
    return _flags(bars, "oi_flush", fall, fall_pct, _moved(window, sigmas, step))


def liq_share(
    bars: pl.DataFrame, fall_pct: float = 2.0, window_min: int = 30, sigmas: float = 0.0, *, bar_s: int = 60
) -> pl.DataFrame:
    """Liquidated notional reaches a share of open interest: for venues that publish every liquidation.

        severity[t] = 100 * USD liquidated in (t - window_min, t] / oi_usd[t - window_min]
        flag[t] = severity[t] >= fall_pct and |log return| > sigmas * ordinary

    Shape and errors as `oi_flush`; `flag` is null where liquidations or open interest are missing. Open interest
    below FLOW_FLOOR_USD counts as that.
    """
    step = Step(bar_s)
    window = _checked(fall_pct, window_min, sigmas, step)
    forced = (pl.col("liq_long_usd") + pl.col("liq_short_usd")).rolling_sum(window)
    share = 100 * forced / pl.col("oi_usd").shift(window).clip(lower_bound=FLOW_FLOOR_USD)
    return _flags(bars, "liq_share", share, fall_pct, _moved(window, sigmas, step))


def drawdown(
    bars: pl.DataFrame, fall_pct: float = 5.0, window_min: int = 30, sigmas: float = 0.0, *, bar_s: int = 60
) -> pl.DataFrame:
    """The price alone falls: a baseline only, it calls ordinary moves cascades.

        severity[t] = 100 * (1 - close[t] / max(close over [t - window_min, t]))
        flag[t] = severity[t] >= fall_pct and |log return| > sigmas * ordinary

    Shape and errors as `oi_flush`; `flag` is null until the window is full.
    """
    step = Step(bar_s)
    window = _checked(fall_pct, window_min, sigmas, step)
    fall = 100 * (1 - pl.col("close") / pl.col("close").rolling_max(window + 1))
    return _flags(bars, "drawdown", fall, fall_pct, _moved(window, sigmas, step))


def move(
    bars: pl.DataFrame, fall_pct: float = 1.0, window_min: int = 30, sigmas: float = 4.0, *, bar_s: int = 60
) -> pl.DataFrame:
    """The price alone, up or down: what markets without open interest can teach of the hours before a cascade.

        severity[t] = 100 * |log return over (t - window_min, t]|
        flag[t] = severity[t] >= fall_pct and |log return| > sigmas * ordinary

    Shape and errors as `oi_flush`; `flag` is null until the window is full.
    """
    step = Step(bar_s)
    window = _checked(fall_pct, window_min, sigmas, step)
    return _flags(bars, "move", 100 * log_return(window).abs(), fall_pct, _moved(window, sigmas, step))


def liq_burst(
    bars: pl.DataFrame, quantile: float = 0.99, floor_usd: float = 250_000.0, window_min: int = 30, *, bar_s: int = 60
) -> pl.DataFrame:
    """More is liquidated than usual, and not little: for liquidation feeds that tell a part of it.

        forced[t]   = USD liquidated in (t - window_min, t]
        usual[t]    = `quantile` of forced over the SIGMA_MIN minutes up to t - window_min
        severity[t] = 100 * forced[t] / max(usual[t], floor_usd)
        flag[t]     = forced[t] > usual[t] and forced[t] >= floor_usd

    Shape as `oi_flush`; `flag` is null where liquidations are missing, and where SIGMA_FULL of the bars before the
    window lack them. Raises ValueError for a quantile outside (0, 1), a floor of 0 or less, or a window as there.
    """
    step = Step(bar_s)
    window, before = checked("window_min", step.bars(window_min)), step.bars(SIGMA_MIN)
    if not 0 < quantile < 1:
        raise ValueError(f"quantile must lie between 0 and 1, was {quantile}")
    if not floor_usd > 0:
        raise ValueError(f"floor_usd must be above 0, was {floor_usd}")
    forced = (pl.col("liq_long_usd") + pl.col("liq_short_usd")).cast(pl.Float64).rolling_sum(window)
    least = math.ceil(SIGMA_FULL * before)
    usual = forced.rolling_quantile(quantile, window_size=before, min_samples=least).shift(window)
    share = 100 * forced / pl.max_horizontal(usual, floor_usd)
    return _flags(bars, "liq_burst", share, 100.0, forced > usual)


def adl(bars: pl.DataFrame, fall_pct: float = 2.0, window_min: int = 30, *, bar_s: int = 60) -> pl.DataFrame:
    """Positions of the winning side were closed, or the insurance fund was drawn upon: what a venue knows for sure.

    `bars` carry two columns more: `adl_usd`, dollars deleveraged in the bar, and `fund_usd`, what the insurance fund
    held at its end; null where that is not told.

        deleveraged[t] = 100 * USD deleveraged in (t - window_min, t] / oi_usd[t - window_min]
        drawn[t]       = 100 * (1 - fund_usd[t] / max(fund_usd over [t - window_min, t])) where something of the symbol
                         was liquidated in the window, else 0
        severity[t]    = the larger of the two that are known
        flag[t]        = deleveraged[t] > 0 or drawn[t] >= fall_pct

    Shape as `oi_flush`; `flag` is null where a bar of the window does not tell of deleveraging and neither the others
    nor the fund decide. A fund that is not told was not drawn upon. Open interest below FLOW_FLOOR_USD, or unknown,
    counts as that.
    Raises ValueError for `fall_pct` <= 0, a window as there, and bars without the two columns.
    """
    step = Step(bar_s)
    window = _checked(fall_pct, window_min, 0.0, step)
    if lacking := {"adl_usd", "fund_usd"} - set(bars.columns):
        raise ValueError(f"bars must carry {' and '.join(sorted(lacking))}")
    closed = finite(pl.col("adl_usd").cast(pl.Float64))
    known = closed.rolling_sum(window, min_samples=1)
    deleveraged = pl.when(known > 0).then(True).when(closed.rolling_sum(window).is_not_null()).then(False)
    fund = finite(pl.col("fund_usd").cast(pl.Float64))
    held = pl.col("oi_usd").shift(window).fill_null(FLOW_FLOOR_USD).clip(lower_bound=FLOW_FLOOR_USD)
    forced = (pl.col("liq_long_usd") + pl.col("liq_short_usd")).rolling_sum(window) > 0
    drawn = pl.when(forced).then(finite(100 * (1 - fund / fund.rolling_max(window + 1)))).otherwise(0.0)
    worst = pl.max_horizontal(100 * known / held, drawn)
    return _told(bars, "adl", worst, deleveraged | (drawn >= fall_pct).fill_null(False))


LABELS: dict[str, Callable[..., pl.DataFrame]] = {
    "oi_flush": oi_flush,
    "liq_share": liq_share,
    "liq_burst": liq_burst,
    "adl": adl,
    "drawdown": drawdown,
    "move": move,
}

# Raised when the same bars and parameters give other flags or other events: figures of two versions do not compare.
VERSIONS: dict[str, int] = {"oi_flush": 1, "liq_share": 1, "liq_burst": 1, "adl": 1, "drawdown": 1, "move": 1}


def events(flags: pl.DataFrame, refractory_min: int = 240) -> pl.DataFrame:
    """Flagged bars joined into events, one row each: symbol, onset, end, label, severity.

    A flagged bar belongs to the event before it if at most `refractory_min` minutes lie between it and that event's
    last flagged bar. `onset` is the first, `end` the last flagged bar, `severity` the largest in it. Null flags are
    not flagged. No rows for no flags.
    Raises ValueError if `refractory_min` < 1.

    >>> from datetime import datetime, timedelta, timezone
    >>> noon = datetime(2025, 1, 1, 12, tzinfo=timezone.utc)
    >>> at = [noon + timedelta(minutes=m) for m in (0, 1, 200, 500)]
    >>> hits = {"symbol": ["A"] * 4, "ts": at, "label": ["x"] * 4, "flag": [True] * 4, "severity": [1.0, 3.0, 2.0, 5.0]}
    >>> [(row["onset"].strftime("%H:%M"), row["severity"]) for row in events(pl.DataFrame(hits)).to_dicts()]
    [('12:00', 3.0), ('20:20', 5.0)]
    """
    if not refractory_min >= 1:
        raise ValueError(f"refractory_min must be at least 1, was {refractory_min}")
    hits = flags.filter(pl.col("flag").cast(pl.Boolean)).sort("symbol", "ts")
    if hits.is_empty():
        return pl.DataFrame(schema=EVENT_SCHEMA)
    apart = pl.col("ts").diff() > pl.duration(minutes=refractory_min)
    starts = apart.fill_null(True) | (pl.col("symbol") != pl.col("symbol").shift(1))
    return (
        hits.with_columns(starts.cum_sum().alias("event"))
        .group_by("event", maintain_order=True)
        .agg(
            pl.col("symbol").first(),
            pl.col("ts").first().alias("onset"),
            pl.col("ts").last().alias("end"),
            pl.col("label").first(),
            pl.col("severity").max(),
        )
        .select(pl.col(name).cast(dtype) for name, dtype in EVENT_SCHEMA.items())
    )


def _busy(index: pl.DataFrame, past: pl.DataFrame, refractory_min: int) -> pl.DataFrame:
    """Adds `busy`: whether the bar lies in `[onset, end + refractory_min]` of an event."""
    known = past.select("symbol", "onset", (pl.col("end") + pl.duration(minutes=refractory_min)).alias("free_after"))
    joined = index.join_asof(
        known.sort("onset"), left_on="ts", right_on="onset", by="symbol", strategy="backward", check_sortedness=False
    )
    return joined.with_columns((pl.col("ts") <= pl.col("free_after")).fill_null(False).alias("busy")).drop(
        "onset", "free_after"
    )


def future_event_within(
    bars_index: pl.DataFrame, events: pl.DataFrame, horizon_min: int, refractory_min: int = 240
) -> pl.DataFrame:
    """Whether an event starts in `(t, t + horizon_min]`: the training target.

    `bars_index` has symbol, ts and, if it comes from a label, `flag`. Adds `future_event_within_{horizon_min}` (Int8):
    1 for an onset in the horizon, else 0; null in an event or within `refractory_min` after its end, in the last
    `horizon_min` minutes of a symbol, and where a null flag in the horizon could hide an onset.

    Returns symbol, ts and that column, sorted by symbol, ts. Raises ValueError if `horizon_min` < 1.
    """
    checked("horizon_min", horizon_min)
    index = bars_index.sort("ts").with_columns(pl.duration(minutes=horizon_min).add(pl.col("ts")).alias("until"))
    coming = events.select("symbol", pl.col("onset").alias("next_onset")).sort("next_onset")
    ahead = _busy(index, events, refractory_min).join_asof(
        coming,
        left_on="ts",
        right_on="next_onset",
        by="symbol",
        strategy="forward",
        allow_exact_matches=False,
        check_sortedness=False,
    )
    hidden = _future_unknown(bars_index)
    seen = ahead.join_asof(
        hidden,
        left_on="ts",
        right_on="unknown_at",
        by="symbol",
        strategy="forward",
        allow_exact_matches=False,
        check_sortedness=False,
    )
    onset = (pl.col("next_onset") <= pl.col("until")).fill_null(False)
    unknown = (pl.col("unknown_at") <= pl.col("until")).fill_null(False) & ~onset
    past_end = pl.col("until") > pl.col("ts").max().over("symbol")
    target = pl.when(~(pl.col("busy") | unknown | past_end)).then(onset.cast(pl.Int8))
    name = f"future_event_within_{horizon_min}"
    return seen.select("symbol", "ts", target.alias(name)).sort("symbol", "ts")


def _future_unknown(bars_index: pl.DataFrame) -> pl.DataFrame:
    """Bars whose own flag is null; none where `bars_index` carries no flags."""
    rows = bars_index.filter(pl.col("flag").is_null()) if "flag" in bars_index.columns else bars_index.head(0)
    return rows.select("symbol", pl.col("ts").alias("unknown_at")).sort("unknown_at")
