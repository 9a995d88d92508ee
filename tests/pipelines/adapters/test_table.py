"""Mapped tables: what every part of the mapping language does, every fault of a mapping, nothing lost, real folders."""

import gzip
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from features.schema import CANONICAL, polars_schema
from pipelines.adapters.adapter import SILENT, Adapter, Kind, Origin
from pipelines.adapters.rows import fields, pieces
from pipelines.adapters.table import table_adapter
from pipelines.config import Config
from pipelines.errors import InputError
from pipelines.instruments import load_instruments, parse_instruments
from pipelines.mapping import shipped_mappings

INSTRUMENTS = """
[defaults]
venue = "v"
effective_from = 2020-01-01T00:00:00Z
[[instrument]]
symbol = "{base}USDT"
quote = "USDT"
settlement = "linear"
contract_size = 0.01
[[instrument]]
symbol = "{base}USD_PERP"
quote = "USD"
settlement = "inverse"
contract_size = 100.0
"""
BOOK = parse_instruments([("test.toml", INSTRUMENTS)])
REAL = Path(__file__).parents[4] / "shared" / "data"
T0 = datetime(2025, 10, 10, tzinfo=UTC)
T0_S = round(T0.timestamp())
real_data = pytest.mark.real_data


def _tables(
    adapter: Adapter, path: Path, venue: str | None = None, symbol: str | None = None
) -> dict[str, pl.DataFrame]:
    kind = _kind(adapter, path)
    found: dict[str, list[pl.DataFrame]] = {}
    for batch in kind.convert(pieces(path, kind.layout), Origin(path.name, venue, BOOK, symbol)):
        for table, rows in batch.items():
            found.setdefault(table, []).append(rows)
    return {table: pl.concat(frames) for table, frames in found.items()}


def _kind(adapter: Adapter, path: Path) -> Kind:
    for kind in adapter.kinds:
        try:
            if kind.recognises(path.name, fields(path, kind.layout)):
                return kind
        except InputError:
            continue
    raise AssertionError(f"no kind recognises {path.name}")


def _csv(folder: Path, *lines: str, name: str = "x.csv") -> Path:
    path = folder / name
    text = "\n".join(lines).encode()
    path.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    return path


def _one(mapping: str, path: Path, table: str, **named: Any) -> dict[str, Any]:
    """The only candidate row of a file."""
    rows = _tables(table_adapter(mapping), path, **named)[table]
    assert rows.height == 1
    return rows.row(0, named=True)


HEAD = '[[table]]\nfiles = "*.csv"\nts = { column = "t", unit = "s" }\n'
NAMED = 'values.venue = { constant = "v" }\nvalues.symbol = { constant = "BTCUSDT" }\n'
INVERSE = 'values.venue = { constant = "v" }\nvalues.symbol = { constant = "BTCUSD_PERP" }\n'
MARKS = HEAD + 'table = "marks"\n' + NAMED + 'values.mark = "mark"\n'
TRADES = 'table = "trades"\nvalues.trade_id = "id"\nvalues.side = "side"\nvalues.price = "price"\n'
FUNDING = HEAD + 'table = "funding"\n' + NAMED + 'values.rate = "rate"\n'


# --- names, constants, templates, maps, scales -----------------------------------------------------------------------


def test_a_column_a_constant_and_a_template_fill_a_row_and_known_at_is_ts(tmp_path: Path) -> None:
    mapping = """
        [[table]]
        table = "marks"
        files = "{coin}_marks*.csv.gz"
        ts = { column = "T", unit = "s" }
        values = { venue = { constant = "v" }, symbol = { template = "{coin}{Quote}" }, mark = "Mark Price" }
    """
    path = _csv(tmp_path, "T,Mark Price,Quote", f"{T0_S},20.5,USDT", f"{T0_S},20.5,", name="BTC_marks_2025.csv.gz")
    good, bad = _tables(table_adapter(mapping), path)["marks"].rows(named=True)
    assert (good["venue"], good["symbol"], good["mark"], good["reason"]) == ("v", "BTCUSDT", 20.5, None)
    assert good["ts"] == good["known_at"] == T0
    assert (good["line"], good["index"], good["last"]) == (2, None, None)
    assert bad["reason"] == "unknown_symbol; missing_symbol"  # an empty word makes no symbol


