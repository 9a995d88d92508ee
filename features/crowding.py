"""Crowding: one side pays to stay, the perpetual leaves its index, and the market starts to shake.

Funding, basis and volatility are weak alone; the combination is the signal, and its sign names the crowded side.
"""

import polars as pl

from features.exact import checked, once, rolling_mean, rolling_rms, standard_score
from features.feature import Feature, Step
from features.inputs import PRICE_AGE_S_MAX
from features.mechanics.funding import HOURS_PER_YEAR, annual_simple
from features.volatility import (
    jump_share,
    parkinson_ratio,
    vol_annual,
    vol_gap_share,
    vol_of_vol,
    vol_one_way,
    vol_ratio,
    vol_score,
    vol_short_long,
    vol_wick,
)

BASIS_STEP_BPS = 2e-3  # a basis saturates at 5 000 bps
BASIS_SIGMA_FLOOR_BPS = 1.0
BASIS_USUAL_FLOOR_BPS = 5.0  # a basis within this is no lean
FUNDING_USUAL = 0.30  # a year; the funding of a leaning but ordinary market
LEAN_MAX = 5.0
HEAT_MAX = 3.0  # volatility weighs between a third and three times
BASELINE_FULL = 0.8
FUNDING_PERIOD_H = 8.0  # what rules of venues state interest, band and cap for, whatever the interval of payment
INTEREST = 1e-4  # per FUNDING_PERIOD_H: 0.03 % a day for dollars over coins; assumed, as no table says it
PREMIUM_BAND = 5e-4  # a premium this near to the interest costs the interest alone
FUNDING_CAP = 0.0075  # per FUNDING_PERIOD_H; assumed: OKX states .375 % for BTC, .75 % for majors, 1.5 % for the rest


def basis_now() -> pl.Expr:
    """`10 000 (perp - index) / index` in bps, perp = mark, else the last trade while it is fresh."""
    last = pl.when(pl.col("trade_age_s") <= PRICE_AGE_S_MAX).then(pl.col("close"))
    return once(1e4 * (pl.coalesce(pl.col("mark"), last) / pl.col("index") - 1))


def basis_mean(window: int) -> pl.Expr:
    """Mean basis in bps over `(t - window, t]`."""
    return rolling_mean(basis_now(), window, step=BASIS_STEP_BPS)


def funding_rate_annual() -> pl.Expr:
    """`funding_rate * 8760 / funding_interval_h`, simple."""
    return annual_simple(pl.col("funding_rate"), pl.col("funding_interval_h"))


def basis_lean(window: int, baseline: int) -> pl.Expr:
    """Mean basis over its own usual distance from zero, within +-LEAN_MAX.

    out[t] = mean(basis over (t - window, t]) / max(rms(basis over the baseline before), BASIS_USUAL_FLOOR_BPS)
    """
    usual = rolling_rms(basis_now().shift(window), baseline, step=BASIS_STEP_BPS, full=BASELINE_FULL)
    return once((basis_mean(window) / usual.clip(lower_bound=BASIS_USUAL_FLOOR_BPS)).clip(-LEAN_MAX, LEAN_MAX))


def funding_lean() -> pl.Expr:
    """Annualised funding in units of FUNDING_USUAL, within +-LEAN_MAX."""
    return (funding_rate_annual() * (1 / FUNDING_USUAL)).clip(-LEAN_MAX, LEAN_MAX)


def heat(window: int, baseline: int) -> pl.Expr:
    """Short over long realised volatility, in [1 / HEAT_MAX, HEAT_MAX]; 1 when volatility is as usual."""
    return once(vol_ratio(window, baseline).exp().clip(1 / HEAT_MAX, HEAT_MAX))


def basis_bps(window: int) -> pl.Expr:
    """Mean basis over `(t - window, t]` in bps.

        basis = 10 000 (perp - index) / index, perp = mark, else close

    Returns `basis_bps_{window}`: Float64, positive when the perpetual is dear. Saturates at 5 000. Null until the
    window is full and where it holds a price older than PRICE_AGE_S_MAX. Raises ValueError if `window` < 1.
    """
    return basis_mean(checked("window", window)).alias(f"basis_bps_{window}")


