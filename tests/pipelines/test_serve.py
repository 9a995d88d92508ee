"""The dashboard without a browser: who may ask, what every answer carries, what it says, what it never does."""

import csv
import io
import shutil
import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.config import Config, ServeConfig, load_config
from pipelines.errors import InputError
from pipelines.explain import explain_decision, explain_sentence
from pipelines.lake import Lake
from pipelines.serving.access import SESSION_S, Access, access_of
from pipelines.serving.exports import csv_of
from pipelines.serving.reading import Batches, Reader, UnreadableError, ends
from pipelines.serving.server import server_of
from tests.pipelines.conftest import World as Small
from tests.pipelines.report_worlds import World, build
from tests.pipelines.report_worlds import at as report_at
from tests.pipelines.serving_server import Served, served
from tests.pipelines.serving_worlds import RULES, add_minutes, at, runs, wide_lake

pytestmark = pytest.mark.service

TOKEN = "correct-horse-battery-staple"
HOSTILE = "</script><img src=x onerror=window.hacked=1>"
PAGES = ("/", "/breakers", "/decisions", "/graph", "/runs")
EXPORTS = ("/overview.csv", "/breakers.csv", "/decisions.csv", "/graph.csv", "/runs.csv")
SYMBOLS, MINUTES = 30, 90
ENV = {"CASCADEGUARD_SERVE_TOKEN": TOKEN}


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Thirty symbols, two minutes after the newest minute."""
    root = tmp_path_factory.mktemp("serve") / "lake"
    wide_lake(root, SYMBOLS, MINUTES)
    with served(root, at(MINUTES + 2)) as running:
        yield running


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The same desk, where a token is demanded and a further name is known."""
    root = tmp_path_factory.mktemp("guarded") / "lake"
    wide_lake(root, 2, 5)
    with served(root, at(6), token=TOKEN, names=("risk.example",)) as running:
        yield running


# --- who may ask ---


def refused(host: str, token: str | None, *said: str, names: tuple[str, ...] = ()) -> None:
    with pytest.raises(InputError) as caught:
        access_of(host, names, token)
    assert all(text in str(caught.value) for text in said), caught.value
    assert not token or token not in str(caught.value)


def test_more_than_this_machine_needs_a_token_of_24_characters() -> None:
    assert access_of("127.0.0.1", (), None).token is None
    refused("0.0.0.0", None, "CASCADEGUARD_SERVE_TOKEN is not set", "0.0.0.0")
    refused("10.0.0.5", "", "is not set")
    refused("127.0.0.1", None, "risk.example", names=("risk.example",))
    refused("0.0.0.0", "a" * 23, "at least 24 characters, has 23")
    refused("127.0.0.1", "short", "at least 24")  # one that is set is demanded, and must be worth it
    assert access_of("0.0.0.0", (), "a" * 24).names is None


def test_a_token_is_asked_for_in_one_line_with_code_2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.pipelines.test_cli import cascadeguard
    from tests.pipelines.test_cli import refused as said

    monkeypatch.delenv("CASCADEGUARD_SERVE_TOKEN", raising=False)
    (tmp_path / "lake").mkdir()
    said(cascadeguard("serve", "--host", "0.0.0.0", "--lake", "lake", cwd=tmp_path), "CASCADEGUARD_SERVE_TOKEN")
    said(cascadeguard("serve", "--lake", "nowhere", cwd=tmp_path), "there is no lake")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said(cascadeguard("serve", "--port", port, "--lake", "lake", cwd=tmp_path), "cannot listen", str(port))


def test_the_token_is_no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENV.items():
        monkeypatch.setenv(name, value)
    assert TOKEN not in load_config(None).model_dump_json()
    with pytest.raises(ValueError, match="token"):
        ServeConfig(token=TOKEN)  # type: ignore[call-arg]
    access = access_of("0.0.0.0", (), TOKEN)
    assert TOKEN not in repr(access)


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8010", "localhost.evil.example", "127.0.0.1.nip.io", ""]
)
def test_a_name_that_is_not_ours_is_refused(desk: Served, host: str) -> None:
    """A page of another site whose name now points here (DNS rebinding) reads nothing."""
    answer = desk.ask("/", host=host)
    assert answer.status == 400
    assert "S0001" not in answer.text


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:1", "[::1]:8010", "LOCALHOST:8010"])
def test_names_of_this_machine_are_ours(desk: Served, host: str) -> None:
    assert desk.ask("/", host=host).status == 200


