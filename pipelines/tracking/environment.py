"""The environment of a run: what MLflow must be told before it is imported, and what is recorded of this machine."""

import logging
import os
import platform
import re
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

DISTRIBUTION = "cascadeguard"
ROOT = Path(__file__).parents[2]
GIT_WAIT_S = 5.0
QUIET = ("mlflow", "alembic", "urllib3.connectionpool")  # errors are raised; a traceback beside them helps nobody
ENVIRONMENT = {
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",
    "MLFLOW_RECORD_ENV_VARS_IN_MODEL_LOGGING": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_UV_AUTO_DETECT": "false",
    "OMP_WAIT_POLICY": "PASSIVE",  # threads that spin while they wait made training ten times slower on busy cores
}  # set before the libraries are imported, unless the user has set them


def prepare_environment() -> None:
    """Settings that MLflow and LightGBM read once, when they are imported: call it first."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def load_mlflow() -> Any:
    prepare_environment()
    import mlflow
    import mlflow.pyfunc

    for name in QUIET:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return mlflow


def surroundings() -> dict[str, Any]:
    """Python, platform, code version and the versions of every package that the project requires and that is there."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "code": code_version(),
        "packages": _packages(),
    }


def code_version() -> str:
    """`git COMMIT`, with `+changes` where tracked files differ from it; without a repository the distribution's."""
    commit = _git("rev-parse", "HEAD")
    if not commit:
        return f"{DISTRIBUTION} {_installed(DISTRIBUTION)}"
    return f"git {commit}" + ("+changes" if _git("status", "--porcelain", "--untracked-files=no") else "")


def _git(*arguments: str) -> str:
    """What git says about our own repository; empty where there is none, or no git."""
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        return ""
    command = [git, "-C", str(ROOT), "--no-optional-locks", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=GIT_WAIT_S)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _packages() -> dict[str, str]:
    try:
        wanted = requires(DISTRIBUTION) or []
    except PackageNotFoundError:
        wanted = []
    names = sorted({re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0] for line in wanted})
    return {name: found for name in names if (found := _installed(name))}
