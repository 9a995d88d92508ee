"""Cancel bursts: liquidity leaving faster than it normally does.

Resting orders are pulled before a cascade prints. We measure how far the dollars cancelled in the last window sit
above the instrument's own recent normal, above trading, above what is being added, and from which side they leave.
"""

import polars as pl

from features.exact import checked, rolling_usd, standard_score
from features.feature import Feature, Step
from features.inputs import DEPTH_FLOOR_USD, FLOW_FLOOR_USD, balance

SIGMA_FLOOR = 0.1  # log-dollars; keeps a burst out of dead silence large but finite
DRAIN_MAX = 100.0  # times the depth; beyond it a drain is a fault of the feed


def cancel_usd() -> pl.Expr:
    """Dollars cancelled in a bar, both sides; null where either side is."""
    return pl.col("cancel_bid_usd") + pl.col("cancel_ask_usd")


def cancel_burst(window: int, baseline: int) -> pl.Expr:
    """Standard score of log cancelled dollars against the trailing baseline.

        x[t] = log(1 + USD cancelled in bars (t - window, t])
        b = bars (t - window - baseline, t - window]     # ends where the burst window begins
        out[t] = (x[t] - mean(x[b])) / max(std(x[b]), SIGMA_FLOOR)

    Returns `cancel_burst_{window}`: Float64, one value per bar, in standard deviations. Null until
    both windows are full and wherever one holds a null. Never NaN, never infinite.

    Raises ValueError if `window` < 1 or `baseline` <= `window`.
    """
    checked("baseline", baseline, checked("window", window) + 1)
    x = rolling_usd(cancel_usd(), window).log1p()
    return standard_score(x, window, baseline, SIGMA_FLOOR, full=1.0).alias(f"cancel_burst_{window}")


def cancel_to_trade(window: int) -> pl.Expr:
    """Log ratio of dollars cancelled to dollars traded.

        out[t] = log((C + FLOW_FLOOR_USD) / (V + FLOW_FLOOR_USD)), C and V summed over (t - window, t]

    Returns `cancel_to_trade_{window}`: Float64. Null until the window is full and where it holds a null.
    Raises ValueError if `window` < 1.
    """
    cancelled = rolling_usd(cancel_usd(), checked("window", window)) + FLOW_FLOOR_USD
    traded = rolling_usd(pl.col("volume_usd"), window) + FLOW_FLOOR_USD
    return (cancelled / traded).log().alias(f"cancel_to_trade_{window}")


def net_fleeting(window: int) -> pl.Expr:
    """Dollars cancelled beyond those added, over the depth that stood when the window began.

        out[t] = sum(cancel - add over (t - window, t]) / max(depth within 100 bps at t - window, DEPTH_FLOOR_USD)

    Returns `net_fleeting_{window}`: Float64 in [-DRAIN_MAX, DRAIN_MAX], positive when the book empties.
    Null until the window is full, where it holds a null, and where the book was stale.
    Raises ValueError if `window` < 1.
    """
    added = pl.col("add_bid_usd") + pl.col("add_ask_usd")
    net = rolling_usd(cancel_usd() - added, checked("window", window))
    before = (
        (pl.col("depth_bid_100bps_usd") + pl.col("depth_ask_100bps_usd"))
        .shift(window)
        .clip(lower_bound=DEPTH_FLOOR_USD)
    )
    return (net / before).clip(-DRAIN_MAX, DRAIN_MAX).alias(f"net_fleeting_{window}")


def cancel_side(window: int) -> pl.Expr:
    """From which side the orders leave.

        out[t] = (B - A) / (B + A + FLOW_FLOOR_USD), bid and ask dollars cancelled in (t - window, t]

    Returns `cancel_side_{window}`: Float64 in (-1, 1), positive when bids leave. Null until the window is full and
    where it holds a null. Raises ValueError if `window` < 1.
    """
    bid = rolling_usd(pl.col("cancel_bid_usd"), checked("window", window))
    ask = rolling_usd(pl.col("cancel_ask_usd"), window)
    return balance(bid, ask, FLOW_FLOOR_USD).alias(f"cancel_side_{window}")


def family(step: Step) -> tuple[Feature, ...]:
    """The features of this family."""
    m = step.bars
    return (
        Feature("cancel_burst_5", cancel_burst(m(5), m(240)), 248),
        Feature("cancel_to_trade_5", cancel_to_trade(m(5)), 4),
        Feature("net_fleeting_5", net_fleeting(m(5)), 5),
        Feature("cancel_side_5", cancel_side(m(5)), 4, "both", "flip"),
    )
