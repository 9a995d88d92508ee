"""Checks of the doctor that judge a feed by its content or against other venues."""

import random

import polars as pl
import pytest

from pipelines.doctoring.funding_units import funding_interval, funding_units
from pipelines.doctoring.liquidations import merged, one_sided, repeated, throttled
from pipelines.doctoring.notional import notional_off
from pipelines.doctoring.oi_falls import changes_over_gaps
from pipelines.doctoring.volume_units import size_units
from tests.pipelines.doctor_worlds import (
    at,
    candles,
    evidence,
    funding,
    instrument,
    liquidations,
    open_interest,
    trades,
)

DAY, HOUR = 86_400.0, 3600.0


def only(found: pl.DataFrame) -> dict[str, object]:
    assert found.height == 1, found["what"].to_list()
    return found.row(0, named=True)


# --- liquidations ----------------------------------------------------------------------------------------------------


def by_day(longs_per_day: list[int], rows_per_day: int = 40) -> pl.DataFrame:
    return liquidations(
        [
            {
                "t": DAY * day + 1800.0 * nth,
                "position_side": "long" if nth < longs else "short",
                "notional_usd": 1.0 + nth,
            }
            for day, longs in enumerate(longs_per_day)
            for nth in range(rows_per_day)
        ]
    )


@pytest.mark.parametrize(
    ("longs_per_day", "severity"),
    [
        ([40] * 5, "defect"),  # nothing but longs
        ([28] * 14, "suspicion"),  # 70 %, and 14 days of 14: a coin does that once in 8192
        ([28] * 8, None),  # 8 of 8: once in 128
        ([36, 10] * 7, None),  # 58 %: sides take turns
    ],
)
def test_a_feed_is_one_sided_if_one_side_is_missing_or_leads_day_after_day(
    longs_per_day: list[int], severity: str | None
) -> None:
    found = one_sided(evidence(liquidations=by_day(longs_per_day)))
    assert found["severity"].to_list() == [severity] * (severity is not None)


def test_a_side_that_the_source_does_not_tell_is_no_side() -> None:
    untold = by_day([100, 100]).with_columns(pl.lit("unknown").alias("position_side"))
    assert one_sided(evidence(liquidations=untold)).is_empty()


def test_a_sound_recording_of_the_same_venue_does_not_hide_a_one_sided_one() -> None:
    later = by_day([20] * 30).with_columns(pl.col("ts", "known_at").dt.offset_by("60d"))
    row = only(one_sided(evidence(liquidations=pl.concat([by_day([40] * 5), later]))))
    assert row["rows"] == 200


def orders(gap_s: float, seed: int) -> pl.DataFrame:
    """Orders of one symbol that come at random, at least `gap_s` apart."""
    dice, t, rows = random.Random(seed), 0.0, []
    for nth in range(400):
        t += gap_s + dice.expovariate(0.5)
        rows.append({"t": t, "notional_usd": 1.0 + nth})
    return liquidations(rows)


def test_a_feed_without_two_orders_in_a_second_is_throttled() -> None:
    assert only(throttled(evidence(liquidations=orders(1.0, 1))))["severity"] == "defect"
    assert throttled(evidence(liquidations=orders(0.0, 1))).is_empty()
    assert throttled(evidence(liquidations=orders(1.0, 1).head(30))).is_empty()  # too few to tell


def test_orders_of_different_symbols_in_one_second_do_not_speak_against_a_throttle() -> None:
    rows = pl.concat(orders(1.0, n).head(60).with_columns(symbol=pl.lit(f"S{n}USDT")) for n in range(12))
    assert throttled(evidence(liquidations=rows)).height == 1


def test_records_that_begin_near_their_median_are_merged_and_those_of_a_market_are_not() -> None:
    dice = random.Random(4)
    sizes = [10 * dice.lognormvariate(3, 2) for _ in range(500)]
    market = [{"t": 60.0 * n, "notional_usd": usd} for n, usd in enumerate(sizes)]
    assert merged(evidence(liquidations=liquidations(market))).is_empty()
    large = [{"t": 60.0 * n, "notional_usd": 1e5 * usd} for n, usd in enumerate(sizes)]
    assert merged(evidence(liquidations=liquidations(large))).is_empty()
    floor = [{"t": 60.0 * n, "notional_usd": 30_000.0 + usd} for n, usd in enumerate(sizes)]
    row = only(merged(evidence(liquidations=liquidations(floor))))
    assert "no record is below 30,0" in str(row["what"])


def test_a_recording_that_stands_twice_is_found_and_a_single_equal_fill_is_a_note() -> None:
    rows = [{"t": 60.0 * n, "notional_usd": 1.0 + n} for n in range(100)]
    twice = liquidations([*rows, *rows[:40]])
    assert (
        only(repeated(evidence(liquidations=twice)))["rows"],
        repeated(evidence(liquidations=liquidations(rows))).height,
    ) == (40, 0)
    assert only(repeated(evidence(liquidations=liquidations([*rows, rows[5]]))))["severity"] == "note"


# --- funding ---------------------------------------------------------------------------------------------------------


def market_funding(odd: float, odd_hours: float = 8.0) -> pl.DataFrame:
    """Three assets on four venues; the venue `odd` pays `odd` times the hourly rate of the others."""
    rates = {"BTCUSDT": 1e-4, "ETHUSDT": 5e-5, "DOGEUSDT": -2e-4}
    usual = [
        funding(30, rate * size, venue=venue, symbol=symbol)
        for symbol, rate in rates.items()
        for venue, size in (("a", 1.0), ("b", 0.8), ("c", 1.5))
    ]
    mine = [
        funding(30, rate * odd * odd_hours / 8, odd_hours, venue="odd", symbol=symbol) for symbol, rate in rates.items()
    ]
    return pl.concat([*usual, *mine])


