"""Score and guard on a small simulated venue: causality, independence of the model, idempotence, parity, audit."""

import shutil
from collections.abc import Callable
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from features.schema import CANONICAL, Scores
from pipelines.audit import audit_path
from pipelines.bars import build_bars
from pipelines.config import Config, SimulatorConfig
from pipelines.demo import START
from pipelines.doctor import doctor_sentence, examine
from pipelines.errors import InputError
from pipelines.guard import add_resets, guard_venue
from pipelines.labels import label_events
from pipelines.lake import Lake
from pipelines.matrix import build_features
from pipelines.score import _episodes, _reference, score_venue
from pipelines.simulate import simulate_venue, venue_settings
from pipelines.times import Interval
from tests.pipelines.conftest import World

OUTPUTS = ("scores", "limits", "decisions")


def rows(lake: Lake, table: str, until: object = None) -> pl.DataFrame:
    found = lake.scan(table).collect()
    found = found if until is None else found.filter(pl.col("ts") <= until)
    return found.sort(found.columns[:4])


def test_every_table_of_the_simulator_reaches_the_lake(world: World) -> None:
    held = {table for table, count in world.simulated.rows_by_table.items() if count}
    assert held >= {"trades", "book_events", "book_depth", "marks", "open_interest", "positions", "collateral"}
    log = world.lake.scan("ingest_log").collect()
    assert log["rows_accepted"].sum() == world.simulated.rows
    assert sum(world.lake.scan(table).collect().height for table in CANONICAL) == world.simulated.rows


def test_settings_that_the_simulator_refuses_are_named() -> None:
    with pytest.raises(InputError, match="`step_s` must divide 3600"):
        venue_settings(Config(simulator=SimulatorConfig(step_s=7)))


def test_scores_are_complete_and_the_reference_is_silent(world: World) -> None:
    scores = Scores.validate(world.lake.scan("scores").collect())
    minutes = (world.interval.end - world.interval.start) // timedelta(minutes=1)
    assert scores.filter(pl.col("symbol") == "*").height >= minutes - 1
    reference_end = world.interval.start + timedelta(hours=12)
    early = scores.filter(pl.col("ts") <= reference_end)
    assert early["anomaly"].null_count() == early.height
    assert not early["alert"].any()
    late = scores.filter(pl.col("ts") > reference_end)
    assert late["anomaly"].null_count() == 0
    assert late["anomaly"].n_unique() > 100


def test_simulating_scoring_and_guarding_again_changes_nothing(world: World, copied: Callable[[], Lake]) -> None:
    lake = copied()
    before = {table: rows(lake, table) for table in (*CANONICAL, *OUTPUTS) if table != "instruments"}
    log = audit_path(lake).read_bytes()
    simulate_venue(lake, world.config, world.interval.start)
    score_venue(lake, world.venue, world.interval, world.config)
    again = guard_venue(lake, world.venue, world.interval, world.config)
    assert again.new_audit_entries == 0
    assert audit_path(lake).read_bytes() == log
    for table, frame in before.items():
        assert rows(lake, table).equals(frame), table


@pytest.mark.parametrize("hours", [13.5, 22.0])
def test_cutting_the_input_off_changes_no_earlier_score_limit_or_decision(
    world: World, tmp_path: Path, hours: float
) -> None:
    cut = world.interval.start + timedelta(hours=hours)
    short = Lake(tmp_path / "short")
    for table in CANONICAL:
        past = world.lake.scan(table)
        if table != "instruments":
            past = past.filter(pl.col("ts") <= cut)
        short.append(table, past.collect(), "past")
    score_venue(short, world.venue, Interval(world.interval.start, cut), world.config)
    guard_venue(short, world.venue, Interval(world.interval.start, cut), world.config)
    for table in OUTPUTS:
        assert rows(short, table).equals(rows(world.lake, table, cut)), table