def test_two_host_headers_are_none(desk: Served) -> None:
    with socket.create_connection(("127.0.0.1", desk.port), timeout=10) as raw:
        raw.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\nConnection: close\r\n\r\n")
        assert b" 400 " in raw.recv(200)


@pytest.mark.parametrize("path", [*PAGES, *EXPORTS, "/symbol?venue=wide&symbol=S0000-PERP", "/nope"])
def test_nothing_is_told_without_the_token(guarded: Served, path: str) -> None:
    for headers in (
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": f"Basic {TOKEN}"},
        {"cookie": f"cascadeguard={TOKEN}"},
    ):
        answer = guarded.ask(path, **headers)
        assert (answer.status, answer.text) == (401, "a token is needed")
        assert answer.headers["www-authenticate"] == "Bearer"
    assert guarded.ask(path + ("&" if "?" in path else "?") + f"token={TOKEN}").status == 401  # never in an address
    people = guarded.ask(path, accept="text/html,*/*")
    assert (people.status, people.headers["location"]) == (303, "/login")
    assert guarded.ask(path, hx_request="true").headers["hx-redirect"] == "/login"


def test_a_program_comes_in_with_the_token_in_its_header(guarded: Served) -> None:
    assert "S0001-PERP" in guarded.ask("/", authorization=f"Bearer {TOKEN}").text
    assert guarded.ask("/", authorization=f"bearer  {TOKEN}").status == 200


def log_in(desk: Served, token: str, **headers: str) -> tuple[int, str]:
    answer = desk.ask("/login", "POST", f"token={token}", **headers)
    return answer.status, answer.headers.get("set-cookie", "")


def test_a_person_comes_in_by_the_form_with_a_cookie_that_holds_no_token(guarded: Served) -> None:
    assert 'type="password"' in guarded.shown("/login")
    status, cookie = log_in(guarded, TOKEN)
    assert status == 303
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= {part.strip() for part in cookie.split(";")}
    assert TOKEN not in cookie
    said = cookie.split(";")[0]
    assert guarded.ask("/", cookie=said).status == 200
    name, _, value = said.partition("=")
    ends, _, digest = value.partition(".")
    for forged in (f"{int(ends) + 1}.{digest}", f"{ends}.{digest[::-1]}", f"{ends}.", digest, f"{ends}.é", "x" * 900):
        assert guarded.ask("/", cookie=f"{name}={forged}".encode().decode("latin-1")).status == 401, forged


def test_a_session_ends(guarded: Served) -> None:
    before = guarded.now
    said = log_in(guarded, TOKEN)[1].split(";")[0]
    try:
        guarded.now = before + timedelta(seconds=SESSION_S - 1)
        assert guarded.ask("/", cookie=said).status == 200
        guarded.now = before + timedelta(seconds=SESSION_S)
        assert guarded.ask("/", cookie=said).status == 401
    finally:
        guarded.now = before


def test_a_session_of_another_process_is_none() -> None:
    ours, other = (Access(TOKEN, None) for _ in range(2))
    assert ours.in_session(ours.session(100), 100)
    assert not other.in_session(ours.session(100), 100)


def test_a_wrong_token_a_foreign_form_and_a_long_body_open_nothing(guarded: Served) -> None:
    assert log_in(guarded, "wrong") == (403, "")
    assert log_in(guarded, "") == (403, "")
    assert log_in(guarded, TOKEN + "&more=" + "x" * 5000) == (403, "")
    assert log_in(guarded, TOKEN, origin="http://evil.example") == (403, "")
    assert log_in(guarded, TOKEN, origin=guarded.url)[0] == 303
    assert guarded.ask("/login", "POST", "\xff=&&&&&&&&&&&").status == 403


def test_a_further_name_is_known_and_no_other(guarded: Served) -> None:
    bearer = f"Bearer {TOKEN}"
    assert guarded.ask("/", host="risk.example", authorization=bearer).status == 200
    assert guarded.ask("/", host="evil.example", authorization=bearer).status == 400


