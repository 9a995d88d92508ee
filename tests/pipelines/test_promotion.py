"""Who scores, since when and why; the way back; and that neither a gate nor a kill can leave a champion that fails."""

import json
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import cli
from pipelines.config import MlflowConfig
from pipelines.errors import InputError
from pipelines.promotion import Change, Entry, GateReport, history, promote, record_gate, rollback, standing
from pipelines.tracking import Registry, RegistryError
from tests.pipelines.registry_clients import Point, watched
from tests.pipelines.registry_worlds import RECORD, START, warning_model

PASSED = GateReport("contest", True, '{"promote": true, "checks": []}')
FAILED = GateReport("contest", False, '{"promote": false, "checks": []}')


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """A store in which three models are written; writing takes a second each, so tests only name them anew."""
    found = Registry(MlflowConfig(), tmp_path_factory.mktemp("lake"))
    for variant in (1, 2, 3):
        found.log_warning(warning_model(variant), RECORD)
    return found


@pytest.fixture
def registry(written: Registry, request: pytest.FixtureRequest) -> Registry:
    """Three versions under a name of the test's own, their files too; none is champion."""
    name = "".join(letter if letter.isalnum() else "-" for letter in request.node.name)
    client = written.store.client()
    client.create_registered_model(name)
    for row in reversed(written.list_models()):
        folder = written.store.home / "copies" / name / row["version"]
        shutil.copytree(folder_of(written, row["run_id"]), folder)
        client.create_model_version(name, folder.as_uri(), run_id=row["run_id"], tags=row["tags"])
    return Registry(MlflowConfig(experiment=name, warning_name=name), written.store.home.parent)


def folder_of(registry: Registry, run_id: str) -> Path:
    """Where the model of a run lies in the embedded store."""
    places = (registry.store.home / "artifacts").rglob("MLmodel")
    return next(place.parent for place in places if f"run_id: {run_id}" in place.read_text(encoding="utf-8"))


def name_of(registry: Registry) -> str:
    return registry.settings.warning_name


def put(registry: Registry, version: str, why: str = "better", day: int = 0) -> Change:
    return promote(registry, name_of(registry), version, why, PASSED, at=START + timedelta(days=day))


def back(registry: Registry, day: int = 9) -> Change:
    return rollback(registry, name_of(registry), "worse", at=START + timedelta(days=day))


def champion(registry: Registry) -> str | None:
    """The version that scores now; it is loaded and is what it says."""
    found = registry.load_warning()
    if found is None:
        return None
    version = found[1].rsplit("/", 1)[1]
    assert found[0].to_json() == warning_model(int(version)).to_json()
    return version


def alias(registry: Registry, name: str) -> str | None:
    found = registry.find_alias(name_of(registry), name)
    return None if found is None else str(found.version)


def test_the_former_champion_is_kept_with_time_and_reason(registry: Registry) -> None:
    first = put(registry, "1", "the first", day=0)
    assert (first.champion, first.previous, first.was, first.changed) == ("1", None, None, True)
    second = put(registry, "2", "it ranks\nbetter", day=1)
    assert (second.champion, second.previous, second.was) == ("2", "1", "1")
    assert (champion(registry), alias(registry, "previous")) == ("2", "1")
    last = history(registry, name_of(registry))[-1]
    assert last == Entry(2, "promote", "2025-01-02T00:00:00.000000+00:00", "1", "2", "it ranks better", False)


def test_promoting_the_champion_changes_nothing(registry: Registry) -> None:
    put(registry, "1")
    put(registry, "2")
    again = put(registry, "2", day=5)
    assert (again.changed, again.champion, again.previous) == (False, "2", "1")
    assert len(history(registry, name_of(registry))) == 2


