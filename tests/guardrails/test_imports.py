"""Independent of models, disk, clock and dice: a property of the source text."""

import ast
import sys
from pathlib import Path

import pytest

import guardrails

FILES = sorted(Path(str(guardrails.__file__)).parent.glob("*.py"))
ALLOWED = set(sys.stdlib_module_names) | {"polars", "guardrails"}
NEVER = {
    "os", "time", "random", "pathlib", "io", "socket", "subprocess", "secrets", "tempfile", "shutil", "urllib", "uuid",
    "asyncio", "threading", "importlib", "sqlite3", "logging", "platform", "sys",
}  # fmt: skip
CALLS = {"now", "utcnow", "today", "open", "eval", "exec", "__import__", "input", "print", "read_csv", "read_parquet",
         "scan_parquet", "scan_csv", "write_parquet", "write_csv", "sink_parquet", "sample", "shuffle"}  # fmt: skip


def faults(source):
    found = []
    for node in ast.walk(ast.parse(source)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
        roots = {name.split(".")[0] for name in names}
        found += sorted((roots - ALLOWED) | (roots & NEVER))
        if isinstance(node, ast.ImportFrom) and node.level:
            found.append("a relative import")
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            found += [called] if called in CALLS else []
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_guardrails_import_the_standard_library_and_polars_and_touch_nothing(path):
    assert faults(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "planted",
    [
        "import numpy",
        "from features.schema import Bars",
        "import models.detector",
        "import os",
        "from pathlib import Path",
        "def f():\n    import random",
        "from datetime import datetime\ndatetime.now()",
        "open('x')",
        "from . import policy",
        "import lightgbm as l",
        "pl.read_parquet('x')",
    ],
)
def test_the_scan_finds_what_it_is_for(planted):
    assert faults(planted) != []


def test_the_scan_sees_every_module_of_the_package():
    assert len(FILES) >= 10
    assert {"decide.py", "policy.py", "facts.py", "proposal.py", "audit.py"} <= {path.name for path in FILES}
