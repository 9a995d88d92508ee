"""How Dagster is started beside a lake: its own settings and three units for systemd. Text only: nothing is installed.

Code server, web server and daemon are processes of their own. `dagster dev` starts all and leaves processes behind when
it is stopped; a daemon without a code server starts one anew every minute, for four seconds of CPU each. Nobody asks
for passwords: the web server stays on the loopback address, the code server behind a socket that only its user opens.
"""

from importlib.util import find_spec
from pathlib import Path

from pipelines.config import ScheduleConfig
from pipelines.errors import InputError
from pipelines.operating.units import HARDENED, NAME, Place, checked, quoted

UNITS = Path("/etc/systemd/system")
HOME = Path(f"/var/lib/{NAME}/dagster")
MODULE = "pipelines.orchestrating.definitions"
PORT = 3000
CODE, WEB, DAEMON = (f"{NAME}-dagster-{part}" for part in ("code", "webserver", "daemon"))
SOCKET = HOME / "code.sock"
CONFIG_VARIABLE = "CASCADEGUARD_CONFIG"
WORKSPACE = f"""\
load_from:
  - grpc_server:
      socket: {SOCKET}
      location_name: {NAME}
"""
SETTINGS = """\
telemetry:
  enabled: false
nux:
  enabled: false
concurrency:
  pools:
    granularity: run
    default_limit: 1
retention:
  schedule:
    purge_after_days:
      skipped: 7
      success: 30
"""


def need_dagster() -> None:
    """InputError without the extra; nothing of it is imported."""
    if find_spec("dagster") is None or find_spec("dagster_webserver") is None:
        raise InputError("Dagster is not installed", mend="install cascadeguard with the extra `orchestrate`")


def _unit(at: Place, what: str, after: str, commands: list[list[str]], access: list[str]) -> str:
    """One unit; all but the last of `commands` are done before it."""
    named = {"DAGSTER_HOME": HOME, "CASCADEGUARD_LAKE": at.lake, "DAGSTER_DISABLE_TELEMETRY": "yes"}
    named |= {"NUMBA_CACHE_DIR": f"/var/cache/{NAME}"} | ({} if at.config is None else {CONFIG_VARIABLE: at.config})
    return "\n".join(
        [
            "[Unit]",
            f"Description={NAME}: Dagster's {what}",
            f"After={after}",
            f"Wants={after}",
            "",
            "[Service]",
            f"WorkingDirectory={at.root}",
            f"EnvironmentFile=-{at.environment}",
            f"StateDirectory={NAME}/dagster",
            f"CacheDirectory={NAME}",
            *(f"Environment={quoted([f'{name}={value}'])}" for name, value in named.items()),
            *(f"ExecStartPre={quoted(command)}" for command in commands[:-1]),
            f"ExecStart={quoted(commands[-1])}",
            "Restart=on-failure",
            *HARDENED,
            *access,
            "",
            "[Install]",
            "WantedBy=multi-user.target",
        ]
    ) + "\n"  # fmt: skip


def code(place: Place) -> str:
    """The unit of the code server: runs are its children, and it alone may write the lake.

    It makes Dagster's own store before it starts, and the others come after it: two processes that meet a new store
    at the same moment both fail on it.
    """
    at = checked(place)
    program = str(at.python.with_name("dagster"))
    serve = [program, "code-server", "start", "-m", MODULE, "-d", str(at.root), "-s", str(SOCKET)]
    access = [f"ReadWritePaths={quoted([str(at.lake)])}"]
    access += [f"ReadOnlyPaths=-{quoted([str(path)])}" for path in at.reads]
    commands = [[program, "instance", "migrate"], serve]
    return _unit(at, "code server, and the runs it starts", "network-online.target", commands, access)


def _beside(place: Place, what: str, command: list[str]) -> str:
    at = checked(place)
    reads = [f"ReadOnlyPaths={quoted([str(at.lake)])}"]
    return _unit(at, what, f"{CODE}.service", [[*command, "-w", str(HOME / "workspace.yaml")]], reads)


def webserver(place: Place) -> str:
    """The unit of the web server: pages and their API on the loopback address."""
    program = str(place.python.with_name("dagster-webserver"))
    return _beside(place, "web server", [program, "-h", "127.0.0.1", "-p", str(PORT)])


def daemon(place: Place) -> str:
    """The unit of the daemon: schedules, the queue, backfills."""
    return _beside(place, "daemon", [str(place.python.with_name("dagster-daemon")), "run"])


def dagster(place: Place, _settings: ScheduleConfig) -> str:
    """Settings and units, each under the name of its file. InputError where the extra is not installed."""
    need_dagster()
    secrets = f"Secrets, such as passwords of a registry: lines NAME=value in {place.environment} (mode 0600)."
    tunnel = "It has no passwords: reach it through a tunnel, or through a proxy that asks for some."
    files = {
        HOME / "dagster.yaml": SETTINGS,
        HOME / "workspace.yaml": WORKSPACE,
        UNITS / f"{CODE}.service": f"# {secrets}\n{code(place)}",
        UNITS / f"{WEB}.service": f"# {tunnel}\n{webserver(place)}",
        UNITS / f"{DAEMON}.service": daemon(place),
    }
    told = [
        f"# systemctl daemon-reload && systemctl enable --now {CODE} {WEB} {DAEMON}",
        f"# Then switch on the schedule `run_due` in Dagster, or keep {NAME}.timer: not both.",
    ]
    return "\n".join([*(f"# {path}\n{text}" for path, text in files.items()), *told]) + "\n"