def basis_score(window: int, baseline: int) -> pl.Expr:
    """Standard score of the basis against its own past.

        x[t] = mean(basis in bps over (t - window, t])
        out[t] = (x[t] - mean(x[b])) / max(std(x[b]), BASIS_SIGMA_FLOOR_BPS), b = (t - window - baseline, t - window]

    Returns `basis_score_{window}`: Float64, standard deviations. Null where `x[t]` is and until 80 % of the baseline
    is there. Raises ValueError if `window` < 1 or `baseline` <= `window`.
    """
    checked("baseline", baseline, checked("window", window) + 1)
    x = basis_mean(window)
    score = standard_score(x, window, baseline, BASIS_SIGMA_FLOOR_BPS, step=BASIS_STEP_BPS, full=BASELINE_FULL)
    return score.alias(f"basis_score_{window}")


def funding_annual() -> pl.Expr:
    """Funding annualised, simple: `funding_rate * 8760 / funding_interval_h` (.0001 per 8 h is .1095).

    Returns `funding_annual`: Float64, positive when longs pay. Null without funding and when it is older than two
    intervals.
    """
    return funding_rate_annual().alias("funding_annual")


def crowding_score(window: int, baseline: int, lean_window: int = 5) -> pl.Expr:
    """Funding, basis and realised volatility together.

        lean = basis_lean(lean_window, baseline) + funding_lean()      # signed, each within +-LEAN_MAX
        heat = short over long realised volatility, within [1 / HEAT_MAX, HEAT_MAX]
        out[t] = tanh(heat * lean / 4)

    Returns `crowding_score_{window}`: Float64 in (-1, 1), zero when funding and basis are neutral, positive when longs
    are crowded; volatility strengthens a lean and never makes one. Null if one of the three is missing.
    Raises ValueError if `window` < 2 or `baseline` <= `window`.
    """
    lean = basis_lean(lean_window, baseline) + funding_lean()
    return (heat(window, baseline) * lean / 4).tanh().alias(f"crowding_score_{window}")


def basis_heat(window: int, baseline: int, lean_window: int = 5) -> pl.Expr:
    """The combination without funding, for markets that publish none.

        out[t] = tanh(heat * basis_lean(lean_window, baseline) / 4)

    Returns `basis_heat_{window}`: Float64 in (-1, 1). Null if basis or volatility is missing.
    Raises ValueError if `window` < 2 or `baseline` <= `window`.
    """
    return (heat(window, baseline) * basis_lean(lean_window, baseline) / 4).tanh().alias(f"basis_heat_{window}")


def funding_predicted_gap(window: int) -> pl.Expr:
    """Where the next funding is heading: what the premium of the window would cost, less what is paid now, a year.

        p = mean basis over (t - window, t] as a ratio
        predicted = p + clip(INTEREST - p, -PREMIUM_BAND, PREMIUM_BAND)                 per FUNDING_PERIOD_H
        out[t] = predicted * 8760 / FUNDING_PERIOD_H - funding_annual

    Venues state the rule for 8 hours and pay the share of the interval, so the interval drops out of a rate a year.
    Returns `funding_predicted_gap`: Float64, positive when longs are going to pay more than now. Null until 80 % of
    the window tells a basis, and without funding. Raises ValueError if `window` < 1. Source: the rule of Binance,
    Bybit and Hyperliquid, with mark over index for their premium of impact prices.
    """
    p = rolling_mean(basis_now(), checked("window", window), step=BASIS_STEP_BPS, full=BASELINE_FULL) * 1e-4
    predicted = p + (INTEREST - p).clip(-PREMIUM_BAND, PREMIUM_BAND)
    gap = predicted * (HOURS_PER_YEAR / FUNDING_PERIOD_H) - funding_rate_annual()
    return gap.alias("funding_predicted_gap")