def test_a_value_map_translates_and_refuses_what_it_does_not_know(tmp_path: Path) -> None:
    values = 'table = "liquidations"\nvalues.path = { constant = "market" }\nvalues.notional_usd = "usd"\n'
    mapping = (
        HEAD + values + NAMED + 'values.position_side = { column = "s", map = { SELL = "long", BUY = "short" } }\n'
    )
    lines = [f"{T0_S},{side},30" for side in ("SELL", "BUY", "HOLD", "")]
    rows = _tables(table_adapter(mapping), _csv(tmp_path, "t,s,usd", *lines))["liquidations"]
    assert rows["position_side"].to_list() == ["long", "short", None, None]
    assert rows["reason"].to_list() == [None, None, "unmapped_position_side", "missing_position_side"]
    assert rows["qty"].null_count() == rows["price"].null_count() == 4  # dollars only


@pytest.mark.parametrize(("text", "rate"), [("0.3", 0.003), ("-0.102", -0.00102), ("1", 0.01), ("4.5e-1", 0.0045)])
def test_a_percentage_is_scaled_to_a_rate(tmp_path: Path, text: str, rate: float) -> None:
    mapping = (
        FUNDING.replace('"rate"\n', '{ column = "rate", scale = 0.01 }\n') + "values.interval_h = { constant = 8 }\n"
    )
    row = _one(mapping, _csv(tmp_path, "t,rate", f"{T0_S},{text}"), "funding")
    assert row["rate"] == pytest.approx(rate, rel=1e-15)
    assert (row["interval_h"], row["reason"]) == (8.0, None)


def test_the_interval_is_the_gap_within_each_market_also_across_pieces(tmp_path: Path) -> None:
    mapping = FUNDING.replace(NAMED, 'values.venue = { constant = "v" }\nvalues.symbol = { template = "{coin}USDT" }\n')
    hours = {"A": (0, 8, 16), "B": (0, 4, 8)}
    lines = [f"{T0_S + 3600 * hour},{coin},0.1" for coin, stamps in hours.items() for hour in stamps]
    path = _csv(tmp_path, "t,coin,rate", *lines)
    adapter = table_adapter(mapping + "values.interval_h = { gap = true }\n")
    assert _tables(adapter, path)["funding"]["interval_h"].to_list() == [8.0, 8.0, 8.0, 4.0, 4.0, 4.0]
    kind = adapter.kinds[0]
    whole = pl.concat(pieces(path, kind.layout))
    cut = kind.convert(iter([whole[:2], whole[2:5], whole[5:]]), Origin("x.csv", None, BOOK))
    found = pl.concat(batch["funding"] for batch in cut)
    assert found["interval_h"].to_list() == [8.0, 8.0, 8.0, 4.0, 4.0, 4.0]


def test_the_venues_own_symbol_is_found_from_the_base(tmp_path: Path) -> None:
    mapping = MARKS.replace('{ constant = "BTCUSDT" }', '{ base = "coin", quotes = ["USD"], settlement = "inverse" }')
    rows = _tables(table_adapter(mapping), _csv(tmp_path, "t,coin,mark", f"{T0_S},ETH,1", f"{T0_S},,1"))["marks"]
    assert rows["symbol"].to_list() == ["ETHUSD_PERP", None]
    assert rows["reason"].to_list() == [None, "unknown_symbol; missing_symbol"]
    first = _one(
        MARKS.replace('{ constant = "BTCUSDT" }', '{ base = "c" }'), _csv(tmp_path, "t,c,mark", f"{T0_S},A,1"), "marks"
    )
    assert first["symbol"] == "AUSDT"  # USDT is asked for before USD


def test_venue_and_symbol_can_come_from_the_command_line(tmp_path: Path) -> None:
    path = _csv(tmp_path, "t,mark", f"{T0_S},1")
    bare = MARKS.replace(NAMED, "")
    row = _one(bare, path, "marks", venue="v", symbol="ETHUSDT")
    assert (row["venue"], row["symbol"], row["reason"]) == ("v", "ETHUSDT", None)
    with pytest.raises(InputError, match="neither file nor mapping tell the venue"):
        _one(bare, path, "marks", symbol="ETHUSDT")
    with pytest.raises(InputError, match="neither file nor mapping tell the symbol"):
        _one(bare, path, "marks", venue="v")
    assert _one(MARKS, path, "marks", symbol="ETHUSDT")["symbol"] == "ETHUSDT"  # a constant gives way
    read = MARKS.replace('{ constant = "v" }', '"venue"')
    with pytest.raises(InputError, match="the mapping reads the venue from the file"):
        _one(read, _csv(tmp_path, "t,mark,venue", f"{T0_S},1,v"), "marks", venue="w")


