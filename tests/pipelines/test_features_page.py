"""The page of features: what it finds, and what it must not hold."""

import contextlib
import io
import json
import re
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest

from features.catalogue import FAMILIES, TAILS, WATCHED
from pipelines import cli
from pipelines.errors import InputError
from pipelines.features_page import first_unusual, hourly, reference_of, share_unusual
from pipelines.lake import Lake
from pipelines.reporting.features_page import heat_map
from pipelines.times import Interval
from tests.pipelines.conftest import World

START = datetime(2025, 1, 1, tzinfo=UTC)


def told(surprise: list[float | None], family: str = "crowding", symbol: str = "A") -> pl.DataFrame:
    ts = [START + timedelta(minutes=m + 1) for m in range(len(surprise))]
    return pl.DataFrame({"ts": ts, "surprise": surprise}).with_columns(
        pl.col("ts").cast(pl.Datetime("us", "UTC")),
        pl.col("surprise").cast(pl.Float64),
        venue=pl.lit("v"),
        symbol=pl.lit(symbol),
        family=pl.lit(family),
        lead=pl.lit("basis_bps_5"),
    )


def test_a_family_is_unusual_from_the_third_of_five_bars_on() -> None:
    rows = told([3.0, 0.0, 3.0, 0.0, 0.0, 3.0, None, 3.0, 3.0])  # bars 1, 3; 6, 8, 9: only bar 9 has three of five
    matrix = rows.select("symbol", "ts", basis_bps_5=pl.int_range(pl.len()).cast(pl.Float64))
    found = first_unusual(rows, matrix)
    assert found.select("symbol", "family", "since", "feature", "value").rows() == [
        ("A", "crowding", START + timedelta(minutes=9), "basis_bps_5", 8.0)
    ]
    assert first_unusual(told([3.0, 3.0, 1.9, 1.9, 1.9]), matrix).is_empty()


def test_shares_count_bars_with_a_surprise_alone() -> None:
    rows = told([2.0, 1.0, None, 5.0])
    assert share_unusual(rows)["crowding"] == pytest.approx(2 / 3)
    assert share_unusual(rows)["cancels"] is None
    assert hourly(told([2.0] * 60 + [0.0] * 60))["share"].to_list() == [1.0, 0.0]


def test_neighbours_of_one_shade_are_one_rectangle() -> None:
    cells = pl.DataFrame(
        {"symbol": ["A"] * 5, "family": ["x"] * 5, "column": range(5), "surprise": [2.1, 2.9, 3.5, None, 9.0]}
    )
    drawn = heat_map(cells, "x", ["A"], 5)
    assert [(r["start"], r["end"]) for r in drawn["rects"]] == [(0, 2), (2, 3), (4, 5)]
    assert not heat_map(cells, "y", ["A"], 5)["told"]


def test_nothing_before_the_interval_is_refused() -> None:
    whole = Interval(START, START + timedelta(days=2))
    with pytest.raises(InputError, match="nothing before the interval"):
        reference_of("v", whole, whole)
    later = Interval(START + timedelta(days=1), whole.end)
    assert reference_of("v", later, whole) == Interval(START, later.start)


def test_a_clock_is_not_watched() -> None:
    assert {name for name in TAILS if name not in WATCHED} == {"hour_sin", "hour_cos", "weekend", "funding_due_min"}


Page = tuple[str, dict[str, Any]]


@pytest.fixture(scope="module")
def page(world: World, tmp_path_factory: pytest.TempPathFactory) -> Page:
    root = tmp_path_factory.mktemp("page")
    shutil.copytree(world.lake.root / "tables", root / "lake" / "tables")
    start, end = (
        moment.strftime("%Y-%m-%dT%H:%MZ") for moment in (world.interval.end - timedelta(hours=6), world.interval.end)
    )
    words = ["features", "--lake", str(root / "lake"), "--from", start, "--to", end, "--html", str(root / "page.html")]
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert cli.run([*words, "--json"]) == 0
    return (root / "page.html").read_text(encoding="utf-8"), json.loads(out.getvalue())


def test_the_page_tells_every_family_and_loads_nothing(page: Page) -> None:
    text, summary = page
    assert text.count('<div class="family">') == len(FAMILIES)
    assert "<script" not in text
    assert re.findall(r'(?:src|href)="(?!#|data:)[^"]*"', text) == []
    assert set(summary["page"]["share_unusual"]) == set(FAMILIES)
    assert summary["venues"][0]["null_reasons"]["cancels"] is not None
    assert "AAA-PERP" in text


def test_the_reference_is_as_rare_as_it_promises(page: Page) -> None:
    shares = page[1]["page"]["share_unusual"]
    known = [share["reference"] for share in shares.values() if share["reference"] is not None]
    assert len(known) >= 4
    assert max(known) < 0.03


def test_a_page_without_a_place_is_refused(
    world: World, copied: Callable[[], Lake], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["features", "--lake", str(copied().root), "--html", "/proc/no/page.html"]
    assert cli.run(words) == 2
    assert "nothing before the interval" in capsys.readouterr().err