def test_guarding_in_two_runs_equals_guarding_in_one(world: World, copied: Callable[[], Lake]) -> None:
    lake = copied()
    middle = world.interval.start + timedelta(hours=17)
    for table in ("limits", "decisions", "guard_state", "account_decisions"):
        empty = lake.scan(table).collect().head(0)
        lake.replace(table, empty, world.venue, world.interval.start - timedelta(days=1), world.interval.end)
    guard_venue(lake, world.venue, Interval(world.interval.start, middle), world.config)
    guard_venue(lake, world.venue, Interval(middle, world.interval.end), world.config)
    for table in ("limits", "decisions", "account_decisions"):
        assert rows(lake, table).equals(rows(world.lake, table)), table


@pytest.mark.parametrize("what", ["absent", "null", "zero", "one", "noise", "huge"])
def test_hard_limits_and_decisions_are_the_same_whatever_the_model_says(
    world: World, copied: Callable[[], Lake], what: str
) -> None:
    lake = copied()
    scores = lake.scan("scores").collect()
    rng = np.random.default_rng(0)
    values = {"null": None, "zero": 0.0, "one": 1.0, "huge": 1e308}
    value = pl.Series(rng.random(scores.height)) if what == "noise" else pl.lit(values.get(what), dtype=pl.Float64)
    broken = scores.with_columns(
        anomaly=value, p_15m=value, p_60m=value, alert=pl.lit(value=True), anomaly_threshold=pl.lit(0.5)
    )
    frame = broken.head(0) if what == "absent" else broken
    lake.replace("scores", frame, world.venue, world.interval.start, world.interval.end)
    guard_venue(lake, world.venue, world.interval, world.config)
    assert rows(lake, "decisions").equals(rows(world.lake, "decisions"))
    wished = ("leverage_cap_effective", "exposure_cap_usd_effective", "proposal")
    hard = [name for name in lake.scan("limits").collect_schema() if name not in wished]
    limits = rows(lake, "limits")
    assert limits.select(hard).equals(rows(world.lake, "limits").select(hard))
    assert (limits["leverage_cap_effective"] <= limits["leverage_cap_hard"]).all()
    assert (limits["exposure_cap_usd_effective"] <= limits["exposure_cap_usd"]).all()
    assert limits["leverage_cap_effective"].min() >= 1
    assert limits["exposure_cap_usd_effective"].min() >= 10_000


def test_an_alert_may_tighten_and_never_to_zero(world: World, copied: Callable[[], Lake]) -> None:
    lake = copied()
    alarmed = lake.scan("scores").collect().with_columns(
        anomaly=pl.lit(9.0), anomaly_threshold=pl.lit(3.0), alert=pl.lit(value=True)
    )  # fmt: skip
    lake.replace("scores", alarmed, world.venue, world.interval.start, world.interval.end)
    guard_venue(lake, world.venue, world.interval, world.config)
    limits = rows(lake, "limits")
    tighter = limits.filter(pl.col("leverage_cap_effective") < pl.col("leverage_cap_hard"))
    assert tighter.height > 100
    assert (tighter["leverage_cap_effective"] >= tighter["leverage_cap_hard"] * 0.5 - 1e-9).all()
    assert (limits["exposure_cap_usd_effective"] < limits["exposure_cap_usd"]).sum() > 100


def test_wishes_of_two_runs_are_those_of_one(world: World, copied: Callable[[], Lake]) -> None:
    """Alerts come and go; a wish of before a run's beginning still holds in it, a superseded one never comes back."""
    lake = copied()
    loud = (pl.col("ts").dt.minute() % 17 < 3) | (pl.col("ts").dt.hour() % 5 == 0)
    size = 3.0 + (pl.col("ts").dt.minute() % 7)
    alarmed = lake.scan("scores").collect().with_columns(alert=loud, anomaly=size, anomaly_threshold=pl.lit(3.0))
    lake.replace("scores", alarmed, world.venue, world.interval.start, world.interval.end)
    guard_venue(lake, world.venue, world.interval, world.config)
    whole = rows(lake, "limits")
    assert (whole["leverage_cap_effective"] < whole["leverage_cap_hard"]).sum() > 500
    cuts = [world.interval.start + timedelta(hours=hours) for hours in (0, 11.05, 11.1, 20.35, 30)]
    lake.replace("limits", whole.clear(), world.venue, world.interval.start, world.interval.end)
    for start, end in pairwise(cuts):
        guard_venue(lake, world.venue, Interval(start, end), world.config)
    assert rows(lake, "limits").equals(whole)


