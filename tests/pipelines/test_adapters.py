import gzip
import zipfile
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from pipelines.adapters import ADAPTERS, Origin, adapter_named
from pipelines.adapters.binance_archive import BINANCE_ARCHIVE
from pipelines.adapters.lines import numbered_lines, with_fields
from pipelines.adapters.tardis import TARDIS
from pipelines.config import Config
from pipelines.errors import InputError
from pipelines.instruments import load_instruments

INSTRUMENTS = load_instruments(Config())
T0 = 1760054400_000000  # 2025-10-10T00:00:00Z
README = Path(__file__).parents[2] / "pipelines" / "adapters" / "README.md"


def _tardis(*lines: str, venue: str | None = None) -> pl.DataFrame:
    raw = pl.DataFrame({"line": range(2, 2 + len(lines)), "raw": lines}, schema_overrides={"line": pl.Int64})
    return TARDIS.candidates(with_fields(raw, TARDIS.columns), Origin("t.csv", venue, None, INSTRUMENTS))


def _trade(**changes: object) -> str:
    values: dict[str, object] = {
        "exchange": "binance-delivery",
        "symbol": "AVAXUSD_PERP",
        "timestamp": T0,
        "local_timestamp": T0 + 4000,
        "id": "7",
        "side": "buy",
        "price": "20",
        "amount": "3",
    }
    return ",".join(str(value) for value in (values | changes).values())


def test_inverse_contracts_are_dollars_and_become_base_units_at_the_price() -> None:
    row = _tardis(_trade()).row(0, named=True)
    assert row["reason"] is None
    assert (row["venue"], row["symbol"], row["side"], row["trade_id"]) == ("binance-coinm", "AVAXUSD_PERP", "buy", "7")
    assert row["notional_usd"] == 30.0  # 3 contracts of 10 USD
    assert row["qty"] == 1.5  # 30 USD at 20 USD
    assert row["ts"].isoformat() == "2025-10-10T00:00:00+00:00"
    assert (row["known_at"] - row["ts"]).microseconds == 4000


@pytest.mark.parametrize(
    ("exchange", "symbol", "settlement"),
    [("coinbase", "AVAX-USD", "spot"), ("binance", "TRXUSDT", "spot"), ("binance-futures", "BTCUSDT", "linear")],
)
def test_linear_and_spot_amounts_are_base_units(exchange: str, symbol: str, settlement: str) -> None:
    row = _tardis(_trade(exchange=exchange, symbol=symbol)).row(0, named=True)
    assert (row["reason"], row["settlement"]) == (None, settlement)
    assert (row["qty"], row["notional_usd"]) == (3.0, 60.0)


def test_the_venue_option_wins_over_the_exchange_column() -> None:
    assert _tardis(_trade(exchange="whatever"), venue="binance-coinm").row(0, named=True)["venue"] == "binance-coinm"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"timestamp": "x"}, "unreadable_ts"),
        ({"timestamp": ""}, "unreadable_ts"),
        ({"timestamp": T0 // 1000}, "ts_out_of_range"),  # milliseconds
        ({"local_timestamp": "1.5e15"}, "unreadable_known_at"),
        ({"local_timestamp": T0 * 1000}, "known_at_out_of_range"),  # nanoseconds
        ({"exchange": "No Venue"}, "bad_venue_name; unknown_symbol"),
        ({"symbol": "NOPEUSD_PERP"}, "unknown_symbol"),
        ({"timestamp": 1420070400_000000}, "unknown_symbol"),  # 2015: before the instrument was in force
        ({"id": ""}, "missing_trade_id"),
        ({"side": "unknown"}, "unknown_side"),
        ({"side": "BUY"}, "unknown_side"),
        ({"price": "1_0"}, "unreadable_price"),
        ({"price": ""}, "unreadable_price"),
        ({"price": "0"}, "price_not_positive"),
        ({"price": "-1"}, "price_not_positive"),
        ({"price": "nan"}, "price_not_positive"),
        ({"price": "inf"}, "price_not_positive"),
        ({"price": "1e999"}, "price_not_positive"),
        ({"amount": "abc"}, "unreadable_qty"),
        ({"amount": "0"}, "qty_not_positive"),
        ({"amount": "NaN"}, "qty_not_positive"),
        ({"amount": "-inf"}, "qty_not_positive"),
        ({"side": "", "price": "-1"}, "unknown_side; price_not_positive"),
        ({"amount": "3,4"}, "ragged_line"),
    ],
)
def test_a_bad_trade_is_refused_for_what_is_bad_and_its_neighbour_is_not(
    changes: dict[str, object], reason: str
) -> None:
    rows = _tardis(_trade(), _trade(**changes), _trade(id="8"))
    assert rows["reason"].to_list() == [None, reason, None]
    assert rows["line"].to_list() == [2, 3, 4]


