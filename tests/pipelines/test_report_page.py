"""The report in a real browser: it opens alone, draws every plot, nothing overlaps, nothing runs that it should not."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pipelines.config import Config
from pipelines.report import write_report
from tests.pipelines.report_worlds import World, build

pytestmark = pytest.mark.service

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
HOSTILE = "</script><img src=x onerror=window.hacked=1><script>window.hacked=1</script>"
WIDTHS_PX = (1280, 800, 420)

OVERLAPS = """() => {
  const found = [];
  document.querySelectorAll(".plot").forEach((plot) => {
    for (const axis of [".xaxislayer-above", ".yaxislayer-above"]) {
      const texts = [...plot.querySelectorAll(`${axis} text`)].filter((text) => text.textContent.trim());
      const boxes = texts.map((text) => [text.textContent, text.getBoundingClientRect()]);
      boxes.forEach(([a, p], i) => boxes.slice(i + 1).forEach(([b, q]) => {
        const across = Math.min(p.right, q.right) - Math.max(p.left, q.left);
        const down = Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top);
        if (across > 1 && down > 2) found.push(`${plot.ariaLabel}: ${a} / ${b}`);
      }));
    }
  });
  return found;
}"""
CUT_OFF = """() => [...document.querySelectorAll(".plot")].flatMap((plot) => {
  const frame = plot.getBoundingClientRect();
  return [...plot.querySelectorAll(".ytick text, .xtick text")]
    .filter((text) => {
      const box = text.getBoundingClientRect();
      return box.left < frame.left - 1 || box.right > frame.right + 1 || box.bottom > frame.bottom + 1;
    })
    .map((text) => `${plot.ariaLabel}: ${text.textContent}`);
})"""
DRAWN = """() => [...document.querySelectorAll(".plot")].map((plot) => ({
  title: plot.ariaLabel,
  marks: [...plot.querySelectorAll(".trace path, .hm image")].filter((m) => m.getBoundingClientRect().width > 1).length,
  ticks: plot.querySelectorAll(".xtick text").length,
}))"""


@dataclass
class Opened:
    """A page that was opened, with everything it complained about and asked for."""

    page: Any
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def at_width(self, width_px: int) -> Any:
        self.page.set_viewport_size({"width": width_px, "height": 900})
        self.page.wait_for_timeout(400)
        return self.page


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no chromium binary on the search path")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        started = driver.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
        )
        yield started
        started.close()


def _open(browser: Any, path: Path) -> Opened:
    opened = Opened(browser.new_page(viewport={"width": 1280, "height": 900}))

    def guard(route: Any) -> None:
        if route.request.url.startswith(("file:", "data:", "blob:")):
            route.continue_()
        else:
            opened.requests.append(route.request.url)
            route.abort()

    opened.page.route("**/*", guard)
    opened.page.on("console", lambda message: opened.complaints.append(f"{message.type}: {message.text}"))
    opened.page.on("pageerror", lambda error: opened.complaints.append(str(error)))
    opened.page.goto(path.as_uri())
    opened.page.wait_for_selector("html[data-drawn]", timeout=30_000)
    return opened


@pytest.fixture(scope="module")
def opened(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Opened:
    """Two venues, one symbol of both, a hostile one, probabilities on one of them."""
    root = tmp_path_factory.mktemp("lake")
    names = tuple(f"LONGNAME{number}USDT-PERP" for number in range(6))
    lake = build(root, World(probabilities=True, extra_symbols=names, accounts=True), World(venue="other", b=HOSTILE))
    return _open(browser, Path(write_report(lake, Config(), None, None, None).report))


def test_it_opens_without_a_complaint_and_without_an_outside_request(opened: Opened) -> None:
    assert opened.complaints == []
    assert opened.requests == []


def test_every_plot_has_drawn_something(opened: Opened) -> None:
    drawn = opened.at_width(1280).evaluate(DRAWN)
    assert len(drawn) == 7
    assert [plot["title"] for plot in drawn if plot["marks"] == 0 or plot["ticks"] < 3] == []
    assert opened.page.locator(".absent").count() == 0


def test_plots_line_up(opened: Opened) -> None:
    page = opened.at_width(1280)
    sizes = page.evaluate("() => [...document.querySelectorAll('.plot')].map((plot) => plot._fullLayout._size)")
    assert len(sizes) == 7
    assert len({(round(size["l"]), round(size["w"])) for size in sizes}) == 1


@pytest.mark.parametrize("width_px", WIDTHS_PX)
def test_no_label_overlaps_another_or_is_cut_off(opened: Opened, width_px: int) -> None:
    page = opened.at_width(width_px)
    assert page.locator(".xtick text").count() > 7  # there are labels to compare
    assert page.evaluate(OVERLAPS) == []
    assert page.evaluate(CUT_OFF) == []


@pytest.mark.parametrize("width_px", WIDTHS_PX)
def test_the_page_does_not_overflow_sideways(opened: Opened, width_px: int) -> None:
    page = opened.at_width(width_px)
    assert page.evaluate("document.documentElement.scrollWidth") == width_px
    risks = page.evaluate("(t => [t.scrollWidth, t.clientWidth])(document.querySelector('.risks').parentElement)")
    assert risks[0] <= risks[1]  # the first table is seen whole


def test_every_table_has_rows(opened: Opened) -> None:
    counts = opened.page.evaluate(
        "() => [...document.querySelectorAll('table')].map((table) => table.querySelectorAll('tbody tr').length)"
    )
    assert len(counts) >= 7
    assert min(counts) > 0


def test_a_hostile_name_is_text_and_nothing_else(opened: Opened) -> None:
    page = opened.page
    assert page.evaluate("window.hacked === undefined")
    assert page.evaluate("document.querySelectorAll('img').length") == 0
    assert page.locator("#risk td.who", has_text="</script><img src=x").count() == 1
    labels = page.evaluate("() => [...document.querySelectorAll('.ytick text')].map((text) => text.textContent)")
    assert sum(label.startswith("</script><img src=x") for label in labels) >= 1


def test_zooming_one_plot_zooms_the_others(opened: Opened) -> None:
    page = opened.at_width(1280)
    page.evaluate(
        """() => Plotly.relayout(document.querySelector(".plot"),
          {"xaxis.range[0]": "2025-10-10 01:00:00", "xaxis.range[1]": "2025-10-10 02:00:00"})"""
    )
    page.wait_for_timeout(600)
    starts = page.evaluate("() => [...document.querySelectorAll('.plot')].map((plot) => plot.layout.xaxis.range[0])")
    assert len(starts) == 7
    assert all(str(start).startswith("2025-10-10 01:00") for start in starts)


def test_a_name_in_the_legend_hides_its_lines_in_every_plot(opened: Opened) -> None:
    page = opened.page
    button = page.locator("button.toggle", has_text="LONGNAME3").first
    count = """() => [...document.querySelectorAll(".plot")].flatMap((plot) => plot.data)
      .filter((trace) => (trace.name || "").startsWith("LONGNAME3") && trace.visible === false).length"""
    assert page.evaluate(count) == 0
    button.click()
    page.wait_for_timeout(300)
    assert page.evaluate(count) == 2
    assert button.get_attribute("aria-pressed") == "false"


def test_it_prints_on_pages(opened: Opened) -> None:
    content = opened.page.pdf(prefer_css_page_size=True)
    assert content.startswith(b"%PDF")
    assert len(content) > 50_000


def test_a_lake_that_was_only_guarded_opens_too(browser: Any, tmp_path: Path) -> None:
    lake = build(tmp_path, World(tables=("limits", "decisions")))
    only = _open(browser, Path(write_report(lake, Config(), None, None, None).report))
    assert (only.complaints, only.requests) == ([], [])
    assert [plot["title"] for plot in only.page.evaluate(DRAWN) if plot["marks"] > 0] == ["Guardrail actions"]
    assert only.page.locator(".absent", has_text="No plot").count() == 5
