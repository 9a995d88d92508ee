"""The command line as a user meets it: real processes, one line per mistake, one object per `--json`."""

import contextlib
import gzip
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines import cli
from pipelines.commands import shared

HEADER = "exchange,symbol,timestamp,local_timestamp,id,side,price,amount\n"
ROW = "binance-delivery,AVAXUSD_PERP,1760054401433000,1760054401437753,{id},buy,{price},105\n"


def process(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A real process, for what only a process can show."""
    command = [sys.executable, "-m", "pipelines", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)


def cascadeguard(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The same command inside this process: importing the libraries once is enough."""
    words = [str(argument) for argument in arguments]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.run(words)
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())


def refused(done: subprocess.CompletedProcess[str], *said: str) -> None:
    """Exit 2, nothing on standard output, exactly one line on standard error, which says all of `said`."""
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("error: ")
    assert all(text in done.stderr for text in said), done.stderr


def trades(path: Path, body: str, header: str = HEADER) -> Path:
    path.write_bytes(gzip.compress((header + body).encode()) if path.suffix == ".gz" else (header + body).encode())
    return path


def test_help_lists_the_commands_in_the_order_data_flows(tmp_path: Path) -> None:
    done = process("--help", cwd=tmp_path)
    order = ["demo", "simulate", "ingest", "poll", "compact", "retain", "doctor",
             "bars", "features", "labels", "train", "evaluate", "models",
             "run", "score", "guard", "backfill", "schedule", "status", "report", "serve", "alerts",
             "policy", "replay", "explain", "bands", "stress", "loop", "graph"]  # fmt: skip
    places = [done.stdout.index(f"│ {name} ") for name in order]
    assert done.returncode == 0
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), ("command",)),
        (("scor",), ("scor",)),
        (("score", "--nonsense"), ("--nonsense",)),
        (("ingest", "tardis"), ("paths",)),
        (("ingest", "ftx", "x.csv"), ("ftx", "tardis")),
        (("ingest", "tardis", "nowhere.csv.gz", "--lake", "L"), ("nowhere.csv.gz",)),
        (("score", "--lake", "L"), ("there is no lake", "ingest")),
        (("score", "--config", "none.toml"), ("configuration file not found", "none.toml")),
        (("policy", "none.toml"), ("policy cannot be read", "none.toml")),
        (("replay", "--lake", "L"), ("--verify",)),
    ],
)
def test_bad_usage_is_one_line_and_exit_2(tmp_path: Path, arguments: tuple[str, ...], said: tuple[str, ...]) -> None:
    refused(cascadeguard(*arguments, cwd=tmp_path), *said)
    assert not (tmp_path / "L").exists()


@pytest.mark.parametrize(
    ("span", "said"),
    [
        (("--from", "yesterday", "--to", "2025-10-11"), "not a time"),
        (("--from", "2025-10-11", "--to", "2025-10-10"), "--from must be before --to"),
        (("--from", "2025-10-11"), "go together"),
        (("--from", "2025-10-10T00:00:30Z", "--to", "2025-10-11"), "whole minutes"),
    ],
)
def test_a_bad_interval_is_one_line(tmp_path: Path, span: tuple[str, ...], said: str) -> None:
    (tmp_path / "L").mkdir()
    refused(cascadeguard("score", "--lake", "L", *span, cwd=tmp_path), said)


def test_bad_files_leave_nothing_behind_and_good_ones_stay(tmp_path: Path) -> None:
    good = trades(tmp_path / "good.csv.gz", ROW.format(id=1, price=28.41) + ROW.format(id=2, price=28.42))
    cut = tmp_path / "cut.csv.gz"
    body = "".join(ROW.format(id=number, price=28 + number % 7) for number in range(5000))
    cut.write_bytes(gzip.compress((HEADER + body).encode())[:-2000])
    narrow = trades(tmp_path / "narrow.csv", "a,b\n", header="exchange,symbol\n")
    refused(process("ingest", "tardis", cut, "--lake", "L", cwd=tmp_path), "cut.csv.gz")
    refused(cascadeguard("ingest", "tardis", narrow, "--lake", "L", cwd=tmp_path), "narrow.csv", "price")
    assert not list((tmp_path / "L").glob("tables/trades/*.parquet"))
    done = cascadeguard("ingest", "tardis", good, "--venue", "binance-coinm", "--lake", "L", "--json", cwd=tmp_path)
    summary = json.loads(done.stdout)
    assert done.returncode == 0
    assert (summary["rows_read"], summary["rows_accepted"], summary["rows_quarantined"]) == (2, 2, 0)


def test_bad_rows_go_to_quarantine_with_their_line_and_reason(tmp_path: Path) -> None:
    prices = [28.41, 0, "nan", "abc", 28.5]
    body = "".join(ROW.format(id=number, price=price) for number, price in enumerate(prices))
    body += ROW.format(id=0, price=28.41)  # a duplicate id
    body += ROW.format(id=9, price=28.41).replace("AVAXUSD_PERP", "NOPE")
    trades(tmp_path / "bad.csv", body)
    done = cascadeguard(
        "ingest", "tardis", "bad.csv", "--venue", "binance-coinm", "--lake", "L", "--json", cwd=tmp_path
    )
    summary = json.loads(done.stdout)
    assert (summary["rows_read"], summary["rows_accepted"], summary["rows_quarantined"]) == (7, 2, 5)
    found = json.loads(cascadeguard("doctor", "--lake", "L", "--json", cwd=tmp_path).stdout)
    assert found["rows_quarantined"] == 5
    assert sum(row["rows"] for row in found["quarantine"]) == 5