# --- what every answer carries, and what no request does ---


@pytest.mark.parametrize("path", [*PAGES, "/nope", "/overview.csv", "/?sort=nonsense", "/static/dashboard.js"])
def test_every_answer_has_the_headers(desk: Served, path: str) -> None:
    headers = desk.ask(path).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'; script-src 'self'; style-src 'self'" in policy
    assert "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "same-origin"
    assert "server" not in headers
    assert headers["cache-control"] == ("public, max-age=86400" if path.startswith("/static") else "no-store")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_pages_are_only_read(desk: Served, method: str) -> None:
    answer = desk.ask("/", method)
    assert (answer.status, answer.headers.get("allow")) == (405, "GET, HEAD")


def test_a_head_is_an_answer_without_its_body(desk: Served) -> None:
    bare = desk.ask("/", "HEAD")
    assert (bare.status, bare.text) == (200, "")
    assert int(bare.headers["content-length"]) > 10_000


@pytest.mark.parametrize(
    "path",
    [
        "/static/../../config.py", "/static/..%2f..%2fconfig.py", "/static/%2e%2e/app.py", "/static//etc/passwd",
        "/static/app.py", "/static/", "/../README.md", "/symbol?venue=..&symbol=../../etc/passwd",
        "/symbol?venue=wide&symbol=%2e%2e%2ftables", "/symbol?venue=wide&symbol=*", "/overview.csv/../app.py",
    ],
)  # fmt: skip
def test_no_path_leads_to_a_file(desk: Served, path: str) -> None:
    answer = desk.ask(path)
    assert answer.status == 404
    assert "import " not in answer.text
    assert "root:" not in answer.text


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/?text=" + "a" * 201, 400), ("/?text=" + "a" * 5000, 414), ("/" + "a" * 300, 414), ("/?sort=price", 400),
        ("/decisions?page=0", 400), ("/decisions?page=99999999999999999999", 400), ("/decisions?page=x", 400),
        ("/decisions?start=yesterday", 400), ("/decisions?start=9999-99-99", 400), ("/decision?id=../x", 400),
        ("/decision", 400), ("/symbol", 400), ("/decision?id=" + "a" * 65, 400), ("/runs?state=dead", 400),
    ],
)  # fmt: skip
def test_what_a_request_says_is_bounded(desk: Served, path: str, status: int) -> None:
    answer = desk.ask(path)
    assert answer.status == status
    assert "Traceback" not in answer.text


@settings(max_examples=12)
@given(st.text(max_size=40), st.text(max_size=40))
def test_no_query_makes_the_server_fail(desk: Served, text: str, venue: str) -> None:
    from urllib.parse import urlencode

    said = urlencode({"text": text, "venue": venue, "symbol": text, "rule": text, "start": text}, errors="replace")
    for page in ("/", "/decisions", "/symbol", "/breakers", "/runs", "/graph", "/decisions.csv"):
        answer = desk.ask(f"{page}?{said}")
        assert answer.status in {200, 400, 404, 414}, (page, answer.text[:300])


def test_a_failure_tells_nothing_of_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log has the trace, without the token; the answer has neither."""
    from pipelines.serving import views

    def fails(*_: object) -> None:
        raise RuntimeError(f"secret of the inside, {TOKEN}")

    wide_lake(tmp_path / "lake", 2, 5)
    monkeypatch.setattr(views, "overview_view", fails)
    with structlog.testing.capture_logs() as logged, served(tmp_path / "lake", at(5), token=TOKEN) as desk:
        answer = desk.ask("/", authorization=f"Bearer {TOKEN}")
        desk.ask(f"/{TOKEN}?token={TOKEN}", authorization=f"Bearer {TOKEN}")
        log_in(desk, TOKEN)
    assert answer.status == 500
    assert "Something went wrong; the server&#39;s log says what." in answer.text
    assert "secret of the inside" not in answer.text
    assert answer.headers["content-security-policy"]
    assert TOKEN not in str(logged)
    assert [entry["path"] for entry in logged if entry["event"] == "asked"] == ["/", "/***", "/login"]
    assert "secret of the inside, ***" in next(entry["trace"] for entry in logged if entry["event"] == "failed")


def test_serving_neither_writes_nor_takes_the_lock(tmp_path: Path) -> None:
    """Pages are served while another process holds the writer's lock, from a lake that may not be written to."""
    lake = wide_lake(tmp_path / "lake", 3, 20)
    before = {path: path.stat().st_mtime_ns for path in lake.root.rglob("*")}
    with lake.writer(), served(lake.root, at(20)) as desk:
        locked = {path: path.stat().st_mtime_ns for path in lake.root.rglob("*")}
        for page in (*PAGES, *EXPORTS, "/symbol?venue=wide&symbol=S0001-PERP", "/decision?id=0-price-band-20"):
            assert desk.ask(page).status == 200, page
        assert {path: path.stat().st_mtime_ns for path in lake.root.rglob("*")} == locked
    assert set(locked) - set(before) == {lake.root / ".writer.lock"}  # taken by this test


