"""Marks of bars that wait: none is taken away by bars that could not see its rows."""

from datetime import timedelta
from pathlib import Path

import polars as pl

from pipelines.lake import Lake
from pipelines.pending import clear_pending, mark_pending, pending_marks
from pipelines.times import Interval
from tests.pipelines.test_lake import T0

DAY = Interval(T0 - timedelta(hours=1), T0 + timedelta(days=1))


def _span(minute: int) -> pl.DataFrame:
    ts = T0 + timedelta(minutes=minute)
    return pl.DataFrame({"venue": ["v"], "symbol": ["S"], "ts": [ts], "last": [ts], "rows": [1]})


def test_a_mark_that_came_while_bars_were_computed_stays(tmp_path: Path) -> None:
    """An ingest beside a running computation would otherwise leave a bar that does not know of its rows."""
    lake = Lake(tmp_path)
    mark_pending(lake, "marks", _span(1), "a")
    known = pending_marks(lake, "v")
    mark_pending(lake, "marks", _span(2), "b")
    assert clear_pending(lake, "v", DAY, DAY, known) == 1
    assert pending_marks(lake, "v")["source_sha256"].to_list() == ["b"]


def test_a_source_killed_after_its_mark_marks_again_once_that_mark_is_gone(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    mark_pending(lake, "marks", _span(1), "a")
    mark_pending(lake, "marks", _span(1), "a")
    assert pending_marks(lake, "v").height == 1
    clear_pending(lake, "v", DAY, DAY, pending_marks(lake, "v"))
    mark_pending(lake, "marks", _span(1), "a")
    assert pending_marks(lake, "v").height == 1
