"""The page of past cascades: clusters by hand, every event, nothing loaded, and what it must escape."""

import re
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest

from features.labels import EVENT_SCHEMA
from pipelines.cli import run
from pipelines.config import Config
from pipelines.labels import LabelSummary, clusters, label_events
from pipelines.labels_page import write_labels
from pipelines.reporting.labels_page import drawing, line, render_labels
from tests.models.evaluation.test_evaluate import at
from tests.pipelines.conftest import World

HOSTILE = "</h3><script>window.hacked=1</script>"


def found(*rows: tuple[str, float, float, float]) -> pl.DataFrame:
    onset, end = (at(*(row[k] for row in rows)) for k in (1, 2))
    told = {"symbol": [row[0] for row in rows], "onset": onset, "end": end, "severity": [row[3] for row in rows]}
    return pl.DataFrame(told).with_columns(label=pl.lit("oi_flush")).select(EVENT_SCHEMA.names())


def test_onsets_of_several_symbols_that_follow_each_other_are_one_cluster() -> None:
    # 0, 30, 60 are chained by gaps of 30; 91 is 31 later; 200 and 210 are of one symbol; 400 and 400 of two.
    rows = [("A", 0), ("B", 30), ("A", 60), ("C", 91), ("A", 200), ("A", 210), ("A", 400), ("B", 400)]
    told = clusters(found(*((symbol, minute, minute, 1.0) for symbol, minute in rows)), timedelta(minutes=30))
    assert told["cluster"].to_list() == [1, 1, 1, None, None, None, 2, 2]
    assert told["symbols"].to_list() == [2, 2, 2, 1, 1, 1, 2, 2]


def test_a_line_is_broken_where_a_value_is_missing() -> None:
    # 520 wide with 8 to each side, 150 high with 14: 0 lies at (8, 136), 1 at (512, 14) and halves between
    assert line([0.0, 0.5, 0.75, 1.0], [0.0, 0.5, None, 1.0], 0.0, 1.0) == "M8.0 136.0L260.0 75.0M512.0 14.0"


def test_lines_are_in_percent_of_the_onset() -> None:
    bars = pl.DataFrame({"ts": at(0, 10, 20), "close": [110.0, 100.0, 90.0], "oi_base": [None, 50.0, 25.0]})
    told = drawing(bars, found(("A", 10, 10, 1.0)).row(0, named=True), timedelta(minutes=10))
    assert (told["low"], told["high"]) == ("-50.0 %", "+10.0 %")
    assert [one["name"] for one in told["series"]] == ["price", "open interest in coins"]
    assert told["onset_x"] == 260.0


def test_hostile_names_stay_text_and_nothing_is_loaded() -> None:
    told = clusters(found((HOSTILE, 10, 10, 1.0)), timedelta(minutes=30))
    bars = pl.DataFrame({"ts": at(0, 10), "close": [1.0, 2.0], "oi_base": [1.0, None]})
    text = render_labels(told, {0: bars}, headline="x", definition="y", before=timedelta(minutes=10))
    assert "<script" not in text
    assert text.count("&lt;/h3&gt;") == 3  # heading, label of the drawing, table
    assert re.findall(r'(?:src|href)="(?!#|data:)[^"]*"', text) == []


def test_every_cascade_of_a_lake_is_on_the_page(world: World, tmp_path: Path) -> None:
    summary = label_events(world.lake, world.venue, world.interval, world.config)
    assert summary.cascades >= 1
    texts = []
    for name in ("a.html", "b.html"):
        write_labels(world.lake, summary, world.config, tmp_path / name)
        texts.append((tmp_path / name).read_text(encoding="utf-8"))
    assert texts[0] == texts[1]
    assert texts[0].count("<article") == summary.cascades
    assert all(f"{event['onset']:%Y-%m-%d %H:%MZ}" in texts[0] for event in summary.events)
    assert texts[0].count("<path") == 2 * summary.cascades


def test_no_cascade_is_said(world: World, tmp_path: Path) -> None:
    nothing = LabelSummary(world.venue, str(world.interval), "oi_flush", 1, 0, 1.0, [], [])
    write_labels(world.lake, nothing, Config(), tmp_path / "page.html")
    assert "There was no cascade by this label." in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_the_command_writes_it(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.html"
    assert run(["labels", "--lake", str(world.lake.root), "--html", str(page)]) == 0
    assert "cascades by oi_flush" in capsys.readouterr().out
    assert "open interest falls by at least 2 % within 30 min" in page.read_text(encoding="utf-8")
