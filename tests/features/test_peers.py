"""What other venues say of the same assets, by hand."""

from datetime import datetime, timedelta
from typing import Any

import polars as pl
import pytest

from features.peers import PEERS, peers_of
from tests.features.worlds import START, with_schema

HERE = pl.DataFrame({"symbol": ["BTC-PERP"], "base": ["BTC"]})
BASES = {
    ("east", "BTCUSDT"): "BTC",
    ("east", "BTCUSDC"): "BTC",
    ("west", "XBT"): "BTC",
    ("north", "BTC-SWAP"): "BTC",
    ("west", "ETH"): "ETH",
}


def at(minute: int) -> datetime:
    return START + timedelta(minutes=minute)


def bar(
    venue: str, symbol: str, basis_bps: float | None = None, rate: float | None = None, minute: int = 1, **more: Any
) -> dict[str, Any]:
    """A bar with fresh prices and a rate per 8 hours; None is unknown."""
    return {
        "venue": venue,
        "symbol": symbol,
        "ts": at(minute),
        "known_at": at(minute),
        "mark": None if basis_bps is None else 1_000 * (1 + basis_bps / 1e4),
        "mark_age_s": 0.0,
        "index": 1_000.0,
        "index_age_s": 0.0,
        "funding_rate": rate,
        "funding_interval_h": 8.0,
        "funding_age_s": 0.0,
    } | more


def bars(*rows: dict[str, Any]) -> pl.DataFrame:
    return with_schema(pl.DataFrame(rows, strict=False, infer_schema_length=None))


def peers(*rows: dict[str, Any], here: pl.DataFrame = HERE) -> list[dict[str, Any]]:
    return peers_of(bars(*rows), here, BASES).to_dicts()


def told(*rows: dict[str, Any]) -> list[float | None]:
    """The columns of PEERS of the only row."""
    (row,) = peers(*rows)
    return [row[name] for name in PEERS.names()]


def test_median_least_and_greatest_of_three_venues() -> None:
    """.01, .02, .06 % per 8 h are .1095, .219, .657 a year; a base that is not traded here says nothing."""
    got = told(
        bar("east", "BTCUSDT", 3.0, 1e-4),
        bar("west", "XBT", -2.0, 6e-4),
        bar("north", "BTC-SWAP", 10.0, 2e-4),
        bar("west", "ETH", 99.0, 0.01),
    )
    assert got == pytest.approx([3, 0.219, 0.1095, 0.657, 3.0, -2.0, 10.0])


def test_two_venues_have_their_middle_as_median() -> None:
    got = told(bar("east", "BTCUSDT", 3.0, 1e-4), bar("west", "XBT", -2.0, 3e-4))
    assert got == pytest.approx([2, 0.219, 0.1095, 0.3285, 0.5, -2.0, 3.0])


def test_a_venue_with_two_symbols_of_an_asset_counts_once_with_their_mean() -> None:
    """East is (3 + 5) / 2 = 4 bps and .02 %; with three voices the median would be 3, not 2."""
    rows = bar("east", "BTCUSDT", 3.0, 1e-4), bar("east", "BTCUSDC", 5.0, 3e-4), bar("west", "XBT", 0.0, 0.0)
    assert told(*rows) == pytest.approx([2, 0.1095, 0.0, 0.219, 2.0, 0.0, 4.0])


def test_a_venue_without_a_basis_still_tells_its_funding() -> None:
    got = told(bar("east", "BTCUSDT", None, 1e-4), bar("west", "XBT", 4.0, 3e-4))
    assert got == pytest.approx([2, 0.219, 0.1095, 0.3285, 4.0, 4.0, 4.0])
    alone = told(bar("east", "BTCUSDT", None, 1e-4))
    assert alone[:4] == pytest.approx([1, 0.1095, 0.1095, 0.1095])
    assert alone[4:] == [None, None, None]