def test_a_capture_stamp_before_the_trade_is_kept_as_it_stands() -> None:
    row = _tardis(_trade(local_timestamp=T0 - 5_000_000)).row(0, named=True)
    assert row["reason"] is None
    assert row["known_at"] < row["ts"]


def test_blanks_and_quotes_around_fields_do_not_matter() -> None:
    row = _tardis(_trade(symbol=' "AVAXUSD_PERP"', price=" 20 ")).row(0, named=True)
    assert (row["symbol"], row["price"], row["reason"]) == ("AVAXUSD_PERP", 20.0, None)


# --- book depth ------------------------------------------------------------------------------------------------------

SOUND = {-5: (30.0, 95.0), -1: (10.0, 99.5), 1: (12.0, 100.5), 5: (40.0, 104.0)}  # percent -> (depth, average price)


def _snapshot(second: int, book: dict[float, tuple[float, float]]) -> list[str]:
    stamp = f"2025-10-10 00:{second // 60:02d}:{second % 60:02d}"
    return [f"{stamp},{share},{depth!r},{depth * average!r}" for share, (depth, average) in book.items()]


def _moved(step: int) -> dict[float, tuple[float, float]]:
    """A sound book whose every figure differs from step to step."""
    return {share: (depth + 0.001 * (step + 1), average) for share, (depth, average) in SOUND.items()}


def _depth(*lines: str, symbol: str = "BTCUSDT") -> pl.DataFrame:
    raw = pl.DataFrame({"line": range(2, 2 + len(lines)), "raw": lines}, schema_overrides={"line": pl.Int64})
    fields = with_fields(raw, BINANCE_ARCHIVE.columns)
    return BINANCE_ARCHIVE.candidates(fields, Origin("f.csv", None, symbol, INSTRUMENTS))


def _judged(*books: dict[float, tuple[float, float]]) -> dict[int, set[str]]:
    """Reasons by number of the snapshot; a refused snapshot must be refused with all its rows."""
    rows = _depth(*(line for nth, book in enumerate(books) for line in _snapshot(30 * nth, book)))
    assert rows["reason"].null_count() == rows.height
    found = BINANCE_ARCHIVE.judge(rows).join(rows.select("line", "ts"), on="line")
    firsts = sorted(rows["ts"].unique().to_list())
    by_snapshot: dict[int, set[str]] = {}
    for ts, group in found.group_by("ts"):
        nth = firsts.index(ts[0])
        assert group.height == len(books[nth])
        by_snapshot[nth] = set(group["reason"].to_list())
    return by_snapshot


