"""Counts by second: stamped with the second's end, and nothing lost."""

import json
from pathlib import Path

import polars as pl
import pytest

from pipelines.config import Config
from pipelines.errors import InputError
from pipelines.ingest import ingest
from pipelines.lake import Lake

DATA = Path(__file__).parents[4] / "shared" / "data" / "hyperliquid-adl-oct10"
START = "2025-10-10T21:15:03.127372+00:00"


def _file(folder: Path, timeline: object, start: object = START) -> Path:
    path = folder / "timing.json"
    path.write_text(json.dumps({"event_start": start, "timeline": timeline, "delay_seconds": 61.7}, indent=2))
    return path


def test_a_second_is_stamped_with_its_end_and_bad_ones_are_refused(tmp_path: Path) -> None:
    timeline = [
        {"second": 0, "liquidations": 104, "adls": 0},
        {"second": 61, "liquidations": 7, "adls": 5},
        {"second": -1, "liquidations": 7, "adls": 5},
        {"second": 62, "liquidations": 1.5, "adls": 5},
        {"second": 61, "liquidations": 7, "adls": 5},
        "nonsense",
    ]
    lake = Lake(tmp_path / "lake")
    summary = ingest("hyperliquid", [_file(tmp_path, timeline)], lake, Config())
    assert (summary.rows_read, summary.rows_accepted, summary.rows_quarantined) == (6, 2, 4)
    assert summary.reasons == {"duplicate_key": 1, "unreadable_count": 1, "unreadable_json": 1, "unreadable_ts": 1}
    rows = lake.scan("liquidation_counts").collect()
    assert rows["ts"].dt.strftime("%H:%M:%S%.6f").to_list() == ["21:15:04.127372", "21:16:05.127372"]
    assert rows.select("symbol", "interval_s", "liquidations", "adls").rows() == [("*", 1, 104, 0), ("*", 1, 7, 5)]
    assert lake.scan("quarantine").sort("line").collect()["raw"][-1] == '"nonsense"'


@pytest.mark.parametrize("start", ["2025-10-10T21:15:03", "yesterday", 7, None])
def test_a_start_without_a_zone_refuses_every_row(tmp_path: Path, start: object) -> None:
    path = _file(tmp_path, [{"second": 0, "liquidations": 1, "adls": 0}], start)
    with pytest.raises(InputError, match="every one of 1 rows was refused, most often unreadable_ts"):
        ingest("hyperliquid", [path], Lake(tmp_path / "lake"), Config())


def test_a_document_without_its_list_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no list `timeline`"):
        ingest("hyperliquid", [_file(tmp_path, {"second": 0})], Lake(tmp_path / "lake"), Config())


@pytest.mark.real_data
@pytest.mark.skipif(not DATA.is_dir(), reason=f"{DATA} is absent")
def test_the_published_counts_add_up(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    summary = ingest("hyperliquid", [DATA], lake, Config())
    assert (summary.rows_read, summary.rows_accepted) == (186, 186)
    assert lake.scan("liquidation_counts").select(pl.col("liquidations", "adls").sum()).collect().row(0) == (
        63_637,
        34_983,
    )
