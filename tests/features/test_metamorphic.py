"""Halve every amount in the raw book, and say beforehand what each feature does.

No feature has a true value to be compared with. What is known is how it must move when the book is halved and nothing
else: from raw rows of depth, or of levels, through bars to features. A feature of thin books that reads depth, and one
of leverage that does, must be placed in one of the groups below; the others must not notice, to the last bit.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import Any

import numpy as np
import polars as pl
import pytest

from features.bars import Market, Sources, bars_of
from features.catalogue import FAMILIES, NAMES, TAILS, catalogue, inputs_of
from features.inputs import usable
from features.matrix import feature_matrix
from features.mechanics.book import Market as Named
from features.mechanics.book import derive_levels, unknown_book
from features.norms import hour_end, hours_of, norms_of
from features.schema import CANONICAL, DEPTH_BANDS_BPS, Structure, polars_schema
from tests.features.worlds import START

# --- the groups ---

# read the depth of the moment: more risk in every row with a value
LEVEL = ("depth_norm", "touch_norm", "slip_100k_bps", "fuel_over_depth", "fuel_over_depth_100", "oi_over_depth")
# the same with an end, or in steps: never less risk, and more somewhere
LEVEL_WITH_AN_END = ("slip_1m_bps", "slip_1m_short", "thin_share", "cliff_bps")
# compare the two sides or the bands of one moment: the same for a book of any size
SHAPE = ("depth_imbalance", "touch_share", "depth_slope", "depth_curve")
# compare the moment with depth before: the same for a book that was always half, more risk where only its last is
AGAINST_THE_PAST = ("depth_drop_240", "depth_drain_5")
# tell how depth moves: the same for a book that was always half; one that is halved at last moves in a new way
MOTION = ("resilience_60", "depth_eigen_60")
GROUPS = (LEVEL, LEVEL_WITH_AN_END, SHAPE, AGAINST_THE_PAST, MOTION)


def _reads_depth(name: str) -> bool:
    of_the_market = {"market_thin_share", "market_depth_eigen_share"}
    return any(column.startswith("depth_") and column.endswith("_usd") for column in inputs_of(name)) or bool(
        of_the_market & inputs_of(name)
    )


BLIND = tuple(name for name in NAMES if not _reads_depth(name))


def test_each_feature_of_thin_books_or_leverage_that_reads_depth_is_in_one_group() -> None:
    placed = [name for group in GROUPS for name in group]
    members = [feature.name for family in ("thin_book", "leverage") for feature in FAMILIES[family]]
    assert len(set(placed)) == len(placed)
    assert set(placed) == {name for name in members if _reads_depth(name)}


def test_no_feature_of_crowding_reads_depth() -> None:
    assert {feature.name for feature in FAMILIES["crowding"]} <= set(BLIND)


# --- a raw market ---

SYMBOLS = ("BIG-PERP", "MID-PERP", "TINY-PERP")
SIZES = dict(zip(SYMBOLS, (2.0, 1.0, 0.08), strict=True))  # of a book of 20 000 USD per bp and side
DAYS = 3  # of norms
MINUTES = 1_440 * DAYS + 360
TODAY = START + timedelta(days=DAYS)
END = START + timedelta(minutes=MINUTES)
SINCE = END - timedelta(minutes=60)
LATE = END - timedelta(minutes=3)
SIDES = ("bid", "ask")

WHOLE_DOLLARS = 1e-4  # relative: half a dollar more or less in the smallest book

Tables = Mapping[str, pl.LazyFrame]


def _times(seconds: Any) -> pl.Series:
    return pl.Series((np.asarray(seconds) * 1e6).astype(np.int64) + round(START.timestamp() * 1e6))


def _table(name: str, symbol: str, seconds: Any, columns: dict[str, Any]) -> pl.LazyFrame:
    """Rows of a canonical table, known when they happened."""
    schema = polars_schema(CANONICAL[name])
    ts = _times(seconds)
    rows = pl.DataFrame({"ts": ts, "known_at": ts} | columns).with_columns(venue=pl.lit("v"), symbol=pl.lit(symbol))
    absent = [pl.lit(None).alias(column) for column in schema.names() if column not in rows.columns]
    times = [pl.col(column).cast(schema[column]) for column in ("ts", "known_at")]
    return rows.with_columns(*times, *absent).select(pl.col(c).cast(dtype) for c, dtype in schema.items()).lazy()


def _raw(symbol: str) -> dict[str, pl.LazyFrame]:
    """All that one symbol's feeds say over MINUTES, but for its depth; the price moves a few bps a minute."""
    rng = np.random.default_rng([1, sum(symbol.encode())])
    minute = np.arange(MINUTES) * 60.0
    price = 100 * np.exp(np.cumsum(rng.standard_t(4, MINUTES) * 3e-4))
    n = 3 * MINUTES
    seconds, mid = np.repeat(minute, 3) + np.tile([10.0, 30.0, 50.0], MINUTES), np.repeat(price, 3)
    half = mid * rng.lognormal(-9, 0.4, n)
    usd = rng.lognormal(10, 1, n)
    numbers = np.arange(n)
    held = 1e8 * np.exp(np.cumsum(rng.normal(0, 3e-4, MINUTES)))
    periods = len(minute[::480])
    told: dict[str, tuple[Any, dict[str, Any]]] = {
        "trades": (
            seconds + 1,
            {"trade_id": [str(number) for number in numbers], "side": np.where(rng.random(n) < 0.5, "buy", "sell")}
            | {"price": mid * (1 + rng.normal(0, 1e-4, n)), "qty": usd / mid, "notional_usd": usd},
        ),
        "quotes": (
            seconds,
            {"seq": numbers, "bid": mid - half, "ask": mid + half}
            | {f"{side}_qty": rng.lognormal(3, 1, n) for side in SIDES},
        ),
        "book_events": (
            seconds + 2,
            {"seq": numbers, "order_id": [f"o{number}" for number in numbers]}
            | {"event": np.where(rng.random(n) < 0.5, "add", "cancel")}
            | {"side": np.where(rng.random(n) < 0.5, "bid", "ask")}
            | {"price": mid * (1 + rng.normal(0, 3e-3, n)), "qty": rng.lognormal(5, 1, n)},
        ),
        "marks": (minute + 30, {"mark": price * (1 + rng.normal(0, 1e-4, MINUTES)), "index": price}),
        "funding": (minute[::480] + 1, {"rate": rng.normal(1e-4, 1e-4, periods), "interval_h": np.full(periods, 8.0)}),
        "open_interest": (minute + 20, {"oi_base": held / 100, "oi_usd": held}),
    }
    return {name: _table(name, symbol, when, columns) for name, (when, columns) in told.items()}