# --- time ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stamp", "text", "moment"),
    [
        ('unit = "s"', f"{T0_S}", T0),
        ('unit = "s"', f"{T0_S}.25", T0 + timedelta(milliseconds=250)),
        ('unit = "ms"', f"{T0_S}004", T0 + timedelta(milliseconds=4)),
        ('unit = "us"', f"{T0_S}000004", T0 + timedelta(microseconds=4)),
        ('unit = "ns"', f"{T0_S}000004999", T0 + timedelta(microseconds=4)),
        ('format = "%Y-%m-%d %H:%M:%S%.f%z"', "2025-10-10 05:30:00.25+05:30", T0 + timedelta(milliseconds=250)),
        ('format = "%Y-%m-%d %H:%M:%S%.f%z"', "2025-10-10 05:30:00+05:30", T0),
        ('format = "%d.%m.%Y %H:%M", zone = "Europe/Berlin"', "10.10.2025 02:00", T0),  # summer time, UTC+2
        ('format = "%d.%m.%Y %H:%M", zone = "UTC"', "10.10.2025 00:00", T0),
        ('unit = "s", shift_s = 300', f"{T0_S}", T0 + timedelta(minutes=5)),
        ('unit = "s", shift_s = -0.5', f"{T0_S}", T0 - timedelta(milliseconds=500)),
    ],
)
def test_a_stamp_is_read_by_its_unit_format_and_zone(tmp_path: Path, stamp: str, text: str, moment: datetime) -> None:
    mapping = MARKS.replace('unit = "s"', stamp)
    row = _one(mapping, _csv(tmp_path, "t,mark", f"{text},1"), "marks")
    assert (row["ts"], row["known_at"], row["reason"]) == (moment, moment, None)


@pytest.mark.parametrize(
    ("stamp", "text", "reason"),
    [
        ('unit = "s"', "", "unreadable_ts"),
        ('unit = "s"', "nan", "unreadable_ts"),
        ('unit = "s"', f"{T0_S}000", "ts_out_of_range"),  # milliseconds
        ('unit = "ms"', f"{2**63 - 1}", "ts_out_of_range"),  # must not wrap round into a plausible one
        ('unit = "ns"', "-1", "ts_out_of_range"),
        ('unit = "s"', "1e300", "ts_out_of_range"),
        ('format = "%Y-%m-%d", zone = "UTC"', "2025-02-30", "unreadable_ts"),
        (
            'format = "%d.%m.%Y %H:%M", zone = "Europe/Berlin"',
            "26.10.2025 02:30",
            "ts_out_of_range",
        ),  # twice that night
        ('format = "%Y-%m-%d", zone = "UTC"', "1999-01-01", "ts_out_of_range"),
    ],
)
def test_a_stamp_that_says_no_moment_is_refused(tmp_path: Path, stamp: str, text: str, reason: str) -> None:
    mapping = MARKS.replace('unit = "s"', stamp)
    assert _one(mapping, _csv(tmp_path, "t,mark", f"{text},1"), "marks")["reason"] == reason


def test_known_at_is_a_column_of_its_own_or_a_delay(tmp_path: Path) -> None:
    path = _csv(tmp_path, "t,mark,seen", f"{T0_S},1,{T0_S}007")
    seen = MARKS.replace('table = "marks"', 'table = "marks"\nknown_at = { column = "seen", unit = "ms" }')
    assert _one(seen, path, "marks")["known_at"] == T0 + timedelta(milliseconds=7)
    later = MARKS.replace('table = "marks"', 'table = "marks"\nknown_at = { plus_s = 60 }')
    assert _one(later, path, "marks")["known_at"] == T0 + timedelta(minutes=1)
    broken = _one(seen, _csv(tmp_path, "t,mark,seen", f"{T0_S},1,x"), "marks")
    assert broken["reason"] == "unreadable_known_at"


COLUMNAR = '[[table]]\ntable = "marks"\nfiles = "*.parquet"\nts = { column = "T" }\n' + NAMED + 'values.mark = "M"\n'


