"""Logs that machines and people read, and in which nobody finds a secret."""

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from pipelines import cli
from pipelines.config import AlertsConfig, Config, ObserveConfig, SinkConfig
from pipelines.observing.logs import Mask, bound, configure_logs, mask_in_use, traceback_text
from pipelines.observing.secrets import MASK, hidden, names_of, values_of

SECRET = "s3cr3t-w0rd"
URL = f"tgram://{SECRET}/chat"


@pytest.fixture
def said() -> Iterator[io.StringIO]:
    """What is logged as JSON; logging is as it was afterwards."""
    handlers, level = logging.root.handlers[:], logging.root.level
    out = io.StringIO()
    configure_logs("json", frozenset({SECRET}), out)
    yield out
    structlog.reset_defaults()
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


def lines(out: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_every_line_is_one_json_object_with_what_is_bound(said: io.StringIO) -> None:
    log = structlog.get_logger()
    with bound(run_id="ab12", venue="sim", interval="a..b", token=7):
        log.info("guarded", decisions=3)
    log.warning("on its own")
    first, second = lines(said)
    assert {name: first[name] for name in ("run_id", "venue", "interval", "token", "decisions", "event", "level")} == {
        "run_id": "ab12", "venue": "sim", "interval": "a..b", "token": 7, "decisions": 3, "event": "guarded",
        "level": "info"}  # fmt: skip
    assert first["timestamp"].endswith("Z")
    assert set(second) == {"event", "level", "timestamp"}


def test_a_planted_secret_is_found_nowhere(said: io.StringIO) -> None:
    log = structlog.get_logger()

    class Thing:
        def __repr__(self) -> str:
            return f"Thing({SECRET})"

    def breaks() -> None:
        local = SECRET
        raise ValueError(f"no {local}")

    with bound(venue=f"at {SECRET}"):
        log.warning(f"event {SECRET}", text=SECRET, bare=Thing(), nested={"a": [SECRET, {SECRET: (SECRET,)}]})
        try:
            breaks()
        except ValueError:
            log.exception("failed", url=f"https://u:{SECRET}@host/x?token={SECRET}")
    logging.getLogger("apprise").warning("library says %s", SECRET)
    try:
        breaks()
    except ValueError:
        logging.getLogger("other").exception("library fails")
    text = said.getvalue()
    assert len(lines(said)) == 4
    assert "Traceback" in text
    assert "ValueError" in text
    assert SECRET not in text
    assert text.count(MASK) >= 9


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("postgresql+psycopg://cg:pw@db:5432/x", "postgresql+psycopg://***@db:5432/x"),
        ("mailto://user:p%40ss@example.org", "mailto://***@example.org"),
        ("GET /x?api_key=abc&n=1", "GET /x?api_key=***&n=1"),
        ("{'access_token': 'abc', 'n': 1}", "{'access_token': '***', 'n': 1}"),
        ('"password": "abc"', '"password": "***"'),
        ("Authorization: Bearer abc.def-ghi", "Authorization: ***"),
        ("https://hooks.slack.example/services/T0/B0/xyz", "https://hooks.slack.example/***"),
        ("an ordinary line at 12:30, no token: set one", "an ordinary line at 12:30, no token: set one"),
        ("`[serve] token_env`: must be a name, was 5", "`[serve] token_env`: must be a name, was 5"),
        ("lake at /data/lake, symbol BTC-PERP", "lake at /data/lake, symbol BTC-PERP"),
    ],
)
def test_addresses_and_tokens_lose_what_is_secret_in_them_by_their_form(text: str, wanted: str) -> None:
    assert hidden(text) == wanted


WORDS = st.text(st.characters(exclude_characters="*"), max_size=60)


@given(st.text(st.characters(exclude_characters="*"), min_size=4, max_size=30), WORDS, WORDS)
def test_no_secret_survives_whatever_stands_around_it(secret: str, before: str, after: str) -> None:
    assert secret not in Mask(frozenset({secret})).text(f"{before}{secret}{after}{secret}")


def test_the_settings_say_which_variables_are_secret() -> None:
    config = Config(
        alerts=AlertsConfig(sinks=(SinkConfig(name="desk", url_env="DESK_URL"),)),
        observe=ObserveConfig(push_url_env="PUSH_URL", secret_envs=("PGPASSWORD",)),
    )
    assert names_of(config) >= {"DESK_URL", "PUSH_URL", "PGPASSWORD"}
    values = values_of(config, {"DESK_URL": URL, "PGPASSWORD": "pass-word", "PUSH_URL": "", "HOME": "/root"})
    assert {URL, "pass-word"} <= values
    assert "/root" not in values


def test_parts_of_an_address_are_secret_by_themselves() -> None:
    config = Config(alerts=AlertsConfig(sinks=(SinkConfig(name="desk", url_env="DESK_URL"),)))
    values = values_of(config, {"DESK_URL": "jsons://desk:hunter2pass@host/path/longlongtoken?x=1"})
    assert hidden("said hunter2pass and longlongtoken of host", values) == "said *** and *** of host"


def test_a_terminal_gets_words_and_everything_else_json(said: io.StringIO) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal, pipe, forced = Terminal(), io.StringIO(), Terminal()
    configure_logs("auto", frozenset({SECRET}), terminal)
    structlog.get_logger().info("seen", word=SECRET)
    configure_logs("auto", frozenset(), pipe)
    structlog.get_logger().info("seen")
    configure_logs("json", frozenset(), forced)
    structlog.get_logger().info("seen")
    assert "seen" in terminal.getvalue()
    assert not terminal.getvalue().startswith("{")
    assert SECRET not in terminal.getvalue()
    assert json.loads(pipe.getvalue())["event"] == json.loads(forced.getvalue())["event"] == "seen"


def test_an_internal_failure_of_the_command_shows_no_secret(
    said: io.StringIO, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def breaks(*_: object, **__: object) -> None:
        raise RuntimeError(f"at https://desk:{SECRET}@host")

    monkeypatch.setattr(cli, "app", breaks)
    assert cli.run([]) == 1
    text = capsys.readouterr().err
    assert "Traceback" in text
    assert "internal failure" in text.splitlines()[-1]
    assert SECRET not in text


def test_a_secret_in_the_wrong_place_of_the_settings_is_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An address where the name of a variable belongs: the error quotes the value."""
    settings = tmp_path / "cascadeguard.toml"
    settings.write_text(f'[[alerts.sinks]]\nname = "desk"\nurl_env = "https://desk:{SECRET}@host/x"\n')
    monkeypatch.chdir(tmp_path)
    assert cli.run(["status"]) == 2
    text = capsys.readouterr().err
    assert "url_env" in text
    assert SECRET not in text


def test_a_traceback_is_masked_by_the_configuration_in_use(said: io.StringIO) -> None:
    assert SECRET not in traceback_text(ValueError(f"no {SECRET}"))
    assert "ValueError" in traceback_text(ValueError(SECRET))
    assert mask_in_use().secrets == {SECRET}


def test_what_is_logged_after_standard_error_was_another_goes_to_the_one_of_now(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A stream that was standard error for a while may be closed by now: a log must not raise into a run."""
    before, now = io.StringIO(), io.StringIO()
    monkeypatch.setattr("sys.stderr", before)
    configure_logs("json")
    monkeypatch.setattr("sys.stderr", now)
    before.close()
    structlog.get_logger().warning("still here")
    logging.getLogger("some.library").warning("and here")
    assert [json.loads(line)["event"] for line in now.getvalue().splitlines()] == ["still here", "and here"]