@pytest.mark.parametrize(
    ("share", "side", "band_bps"),
    [("-1", "bid", 100), ("-1.00", "bid", 100), ("0.20", "ask", 20), ("5", "ask", 500), ("-0.2", "bid", 20)],
)
def test_a_percentage_is_a_side_and_a_band(share: str, side: str, band_bps: int) -> None:
    row = _depth(f"2025-10-10 00:00:07,{share},2,240000.5").row(0, named=True)
    assert (row["side"], row["band_bps"], row["depth_usd"], row["reason"]) == (side, band_bps, 240000.5, None)
    assert row["known_at"] == row["ts"]
    assert row["venue"] == "binance-usdm"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("2025-10-10,1,2,3", "unreadable_ts"),
        ("2025-10-10 00:00:07,0,2,3", "unreadable_percentage"),
        ("2025-10-10 00:00:07,0.123,2,3", "unreadable_percentage"),
        ("2025-10-10 00:00:07,x,2,3", "unreadable_percentage"),
        ("2025-10-10 00:00:07,1,x,3", "unreadable_depth"),
        ("2025-10-10 00:00:07,1,-2,3", "depth_negative"),
        ("2025-10-10 00:00:07,1,2,", "unreadable_notional"),
        ("2025-10-10 00:00:07,1,2,nan", "notional_negative"),
        ("2025-10-10 00:00:07,1,2", "ragged_line"),
        ("2018-10-10 00:00:07,1,2,3", "unknown_symbol"),
    ],
)
def test_a_bad_depth_row_is_refused_for_what_is_bad(line: str, reason: str) -> None:
    assert _depth(line)["reason"].to_list() == [reason]


def test_sound_snapshots_pass() -> None:
    assert _judged(_moved(0), _moved(1), _moved(2)) == {}


def test_a_snapshot_whose_bids_cost_as_much_as_its_asks_is_crossed() -> None:
    ghost = SOUND | {-1: (10.0, 100.5)}  # bid average equals the ask average: nothing proves it uncrossed
    assert _judged(_moved(0), ghost, _moved(2)) == {1: {"crossed_book"}}


def test_a_side_that_stands_still_to_the_last_digit_is_frozen_until_it_moves() -> None:
    still = _moved(1) | {-1: SOUND[-1], -5: (30.7, 95.0)}  # the bids within 1 % are those of snapshot 0
    assert _judged(SOUND, still, _moved(2)) == {1: {"frozen_book"}}


def test_a_book_is_not_frozen_when_one_near_band_moved_or_only_depth_did_not() -> None:
    near = {-0.2: (1.0, 99.9), 0.2: (1.0, 100.1)}
    assert _judged(SOUND | near, SOUND | near | {-0.2: (1.1, 99.9), 0.2: (1.1, 100.1)}) == {}
    assert _judged(SOUND, SOUND | {-1: (10.0, 99.4), 1: (12.0, 100.4)}) == {}  # same depth, another price


def test_a_book_is_not_frozen_when_the_snapshot_before_lacked_the_band_or_nothing_rests_near() -> None:
    """Equal figures two snapshots apart prove nothing, and neither does an empty band that stays empty."""
    wide = {share: level for share, level in _moved(1).items() if share != -1} | {-2: (15.0, 98.0)}
    assert _judged(SOUND, wide, _moved(2) | {-1: SOUND[-1]}) == {}
    empty = {-1: (0.0, 99.5)}
    assert _judged(_moved(0) | empty, _moved(1) | empty) == {}


def test_depth_that_falls_with_a_wider_band_is_refused() -> None:
    assert _judged(_moved(0), SOUND | {5: (11.9, 104.0)}) == {1: {"non_monotone_depth"}}


def test_a_book_without_a_side_is_refused_because_nothing_proves_it_uncrossed() -> None:
    bids = {share: level for share, level in SOUND.items() if share < 0}
    assert _judged(_moved(0), bids) == {1: {"one_sided_book"}}
    assert _judged(_moved(0), SOUND | {1: (0.0, 1.0), 5: (0.0, 1.0)}) == {1: {"one_sided_book"}}