# --- what the pages say ---


def test_the_overview_tells_what_stands(desk: Served) -> None:
    page = desk.shown("/")
    assert "7 of 30 symbols are at risk" in page  # alerts: 0, 10, 20; price bands: 0, 7, 14, 21, 28
    assert "data is" not in page
    assert page.count('class="open"') == SYMBOLS
    assert page.index("S0000-PERP") < page.index("S0007-PERP") < page.index("S0001-PERP")  # alert and breach first
    assert "perp 31 bps below spot" in page
    assert "10× → <b>5×</b>" in page


def test_old_data_is_told_in_big_letters(tmp_path: Path) -> None:
    wide_lake(tmp_path / "lake", 2, 30)
    with served(tmp_path / "lake", at(40), stale_min=10) as desk:
        assert "data is" not in desk.shown("/")
        desk.now = at(44)
        page = desk.shown("/")
        assert "<b>data is 14 min old</b>" in page
        assert "Limits of wide expired" not in page
        assert "data is 14 min old" in desk.shown("/symbol?venue=wide&symbol=S0001-PERP")
        desk.now = at(46)  # limits hold for 15 minutes
        assert "Limits of wide expired at" in desk.shown("/")


def test_a_venue_that_is_chosen_speaks_for_itself(tmp_path: Path) -> None:
    build(tmp_path, World(minutes=60), World(venue="fresh"))
    with served(tmp_path, report_at(241)) as desk:
        assert "data is 3 h 1 min old" in desk.shown("/")
        assert "data is 3 h 1 min old" in desk.shown("/?venue=testex")
        assert "data is" not in desk.shown("/?venue=fresh")
        assert "testex" not in desk.shown("/?venue=fresh").split('id="live"')[1]


def order(page: str) -> list[int]:
    return [int(part[:4]) for part in page.split("symbol=S")[1:]]


def test_symbols_are_sorted_and_filtered_as_asked(desk: Served) -> None:
    numbers = list(range(SYMBOLS))
    assert order(desk.shown("/?sort=symbol")) == numbers
    assert order(desk.shown("/?sort=symbol&turned=1")) == numbers[::-1]
    assert order(desk.shown("/?sort=probability")) == numbers[::-1]
    assert order(desk.shown("/?sort=exposure")) == numbers
    assert set(order(desk.shown("/?sort=anomaly"))[:3]) == {0, 10, 20}
    assert set(order(desk.shown("/?sort=leverage"))[:5]) == {0, 7, 14, 21, 28}
    assert set(order(desk.shown("/?show=alert"))) == {0, 10, 20}
    assert set(order(desk.shown("/?show=faults"))) == {0, 5, 10, 15, 20, 25}
    assert order(desk.shown("/?text=s0007")) == [7]
    assert set(order(desk.shown("/?text=reduce+only+price"))) == {0, 7, 14, 21, 28}
    nothing = desk.shown("/?text=nobody")
    assert order(nothing) == []
    assert "No symbol is like that" in nothing


def test_a_part_that_has_not_changed_is_not_sent_again(desk: Served) -> None:
    first = desk.ask("/", hx_request="true")
    assert first.status == 200
    assert "<html" not in first.text
    again = desk.ask("/", hx_request="true", x_shown=first.headers["x-stamp"])
    assert (again.status, again.text) == (204, "")
    other = desk.ask("/?show=alert", hx_request="true", x_shown=first.headers["x-stamp"])
    assert other.status == 200


