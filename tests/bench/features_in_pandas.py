"""Features of the catalogue as a pandas user writes them: one frame, grouped by symbol, windows of whole columns.

Twins of our formulas for the benchmark and for nothing else. Plain float windows, no check of ages or plausibility:
they agree with the catalogue where a market is clean, and they are spared that work.
"""

import math
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import betainc, gammainc

Column = Any  # a float Series; pandas' own types promise less than they hold
BASELINE = 240


class Panel:
    """Bars of all symbols by symbol and ts, with the newest structure beside them; windows never cross symbols."""

    def __init__(self, bars: pd.DataFrame, structure: pd.DataFrame) -> None:
        known = structure.sort_values("known_at").drop(columns=["venue", "ts"])
        left = bars.drop(columns=["known_at"]).sort_values("ts", kind="stable")
        joined = pd.merge_asof(left, known, left_on="ts", right_on="known_at", by="symbol")
        self.frame = joined.sort_values(["symbol", "ts"], kind="stable").reset_index(drop=True)
        self.symbol = self.frame["symbol"].astype("category")

    def __getitem__(self, name: str) -> Column:
        return self.frame[name]

    def shift(self, x: Column, bars: int = 1) -> Column:
        return x.groupby(self.symbol, sort=False, observed=True).shift(bars)

    def rolled(self, x: Column, window: int, how: str, full: float = 1.0, **options: Any) -> Column:
        windows = x.groupby(self.symbol, sort=False, observed=True).rolling(
            window, min_periods=math.ceil(window * full)
        )
        return pd.Series(getattr(windows, how)(**options).to_numpy(), index=x.index)

    def total(self, x: Column, window: int) -> Column:
        return self.rolled(x, window, "sum")

    def mean(self, x: Column, window: int, full: float = 1.0) -> Column:
        return self.rolled(x, window, "mean", full)

    def score(self, x: Column, lag: int, floor: float, baseline: int = BASELINE, full: float = 0.8) -> Column:
        past = self.shift(x, lag)
        # Ours scales the population deviation by the window, also where part of the baseline is missing.
        sigma = self.rolled(past, baseline, "std", full, ddof=0) * math.sqrt(baseline / (baseline - 1))
        return (x - self.mean(past, baseline, full)) / sigma.clip(lower=floor)

    @cached_property
    def cancelled(self) -> Column:
        return self["cancel_bid_usd"] + self["cancel_ask_usd"]

    @cached_property
    def added(self) -> Column:
        return self["add_bid_usd"] + self["add_ask_usd"]

    @cached_property
    def change(self) -> Column:
        """Log return of a bar."""
        return np.log(self["close"] / self.shift(self["close"]))

    @cached_property
    def basis(self) -> Column:
        return 1e4 * (self["mark"] / self["index"] - 1)

    @cached_property
    def funding(self) -> Column:
        return self["funding_rate"] * 8760 / self["funding_interval_h"]

    @cached_property
    def spread_log(self) -> Column:
        return np.log(self["spread_bps"] + 0.01)

    @cached_property
    def thinner(self) -> Column:
        return np.log(np.minimum(self["depth_bid_100bps_usd"], self["depth_ask_100bps_usd"]) + 1)

    def both(self, what: str, band: int) -> Column:
        return self[f"{what}_bid_{band}bps_usd"] + self[f"{what}_ask_{band}bps_usd"]

    def volume(self, window: int) -> Column:
        return self.total(self["volume_usd"], window) + 10_000

    def sigma(self, window: int) -> Column:
        return np.sqrt(self.mean(self.change**2, window)).clip(lower=5e-5)

    def parkinson(self, window: int) -> Column:
        square = np.log(self["high"] / self["low"]) ** 2 / (4 * math.log(2))
        return np.sqrt(self.mean(square, window)).clip(lower=5e-5)

    def oi_change(self, bars: int) -> Column:
        return np.log(self["oi_base"] / self.shift(self["oi_base"], bars))


# --- cancels ---