def test_date_time_columns_keep_their_zone_and_naive_ones_must_be_given_one(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    zoned = pl.DataFrame({"T": [T0], "M": [7]}).with_columns(pl.col("T").dt.convert_time_zone("Asia/Kolkata"))
    zoned.write_parquet(path)
    assert (_one(COLUMNAR, path, "marks")["ts"], _one(COLUMNAR, path, "marks")["mark"]) == (T0, 7.0)
    zoned.with_columns(pl.col("T").dt.replace_time_zone(None)).write_parquet(path)
    with pytest.raises(InputError, match="stamps of column T have no zone"):
        _one(COLUMNAR, path, "marks")
    given = COLUMNAR.replace('column = "T"', 'column = "T", zone = "Asia/Kolkata"')
    assert _one(given, path, "marks")["ts"] == T0


# --- sizes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("market", "unit", "values", "cells", "qty", "usd"),
    [
        # linear, contract 0.01; price 20: 300 contracts = 3 base = 60 USD
        (NAMED, "", 'values.qty = "q"', "3", 3.0, 60.0),
        (NAMED, 'qty_unit = "contracts"', 'values.qty = "q"', "300", 3.0, 60.0),
        (NAMED, 'qty_unit = "usd"', 'values.qty = "q"', "60", 3.0, 60.0),
        (NAMED, "", 'values.notional_usd = "q"', "60", 3.0, 60.0),
        # inverse, contract 100 USD; price 20: 3 contracts = 300 USD = 15 base
        (INVERSE, 'qty_unit = "contracts"', 'values.qty = "q"', "3", 15.0, 300.0),
        (INVERSE, 'qty_unit = "base"', 'values.qty = "q"', "15", 15.0, 300.0),
    ],
)
def test_sizes_and_dollars_follow_from_each_other(
    tmp_path: Path, *, market: str, unit: str, values: str, cells: str, qty: float, usd: float
) -> None:
    mapping = f"{HEAD}{unit}\n{TRADES}{market}{values}\n"
    row = _one(mapping, _csv(tmp_path, "t,id,side,price,q", f"{T0_S},7,buy,20,{cells}"), "trades")
    assert (row["qty"], row["notional_usd"], row["reason"]) == (qty, usd, None)


def test_both_given_stand_as_they_are(tmp_path: Path) -> None:
    """What a source says is stored, also where it does not add up: that is for the doctor."""
    mapping = HEAD + TRADES + NAMED + 'values.qty = "q"\nvalues.notional_usd = "usd"\n'
    row = _one(mapping, _csv(tmp_path, "t,id,side,price,q,usd", f"{T0_S},7,buy,20,3,9"), "trades")
    assert (row["qty"], row["notional_usd"]) == (3.0, 9.0)


OI = HEAD + 'table = "open_interest"\n'
CONTRACTS = 'qty_unit = "contracts"\n'


@pytest.mark.parametrize(
    ("values", "line", "base", "usd", "reason"),
    [
        (NAMED + 'values.oi_usd = "u"', "5,2,60", None, 60.0, None),
        (NAMED + 'values.oi_base = "o"\nvalues.price = "p"', "5,2,60", 5.0, 10.0, None),
        (NAMED + 'values.oi_usd = "u"\nvalues.price = "p"', "5,2,60", 30.0, 60.0, None),
        (NAMED + 'values.oi_base = "o"', "5,2,60", 5.0, None, "missing_oi_usd"),  # no price, no dollars
        (NAMED + 'values.oi_base = "o"\nvalues.price = "p"', "5,0,60", 5.0, None, "missing_oi_usd"),
        (CONTRACTS + INVERSE + 'values.oi_base = "o"', "5,2,60", None, 500.0, None),  # 5 contracts of 100 USD
        (CONTRACTS + INVERSE + 'values.oi_base = "o"\nvalues.price = "p"', "5,2,60", 250.0, 500.0, None),
        (CONTRACTS + INVERSE + 'values.oi_base = "o"', "x,2,60", None, None, "unreadable_oi_base; missing_oi_usd"),
    ],
)
def test_open_interest_in_any_unit(
    tmp_path: Path, *, values: str, line: str, base: float | None, usd: float | None, reason: str | None
) -> None:
    row = _one(OI + values, _csv(tmp_path, "t,o,p,u", f"{T0_S},{line}"), "open_interest")
    assert (row["oi_base"], row["oi_usd"], row["reason"]) == (base, usd, reason)


# --- rows that are refused -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("7,buy,20,3", None),
        (",buy,20,3", "missing_trade_id"),
        ("7,BUY,20,3", "unknown_side"),
        ("7,,20,3", "missing_side"),
        ("7,buy,x,3", "unreadable_price; missing_notional_usd"),
        ("7,buy,inf,3", "unreadable_price; missing_notional_usd"),
        ("7,buy,1e999,3", "unreadable_price; missing_notional_usd"),
        ("7,buy,-1,3", "price_not_positive; missing_notional_usd"),
        ("7,buy,20,0", "qty_not_positive; notional_usd_not_positive"),
        ("7,buy,20,", "missing_qty; missing_notional_usd"),
        ("7,buy,1e200,1e200", "missing_notional_usd"),  # the product overflows
        ("7,buy,20,3,4", "ragged_line"),
        ("7,buy,20", "ragged_line"),
    ],
)
def test_a_bad_row_is_refused_for_what_is_bad_and_its_neighbours_are_not(
    tmp_path: Path, line: str, reason: str | None
) -> None:
    mapping = HEAD + TRADES + NAMED + 'values.qty = "q"\n'
    good = f"{T0_S},7,buy,20,3"
    path = _csv(tmp_path, "t,id,side,price,q", good, f"{T0_S},{line}", good)
    assert _tables(table_adapter(mapping), path)["trades"]["reason"].to_list() == [None, reason, None]


