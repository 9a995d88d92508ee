"""The step as a whole: real servers in two venues' wire formats, captures, and what comes to stand in the lake."""

import json
import signal
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipelines import cli
from pipelines.config import Config, PollConfig
from pipelines.errors import InputError
from pipelines.ingest import ingest
from pipelines.lake import Lake
from pipelines.operating.run import run_once
from pipelines.poll import PollSummary, VenuePoll, poll
from pipelines.polling.captures import STATE, folder_of, names, only_one
from tests.pipelines.polling.hands import T0, Hands
from tests.pipelines.polling.rest import Fault, Rest, no_port
from tests.pipelines.polling.venues import T0_MS, Market, numbered

pytestmark = [pytest.mark.service, pytest.mark.usefixtures("unthrottled")]
TABLES = ("trades", "quotes", "book_depth", "marks", "funding", "open_interest")


def settings(rest: Rest | str, exchange: str = "binanceusdm", **more: Any) -> PollConfig:
    venue, symbol = {"binanceusdm": ("binance-usdm", "BTCUSDT"), "okx": ("okx", "BTC-USDT-SWAP")}[exchange]
    url = rest if isinstance(rest, str) else rest.url
    return PollConfig(**{"exchange": exchange, "venue": venue, "symbols": (symbol,), "base_url": url, **more})


def run(root: Path, hands: Hands, *polls: PollConfig) -> PollSummary:
    return poll(Lake(root), Config(polls=polls), clock=hands.clock())


def only(summary: PollSummary) -> VenuePoll:
    (venue,) = summary.venues
    return venue


def rows(root: Path, table: str, *columns: str) -> list[tuple[Any, ...]]:
    return sorted(Lake(root).scan(table).select(columns).collect().rows(), key=repr)


def ids(root: Path) -> list[int]:
    """Trade ids of the lake, as often as they stand there."""
    return sorted(int(name) for (name,) in rows(root, "trades", "trade_id"))


def refused(root: Path) -> list[tuple[str, str]]:
    return [(table, reason) for table, reason in rows(root, "quarantine", "table", "reason")]


def lines(summary: VenuePoll) -> list[dict[str, Any]]:
    assert summary.capture is not None
    return [json.loads(line) for line in Path(summary.capture).read_text().splitlines()]


# --- values ----------------------------------------------------------------------------------------------------------


def test_binance_answers_become_rows_by_hand_arithmetic(binance: Rest, hands: Hands, tmp_path: Path) -> None:
    """Contracts of one base unit. Marks 100, index 100.5, last 99.5; five trades of 3 at 100."""
    found = only(run(tmp_path, hands, settings(binance)))
    assert (found.gaps, found.notes, found.rows_quarantined, found.trades) == (0, (), 0, 5)
    assert rows(tmp_path, "trades", "trade_id", "side", "price", "qty", "notional_usd")[:2] == [
        ("1000", "buy", 100.0, 3.0, 300.0),
        ("1001", "sell", 100.0, 3.0, 300.0),
    ]
    assert min(Lake(tmp_path).scan("trades").collect()["ts"]) == T0 - timedelta(seconds=2)
    assert set(Lake(tmp_path).scan("trades").collect()["known_at"]) == {T0}  # when the answer came
    assert rows(tmp_path, "marks", "mark", "index", "last") == [(100.0, 100.5, None), (None, None, 99.5)]
    assert rows(tmp_path, "funding", "rate", "interval_h") == [(0.0001, 8.0)]  # not listed: the venue's 8 h
    assert rows(tmp_path, "open_interest", "oi_base", "oi_usd") == [(2000.0, 200_000.0)]  # 2000 x 1 at mark 100
    assert rows(tmp_path, "quotes", "bid", "bid_qty", "ask", "ask_qty") == [
        (pytest.approx(99.95), 2.0, pytest.approx(100.05), 2.0)
    ]
    # Levels at 100.05, 100.15, ... of 2 each, mid 100. 20 bps: 2 x (100.05 + 100.15); 100 bps: 10 levels up to 100.95,
    # 2 x 10 x 100.5; 200 bps: 20 up to 101.95, 2 x 20 x 101; 500 bps: 50 up to 104.95, 2 x 50 x 102.5.
    depth = {(side, band): usd for side, band, usd in rows(tmp_path, "book_depth", "side", "band_bps", "depth_usd")}
    assert depth == pytest.approx(
        {("ask", 20): 400.4, ("ask", 100): 2010.0, ("ask", 200): 4040.0, ("ask", 500): 10_250.0,
         ("bid", 20): 399.6, ("bid", 100): 1990.0, ("bid", 200): 3960.0, ("bid", 500): 9750.0}
    )  # fmt: skip