def test_an_unknown_symbol_alone_is_one_line(tmp_path: Path) -> None:
    trades(tmp_path / "odd.csv", ROW.format(id=1, price=28.41).replace("AVAXUSD_PERP", "NOPE"))
    refused(cascadeguard("ingest", "tardis", "odd.csv", "--lake", "L", cwd=tmp_path), "odd.csv", "unknown_symbol")


def test_a_policy_file_is_validated_whole(tmp_path: Path) -> None:
    shipped = Path(__file__).parents[2] / "guardrails" / "policy.toml"
    text = shipped.read_text(encoding="utf-8")
    (tmp_path / "bad.toml").write_text(
        text.replace("ttl_min = 15", "ttl_min = -15").replace("enter = 0.05 ", "enter = nan ")
    )
    refused(cascadeguard("policy", "bad.toml", cwd=tmp_path), "ttl_min", "enter")
    done = cascadeguard("policy", shipped, "--json", cwd=tmp_path)
    assert set(json.loads(done.stdout)) == {"version", "sha256"}


def test_an_internal_failure_is_exit_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(shared, "load_config", broken)
    assert cli.run(["doctor"]) == 1
    assert capsys.readouterr().err.endswith("error: internal failure, please report it: RuntimeError: a bug\n")


def test_bars_are_built_for_what_is_new_and_other_steps_want_bars_of_a_minute(tmp_path: Path) -> None:
    trades(tmp_path / "1.csv", ROW.format(id=1, price=28.41))
    cascadeguard("ingest", "tardis", "1.csv", "--lake", "lake", cwd=tmp_path)
    built = json.loads(cascadeguard("bars", "--lake", "lake", "--json", cwd=tmp_path).stdout)["venues"][0]
    assert built["rows"] >= 1
    again = json.loads(cascadeguard("bars", "--lake", "lake", "--json", cwd=tmp_path).stdout)["venues"][0]
    assert (again["rows"], again["interval"]) == (0, "nothing waits")
    (tmp_path / "own.toml").write_text("[bars]\ninterval_s = 300\n")
    of_five_minutes = cascadeguard("features", "--lake", "lake", "--config", "own.toml", "--json", cwd=tmp_path)
    assert json.loads(of_five_minutes.stdout)["venues"][0]["bar_s"] == 300
    of_other_bars = cascadeguard("guard", "--lake", "lake", "--config", "own.toml", cwd=tmp_path)
    refused(of_other_bars, "made for bars of 60 s, not of 300 s", "[bars] interval_s")
    (tmp_path / "own.toml").write_text("[bars]\ninterval_s = 3600\n")
    of_hours = cascadeguard("features", "--lake", "lake", "--config", "own.toml", cwd=tmp_path)
    refused(of_hours, "made for bars of 60 or 300 s, not of 3600 s", "[bars] interval_s")
    (tmp_path / "own.toml").write_text("[bars]\ninterval_s = 7\n")
    refused(cascadeguard("bars", "--lake", "lake", "--config", "own.toml", cwd=tmp_path), "must divide 86400")


def test_train_refuses_options_that_do_not_go_together(tmp_path: Path) -> None:
    trades(tmp_path / "1.csv", ROW.format(id=1, price=28.41))
    cascadeguard("ingest", "tardis", "1.csv", "--lake", "lake", cwd=tmp_path)
    for option in (("--ablate",), ("--tune", "3"), ("--engine", "dask"), ("--from", "2025-01-01T00:00Z")):
        done = cascadeguard("train", "--from-run", "abc", *option, "--lake", "lake", cwd=tmp_path)
        refused(done, "takes everything from the record")
    refused(cascadeguard("train", "--scheduler", "tcp://x:1", "--lake", "lake", cwd=tmp_path), "--engine dask")


def test_compact_and_retain_are_commands(tmp_path: Path) -> None:
    trades(tmp_path / "1.csv", ROW.format(id=1, price=28.41))
    cascadeguard("ingest", "tardis", "1.csv", "--lake", "lake", cwd=tmp_path)
    assert json.loads(cascadeguard("compact", "--lake", "lake", "--json", cwd=tmp_path).stdout)["files_after"] > 0
    kept = cascadeguard("retain", "--table", "trades", "--days", "1", "--lake", "lake", "--json", cwd=tmp_path)
    assert json.loads(kept.stdout)["rows_dropped"] == 0
    refused(cascadeguard("retain", "--table", "nope", "--days", "1", "--lake", "lake", cwd=tmp_path), "nope")


def test_bands_says_where_each_venue_liquidates_or_what_is_missing(tmp_path: Path) -> None:
    position = ("bands", "BTC", "--entry", "100000", "--notional", "1e6", "--profile", "hyperliquid")
    done = cascadeguard(*position, "--leverage", "20", "--on", "2025-06-01T00:00Z", "--json", cwd=tmp_path)
    only = json.loads(done.stdout)["profiles"][0]
    # isolated, 20x: margin 5 000 a unit, maintenance 1.25 %: 100 000 - 5 000 = P * (1 - .0125)
    assert only["liquidation_price"] == pytest.approx(95_000 / 0.9875, rel=1e-12)
    assert {"bankruptcy_price", "mark_rule", "path", "time_to_touch_s", "completion_s"} <= set(only)
    refused(cascadeguard(*position, cwd=tmp_path), "--leverage or --margin")
    refused(cascadeguard(*position, "--leverage", "20", "--profile", "nowhere", cwd=tmp_path), "nowhere")
