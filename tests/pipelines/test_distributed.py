"""Trees grown on Dask: close to those grown here, bound by the same rules, and nothing left running afterwards."""

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.calibration import Floats
from models.fitting import Grow, Recipe, TreeSettings, grow
from models.metrics import average_precision_lift
from models.scorers import Trees
from pipelines.distributed import _local, dask_grow
from pipelines.errors import InputError

FEATURES = ("risky", "safe", "noise")
pytestmark = pytest.mark.service

MONOTONE = {"risky": 1, "safe": -1}
SETTINGS = TreeSettings(rounds=60, leaves=7, leaf_rows_min=50)


@cache
def planted(seed: int) -> tuple[Floats, Floats]:
    """log-odds = -4 + 1.5 risky - safe + 0.3 interval; some values are not known."""
    rng = np.random.default_rng(seed)
    inputs = np.column_stack([rng.normal(size=(12_001, 3)), rng.integers(0, 5, size=12_001)])
    log_odds = -4 + 1.5 * inputs[:, 0] - inputs[:, 1] + 0.3 * inputs[:, 3]
    inputs[rng.random(12_001) < 0.05, 0] = np.nan
    return inputs, (rng.random(12_001) < 1 / (1 + np.exp(-log_odds))).astype(np.float64)


def trees(how: Grow, start: Floats | None = None, settings: TreeSettings = SETTINGS) -> Trees:
    text = Recipe(settings, 7, MONOTONE, how).grown(*planted(0), FEATURES, start)
    return Trees.from_dict({"features": FEATURES, "text": text, "shift": (0.0,) * 5})


def rank_correlation(a: Floats, b: Floats) -> float:
    from scipy.stats import spearmanr

    return float(spearmanr(a, b).statistic)


@pytest.fixture(scope="module")
def on_dask() -> Iterator[Grow]:
    with dask_grow(workers=2) as how:
        yield how


def test_trees_of_two_workers_say_nearly_what_trees_grown_here_say(on_dask: Grow) -> None:
    inputs, happened = planted(1)
    here, there = trees(grow).raw(inputs), trees(on_dask).raw(inputs)
    assert rank_correlation(here, there) > 0.95
    lifts = [average_precision_lift(happened, said) for said in (here, there)]
    assert lifts[0] is not None
    assert lifts[0] > 3
    assert lifts[1] == pytest.approx(lifts[0], rel=0.15)
    assert there.mean() == pytest.approx(here.mean(), abs=0.1)


def test_rows_are_dealt_to_both_workers_and_all_are_counted(on_dask: Grow) -> None:
    """LightGBM notes the range of a feature as the worker saw it that made its bins; each worker makes some."""
    text = trees(on_dask, settings=TreeSettings(rounds=1, leaves=2)).text
    told = dict(line.partition("=")[::2] for line in text.splitlines())
    assert told["internal_count"] == "12001"
    ranges = [[float(edge) for edge in one.strip("[]").split(":")] for one in told["feature_infos"].split()]
    seen = set()
    for column, found in zip(planted(0)[0].T, ranges, strict=True):
        halves = [[np.nanmin(column[k::2]), np.nanmax(column[k::2])] for k in (0, 1)]
        assert found in halves
        seen |= {k for k in (0, 1) if found == halves[k] != halves[1 - k]}
    assert seen == {0, 1}


def test_the_settings_reach_the_workers(on_dask: Grow) -> None:
    text = trees(on_dask, settings=TreeSettings(rounds=3, leaves=4, leaf_rows_min=2000, learning_rate=0.01)).text
    lines = [line.partition("=") for line in text.splitlines()]
    leaves = [[int(n) for n in value.split()] for name, _, value in lines if name == "leaf_count"]
    assert len(leaves) == 3
    assert all(2 <= len(counts) <= 4 and min(counts) >= 2000 for counts in leaves)
    assert [value for name, _, value in lines if name == "shrinkage"][1:] == ["0.01", "0.01"]
    assert "parameters:" not in text


def test_more_of_a_risky_feature_never_lowers_the_risk(on_dask: Grow) -> None:
    found = trees(on_dask)
    rows = np.nan_to_num(planted(1)[0][:500])
    for column, sign in ((0, 1), (1, -1)):
        steps = []
        for value in np.linspace(-4, 4, 41):
            moved = rows.copy()
            moved[:, column] = value
            steps.append(found.raw(moved))
        differences = sign * np.diff(np.array(steps), axis=0)
        assert differences.min() >= -1e-12
        assert differences.max() > 0.01


def test_trees_add_to_the_log_odds_they_start_from(on_dask: Grow) -> None:
    """Started from what is true, trees have next to nothing to add; the order of the rows matters for that."""
    inputs, _ = planted(0)
    start = trees(grow).raw(inputs)
    added = trees(on_dask, start).raw(inputs)
    assert np.std(added) < 0.35 * np.std(start)
    shuffled = trees(on_dask, np.random.default_rng(0).permutation(start)).raw(inputs)
    assert np.std(shuffled) > 2 * np.std(added)
    assert rank_correlation(added, trees(grow, start).raw(inputs)) > 0.9


