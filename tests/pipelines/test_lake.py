"""The lake: appended once per source, replaced by interval, read back in canonical types."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from features.schema import Funding, Trades, polars_schema
from pipelines.lake import SCHEMAS, Lake

T0 = datetime(2025, 1, 1, tzinfo=UTC)


def funding(minutes: range, venue: str = "v", rate: float = 0.1) -> pl.DataFrame:
    stamps = [T0 + timedelta(minutes=minute) for minute in minutes]
    rows = {"venue": venue, "symbol": "S", "ts": stamps, "known_at": stamps, "rate": rate, "interval_h": 8.0}
    return pl.DataFrame(rows, schema=polars_schema(Funding))


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "lake")


def test_appending_a_source_twice_is_appending_it_once(lake: Lake) -> None:
    lake.append("funding", funding(range(3)), "hash-1")
    version = lake.version("funding")
    lake.append("funding", funding(range(3)), "hash-1")
    assert lake.scan("funding").collect().equals(funding(range(3)))
    assert lake.version("funding") == version
    assert lake.committed("funding", "hash-1")
    assert not lake.committed("funding", "hash-2")


def test_replacing_an_interval_leaves_the_rest_and_other_venues_alone(lake: Lake) -> None:
    lake.append("funding", pl.concat([funding(range(5)), funding(range(5), "w")]), "hash-1")
    lake.replace("funding", funding(range(2, 4), rate=0.2), "v", T0 + timedelta(minutes=1), T0 + timedelta(minutes=3))
    rates = lake.scan("funding", "v").sort("ts").collect()["rate"].to_list()
    assert rates == [0.1, 0.1, 0.2, 0.2, 0.1]
    assert lake.scan("funding", "w").collect()["rate"].to_list() == [0.1] * 5


def test_replacing_with_nothing_empties_the_interval(lake: Lake) -> None:
    lake.replace("funding", funding(range(1, 4)), "v", T0, T0 + timedelta(minutes=3))
    lake.replace("funding", funding(range(0)), "v", T0 + timedelta(minutes=1), T0 + timedelta(minutes=3))
    assert lake.scan("funding").collect().height == 1


def test_scans_are_half_open_and_by_venue_and_symbol(lake: Lake) -> None:
    lake.append("funding", pl.concat([funding(range(5)), funding(range(5), "w")]), "hash-1")
    found = lake.scan("funding", "v", T0 + timedelta(minutes=1), T0 + timedelta(minutes=3), "S").collect()
    assert sorted(found["ts"].dt.minute().to_list()) == [2, 3]
    assert lake.scan("funding", symbol="T").collect().is_empty()


@pytest.mark.parametrize("table", sorted(SCHEMAS))
def test_a_table_that_is_not_there_reads_as_empty_with_its_columns(lake: Lake, table: str) -> None:
    assert lake.scan(table).collect().schema == SCHEMAS[table]
    assert lake.version(table) == -1


@pytest.mark.parametrize("table", ["bars", "features", "scores", "limits", "decisions", "guard_state"])
def test_derived_tables_come_back_in_the_types_they_went_in(lake: Lake, table: str) -> None:
    lake.replace(table, pl.DataFrame(schema=SCHEMAS[table]), "v", T0, T0 + timedelta(minutes=1))
    assert lake.scan(table).collect_schema() == SCHEMAS[table]


def trades(symbol: str, minutes: range, first_id: int = 0, venue: str = "v") -> pl.DataFrame:
    stamps = [T0 + timedelta(minutes=minute) for minute in minutes]
    rows = {
        "venue": venue,
        "symbol": symbol,
        "ts": stamps,
        "trade_id": [str(first_id + nth) for nth in range(len(stamps))],
        "known_at": stamps,
        "side": "buy",
        "price": 1.0,
        "qty": 1.0,
        "notional_usd": 1.0,
    }
    return pl.DataFrame(rows, schema=polars_schema(Trades))


def test_replacing_one_symbol_leaves_the_others_alone(lake: Lake) -> None:
    lake.append("funding", pl.concat([funding(range(3)), funding(range(3)).with_columns(symbol=pl.lit("U"))]), "h")
    lake.replace("funding", funding(range(1)), "v", T0 - timedelta(days=1), T0 + timedelta(days=1), symbol="S")
    assert lake.scan("funding", symbol="S").collect().height == 1
    assert lake.scan("funding", symbol="U").collect().height == 3


def test_a_replacement_across_midnight_is_one_commit(lake: Lake) -> None:
    rows = trades("S", range(0, 3 * 1440, 360))
    lake.replace("trades", rows, "v", T0 - timedelta(days=1), T0 + timedelta(days=9))
    version = lake.version("trades")
    lake.replace("trades", rows.head(2), "v", T0 - timedelta(days=1), T0 + timedelta(days=9))
    assert lake.version("trades") == version + 1
    assert lake.scan("trades").collect().height == 2


def test_files_lie_by_venue_and_date_and_a_month_where_rows_are_few(lake: Lake) -> None:
    lake.append("trades", trades("S", range(0, 3600, 600)), "h")  # six rows on three days
    lake.append("funding", funding(range(0, 3600, 600)), "h")
    assert sorted(
        str(path.parent.relative_to(lake.path("trades"))) for path in lake.path("trades").rglob("*.parquet")
    ) == [
        "venue=v/date=2025-01-01",
        "venue=v/date=2025-01-02",
        "venue=v/date=2025-01-03",
    ]
    assert [path.parent.name for path in lake.path("funding").rglob("*.parquet")] == ["date=2025-01-01"]


def test_a_long_symbol_has_a_file_of_its_own(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.lake.SYMBOL_ROWS_MIN", 3)
    lake.append("trades", pl.concat([trades("L", range(5)), trades("A", range(2)), trades("Z", range(2))]), "h")
    files = lake.files("trades").sort("symbol_min").select("symbol_min", "symbol_max", "rows").rows()
    assert files == [("A", "Z", 4), ("L", "L", 5)]
    assert lake.scan("trades", symbol="L").collect().height == 5
    assert lake.scan("trades", symbol="M").collect().is_empty()


def test_rows_come_back_in_order_whether_files_overlap_or_not(lake: Lake) -> None:
    end = T0 + timedelta(days=1)
    lake.append("trades", trades("S", range(10, 20), 10), "second")
    lake.append("trades", trades("S", range(1, 10), 1), "first")
    assert lake.scan_sorted("trades", "v", ["S"], T0, end)["S"].collect()["trade_id"].to_list() == [
        str(n) for n in range(1, 20)
    ]
    late = trades("S", range(5, 15), 105)
    lake.append("trades", late, "late")
    found = lake.scan_sorted("trades", "v", ["S"], T0, end)["S"].collect()
    assert found["ts"].is_sorted()
    assert found["trade_id"].to_list()[4:8] == ["5", "105", "6", "106"]  # ids of one moment by their number


def test_rows_stay_in_order_when_the_span_cuts_the_first_and_last_file(lake: Lake) -> None:
    for first in (1, 11, 21):
        lake.append("trades", trades("S", range(first, first + 10), first), f"{first}")
    start, end = T0 + timedelta(minutes=4), T0 + timedelta(minutes=26)
    for stored, name in ((False, "trade_id"), (True, "trade_number")):
        found = lake.scan_sorted("trades", "v", ["S"], start, end, stored=stored)["S"].collect()
        assert found[name].cast(pl.Int64).to_list() == list(range(5, 27))


def test_a_killed_append_leaves_nothing_and_its_files_are_swept(lake: Lake) -> None:
    lake.append("trades", trades("S", range(3)), "h1")
    orphan = next(lake.path("trades").rglob("*.parquet")).with_name("orphan.parquet")
    trades("S", range(3)).write_parquet(orphan)
    assert lake.scan("trades").collect().height == 3
    assert lake.sweep("trades") == 1
    assert not orphan.exists()
    assert lake.scan("trades").collect().height == 3


def test_a_table_of_an_older_version_reads_with_nulls_in_the_new_columns(lake: Lake) -> None:
    lake.append("funding", funding(range(1)), "h")
    path = next(lake.path("funding").rglob("*.parquet"))
    pl.read_parquet(path).drop("interval_h").write_parquet(path)
    assert lake.scan("funding").collect()["interval_h"].to_list() == [None]