def test_an_inverse_book_in_the_wrong_units_comes_out_crossed() -> None:
    """Depth in contracts of 10 USD and notional in coins is taken; notional in dollars would be off by the price."""
    inverse = INSTRUMENTS.filter(pl.col("symbol") == "AVAXUSD_PERP")["contract_size"].item()
    right = [
        f"2025-10-10 00:00:00,{share},{contracts},{contracts * inverse / average!r}"
        for share, (contracts, average) in SOUND.items()
    ]
    rows = _depth(*right, symbol="AVAXUSD_PERP")
    assert rows["venue"].unique().to_list() == ["binance-coinm"]
    assert rows["depth_usd"].to_list() == [300.0, 100.0, 120.0, 400.0]
    assert BINANCE_ARCHIVE.judge(rows).is_empty()
    wrong = _depth(*_snapshot(0, SOUND), symbol="AVAXUSD_PERP")
    assert set(BINANCE_ARCHIVE.judge(wrong)["reason"]) == {"crossed_book"}


def test_the_symbol_of_a_depth_file_stands_in_its_name() -> None:
    assert BINANCE_ARCHIVE.symbol_of("BTCUSD_PERP-bookDepth-2025-10-10.zip") == "BTCUSD_PERP"
    with pytest.raises(InputError, match="does not tell the symbol"):
        BINANCE_ARCHIVE.symbol_of("depth.csv")


# --- text files ------------------------------------------------------------------------------------------------------


def _plain(path: Path, text: bytes) -> None:
    path.write_bytes(text)


def _gzip(path: Path, text: bytes) -> None:
    path.write_bytes(gzip.compress(text))


def _zip(path: Path, text: bytes) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inner.csv", text)


@pytest.mark.parametrize("write", [_plain, _gzip, _zip])
@pytest.mark.parametrize("piece_bytes", [1, 3, 1 << 20])
def test_lines_keep_their_numbers_however_the_file_is_packed_and_cut(
    tmp_path: Path, write: Callable[[Path, bytes], None], piece_bytes: int
) -> None:
    path = tmp_path / "a.bin"
    write(path, b'\xef\xbb\xbfa,b\r\n\r\n"x,\xc3\xa9\n \nlast')
    lines = pl.concat(list(numbered_lines(path, piece_bytes)))
    assert lines.rows() == [(1, "a,b"), (3, '"x,é'), (5, "last")]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda data: data[: len(data) // 2], "truncated or corrupt"),
        (lambda data: data[:-4], "truncated or corrupt"),
        (lambda data: data[:40] + bytes([data[40] ^ 255]) + data[41:], "truncated or corrupt"),
        (lambda data: data + b"rubbish", "truncated or corrupt"),
        (lambda data: b"\x00" * 100, "not text"),
        (lambda data: b"\xff\xfe" + data, "not (UTF-8 )?text"),
        (lambda data: b"x" * (1 << 21), "a line is longer"),
    ],
)
def test_a_file_that_cannot_be_read_to_its_end_is_an_input_error(
    tmp_path: Path, spoil: Callable[[bytes], bytes], said: str
) -> None:
    path = tmp_path / "a.csv.gz"
    path.write_bytes(spoil(gzip.compress("\n".join(str(i * i) for i in range(5000)).encode())))
    with pytest.raises(InputError, match=said) as error:
        list(numbered_lines(path))
    assert str(path) in str(error.value)


def test_a_truncated_or_crowded_zip_is_an_input_error(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    _zip(path, b"a,b\n" * 1000)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(InputError, match="truncated or corrupt"):
        list(numbered_lines(path))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("one.csv", "a")
        archive.writestr("two.csv", "b")
    with pytest.raises(InputError, match="must hold one file, this holds 2"):
        list(numbered_lines(path))


def test_every_adapter_has_its_card_and_the_card_names_its_columns() -> None:
    cards = README.read_text().split("\n## ")
    for adapter in ADAPTERS:
        (card,) = [card for card in cards if card.startswith(f"`{adapter.name}`")]
        assert all(column in card for column in (*adapter.columns, *adapter.columns_optional))


def test_an_unknown_adapter_is_answered_with_the_known_ones() -> None:
    with pytest.raises(InputError, match="tardis, binance-archive"):
        adapter_named("kaiko")
