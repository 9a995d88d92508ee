"""Unit files: what they say, nothing secret, and what systemd itself thinks of them."""

import shutil
import subprocess
from pathlib import Path

import pytest

from pipelines.config import ScheduleConfig
from pipelines.errors import InputError
from pipelines.operating.units import Place, cron, service, timer

PLACE = Place(
    Path(shutil.which("true") or "/bin/true"),
    Path("/"),
    Path("/srv/risk lake"),
    Path("/etc/cascadeguard.toml"),
    Path("/etc/cascadeguard/environment"),
    (Path("/srv/inbox"),),
)


def settings_of(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith("#"))


def test_the_service_may_write_the_lake_alone_and_takes_secrets_from_a_file() -> None:
    told = settings_of(service(PLACE, ScheduleConfig()))
    assert told["ReadWritePaths"] == '"/srv/risk lake"'
    assert (told["ProtectSystem"], told["PrivateTmp"], told["NoNewPrivileges"]) == ("strict", "yes", "yes")
    assert told["EnvironmentFile"] == "-/etc/cascadeguard/environment"
    assert told["ExecStart"].endswith('run --once --config /etc/cascadeguard.toml --lake "/srv/risk lake"')
    assert told["TimeoutStartSec"] == "1800", "ended when another may take over"
    assert told["Environment"] == "NUMBA_CACHE_DIR=/var/cache/cascadeguard", "the folders of the code are read-only"


@pytest.mark.parametrize(
    ("minutes", "settle_s", "when"),
    [(5, 20, "*:0/5:21"), (5, 90, "*:1/5:31"), (1, 20, "*:*:21"), (60, 20, "*:0:21"), (5, 300, "*:0/5:01")],
)
def test_the_timer_fires_after_rows_have_settled(minutes: int, settle_s: float, when: str) -> None:
    told = settings_of(timer(ScheduleConfig(interval_min=minutes, settle_s=settle_s)))
    assert told["OnCalendar"] == f"*-*-* {when} UTC"
    assert told["Persistent"] == "true"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not here")
@pytest.mark.parametrize("minutes", [1, 5, 60])
def test_systemd_takes_both_units(tmp_path: Path, minutes: int) -> None:
    settings = ScheduleConfig(interval_min=minutes)
    (tmp_path / "cascadeguard.service").write_text(service(PLACE, settings))
    (tmp_path / "cascadeguard.timer").write_text(timer(settings))
    done = subprocess.run(
        ["systemd-analyze", "verify", *map(str, sorted(tmp_path.iterdir()))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_cron_line_is_one_line_that_a_shell_can_read() -> None:
    line = next(line for line in cron(PLACE, ScheduleConfig()).splitlines() if "run --once" in line)
    fields, command = line.split(" ", 5)[:5], line.split(" ", 5)[5]
    assert fields == ["0-59/5", "*", "*", "*", "*"]
    assert "--lake '/srv/risk lake'" in command
    assert subprocess.run(["sh", "-n", "-c", command], check=False).returncode == 0


@pytest.mark.parametrize("path", ["relative/lake", "/a%b", '/a"b', "/a\nExecStart=/bin/sh"])
def test_a_path_that_a_unit_would_read_as_something_else_is_refused(path: str) -> None:
    with pytest.raises(InputError, match="cannot stand in a unit file"):
        service(Place(PLACE.python, PLACE.root, Path(path), None, PLACE.environment), ScheduleConfig())
