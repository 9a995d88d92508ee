"""The dashboard in a real browser: filtered, sorted, opened, refreshed, by keyboard, on paper, without scripts."""

import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from pipelines.lake import Lake
from tests.pipelines.report_worlds import World, build
from tests.pipelines.report_worlds import at as report_at
from tests.pipelines.serving_server import Served, served
from tests.pipelines.serving_worlds import add_minutes, at, wide_lake
from tests.pipelines.test_report_page import HOSTILE, WIDTHS_PX, browser

pytestmark = pytest.mark.service
__all__ = ["browser"]  # a fixture

SYMBOLS, MINUTES = 200, 30
POLL_S = 1
WAIT_S = 10.0
TOKEN = "correct-horse-battery-staple"
PAGES = ("/?text=s00", "/breakers", "/decisions", "/graph", "/runs", "/symbol?venue=wide&symbol=S0010-PERP")
SHOWN = "() => [...document.querySelectorAll('#symbols a.open')].map((link) => link.textContent)"
FOCUSED = "() => document.activeElement.textContent.trim()"
FIRST = "S0000-PERP"  # the most severe: it alerts, and its price band is open


@dataclass
class Opened:
    """A page of the dashboard, with everything it complained about and asked for elsewhere."""

    page: Any
    desk: Served
    complaints: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)

    def go(self, path: str) -> Any:
        self.page.goto(self.desk.url + path)
        return self.page


def _complain(opened: Opened, text: str) -> None:
    """A poll that a click on a link breaks off is no fault; htmx says so all the same."""
    if not text.startswith(("error: htmx:sendAbort", "error: htmx:afterRequest")):
        opened.complaints.append(text)


def until(page: Any, expression: str) -> None:
    """Wait for `expression` to be true. The page's policy forbids the polling that playwright would do inside it."""
    deadline = time.monotonic() + WAIT_S
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, expression
        page.wait_for_timeout(30)


def _open(browser: Any, desk: Served, **how: Any) -> Opened:
    context = browser.new_context(viewport={"width": 1280, "height": 900}, **how)
    opened = Opened(context.new_page(), desk)
    opened.page.on("console", lambda message: _complain(opened, f"{message.type}: {message.text}"))
    opened.page.on("pageerror", lambda error: opened.complaints.append(str(error)))
    opened.page.on(
        "request", lambda asked: None if asked.url.startswith((desk.url, "data:")) else opened.outside.append(asked.url)
    )
    return opened


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    return wide_lake(tmp_path_factory.mktemp("opened") / "lake", SYMBOLS, MINUTES)


@pytest.fixture(scope="module")
def desk(lake: Lake) -> Iterator[Served]:
    with served(lake.root, at(MINUTES), poll_s=POLL_S) as running:
        yield running


@pytest.fixture(scope="module")
def opened(browser: Any, desk: Served) -> Iterator[Opened]:
    """One page for the module; whatever a test did, nothing may have been complained of or asked for outside."""
    found = _open(browser, desk)
    yield found
    assert found.complaints == []
    assert found.outside == []
    found.page.context.close()


def test_two_hundred_symbols_are_there_the_most_severe_first(opened: Opened) -> None:
    page = opened.go("/")
    assert page.title() == "cascadeguard · risk now"
    names = page.evaluate(SHOWN)
    assert len(names) == SYMBOLS
    assert names[0] == FIRST
    assert "46 of 200 symbols are at risk" in page.inner_text("h1")


def test_the_filter_narrows_while_one_types_and_stands_in_the_address(opened: Opened) -> None:
    page = opened.go("/")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "text"
    page.keyboard.type("s001")
    until(page, "document.querySelectorAll('#symbols a.open').length === 10")
    assert page.evaluate(FOCUSED) == ""
    assert page.evaluate("document.activeElement.id") == "text"
    until(page, "location.search.includes('text=s001')")
    page.reload()
    assert len(page.evaluate(SHOWN)) == 10
    assert page.input_value("#text") == "s001"


def test_a_heading_sorts_and_sorts_the_other_way_round(opened: Opened) -> None:
    page = opened.go("/")
    page.click("#sort-probability")
    until(page, "document.querySelector('#symbols a.open').textContent === 'S0199-PERP'")
    assert page.locator("th[aria-sort=ascending]").count() == 1
    assert page.input_value("#sort") == "probability"
    page.click("#sort-probability")
    until(page, "document.querySelector('#symbols a.open').textContent === 'S0000-PERP'")
    assert page.is_checked("#turned")
    page.select_option("#sort", "symbol")
    until(page, "document.querySelector('#symbols a.open').textContent === 'S0199-PERP'")


