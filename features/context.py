"""Context: what time it is, when funding is due, and how long ago the last shock was.

The same reading means more at 03:00 on a Sunday or in the last minutes before funding, and a market that was shaken an
hour ago is not a calm one. Hours are read off the bar's own time stamp, so that no run depends on where it starts.
"""

import math

import polars as pl

from features.exact import checked, rolling_usd, samples_min
from features.feature import Feature, Step
from features.inputs import FLOW_FLOOR_USD
from features.volatility import SIGMA_FLOOR, log_return, realised_sigma

DAY_MIN = 1_440
SHOCK_SIGMAS = 4.0
SHOCK_FORCED_SHARE = 0.05  # of 5 min of trading that is forced: a shock whatever the price did
LIQ_SHARE = 0.01  # public feeds that are throttled show about this much in busy hours
DECAY_MIN = 60.0
TOLD_SHARE_MIN = 0.8  # of a window whose bars must say whether an event happened


def _minute_of_day() -> pl.Expr:
    """Minutes since midnight UTC, in [0, 1440), Float64."""
    ts = pl.col("ts")
    return (ts - ts.dt.truncate("1d")).dt.total_microseconds() * (1 / 60e6)


def hour_sin() -> pl.Expr:
    """`sin(2 pi minute / 1440)`, minute = minutes since midnight UTC at `ts`: 1 at 06:00, -1 at 18:00.

    Returns `hour_sin`: Float64 in [-1, 1], never null. Exact in `ts`: no other bar matters.
    """
    return (_minute_of_day() * (2 * math.pi / DAY_MIN)).sin().alias("hour_sin")


def hour_cos() -> pl.Expr:
    """`cos(2 pi minute / 1440)`, minute = minutes since midnight UTC at `ts`: 1 at 00:00, -1 at 12:00.

    Returns `hour_cos`: Float64 in [-1, 1], never null. Exact in `ts`: no other bar matters.
    """
    return (_minute_of_day() * (2 * math.pi / DAY_MIN)).cos().alias("hour_cos")


def weekend() -> pl.Expr:
    """1 on Saturday and Sunday UTC, else 0: banks are closed, and dollars cannot follow a margin call.

    A bar belongs to the day in which its interval ends; the one that ends at midnight is the new day's.
    Returns `weekend`: Float64, never null.
    """
    return (pl.col("ts").dt.weekday() >= 6).cast(pl.Float64).alias("weekend")


def funding_due_min() -> pl.Expr:
    """Minutes until funding is next paid, intervals counted from midnight UTC.

        interval = 60 funding_interval_h
        out[t] = interval - minute of the day mod interval

    Returns `funding_due_min`: Float64 in (0, interval]; a whole interval at the moment of payment itself. Null without
    a known interval, and where the interval is under a minute or does not divide a day.
    """
    interval = (60 * pl.col("funding_interval_h")).round()
    regular = (interval >= 1) & (DAY_MIN % interval == 0)
    return pl.when(regular).then(interval - _minute_of_day() % interval).alias("funding_due_min")


def _moved(bars: int, baseline: int) -> pl.Expr:
    """Whether the return of `bars` bars exceeds SHOCK_SIGMAS of the baseline that ends where they begin."""
    usual = realised_sigma(baseline, TOLD_SHARE_MIN).shift(bars).clip(lower_bound=SIGMA_FLOOR)
    return log_return(bars).abs() > SHOCK_SIGMAS * math.sqrt(bars) * usual


def _forced(window: int, share: float) -> pl.Expr:
    """Whether liquidated dollars exceed `share` of those traded over `(t - window, t]`; null where one is not told."""
    liquidated = pl.col("liq_long_usd") + pl.col("liq_short_usd")
    traded = rolling_usd(pl.col("volume_usd"), window)
    return rolling_usd(liquidated, window) > share * (traded + FLOW_FLOOR_USD)


def _decay(event: pl.Expr, window: int, reach: int) -> pl.Expr:
    """`exp(-minutes / DECAY_MIN)` since the last `event` in `(t - window, t]`, 0 where there was none.

    Null before there are `reach` bars before t, and where fewer than TOLD_SHARE_MIN of the window say whether there
    was one. Minutes are the difference of two time stamps, which no batch changes.
    """
    now = pl.col("ts").dt.epoch("us")
    last = pl.when(event).then(now).rolling_max(window, min_samples=1)
    told = event.is_not_null().cast(pl.Int64).rolling_sum(window, min_samples=1)
    decay = ((last - now) * (1 / (60e6 * DECAY_MIN))).exp().fill_null(0.0)
    known = (told >= samples_min(window, TOLD_SHARE_MIN)) & now.shift(reach).is_not_null()
    return pl.when(known).then(decay)


def shock_decay(window: int, move: int, baseline: int) -> pl.Expr:
    """How fresh the last shock is: `exp(-minutes / DECAY_MIN)` since it, 0 where none lies in `(t - window, t]`.

        sigma[i] = max(rms(one-bar log returns over (i - baseline, i]), SIGMA_FLOOR)
        shock[i] = abs(log(close[i] / close[i - 1])) > SHOCK_SIGMAS * sigma[i - 1]
                or abs(log(close[i] / close[i - move])) > SHOCK_SIGMAS * sqrt(move) * sigma[i - move]
                or liquidated > SHOCK_FORCED_SHARE * (traded + FLOW_FLOOR_USD), USD over (i - move, i]

    Returns `shock_decay_{window}`: Float64 in [0, 1], 1 in the bar of the shock. Forced flow counts where it is told.
    Null until `window - 1 + move + baseline` bars came before, and where fewer than TOLD_SHARE_MIN of the window's bars
    have their prices and TOLD_SHARE_MIN of their baselines.
    Raises ValueError if `window` or `move` < 1, or `baseline` <= `move`.
    """
    checked("baseline", baseline, checked("move", move) + 1)
    priced = _moved(1, baseline) | _moved(move, baseline)
    shock = priced | _forced(move, SHOCK_FORCED_SHARE).fill_null(False)
    return _decay(shock, checked("window", window), window - 1 + move + baseline).alias(f"shock_decay_{window}")


def liq_decay(window: int, flow: int) -> pl.Expr:
    """How fresh the last spell of liquidations is: `exp(-minutes / DECAY_MIN)`, 0 where none in `(t - window, t]`.

        spell[i] = liquidated > LIQ_SHARE * (traded + FLOW_FLOOR_USD), USD over (i - flow, i]

    Returns `liq_decay_{window}`: Float64 in [0, 1]. Null until `window + flow - 2` bars came before, and where fewer
    than TOLD_SHARE_MIN of the window's bars tell both flows: always where no liquidations are published.
    Raises ValueError if `window` or `flow` < 1.
    """
    spell = _forced(checked("flow", flow), LIQ_SHARE)
    return _decay(spell, checked("window", window), window + flow - 2).alias(f"liq_decay_{window}")


def family(step: Step) -> tuple[Feature, ...]:
    """The features of this family."""
    m = step.bars
    return (
        Feature("hour_sin", hour_sin(), 0, "none"),
        Feature("hour_cos", hour_cos(), 0, "none"),
        Feature("weekend", weekend(), 0, "none"),
        Feature("funding_due_min", funding_due_min(), 0, "none"),
        Feature("shock_decay_240", shock_decay(m(240), m(5), m(240)), 484),
        Feature("liq_decay_240", liq_decay(m(240), m(5)), 243),
    )