def test_okx_contracts_of_a_hundredth_become_base_units(okx: Rest, hands: Hands, tmp_path: Path) -> None:
    """0.01 BTC a contract, from the instrument file: 3 contracts at 100 are 0.03 BTC, 3 USD; 200 a level are 2 BTC."""
    found = only(run(tmp_path, hands, settings(okx, "okx")))
    assert (found.gaps, found.notes, found.rows_quarantined) == (0, (), 0)
    assert rows(tmp_path, "trades", "trade_id", "qty", "notional_usd")[0] == ("9000", 0.03, 3.0)
    assert rows(tmp_path, "quotes", "bid_qty", "ask_qty") == [(2.0, 2.0)]
    depth = {(side, band): usd for side, band, usd in rows(tmp_path, "book_depth", "side", "band_bps", "depth_usd")}
    assert depth["ask", 20] == pytest.approx(400.4)  # as at the other venue: the same book in other units
    assert rows(tmp_path, "open_interest", "oi_base", "oi_usd") == [(20.0, 2005.0)]  # 2000 x 0.01; dollars as told
    assert rows(tmp_path, "marks", "mark", "index", "last") == [
        (100.0, None, None),
        (None, 100.5, None),
        (None, None, 99.5),
    ]
    assert rows(tmp_path, "funding", "ts", "rate", "interval_h") == [(T0 + timedelta(milliseconds=4), 0.0001, 8.0)]


def test_bands_beyond_the_last_level_of_a_side_are_not_told(binance: Rest, hands: Hands, tmp_path: Path) -> None:
    """21 levels of asks reach 102.05: the band of 200 bps, to 102, is told and the one of 500 is not; 60 of bids."""
    market = binance.venue.markets["BTCUSDT"]
    market.asks = market.asks[:21]
    run(tmp_path, hands, settings(binance, kinds=("book",)))
    assert rows(tmp_path, "book_depth", "side", "band_bps") == [
        ("ask", 100), ("ask", 20), ("ask", 200), ("bid", 100), ("bid", 20), ("bid", 200), ("bid", 500)
    ]  # fmt: skip


def test_a_listed_interval_counts_and_a_shorter_one_off_the_grid_is_not_taken_for_the_standard(
    binance: Rest, hands: Hands, tmp_path: Path
) -> None:
    binance.venue.listed_h["BTCUSDT"] = 4
    run(tmp_path, hands, settings(binance, kinds=("funding",)))
    assert rows(tmp_path, "funding", "interval_h") == [(4.0,)]
    hands.on(60)
    binance.venue.markets["BTCUSDT"].ts_ms += 60_000
    binance.faults = lambda path, query, nth: Fault(500, b"") if "fundingInfo" in path else None
    found = only(run(tmp_path, hands, settings(binance, kinds=("funding",))))
    assert "funding intervals: HTTP 500" in found.notes
    assert refused(tmp_path) == [("funding", "unknown_funding_interval")]