def test_resets_are_read_once_and_bad_ones_refused(world: World, copied: Callable[[], Lake], tmp_path: Path) -> None:
    lake, path = copied(), tmp_path / "resets.csv"
    path.write_text("venue,symbol,ts,rule,by\nsim,*,2025-01-01T20:00:00Z,price_halt,Desk Head\n")
    assert add_resets(lake, path) == add_resets(lake, path) == 1
    assert lake.scan("resets").collect()["by"].to_list() == ["Desk Head"]
    for row, said in (("sim,*,soon,price_halt,A", "line 2"), ("sim,*,2025-01-01T20:00:00Z,no_rule,A", "rule of")):
        path.write_text(f"venue,symbol,ts,rule,by\n{row}\n")
        with pytest.raises(InputError, match=said):
            add_resets(lake, path)
    assert lake.scan("resets").collect().height == 1


def test_a_registry_that_is_down_stops_the_record_not_the_score(world: World, copied: Callable[[], Lake]) -> None:
    lake = copied()
    (lake.root / "mlflow").write_text("a file where the registry's folder should be")
    summary = score_venue(lake, world.venue, world.interval, world.config)
    assert summary.detector_uri is None
    assert any("registry" in note for note in summary.notes)
    ignored = ["detector_uri", "model_uri", "status"]
    assert rows(lake, "scores").drop(ignored).equals(rows(world.lake, "scores").drop(ignored))


def test_an_interval_inside_the_reference_is_refused(world: World) -> None:
    with pytest.raises(InputError, match="not longer than the reference"):
        score_venue(
            world.lake,
            world.venue,
            Interval(world.interval.start, world.interval.start + timedelta(hours=3)),
            world.config,
        )


def test_labels_say_how_much_they_could_judge(world: World) -> None:
    found = label_events(world.lake, world.venue, world.interval, world.config)
    assert 0.0 <= found.judged_share <= 1.0
    assert found.cascades == len(found.events)


def test_bars_and_features_of_a_part_equal_those_of_the_whole(world: World, copied: Callable[[], Lake]) -> None:
    lake = copied()
    part = Interval(world.interval.start + timedelta(hours=20), world.interval.start + timedelta(hours=21))
    before = {table: rows(lake, table) for table in ("bars", "features", "structure")}
    build_bars(lake, world.venue, part)
    build_features(lake, world.venue, part)
    for table, frame in before.items():
        assert rows(lake, table).equals(frame), table


def test_doctor_counts_what_the_lake_holds(world: World, tmp_path: Path) -> None:
    found = examine(world.lake)
    assert found.rows_read == found.rows_accepted + found.rows_quarantined == world.simulated.rows
    assert {row["table"] for row in found.tables} >= {"trades", "marks"}
    assert "rows read" in doctor_sentence(found)
    with pytest.raises(InputError, match="the lake is empty"):
        examine(Lake(tmp_path))


def test_the_same_seed_gives_the_same_rows_and_another_seed_others(
    world: World, small_config: Config, tmp_path: Path
) -> None:
    short = small_config.model_copy(update={"simulator": small_config.simulator.model_copy(update={"days": 1 / 12})})
    lakes = []
    for number, seed in enumerate((3, 4)):
        lakes.append(Lake(tmp_path / str(number)))
        simulate_venue(lakes[-1], short.model_copy(update={"seed": seed}), world.interval.start)
    until = world.interval.start + timedelta(hours=2)
    assert rows(lakes[0], "trades").equals(rows(world.lake, "trades", until))
    assert not rows(lakes[1], "trades").equals(rows(lakes[0], "trades"))


