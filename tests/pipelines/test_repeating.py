"""A run done again from its record: the same bytes on the same data, and a clear word where they differ."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from pipelines import repeating
from pipelines.case import Case, case_of
from pipelines.config import Config, MlflowConfig
from pipelines.errors import InputError
from pipelines.lake import Lake
from pipelines.repeating import config_of, repeat
from pipelines.tracking import Registry, RunRecord
from pipelines.train import train_case
from tests.pipelines.test_train import CONFIG, NOW, causal, market

SPAN = "2025-01-01T00:00Z..2025-01-09T00:00Z"


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    found = Lake(tmp_path_factory.mktemp("repeat") / "lake")
    registry = Registry(MlflowConfig(), found.root)
    case = case_of(*market(), CONFIG)
    train_case(case, registry, {"venue": "v", "interval": SPAN}, at=NOW, causality=causal, extra={"interval": SPAN})
    return found


@pytest.fixture
def run_id(lake: Lake) -> str:
    return str(Registry(MlflowConfig(), lake.root).list_models()[0]["run_id"])


def loads(matrix: pl.DataFrame, asked: list[tuple[object, ...]]) -> Callable[..., tuple[Case, None]]:
    """In place of a lake of bars: the case of `matrix` with the settings that are asked for."""

    def load(lake: Lake, venue: str, span: object, config: Config, *_: object, **__: object) -> tuple[Case, None]:
        asked.append((venue, str(span), config))
        return case_of(matrix, market()[1], config), None

    return load


def test_the_same_data_give_the_same_bytes_whatever_is_set_today(
    lake: Lake, run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[object, ...]] = []
    monkeypatch.setattr(repeating, "load_case", loads(market()[0], asked))
    found = repeat(lake, run_id, Config(seed=99))
    assert found.same_bytes
    assert found.found_sha256 == found.model_sha256
    assert "the same model, to the byte" in found.sentence()
    venue, span, config = asked[0]
    assert (venue, span) == ("v", SPAN)
    assert isinstance(config, Config)
    assert config.warning == CONFIG.warning
    assert config.seed == CONFIG.seed


def test_other_data_are_refused_before_anything_is_fitted(
    lake: Lake, run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = market()[0].with_columns(pl.col("funding_annual") + 1e-9)
    monkeypatch.setattr(repeating, "load_case", loads(moved, []))
    monkeypatch.setattr(repeating, "fit_model", None)
    with pytest.raises(InputError, match=r"holds other data than the run learned from.*train anew"):
        repeat(lake, run_id, Config())


def test_a_run_that_does_not_exist_is_said_so(lake: Lake) -> None:
    with pytest.raises(InputError, match="0123456789abcdef"):
        repeat(lake, "0123456789abcdef" * 2, Config())


def record(config: str, **params: str) -> RunRecord:
    blank = RunRecord("r1", "e", params, {}, {"venue": "v"}, config, {}, {}, (), "ab")
    return replace(blank)


def test_a_record_of_other_settings_or_without_an_interval_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="lacks bars"):
        config_of(record("{}"), Config())
    unknown = json.loads(CONFIG.model_dump_json())
    unknown["warning"]["of_tomorrow"] = 1
    with pytest.raises(InputError, match="not one of this version"):
        config_of(record(json.dumps(unknown)), Config())
    with pytest.raises(InputError, match="names no interval"):
        repeating._span(record("{}"))