def test_a_symbol_opens_and_escape_goes_back_to_the_same_list(opened: Opened) -> None:
    page = opened.go("/?text=s001")
    page.click("text=S0014-PERP")
    page.wait_for_url("**/symbol?*")
    assert page.inner_text("h1").startswith("S0014-PERP")
    assert page.locator(".chart svg.frame").count() == 7
    drawn = page.evaluate(
        "[...document.querySelectorAll('.chart path.line')].filter((p) => p.getBoundingClientRect().width > 20).length"
    )
    assert drawn >= 12
    page.keyboard.press("Escape")
    page.wait_for_url("**/?text=s001")


PRESS_MS_MAX = 2_000  # dashboard.js: for so long an answer waits for the button


def press(page: Any, selector: str) -> None:
    box = page.locator(selector).first.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()


def test_a_row_that_is_pressed_right_after_typing_opens(opened: Opened) -> None:
    """The press takes the focus from the filter, which asks again; the answer must not come between down and up."""
    page = opened.go("/")
    page.focus("#text")
    page.keyboard.type("s0014")
    until(page, "document.querySelectorAll('#symbols a.open').length === 1")
    press(page, "#symbols a.open")
    page.wait_for_timeout(600)
    page.mouse.up()
    page.wait_for_url("**/symbol?*", timeout=5_000)
    assert page.inner_text("h1").startswith("S0014-PERP")


@pytest.mark.parametrize("key", [None, "Control"])  # with it, a link opens elsewhere and the page stays
def test_an_answer_that_comes_while_the_button_is_down_is_shown_after_it(
    browser: Any, lake: Lake, key: str | None
) -> None:
    """At once: the page does not wait until it asks by itself."""
    with served(lake.root, at(MINUTES), poll_s=3_600) as desk:
        page = _open(browser, desk).go("/")
        begun = page.evaluate("performance.now()")
        if key:
            page.keyboard.down(key)
        press(page, "#symbols a.open" if key else "#symbols tbody tr:first-child td:last-child")
        page.evaluate("document.querySelector('#text').value = 's0014'")
        page.dispatch_event("#text", "input")
        page.wait_for_timeout(600)
        shown, held_ms = len(page.evaluate(SHOWN)), page.evaluate("performance.now()") - begun
        page.mouse.up()
        if key:
            page.keyboard.up(key)
        assert shown == SYMBOLS or held_ms > PRESS_MS_MAX  # on a machine so slow, the answer need not wait
        until(page, "document.querySelectorAll('#symbols a.open').length === 1")
        page.context.close()


def test_a_release_that_is_never_told_holds_nothing_up_for_long(opened: Opened) -> None:
    page = opened.go("/")
    page.dispatch_event("#symbols tbody", "pointerdown", {"button": 0, "isPrimary": True})
    page.fill("#text", "s0014")
    page.wait_for_timeout(PRESS_MS_MAX + 100)
    page.fill("#text", "s001")
    until(page, "document.querySelectorAll('#symbols a.open').length === 10")


def test_a_decision_is_reached_from_a_breaker(opened: Opened) -> None:
    page = opened.go("/breakers?text=S0007")
    page.click("td.s-open a")
    page.wait_for_url("**/decision?id=*")
    assert "price_band closed -> open" in page.inner_text("pre")
    assert page.inner_text("h1").startswith("Price band, 5 min of S0007-PERP")


def test_keys_alone_are_enough(opened: Opened) -> None:
    page = opened.go("/")
    page.keyboard.press("Tab")
    assert page.evaluate(FOCUSED) == "Skip to the content"
    outline = "getComputedStyle(document.activeElement).outlineWidth"
    page.keyboard.press("Tab")
    assert page.evaluate(outline) == "3px"
    page.keyboard.press("j")
    assert page.evaluate(FOCUSED) == FIRST
    names = page.evaluate(SHOWN)
    page.keyboard.press("j")
    page.keyboard.press("ArrowDown")
    assert page.evaluate(FOCUSED) == names[2]
    page.keyboard.press("ArrowUp")
    page.keyboard.press("k")
    page.keyboard.press("k")
    assert page.evaluate(FOCUSED) == FIRST
    assert page.evaluate(outline) == "3px"
    page.keyboard.press("/")
    page.keyboard.type("j/k")  # letters, while one types
    assert page.input_value("#text") == "j/k"
    page.keyboard.press("Control+a")
    page.keyboard.type("s0021")
    until(page, "document.querySelectorAll('#symbols a.open').length === 1")
    page.keyboard.press("ArrowDown")
    assert page.evaluate(FOCUSED) == "S0021-PERP"
    page.keyboard.press("Enter")
    page.wait_for_url("**/symbol?*S0021*")


