"""A base from another lake: only the past, only features of the market that both sides know."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest

from features.catalogue import FAMILY_OF, NAMES, TAILS
from pipelines import pretraining
from pipelines.case import data_sha256
from pipelines.config import BaseConfig, Config
from pipelines.errors import InputError
from pipelines.lake import Lake
from pipelines.pretraining import pretrain
from tests.pipelines.conftest import World

MOVES = Config(base=BaseConfig(fall_pct=0.2, sigmas=1.0))  # a day of a small venue holds few large moves
PURGED = timedelta(minutes=240 + 30 + 60)


@pytest.fixture
def lake(copied: Callable[[], Lake]) -> Lake:
    return copied()


def seen(monkeypatch: pytest.MonkeyPatch) -> list[pl.DataFrame]:
    """The rows that are learned from."""
    rows: list[pl.DataFrame] = []
    fit = pretraining.fit_trees

    def spied(frame: pl.DataFrame, *rest: object) -> object:
        rows.append(frame)
        return fit(frame, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(pretraining, "fit_trees", spied)
    return rows


def test_a_base_learns_of_the_past_alone_and_of_the_market_alone(
    lake: Lake, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = seen(monkeypatch)
    before = world.interval.end - timedelta(hours=4)
    base = pretrain([lake.root], before, NAMES, MOVES)
    assert rows[0]["ts"].max() == before - PURGED
    assert set(base.trees.features) <= {name for name in NAMES if TAILS[name] != "none"}
    assert not {FAMILY_OF[name] for name in base.trees.features} & {"drift", "health"}
    assert "vol_ratio_15" in base.trees.features
    assert base.rows == rows[0].height
    assert base.moves > 0
    assert base.sources == (f"{lake.root.name}/{world.venue}",)
    assert base.data_sha256 == data_sha256(rows[0].select(*base.trees.features, pl.col("^y_.*$")))
    again = pretrain([lake.root], before, NAMES, MOVES)
    assert again.trees == base.trees


def test_what_comes_after_changes_nothing(lake: Lake, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels of the last rows reach up to the purge, not into the period that is judged."""
    rows = seen(monkeypatch)
    before = world.interval.end - timedelta(hours=4)
    first = pretrain([lake.root], before, NAMES, MOVES)
    bars = lake.scan("bars", world.venue).collect()
    late = pl.col("ts") > before
    with lake.writer():
        crashed = bars.with_columns(pl.when(late).then(0.5 * pl.col("close")).otherwise("close").alias("close"))
        lake.replace("bars", crashed, world.venue, world.interval.start, world.interval.end)
    assert pretrain([lake.root], before, NAMES, MOVES).trees == first.trees
    assert rows[0].equals(rows[1])


def test_only_features_that_are_known_here_are_learned_there(lake: Lake, world: World) -> None:
    base = pretrain([lake.root], world.interval.end, ("vol_ratio_15", "vol_annual_60", "drift_count"), MOVES)
    assert set(base.trees.features) == {"vol_annual_60", "vol_ratio_15"}


def test_a_missing_lake_or_one_without_a_past_is_refused(lake: Lake, world: World, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        pretrain([tmp_path / "nowhere"], world.interval.end, NAMES, MOVES)
    with pytest.raises(InputError, match="nothing in the lakes to pretrain on lies before"):
        pretrain([lake.root], world.interval.start + timedelta(hours=2), NAMES, MOVES)
    calm = Config(base=BaseConfig(fall_pct=90.0))
    with pytest.raises(InputError, match="no base can be learned"):
        pretrain([lake.root], world.interval.end, NAMES, calm)