def funding_saturation() -> pl.Expr:
    """How near the rate is to a venue's cap: at the cap, funding no longer pulls the price back to its index.

        out[t] = min(abs(funding_rate) / (FUNDING_CAP * funding_interval_h / FUNDING_PERIOD_H), 1)

    Returns `funding_saturation`: Float64 in [0, 1]. Null without funding. The cap is assumed for all symbols. Source:
    OKX, perpetual swap funding fee mechanism (help page 360053909272).
    """
    # Not rate / cap: where an interval is the same in every row of a short run, polars multiplies by its reciprocal.
    share = annual_simple(pl.col("funding_rate").abs(), pl.col("funding_interval_h"), FUNDING_PERIOD_H / FUNDING_CAP)
    return share.clip(upper_bound=1.0).alias("funding_saturation")


def funding_change(window: int) -> pl.Expr:
    """`funding_annual[t] - funding_annual[t - window]`: a side that pays ever more to stay.

    Returns `funding_change_{window}`: Float64, a year. Null where either is missing. Raises ValueError if `window` < 1.
    """
    now = funding_rate_annual()
    return (now - now.shift(checked("window", window))).alias(f"funding_change_{window}")


def basis_trend(window: int, mean_window: int = 5) -> pl.Expr:
    """`x[t] - x[t - window]`, x = mean basis over `(t - mean_window, t]`: a premium that is being built.

    Returns `basis_trend_{window}`: Float64, bps. Null where either mean is. Raises ValueError for a window below 1.
    """
    x = basis_mean(checked("mean_window", mean_window))
    return (x - x.shift(checked("window", window))).alias(f"basis_trend_{window}")


def funding_apart() -> pl.Expr:
    """`funding_annual - peer_funding_median`: what a side pays here beyond what it would pay elsewhere.

    Returns `funding_apart`: Float64, a year. Null without own funding and where no other venue tells one.
    """
    return (funding_rate_annual() - pl.col("peer_funding_median")).alias("funding_apart")


def basis_apart_bps() -> pl.Expr:
    """`basis - peer_basis_median_bps` at the bar: how far this venue's perpetual stands from those elsewhere.

    Returns `basis_apart_bps`: Float64, bps. Null without own basis and where no other venue tells one.
    """
    return (basis_now() - pl.col("peer_basis_median_bps")).alias("basis_apart_bps")


def _range_with(own: pl.Expr, least: str, greatest: str) -> pl.Expr:
    """Greatest less least of other venues and this one; null where this or all of those are."""
    wide = pl.max_horizontal(own, greatest) - pl.min_horizontal(own, least)
    return pl.when(own.is_not_null() & pl.col(least).is_not_null()).then(wide)


def funding_dispersion() -> pl.Expr:
    """`max - min` of annualised funding over all venues, this one included: arbitrage is short of capital.

    Returns `funding_dispersion`: Float64, a year, 0 and above. Null without own funding or without another venue's.
    """
    wide = _range_with(funding_rate_annual(), "peer_funding_min", "peer_funding_max")
    return wide.alias("funding_dispersion")


def basis_dispersion_bps() -> pl.Expr:
    """`max - min` of the basis at the bar over all venues, this one included.

    Returns `basis_dispersion_bps`: Float64, bps, 0 and above. Null without own basis or without another venue's.
    """
    wide = _range_with(basis_now(), "peer_basis_min_bps", "peer_basis_max_bps")
    return wide.alias("basis_dispersion_bps")


def carry_bleed() -> pl.Expr:
    """What funding takes a day from the equity of the account at the middle of the notional.

        out[t] = funding_rate * 24 / funding_interval_h * leverage_p50

    Returns `carry_bleed`: Float64, share of equity a day, positive when longs pay. Null without funding or structure.
    """
    a_day = annual_simple(pl.col("funding_rate"), pl.col("funding_interval_h"), year_h=24.0)
    return (a_day * pl.col("leverage_p50")).alias("carry_bleed")


def crowding_agreed(window: int, baseline: int, lean_window: int = 5) -> pl.Expr:
    """Funding, basis and volatility as a product: it asks that all three say so, where the sum asks for one.

        strength = cbrt(abs(basis_lean(lean_window, baseline)) * abs(funding_lean()) * heat(window, baseline))
        out[t] = sign * tanh(strength / 2), sign = that of both leans, 0 where they differ or one is 0

    Returns `crowding_agreed_{baseline}`: Float64 in (-1, 1), zero when either lean is, positive when longs are crowded,
    a half (tanh .5) where all three are 1. Null if one of the three is missing. Raises ValueError if `window` < 2 or
    `baseline` <= `window`.
    """
    basis, funding = basis_lean(lean_window, baseline), funding_lean()
    strength = (basis.abs() * funding.abs() * heat(window, baseline)).cbrt()
    sign = (basis.sign() + funding.sign()) / 2  # a half where one lean is zero: there the strength is, too
    return (sign * (strength / 2).tanh()).alias(f"crowding_agreed_{baseline}")


