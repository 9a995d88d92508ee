"""One bar explained: families add up, what-if is the model's own, the command says it in a few lines."""

import json
from collections.abc import Callable
from datetime import timedelta

import polars as pl
import pytest
from typer.testing import CliRunner

from features.catalogue import FAMILY_OF
from models.warning import WarningModel
from pipelines import model_pages
from pipelines.cli import app
from pipelines.errors import InputError
from pipelines.lake import Lake
from pipelines.times import show_time
from pipelines.why import explain_row, row_at
from tests.pipelines.conftest import World
from tests.pipelines.test_train import market, outcome


def model() -> WarningModel:
    return outcome().model


def thin_row() -> pl.DataFrame:
    return market()[0].filter(pl.col("depth_drop_240") > 4.0).tail(1)


def test_base_and_families_add_up_to_the_log_odds_of_the_interval_named() -> None:
    told = explain_row(model(), "models:/m/1", thin_row())
    total = told.base_log_odds + sum(row["log_odds"] for row in told.families)
    log_odds = model().scorer.log_odds(model().values(thin_row()))[0]
    assert any(total == pytest.approx(one, abs=1e-9) for one in log_odds)
    assert [row["log_odds"] for row in told.families] == sorted((r["log_odds"] for r in told.families), reverse=True)


def test_the_family_that_was_planted_leads_and_without_it_the_risk_is_ordinary() -> None:
    told = explain_row(model(), "models:/m/1", thin_row())
    first = told.families[0]
    assert first["family"] == FAMILY_OF["depth_drop_240"]
    assert first["feature"] == "depth_drop_240"
    assert first["p_if_usual"] < 0.3 * told.probabilities["p_60m"]  # type: ignore[operator]
    assert told.like is not None
    assert told.like["symbol"] in {"A", "B", "C"}


def test_what_is_said_fits_on_a_screen() -> None:
    told = explain_row(model(), "models:/m/1", thin_row()).sentence().splitlines()
    assert "60m" in told[0]
    assert len(told) <= 12
    assert max(map(len, told)) <= 120


def test_a_symbol_or_moment_without_a_bar_is_named(world: World, copied: Callable[[], Lake]) -> None:
    lake, at = copied(), world.interval.end - timedelta(hours=1)
    row = row_at(lake, world.venue, "AAA-PERP", at, world.config)
    assert row.select("symbol", "ts").rows() == [("AAA-PERP", at)]
    with pytest.raises(InputError, match="no bar of ZZZ at") as fault:
        row_at(lake, world.venue, "ZZZ", at, world.config)
    assert "AAA-PERP, BBB-PERP" in str(fault.value)


def test_the_command_says_it_and_json_holds_all_of_it(
    world: World, copied: Callable[[], Lake], monkeypatch: pytest.MonkeyPatch
) -> None:
    lake, at = copied(), show_time(world.interval.end - timedelta(hours=1))
    monkeypatch.setattr(model_pages, "load", lambda _, target: (model(), f"models:/m@{target}"))
    given = ["models", "why", "BBB-PERP", "--at", at, "--lake", str(lake.root)]
    text = CliRunner().invoke(app, given)
    assert text.exit_code == 0, text.output
    assert f"BBB-PERP {at} by models:/m@champion" in text.output
    told = json.loads(CliRunner().invoke(app, [*given, "--json"]).stdout)
    assert told["symbol"] == "BBB-PERP"
    assert {row["family"] for row in told["families"]} == {FAMILY_OF[name] for name in model().features}