def _raw_depth(symbol: str) -> pl.LazyFrame:
    """A snapshot of depth a minute: bands of a book with breath and, at times, a thin spell."""
    rng = np.random.default_rng([2, sum(symbol.encode())])
    minute = np.arange(MINUTES) * 60.0 + 40
    parts = []
    spell = np.where(np.arange(MINUTES) % 97 < 5, 0.3, 1.0)
    for side in SIDES:
        breath = rng.lognormal(0, 0.15, MINUTES) * spell
        rings = np.diff([0, *DEPTH_BANDS_BPS])[:, None] * rng.lognormal(0, 0.3, (len(DEPTH_BANDS_BPS), MINUTES))
        for band, usd in zip(DEPTH_BANDS_BPS, np.cumsum(rings * breath * 20_000 * SIZES[symbol], axis=0), strict=True):
            told = {"side": [side] * MINUTES, "band_bps": [band] * MINUTES, "depth_usd": usd}
            parts.append(_table("book_depth", symbol, minute, told))
    return pl.concat(parts)


def _fuel(symbol: str) -> pl.DataFrame:
    """A snapshot of positions every half hour: about as much within 5 % as the book holds."""
    rng = np.random.default_rng([3, sum(symbol.encode())])
    known = [START + timedelta(minutes=minute) for minute in range(0, MINUTES, 30)]
    n = len(known)
    facts: dict[str, Any] = {"venue": ["v"] * n, "symbol": [symbol] * n, "ts": known, "known_at": known}
    facts["position_usd"] = np.full(n, 100_000_000)
    for held in ("long", "short"):
        rings = np.diff([0, *DEPTH_BANDS_BPS[1:]])[:, None] * rng.lognormal(-0.5, 0.8, (3, n)) * 20_000 * SIZES[symbol]
        cumulative = np.cumsum(rings, axis=0).astype(np.int64)
        facts |= {f"fuel_{held}_{band}bps_usd": usd for band, usd in zip(DEPTH_BANDS_BPS[1:], cumulative, strict=True)}
    schema = polars_schema(Structure)
    rows = pl.DataFrame(facts)
    absent = [pl.lit(None).alias(name) for name in schema.names() if name not in rows.columns]
    return rows.with_columns(absent).select(pl.col(name).cast(dtype) for name, dtype in schema.items())