def test_an_open_page_shows_what_is_written_meanwhile_and_disturbs_nobody(
    opened: Opened, lake: Lake, desk: Served
) -> None:
    """Filter, sort, scroll and focus stand as they were when the newest minute appears."""
    page = opened.go("/?sort=symbol")
    page.fill("#text", "s01")
    until(page, "document.querySelectorAll('#symbols a.open').length === 100")
    page.keyboard.press("Escape")
    for _ in range(40):
        page.keyboard.press("j")
    name, scrolled = page.evaluate(FOCUSED), page.evaluate("scrollY")
    assert scrolled > 500
    add_minutes(lake, SYMBOLS, MINUTES + 1, MINUTES + 1)
    until(page, "document.querySelector('#symbols .lede').textContent.includes('00:31Z')")
    assert page.evaluate(FOCUSED) == name
    assert page.evaluate("scrollY") == scrolled
    assert page.input_value("#text") == "s01"
    assert page.evaluate(SHOWN)[0] == "S0100-PERP"
    assert len(page.evaluate(SHOWN)) == 100
    desk.now = at(MINUTES + 15)  # nothing new for 14 minutes
    try:
        page.wait_for_selector("text=data is 14 min old", timeout=10_000)
        assert page.evaluate(FOCUSED) == name
    finally:
        desk.now = at(MINUTES)


def test_a_refresh_without_news_leaves_the_page_alone(opened: Opened) -> None:
    """What one has marked with the mouse stays marked: nothing is put in its place."""
    page = opened.go("/runs")
    page.evaluate("document.querySelector('#live section').dataset.mine = '1'")
    with page.expect_response(lambda answer: answer.status == 204):
        pass
    assert page.evaluate("document.querySelector('#live section').dataset.mine") == "1"


def test_a_table_that_was_scrolled_stays_so(opened: Opened, lake: Lake) -> None:
    page = opened.go("/breakers")
    page.evaluate("document.querySelector('#matrix').scrollTop = 300")
    before = page.evaluate("document.querySelector('#live').dataset.stamp")
    add_minutes(lake, SYMBOLS, MINUTES + 2, MINUTES + 2)
    until(page, f"document.querySelector('#live').dataset.stamp !== '{before}'")
    assert page.evaluate("document.querySelector('#matrix').scrollTop") == 300


def test_no_page_is_wider_than_the_screen(opened: Opened) -> None:
    try:
        for path in PAGES:
            page = opened.go(path)
            for width_px in WIDTHS_PX:
                page.set_viewport_size({"width": width_px, "height": 900})
                assert page.evaluate("document.documentElement.scrollWidth") <= width_px, (path, width_px)
    finally:
        opened.page.set_viewport_size({"width": 1280, "height": 900})


CONTRAST = """() => {
  const channel = (c) => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const parse = (text) => text.match(/[0-9.]+/g).map(Number);
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const ground = (e) => {
    for (; e; e = e.parentElement) {
      const c = parse(getComputedStyle(e).backgroundColor);
      if (c.length === 3 || c[3] > 0.5) return c;
    }
    return [255, 255, 255];
  };
  const worst = {};
  document.querySelectorAll("main *, header *").forEach((e) => {
    if (e.closest("svg") || ![...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim())) return;
    if (!e.getBoundingClientRect().width || e.closest(".skip")) return;
    const pair = [light(parse(getComputedStyle(e).color)), light(ground(e))].sort((a, b) => b - a);
    const ratio = (pair[0] + 0.05) / (pair[1] + 0.05);
    const name = `${e.tagName}.${e.className}`;
    if (ratio < 4.4 && !(worst[name] < ratio)) worst[name] = Math.round(ratio * 10) / 10;
  });
  return worst;
}"""


def test_every_text_stands_out_from_its_ground(opened: Opened) -> None:
    """WCAG AA asks for a contrast of 4.5, in the light and in the dark."""
    try:
        for path in PAGES:
            page = opened.go(path)
            for scheme in ("dark", "light"):
                page.emulate_media(color_scheme=scheme)
                assert page.evaluate(CONTRAST) == {}, (path, scheme)
    finally:
        opened.page.emulate_media(color_scheme="light")


