"""What is judged along with chosen hours, and the text that starts Dagster: nothing of it runs."""

import shutil
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipelines.cli import app
from pipelines.config import ScheduleConfig
from pipelines.errors import InputError
from pipelines.operating.units import Place
from pipelines.orchestrating import units
from pipelines.orchestrating.checks import CHECKS
from pipelines.orchestrating.hours import with_what_follows
from pipelines.times import Interval, parse_time

ROOT = Path(__file__).parents[3]
FIVE = Interval(parse_time("2025-01-02T05:00Z"), parse_time("2025-01-02T06:00Z"))
LATER = parse_time("2025-02-01")
PLACE = Place(
    Path(sys.executable), ROOT, Path("/srv/risk lake"), Path("/etc/cg.toml"), Path("/etc/secrets"), (Path("/srv/in"),)
)


# --- what is judged along


@pytest.mark.parametrize(
    ("judged", "until"),
    [
        (None, "06:00"),
        ("2025-01-02T04:00Z", "06:00"),  # everything judged lies before
        ("2025-01-02T06:00Z", "06:00"),
        ("2025-01-02T06:25Z", "06:25"),  # a schedule is at work on the hour that is not over
        ("2025-01-04T06:00Z", "06:00"),  # late_h_max, 48 hours, and not a minute more
    ],
)
def test_what_was_judged_behind_the_chosen_hours_is_judged_along(judged: str | None, until: str) -> None:
    found = with_what_follows(FIVE, None if judged is None else parse_time(judged), ScheduleConfig(), LATER)
    assert (found.start, f"{found.end:%H:%M}") == (FIVE.start, until)
    assert judged is None or found.end >= parse_time(judged)


def test_so_much_behind_the_hours_that_nobody_would_expect_it_is_refused_with_what_to_choose() -> None:
    judged = FIVE.end + timedelta(hours=48, minutes=1)
    with pytest.raises(InputError, match="choose 2025-01-02-05:00 to 2025-01-04-05:00, which is one run"):
        with_what_follows(FIVE, judged, ScheduleConfig(), LATER)


def test_an_hour_that_has_not_settled_is_refused() -> None:
    for seconds, refused in ((19, True), (20, False)):
        now = FIVE.end + timedelta(seconds=seconds)
        if refused:
            with pytest.raises(InputError, match="the hour is not over"):
                with_what_follows(FIVE, None, ScheduleConfig(), now)
        else:
            assert with_what_follows(FIVE, None, ScheduleConfig(), now) == FIVE


# --- how it is started


def test_every_check_has_its_row_in_the_card() -> None:
    card = (ROOT / "pipelines" / "orchestrating" / "README.md").read_text(encoding="utf-8")
    for one in CHECKS:
        severity = "error" if one.error else "warn"
        assert f"| `{one.name}` | {one.asset} | {severity} | {one.sound_when} |" in card


def test_all_units_stay_on_this_machine_and_only_the_code_server_may_write_the_lake() -> None:
    code, web, daemon = units.code(PLACE), units.webserver(PLACE), units.daemon(PLACE)
    assert "-h 127.0.0.1 -p 3000" in web
    assert f"-s {units.SOCKET}\n" in code
    assert f"socket: {units.SOCKET}\n" in units.WORKSPACE
    assert 'ReadWritePaths="/srv/risk lake"' in code
    assert f"ExecStartPre={Path(sys.executable).with_name('dagster')} instance migrate" in code
    for unit in (web, daemon):
        assert f"After={units.CODE}.service" in unit
        assert 'ReadOnlyPaths="/srv/risk lake"' in unit
        assert "ReadWritePaths" not in unit
    for unit in (code, web, daemon):
        assert 'Environment="CASCADEGUARD_LAKE=/srv/risk lake"' in unit
        assert "Environment=CASCADEGUARD_CONFIG=/etc/cg.toml" in unit
        assert "Environment=DAGSTER_HOME=/var/lib/cascadeguard/dagster" in unit
        assert "EnvironmentFile=-/etc/secrets" in unit
        assert "UMask=0077" in unit
        assert "ProtectSystem=strict" in unit
    assert "telemetry:\n  enabled: false" in units.dagster(PLACE, ScheduleConfig())


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not here")
def test_systemd_takes_all_units(tmp_path: Path) -> None:
    for name, unit in ((units.CODE, units.code), (units.WEB, units.webserver), (units.DAEMON, units.daemon)):
        (tmp_path / f"{name}.service").write_text(unit(PLACE))
    command = ["systemd-analyze", "verify", *map(str, sorted(tmp_path.iterdir()))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_without_the_extra_schedule_says_so_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "find_spec", lambda name: None if name == "dagster_webserver" else object())
    with pytest.raises(InputError, match=r"^Dagster is not installed; install .* the extra `orchestrate`$"):
        CliRunner().invoke(app, ["schedule", "--print", "dagster"], catch_exceptions=False, standalone_mode=False)


def test_no_command_imports_dagster() -> None:
    """It takes a second and a half; `definitions` alone is loaded by Dagster itself."""
    code = "import sys, pipelines.commands.schedule, pipelines.orchestrating.units, pipelines.operating.scheduled\n"
    code += "print('dagster' in sys.modules, 'polars' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == ["False", "False"]