@pytest.mark.parametrize(
    ("mapping", "cells", "reason"),
    [
        (MARKS.replace('"BTCUSDT"', '"NOPE"'), "1", "unknown_symbol"),
        (MARKS.replace('constant = "v"', 'constant = "V v"'), "1", "unknown_symbol; bad_venue_name"),
        (FUNDING + "values.interval_h = { gap = true }\n", "1", "unknown_interval"),
        (FUNDING + "values.interval_h = { constant = 8 }\n", "x", "unreadable_rate"),
        (FUNDING + "values.interval_h = { constant = 8 }\n", "", "missing_rate"),
    ],
)
def test_what_the_mapping_cannot_place_is_refused(tmp_path: Path, mapping: str, cells: str, reason: str) -> None:
    column, table = ("mark", "marks") if "marks" in mapping else ("rate", "funding")
    row = _one(mapping, _csv(tmp_path, f"t,{column}", f"{T0_S},{cells}"), table)
    words = [word for word in str(row["reason"]).split("; ") if not word.startswith("missing_interval")]
    assert "; ".join(words) == reason


# --- lines that speak for several tables, or for none ----------------------------------------------------------------

TICKER = (
    MARKS
    + HEAD
    + 'table = "funding"\n'
    + NAMED
    + 'values.rate = "rate"\nvalues.interval_h = { constant = 8 }\n'
    + HEAD
    + 'table = "open_interest"\nwhere = { kind = ["oi", "all"] }\n'
    + NAMED
    + 'values.oi_usd = "oi"\n'
)


def test_a_line_speaks_for_every_table_whose_cells_are_not_empty(tmp_path: Path) -> None:
    lines = [f"{T0_S},{cells}" for cells in ("1,2,3,all", "1,,,x", ",0.5,,x", ",,3,oi", ",,3,x", ",,,x", "1,2")]
    found = _tables(table_adapter(TICKER), _csv(tmp_path, "t,mark,rate,oi,kind", *lines))
    assert found["marks"]["line"].to_list() == [2, 3, 8]
    assert found["marks"]["reason"].to_list() == [None, None, "ragged_line"]  # a broken line is said once
    assert found["funding"]["line"].to_list() == [2, 4]
    assert found["open_interest"]["line"].to_list() == [2, 5]
    assert found[SILENT].select("line", "reason").rows() == [(6, "empty"), (7, "empty")]


def test_lines_that_where_leaves_out_are_silent_and_counted(tmp_path: Path) -> None:
    mapping = MARKS.replace('table = "marks"', 'table = "marks"\nwhere = { kind = "m" }')
    path = _csv(tmp_path, "t,mark,kind", f"{T0_S},1,m", f"{T0_S},1,x", f"{T0_S},1,", f"{T0_S},1")
    found = _tables(table_adapter(mapping), path)
    assert found[SILENT].select("line", "reason").rows() == [(3, "not_selected"), (4, "not_selected")]
    assert found["marks"].select("line", "reason").rows() == [(2, None), (5, "ragged_line")]


def test_a_wide_line_gives_several_rows_of_one_table_told_apart_by_their_item(tmp_path: Path) -> None:
    sides = [
        HEAD
        + f'table = "book_depth"\n{NAMED}values.side = {{ constant = "{side}" }}\n'
        + f'values.band_bps = {{ constant = 100 }}\nvalues.depth_usd = "{side}_100"\n'
        for side in ("bid", "ask")
    ]
    path = _csv(tmp_path, "t,bid_100,ask_100", f"{T0_S},5,6")
    rows = _tables(table_adapter("".join(sides)), path)["book_depth"]
    assert rows.select("line", "item", "side", "depth_usd").rows() == [(2, 0, "bid", 5.0), (2, 1, "ask", 6.0)]


# --- files -----------------------------------------------------------------------------------------------------------


def test_columns_by_place_read_a_file_without_a_header(tmp_path: Path) -> None:
    mapping = MARKS.replace(
        'table = "marks"', 'table = "marks"\nheader = false\nseparator = ";"\ncolumns = ["t", "mark"]'
    )
    row = _one(mapping, _csv(tmp_path, f"{T0_S};20.5"), "marks")
    assert (row["mark"], row["line"], row["reason"]) == (20.5, 1, None)


