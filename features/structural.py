"""Structure: how far forced selling would run, and whom it would drag along.

Positions against books say what a market does when it is pushed: whether forced sales outweigh the book that takes them
(kappa), whether each round of them forces a larger one (rho), how near that begins (cliff), how near accounts stand to
their margin, and which of their legs would bring them there. All are of the newest snapshot, see
`pipelines/cascade_columns.py`; MECHANICS of cascades.
"""

import polars as pl

from features.exact import checked
from features.feature import Feature, Step
from features.inputs import balance

AMPLIFICATION_LOG_MAX = 10.0  # stands for a cascade without an end; e ** 10 is beyond any that has one
RHO_SUSTAINED = 1 - 1e-9  # a loop gain from which on a cascade sustains itself, as in `models/cascade/spectrum.py`
CLIFF_BPS_MAX = 10_000.0  # stands for no cliff within what is known of the book
KAPPA_FLOOR = 0.01  # keeps the side of nearly no fuel calm
TOUCH_S_MIN = 1.0


def _larger(one: pl.Expr, two: pl.Expr) -> pl.Expr:
    """The larger of two; null where either is."""
    return pl.when(one >= two).then(one).when(two > one).then(two)


def kappa_worse() -> pl.Expr:
    """Forced dollars within 2 % over the book that takes them, the worse side: `max(kappa_fall, kappa_rise)`.

    Returns `kappa_worse`: Float64, 0 or more; from 1 on a fall pays for itself. Null without a recent structure whose
    book and mark are known. Source: MECHANICS of cascades.
    """
    return _larger(pl.col("kappa_fall"), pl.col("kappa_rise")).alias("kappa_worse")


def kappa_side() -> pl.Expr:
    """Which way the fuel burns: `(kappa_fall - kappa_rise) / (kappa_fall + kappa_rise + KAPPA_FLOOR)`.

    Returns `kappa_side`: Float64 in (-1, 1), positive when a fall finds the fuel. Null as `kappa_worse`.
    """
    return balance(pl.col("kappa_fall"), pl.col("kappa_rise"), KAPPA_FLOOR).alias("kappa_side")


def rho_now() -> pl.Expr:
    """Loop gain of the venue: what a round of forced flow makes of the move that forced it, `rho` of the structure.

    Returns `rho_now`: Float64, 0 or more, the same for all symbols of the venue; from 1 on a cascade sustains itself.
    Null without a recent structure whose books and marks are known. Source: MECHANICS of cascades.
    """
    return pl.col("rho").alias("rho_now")


def rho_change(window: int) -> pl.Expr:
    """Change of the loop gain: `rho[t] - rho[t - window]`.

    Returns `rho_change_{window}`: Float64. Null where `rho_now` is at either end. Raises ValueError if `window` < 1.
    """
    rho = pl.col("rho")
    return (rho - rho.shift(checked("window", window))).alias(f"rho_change_{window}")


def loop_amplification() -> pl.Expr:
    """How much larger a move of the symbol ends than it began, forced flow of the whole venue included.

        out[t] = min(log(amplification[t]), AMPLIFICATION_LOG_MAX)
        out[t] = AMPLIFICATION_LOG_MAX where rho[t] >= 1: there is no end

    Returns `loop_amplification`: Float64 in [0, AMPLIFICATION_LOG_MAX]; log(2): twice as large. Null where rho is, and
    where the symbol's own book or mark is not known while rho is below 1. Source: MECHANICS of cascades.
    """
    ends = pl.col("amplification").clip(lower_bound=1.0).log().clip(upper_bound=AMPLIFICATION_LOG_MAX)
    endless = pl.col("rho") >= RHO_SUSTAINED
    known = pl.col("rho").is_not_null()
    return pl.when(known & endless).then(AMPLIFICATION_LOG_MAX).when(known).then(ends).alias("loop_amplification")


def cliff_distance() -> pl.Expr:
    """How far the nearest price lies at which forced flow outweighs the book, in either direction.

        out[t] = min(cliff_fall_bps, cliff_rise_bps, CLIFF_BPS_MAX) over those that are there

    Returns `cliff_distance_bps`: Float64, low is risk; CLIFF_BPS_MAX where the books are known and no cliff is. Null
    where `kappa_worse` is.
    """
    near = pl.min_horizontal("cliff_fall_bps", "cliff_rise_bps", pl.lit(CLIFF_BPS_MAX))
    known = pl.col("kappa_fall").is_not_null() & pl.col("kappa_rise").is_not_null()
    return pl.when(known).then(near).alias("cliff_distance_bps")