def test_the_gate_is_kept_in_the_run_and_as_tags(registry: Registry) -> None:
    import mlflow

    record_gate(registry, name_of(registry), "1", FAILED)
    put(registry, "1")
    row = next(row for row in registry.list_models() if row["version"] == "1")
    assert (row["gate"], row["gate_passed"], row["forced"]) == ("contest", True, False)
    text = mlflow.artifacts.load_text(f"runs:/{row['run_id']}/{row['tags']['gate_report']}")
    assert text == PASSED.report
    assert mlflow.artifacts.load_text(f"runs:/{row['run_id']}/{FAILED.file}") == FAILED.report


@pytest.mark.parametrize("gate", [None, FAILED])
def test_without_a_passed_gate_a_promotion_must_be_forced_with_a_reason(
    registry: Registry, gate: GateReport | None
) -> None:
    name = name_of(registry)
    put(registry, "1")
    said = "no gate has judged" if gate is None else "did not pass its gate contest"
    with pytest.raises(InputError, match=said):
        promote(registry, name, "2", "please", gate, at=START)
    with pytest.raises(InputError, match="needs a reason"):
        promote(registry, name, "2", "  ", gate, at=START, force=True)
    assert champion(registry) == "1"
    change = promote(registry, name, "2", "the old one is blind", gate, at=START, force=True)
    assert (change.forced, champion(registry)) == (True, "2")
    row = next(row for row in registry.list_models() if row["version"] == "2")
    assert (row["forced"], row["tags"]["forced_why"]) == (True, "the old one is blind")
    assert history(registry, name)[-1].forced


def test_a_passed_gate_needs_no_force_and_is_not_called_forced(registry: Registry) -> None:
    change = promote(registry, name_of(registry), "1", "all the same", PASSED, at=START, force=True)
    assert not change.forced
    assert not history(registry, name_of(registry))[-1].forced


def test_rollbacks_step_back_one_by_one_until_nothing_is_left(registry: Registry) -> None:
    for day, version in enumerate("123"):
        put(registry, version, day=day)
    assert (back(registry).sentence(), champion(registry)) == (
        f"models:/{name_of(registry)}/2 is now the champion, the way back is version 1",
        "2",
    )
    assert alias(registry, "previous") == "1"
    assert (back(registry).previous, champion(registry), alias(registry, "previous")) == (None, "1", None)
    with pytest.raises(InputError, match="nothing to roll back, version 1 is the first champion"):
        back(registry)
    put(registry, "3", day=20)
    assert (back(registry).champion, champion(registry)) == ("1", "1")
    kinds = [(entry.kind, entry.was, entry.to) for entry in history(registry, name_of(registry))]
    assert kinds == [
        ("promote", None, "1"),
        ("promote", "1", "2"),
        ("promote", "2", "3"),
        ("rollback", "3", "2"),
        ("rollback", "2", "1"),
        ("promote", "1", "3"),
        ("rollback", "3", "1"),
    ]


def test_without_a_champion_there_is_nothing_to_roll_back(registry: Registry, tmp_path: Path) -> None:
    for empty in (registry, Registry(MlflowConfig(), tmp_path)):
        with pytest.raises(InputError, match="nothing to roll back, there is no champion"):
            back(empty)
    assert list(tmp_path.iterdir()) == []


def test_a_champion_set_by_hand_is_one_step_too(registry: Registry) -> None:
    put(registry, "1")
    registry.set_alias(name_of(registry), "3")
    assert (put(registry, "2").previous, back(registry).champion, back(registry).champion) == ("3", "3", "1")


def test_nothing_moves_to_a_model_that_cannot_be_loaded(registry: Registry) -> None:
    put(registry, "1")
    put(registry, "2")
    spoil(registry, "1")
    spoil(registry, "3")
    for move in (lambda: put(registry, "3"), lambda: back(registry), lambda: put(registry, "9")):
        with pytest.raises(RegistryError):
            move()
    assert champion(registry) == "2"
    assert [entry.to for entry in history(registry, name_of(registry))] == ["1", "2"]


