"""Spans of symbols: those of the rows, whatever happens to the files, and no file is opened twice for them."""

from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest

from pipelines.housekeeping import compact_lake
from pipelines.lake import SCHEMAS, Lake
from pipelines.spans import symbol_spans
from tests.pipelines.test_lake import T0


def funding(*rows: tuple[str, int], venue: str = "v") -> pl.DataFrame:
    """A row per `(symbol, hours after T0)`."""
    told = [
        {
            "venue": venue,
            "symbol": symbol,
            "ts": T0 + timedelta(hours=h),
            "known_at": T0,
            "rate": 0.0,
            "interval_h": 8.0,
        }
        for symbol, h in rows
    ]
    return pl.DataFrame(told, schema=SCHEMAS["funding"])


def spans(lake: Lake) -> list[tuple[str, int, int]]:
    """Symbol, first and last hour."""
    found = symbol_spans(lake, "funding").group_by("symbol").agg(pl.col("first").min(), pl.col("last").max())
    hours = ((pl.col(name) - T0).dt.total_hours() for name in ("first", "last"))
    return sorted(found.select("symbol", *hours).rows())


def test_spans_follow_new_files_merged_files_and_dropped_ones(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    lake.append("funding", funding(("A", 1), ("A", 3), ("B", 2)), "one")
    assert spans(lake) == [("A", 1, 3), ("B", 2, 2)]
    lake.append("funding", funding(("A", 0), ("C", 9)), "two")
    assert spans(lake) == [("A", 0, 3), ("B", 2, 2), ("C", 9, 9)]
    compact_lake(lake)
    assert spans(lake) == [("A", 0, 3), ("B", 2, 2), ("C", 9, 9)]
    lake.replace("funding", funding(), "v", T0 - timedelta(hours=1), T0 + timedelta(hours=2))
    assert spans(lake) == [("A", 3, 3), ("C", 9, 9)]


def test_only_new_files_are_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = Lake(tmp_path)
    lake.append("funding", funding(("A", 1), ("B", 2)), "one")
    spans(lake)
    opened: list[int] = []
    scan = Lake.scan_files

    def counting(self: Lake, table: str, files: pl.DataFrame) -> pl.LazyFrame:
        opened.append(files.height)
        return scan(self, table, files)

    monkeypatch.setattr(Lake, "scan_files", counting)
    spans(Lake(tmp_path))
    assert opened == []
    lake.append("funding", funding(("A", 5), ("B", 6)), "two")
    assert spans(lake) == [("A", 1, 5), ("B", 2, 6)]
    assert opened == [1]


def test_a_copy_that_cannot_be_read_is_made_again(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    lake.append("funding", funding(("A", 1), ("B", 2)), "one")
    spans(lake)
    (tmp_path / "spans" / "funding.parquet").write_bytes(b"PAR1 half")
    assert spans(lake) == [("A", 1, 1), ("B", 2, 2)]
    assert (tmp_path / "spans" / "funding.parquet").stat().st_size > 100