@pytest.mark.parametrize("odd", [100.0, 10.0, 8.0, 0.1])
def test_a_venue_whose_funding_is_in_other_units_is_named_alone(odd: float) -> None:
    row = only(funding_units(evidence(funding=market_funding(odd))))
    assert (row["venue"], row["symbol"], row["rows"]) == ("odd", "*", 270)  # 3 symbols * 30 days * 3


@pytest.mark.parametrize("odd", [0.4, 1.0, 2.5])
def test_venues_that_differ_as_venues_do_are_not(odd: float) -> None:
    assert funding_units(evidence(funding=market_funding(odd))).is_empty()


def test_hourly_funding_is_compared_per_hour() -> None:
    assert funding_units(evidence(funding=market_funding(1.0, odd_hours=1.0))).is_empty()


def test_two_venues_in_other_units_are_both_found_although_they_move_the_median() -> None:
    second = market_funding(100.0).filter(pl.col("venue") == "odd").with_columns(venue=pl.lit("odder"))
    found = funding_units(evidence(funding=pl.concat([market_funding(100.0), second])))
    assert sorted(found["venue"]) == ["odd", "odder"]


def test_one_odd_asset_does_not_make_a_venue_odd() -> None:
    thin = (pl.col("venue") == "a") & (pl.col("symbol") == "DOGEUSDT")
    rows = market_funding(1.0).with_columns(rate=pl.when(thin).then(pl.col("rate") / 100).otherwise("rate"))
    assert funding_units(evidence(funding=rows)).is_empty()


def test_an_interval_that_its_own_stamps_contradict_is_found_and_not_blamed_on_the_rate() -> None:
    wrong = pl.when(pl.col("venue") == "a").then(1.0).otherwise("interval_h")
    feed = evidence(funding=market_funding(1.0).with_columns(interval_h=wrong))
    assert funding_interval(feed)["venue"].to_list() == ["a"] * 3
    assert "says 1 h, the rows stand 8 h apart" in funding_interval(feed)["what"][0]
    assert funding_units(feed).is_empty()


# --- open interest, sizes, dollars -----------------------------------------------------------------------------------


def test_a_fall_of_open_interest_over_a_gap_is_not_a_fall_in_an_hour() -> None:
    rows = [{"t": HOUR * n, "oi_usd": 100.0 if n < 50 else 68.0} for n in range(100) if not 50 <= n < 68]
    row = only(changes_over_gaps(evidence(open_interest=open_interest(rows))))
    assert (row["first"], row["last"]) == (at(HOUR * 49), at(HOUR * 68))
    assert "the deepest -32% over 19 h" in str(row["what"])
    whole = [{"t": HOUR * n, "oi_usd": 100.0 if n < 50 else 68.0} for n in range(100)]
    assert changes_over_gaps(evidence(open_interest=open_interest(whole))).is_empty()


@pytest.mark.parametrize(
    ("factor", "size", "said"),
    [(100.0, 0.01, "one over the contract size"), (0.01, 0.01, "the contract size"), (1.5, 0.01, "1.5 x that")],
)
def test_dollars_that_miss_the_contract_size_are_named_by_it(factor: float, size: float, said: str) -> None:
    rows = trades([float(n) for n in range(50)], notional_usd=100.0 * factor)
    known = instrument("v", "BTCUSDT", "BTC", size)
    row = only(notional_off(evidence(trades=rows, instruments=known)))
    assert (row["rows"], said in str(row["what"])) == (50, True)
    sound = trades([float(n) for n in range(50)])
    assert notional_off(evidence(trades=sound, instruments=known)).is_empty()


def market_volumes(units: dict[str, float]) -> pl.DataFrame:
    """Hourly volumes of three venues over five days; the venue `odd` counts in `units` per base unit."""
    base = {"BTCUSDT": 1000.0, "ETHUSDT": 20_000.0, "DOGEUSDT": 5e7}
    share = {"a": 1.0, "b": 0.4, "odd": 0.2}
    return pl.concat(
        candles([volume * size * (units[symbol] if venue == "odd" else 1.0)] * 120, 3600, venue=venue, symbol=symbol)
        for symbol, volume in base.items()
        for venue, size in share.items()
    )


@pytest.mark.parametrize(
    ("units", "odd"),
    [
        ({"BTCUSDT": 100.0, "ETHUSDT": 10.0, "DOGEUSDT": 0.001}, True),  # contracts of 0.01, 0.1 and 1000
        ({"BTCUSDT": 100_000.0, "ETHUSDT": 3000.0, "DOGEUSDT": 0.2}, True),  # dollars
        ({"BTCUSDT": 1.0, "ETHUSDT": 1.0, "DOGEUSDT": 1.0}, False),
        ({"BTCUSDT": 1.0, "ETHUSDT": 0.1, "DOGEUSDT": 0.01}, False),  # a venue for one asset above all
    ],
)
def test_sizes_in_contracts_or_dollars_show_against_other_venues(units: dict[str, float], odd: bool) -> None:
    found = size_units(evidence(candles=market_volumes(units)))
    assert found["venue"].to_list() == ["odd"] * odd