# --- what venues say when they are not well --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"asks": ()}, "one_sided_book"),
        ({"bids": (), "asks": ()}, "one_sided_book"),
        ({"bids": [(100.2, 1.0)], "asks": [(100.1, 1.0)]}, "crossed_book"),
        ({"bids": [(99.0, 1.0)], "asks": [(100.1, -1.0)]}, "level_not_positive"),
    ],
)
def test_a_book_that_cannot_be_is_quarantined_and_tells_no_depth(
    binance: Rest, hands: Hands, tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    for name, value in change.items():
        setattr(binance.venue.markets["BTCUSDT"], name, value)
    found = only(run(tmp_path, hands, settings(binance, kinds=("book", "trades"))))
    assert refused(tmp_path) == [("quotes", reason)]
    assert rows(tmp_path, "book_depth", "depth_usd") == []
    assert found.tables["trades"]["accepted"] == 5


def test_a_missing_mark_leaves_the_last_price_to_value_open_interest(
    binance: Rest, hands: Hands, tmp_path: Path
) -> None:
    binance.venue.markets["BTCUSDT"].mark = None
    run(tmp_path, hands, settings(binance, kinds=("marks", "open_interest")))
    assert rows(tmp_path, "marks", "mark", "index", "last") == [(None, 100.5, None), (None, None, 99.5)]
    assert rows(tmp_path, "open_interest", "oi_usd") == [(199_000.0,)]  # 2000 x 99.5


def test_open_interest_without_any_price_is_quarantined(binance: Rest, hands: Hands, tmp_path: Path) -> None:
    run(tmp_path, hands, settings(binance, kinds=("open_interest", "trades")))
    assert refused(tmp_path) == [("open_interest", "missing_price")]


def test_a_contract_size_that_the_venue_contradicts_is_refused(okx: Rest, hands: Hands, tmp_path: Path) -> None:
    okx.venue.sizes["BTC-USDT-SWAP"] = 0.001
    found = only(run(tmp_path, hands, settings(okx, "okx")))
    assert {reason for _, reason in refused(tmp_path)} == {"contract_size_contradicted"}
    assert [found.tables[name]["accepted"] for name in ("trades", "quotes", "open_interest")] == [0, 0, 0]
    assert found.tables["marks"]["accepted"] == 3  # prices have no size


def test_a_symbol_that_vanished_costs_no_other(binance: Rest, hands: Hands, tmp_path: Path) -> None:
    found = only(run(tmp_path, hands, settings(binance, symbols=("LUNAUSDT", "BTCUSDT"))))
    assert "LUNAUSDT is no perp market of binanceusdm" in found.notes
    assert (found.gaps, found.trades) == (5, 5)
    assert set(refused(tmp_path)) == {
        (table, "not_answered") for table in ("trades", "book_depth", "marks", "funding", "open_interest")
    }


def test_one_endpoint_that_fails_costs_no_other_and_is_a_gap(binance: Rest, hands: Hands, tmp_path: Path) -> None:
    binance.faults = lambda path, query, nth: Fault(500, b"") if "depth" in path else None
    found = only(run(tmp_path, hands, settings(binance, kinds=("book", "trades"))))
    assert (found.gaps, found.notes) == (1, ("book: HTTP 500",))
    assert [line["gap"]["why"] for line in lines(found) if line["kind"] == "gap"] == ["HTTP 500"]
    assert refused(tmp_path) == [("book_depth", "not_answered")]
    assert len(ids(tmp_path)) == 5


def test_one_venue_that_is_out_of_reach_costs_no_other(binance: Rest, hands: Hands, tmp_path: Path) -> None:
    dead = settings(no_port(), "okx", attempts_max=1)
    summary = run(tmp_path, hands, dead, settings(binance, kinds=("marks",)))
    assert [venue.answers > 0 for venue in summary.venues] == [False, True]
    assert summary.venues[0].notes == ("marks, book, funding, open_interest, trades: host unreachable (5 times)",)
    assert summary.venues[0].gaps == 5  # every kind of its symbol
    assert summary.answered


def test_a_venue_clock_far_from_ours_is_noted(binance: Rest, hands: Hands, tmp_path: Path) -> None:
    binance.venue.now_ms = lambda: T0_MS + 90_000
    found = only(run(tmp_path, hands, settings(binance, kinds=("marks",))))
    assert found.clock_offset_s == 90.0
    assert found.notes == ("the venue's clock is 90 s ahead of ours",)


def test_a_ban_ends_the_round_and_silences_the_next_until_it_is_over(
    binance: Rest, hands: Hands, tmp_path: Path
) -> None:
    binance.faults = lambda path, query, nth: Fault(418, b"{}", {"Retry-After": "600"}) if "depth" in path else None
    found = only(run(tmp_path, hands, settings(binance)))
    assert found.notes == ("book, funding, open_interest, trades: HTTP 418, asked to wait 600 s (4 times)",)
    assert found.gaps == 4  # the book itself and everything that was to come; marks had been answered
    count = len(binance.asked)
    hands.on(300)
    again = run(tmp_path, hands, settings(binance))
    assert not again.answered
    assert "asked for silence until 2026-01-01T00:10:00" in only(again).notes[0]
    assert len(binance.asked) == count
    binance.faults = lambda path, query, nth: None
    hands.on(301)
    assert only(run(tmp_path, hands, settings(binance))).gaps == 0


def test_a_venue_that_drips_is_left_behind_when_the_time_is_up(binance: Rest, tmp_path: Path) -> None:
    """A byte in 50 ms never trips a timeout; the run ends with what it had, and the rest is a gap."""
    from pipelines.polling.clock import real_clock

    binance.faults = lambda path, query, nth: Fault(drip_s=0.05) if "depth" in path else None
    config = Config(polls=(settings(binance, seconds_max=1.0),))
    clock = real_clock(T0)
    found = only(poll(Lake(tmp_path), config, clock=clock))
    assert clock.elapsed_s() < 6.0
    assert (99.5,) in rows(tmp_path, "marks", "last")
    assert found.gaps == 4
    assert found.notes == ("book, funding, open_interest, trades: time is up (4 times)",)


# --- trades over several runs ----------------------------------------------------------------------------------------


def test_a_second_run_appends_what_is_new_and_refuses_nothing(binance: Rest, hands: Hands, tmp_path: Path) -> None:
    run(tmp_path, hands, settings(binance, kinds=("book", "trades")))
    market = binance.venue.markets["BTCUSDT"]
    market.trades += numbered(1005, 4, T0_MS + 100)
    market.ts_ms += 60_000
    hands.on(60)
    found = only(run(tmp_path, hands, settings(binance, kinds=("book", "trades"))))
    assert (found.trades, found.rows_quarantined, found.gaps) == (4, 0, 0)
    assert ids(tmp_path) == list(range(1000, 1009))
    assert len(rows(tmp_path, "quotes", "ts")) == 2


@pytest.mark.parametrize("exchange", ["binanceusdm", "okx"])
def test_pages_are_turned_back_until_they_join(
    request: pytest.FixtureRequest, hands: Hands, tmp_path: Path, exchange: str
) -> None:
    """2,600 trades between two runs: binance shows 1,000 a page; okx 500 and then 100 a page."""
    rest = request.getfixturevalue("okx" if exchange == "okx" else "binance")
    (market,) = rest.venue.markets.values()
    asked = settings(rest, exchange, kinds=("trades",))
    run(tmp_path, hands, asked)
    begun = market.trades[0][0]
    market.trades += numbered(market.trades[-1][0] + 1, 2600, T0_MS, 20)
    hands.on(60)
    rest.asked.clear()
    found = only(run(tmp_path, hands, asked))
    assert (found.trades, found.rows_quarantined, found.gaps) == (2600, 0, 0)
    assert ids(tmp_path) == list(range(begun, begun + 2605))
    pages = rest.count("rades")
    assert pages == (3 if exchange == "binanceusdm" else 1 + 21)  # 2,600 / 1,000; (2,600 - 500) / 100


def test_what_does_not_join_is_a_gap_that_doctor_and_the_bars_see(
    binance: Rest, hands: Hands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One page back is allowed: 2,500 trades later, 2,000 are shown and 500 are missing."""
    from pipelines.doctor import examine

    monkeypatch.setattr("pipelines.polling.round.PAGES_MAX", 1)
    asked = settings(binance, kinds=("trades",))
    run(tmp_path, hands, asked)
    binance.venue.markets["BTCUSDT"].trades += numbered(1005, 2500, T0_MS, 20)
    hands.on(60)
    found = only(run(tmp_path, hands, asked))
    assert found.notes == ("trades: not joined: 1 pages were not enough",)
    (gap,) = [line["gap"] for line in lines(found) if line["kind"] == "gap"]
    assert (gap["from"], gap["to"]) == ("2025-12-31T23:59:58.400000Z", "2026-01-01T00:00:10.000000Z")  # 500 x 20 ms
    assert refused(tmp_path) == [("trades", "trades_not_joined")]
    said = {finding["check"]: finding["what"] for finding in examine(Lake(tmp_path)).findings}
    assert "500 trade ids missing" in said["missing trade ids"]
    assert "1 rows refused as trades_not_joined" in said["refused rows"]


def test_an_exchange_that_shows_no_older_trades_leaves_a_gap_at_once(
    binance: Rest, hands: Hands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines.polling import exchanges

    monkeypatch.setattr(exchanges, "HABITS", {"binanceusdm": exchanges.Habits(page=10)})
    asked = settings(binance, kinds=("trades",))
    run(tmp_path, hands, asked)
    binance.venue.markets["BTCUSDT"].trades += numbered(1005, 30, T0_MS)
    found = only(run(tmp_path, hands, asked))
    assert found.notes == ("trades: not joined: the exchange shows no older trades",)
    assert (found.trades, ids(tmp_path)[5:]) == (10, list(range(1025, 1035)))


def test_a_round_that_is_shut_while_it_turns_pages_leaves_a_gap_for_everybody_still_to_be_joined(
    binance: Rest, hands: Hands, tmp_path: Path
) -> None:
    """Both symbols showed their latest page; the first page back meets a ban, so the other was never turned back."""
    market = binance.venue.markets["BTCUSDT"]
    binance.venue.markets["ETHUSDT"] = Market(trades=list(market.trades))
    asked = settings(binance, symbols=("BTCUSDT", "ETHUSDT"), kinds=("trades",))
    run(tmp_path, hands, asked)
    for one in binance.venue.markets.values():
        one.trades += numbered(1005, 1500, T0_MS, 20)
    binance.faults = lambda path, query, nth: Fault(418, b"{}", {"Retry-After": "600"}) if "fromId" in query else None
    found = only(run(tmp_path, hands, asked))
    gaps = [(line["symbol"], line["gap"]) for line in lines(found) if line["kind"] == "gap"]
    assert sorted(symbol for symbol, _ in gaps) == ["BTCUSDT", "ETHUSDT"]
    assert {gap["why"] for _, gap in gaps} == {"not joined: HTTP 418, asked to wait 600 s"}
    # ids 1005 to 1504 are missing: 500 x 20 ms
    assert {(gap["from"], gap["to"]) for _, gap in gaps} == {
        ("2025-12-31T23:59:58.400000Z", "2026-01-01T00:00:10.000000Z")
    }


def test_trades_out_of_order_and_pages_told_twice_are_stored_once(okx: Rest, hands: Hands, tmp_path: Path) -> None:
    """The older pages of okx say the same ten trades again and again, and no page is sorted."""
    market = okx.venue.markets["BTC-USDT-SWAP"]
    asked = settings(okx, "okx", kinds=("trades",))
    run(tmp_path, hands, asked)
    market.trades += numbered(9005, 700, T0_MS, 20)
    shuffled = [*market.trades[350:], *market.trades[:350]]
    answer = okx.venue.answer

    def answered(path: str, query: Any) -> Any:
        if "history" in path:
            return okx.venue._wrapped(okx.venue._rows("BTC-USDT-SWAP", market.trades[195:205]))
        told = answer(path, query)
        return told if "trades" not in path else okx.venue._wrapped(okx.venue._rows("BTC-USDT-SWAP", shuffled[-500:]))

    okx.venue.answer = answered  # type: ignore[method-assign]
    found = only(run(tmp_path, hands, asked))
    stored = ids(tmp_path)
    assert len(stored) == len(set(stored))
    assert found.rows_quarantined == found.gaps
    assert Lake(tmp_path).scan("quarantine").filter(pl.col("reason") == "duplicate_key").collect().is_empty()


# --- killed, lost, repeated ------------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from pathlib import Path
from datetime import UTC, datetime
import ccxt
import pipelines.poll as step
from pipelines.config import Config, PollConfig
from pipelines.lake import Lake
from pipelines.operating.run import run_once
from pipelines.polling.clock import real_clock

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

ccxt.Exchange.throttle = lambda self, cost=None: None
setattr(step, sys.argv[3], die)
poll = PollConfig(exchange="binanceusdm", venue="binance-usdm", symbols=("BTCUSDT",), base_url=sys.argv[2],
    kinds=("trades", "book"))
step.poll(Lake(Path(sys.argv[1])), Config(polls=(poll,)), clock=real_clock(datetime(2026, 1, 1, tzinfo=UTC)))
"""


def after_an_end(rest: Rest, hands: Hands, root: Path, captured: int) -> None:
    """What must hold of the run after one that ended with `captured` captures and nothing in the lake."""
    assert len(names(folder_of(root, "binance-usdm"))) == captured
    assert rows(root, "trades", "trade_id") == []
    market = rest.venue.markets["BTCUSDT"]
    market.trades += numbered(1005, 4, T0_MS + 100)
    market.ts_ms += 60_000
    hands.on(60)
    found = only(run(root, hands, settings(rest, kinds=("trades", "book"))))
    assert ids(root) == list(range(1000, 1009))
    assert (found.rows_quarantined, found.trades) == (0, 4 if captured else 9)
    assert len(rows(root, "quotes", "ts")) == captured + 1


def test_a_kill_between_capture_and_ingest_costs_no_row_and_stores_none_twice(
    binance: Rest, hands: Hands, tmp_path: Path
) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path, binance.url, "ingest"], cwd=Path.cwd(), check=False)
    assert done.returncode == -signal.SIGKILL
    after_an_end(binance, hands, tmp_path, 1)


