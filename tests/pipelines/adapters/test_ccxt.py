"""Adapter `ccxt`: lines of a capture as they should not be; sound ones are checked where a venue is polled."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipelines.config import Config
from pipelines.ingest import IngestSummary, ingest
from pipelines.lake import Lake

AT = "2026-01-01T00:00:01.000000Z"
MS = 1_767_225_600_000
TRADE = {"id": "7", "timestamp": MS, "side": "buy", "price": 100.0, "amount": 3.0}
LEVELS = {"bids": [[99.0, 1.0], [98.0, 1.0]], "asks": [[101.0, 1.0], [102.0, 1.0]]}


def line(kind: str, **more: Any) -> dict[str, Any]:
    head = {"poll": 1, "exchange": "okx", "venue": "okx", "kind": kind, "symbol": "BTC-USDT-SWAP", "answered_at": AT}
    return {**head, **more}


def taken(folder: Path, *lines: dict[str, Any] | str) -> IngestSummary:
    """What ingest makes of a capture that begins as every capture does."""
    text = [one if isinstance(one, str) else json.dumps(one) for one in (line("run"), *lines)]
    (folder / "capture.jsonl").write_text("".join(f"{one}\n" for one in text))
    return ingest("ccxt", [folder / "capture.jsonl"], Lake(folder / "lake"), Config())


def refused(folder: Path) -> list[tuple[str, int, str]]:
    found = Lake(folder / "lake").scan("quarantine").select("table", "line", "reason").collect()
    return sorted(found.rows())


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ({"id": None}, "missing_trade_id"),
        ({"id": ""}, "missing_trade_id"),
        ({"side": None}, "unknown_side"),
        ({"price": None}, "unreadable_price"),
        ({"price": 0.0}, "price_not_positive"),
        ({"amount": "x"}, "unreadable_qty"),
        ({"amount": -1.0}, "qty_not_positive"),
        ({"timestamp": MS // 1000}, "ts_out_of_range"),
        ({"timestamp": "soon"}, "unreadable_ts"),
        ({"price": 1e300, "amount": 1e300}, "size_out_of_range"),
    ],
)
def test_a_trade_that_cannot_be_is_refused_and_its_neighbour_is_not(
    tmp_path: Path, broken: dict[str, Any], reason: str
) -> None:
    found = taken(tmp_path, line("trades", trades=[TRADE, {**TRADE, "id": "8", **broken}]))
    assert refused(tmp_path) == [("trades", 2, reason)]
    assert (found.rows_accepted, found.rows_quarantined) == (2, 1)  # with the line about the run


@pytest.mark.parametrize(
    ("book", "reason"),
    [
        ({"bids": [[99.0]]}, "unreadable_level"),
        ({"bids": [[99.0, None]]}, "unreadable_level"),
        ({"bids": [[99.0, 1.0], [99.0, 2.0]]}, "levels_out_of_order"),
        ({"asks": [[102.0, 1.0], [101.0, 1.0]]}, "levels_out_of_order"),
        ({"asks": [[0.0, 1.0]]}, "level_not_positive"),
        ({"asks": None}, "one_sided_book"),
        ({"bids": [[101.0, 1.0]]}, "crossed_book"),
        ({"timestamp": MS * 1000}, "ts_out_of_range"),
    ],
)
def test_a_book_that_cannot_be_is_refused_as_a_whole(tmp_path: Path, book: dict[str, Any], reason: str) -> None:
    taken(tmp_path, line("book", book={"timestamp": MS, **LEVELS, **book}))
    assert refused(tmp_path) == [("quotes", 2, reason)]
    assert Lake(tmp_path / "lake").scan("book_depth").collect().is_empty()


def test_a_book_without_a_stamp_of_the_venue_is_stamped_with_its_arrival(tmp_path: Path) -> None:
    """Asks to 102, mid 100: bands of 20, 100 and 200 bps are reached, on the edge too; that of 500 is not.

    0.01 BTC a contract: one contract at 101 is 1.01 dollars, with one at 102 it is 2.03.
    """
    taken(tmp_path, line("book", contract_size=0.01, book={"timestamp": None, **LEVELS}))
    depth = Lake(tmp_path / "lake").scan("book_depth").filter(pl.col("side") == "ask").sort("band_bps").collect()
    assert depth.select("band_bps", "depth_usd").rows() == [
        (20, 0.0),
        (100, pytest.approx(1.01)),
        (200, pytest.approx(2.03)),
    ]
    assert (depth["ts"] == depth["known_at"]).all()
    assert depth["ts"].dt.strftime("%FT%T").unique().to_list() == ["2026-01-01T00:00:01"]


@pytest.mark.parametrize(
    ("funding", "reason"),
    [
        ({"fundingRate": None}, "unreadable_rate"),
        ({"fundingRate": 1.5}, "rate_out_of_range"),
        ({"interval": None}, "unknown_funding_interval"),
        ({"interval": "43200000"}, "unknown_funding_interval"),  # ccxt hands on what it does not know
    ],
)
def test_a_rate_without_its_interval_or_of_another_unit_is_refused(
    tmp_path: Path, funding: dict[str, Any], reason: str
) -> None:
    told = {"timestamp": None, "fundingRate": 0.0001, "interval": "8h", "fundingTimestamp": MS, "info": {"ts": MS}}
    taken(tmp_path, line("funding", funding={**told, **funding}))
    assert refused(tmp_path) == [("funding", 2, reason)]


@pytest.mark.parametrize(("due_ms", "hours"), [(MS + 8 * 3_600_000, 8.0), (MS + 4 * 3_600_000, None)])
def test_the_standard_interval_counts_only_where_the_next_payment_lies_on_its_grid(
    tmp_path: Path, due_ms: int, hours: float | None
) -> None:
    named = {"exchange": "binanceusdm", "venue": "binance-usdm", "symbol": "BTCUSDT"}
    told = {"timestamp": MS, "fundingRate": 0.0001, "interval": None, "fundingTimestamp": due_ms}
    taken(tmp_path, line("intervals", **named, intervals=[]), line("funding", **named, funding=told))
    stored = Lake(tmp_path / "lake").scan("funding").collect()["interval_h"].to_list()
    assert stored == ([] if hours is None else [hours])
    assert refused(tmp_path) == ([("funding", 3, "unknown_funding_interval")] if hours is None else [])


def test_the_raw_stamp_counts_only_of_exchanges_that_are_known_to_mean_it(tmp_path: Path) -> None:
    told = {"timestamp": None, "fundingRate": 0.0001, "interval": "8h", "fundingTimestamp": MS, "info": {"ts": MS}}
    taken(tmp_path, line("funding", funding=told), line("funding", funding=told, exchange="bitget"))
    stamps = Lake(tmp_path / "lake").scan("funding").collect()["ts"].dt.epoch("ms").sort().to_list()
    assert stamps == [MS, MS + 1000]


def test_inverse_open_interest_is_dollars_and_base_units_at_the_mark(tmp_path: Path) -> None:
    """BTC-USD-SWAP: 100 USD a contract. 500 contracts are 50,000 USD, at a mark of 100,000 half a BTC."""
    named = {"symbol": "BTC-USD-SWAP", "contract_size": 100.0}
    ticker = {"timestamp": MS, "last": 99_000.0, "markPrice": 100_000.0}
    interest = {"timestamp": MS, "openInterestAmount": 500.0}
    taken(tmp_path, line("ticker", **named, ticker=ticker), line("open_interest", **named, open_interest=interest))
    stored = Lake(tmp_path / "lake").scan("open_interest").select("oi_base", "oi_usd").collect()
    assert stored.rows() == [(0.5, 50_000.0)]


def test_a_price_told_after_the_open_interest_does_not_value_it(tmp_path: Path) -> None:
    interest = line("open_interest", open_interest={"timestamp": MS, "openInterestAmount": 5.0})
    taken(tmp_path, interest, line("ticker", ticker={"timestamp": MS, "last": 100.0}))
    assert refused(tmp_path) == [("open_interest", 2, "missing_price")]


def test_lines_that_are_no_json_or_of_no_known_kind_are_counted(tmp_path: Path) -> None:
    found = taken(
        tmp_path,
        '{"poll": 1, "kind": "trades", "trades": [',
        line("weather"),
        line("trades"),
        line("trades", trades=[]),
        line("ticker", ticker={"timestamp": MS}),
        line("gap", gap={"of": "rain", "from": AT, "to": AT, "why": "no cloud"}),
        line("trades", trades=[TRADE]),
    )
    assert refused(tmp_path) == [("trades", 2, "unreadable_json")]
    assert found.silent == {"unknown_kind": 3, "about_the_run": 1, "no_trades": 1, "no_price": 1}
    assert found.rows_read == found.rows_accepted + found.rows_quarantined == 8


def test_a_gap_stands_in_quarantine_in_the_table_that_lacks_it(tmp_path: Path) -> None:
    gaps = [("book", "HTTP 500"), ("trades", "not joined: 50 pages were not enough"), ("marks", "time is up")]
    lines = [line("gap", gap={"of": kind, "from": AT, "to": AT, "why": why}) for kind, why in gaps]
    found = taken(tmp_path, *lines)
    assert refused(tmp_path) == [
        ("book_depth", 2, "not_answered"),
        ("marks", 4, "not_answered"),
        ("trades", 3, "trades_not_joined"),
    ]
    assert found.rows_accepted == 1
    raw = Lake(tmp_path / "lake").scan("quarantine").filter(pl.col("table") == "trades").collect()["raw"][0]
    assert "50 pages were not enough" in raw
