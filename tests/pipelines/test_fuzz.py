"""Damaged files of every kind: no traceback, no line lost. `python -m tests.pipelines.fuzz N` tries more of them."""

from pathlib import Path

from pipelines.adapters import ADAPTERS
from pipelines.lake import Lake
from tests.pipelines.fuzz import fuzz, ingest_all
from tests.pipelines.samples import SAMPLES


def test_there_is_a_sample_of_every_kind() -> None:
    kinds = {(adapter.name, kind.name) for adapter in ADAPTERS for kind in adapter.kinds}
    assert kinds <= {(sample.adapter, sample.kind) for sample in SAMPLES}


def test_whole_samples_are_taken_and_every_public_table_is_filled(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    assert ingest_all(tmp_path, lake) > 150
    log = lake.scan("ingest_log").collect()
    assert (log["rows_read"] == log["rows_accepted"] + log["rows_quarantined"]).all()
    filled = [
        "trades",
        "book_events",
        "book_levels",
        "quotes",
        "book_depth",
        "marks",
        "funding",
        "open_interest",
        "liquidations",
        "liquidation_counts",
        "candles",
    ]
    for table in filled:
        assert lake.scan(table).collect().height > 0, table


def test_damage_is_refused_or_quarantined_and_never_lost() -> None:
    fates = fuzz(10 * len(SAMPLES), seed=1)
    assert fates.total() == 10 * len(SAMPLES)
    assert min(fates["taken"], fates["with refusals"], fates["refused whole"]) > 20, "the damage must be of every kind"
