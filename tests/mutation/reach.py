"""Which tests reach which line of `guardrails/`, and how long each takes: measured once, kept beside the results."""

import hashlib
import json
import os
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import pytest
from coverage import CoverageData

ROOT = Path(__file__).parents[2]
OF_TABLES = "tests/guardrails/test_tables.py"
TESTS = ("tests/guardrails", "guardrails")


@dataclass(frozen=True, slots=True)
class Reach:
    """`lines[file][line]`: the tests that run it; `seconds[test]`: how long the test takes."""

    lines: dict[str, dict[int, tuple[str, ...]]]
    seconds: dict[str, float]

    def of(self, file: str, first: int, last: int) -> set[str]:
        """The tests that run a line of `first` to `last`; of what runs at import alone, those of all of `file`."""
        lines = self.lines.get(file, {})
        found = {test for line in range(first, last + 1) for test in lines.get(line, ())}
        return (
            found or {test for tests in lines.values() for test in tests} | self._at_import(file) or set(self.seconds)
        )

    def _at_import(self, file: str) -> set[str]:
        """The tests of what is fixed at import and may run no line of `file`: its own, and those of all columns."""
        of_import = (f"tests/guardrails/test_{Path(file).stem}.", OF_TABLES)
        return {test for test in self.seconds if test.startswith(of_import)}


class Stopwatch:
    """A pytest plugin: only the tests that are not known yet, and how long each of them took."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seconds: dict[str, float] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        self.took: dict[str, float] = defaultdict(float)

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        names = {item.nodeid for item in items}
        self.seconds = {test: took for test, took in self.seconds.items() if test in names}
        items[:] = [item for item in items if item.nodeid not in self.seconds]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.took[report.nodeid] += report.duration

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        if exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            self.path.write_text(json.dumps(self.seconds | self.took), encoding="utf-8")


def digest() -> str:
    """SHA-256 of the sources: other lines, another measurement of all tests."""
    files = sorted((ROOT / "guardrails").glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _measure(folder: Path) -> None:
    """Run every test that is not known yet in a process of its own, with coverage that knows the test."""
    code = (
        "import sys, pytest; from pathlib import Path; from tests.mutation.reach import Stopwatch, TESTS; "
        "code = pytest.main(['-q', '-n0', '-p', 'no:cacheprovider', '--cov=guardrails', '--cov-context=test', "
        "'--cov-append', '--cov-report=', *TESTS], plugins=[Stopwatch(Path(sys.argv[1]))]); "
        "sys.exit(0 if code == 5 else code)"  # 5: all tests are known
    )
    run = [sys.executable, "-c", code, str(folder / "seconds.json")]
    if subprocess.run(
        run, check=False, cwd=ROOT, env=os.environ | {"COVERAGE_FILE": str(folder / "coverage")}
    ).returncode:
        raise SystemExit("mutants can only be judged by tests that pass")


def _collected(folder: Path) -> Reach:
    data = CoverageData(str(folder / "coverage"))
    data.read()
    seconds: dict[str, float] = json.loads((folder / "seconds.json").read_text(encoding="utf-8"))
    lines: dict[str, dict[int, tuple[str, ...]]] = {}
    for file in data.measured_files():
        contexts = data.contexts_by_lineno(file)
        tests = {line: {name.split("|")[0] for name in names} for line, names in contexts.items()}
        lines[str(Path(file).relative_to(ROOT))] = {
            line: tuple(sorted(names & seconds.keys())) for line, names in tests.items()
        }
    return Reach(lines, seconds)


def measured(folder: Path) -> Reach:
    """The reach of the tests as they stand now; tests that `folder` knows of the same sources are not run again."""
    stamp, now = folder / "reach.sha256", digest()
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != now:
        for old in ("coverage", "seconds.json", "reach.sha256"):
            (folder / old).unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    _measure(folder)
    stamp.write_text(now, encoding="utf-8")
    return _collected(folder)