def _children() -> set[str]:
    """Processes of this one; a test before may have left one that keeps count of shared things."""
    return {pid for path in Path("/proc/self/task").glob("*/children") for pid in path.read_text().split()}


def test_nothing_is_left_when_the_cluster_is_closed() -> None:
    before, children = _listening(), _children()
    with dask_grow(workers=2) as how:
        trees(how, settings=TreeSettings(rounds=2))
        ports = set(_listening()) - set(before)
        assert len(ports) >= 3, "a scheduler and two workers"
        assert {_listening()[port] for port in ports} == {"0100007F"}, "loopback alone"
    deadline = time.monotonic() + 10
    while set(_listening()) & ports and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not set(_listening()) & ports
    assert _children() <= children


def _listening() -> dict[str, str]:
    """Sockets of this process that listen on TCP, by inode; the address as the kernel writes it."""
    held = set()
    for path in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            held.add(str(path.readlink()).removeprefix("socket:[").removesuffix("]"))
    tables = (Path(f"/proc/self/net/{kind}").read_text().splitlines()[1:] for kind in ("tcp", "tcp6"))
    rows = [line.split() for table in tables for line in table]
    return {row[9]: row[1].partition(":")[0] for row in rows if row[3] == "0A" and row[9] in held}


PLAIN = """
import numpy as np
from models.fitting import Recipe, TreeSettings
from pipelines.distributed import _local, dask_grow
rng = np.random.default_rng(0)
x = rng.normal(size=(2000, 3))
with dask_grow() as how:
    text = Recipe(TreeSettings(rounds=2), 1, {}, how).grown(x, (x[:, 0] > 0).astype(float), ("a", "b"))
print(text.count("Tree="))
"""


def test_a_plain_script_without_a_guard_prints_its_own_words_only() -> None:
    """As the command line does it: there a log goes to standard error, and workers would tell of themselves."""
    logs = "from pipelines.observing.logs import configure_logs\nconfigure_logs()\n"
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", logs + PLAIN],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("2\n", "", 0)


def elsewhere(workers: int) -> Any:
    """A cluster that stands already, beside that of `on_dask`."""
    import distributed

    return _local(distributed, workers)


@pytest.mark.usefixtures("on_dask")
def test_a_cluster_elsewhere_is_used_and_left_running() -> None:
    with elsewhere(2) as cluster:
        for _ in range(2):
            with dask_grow(cluster.scheduler_address) as how:
                assert "internal_count=12001" in trees(how, settings=TreeSettings(rounds=1, leaves=2)).text
        assert len(cluster.scheduler_info["workers"]) == 2


def test_a_cluster_without_workers_is_told_in_one_line() -> None:
    with elsewhere(0) as cluster:
        _refused(cluster.scheduler_address, "has no worker")


@pytest.mark.parametrize(
    "address", ["tcp://127.0.0.1:1", "127.0.0.1:999999", "nonsense", "foo://x:1", "tcp://", "", "http://127.0.0.1:1"]
)
def test_an_address_that_does_not_answer_is_told_in_one_line(address: str) -> None:
    _refused(address, "no Dask scheduler answers")


@pytest.mark.parametrize("words", [b"", b"SSH-2.0-OpenSSH_9.6\r\n"])
def test_a_port_of_something_else_is_no_scheduler(words: bytes) -> None:
    """Silent until spoken to, as a web server, or with a greeting of its own."""
    with socket.create_server(("127.0.0.1", 0)) as held:

        def greet() -> None:
            connection, _ = held.accept()
            with connection, suppress(ConnectionResetError):
                connection.sendall(words)
                connection.recv(1)

        other = threading.Thread(target=greet)
        other.start()
        _refused(f"tcp://127.0.0.1:{held.getsockname()[1]}", "no Dask scheduler answers")
        other.join()


def _refused(address: str, words: str) -> None:
    began = time.monotonic()
    with pytest.raises(InputError, match=words) as told, dask_grow(address):
        pass
    assert time.monotonic() - began < 10
    assert address in str(told.value)
    assert "\n" not in str(told.value)
    assert "dask scheduler" in str(told.value)


def test_without_dask_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(InputError, match=r"pip install 'cascadeguard\[distributed\]'"), dask_grow():
        pass


def test_a_training_that_fails_on_the_workers_is_told_in_one_line() -> None:
    """A constraint for one column of four, which the recipe never asks for."""
    wrong = {"objective": "binary", "monotone_constraints": [1], "feature_names": FEATURES, "verbosity": -1}
    with dask_grow() as how, pytest.raises(InputError, match="did not finish the training") as told:
        how(wrong, 2, *planted(0), None)
    assert "\n" not in str(told.value)


def test_stdout_is_given_back_after_growing(on_dask: Grow, capfd: pytest.CaptureFixture[str]) -> None:
    trees(on_dask, settings=TreeSettings(rounds=1))
    print("the answer")
    assert capfd.readouterr().out == "the answer\n"
