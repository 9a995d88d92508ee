"""Crowding: one side pays to stay, the perpetual leaves its index, and the market starts to shake.

Funding, basis and volatility are weak alone; the combination is the signal, and its sign names the crowded side.
"""

import polars as pl

from features.exact import checked, rolling_mean, rolling_rms, standard_score
from features.feature import Feature, Step
from features.inputs import PRICE_AGE_S_MAX
from features.mechanics.funding import annual_simple
from features.volatility import jump_share, parkinson_ratio, vol_ratio, vol_score

BASIS_STEP_BPS = 2e-3  # a basis saturates at 5 000 bps
BASIS_SIGMA_FLOOR_BPS = 1.0
BASIS_USUAL_FLOOR_BPS = 5.0  # a basis within this is no lean
FUNDING_USUAL = 0.30  # a year; the funding of a leaning but ordinary market
LEAN_MAX = 5.0
HEAT_MAX = 3.0  # volatility weighs between a third and three times
BASELINE_FULL = 0.8


def basis_now() -> pl.Expr:
    """`10 000 (perp - index) / index` in bps, perp = mark, else the last trade while it is fresh."""
    last = pl.when(pl.col("trade_age_s") <= PRICE_AGE_S_MAX).then(pl.col("close"))
    return 1e4 * (pl.coalesce(pl.col("mark"), last) / pl.col("index") - 1)


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
    return (basis_mean(window) / usual.clip(lower_bound=BASIS_USUAL_FLOOR_BPS)).clip(-LEAN_MAX, LEAN_MAX)


def funding_lean() -> pl.Expr:
    """Annualised funding in units of FUNDING_USUAL, within +-LEAN_MAX."""
    return (funding_rate_annual() / FUNDING_USUAL).clip(-LEAN_MAX, LEAN_MAX)


def heat(window: int, baseline: int) -> pl.Expr:
    """Short over long realised volatility, in [1 / HEAT_MAX, HEAT_MAX]; 1 when volatility is as usual."""
    return vol_ratio(window, baseline).exp().clip(1 / HEAT_MAX, HEAT_MAX)


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


def family(step: Step) -> tuple[Feature, ...]:
    """The features of this family."""
    m = step.bars
    return (
        Feature("basis_bps_5", basis_bps(m(5)), 4, "both", "flip"),
        Feature("basis_score_5", basis_score(m(5), m(240)), 248, "both", "flip"),
        Feature("funding_annual", funding_annual(), 0, "both", "flip"),
        Feature("vol_ratio_15", vol_ratio(m(15), m(240)), 255),
        Feature("parkinson_ratio_15", parkinson_ratio(m(15), m(240)), 254),
        Feature("vol_score_15", vol_score(m(15), m(240)), 269),
        Feature("jump_share_60", jump_share(m(60)), 60),
        Feature("crowding_score_15", crowding_score(m(15), m(240), m(5)), 255, "both", "flip"),
        Feature("basis_heat_15", basis_heat(m(15), m(240), m(5)), 255, "both", "flip"),
    )
