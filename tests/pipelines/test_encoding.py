"""The stored form of a table gives back every canonical value to the last bit, and filters reach the files."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.exceptions import InvalidOperationError
from polars.testing import assert_frame_equal

from features.schema import CANONICAL, BookDepth, BookEvents, Quotes, polars_schema
from pipelines.encoding import CODES, decode, encode, physical_schema, write

T0 = datetime(2025, 1, 1, tzinfo=UTC)
SCHEMAS = {name: polars_schema(schema) for name, schema in CANONICAL.items()} | {
    "l2_events": polars_schema(BookEvents),
    "l2_quotes": polars_schema(Quotes),
    "l2_depth": polars_schema(BookDepth),
}
NUMBERS = st.floats(min_value=1e-12, max_value=1e12) | st.decimals(
    min_value="0.00000001", max_value="99999999", places=8
).map(float)
IDS = st.integers(-(2**63), 2**63 - 1).map(str) | st.sampled_from(
    ["007", "+7", "-0", " 7", "7.0", "1e3", "9223372036854775808", "a1b2", "0"]
)
STAMPS = st.datetimes(datetime(2009, 2, 1), datetime(2099, 1, 1)).map(lambda moment: moment.replace(tzinfo=UTC))  # noqa: DTZ001 - hypothesis wants them naive
WORDS = {"side": ("bid", "ask"), "event": ("add", "cancel", "trade", "snapshot"), "position_side": ("long", "short")}


def value_of(table: str, column: str, dtype: pl.DataType) -> st.SearchStrategy[Any]:
    if column == "side" and table == "trades":
        return st.sampled_from(["buy", "sell"])
    if column in WORDS:
        return st.sampled_from(WORDS[column])
    by_type: dict[Any, st.SearchStrategy[Any]] = {
        pl.Float64: NUMBERS,
        pl.Datetime: STAMPS,
        pl.Boolean: st.booleans(),
        pl.Int64: st.integers(0, 2**31 - 1),
        pl.Int32: st.integers(0, 2**31 - 1),
        pl.String: st.none() | IDS if column == "order_id" else IDS,
    }
    return by_type[dtype.base_type()]


@st.composite
def canonical(draw: st.DrawFn, table: str) -> pl.DataFrame:
    schema = SCHEMAS[table]
    row = st.fixed_dictionaries({name: value_of(table, name, dtype) for name, dtype in schema.items()})
    frame = pl.DataFrame(draw(st.lists(row, max_size=6)), schema=schema)
    if table == "trades" and draw(st.booleans()):
        frame = frame.with_columns(notional_usd=pl.col("price") * pl.col("qty"))
    return frame


@settings(max_examples=25, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("table", sorted(CODES))
def test_every_value_of_a_coded_table_comes_back_to_the_last_bit(table: str, data: st.DataObject) -> None:
    frame = data.draw(canonical(table))
    stored = encode(table, frame)
    assert stored.schema == physical_schema(table, SCHEMAS[table])
    back = decode(table, stored.lazy()).select(frame.columns).collect()
    assert_frame_equal(back, frame, check_exact=True)


@pytest.mark.parametrize("table", sorted(SCHEMAS.keys() - CODES.keys()))
def test_a_table_of_few_rows_is_stored_as_it_is(table: str) -> None:
    frame = pl.DataFrame(schema=SCHEMAS[table])
    assert encode(table, frame).schema == decode(table, frame.lazy()).collect_schema() == SCHEMAS[table]


@settings(max_examples=10, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("table", ["trades", "book_events", "funding"])
def test_a_file_holds_what_was_written(
    table: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    frame = data.draw(canonical(table))
    target: Path = tmp_path_factory.mktemp("file") / "rows.parquet"
    write(table, encode(table, frame), target)
    assert_frame_equal(decode(table, pl.scan_parquet(target)).select(frame.columns).collect(), frame, check_exact=True)


def trades(rows: int) -> pl.DataFrame:
    stamps = [T0 + timedelta(milliseconds=place) for place in range(rows)]
    return pl.DataFrame(
        {
            "venue": "v", "symbol": "S", "ts": stamps, "trade_id": [str(place) for place in range(rows)],
            "known_at": stamps, "side": "buy", "price": 100.1, "qty": 0.3, "notional_usd": 100.1 * 0.3,
        }
    ).cast(dict(SCHEMAS["trades"]))  # fmt: skip


def test_what_a_reader_can_work_out_is_not_stored() -> None:
    """100.1 * 0.3 is no decimal: it is left out because it equals price * qty, not because it is round."""
    stored = encode("trades", trades(3))
    assert stored["notional_usd"].null_count() == stored["trade_id"].null_count() == 3
    assert stored["trade_number"].to_list() == [0, 1, 2]
    assert stored["known_lag_us"].to_list() == [0, 0, 0]


def test_a_side_that_is_no_side_is_not_taken_for_the_other() -> None:
    with pytest.raises(InvalidOperationError):
        encode("trades", trades(1).with_columns(side=pl.lit("BUY")))


def test_filters_on_symbol_and_time_and_the_choice_of_columns_reach_the_file(tmp_path: Path) -> None:
    target = tmp_path / "rows.parquet"
    write("trades", encode("trades", trades(10)), target)
    wanted = decode("trades", pl.scan_parquet(target)).filter(pl.col("symbol") == "S", pl.col("ts") > T0)
    plan = wanted.select("ts", "side").explain()
    scan = plan[plan.index("Parquet SCAN") :]
    assert "PROJECT 3/" in scan or "PROJECT 2/" in scan, plan
    assert "SELECTION" in scan, plan
    assert wanted.collect().height == 9
