"""The page of an evaluation in a browser: drawn without a complaint, by keyboard, on paper, without scripts."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.evaluating.run import ALWAYS_ON
from tests.pipelines.test_evaluation_page import HOSTILE, page, source
from tests.pipelines.test_report_page import CUT_OFF, DRAWN, OVERLAPS, Opened, _open, browser

pytestmark = pytest.mark.service
__all__ = ["browser"]  # a fixture


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_text(page(source(hostile=HOSTILE))[0], encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def opened(browser: Any, made: Path) -> Iterator[Opened]:
    found = _open(browser, made)
    yield found
    found.page.close()


def test_it_opens_without_a_complaint_and_without_an_outside_request(opened: Opened) -> None:
    assert opened.complaints == []
    assert opened.requests == []
    assert opened.page.evaluate("window.hacked") is None
    assert opened.page.title() == "cascadeguard · evaluation of rival"


def test_every_plot_has_drawn_something(opened: Opened) -> None:
    drawn = opened.at_width(1280).evaluate(DRAWN)
    assert len(drawn) == 6
    assert all(plot["ticks"] and plot["title"] for plot in drawn)
    assert opened.page.evaluate("document.querySelectorAll('.plot .trace path').length") > 30


@pytest.mark.parametrize("width_px", [1280, 800, 420])
def test_no_label_overlaps_or_is_cut_off_and_the_page_does_not_scroll_sideways(opened: Opened, width_px: int) -> None:
    shown = opened.at_width(width_px)
    assert shown.evaluate(OVERLAPS) == []
    assert shown.evaluate(CUT_OFF) == []
    assert shown.evaluate("document.documentElement.scrollWidth") <= width_px


def test_a_scorer_is_hidden_in_every_plot_by_the_keyboard(opened: Opened) -> None:
    shown = opened.at_width(1280)
    visible = """name => [...document.querySelectorAll('.plot')].flatMap((plot) => plot.data)
      .filter((trace) => trace.name === name).map((trace) => trace.visible !== false)"""
    buttons = shown.locator(f'.toggle[data-name="{ALWAYS_ON}"]')
    assert buttons.count() == 2
    assert set(shown.evaluate(visible, ALWAYS_ON)) == {True}
    buttons.first.focus()
    shown.keyboard.press("Enter")
    assert set(shown.evaluate(visible, ALWAYS_ON)) == {False}
    assert buttons.last.get_attribute("aria-pressed") == "false"
    shown.keyboard.press("Enter")
    assert set(shown.evaluate(visible, ALWAYS_ON)) == {True}


def test_every_table_that_scrolls_is_reached_by_the_keyboard(browser: Any, made: Path) -> None:
    shown = _open(browser, made).page
    scrolling = "[...document.querySelectorAll('.scroll')].every((part) => part.tabIndex === 0 && part.ariaLabel)"
    assert shown.evaluate(scrolling)
    shown.keyboard.press("Tab")
    assert shown.evaluate("document.activeElement.className") == "skip"
    shown.close()


def test_nothing_is_wider_than_the_paper(browser: Any, made: Path) -> None:
    opened = _open(browser, made)
    opened.page.emulate_media(media="print")
    opened.page.set_viewport_size({"width": 1047, "height": 720})  # A4 landscape between its margins
    opened.page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    right = "[...document.querySelectorAll('.main-svg, table')].map((part) => part.getBoundingClientRect().right)"
    assert max(opened.page.evaluate(right)) <= 1048
    assert opened.page.pdf(prefer_css_page_size=True)[:4] == b"%PDF"
    opened.page.close()


def test_without_scripts_the_tables_still_tell_everything(browser: Any, made: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    shown = context.new_page()
    shown.goto(made.as_uri())
    assert "rival warned of" in shown.inner_text("h1")
    assert shown.locator('[aria-label="Scorer and baselines"] tbody tr').count() == 3
    context.close()