@pytest.mark.parametrize(("bar_s", "minutes"), [(60, 3), (300, 15)])
def test_the_length_of_an_episode_is_told_in_minutes_whatever_the_bars(bar_s: int, minutes: int) -> None:
    """Three alerting bars are three minutes of one length and a quarter of an hour of the other."""
    ts = [START + timedelta(seconds=k * bar_s) for k in range(3)]
    rows = {"symbol": "A", "ts": ts, "alert": True, "lead_family": "crowding", "reasons": "crowding 4.0"}
    found = _episodes(pl.DataFrame(rows), 60, bar_s)
    assert [(one["alerts"], one["minutes"]) for one in found] == [(3, minutes)]


def _detector(world: World, **chosen: object) -> Config:
    return world.config.model_copy(update={"detector": world.config.detector.model_copy(update=chosen)})


def test_another_judge_scores_the_lake_with_reasons_from_families(world: World, copied: Callable[[], Lake]) -> None:
    """The ensemble, which asks all of them."""
    lake = copied()
    summary = score_venue(lake, world.venue, world.interval, _detector(world, kind="ensemble"))
    late = rows(lake, "scores").filter(pl.col("ts") > world.interval.start + timedelta(hours=12))
    before = rows(world.lake, "scores").filter(pl.col("ts") > world.interval.start + timedelta(hours=12))
    assert late["anomaly"].null_count() == 0
    assert not late["anomaly"].equals(before["anomaly"])
    assert summary.alerts > 0
    assert late.filter(pl.col("alert"))["reasons"].null_count() < late["alert"].sum()
    again = score_venue(lake, world.venue, world.interval, _detector(world, kind="ensemble"))
    assert again.detector_uri == summary.detector_uri


def test_a_trailing_reference_lies_before_the_interval_and_scores_all_of_it(
    world: World, copied: Callable[[], Lake]
) -> None:
    lake, config = copied(), _detector(world, reference="trailing", reference_h=12.0, gap_min=60)
    start = world.interval.start + timedelta(hours=20)
    summary = score_venue(lake, world.venue, Interval(start, world.interval.end), config)
    assert summary.reference == str(Interval(start - timedelta(hours=13), start - timedelta(hours=1)))
    scored = rows(lake, "scores").filter(pl.col("ts") > start)
    assert scored.height > 0
    assert scored["anomaly"].null_count() == 0


def test_cascades_are_no_part_of_a_trailing_reference(world: World, copied: Callable[[], Lake]) -> None:
    lake = copied()
    span = Interval(world.interval.start + timedelta(hours=2), world.interval.start + timedelta(hours=14))
    label = world.config.label.model_copy(update={"fall_pct": 0.01, "sigmas": 0.0, "refractory_min": 1})
    config = _detector(world, reference="trailing").model_copy(update={"label": label})
    inside = label_events(lake, world.venue, span, config).events
    kept, every = _reference(lake, world.venue, span, config), _reference(lake, world.venue, span, world.config)
    assert inside
    assert 0 < kept.height < every.height
    for event in inside:
        during = kept.filter(pl.col("symbol") == event["symbol"], pl.col("ts").is_between(event["onset"], event["end"]))
        assert during.is_empty()


def test_a_trailing_reference_that_reaches_before_the_lake_is_refused(world: World, copied: Callable[[], Lake]) -> None:
    with pytest.raises(InputError, match="reaches before the first row"):
        score_venue(copied(), world.venue, world.interval, _detector(world, reference="trailing"))


def test_tables_that_are_not_there_are_named_until_the_policy_says_so(
    world: World, copied: Callable[[], Lake], tmp_path: Path
) -> None:
    assert world.guarded.notes == []
    lake = copied()
    for table in ("positions", "collateral"):
        shutil.rmtree(lake.root / "tables" / table)
    last = Interval(world.interval.end - timedelta(hours=1), world.interval.end)
    (note,) = guard_venue(lake, world.venue, last, world.config).notes
    assert note.startswith("there is nothing of positions, collateral, fund: ")
    policy = tmp_path / "policy.toml"
    shipped = Path("guardrails/policy.toml").read_text(encoding="utf-8")
    policy.write_text(shipped.replace("not_published = []", 'not_published = ["positions", "collateral", "fund"]'))
    told = guard_venue(lake, world.venue, last, world.config.model_copy(update={"policy": policy}))
    assert told.notes == []
