"""The house itself: the packages are ours, light to import, and every package has its README."""

import importlib
import re
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

import pytest

from tests.conftest import LONGEST

ROOT = Path(__file__).parents[1]
PACKAGES = ("pipelines", "features", "models", "guardrails")


@pytest.mark.parametrize("name", PACKAGES)
def test_the_four_top_level_packages_are_ours(name: str) -> None:
    assert importlib.import_module(name).__file__ == str(ROOT / name / "__init__.py")


@pytest.mark.parametrize("name", PACKAGES)
def test_every_package_says_what_goes_in_what_comes_out_and_what_it_never_does(name: str) -> None:
    text = (ROOT / name / "README.md").read_text(encoding="utf-8").lower()
    assert all(row in text for row in ("\n| in |", "\n| out |", "\n| never |")), name


def test_the_command_line_starts_without_the_heavy_libraries() -> None:
    """mlflow and lightgbm take seconds to import: `--help` must not wait for them."""
    heavy = ["mlflow", "lightgbm", "sklearn", "polars", "plotly", "numba"]
    code = f"import sys, pipelines.cli; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_no_package_registry_is_named_in_the_lock() -> None:
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert "://" not in text
    assert "--index" not in text


def test_every_dependency_is_pinned_and_what_is_installed_is_what_is_pinned() -> None:
    """A library that was upgraded by hand, or one that the lock lacks, would make this machine another one."""
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    pins = set(re.findall(r"^([a-z0-9._-]+)(?:\[[^]]*\])?==([^\s;]+)", lock, re.MULTILINE))
    assert len(pins) == sum(line[:1].isalnum() for line in lock.splitlines()) > 100  # one may have a pin per platform
    installed = {(re.sub(r"[-_.]+", "-", found.name).lower(), found.version) for found in distributions()}
    named = {name for name, _ in pins}
    ours = {(name, version) for name, version in installed if name in named}
    assert ours <= pins
    assert len(ours) > 100


def test_the_files_that_go_first_are_there() -> None:
    """A name that is gone would leave a long file to the end, and say nothing."""
    names = {path.stem for path in (ROOT / "tests").rglob("test_*.py")}
    assert set(LONGEST) <= names