def test_it_prints_without_what_only_a_screen_needs(opened: Opened) -> None:
    page = opened.go("/?text=s001")
    page.emulate_media(media="print", color_scheme="dark")
    try:
        assert page.locator("form.asked").is_hidden()
        assert (
            page.evaluate("getComputedStyle(document.querySelector('section')).backgroundColor") == "rgb(255, 255, 255)"
        )
        assert page.pdf(prefer_css_page_size=True).startswith(b"%PDF")
    finally:
        page.emulate_media(media="screen", color_scheme="light")


def test_a_hostile_name_is_text_and_nothing_else(browser: Any, tmp_path: Path) -> None:
    lake = build(tmp_path, World(a=HOSTILE, probabilities=True))
    with served(lake.root, report_at(240)) as desk:
        opened = _open(browser, desk)
        for path in (
            "/",
            "/breakers",
            "/decisions",
            f"/symbol?venue=testex&symbol={quote(HOSTILE)}",
            f"/?text={quote(HOSTILE)}",
        ):
            page = opened.go(path)
            page.wait_for_load_state("networkidle")
            assert page.evaluate("window.hacked === undefined")
            assert page.evaluate("document.images.length") == 0
        opened.go("/")
        page.fill("#text", HOSTILE)
        until(page, "document.querySelectorAll('#symbols a.open').length === 1")
        assert page.evaluate(SHOWN) == [HOSTILE]
        page.click("#symbols a.open")
        page.wait_for_url("**/symbol?*")
        assert page.inner_text("h1").startswith(HOSTILE)
        assert (opened.complaints, opened.outside) == ([], [])
        page.context.close()


def test_a_script_that_comes_into_the_page_is_not_run(browser: Any, desk: Served) -> None:
    """The policy of the answer stands behind the escaping."""
    opened = _open(browser, desk)
    page = opened.go("/runs")
    page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.hacked=1\">')")
    page.evaluate("document.body.append(Object.assign(document.createElement('script'), {text: 'window.hacked=1'}))")
    page.wait_for_timeout(200)
    assert page.evaluate("window.hacked === undefined")
    assert any("Content Security Policy" in complaint for complaint in opened.complaints)
    page.context.close()


def test_without_scripts_links_and_forms_work(browser: Any, desk: Served) -> None:
    opened = _open(browser, desk, java_script_enabled=False)
    page = opened.go("/")
    page.fill("#text", "s0007")
    page.press("#text", "Enter")
    page.wait_for_url("**/?text=s0007*")
    assert page.locator("#symbols a.open").all_inner_texts() == ["S0007-PERP"]
    page.click("#sort-symbol")
    page.wait_for_url("**sort=symbol*")
    page.click("#symbols a.open")
    assert page.inner_text("h1").startswith("S0007-PERP")
    page.context.close()


def test_a_person_logs_in_and_stays_in(browser: Any, lake: Lake) -> None:
    with served(lake.root, at(MINUTES), token=TOKEN, poll_s=POLL_S) as desk:
        opened = _open(browser, desk)
        page = opened.go("/breakers")
        assert page.url.endswith("/login")
        page.fill("input[type=password]", "wrong")
        page.keyboard.press("Enter")
        page.wait_for_selector("text=That is not the token")
        page.fill("input[type=password]", TOKEN)
        page.keyboard.press("Enter")
        page.wait_for_selector("#symbols")
        (cookie,) = page.context.cookies()
        assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
        assert TOKEN not in cookie["value"]
        assert page.evaluate("document.cookie") == ""
        assert TOKEN not in page.evaluate("location.href")
        page.context.clear_cookies()  # the session ends while the page is open: it leads to the form by itself
        page.wait_for_url("**/login", timeout=10_000)
        page.context.close()


def test_a_page_says_that_its_server_or_its_lake_is_gone(browser: Any, tmp_path: Path) -> None:
    lake = wide_lake(tmp_path / "lake", 2, 10)
    opened: Opened | None = None
    with served(lake.root, at(10), poll_s=POLL_S) as desk:
        opened = _open(browser, desk)
        page = opened.go("/")
        assert page.locator("#lost").is_hidden()
        shutil.rmtree(lake.root)
        page.wait_for_selector("text=There is no lake at", timeout=10_000)
        wide_lake(tmp_path / "lake", 3, 10)
        page.wait_for_selector("text=3 of 3 symbols", timeout=10_000)
    page.wait_for_selector("#lost:not([hidden])", timeout=10_000)
    assert re.search(r"lost its server at \d\d:\d\d:\d\dZ", page.inner_text("#lost"))
    assert page.locator("#symbols a.open").count() == 3  # what it knew stays to be read
    page.context.close()
