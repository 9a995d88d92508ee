"""The lake: appended once per source, replaced by interval, read back in canonical types."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from features.schema import Funding, polars_schema
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