def _sources(tables: Mapping[str, Tables]) -> Sources:
    """What `bars_of` reads, from the tables of each symbol."""
    streams = ("trades", "quotes", "book_events", "book_levels")
    markets = {
        symbol: Market({name: own[name] for name in streams if name in own}, dict.fromkeys(streams, START))
        for symbol, own in tables.items()
    }
    series = {name for own in tables.values() for name in own if name not in streams}
    return Sources(markets, {name: pl.concat([own[name] for own in tables.values()]) for name in series})


def _halved(depth: pl.LazyFrame, after: datetime) -> pl.LazyFrame:
    return depth.with_columns(
        pl.when(pl.col("ts") > after).then(pl.col("depth_usd") / 2).otherwise("depth_usd").alias("depth_usd")
    )


@dataclass(frozen=True)
class Seen:
    """The features of the last hour; `before` from the book as it was."""

    before: pl.DataFrame
    today: pl.DataFrame  # every raw row of depth of today halved; the norms are those of the days before
    late: pl.DataFrame  # the raw rows of the last three minutes halved


@cache
def _seen() -> Seen:
    raw, depth = {symbol: _raw(symbol) for symbol in SYMBOLS}, {symbol: _raw_depth(symbol) for symbol in SYMBOLS}
    structure = pl.concat([_fuel(symbol) for symbol in SYMBOLS])

    def features(after: datetime) -> pl.DataFrame:
        tables = {symbol: raw[symbol] | {"book_depth": _halved(depth[symbol], after)} for symbol in SYMBOLS}
        bars = bars_of("v", _sources(tables), START, END)
        wanted = bars.select("venue", "symbol", hour_end("ts")).unique()
        norms = norms_of(hours_of(usable(bars)), wanted)
        return feature_matrix(bars, structure, norms=norms, since=SINCE)

    return Seen(features(END), features(TODAY), features(LATE))


def _risk(matrix: pl.DataFrame, name: str) -> pl.Series:
    """The feature, higher where there is more risk."""
    return -matrix[name] if TAILS[name] == "low" else matrix[name]


def _last_minutes(matrix: pl.DataFrame) -> pl.DataFrame:
    return matrix.filter(pl.col("ts") > LATE + timedelta(minutes=1))


def _rows_with_values(*columns: pl.Series) -> int:
    assert all((column.is_null() == columns[0].is_null()).all() for column in columns)
    return columns[0].len() - columns[0].null_count()


@pytest.mark.parametrize("name", [name for group in GROUPS for name in group])
def test_the_raw_market_tells_every_feature_that_is_placed(name: str) -> None:
    """The tests below could pass on nulls alone."""
    assert _seen().before[name].null_count() == 0
    assert _seen().before[name].n_unique() > 1


# --- all of today's book halved ---


@pytest.mark.parametrize("name", LEVEL)
def test_half_of_the_book_is_more_risk_in_every_row(name: str) -> None:
    before, after = _risk(_seen().before, name), _risk(_seen().today, name)
    assert _rows_with_values(before, after) == 180
    assert (after > before).all()


@pytest.mark.parametrize("name", ["fuel_over_depth", "fuel_over_depth_100"])
def test_half_of_the_book_is_twice_the_fuel_over_it(name: str) -> None:
    ratio = _seen().today[name] / _seen().before[name]
    assert ratio.to_list() == pytest.approx([2.0] * 180, rel=1e-4)


def test_half_of_the_book_is_a_log_of_two_below_its_norm() -> None:
    """`depth_norm` is in sd of the hour, known from the days before and thus the same in both."""
    more = _seen().today["depth_norm"] - _seen().before["depth_norm"]
    assert more.min() > 1  # type: ignore[operator]  # a number, as there are rows with a value
    assert more.max() < np.log(2) / 0.1


@pytest.mark.parametrize("name", LEVEL_WITH_AN_END)
def test_half_of_the_book_is_never_less_risk_and_more_somewhere(name: str) -> None:
    before, after = _risk(_seen().before, name), _risk(_seen().today, name)
    assert _rows_with_values(before, after) == 180
    assert (after >= before - WHOLE_DOLLARS * before.abs()).all()
    assert (after > before).mean() > 0.1  # type: ignore[operator]


