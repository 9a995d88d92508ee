"""A process that has imported everything and forks a child for each command: a run without its seconds of imports.

Reads one JSON object a line: `{"argv": [...], "env": {...}, "cwd": ..., "out": ..., "file_bytes_max": ...}` is answered
by `{"pid": ...}`, `{"wait": pid}` by `{"status": exit code}` once that child has ended. Several may be at work.
No query is run in here: a child of a process whose polars has started its threads would hang.
"""

import importlib
import json
import os
import resource
import signal
import sys
from typing import Any

IMPORTED = (
    "pipelines.cli",
    "pipelines.ingest",
    "pipelines.operating.backfill",
    "pipelines.operating.run",
    "pipelines.operating.venues",
    "pipelines.score",
    "pipelines.adapters.table",
    "numba.core.typing.cffi_utils",
)


def _child(asked: dict[str, Any]) -> None:
    os.setsid()
    os.environ.update(asked.get("env", {}))
    out = os.open(asked["out"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.chdir(asked["cwd"])
    if asked.get("file_bytes_max"):
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (asked["file_bytes_max"],) * 2)
    from pipelines import cli

    code = 1
    try:
        code = cli.run(asked["argv"])
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _warm() -> None:
    """What a run does once and is the same in all: Apprise's services, the plans of features, numba's registries."""
    from numba.core.registry import cpu_target

    from features.plans import plans
    from pipelines.alerting.sinks import load

    load()
    plans(60)
    cpu_target.typing_context.refresh()
    cpu_target.target_context.refresh()


def main() -> None:
    for name in IMPORTED:
        importlib.import_module(name)
    _warm()
    answers = os.fdopen(os.dup(1), "w")
    commands = sys.stdin
    answers.write(json.dumps({"ready": True}) + "\n")
    answers.flush()
    for line in commands:
        asked = json.loads(line)
        if "wait" in asked:
            _, status = os.waitpid(asked["wait"], 0)
            answers.write(json.dumps({"status": os.waitstatus_to_exitcode(status)}) + "\n")
        else:
            pid = os.fork()
            if pid == 0:
                _child(asked)
            answers.write(json.dumps({"pid": pid}) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
