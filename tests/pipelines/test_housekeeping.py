"""Compaction changes no row, retention drops whole partitions, both can be repeated."""

from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest

from pipelines.errors import InputError
from pipelines.housekeeping import compact_lake, retain_days
from pipelines.lake import Lake
from tests.pipelines.test_lake import T0, funding, trades


@pytest.fixture
def crowded(tmp_path: Path) -> Lake:
    lake = Lake(tmp_path / "lake")
    for nth in range(5):
        lake.append(
            "trades", pl.concat([trades("S", range(nth, 60, 5), nth), trades("T", range(nth, 60, 5), nth)]), f"{nth}"
        )
    return lake


def test_compaction_merges_files_and_changes_no_row(crowded: Lake) -> None:
    before = crowded.scan("trades").sort("symbol", "ts", "trade_id").collect()
    summary = compact_lake(crowded)
    assert (summary.files_before, summary.files_after) == (5, 1)
    assert summary.files_swept == 5
    after = crowded.scan("trades").collect()
    assert after.equals(before)  # in order without being sorted


def test_a_second_compaction_finds_nothing_to_do(crowded: Lake) -> None:
    compact_lake(crowded)
    version = crowded.version("trades")
    summary = compact_lake(crowded)
    assert crowded.version("trades") == version
    assert (summary.files_before, summary.files_after, summary.files_swept) == (1, 1, 0)


def test_long_symbols_are_merged_each_into_its_own_file(crowded: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.lake.SYMBOL_ROWS_MIN", 50)
    monkeypatch.setattr("pipelines.housekeeping.SYMBOL_ROWS_MIN", 50)
    monkeypatch.setattr("pipelines.housekeeping.ROWS_AT_ONCE", 10)
    compact_lake(crowded)
    files = crowded.files("trades").sort("symbol_min")
    assert files["symbol_min"].to_list() == files["symbol_max"].to_list() == ["S", "T"]
    version = crowded.version("trades")
    compact_lake(crowded)
    assert crowded.version("trades") == version


def test_what_was_committed_stays_known_after_compaction(crowded: Lake) -> None:
    compact_lake(crowded)
    assert all(crowded.committed("trades", f"{nth}") for nth in range(5))


def test_retention_drops_the_partitions_before_the_days_to_keep(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    lake.append("trades", trades("S", range(0, 5 * 1440, 720)), "h")  # five days, two rows each, the last at noon
    summary = retain_days(lake, ["trades"], 2, None, None)
    assert (summary.rows_dropped, summary.files_dropped) == (4, 2)
    assert summary.kept_from == {"trades": "2025-01-03T00:00Z"}
    assert lake.scan("trades").select(pl.col("ts").min()).collect().item() == T0 + timedelta(days=2)
    assert retain_days(lake, ["trades"], 2, None, None).rows_dropped == 0
    assert len(list(lake.path("trades").rglob("*.parquet"))) == 3


def test_a_monthly_table_keeps_its_month_whole(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    lake.append("funding", funding(range(0, 60 * 1440, 1440)), "h")  # January, February and 1 March 2025
    assert retain_days(lake, ["funding"], 7, None, None).rows_dropped == 31
    assert lake.scan("funding").select(pl.col("ts").min()).collect().item() == T0 + timedelta(days=31)


def test_a_table_without_dates_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="instruments, nonsense"):
        retain_days(Lake(tmp_path), ["trades", "instruments", "nonsense"], 1, None, None)