def crowding_apart(window: int, baseline: int, lean_window: int = 5) -> pl.Expr:
    """Crowded here and not elsewhere: the leans are against other venues, where the own past may be crowded, too.

        basis = clip(mean(basis - peer_basis_median_bps over (t - lean_window, t]) / BASIS_USUAL_FLOOR_BPS, +-LEAN_MAX)
        funding = clip((funding_annual - peer_funding_median) / FUNDING_USUAL, +-LEAN_MAX)
        out[t] = tanh(heat(window, baseline) * (basis + funding) / 4)

    Returns `crowding_apart_{window}`: Float64 in (-1, 1), zero where this venue is as the others are, however far they
    all lean. Null if one of the parts is missing. Raises ValueError if `window` < 2 or `baseline` <= `window`.
    """
    apart = rolling_mean(basis_apart_bps(), checked("lean_window", lean_window), step=BASIS_STEP_BPS)
    basis, funding = apart * (1 / BASIS_USUAL_FLOOR_BPS), funding_apart() * (1 / FUNDING_USUAL)
    lean = basis.clip(-LEAN_MAX, LEAN_MAX) + funding.clip(-LEAN_MAX, LEAN_MAX)
    return (heat(window, baseline) * lean / 4).tanh().alias(f"crowding_apart_{window}")


def family(step: Step) -> tuple[Feature, ...]:
    """The features of this family."""
    m = step.bars
    return (
        Feature("basis_bps_5", basis_bps(m(5)), 4, "both", "flip"),
        Feature("basis_score_5", basis_score(m(5), m(240)), 248, "both", "flip"),
        Feature("basis_trend_60", basis_trend(m(60), m(5)), 64, "both", "flip"),
        Feature("basis_apart_bps", basis_apart_bps(), 0, "both", "flip"),
        Feature("basis_dispersion_bps", basis_dispersion_bps(), 0),
        Feature("funding_annual", funding_annual(), 0, "both", "flip"),
        Feature("funding_change_480", funding_change(m(480)), 480, "both", "flip"),
        Feature("funding_predicted_gap", funding_predicted_gap(m(60)), 59, "both", "none"),
        Feature("funding_saturation", funding_saturation(), 0),
        Feature("funding_apart", funding_apart(), 0, "both", "flip"),
        Feature("funding_dispersion", funding_dispersion(), 0),
        Feature("carry_bleed", carry_bleed(), 0, "both", "flip"),
        Feature("vol_annual_60", vol_annual(m(60), step.bar_s), 60),
        Feature("vol_ratio_15", vol_ratio(m(15), m(240)), 255),
        Feature("vol_short_long_5", vol_short_long(m(5), m(60)), 65),
        Feature("vol_score_15", vol_score(m(15), m(240)), 269),
        Feature("vol_of_vol_240", vol_of_vol(m(15), m(240)), 254),
        Feature("parkinson_ratio_15", parkinson_ratio(m(15), m(240)), 254),
        Feature("vol_wick_60", vol_wick(m(60)), 60),
        Feature("vol_one_way_60", vol_one_way(m(60)), 59),
        Feature("vol_gap_share_60", vol_gap_share(m(60)), 60),
        Feature("jump_share_60", jump_share(m(60)), 60),
        Feature("crowding_score_15", crowding_score(m(15), m(240), m(5)), 255, "both", "flip"),
        Feature("crowding_agreed_1440", crowding_agreed(m(15), m(1440), m(5)), 1455, "both", "flip"),
        Feature("crowding_apart_15", crowding_apart(m(15), m(240), m(5)), 255, "both", "flip"),
        Feature("basis_heat_15", basis_heat(m(15), m(240), m(5)), 255, "both", "flip"),
    )
