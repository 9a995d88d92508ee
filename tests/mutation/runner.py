"""Run the tests against one mutant: in a process of its own, forked from one that has imported much and run nothing.

The thread pool of polars does not survive a fork once a query has used it. So this process imports pytest, hypothesis
and polars, never runs a query and never imports what is mutated; every child installs its mutant and runs the tests.
"""

import ast
import gc
import importlib
import importlib.abc
import importlib.util
import os
import resource
import select
import signal
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import hypothesis
import hypothesis.strategies
import polars
import pytest

from tests.mutation.mutants import Mutant, apply
from tests.mutation.reach import OF_TABLES, ROOT, Reach

PRELOADED = (polars, hypothesis.strategies)
KILLED, SURVIVED, TIMED_OUT = "killed", "survived", "timed out"
PYTEST = (
    "-q", "-x", "--tb=no", "-p", "no:cacheprovider", "-p", "no:unraisableexception",
    "-p", "_hypothesis_pytestplugin", "-p", "pytest_timeout",
)  # fmt: skip
OF_EVERYTHING = "tests/guardrails/test_approved.py"
KILLERS_MAX = 12
FIRST_S = 3.0  # seconds of tests that are collected first: most mutants end there


class _Mutated(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives out the mutated tree in place of the module's file."""

    def __init__(self, module: str, file: Path, tree: ast.Module) -> None:
        self.module, self.file, self.tree = module, file, tree

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if fullname != self.module:
            return None
        return importlib.util.spec_from_file_location(fullname, self.file, loader=self)

    def exec_module(self, module: ModuleType) -> None:
        exec(compile(self.tree, str(self.file), "exec"), module.__dict__)


class _Chosen:
    """A pytest plugin: only the tests that reach the mutant, the quick ones first, with fixed dice and no database.

    The name of the test that fails is written to `told`.
    """

    def __init__(self, tests: Sequence[str], told: int) -> None:
        self.order = {test: place for place, test in enumerate(tests)}
        self.told = told

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            os.write(self.told, report.nodeid.encode()[:4000])

    def pytest_collection(self) -> None:
        phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
        checks = list(hypothesis.HealthCheck)
        hypothesis.settings.register_profile(
            "mutants", deadline=None, max_examples=50, database=None, derandomize=True, phases=phases,
            suppress_health_check=checks,
        )  # fmt: skip
        hypothesis.settings.load_profile("mutants")

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = sorted((item for item in items if item.nodeid in self.order), key=lambda one: self.order[one.nodeid])


def _passes(tests: Sequence[str], reach: Reach, told: int) -> bool:
    """Whether the tests pass; collected in two parts, for most mutants die of the first."""
    spent, cut = 0.0, 0
    while cut < len(tests) and spent < FIRST_S:
        spent += reach.seconds[tests[cut]]
        cut += 1
    for part in (tests[:cut], tests[cut:]):
        files = dict.fromkeys(test.split("::")[0] for test in part)
        if files and pytest.main([*PYTEST, *files], plugins=[_Chosen(part, told)]) not in (0, 5):
            return False
    return True


def _child(
    mutant: Mutant | None, tree: ast.Module, file: Path, tests: Sequence[str], reach: Reach, *, told: int
) -> int:
    """0 where the tests pass in spite of the mutant, 1 where one fails or nothing can be imported."""
    module = f"guardrails.{file.stem}"
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # of those installed, two are used here
    gc.disable()
    if mutant is not None:
        apply(mutant)
    sys.meta_path.insert(0, _Mutated(module, file, ast.fix_missing_locations(tree)))
    try:
        importlib.import_module(module)
        return 0 if _passes(tests, reach, told) else 1
    except BaseException:
        return 1


def _ended(pid: int, limit_s: float) -> int | None:
    """The exit code of a child, None where it had to be ended after `limit_s`."""
    watch = os.pidfd_open(pid)
    try:
        ready, _, _ = select.select([watch], [], [], limit_s)
    finally:
        os.close(watch)
    if not ready:
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status) if ready else None


def judged_by_tests(
    mutant: Mutant | None, tree: ast.Module, file: Path, tests: Sequence[str], reach: Reach
) -> tuple[str, str]:
    """`killed` where a test fails, `survived` where all pass, `timed out` after ten times as long; and the test.

    None is the source as it stands: what tests must pass. Raises RuntimeError where it is too late for a mutant.
    """
    if any(name.startswith("guardrails.") for name in sys.modules):
        raise RuntimeError("mutants are run from a process that has not imported guardrails")
    limit_s = 60 + 10 * sum(reach.seconds[test] for test in tests)
    gc.freeze()
    end, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os._exit(_child(mutant, tree, file, tests, reach, told=told))
    os.close(told)
    code = _ended(pid, limit_s)
    with os.fdopen(end, "rb") as pipe:
        killer = pipe.read().decode()
    if code is None:
        return TIMED_OUT, killer
    return (SURVIVED if code == 0 else KILLED), killer


def ordered(mutant: Mutant, file: Path, reach: Reach, tests_s_max: float, killers: Sequence[str] = ()) -> list[str]:
    """The tests that reach the mutant, at most `tests_s_max`: what survives so many seconds counts as survived.

    First the last few that killed another mutant of the module, then those of its own file and those that see every
    outcome, then the quick ones.
    """
    name = str(file.relative_to(ROOT))
    own = (f"tests/guardrails/test_{file.stem}.", OF_TABLES, OF_EVERYTHING, name)
    tests = reach.of(name, *mutant.statement)
    lately = {test: place for place, test in enumerate(reversed(killers[-KILLERS_MAX:]))}
    found = sorted(
        tests,
        key=lambda test: (lately.get(test, KILLERS_MAX), not test.startswith(own), reach.seconds[test], test),
    )
    spent, kept = 0.0, []
    for test in found:
        spent += reach.seconds[test]
        if spent > tests_s_max:
            break
        kept.append(test)
    return kept