def _cancel_rate_score(p: Panel) -> Column:
    x = np.log1p(p.total(p.cancelled, 15))
    past = p.shift(x, 15)
    middle, high = (p.rolled(past, BASELINE, "quantile", 0.8, q=q) for q in (0.5, 0.75))
    return (x - middle) / ((high - middle) / 0.6745).clip(lower=0.1)


def _cancel_tail(p: Panel) -> Column:
    count = p.total(p["cancels"], 5)
    past = p.shift(count, 5)
    mean = p.mean(past, BASELINE, 0.8).to_numpy()
    variance = (p.rolled(past, BASELINE, "var", 0.8, ddof=0) * BASELINE / (BASELINE - 1)).to_numpy()
    n = count.to_numpy()
    wide, above = variance > mean * (1 + 1e-9), n > mean
    odds = np.where(wide, mean / variance, 0.5)
    size = np.where(wide, mean * odds / (1 - odds), 1.0)
    out = np.where(np.isfinite(n) & np.isfinite(mean), 0.0, np.nan)
    tail = np.where(wide[above], betainc(n[above], size[above], 1 - odds[above]), gammainc(n[above], mean[above]))
    out[above] = np.clip(-np.log10(np.maximum(tail, 1e-300)), 0.0, 12.0)
    return pd.Series(out).where(mean > 0)


def _cancel_branching(p: Panel) -> Column:
    count = p["cancels"].astype("float64")
    change = count - p.shift(count)
    dispersion = p.total(-change * p.shift(change), 60) / p.total(count, 60)
    significant = (dispersion - 1) / math.sqrt(7 / 60) > 2.33
    return (1 - 1 / np.sqrt(dispersion.where(significant, 1.0))).where(dispersion.notna())


def _net_fleeting(p: Panel) -> Column:
    before = p.shift(p.both("depth", 100), 5).clip(lower=1)
    return (p.total(p.cancelled - p.added, 5) / before).clip(0, 100)


def _cancel_side(p: Panel) -> Column:
    bid, ask = p.total(p["cancel_bid_usd"], 5), p.total(p["cancel_ask_usd"], 5)
    return (bid - ask) / (bid + ask + 10_000)


def _replenish(p: Panel) -> Column:
    traded = p["book_trade_bid_usd"] + p["book_trade_ask_usd"]
    taken = p.shift(p.total(traded + p.both("cancel", 100), 5), 5) + 10_000
    return np.log((p.total(p.both("add", 100), 5) + 10_000) / taken)


# --- leverage ---


def _oi_quadrant(p: Panel) -> Column:
    oi, move = p.oi_change(30), np.log(p["close"] / p.shift(p["close"], 30))
    weight = np.select([oi >= 0.001, oi <= -0.001], [2.0, 1.0], 0.0)
    side = np.where(move.abs() >= 0.001, np.sign(move), 0.0)
    return pd.Series(side * weight).where(oi.notna() & move.notna())


def _oi_build_side(p: Panel) -> Column:
    built = p.oi_change(1).clip(lower=0.0)
    side = np.sign(np.log(p["close"] / p.shift(p["close"], 5)))
    return p.total(side * built, 240) / (p.total(built, 240) + 0.001)


def _liq_over_volume(p: Panel) -> Column:
    traded = p.volume(15)
    return np.log((p.total(p["liq_long_usd"] + p["liq_short_usd"], 15) + traded) / traded)


def _fuel_over_depth(p: Panel) -> Column:
    long = p["fuel_long_500bps_usd"] / p["depth_bid_500bps_usd"].clip(lower=1)
    short = p["fuel_short_500bps_usd"] / p["depth_ask_500bps_usd"].clip(lower=1)
    return np.maximum(long, short).clip(0.0, 1e6)


def _fuel_side(p: Panel) -> Column:
    long, short = p["fuel_long_500bps_usd"], p["fuel_short_500bps_usd"]
    return (long - short) / (long + short + 10_000)


def _leverage_change(p: Panel) -> Column:
    level = p["leverage_p90"] + 0.1
    return np.log(level / p.shift(level, 60))


# --- crowding ---


