"""Unit files for systemd and a line for cron that call `cascadeguard run --once`. Text only: nothing is installed.

The command excludes itself (`pipelines.operating.lease`) and catches up what was missed, so a unit needs neither flock
nor a queue. Secrets come from a file of the environment that the unit names and this text never holds.
"""

import shlex
from dataclasses import dataclass
from pathlib import Path

from pipelines.config import ScheduleConfig
from pipelines.errors import InputError

NAME = "cascadeguard"
STRANGE = "\n\r\"'%\\"  # what systemd or cron would read as something else
HARDENED = (
    "UMask=0077",
    "Nice=5",
    "NoNewPrivileges=yes",
    "ProtectSystem=strict",
    "ProtectHome=read-only",
    "PrivateTmp=yes",
    "PrivateDevices=yes",
    "ProtectKernelTunables=yes",
    "ProtectKernelModules=yes",
    "ProtectControlGroups=yes",
    "RestrictSUIDSGID=yes",
    "LockPersonality=yes",
    "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6",
    "CapabilityBoundingSet=",
)


@dataclass(frozen=True)
class Place:
    """Where things lie, all paths absolute."""

    python: Path
    root: Path  # the folder that commands run in
    lake: Path
    config: Path | None
    environment: Path
    reads: tuple[Path, ...] = ()  # folders of sources


def _command(place: Place) -> list[str]:
    named = [] if place.config is None else ["--config", str(place.config)]
    return [str(place.python), "-m", "pipelines", "run", "--once", *named, "--lake", str(place.lake)]


def checked(place: Place) -> Place:
    """The same place. InputError where a path is not absolute or would not survive in a unit file or crontab."""
    paths = [place.python, place.root, place.lake, place.environment, *place.reads]
    for path in [*paths, *([] if place.config is None else [place.config])]:
        if not path.is_absolute() or any(sign in str(path) for sign in STRANGE):
            mend = "use an absolute path without quotes, percent signs, backslashes and line breaks"
            raise InputError("a path cannot stand in a unit file", where=repr(str(path)), mend=mend)
    return place


def quoted(words: list[str]) -> str:
    return " ".join(f'"{word}"' if " " in word else word for word in words)


def service(place: Place, settings: ScheduleConfig) -> str:
    """The unit of one run: it may write the lake and nothing else, and is ended where it would be taken over."""
    at = checked(place)
    limit_s = round(settings.takeover_min * 60)
    lines = [
        "[Unit]",
        "Description=cascadeguard: one scheduled run of everything that is due",
        "After=network-online.target",
        "Wants=network-online.target",
        "",
        "[Service]",
        "Type=oneshot",
        f"WorkingDirectory={at.root}",
        f"EnvironmentFile=-{at.environment}",
        f"CacheDirectory={NAME}",
        f"Environment=NUMBA_CACHE_DIR=/var/cache/{NAME}",  # compiled kernels: the code itself is read-only here
        f"ExecStart={quoted(_command(at))}",
        f"TimeoutStartSec={limit_s}",
        *HARDENED,
        f"ReadWritePaths={quoted([str(at.lake)])}",
    ]
    lines += [f"ReadOnlyPaths=-{quoted([str(path)])}" for path in at.reads]
    return "\n".join(lines) + "\n"


def after_the_hour(settings: ScheduleConfig) -> tuple[int, int]:
    """Minute and second of the first run of an hour: a second after rows have settled."""
    minute, second = divmod(round(settings.settle_s) + 1, 60)
    return minute % settings.interval_min, second


def whole_minutes(settings: ScheduleConfig) -> str:
    """The minutes of `after_the_hour` as the first field of a crontab line."""
    minute, _ = after_the_hour(settings)
    return {1: "*", 60: f"{minute}"}.get(settings.interval_min, f"{minute}-59/{settings.interval_min}")


def timer(settings: ScheduleConfig) -> str:
    """The timer: `settle_s` after every end of an interval; once at boot if ends were missed."""
    minute, second = after_the_hour(settings)
    every = {1: "*", 60: f"{minute}"}.get(settings.interval_min, f"{minute}/{settings.interval_min}")
    return "\n".join(
        [
            "[Unit]",
            f"Description=cascadeguard: a run every {settings.interval_min} minutes",
            "",
            "[Timer]",
            f"OnCalendar=*-*-* *:{every}:{second:02d} UTC",
            "AccuracySec=1s",
            "Persistent=true",
            f"Unit={NAME}.service",
            "",
            "[Install]",
            "WantedBy=timers.target",
        ]
    ) + "\n"  # fmt: skip


def systemd(place: Place, settings: ScheduleConfig) -> str:
    """Both units, each under the name of its file."""
    home = "/etc/systemd/system"
    return (
        f"# {home}/{NAME}.service\n# Secrets, such as passwords of a registry: lines NAME=value in {place.environment} "
        f"(mode 0600).\n{service(place, settings)}\n# {home}/{NAME}.timer\n{timer(settings)}\n"
        f"# systemctl daemon-reload && systemctl enable --now {NAME}.timer\n"
    )


def cron(place: Place, settings: ScheduleConfig) -> str:
    """A line of a crontab. Cron has whole minutes: the line sleeps until rows have settled."""
    at = checked(place)
    _, second = after_the_hour(settings)
    environment = shlex.quote(str(at.environment))
    secrets = f"set -a; [ ! -r {environment} ] || . {environment}; set +a"
    command = f"cd {shlex.quote(str(at.root))} && {shlex.join(_command(at))}"
    return (
        f"# crontab -e; secrets: lines NAME=value in {at.environment} (mode 0600). Cron mails what a run says.\n"
        f"SHELL=/bin/sh\n{whole_minutes(settings)} * * * * sleep {second}; {secrets}; {command}\n"
    )