def test_a_symbol_shows_its_hours_its_limits_and_its_decisions(desk: Served) -> None:
    page = desk.shown("/symbol?venue=wide&symbol=S0007-PERP")
    titles = (
        "Price",
        "Probability of a cascade",
        "Anomaly",
        "Leverage cap",
        "Exposure cap",
        "Depth within",
        "Open interest",
    )
    assert page.count("<figure") == len(titles) + 1  # the strip of alerts and actions
    assert all(f"<h3>{title}" in page for title in titles)
    assert "No map of positions" in page
    assert "price band, 5 min" in page
    assert "No plot" not in page
    assert "No plot" in desk.shown("/symbol?venue=wide&symbol=S0005-PERP")  # it has no depth


def test_breakers_say_what_clears_them(desk: Served) -> None:
    page = desk.shown("/breakers")
    assert page.count('<td class="s-open"') == 5
    assert page.count('<td class="s-missing"') == 6
    assert page.count("</th>\n") >= SYMBOLS
    assert "after 10 min of price_band" in page
    only = desk.shown("/breakers?holding=1&text=price+band")
    assert only.count('<th scope="row">') == 5


def test_decisions_are_filtered_and_paged(desk: Served) -> None:
    total = SYMBOLS * len(RULES)
    page = desk.shown("/decisions")
    assert f"{total} decisions" in page
    assert page.count('<td data-label="Rule">') == 50
    assert "page 1 of 3" in page
    assert "page 3 of 3" in desk.shown("/decisions?page=3")
    assert "page 3 of 3" in desk.shown("/decisions?page=9")  # beyond the last is the last
    assert "5 decisions" in desk.shown("/decisions?symbol=S0007-PERP")
    assert "30 decisions" in desk.shown("/decisions?rule=price_band")
    assert "5 decisions" in desk.shown("/decisions?action=reduce_only")
    assert "0 decisions" in desk.shown("/decisions?start=2025-10-10T03:00&end=2025-10-10T04:00")