def margin_distance() -> pl.Expr:
    """How near a tenth of the notional stands to liquidation, `distance_sd_p10` of the structure.

    Returns `margin_distance_sd`: Float64, standard deviations of a day, low is risk; below 0: past it. The portfolio
    counts, not the leg. Null without a recent structure whose book, mark and returns are known.
    """
    return pl.col("distance_sd_p10").alias("margin_distance_sd")


def trigger_leg_share() -> pl.Expr:
    """Share of the notional in units of margin that this symbol brings to liquidation, `trigger_share`.

    Returns `trigger_leg_share`: Float64 in [0, 1]; low: the symbol is sold for what other contracts do. Null as
    `margin_distance_sd`.
    """
    return pl.col("trigger_share").alias("trigger_leg_share")


def depeg() -> pl.Expr:
    """How far the worst of the holders' stablecoins trades below a dollar, `depeg_bps` of the structure.

    Returns `depeg_bps_now`: Float64, bps. Null without a recent structure.
    """
    return pl.col("depeg_bps").alias("depeg_bps_now")


def band_mass(near_bps: int, far_bps: int | None = None) -> pl.Expr:
    """At-risk mass in a ring: share of positions that trips within `near_bps`, or between it and `far_bps`.

        within(b) = fuel_long_{b}bps_usd + fuel_short_{b}bps_usd
        out[t] = (within(far) - within(near)) / position_usd, within(near) / position_usd without `far_bps`

    Returns `band_mass_{near}` or `band_mass_{near}_{far}`: Float64 in [0, 1]. Null without a recent structure or
    positions. Raises ValueError for other bands than 100, 200, 500, and for rings that do not widen.
    """
    for band in (near_bps, far_bps):
        if band not in (100, 200, 500, None):
            raise ValueError(f"bands must be 100, 200 or 500, was {band}")
    if far_bps is not None and not far_bps > near_bps:
        raise ValueError(f"far_bps must exceed near_bps={near_bps}, was {far_bps}")
    near, name = _fuel_within(near_bps), f"band_mass_{near_bps}"
    mass = near if far_bps is None else _fuel_within(far_bps) - near
    share = (mass / pl.col("position_usd")).clip(0.0, 1.0)
    held = pl.col("position_usd") > 0
    return pl.when(held).then(share).alias(name if far_bps is None else f"{name}_{far_bps}")


def _fuel_within(band_bps: int) -> pl.Expr:
    return pl.col(f"fuel_long_{band_bps}bps_usd") + pl.col(f"fuel_short_{band_bps}bps_usd")


def touch_log() -> pl.Expr:
    """How soon the nearest tenth of the notional may trip: `log(max(touch_q25_s, TOUCH_S_MIN))`.

    `touch_q25_s` are the seconds within which a price without drift moves so far with a chance of 25 %. Returns
    `touch_q25_log_s`: Float64, low is risk; log(3600): an hour. Null as `margin_distance_sd`.
    """
    return pl.col("touch_q25_s").clip(lower_bound=TOUCH_S_MIN).log().alias("touch_q25_log_s")


def family(step: Step) -> tuple[Feature, ...]:
    """The features of this family."""
    m = step.bars
    return (
        Feature("kappa_worse", kappa_worse(), 0),
        Feature("kappa_side", kappa_side(), 0, "both", "flip"),
        Feature("rho_now", rho_now(), 0),
        Feature("rho_change_60", rho_change(m(60)), 60),
        Feature("loop_amplification", loop_amplification(), 0),
        Feature("cliff_distance_bps", cliff_distance(), 0, "low"),
        Feature("margin_distance_sd", margin_distance(), 0, "low"),
        Feature("trigger_leg_share", trigger_leg_share(), 0, "both"),
        Feature("depeg_bps_now", depeg(), 0),
        Feature("band_mass_100", band_mass(100), 0),
        Feature("band_mass_200_500", band_mass(200, 500), 0),
        Feature("touch_q25_log_s", touch_log(), 0, "low"),
    )