def _basis_lean(p: Panel) -> Column:
    usual = np.sqrt(p.mean(p.shift(p.basis, 5) ** 2, BASELINE, 0.8))
    return (p.mean(p.basis, 5) / usual.clip(lower=5.0)).clip(-5, 5)


def _heat(p: Panel) -> Column:
    return (p.sigma(15) / p.shift(p.sigma(BASELINE), 15)).clip(1 / 3, 3)


def _crowding_score(p: Panel) -> Column:
    return np.tanh(_heat(p) * (_basis_lean(p) + (p.funding / 0.30).clip(-5, 5)) / 4)


def _jump_share(p: Panel) -> Column:
    size = p.change.abs()
    total = p.total(size**2, 60)
    bipower = p.total(size * p.shift(size), 59) * (math.pi / 2)
    return (1 - bipower / total).clip(0.0, 1.0).where(total >= 60 * 5e-5**2)


# --- thin books ---


def _depth_drop(p: Panel) -> Column:
    logs = [np.log(p[f"depth_{side}_100bps_usd"] + 1) for side in ("bid", "ask")]
    return np.maximum(*(p.mean(p.shift(d), BASELINE, 0.8) - d for d in logs))


def _depth_drain(p: Panel) -> Column:
    logs = [np.log(p[f"depth_{side}_100bps_usd"] + 1) for side in ("bid", "ask")]
    return np.maximum(*(p.shift(d, 5) - d for d in logs))


def _depth_imbalance(p: Panel) -> Column:
    bid, ask = p["depth_bid_100bps_usd"], p["depth_ask_100bps_usd"]
    return (bid - ask) / (bid + ask + 1)


def _log_both(p: Panel, band: int) -> Column:
    return np.log(p.both("depth", band) + 1)


def _gap_burst(p: Panel) -> Column:
    usual = p.rolled(p.shift(p["spread_bps"]), BASELINE, "median")
    torn = (p["spread_bps_max"] > 3 * usual).astype("float64").where(usual.notna())
    return p.mean(torn, 15)


def _volume_imbalance(p: Panel) -> Column:
    buys, sells = p.total(p["buy_usd"], 15), p.total(p["sell_usd"], 15)
    return (buys - sells) / (buys + sells + 10_000)


def _resilience(p: Panel) -> Column:
    x = p.thinner
    past = p.shift(x)
    mean = p.mean(past, 60)
    variance = p.mean(past**2, 60) - mean**2
    phi = (p.mean(x * past, 60) - p.mean(x, 60) * mean) / variance
    return math.log(0.5) / np.log(phi.clip(0.01, 0.99))


def _per_dollar(p: Panel, move: Column) -> Column:
    return np.log((p.total(move, 15) * 1e4 + 1) / p.volume(15))


def _kyle_slope(p: Panel) -> Column:
    flow = p["buy_usd"] - p["sell_usd"]
    # Rounded as ours: a thousandth of a basis point matters where flow and returns have little in common.
    q = (np.sign(flow) * np.sqrt(flow.abs() / 1e6)).round(4)
    r = (p.change * 1e4 / 5e-3).round() * 5e-3
    mean = p.mean(q, 60)
    covariance = p.mean(r * q, 60) - p.mean(r, 60) * mean
    return covariance / ((p.mean(q**2, 60) - mean**2).clip(lower=0.0) + 0.01)


def _trade_gap_share(p: Panel) -> Column:
    missing = p.total(p["trade_ids_missing"], 5)
    total = missing + p.total(p["trades"], 5)
    return (missing / total).where(total > 0)


def _latency_ratio(p: Panel) -> Column:
    delay = np.log(p["latency_ms_max"].clip(0, 1e9) + 10)
    return p.rolled(delay, 5, "max", 0.2) - p.mean(p.shift(delay, 5), BASELINE, 0.5)