def test_where_the_order_can_be_filled_half_of_the_book_costs_strictly_more() -> None:
    before, after = _seen().before, _seen().today
    filled = after["slip_1m_short"] == 0
    assert filled.sum() > 60
    assert (after["slip_1m_bps"] > before["slip_1m_bps"]).filter(filled).all()
    short = before["slip_1m_short"] > 0
    assert short.sum() > 5
    assert (after["slip_1m_short"] > before["slip_1m_short"]).filter(short).all()


@pytest.mark.parametrize("name", [*SHAPE, *AGAINST_THE_PAST, *MOTION])
def test_a_book_that_was_always_half_has_the_same_shape_past_and_motion(name: str) -> None:
    """But for the floor of 1 000 USD, felt a little in the smallest book."""
    before, after = _seen().before[name], _seen().today[name]
    assert _rows_with_values(before, after) == 180
    assert ((after - before).abs() <= 0.03 * (1 + before.abs())).all()


@pytest.mark.parametrize("name", BLIND)
def test_what_does_not_read_depth_does_not_notice_to_the_last_bit(name: str) -> None:
    assert _seen().today[name].equals(_seen().before[name], null_equal=True)
    assert _seen().late[name].equals(_seen().before[name], null_equal=True)


@pytest.mark.parametrize("family", ["crowding", "cancels", "health"])
def test_the_raw_market_tells_most_features_that_do_not_notice(family: str) -> None:
    """Bits of nulls are equal too."""
    told = [name for name in BLIND if _seen().before[name].null_count() == 0]
    members = [feature.name for feature in FAMILIES[family] if feature.name in BLIND]
    assert len(set(members) & set(told)) > 0.6 * len(members)


# --- only its last minutes halved ---


@pytest.mark.parametrize("name", [*LEVEL, *AGAINST_THE_PAST])
def test_a_book_that_is_halved_at_last_is_more_risk_in_its_last_minutes(name: str) -> None:
    before, after = (_risk(_last_minutes(matrix), name) for matrix in (_seen().before, _seen().late))
    assert _rows_with_values(before, after) == 6
    assert (after > before).all()


@pytest.mark.parametrize("name", AGAINST_THE_PAST)
def test_a_sudden_half_is_told_as_a_log_of_two(name: str) -> None:
    """But for the floor, and for the two halved minutes that have entered the baseline of 240."""
    more = (_last_minutes(_seen().late)[name] - _last_minutes(_seen().before)[name]).to_list()
    assert more == pytest.approx([np.log(2)] * 6, abs=0.02)


@pytest.mark.parametrize("name", SHAPE)
def test_a_book_that_is_halved_at_last_keeps_its_shape(name: str) -> None:
    before, after = (_last_minutes(matrix)[name] for matrix in (_seen().before, _seen().late))
    assert ((after - before).abs() <= 0.03 * (1 + before.abs())).all()


@pytest.mark.parametrize("name", MOTION)
def test_a_book_that_is_halved_at_last_moves_in_a_new_way(name: str) -> None:
    before, after = (_last_minutes(matrix)[name] for matrix in (_seen().before, _seen().late))
    assert ((after - before).abs() > 1e-3).any()


@pytest.mark.parametrize("name", [name for group in GROUPS for name in group])
def test_what_was_before_the_book_was_halved_is_the_same_to_the_last_bit(name: str) -> None:
    earlier = [matrix.filter(pl.col("ts") <= LATE)[name] for matrix in (_seen().before, _seen().late)]
    assert earlier[0].len() == 3 * 57
    assert earlier[0].equals(earlier[1], null_equal=True)


# --- from levels: what rests at every price halved ---

LEVEL_MINUTES = 300


