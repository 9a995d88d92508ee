"""Step `bands`: what a person says becomes a position, the JSON has the agreed keys, the page opens and draws."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.bands import BandsSummary, compare_bands, position_of, scenario_of
from pipelines.errors import InputError
from pipelines.profiles import shipped_names, template_text

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SCENARIO = scenario_of(sigma_year=0.8, fall_pct_per_min=1.0, local_share=0.2, depth_usd=5e8)
LONG = position_of("BTC", "long", entry=100_000.0, notional=1_000_000.0, leverage=12.0)
KEYS = (
    "liquidation_price", "bankruptcy_price", "mark_rule", "path", "time_to_touch_s", "completion_s",
)  # fmt: skip
HOSTILE = "</script><img src=x onerror=window.hacked=1>"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> tuple[BandsSummary, Path]:
    """All shipped venues and one's own, whose name is an attack."""
    folder = tmp_path_factory.mktemp("bands")
    mine = folder / "mine.toml"
    mine.write_text(template_text().replace('"my-venue"', f"'{HOSTILE}'", 1), encoding="utf-8")
    out = folder / "sub" / "bands.html"
    return compare_bands(LONG, SCENARIO, [*shipped_names(), str(mine)], out=out), out


def test_the_json_has_the_agreed_keys_for_every_profile(page: tuple[BandsSummary, Path]) -> None:
    told = json.loads(json.dumps(page[0].__dict__, allow_nan=False))
    assert [row["profile"] for row in told["profiles"]] == [*shipped_names(), HOSTILE]
    for row in told["profiles"]:
        assert set(KEYS) <= set(row)
        assert set(row["time_to_touch_s"]) == {"q05", "q25", "q50"}
        assert all(row[key] is not None for key in KEYS)
    assert [row["against"] for row in told["why"]] == ["binance-usdm"] * len(shipped_names())
    for row in told["why"]:
        assert sum(row["parts"].values()) == pytest.approx(row["price"])


def test_the_venues_liquidate_the_same_position_at_different_prices(page: tuple[BandsSummary, Path]) -> None:
    rows = {row["profile"]: row for row in page[0].profiles}
    assert len({row["liquidation_price"] for row in rows.values()}) == len(rows)
    # 10 BTC, margin 1M / 12: hyperliquid (1M - 83 333.33) / (10 * (1 - .0125)) = 92 827.00
    assert rows["hyperliquid"]["liquidation_price"] == pytest.approx(916_666.6667 / 9.875, rel=1e-9)
    # binance, tier 3 (.65 % less 950): (916 666.67 - 950) / (10 * (1 - .0065)) = 92 170.78
    assert rows["binance-usdm"]["liquidation_price"] == pytest.approx(915_716.6667 / 9.935, rel=1e-9)
    assert [row["bankruptcy_price"] for row in rows.values()] == pytest.approx([91_666.66666667] * len(rows))


def test_the_words_name_every_venue_and_every_reason(page: tuple[BandsSummary, Path]) -> None:
    text = page[0].sentence()
    for name in shipped_names():
        assert name in text
    assert "path (share_first against market)" in text
    assert "mark (index_ema 150 s against median 300 s)" in text


def test_the_same_question_gives_the_same_page(page: tuple[BandsSummary, Path], tmp_path: Path) -> None:
    first, second = tmp_path / "a.html", tmp_path / "b.html"
    for out in (first, second):
        compare_bands(LONG, SCENARIO, ["dydx", "vega"], out=out)
    assert first.read_bytes() == second.read_bytes()


def test_without_depth_the_scenario_says_so_in_json() -> None:
    calm = scenario_of(sigma_year=0.8, fall_pct_per_min=1.0, local_share=0.2, depth_usd=None)
    found = compare_bands(LONG, calm, ["dydx"])
    assert found.scenario["depth_usd"] is None
    assert (found.why, found.report) == ([], None)
    json.dumps(found.__dict__, allow_nan=False)


def test_a_position_that_no_move_can_liquidate_is_told(tmp_path: Path) -> None:
    safe = position_of("BTC", "long", entry=100.0, qty=1.0, margin=150.0)
    found = compare_bands(safe, SCENARIO, ["dydx", "vega"], out=tmp_path / "page.html")
    assert "no move can liquidate it" in found.sentence()
    assert "no move can liquidate it" in (tmp_path / "page.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        ({"side": "up"}, "side must be long or short"),
        ({"qty": 1.0}, "give either --qty or --notional"),
        ({"notional": None}, "give either --qty or --notional"),
        ({"margin": 5.0}, "give either --leverage or --margin"),
        ({"leverage": None}, "give either --leverage or --margin"),
        ({"leverage": 0.0}, "--leverage must be positive"),
        ({"entry": -1.0}, "--entry must be positive"),
        ({"mark": float("nan")}, "`mark_price` must be finite"),
    ],
)
def test_a_bad_position_is_one_line(said: dict[str, Any], fault: str) -> None:
    asked: dict[str, Any] = {"side": "long", "entry": 100.0, "notional": 1_000.0, "leverage": 5.0, **said}
    with pytest.raises(InputError, match=fault):
        position_of("BTC", asked.pop("side"), **asked)


def test_a_bad_scenario_a_repeated_and_a_narrow_profile_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="`sigma_year` must be finite and positive"):
        scenario_of(sigma_year=0.0, fall_pct_per_min=1.0, local_share=0.2, depth_usd=None)
    with pytest.raises(InputError, match="different names"):
        compare_bands(LONG, SCENARIO, ["dydx", "dydx"])
    narrow = tmp_path / "narrow.toml"
    narrow.write_text(template_text().replace('"*" = [{ rate = 0.05 }]\n', "", 1), encoding="utf-8")
    other = position_of("DOGE", "long", entry=0.1, notional=1_000.0, leverage=5.0)
    with pytest.raises(InputError, match="has no tiers for DOGE"):
        compare_bands(other, SCENARIO, [str(narrow)])


def test_a_page_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(InputError, match="the page cannot be written"):
        compare_bands(LONG, SCENARIO, ["dydx"], out=tmp_path / "file" / "page.html")


@pytest.fixture(scope="module")
def opened(page: tuple[BandsSummary, Path]) -> Iterator[tuple[Any, list[str]]]:
    if CHROMIUM is None:
        pytest.skip("no chromium binary on the search path")
    from playwright.sync_api import sync_playwright

    complaints: list[str] = []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
        )
        tab = browser.new_page(viewport={"width": 1280, "height": 900})
        tab.on("console", lambda message: complaints.append(message.text))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on(
            "request", lambda it: None if it.url.startswith(("file:", "data:", "blob:")) else complaints.append(it.url)
        )
        tab.goto(page[1].as_uri())
        tab.wait_for_selector("html[data-drawn]", timeout=30_000)
        yield tab, complaints
        browser.close()


@pytest.mark.service
def test_the_page_opens_alone_draws_every_plot_and_runs_nothing_it_should_not(opened: tuple[Any, list[str]]) -> None:
    tab, complaints = opened
    assert complaints == []
    assert tab.evaluate("window.hacked") is None
    drawn = tab.evaluate(
        "[...document.querySelectorAll('.plot')].map(p => p.querySelectorAll('.point path, .points path').length)"
    )
    assert len(drawn) == 3
    assert min(drawn) >= 7


@pytest.mark.service
@pytest.mark.parametrize("width_px", [1280, 420])
def test_the_page_fits_the_screen(opened: tuple[Any, list[str]], width_px: int) -> None:
    tab, _ = opened
    tab.set_viewport_size({"width": width_px, "height": 900})
    tab.wait_for_timeout(400)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width_px