@pytest.mark.parametrize("end_at", [("write_capture", 0), ("moved", 1)])
def test_an_end_before_the_capture_or_before_the_state_moves_costs_no_row(
    binance: Rest, hands: Hands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end_at: tuple[str, int]
) -> None:
    at, captured = end_at

    def end(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(f"pipelines.poll.{at}", end)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, hands, settings(binance, kinds=("trades", "book")))
    after_an_end(binance, hands, tmp_path, captured)


def test_a_state_that_is_lost_or_broken_costs_a_read_and_no_row(binance: Rest, hands: Hands, tmp_path: Path) -> None:
    state = folder_of(tmp_path, "binance-usdm") / STATE
    market = binance.venue.markets["BTCUSDT"]
    for broken in (None, "", "{", '{"trades": 7}', '{"trades": {"BTCUSDT": {}}, "waiting": [], "not_before": null}'):
        found = only(run(tmp_path, hands, settings(binance, kinds=("trades",))))
        assert (found.rows_quarantined, found.gaps) == (0, 0)
        market.trades += numbered(market.trades[-1][0] + 1, 3, market.trades[-1][1] + 100)
        hands.on(60)
        if broken is None:
            state.unlink()
        else:
            state.write_text(broken)
    assert ids(tmp_path) == list(range(1000, 1005 + 4 * 3))
    assert json.loads((folder_of(tmp_path, "binance-usdm") / STATE).read_text() or "{}") is not None