def test_a_former_champion_that_cannot_be_loaded_is_no_way_back(registry: Registry) -> None:
    put(registry, "1")
    spoil(registry, "1")
    change = put(registry, "2")
    assert (change.previous, alias(registry, "previous")) == (None, None)
    assert "no alias previous: version 1 of" in change.sentence()


def spoil(registry: Registry, version: str) -> None:
    """Half a model text for this version of the test's own."""
    folder = registry.store.home / "copies" / name_of(registry) / version / "artifacts"
    (folder / "model.json").write_text("{}")


class Killed(BaseException):
    """Stands for the end of the process: nobody catches it."""


WRITES = [
    Point("log_text", "after"),
    Point("set_model_version_tag", "after", 2),
    Point("set_registered_model_tag", "before"),
    Point("set_registered_model_tag", "after"),
    Point("set_registered_model_alias", "before"),
    Point("set_registered_model_alias", "after"),
    Point("set_registered_model_alias", "before", 2),
    Point("set_registered_model_alias", "after", 2),
]


@pytest.mark.parametrize("point", WRITES, ids=str)
def test_wherever_a_promotion_is_killed_the_champion_is_whole_and_both_ways_are_open(
    registry: Registry, point: Point, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    put(registry, "1")
    put(registry, "2", day=1)
    with monkeypatch.context() as patched:
        patched.setattr(
            mlflow.MlflowClient, point.method, watched(getattr(mlflow.MlflowClient, point.method), point, die)
        )
        with pytest.raises(Killed):
            put(registry, "3", day=2)
    moved = point in WRITES[5:]
    assert champion(registry) == ("3" if moved else "2")
    assert back(registry).champion == ("2" if moved else "1")
    assert (put(registry, "3", day=3).champion, champion(registry)) == ("3", "3")
    assert alias(registry, "previous") == ("2" if moved else "1")


@pytest.mark.parametrize("point", WRITES[2:], ids=str)
def test_wherever_a_rollback_is_killed_it_can_be_done_again(
    registry: Registry, point: Point, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    for day, version in enumerate("123"):
        put(registry, version, day=day)
    with monkeypatch.context() as patched:
        patched.setattr(
            mlflow.MlflowClient, point.method, watched(getattr(mlflow.MlflowClient, point.method), point, die)
        )
        with pytest.raises(Killed):
            back(registry)
    now = champion(registry)
    assert now == ("2" if point in WRITES[5:] else "3")
    assert back(registry).champion == {"3": "2", "2": "1"}[now]


def die() -> None:
    raise Killed


def test_two_clients_at_once_write_two_entries() -> None:
    one, other = (Entry(4, "promote", f"2025-01-01T00:00:0{k}", "1", str(k), "") for k in (2, 3))
    assert one.tag()[0] != other.tag()[0]
    # both started from 1 and the alias of 3 came last: 2 is void, or it was champion for a moment
    assert standing([one, other], "3") == ("1", "3")


@given(st.data())
@settings(max_examples=200)
def test_the_stack_of_champions_is_what_a_plain_stack_says_whatever_is_killed(data: st.DataObject) -> None:
    """Moves are promotions and rollbacks; a killed one leaves its entry but moves nothing."""
    entries: list[Entry] = []
    plain: list[str] = []
    for number in range(1, data.draw(st.integers(1, 12)) + 1):
        was = plain[-1] if plain else None
        down = len(plain) > 1 and data.draw(st.booleans())
        to = plain[-2] if down else data.draw(st.sampled_from([v for v in "12345" if v != was]))
        entries.append(Entry(number, "rollback" if down else "promote", "t", was, to, ""))
        if data.draw(st.booleans()):
            if down:
                plain.pop()
            else:
                plain.append(to)
        assert standing(entries, plain[-1] if plain else None) == tuple(plain)


def test_a_history_that_was_tampered_with_is_one_line(registry: Registry) -> None:
    import mlflow

    put(registry, "1")
    mlflow.MlflowClient(registry.store.uri).set_registered_model_tag(name_of(registry), "history.00001.x", "{}")
    with pytest.raises(RegistryError, match="was changed"):
        history(registry, name_of(registry))


Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(registry: Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """The command line on the test's own registry: exit code, standard output, standard error."""
    name = name_of(registry)
    place = tmp_path / "own.toml"
    place.write_text(f'[mlflow]\nexperiment = "{name}"\nwarning_name = "{name}"\n')

    def run(*arguments: str) -> tuple[int, str, str]:
        lake = str(registry.store.home.parent)
        code = cli.run(["models", *arguments, "--lake", lake, "--config", str(place)])
        return code, *capsys.readouterr()

    return run


def test_the_command_lists_promotes_shows_and_rolls_back(registry: Registry, command: Command) -> None:
    name = name_of(registry)
    put(registry, "1")
    code, out, _ = command()
    assert code == 0
    assert out.splitlines()[0].split() == ["uri", "aliases", "gate", "metric", "created"]
    assert out.splitlines()[-1].split()[:5] == [f"models:/{name}/1", "champion", "passed", "ap", "0.25"]
    code, out, err = command("promote", "2")
    assert (code, out) == (2, "")
    assert err == (
        f'error: no gate has judged this version: models:/{name}/2; promote it all the same with --force --why "..."\n'
    )
    code, out, _ = command("promote", "2", "--force", "--why", "a trial", "--json")
    assert json.loads(out) | {"notes": []} == {
        "name": name,
        "champion": "2",
        "previous": "1",
        "was": "1",
        "why": "a trial",
        "forced": True,
        "changed": True,
        "notes": [],
    }
    code, out, _ = command("show", "champion")
    assert (code, out.splitlines()[0]) == (0, f"models:/{name}/2")
    assert "loads: yes" in out
    assert "1 -> 2 (promote, forced): a trial" in out
    assert "train: v matrix" in out
    code, out, _ = command("rollback", "--why", "enough")
    assert (code, out) == (0, f"models:/{name}/1 is now the champion, the way back is none\n")
    code, _, err = command("rollback")
    assert code == 2
    assert err.startswith("error: nothing to roll back, version 1 is the first champion")


@pytest.mark.parametrize("target", ["1", "champion", "models:/{}/1", "models:/{}@champion"])
def test_show_finds_a_version_by_every_kind_of_name(registry: Registry, command: Command, target: str) -> None:
    put(registry, "1")
    code, out, _ = command("show", target.format(name_of(registry)), "--json")
    told = json.loads(out)
    assert (code, told["version"], told["aliases"], told["loads"]) == (0, "1", ["champion"], "yes")
    assert told["run"]["config"] == RECORD.config
    assert [lot["digest"] for lot in told["run"]["datasets"]]
    assert len(told["history"]) == 1


@pytest.mark.parametrize("target", ["99", "nobody", "models:/nothing/1", "runs:/x"])
def test_show_says_in_one_line_what_is_not_there(command: Command, target: str) -> None:
    code, out, err = command("show", target)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "cascadeguard models" in err


def test_options_may_stand_before_the_word(
    registry: Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(registry, "1")
    name = name_of(registry)
    place = tmp_path / "own.toml"
    place.write_text(f'[mlflow]\nwarning_name = "{name}"\n')
    lake = str(registry.store.home.parent)
    assert cli.run(["models", "--lake", lake, "--config", str(place), "--json", "show", "1"]) == 0
    assert json.loads(capsys.readouterr().out)["uri"] == f"models:/{name}/1"


def test_the_commands_on_an_untouched_lake_leave_it_untouched(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lake = ["--lake", str(tmp_path / "L")]
    assert cli.run(["models", *lake]) == 0
    assert capsys.readouterr().out == "no models\n"
    for words in (["promote", "1"], ["rollback"], ["show", "champion"]):
        assert cli.run(["models", *words, *lake]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "L").exists()