TWINS: dict[str, Callable[[Panel], Column]] = {
    "cancel_burst_5": lambda p: p.score(np.log1p(p.total(p.cancelled, 5)), 5, 0.1, full=1.0),
    "cancel_rate_score_15": _cancel_rate_score,
    "cancel_tail_5": _cancel_tail,
    "cancel_to_trade_5": lambda p: np.log((p.total(p["cancels"], 5) + 1) / (p.total(p["trades"], 5) + 1)),
    "cancel_to_add_5": lambda p: np.log((p.total(p.cancelled, 5) + 10_000) / (p.total(p.added, 5) + 10_000)),
    "net_fleeting_5": _net_fleeting,
    "cancel_side_5": _cancel_side,
    "cancel_branching_60": _cancel_branching,
    "replenish_5": _replenish,
    "quote_stuffing_5": lambda p: np.log((p.total(p["adds"] + p["cancels"], 5) + 1) / (p.total(p["trades"], 5) + 1)),
    "oi_change_30": lambda p: p.oi_change(30),
    "oi_score_30": lambda p: p.score(p.oi_change(30), 30, 0.002, baseline=1440),
    "oi_over_volume_60": lambda p: np.log((p["oi_usd"] + 10_000) / p.volume(60)),
    "oi_over_depth": lambda p: np.log(p["oi_usd"] + 10_000) - p.thinner,
    "oi_quadrant_30": _oi_quadrant,
    "oi_build_side_240": _oi_build_side,
    "oi_drawdown_240": lambda p: np.log(p.rolled(p["oi_base"], 240, "max") / p["oi_base"]),
    "liq_over_volume_15": _liq_over_volume,
    "fuel_over_depth": _fuel_over_depth,
    "fuel_side": _fuel_side,
    "leverage_change_60": _leverage_change,
    "basis_bps_5": lambda p: p.mean(p.basis, 5),
    "basis_score_5": lambda p: p.score(p.mean(p.basis, 5), 5, 1.0),
    "funding_annual": lambda p: p.funding,
    "vol_ratio_15": lambda p: np.log(p.sigma(15) / p.shift(p.sigma(BASELINE), 15)),
    "parkinson_ratio_15": lambda p: np.log(p.parkinson(15) / p.shift(p.parkinson(BASELINE), 15)),
    "vol_score_15": lambda p: p.score(np.log(p.sigma(15)), 15, 0.1),
    "jump_share_60": _jump_share,
    "crowding_score_15": _crowding_score,
    "basis_heat_15": lambda p: np.tanh(_heat(p) * _basis_lean(p) / 4),
    "depth_drop_240": _depth_drop,
    "depth_drain_5": _depth_drain,
    "depth_imbalance": _depth_imbalance,
    "touch_share": lambda p: (p.both("depth", 20) / (p.both("depth", 100) + 1)).clip(0.0, 1.0),
    "depth_slope": lambda p: (_log_both(p, 500) - _log_both(p, 100)) / math.log(5),
    "depth_curve": lambda p: (2 * _log_both(p, 100) - _log_both(p, 20) - _log_both(p, 500)) / math.log(5),
    "spread_over_vol_15": lambda p: p.spread_log - np.log(p.sigma(15) * 1e4),
    "spread_score_15": lambda p: p.score(p.mean(p.spread_log, 15), 15, 0.1),
    "gap_burst_15": _gap_burst,
    "quote_imbalance_5": lambda p: p.mean(p["imbalance"], 5),
    "volume_imbalance_15": _volume_imbalance,
    "resilience_60": _resilience,
    "amihud_score_15": lambda p: p.score(_per_dollar(p, p.change.abs()), 15, 0.1),
    "range_score_15": lambda p: p.score(_per_dollar(p, np.log(p["high"] / p["low"])), 15, 0.1),
    "kyle_slope_60": _kyle_slope,
    "kyle_score_60": lambda p: p.score(np.log(_kyle_slope(p).clip(lower=0.0) + 0.1), 60, 0.1),
    "trade_gap_share_5": _trade_gap_share,
    "latency_ratio_5": _latency_ratio,
    "rows_refused_5": lambda p: np.log1p(p.total(p["rows_refused"], 5)),
}


def in_pandas(bars: pd.DataFrame, structure: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """`symbol, ts` and the features of `names`, each a key of TWINS; rows by symbol and ts."""
    panel = Panel(bars, structure)
    return panel.frame[["symbol", "ts"]].assign(**{name: TWINS[name](panel) for name in names})