def test_a_clock_set_back_hides_no_capture(binance: Rest, hands: Hands, tmp_path: Path) -> None:
    run(tmp_path, hands, settings(binance, kinds=("trades",)))
    market = binance.venue.markets["BTCUSDT"]
    for back_s in (86_400, 0):  # to the day before; then the very same moment again
        market.trades += numbered(market.trades[-1][0] + 1, 3, market.trades[-1][1] + 100)
        hands.now -= timedelta(seconds=back_s)
        run(tmp_path, hands, settings(binance, kinds=("trades",)))
    assert ids(tmp_path) == list(range(1000, 1011))
    assert len(names(folder_of(tmp_path, "binance-usdm"))) == 3


def test_ingest_rebuilds_the_same_lake_from_the_captures(
    binance: Rest, okx: Rest, hands: Hands, tmp_path: Path
) -> None:
    run(tmp_path / "a", hands, settings(binance), settings(okx, "okx"))
    summary = ingest("ccxt", [tmp_path / "a" / "captured"], Lake(tmp_path / "b"), Config())
    assert (summary.files, summary.ignored) == (2, ())
    for table in TABLES:
        columns = Lake(tmp_path / "a").scan(table).collect_schema().names()
        assert rows(tmp_path / "a", table, *columns) == rows(tmp_path / "b", table, *columns) != []
    assert len(ingest("ccxt", [tmp_path / "a" / "captured"], Lake(tmp_path / "a"), Config()).skipped) == 2