def test_columns_by_place_tell_names_apart_that_differ_in_case_and_the_header_is_silent(tmp_path: Path) -> None:
    mapping = MARKS.replace('table = "marks"', 'table = "marks"\ncolumns = ["t", "s", "S"]').replace(
        '"mark"\n', '"S"\n'
    )
    found = _tables(table_adapter(mapping), _csv(tmp_path, "t,s,S", f"{T0_S},1,2"))
    assert found["marks"].select("line", "mark").rows() == [(2, 2.0)]
    assert found[SILENT].rows() == [(1, 0, "header")]
    kind = table_adapter(mapping).kinds[0]
    assert not kind.recognises("x.csv", ("t", "s", "q"))
    assert not kind.recognises("x.txt", ("t", "s", "s"))


def test_a_file_whose_name_the_mapping_does_not_know_is_not_read(tmp_path: Path) -> None:
    adapter = table_adapter(MARKS.replace("*.csv", "{coin}_a?.csv"))
    kind = adapter.kinds[0]
    assert kind.recognises("BTC_ab.csv", ("t", "mark", "more"))
    assert not kind.recognises("BTC_abc.csv", ("t", "mark"))
    assert not kind.recognises("BTC_ab.csv", ("t",))
    with pytest.raises(InputError, match="file name does not fit the mapping"):
        list(kind.convert(iter([]), Origin("x.csv", None, BOOK)))


def test_tables_without_a_sequence_number_ask_for_one_from_the_content() -> None:
    values = 'table = "liquidations"\nvalues.path = "p"\nvalues.position_side = "s"\nvalues.notional_usd = "u"\n'
    assert table_adapter(HEAD + NAMED + values).kinds[0].content_seq == ("liquidations",)
    assert table_adapter(HEAD + NAMED + values + 'values.seq = "n"\n').kinds[0].content_seq == ()


def test_kinds_are_called_by_name_or_by_their_tables() -> None:
    assert [kind.name for kind in table_adapter(TICKER).kinds] == ["marks+funding+open_interest"]
    assert [kind.name for kind in table_adapter("binance-coin-csv").kinds] == ["open-interest", "funding"]
    assert table_adapter(TICKER).kinds[0].tables == ("marks", "funding", "open_interest")