def test_a_decision_opens_its_minute_as_explain_tells_it(world: Small) -> None:
    """On a simulated venue that was really guarded: the text is that of the command, character by character."""
    from html import unescape

    found = world.lake.scan("decisions").sort("ts").collect()
    ids = found["decision_id"].to_list()[:: max(1, found.height // 3)]
    with served(world.lake.root, world.interval.end) as desk:
        for one in ids:
            text = desk.shown(f"/decision?id={one}").split('tabindex="0">')[1].split("</pre>")[0]
            assert unescape(text) == explain_sentence(explain_decision(world.lake, one))
        missing = desk.ask("/decision?id=0000")
        assert missing.status == 404
        assert "no such decision" in missing.text
        assert "loop gain" in desk.shown("/graph")
        symbol = found["entity"].filter(found["entity"] != "*")[0]
        assert "dollars that are forced" in desk.shown(f"/symbol?venue={world.venue}&symbol={symbol}")


def test_an_amended_decision_says_so(tmp_path: Path) -> None:
    lake = wide_lake(tmp_path / "lake", 2, 20)
    with served(lake.root, at(20)) as desk:
        assert "amended" not in desk.shown("/decisions")
        lake.append("runs", runs(range(20, 21), kind="amended", finished_at=at(33)), None)
        assert "amended 2025-10-10 00:33Z" in desk.shown("/decisions")


def test_runs_tell_what_failed_and_how_late_they_are(tmp_path: Path) -> None:
    lake = wide_lake(tmp_path / "lake", 2, 20)
    lake.append("runs", runs(range(25, 26), state="failed", error="disk full", steps=None, finished_at=at(28)), None)
    with served(lake.root, at(26)) as desk:
        page = desk.shown("/runs")
        assert "disk full" in page
        assert "ingest 0.4 s" in page
        assert '"num strong">1<' in page.replace('data-label="Stand as failed" class=', "")
        assert "2025-10-10 00:20Z" in page
        assert "disk full" not in desk.shown("/runs?state=ok")
        lake.append("runs", runs(range(25, 26), started_at=at(29), finished_at=at(29), kind="caught_up"), None)
        page = desk.shown("/runs")  # tried again: the newest attempt says how the interval stands
        assert "caught up" in page
        assert '"num strong">1<' not in page.replace('data-label="Stand as failed" class=', "")


def test_a_hostile_name_is_text_on_every_page(tmp_path: Path) -> None:
    lake = build(tmp_path, World(a=HOSTILE, venue="<b>venue", probabilities=True))
    from urllib.parse import quote

    with served(lake.root, report_at(240)) as desk:
        for path in (*PAGES, f"/symbol?venue={quote('<b>venue')}&symbol={quote(HOSTILE)}", f"/?text={quote(HOSTILE)}"):
            page = desk.ask(path).text
            assert "<img" not in page
            assert "<b>venue" not in page
        assert "&lt;/script&gt;&lt;img" in desk.shown("/")
        assert "onerror" in desk.shown(f"/symbol?venue={quote('<b>venue')}&symbol={quote(HOSTILE)}")


# --- exports ---


def rows_of(answer: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(answer)))


def test_exports_hold_what_the_pages_show(desk: Served) -> None:
    rows = rows_of(desk.shown("/overview.csv?sort=symbol&show=alert"))
    assert [row["symbol"] for row in rows] == ["*", "S0000-PERP", "S0010-PERP", "S0020-PERP"]
    assert float(rows[1]["anomaly"]) == 8.0
    assert len(rows_of(desk.shown("/breakers.csv"))) == SYMBOLS * len(RULES)
    assert len(rows_of(desk.shown("/decisions.csv?symbol=S0007-PERP"))) == len(RULES)
    assert len(rows_of(desk.shown("/runs.csv"))) == MINUTES // 5
    hours = rows_of(desk.shown("/symbol.csv?venue=wide&symbol=S0007-PERP"))
    assert len(hours) == MINUTES
    assert hours[0]["ts"] == "2025-10-10T00:01:00Z"
    answer = desk.ask("/overview.csv")
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert "attachment" in answer.headers["content-disposition"]
    assert desk.ask("/symbol.csv?venue=wide&symbol=nobody").status == 404


def test_a_formula_in_a_name_is_exported_as_text(tmp_path: Path) -> None:
    formula = '=HYPERLINK("http://evil.example","open")'
    lake = build(tmp_path, World(a=formula, b="+49", venue="@SUM(A1)"))
    with served(lake.root, report_at(240)) as desk:
        for path in ("/overview.csv", "/decisions.csv"):
            rows = rows_of(desk.shown(path))
            assert {row["venue"] for row in rows} == {"'@SUM(A1)"}
            assert f"'{formula}" in {row.get("symbol") or row["entity"] for row in rows}
            assert "+49" in {row.get("symbol") or row["entity"] for row in rows}  # a number, whatever it means


@given(st.text(max_size=12))
def test_no_exported_text_begins_like_a_formula(text: str) -> None:
    (row,) = rows_of(csv_of(pl.DataFrame({"name": [text], "number": [-1.5]})))
    assert float(row["number"]) == -1.5
    said = row["name"]
    if said[:1] in tuple("=+-@\t\r\n＝＋－＠"):
        float(said)  # nothing but a number may
    assert said.removeprefix("'") == text.removeprefix("'") or said == text


# --- lakes that are not as they should be ---


@pytest.mark.parametrize(
    ("tables", "page", "said"),
    [
        ((), "/", "neither scores nor limits"),
        ((), "/breakers", "cascadeguard guard"),
        ((), "/decisions", "cascadeguard guard"),
        ((), "/graph", "holds no positions"),
        ((), "/runs", "cascadeguard run --once"),
        (("limits", "decisions"), "/", "run <code>cascadeguard score</code>"),
        (("scores",), "/", "run <code>cascadeguard guard</code>"),
        (("scores", "bars"), "/symbol?venue=testex&symbol=AAA-PERP", "no limits"),
        (("bars",), "/symbol?venue=testex&symbol=AAA-PERP", "Neither scored nor guarded"),
    ],
)
def test_what_is_missing_is_said_with_the_command_that_helps(
    tmp_path: Path, tables: tuple[str, ...], page: str, said: str
) -> None:
    lake = build(tmp_path / "lake", World(tables=tables))
    lake.root.mkdir(exist_ok=True)
    with served(lake.root, report_at(241)) as desk:
        assert said in desk.shown(page)
        for other in (*PAGES, *EXPORTS):
            assert desk.ask(other).status == 200, other


def test_a_lake_that_is_deleted_while_it_is_served_is_told_and_found_again(tmp_path: Path) -> None:
    lake = wide_lake(tmp_path / "lake", 3, 10)
    with served(lake.root, at(10)) as desk:
        assert order(desk.shown("/?sort=symbol")) == [0, 1, 2]
        shutil.rmtree(lake.root)
        for page in (*PAGES, *EXPORTS, "/symbol?venue=wide&symbol=S0001-PERP"):
            answer = desk.ask(page)
            assert answer.status == 503, page
            assert "There is no lake at" in answer.text
            assert "cascadeguard ingest" in answer.text
        wide_lake(tmp_path / "lake", 4, 10)  # the same versions, other files
        assert order(desk.shown("/?sort=symbol")) == [0, 1, 2, 3]


def test_a_table_that_is_deleted_alone_is_as_one_that_never_was(tmp_path: Path) -> None:
    lake = wide_lake(tmp_path / "lake", 3, 10)
    with served(lake.root, at(10)) as desk:
        desk.shown("/runs")
        shutil.rmtree(lake.path("runs"))
        shutil.rmtree(lake.path("scores"))
        assert "No scheduled run has been recorded" in desk.shown("/runs")
        assert "There are no scores of wide" in desk.shown("/")


def test_files_that_are_gone_are_said_to_be_unreadable(tmp_path: Path) -> None:
    lake = wide_lake(tmp_path / "lake", 3, 10)
    for file in lake.path("scores").rglob("*.parquet"):
        file.unlink()
    with served(lake.root, at(10)) as desk:
        answer = desk.ask("/")
        assert answer.status == 503
        assert "cannot be read just now" in answer.text
        assert "cascadeguard doctor" in answer.text
        assert desk.ask("/runs").status == 200  # the other tables are there


def test_what_is_written_meanwhile_is_seen_by_the_next_request(tmp_path: Path) -> None:
    lake = wide_lake(tmp_path / "lake", 3, 10)
    with served(lake.root, at(10)) as desk:
        assert "newest minute 2025-10-10 00:10Z" in desk.shown("/")
        add_minutes(lake, 4, 11, 12)
        page = desk.shown("/")
        assert "newest minute 2025-10-10 00:12Z" in page
        assert "4 of 4 symbols" in page


def test_a_table_is_read_again_only_when_it_has_changed(tmp_path: Path) -> None:
    lake = wide_lake(tmp_path / "lake", 2, 10)
    reader, made = Reader(lake.root), []

    def read(of: Lake) -> int:
        made.append(1)
        return of.scan("scores").collect().height

    assert [reader.kept("rows", ("scores",), read) for _ in range(3)] == [30, 30, 30]  # two symbols and the venue
    assert len(made) == 1
    add_minutes(lake, 2, 11, 11)
    assert reader.kept("rows", ("scores",), read) == 33
    assert len(made) == 2
    shutil.rmtree(lake.root)
    with pytest.raises(UnreadableError, match="no lake"):
        reader.kept("rows", ("scores",), read)


def test_a_lake_that_was_made_anew_is_not_taken_for_the_one_before(tmp_path: Path) -> None:
    """Its tables have the same versions, other ends."""
    wide_lake(tmp_path / "lake", 2, 10)
    reader = Reader(tmp_path / "lake")
    assert reader.read(lambda lake: ends(lake, "scores")) == {"wide": at(10)}
    shutil.rmtree(tmp_path / "lake")
    wide_lake(tmp_path / "lake", 2, 15)
    assert reader.read(lambda lake: ends(lake, "scores")) == {"wide": at(15)}


def test_of_a_day_that_was_read_only_new_files_are_read_again(tmp_path: Path) -> None:
    """And files that a recomputation or a compaction has replaced are forgotten, with what they held."""
    lake, read = wide_lake(tmp_path / "lake", 11, 10), []

    def take(rows: pl.LazyFrame) -> pl.LazyFrame:
        read.append(rows.select(pl.len()).collect().item())
        return rows.filter("alert")

    batches = Batches("scores", take)

    def alerting() -> int:
        found = batches.rows(lake, at(0))
        assert found.sort(found.columns).equals(lake.scan("scores").filter("alert").collect().sort(found.columns))
        return found.height

    assert (alerting(), alerting(), read) == (15, 15, [120])  # two symbols and the venue, five minutes
    add_minutes(lake, 11, 11, 11)
    assert (alerting(), read) == (18, [120, 12])
    rows = lake.scan("scores").collect()
    lake.replace("scores", rows.with_columns(alert=pl.lit(value=False)), "wide", at(0), at(11))
    assert (alerting(), read) == (0, [120, 12, 132])
    assert batches.rows(lake, at(11)).is_empty()
    add_minutes(lake, 11, 12, 12)
    both = Batches("scores", lambda rows: rows)
    assert both.rows(lake, at(0)).height == 144  # two files, read together
    lake.replace("scores", rows.head(0), "wide", at(11), at(12))
    assert both.rows(lake, at(0)).height == 132


def test_only_the_newest_minutes_are_read_for_the_overview(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A day of which all files but those of the last hours are gone: nobody has looked at them."""
    lake = wide_lake(tmp_path / "lake", 2, 10)
    long_ago = at(-10 * 1440)
    for table in ("scores", "limits", "bars", "decisions", "guard_state"):
        rows = lake.scan(table).collect().with_columns(ts=pl.col("ts") - pl.duration(days=10))
        lake.replace(table, rows, "wide", long_ago - timedelta(days=1), long_ago + timedelta(days=1))
        for file in lake.files(table).filter(pl.col("ts_max") < at(-1440))["path"]:
            (lake.path(table) / file).unlink()
    with served(lake.root, at(10)) as desk:
        assert order(desk.shown("/?sort=symbol")) == [0, 1]
        desk.shown("/breakers")
        desk.shown("/decisions")
        desk.shown("/symbol?venue=wide&symbol=S0001-PERP")


def test_a_breaker_that_opened_again_is_at_risk_since_its_first_breach(tmp_path: Path) -> None:
    """Opened at 02:05, on probation from 02:20, open again from 02:22: at risk since 02:05, as the report says."""
    lake = build(tmp_path, World(anomaly=False))
    with served(lake.root, report_at(240)) as desk:
        assert '<td data-label="At risk since" class="nowrap">2025-10-10 02:05Z<small>breach' in desk.shown("/")


def test_a_breaker_that_opened_long_ago_is_still_known(tmp_path: Path) -> None:
    """A halt that waits for a person has no decision in the last days; what opened it is looked for further back."""
    lake = wide_lake(tmp_path / "lake", 1, 10)
    rows = lake.scan("decisions").collect().with_columns(ts=pl.col("ts") - pl.duration(days=20))
    lake.replace("decisions", rows, "wide", at(-40 * 1440), at(11))
    with served(lake.root, at(10)) as desk:
        assert "1 of 1 symbol is at risk" in desk.shown("/")
        assert "2025-09-20 00:10Z" in desk.shown("/breakers")
    opened = rows.filter(pl.col("rule") == "price_band")
    trial = opened.with_columns(ts=pl.lit(at(5)), state_before=pl.lit("open"), state_after=pl.lit("half_open"))
    others = rows.filter(pl.col("rule") != "price_band").with_columns(ts=pl.lit(at(5)))
    lake.replace(
        "decisions", pl.concat([trial, others]), "wide", at(0), at(11)
    )  # all decided lately, the breach long ago
    with served(lake.root, at(10)) as desk:
        assert "2025-09-20 00:10Z" in desk.shown("/breakers")


def test_the_server_of_the_settings_is_the_server_of_the_command(tmp_path: Path) -> None:
    config = Config(lake=tmp_path, serve=ServeConfig(host="0.0.0.0"))
    with pytest.raises(InputError, match="CASCADEGUARD_SERVE_TOKEN"):
        server_of(config, None, lambda: datetime.now(UTC))
    assert server_of(config, TOKEN, lambda: datetime.now(UTC)).config.server_header is False