def test_one_symbol_of_a_venue_speaks_for_another_that_is_silent() -> None:
    assert told(bar("east", "BTCUSDT", 3.0, None), bar("east", "BTCUSDC", None, 3e-4))[1::3] == pytest.approx(
        [0.3285, 3.0]
    )


def test_no_rows_where_nobody_else_tells_of_the_asset() -> None:
    assert peers(bar("west", "ETH", 1.0, 1e-4)) == []  # another asset
    assert peers(bar("east", "BTCUSDT")) == []  # a bar that knows neither
    assert peers(bar("south", "BTCUSDT", 1.0, 1e-4)) == []  # a venue whose assets are not named
    empty = peers_of(bars(bar("east", "BTCUSDT")).head(0), HERE, BASES)
    assert empty.schema == pl.Schema({"symbol": pl.String(), "ts": empty.schema["ts"], **PEERS})


@pytest.mark.parametrize(
    ("stale", "kept"),
    [({"mark_age_s": 301.0}, 1), ({"index_age_s": None}, 1), ({"funding_age_s": 57_601.0}, 2), ({"index": -1.0}, 1)],
)
def test_what_is_stale_or_impossible_there_is_not_told_here(stale: dict[str, Any], kept: int) -> None:
    """Of funding (column 1) and basis (column 4) the one whose source is at fault is silent."""
    got = told(bar("east", "BTCUSDT", 3.0, 1e-4, **stale))
    assert [got[1] is None, got[4] is None] == ([False, True] if kept == 1 else [True, False])


def test_intervals_of_payment_are_made_comparable() -> None:
    """.01 % an hour is eight times .01 % per 8 hours."""
    got = told(bar("east", "BTCUSDT", None, 1e-4), bar("west", "XBT", None, 1e-4, funding_interval_h=1.0))
    assert got[1:4] == pytest.approx([0.49275, 0.1095, 0.876])


def test_every_symbol_of_the_asset_here_gets_the_row() -> None:
    here = pl.DataFrame({"symbol": ["BTC-B", "BTC-A", "SOL"], "base": ["BTC", "BTC", "SOL"]})
    rows = peers(bar("east", "BTCUSDT", 3.0, 1e-4, 2), bar("east", "BTCUSDT", 4.0, 1e-4, 1), here=here)
    assert [(row["symbol"], row["ts"]) for row in rows] == [
        *(("BTC-A", at(1)), ("BTC-A", at(2)), ("BTC-B", at(1)), ("BTC-B", at(2)))
    ]
    assert [row["peer_basis_median_bps"] for row in rows] == pytest.approx([4.0, 3.0, 4.0, 3.0])


def test_only_bars_of_the_same_time_meet_and_the_future_changes_nothing() -> None:
    now = [bar("east", "BTCUSDT", 3.0, 1e-4, 1), bar("west", "XBT", 5.0, 2e-4, 2)]
    later = [bar("east", "BTCUSDT", 500.0, 0.01, 3), bar("west", "XBT", -500.0, -0.01, 4)]
    before = peers(*now)
    assert [row["peer_venues"] for row in before] == [1, 1]
    assert peers(*now, *later)[:2] == before


def test_the_order_of_rows_does_not_matter_to_the_bit() -> None:
    """Nine symbols of one venue: a float mean in another order would differ in its last bit."""
    bases = {("east", f"S{i}"): "BTC" for i in range(9)}
    rows = [
        bar(venue, symbol, 0.1 * (7 * k % 13) + 0.03 * minute, 1e-5 * (5 * k % 11) + 1e-7 * minute / 3, minute)
        for k, (venue, symbol) in enumerate(bases)
        for minute in range(1, 30)
    ]
    frame = bars(*rows)
    want = peers_of(frame, HERE, bases)
    assert want["peer_venues"].to_list() == [1] * 29
    for seed in range(5):
        assert peers_of(frame.sample(fraction=1.0, shuffle=True, seed=seed), HERE, bases).equals(want)
    assert peers_of(frame, HERE, dict(reversed(bases.items()))).equals(want)