def test_an_unknown_symbol_is_quarantined_as_usual(binance: Rest, hands: Hands, tmp_path: Path) -> None:
    binance.venue.markets["BTC_ODD"] = Market(trades=numbered(1, 3, T0_MS))
    found = only(run(tmp_path, hands, settings(binance, symbols=("BTC_ODD",), kinds=("trades", "marks"))))
    assert (found.trades, found.rows_accepted, found.rows_quarantined) == (3, 0, 5)
    assert {reason for _, reason in refused(tmp_path)} == {"unknown_symbol"}


def test_a_capture_that_ingest_refuses_is_said_and_tried_again(
    binance: Rest, hands: Hands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise InputError("instrument differs from what the lake holds")

    with monkeypatch.context() as patch:
        patch.setattr("pipelines.poll.ingest", refuse)
        found = only(run(tmp_path, hands, settings(binance, kinds=("trades",))))
    assert found.notes == ("1 capture refused, the latest: instrument differs from what the lake holds",)
    run(tmp_path, hands, settings(binance, kinds=("trades",)))
    assert ids(tmp_path) == list(range(1000, 1005))


def test_two_polls_of_a_venue_do_not_get_in_each_others_way(binance: Rest, hands: Hands, tmp_path: Path) -> None:
    with only_one(folder_of(tmp_path, "binance-usdm")):
        found = only(run(tmp_path, hands, settings(binance)))
    assert found.notes == ("another poll of this venue is at work",)
    assert binance.asked == []


def test_the_first_symbol_changes_with_the_minute_so_that_no_one_is_always_last(
    binance: Rest, hands: Hands, tmp_path: Path
) -> None:
    binance.venue.markets["ETHUSDT"] = binance.venue.markets["BTCUSDT"]
    firsts = []
    for _ in range(2):
        binance.asked.clear()
        run(tmp_path, hands, settings(binance, symbols=("BTCUSDT", "ETHUSDT"), kinds=("book",)))
        firsts.append(next(query["symbol"] for path, query in binance.asked if "depth" in path))
        hands.on(60)
    assert sorted(firsts) == ["BTCUSDT", "ETHUSDT"]


# --- from polls to decisions -----------------------------------------------------------------------------------------


def test_minutes_of_polling_become_bars_and_decisions(binance: Rest, hands: Hands, tmp_path: Path) -> None:
    from pipelines.bars import build_pending
    from pipelines.guard import guard_venue
    from pipelines.times import Interval

    market, start = binance.venue.markets["BTCUSDT"], T0 + timedelta(minutes=1)
    market.trades.clear()
    for minute in range(3):
        moment = T0_MS + (minute + 1) * 60_000 - 5_000
        market.trades += numbered(1000 + 6 * minute, 6, moment - 3_000)
        market.ts_ms, market.mark = moment, 100.0 + minute
        hands.now = datetime.fromtimestamp(moment / 1000, tz=T0.tzinfo)
        run(tmp_path, hands, settings(binance))
    lake, config = Lake(tmp_path), Config()
    build_pending(lake, "binance-usdm", bar_s=60)
    bars = lake.scan("bars").sort("ts").collect()
    told = bars.filter(pl.col("ts").is_between(start, start + timedelta(minutes=2)))
    assert told["trades"].to_list() == [6] * 3
    assert told["volume_usd"].to_list() == [1800] * 3  # 6 x 3 at 100
    assert told["mark"].to_list() == [100.0, 101.0, 102.0]
    assert told["oi_usd"].to_list() == [200_000, 202_000, 204_000]  # 2000 at the mark
    assert told["depth_ask_100bps_usd"].to_list() == [2010] * 3
    assert told["funding_interval_h"].to_list() == [8.0] * 3
    assert told["trade_ids_missing"].sum() == 0
    guarded = guard_venue(lake, "binance-usdm", Interval(T0, start + timedelta(minutes=2)), config)
    assert guarded.decisions > 0


# --- the command -----------------------------------------------------------------------------------------------------


def command(capsys: pytest.CaptureFixture[str], folder: Path, text: str, *more: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of `cascadeguard poll` with `text` as settings."""
    (folder / "cascadeguard.toml").write_text(text)
    code = cli.run(["poll", "--config", str(folder / "cascadeguard.toml"), "--lake", str(folder / "L"), *more])
    said = capsys.readouterr()
    return code, said.out, said.err


def toml(url: str, exchange: str = "binanceusdm", **more: str) -> str:
    given = [f'exchange = "{exchange}"', 'venue = "binance-usdm"', 'symbols = ["BTCUSDT"]', f'base_url = "{url}"']
    return "\n".join(["[[polls]]", 'kinds = ["marks", "funding"]', *given, *more.values()])


def test_the_command_polls_and_says_it_in_a_line_and_in_json(
    binance: Rest, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, out, err = command(capsys, tmp_path, toml(binance.url), "--now", "2026-01-01T00:00Z")
    assert (code, err) == (0, "")
    assert out.startswith("binance-usdm: 3 answers, 0 new trades, 0 gaps; 3 rows accepted, 0 quarantined")
    code, out, _ = command(capsys, tmp_path, toml(binance.url), "--now", "2026-01-01T00:01Z", "--json")
    (venue,) = json.loads(out)["venues"]
    assert (code, venue["venue"], venue["gaps"]) == (0, "binance-usdm", 0)


def test_the_command_ends_with_1_where_nobody_answered(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, err = command(capsys, tmp_path, toml(no_port(), more="attempts_max = 1"))
    assert (code, err) == (1, "")
    assert "host unreachable" in out


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no venue is set up for polling"),
        (toml("", "binanceusdmm"), "unknown exchange: binanceusdmm; use ccxt's own ids"),
        (toml("http://example.com"), "`polls.0.base_url`: must be an https address, or http on a loopback address"),
        (toml("").replace('"BTCUSDT"', ""), "`polls.0.symbols`"),
        (toml("") + "\n" + toml(""), "`polls`: must name each venue once"),
    ],
)
def test_bad_settings_are_one_line_and_2(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str, said: str
) -> None:
    code, out, err = command(capsys, tmp_path, text)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err


def test_a_venue_that_is_not_set_up_is_answered_with_those_that_are(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, _, err = command(capsys, tmp_path, toml(""), "--venue", "okx")
    assert (code, err) == (2, "error: no [[polls]] table is of this venue: 'okx'; use one of: binance-usdm\n")


def test_without_ccxt_the_command_says_how_to_install_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ccxt", None)
    code, _, err = command(capsys, tmp_path, toml(""))
    assert (code, err.count("\n")) == (2, 1)
    assert "ccxt is not installed" in err
    assert "pip install 'cascadeguard[poll]'" in err


# --- in a schedule ---------------------------------------------------------------------------------------------------


def test_a_scheduled_run_counts_the_rows_that_venues_answered(binance: Rest, hands: Hands, tmp_path: Path) -> None:
    config = Config(polls=(settings(binance),))
    found = run_once(tmp_path, config, hands.now, wall=hands.now)
    held = sum(len(rows(tmp_path, table, "ts")) for table in TABLES)
    (row,) = Lake(tmp_path).scan("runs").collect().to_dicts()
    assert (found.files, found.rows_accepted, found.failed) == (1, held, False)
    assert (row["state"], row["rows_ingested"]) == ("ok", held)
    assert held > 5  # at least the trades


def test_a_venue_that_cannot_be_asked_costs_a_scheduled_run_a_note(hands: Hands, tmp_path: Path) -> None:
    lost = run_once(tmp_path, Config(polls=(settings(no_port()),)), hands.now, wall=hands.now)
    assert not lost.failed
    assert any(note.startswith("binance-usdm: ") and "host unreachable" in note for note in lost.notes)
    unknown = Config(polls=(settings("http://127.0.0.1:1").model_copy(update={"exchange": "nowhere"}),))
    assert run_once(tmp_path, unknown, hands.now, wall=hands.now).notes[0].startswith("no venue was polled (")