def _levels(share: float) -> pl.LazyFrame:
    """A snapshot of 120 levels a side, then ten of them restated every ten seconds; `share` of each amount."""
    rng = np.random.default_rng(5)
    number = np.arange(120)
    grid = {"bid": 100 - 0.05 * (number + 1), "ask": 100 + 0.05 * (number + 1)}
    messages = LEVEL_MINUTES * 6
    parts = []
    for side, price in grid.items():
        told = {"side": [side] * 120, "price": price.round(2), "qty": share * rng.lognormal(7, 0.3, 120)}
        told |= {"seq": np.ones(120, int), "snapshot": [True] * 120}
        parts.append(_table("book_levels", "L-PERP", np.full(120, 1.0), told))
    behind = np.setdiff1d(np.arange(240), (0, 120))  # the touch is restated every time
    picked = np.concatenate([[0, 120, *rng.choice(behind, 8, replace=False)] for _ in range(messages)])
    seq, seconds = np.repeat(np.arange(messages) + 2, 10), np.repeat(np.arange(messages) * 10.0 + 5, 10)
    restated = {
        "side": np.where(picked < 120, "bid", "ask"),
        "price": np.where(picked < 120, grid["bid"][picked % 120], grid["ask"][picked % 120]).round(2),
        "qty": share * rng.lognormal(7, 0.3, len(picked)),
    }
    told = {"seq": seq, "seq_before": seq - 1, "snapshot": [False] * len(picked)}
    return pl.concat([*parts, _table("book_levels", "L-PERP", seconds, told | restated)])


@cache
def _from_levels(share: float) -> pl.DataFrame:
    """The features of the last hour of a market whose book is told level by level."""
    end = START + timedelta(minutes=LEVEL_MINUTES)
    raw = {
        name: rows.filter(pl.col("ts") <= end).with_columns(symbol=pl.lit("L-PERP"))
        for name, rows in _raw("MID-PERP").items()
        if name in ("trades", "marks", "funding", "open_interest")
    }
    levels = _levels(share).collect()
    told = derive_levels(levels, raw["trades"].collect(), unknown_book(), Named("v", "L-PERP"), end)
    streams = {"book_events": told.events, "quotes": told.quotes, "book_levels": levels}
    tables: dict[str, pl.LazyFrame] = raw | {name: rows.lazy() for name, rows in streams.items()}
    bars = bars_of("v", _sources({"L-PERP": tables | {"book_depth": told.depth.lazy()}}), START, end)
    structure = _fuel("MID-PERP").with_columns(symbol=pl.lit("L-PERP"))
    return feature_matrix(bars, structure, since=end - timedelta(minutes=30))


NEEDS_NORMS_OR_OTHERS = ("depth_norm", "touch_norm", "thin_share", "depth_eigen_60")


@pytest.mark.parametrize("name", [name for name in LEVEL if name not in NEEDS_NORMS_OR_OTHERS])
def test_half_of_every_level_is_more_risk_in_every_row(name: str) -> None:
    before, after = _risk(_from_levels(1.0), name), _risk(_from_levels(0.5), name)
    assert _rows_with_values(before, after) == 30
    assert (after > before).all()


@pytest.mark.parametrize("name", [name for name in LEVEL_WITH_AN_END if name not in NEEDS_NORMS_OR_OTHERS])
def test_half_of_every_level_is_never_less_risk(name: str) -> None:
    before, after = _risk(_from_levels(1.0), name), _risk(_from_levels(0.5), name)
    assert _rows_with_values(before, after) == 30
    assert (after >= before - WHOLE_DOLLARS * before.abs()).all()


@pytest.mark.parametrize("name", [n for n in (*SHAPE, *AGAINST_THE_PAST, *MOTION) if n not in NEEDS_NORMS_OR_OTHERS])
def test_half_of_every_level_has_the_same_shape_past_and_motion(name: str) -> None:
    before, after = _from_levels(1.0)[name], _from_levels(0.5)[name]
    assert _rows_with_values(before, after) == 30
    assert ((after - before).abs() <= 0.03 * (1 + before.abs())).all()


def _of_orders(name: str) -> bool:
    """Adds and cancels are told by falls and rises of levels: they are halved too."""
    return any(column.startswith(("add", "cancel", "book_trade", "market_cancel")) for column in inputs_of(name))


@pytest.mark.parametrize("name", [name for name in BLIND if not _of_orders(name)])
def test_what_reads_no_amounts_of_the_book_does_not_notice_that_its_levels_are_halved(name: str) -> None:
    """Quotes stand at the same prices, and a half of both sides leaves the imbalance at the touch to the last bit."""
    assert _from_levels(0.5)[name].equals(_from_levels(1.0)[name], null_equal=True)


def test_the_levels_tell_the_features_of_quotes_and_prices() -> None:
    told = _from_levels(1.0)
    for name in ("quote_imbalance_5", "spread_over_vol_15", "basis_bps_5", "vol_ratio_15", "crowding_score_15"):
        assert told[name].null_count() == 0
    assert catalogue().lookback_min > LEVEL_MINUTES  # those that look back further are null here