# --- faults of a mapping ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mapping", "said"),
    [
        ("x = [\n", "mapping is not TOML"),
        ("x = 1\n", "holds only `description` and"),
        ("description = 'x'\n", r"holds no \[\[table\]\] section"),
        ('[[table]]\ntable = "nope"\n', "`table`: Input should be"),
        (MARKS + "values.nope = 'x'\n", "`values.nope` is no value of marks"),
        (MARKS + "values.ts = 'x'\n", "`values.ts` is no value of marks"),
        (MARKS.replace("files", "file"), "`file` is not a setting of a table"),
        (MARKS.replace('unit = "s"', 'unit = "h"'), "`ts.unit`"),
        (MARKS.replace(', unit = "s"', ""), "needs `unit` or `format`"),
        (MARKS.replace('unit = "s"', 'unit = "s", format = "%Y"'), "give one of them"),
        (MARKS.replace('unit = "s"', 'format = "%Y"'), "`zone` is needed"),
        (MARKS.replace('unit = "s"', 'format = "%Y%z", zone = "UTC"'), "`zone` is needed"),
        (MARKS.replace('unit = "s"', 'unit = "s", zone = "Mars/Olympus"'), "is no time zone"),
        (MARKS + "values.index = {}\n", "give one of `column`"),
        (MARKS + 'values.index = { column = "a", constant = 1 }\n', "give one of `column`"),
        (MARKS + 'values.index = { constant = "a" }\n', "`constant` must be Float64, was 'a'"),
        (MARKS + 'values.index = { column = "a", map = { a = "b" } }\n', "make text"),
        (MARKS + 'values.index = { base = "a" }\n', "`base` is for the symbol"),
        (MARKS + "values.index = { gap = true }\n", "`gap` is for `interval_h`"),
        (MARKS.replace('{ constant = "v" }', '{ column = "v", scale = 2 }'), "`scale` is for numbers"),
        (FUNDING, "must hold interval_h"),
        (HEAD + TRADES + NAMED, "must hold qty or notional_usd"),
        (HEAD + 'qty_unit = "usd"\n' + TRADES + NAMED + 'values.qty = "q"\nvalues.notional_usd = "u"\n', "alone"),
        (MARKS.replace('table = "marks"', 'table = "marks"\nqty_unit = "usd"'), "`qty_unit` needs a size"),
        (MARKS.replace('table = "marks"', 'table = "marks"\nheader = false'), "`columns` must name the columns"),
        (MARKS.replace('table = "marks"', 'table = "marks"\ncolumns = ["t"]'), "`columns` must name mark"),
        (MARKS.replace('table = "marks"', 'table = "marks"\ncolumns = ["t", "mark", "t"]'), "stands twice"),
        (MARKS.replace("*.csv", "{a}{a}.csv"), "a word may stand once"),
        (
            MARKS.replace("*.csv", "*.parquet").replace('table = "marks"', 'table = "marks"\nheader = false'),
            "text files",
        ),
        (MARKS + MARKS.replace('table = "marks"', 'table = "marks"\nseparator = ";"'), "the sections differ"),
        (MARKS + MARKS.replace("*.csv", "*.txt"), "two kinds of files are called marks"),
    ],
)
def test_a_fault_in_a_mapping_is_named(mapping: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        table_adapter(mapping)


def test_all_faults_are_listed_at_once_in_one_line() -> None:
    mapping = FUNDING + "values.nope = 'x'\n" + MARKS.replace('unit = "s"', 'unit = "h"')
    with pytest.raises(InputError) as caught:
        table_adapter(mapping)
    text = str(caught.value)
    assert text.startswith("3 faults in mapping: ")
    assert all(word in text for word in ("interval_h", "values.nope", "table 2: `ts.unit`"))
    assert "\n" not in text


def test_an_unknown_mapping_names_the_shipped_ones(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="binance-coin-csv, binance-merged-liquidations, hyperliquid-hourly"):
        table_adapter("nope")
    path = tmp_path / "own.toml"
    path.write_text(MARKS)
    assert table_adapter(path).kinds[0].name == "marks"


@pytest.mark.parametrize("name", sorted(shipped_mappings()))
def test_every_shipped_mapping_is_sound(name: str) -> None:
    assert table_adapter(name).kinds


# --- nothing is lost, whatever the file holds ------------------------------------------------------------------------

CELL = st.one_of(
    st.sampled_from([str(T0_S), "1e999", "nan", "-0", "", "inf", "9" * 30, "all", "oi", "0.5"]),
    st.text(st.characters(blacklist_characters="\n\r\0", blacklist_categories=("Cs",)), max_size=8),
)


@given(st.lists(st.lists(CELL, min_size=1, max_size=6), max_size=12))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_line_comes_out_and_no_accepted_row_breaks_the_schema(
    tmp_path: Path, rows: Sequence[Sequence[str]]
) -> None:
    path = _csv(tmp_path, "t,mark,rate,oi,kind", *(",".join(cells) for cells in rows))
    adapter = table_adapter(TICKER)
    kind = adapter.kinds[0]
    read = pl.concat(list(pieces(path, kind.layout)))["line"].to_list()
    found = _tables(adapter, path)
    assert sorted(set(pl.concat([rows["line"] for rows in found.values()]))) == sorted(read)
    _assert_sound(found)


def _assert_sound(found: Mapping[str, pl.DataFrame]) -> None:
    """What is not refused passes the canonical schema, but for keys that stand twice."""
    for table, rows in found.items():
        if table == SILENT:
            continue
        accepted = rows.filter(pl.col("reason").is_null()).select(polars_schema(CANONICAL[table]).names())
        keyed = accepted.unique(CANONICAL[table].primary_key())
        _, failed = CANONICAL[table].filter(keyed)
        counts = {rule: count for rule, count in failed.counts().items() if rule not in ("rate|min", "rate|max")}
        assert not counts


PLAIN = (pl.String, pl.Float32, pl.Int64, pl.UInt64, pl.Boolean, pl.Categorical, pl.Null, pl.Decimal(10, 2))
OTHER = (pl.Date, pl.Time, pl.Datetime("ns", "UTC"), pl.Binary, pl.List(pl.Int8), pl.Struct({"a": pl.Int8}))
DTYPES = st.sampled_from([*PLAIN, *OTHER])


@given(st.lists(DTYPES, min_size=5, max_size=5), st.integers(-(2**63), 2**63 - 1))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_the_types_of_a_columnar_file_every_row_comes_out(
    tmp_path: Path, types: list[Any], stamp: int
) -> None:
    names = ("t", "mark", "rate", "oi", "kind")
    columns = [pl.Series(name, [None, None], dtype=dtype) for name, dtype in zip(names, types, strict=True)]
    moments = pl.Series("t", [stamp, T0_S * 1000]).cast(pl.Datetime("ms", "UTC"))
    adapter = table_adapter(TICKER.replace("*.csv", "*.parquet").replace('unit = "s"', 'unit = "s", zone = "UTC"'))
    path = tmp_path / "x.parquet"
    for first in (columns[0], moments):
        pl.DataFrame([first, *columns[1:]]).write_parquet(path)
        found = _tables(adapter, path)
        assert sorted(set(pl.concat([rows["line"] for rows in found.values()]))) == [1, 2]
        _assert_sound(found)


# --- real folders ----------------------------------------------------------------------------------------------------


def _real(folder: str, mapping: str) -> dict[str, pl.DataFrame]:
    if not (REAL / folder).is_dir():
        pytest.skip(f"{REAL / folder} is absent")
    adapter, book = table_adapter(mapping), load_instruments(Config())
    found: dict[str, list[pl.DataFrame]] = {}
    for path in sorted((REAL / folder).iterdir()):
        if path.name == "liquidations.parquet":
            continue  # no mapping: it does not say whose position was closed
        kind = _kind(adapter, path)
        for batch in kind.convert(pieces(path, kind.layout), Origin(path.name, None, book)):
            for table, rows in batch.items():
                found.setdefault(table, []).append(rows)
    return {table: pl.concat(frames) for table, frames in found.items()}


def _counts(found: Mapping[str, pl.DataFrame]) -> dict[str, tuple[int, int]]:
    """Table -> rows read, rows refused."""
    return {
        name: (rows.height, rows.height - rows["reason"].null_count()) for name, rows in found.items() if name != SILENT
    }


@real_data
def test_binance_open_interest_and_funding_are_read_whole() -> None:
    """BTC, second line: 1764547500000,89832.175,8064963864.475081; the stamp is 2025-12-01 00:05 UTC."""
    found = _real("hlreaper-binance-oi-5m", "binance-coin-csv")
    assert _counts(found) == {"funding": (1728, 0), "open_interest": (145_145, 0)}
    first = found["open_interest"].filter(pl.col("symbol") == "BTCUSDT").row(0, named=True)
    assert (first["ts"], first["oi_base"]) == (datetime(2025, 12, 1, 0, 5, tzinfo=UTC), 89832.175)
    assert first["oi_usd"] == 8064963864.475081
    intervals = found["funding"].group_by("symbol").agg(pl.col("interval_h").unique().implode()).sort("symbol")
    assert dict(intervals.iter_rows()) == {
        **{f"{coin}USDT": [8.0] for coin in ("ARB", "AVAX", "BTC", "DOGE", "ETH", "SOL")},
        "WIFUSDT": [4.0],
    }


@real_data
def test_the_hourly_tables_of_several_venues_are_read_whole_and_hours_are_stamped_with_their_end() -> None:
    found = _real("groupm-hl-hourly-oi", "hyperliquid-hourly")
    assert _counts(found) == {
        "candles": (107_632, 0),
        "funding": (102_704, 0),
        "open_interest": (47_922, 0),
    }
    candle = found["candles"].row(0, named=True)
    assert candle["ts"] == candle["known_at"] == datetime(2025, 3, 6, 12, tzinfo=UTC)  # the file says 11:00
    intervals = found["funding"].group_by("venue").agg(pl.col("interval_h").unique().sort().implode())
    assert dict(intervals.iter_rows()) == {
        **{venue: [1.0] for venue in ("hyperliquid", "lighter", "kraken-futures", "dydx")},
        **{venue: [4.0, 8.0] for venue in ("binance-usdm", "okx")},
        "bybit": [8.0],
    }
    assert set(found["candles"].filter(pl.col("venue") == "kraken-futures")["symbol"]) >= {"PF_XBTUSD", "PF_ETHUSD"}


@real_data
def test_merged_liquidations_keep_their_offset_and_their_dollars() -> None:
    """First record: FLOWUSDT, 27614.7658 USD, BUY, 2023-01-03 13:55:11.698439+05:30 = 08:25:11.698439 UTC."""
    found = _real("binance-liqs-jan2023", "binance-merged-liquidations")
    rows = found["liquidations"]
    assert rows.height == 12_076
    assert found[SILENT].rows() == [(1, 0, "header")]
    first = rows.row(0, named=True)
    assert (first["ts"], first["symbol"]) == (datetime(2023, 1, 3, 8, 25, 11, 698439, tzinfo=UTC), "FLOWUSDT")
    assert (first["position_side"], first["notional_usd"], first["reason"]) == ("short", 27614.7658, None)
    refused = rows.filter(pl.col("reason").is_not_null())
    assert set(refused["reason"]) <= {"unknown_symbol"}  # margined in BUSD, or quarterly
    assert rows.filter(pl.col("symbol").str.ends_with("USDT"))["reason"].null_count() == 12_076 - 1_316
