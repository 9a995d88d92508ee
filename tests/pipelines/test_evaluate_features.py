"""Features judged as scorers, alone or beside a model: the drift statistics among them."""

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import cast

import polars as pl
import pytest
from typer.testing import CliRunner

from features.catalogue import FAMILIES, TAILS
from models.warning import ALERT, WarningModel
from pipelines.cli import app, run
from pipelines.evaluating.lake import Asked, _standing, by_features, features_of
from pipelines.lake import Lake
from pipelines.matrix import read_matrix
from tests.pipelines.conftest import World


def test_a_family_is_all_its_features_and_each_is_named_once() -> None:
    drift = tuple(feature.name for feature in FAMILIES["drift"])
    assert features_of(["drift"]) == drift
    assert features_of(["drift_share", "drift", "vol_ratio_15"]) == (
        "drift_share",
        *(name for name in drift if name != "drift_share"),
        "vol_ratio_15",
    )


def test_a_feature_is_turned_so_that_its_risky_tail_is_high(world: World, copied: Callable[[], Lake]) -> None:
    """A share at the touch is risky where low, a surprise on either side; a null is no score, and not the lowest."""
    lake = copied()
    names = ("touch_share", "vol_ratio_15", "drift_range_60")
    assert [TAILS[name] for name in names] == ["low", "high", "both"]
    source = by_features(lake, Asked(world.venue, world.interval, world.config), names)
    rows = read_matrix(lake, world.venue, world.interval).sort("symbol", "ts")
    turned = {"touch_share": -pl.col("touch_share"), "vol_ratio_15": pl.col("vol_ratio_15")}
    for name, want in turned.items():
        got = pl.concat(list(source.columns[name]()))
        told = rows.select(want.alias(name))[name]
        assert got["score"].to_list() == told.to_list()
        assert 0 < told.null_count() < told.len()
    assert "drift_range_60" not in source.columns  # thirty hours know no day before: said, not judged as silence
    assert source.notes == ("without a value here, and not judged: drift_range_60",)


def test_drift_of_whole_matrices_is_held_until_it_is_told_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told at 12:00 and 14:00 of two symbols, for an hour each: 12:00 to 12:59 and 14:00 to 14:59."""
    start = world.interval.start

    def told(rows: pl.DataFrame, names: tuple[str, ...], *, every: timedelta) -> pl.DataFrame:
        assert set(names) <= set(rows.columns)
        stamps = [start + timedelta(hours=h) for h in (12, 14)]
        key = pl.DataFrame({"ts": stamps}, schema={"ts": pl.Datetime("us", "UTC")}).join(
            rows.select("symbol").unique(), how="cross"
        )
        return key.with_columns(drift_psi=pl.lit(0.5), drift_ks=pl.lit(0.25))

    monkeypatch.setattr("pipelines.evaluating.lake.rolling_drift", told)
    asked = Asked(world.venue, world.interval, world.config, ("drift_ks",))
    source = by_features(world.lake, asked, ("drift_psi",))
    assert list(source.columns) == ["drift_psi", "drift_ks"]
    for part, want in zip(source.columns["drift_psi"](), ("AAA-PERP", "BBB-PERP"), strict=True):
        assert part["symbol"].unique().to_list() == [want]
        known = part.drop_nulls("score")["ts"].to_list()
        assert known == [start + timedelta(hours=h, minutes=m) for h in (12, 14) for m in range(60)]


class Standing:
    """A champion that learned up to `to` and says a half of everything it is asked, or nothing."""

    def __init__(self, to: datetime, says: float | None = 0.5) -> None:
        self.metadata, self.says = {"threshold": ["", to.isoformat()]}, says

    def predict(self, matrix: pl.DataFrame, threads: int) -> pl.DataFrame:
        return matrix.select("symbol", "ts", pl.lit(self.says, pl.Float64).alias(ALERT))


def test_the_champion_stands_beside_on_what_it_has_not_learned_from(world: World) -> None:
    rows = read_matrix(world.lake, world.venue, world.interval)
    to = world.interval.start + timedelta(hours=20)

    def beside(model: Standing, scorer: str = "models:/w/2") -> list[pl.DataFrame]:
        asked = Asked(world.venue, world.interval, world.config, champion=(cast(WarningModel, model), "models:/w/1"))
        return [part for parts in _standing(scorer, rows, asked).values() for part in parts()]

    one, other = beside(Standing(to))
    assert (one["ts"].min(), one["ts"].max()) == (to + timedelta(minutes=1), world.interval.end)
    assert (one["score"].unique().to_list(), other.height) == ([0.5], one.height)
    assert beside(Standing(to), scorer="models:/w/1") == beside(Standing(to, says=None)) == []
    assert beside(Standing(world.interval.end)) == []


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--lake", "LAKE", "--feature", "drift_cuont"], "no feature and no family of them; such as drift_count"),
        (["--lake", "LAKE", "--feature", "drift"], "without a value here: drift_depth_60"),
        (["--lake", "LAKE", "--feature", "drift", "--model", "champion"], "--feature asks no model"),
        (["--scores", "a.csv", "--events", "b.csv", "--also", "drift"], "are of a lake"),
    ],
)
def test_what_cannot_be_judged_is_said_in_one_line(
    copied: Callable[[], Lake], capsys: pytest.CaptureFixture[str], given: list[str], says: str
) -> None:
    lake = str(copied().root)
    assert run(["evaluate", *(lake if word == "LAKE" else word for word in given)]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1
    assert says in error[0]


def test_the_command_judges_a_feature_beside_others(world: World, copied: Callable[[], Lake], tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text("[label]\nfall_pct = 0.3\nsigmas = 1.0\nrefractory_min = 30\n")
    given = ["evaluate", "--lake", str(copied().root), "--config", str(config), "--feature", "vol_ratio_15"]
    told = CliRunner().invoke(app, [*given, "--also", "oi_change_30", "--json"])
    assert told.exit_code == 0, told.output
    found = json.loads(told.stdout)
    assert found["scorer"] == "vol_ratio_15"
    assert set(found["baselines"]) == {"oi_change_30", "always_on"}
    assert found["scored_rows"] > 1000
    assert found["decision_value"]["restricted_min"] >= 0
