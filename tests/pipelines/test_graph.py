"""The contagion graph from a lake: what is read, what is told, and how the page looks in a real browser."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from pipelines.errors import InputError
from pipelines.graph import GraphSummary, graph_of, graph_sentence, write_graph
from pipelines.lake import SCHEMAS, Lake
from pipelines.reporting.graph_page import DRAWN_MAX, headline, render
from pipelines.worlds import SD_DAY_UNKNOWN, world_from_lake
from tests.pipelines.graph_worlds import SEEN, SNAPSHOT, START, VENUE, LakeOf, build

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
HOSTILE = "</text><img src=x onerror=alert(1)>-PERP"
WIDTHS_PX = (1280, 800, 420)


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    return build(tmp_path_factory.mktemp("graph"))


# --- the world of a lake ---


def test_the_world_is_what_was_known_at_the_moment(lake: Lake) -> None:
    found = world_from_lake(lake, VENUE)
    world = found.scene.world
    assert (found.at, found.positions_at, found.notes) == (SEEN, SNAPSHOT, ())
    assert world.symbols == ("A-PERP", "B-PERP")
    assert world.price_usd == pytest.approx([100.0, 10.0])
    # the newest row, the thinner side, within 100 bps: 1M / .01; levels are known to 500 bps
    assert world.books.depth_usd == pytest.approx([1e8, 1e8])
    assert world.books.depth_limit == pytest.approx([0.05, 0.05])
    assert world.cash_usd.tolist() == [1_896.0]
    assert world.leg_qty.tolist() == [1_000.0, 5_000.0]
    # both marks move together, B twice as far: sd of the walk .001 each five minutes, 288 of them a day
    assert found.scene.correlation == pytest.approx(np.ones((2, 2)))
    assert found.scene.sd_day[1] == pytest.approx(2 * found.scene.sd_day[0])
    assert found.scene.sd_day[0] == pytest.approx(0.001 * np.sqrt(288), rel=0.2)


def test_later_rows_change_nothing(tmp_path: Path) -> None:
    made = build(tmp_path)
    before = world_from_lake(made, VENUE, SEEN)
    later = {"venue": VENUE, "ts": SNAPSHOT + timedelta(minutes=1), "known_at": SEEN + timedelta(minutes=1)}
    hidden = {"venue": VENUE, "ts": SNAPSHOT, "known_at": SEEN + timedelta(seconds=1)}  # happened, not known yet
    rows: dict[str, list[dict[str, Any]]] = {
        "positions": [
            later | {"account": "x", "symbol": "A-PERP", "qty": 1.0, "entry_price": 1.0, "margin_mode": "cross"}
        ],
        "collateral": [hidden | {"account": "shared", "asset": "USDT", "amount": 1.0}],
        "marks": [hidden | {"symbol": "A-PERP", "mark": 1.0}],
        "book_depth": [hidden | {"symbol": "A-PERP", "side": "bid", "band_bps": 100, "depth_usd": 1.0}],
    }
    for name, added in rows.items():
        made.append(name, pl.DataFrame(added, schema=SCHEMAS[name]), f"later {name}")
    after = world_from_lake(made, VENUE, SEEN)
    for name in ("price_usd", "cash_usd", "leg_qty", "leg_entry"):
        assert np.array_equal(getattr(before.scene.world, name), getattr(after.scene.world, name))
    assert np.array_equal(before.scene.world.books.depth_usd, after.scene.world.books.depth_usd)
    assert np.array_equal(before.scene.sd_day, after.scene.sd_day)
    moved = world_from_lake(made, VENUE, SEEN + timedelta(minutes=1))
    assert moved.scene.world.price_usd[0] == 1.0  # the rows are there for who asks later


def test_collateral_that_follows_a_symbol_is_cut_and_moves_with_it(tmp_path: Path) -> None:
    made = build(tmp_path, LakeOf(collateral=(("shared", "USDT", 1_000.0), ("shared", "A", 10.0)), haircut=0.1))
    world = world_from_lake(made, VENUE).scene.world
    assert world.cash_usd == pytest.approx([1_000 + 10 * 100 * 0.9])
    moving = ~world.leg_closable
    assert world.leg_symbol[moving].tolist() == [0]
    assert world.leg_qty[moving] == pytest.approx([9.0])


def test_an_isolated_position_is_a_unit_of_its_own(tmp_path: Path) -> None:
    legs = (("shared", "A-PERP", 1_000.0, 1_396.0), ("shared", "B-PERP", 5_000.0, None))
    world = world_from_lake(build(tmp_path, LakeOf(positions=legs)), VENUE).scene.world
    assert sorted(world.cash_usd.tolist()) == [1_396.0, 1_896.0]
    assert world.account.tolist() == [0, 0]


def test_what_is_unknown_is_taken_for_dangerous_and_said(tmp_path: Path) -> None:
    of = LakeOf(
        depth_usd={"B-PERP": 1e6}, marked=("B-PERP",), tiers=None,
        collateral=(("shared", "USDT", 1_896.0), ("shared", "MOON", 5.0)),
    )  # fmt: skip
    found = world_from_lake(build(tmp_path, of), VENUE)
    world = found.scene.world
    assert world.rates[0].tolist() == [0.05, 0.05]
    assert world.price_usd[0] == 100.0  # what it was entered at
    assert world.books.depth_usd[0] == world.books.depth_usd[1]
    assert found.scene.sd_day[0] == SD_DAY_UNKNOWN
    assert world.cash_usd.tolist() == [1_896.0]
    said = " | ".join(found.notes)
    for what in ("A-PERP: no mark", "A-PERP: no depth", "A-PERP, B-PERP: no maintenance", "A-PERP: too few", "MOON:"):
        assert what in said


@pytest.mark.parametrize(
    ("of", "kwargs", "said"),
    [
        (LakeOf(), {"venue": "elsewhere"}, "no derivative of this venue"),
        (LakeOf(), {"at": START}, "no positions of this venue known at 2025-10-10T00:00Z"),
        (LakeOf(positions=(("shared", "A-PERP", 0.0, None),)), {}, "nobody holds a position"),
        (LakeOf(depth_usd={}), {}, "no depth of this venue's books"),
        (LakeOf(), {"window": 0.0}, "--window must be"),
        (LakeOf(), {"window": float("nan")}, "--window must be"),
        (LakeOf(), {"spill": 1.5}, "--spill must be"),
        (LakeOf(), {"out": Path("page.json")}, "let it end in .html"),
    ],
)
def test_what_a_user_can_get_wrong_is_said_in_a_line(
    tmp_path: Path, of: LakeOf, kwargs: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        write_graph(build(tmp_path, of), **kwargs)


# --- what is told ---


def test_the_graph_of_a_shared_account_by_hand(lake: Lake, tmp_path: Path) -> None:
    told = write_graph(lake, window=0.01, spill=0.0, out=tmp_path / "page.html")
    # 100,000 of A and 50,000 of B, whichever falls by 1 %, over .01 and depth 1e8: .1 and .05
    # M = [[.1, .1], [.05, .05]]: rank one, rho = trace = .15; at half the depth .3
    assert told.rho == pytest.approx(0.15)
    assert told.rho_fall == pytest.approx(0.15)
    assert told.rho_rise == 0.0
    assert told.rho_depth_halved == pytest.approx(0.3)
    assert told.amplification == pytest.approx(1 / 0.85)
    assert told.amplification_depth_halved == pytest.approx(1 / 0.7)
    assert not told.self_sustaining
    assert [(row["source"], row["target"], row["gain_fall"]) for row in told.edges] == [
        ("B-PERP", "A-PERP", pytest.approx(0.1)),
        ("A-PERP", "B-PERP", pytest.approx(0.05)),
    ]
    # M = (2, 1)' (.05, .05): right eigenvector (2, 1), left (1, 1)
    assert [row["victim"] for row in told.nodes] == pytest.approx([2 / 3, 1 / 3])
    assert [row["source"] for row in told.nodes] == pytest.approx([0.5, 0.5])
    assert told.victims == ["A-PERP", "B-PERP"]
    # (I - M)^-1 diagonal: (1 - .05) / .85 and (1 - .1) / .85
    assert [row["amplification"] for row in told.nodes] == pytest.approx([0.95 / 0.85, 0.9 / 0.85])
    assert [row["kappa_fall"] for row in told.nodes] == pytest.approx([0.1, 0.05])
    assert told.cliff_price_by_symbol == {"A-PERP": None, "B-PERP": None}
    assert [row["leg"] for row in told.triggers if row["trigger"]] == ["A-PERP"]
    assert told.triggers_shared == told.triggers
    assert "rho 0.150 over moves of 1.0%" in graph_sentence(told)


def test_isolated_margin_has_no_edges(tmp_path: Path) -> None:
    legs = (("one", "A-PERP", 1_000.0, 1_396.0), ("one", "B-PERP", 5_000.0, 698.0))
    told = write_graph(build(tmp_path, LakeOf(positions=legs)), window=0.01, spill=0.0)
    assert told.edges == []
    assert told.rho == pytest.approx(0.1)


def test_a_thin_book_sustains_itself_and_has_a_cliff(tmp_path: Path) -> None:
    told = write_graph(build(tmp_path, LakeOf(depth_usd={"A-PERP": 1e4, "B-PERP": 1e4})), window=0.01)
    assert told.self_sustaining
    assert told.amplification is None
    # trips at .4 %: 100 - .4, see the world
    assert told.cliff_price_by_symbol["A-PERP"] == pytest.approx(100 * (1 - 396 / 99_000))
    assert headline(asdict(told)).startswith("A cascade would sustain itself")
    assert all(row["amplification"] is None for row in told.nodes)


def test_the_json_is_the_summary_and_the_same_lake_gives_the_same_bytes(lake: Lake, tmp_path: Path) -> None:
    told = write_graph(lake, out=tmp_path / "one.html")
    assert json.loads((tmp_path / "one.json").read_text()) == json.loads(json.dumps(asdict(told)))
    again = write_graph(lake, out=tmp_path / "two.html")
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()
    assert Path(again.json).name == "two.json"
    assert write_graph(lake).report == str(lake.root / "reports" / "graph-testex-20251010T1200Z.html")


def test_every_key_of_the_summary_that_holds_rows_is_documented() -> None:
    text = str(GraphSummary.__doc__)
    for name in ("nodes", "edges", "triggers", "triggers_shared", "cliff_price_usd", "kappa_fall", "overdue_usd"):
        assert f"`{name}`" in text or name in text


# --- the page ---


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three pages: two symbols one of which has a hostile name, fourteen, and more than are drawn."""
    root = tmp_path_factory.mktemp("pages")
    found = {}
    for count in (2, 14, 40):
        names = (HOSTILE, *(f"LONGNAME{number}USDT-PERP" for number in range(1, count)))
        legs = [(f"account-{n:04d}", name, 1_000.0, None) for n in range(count) for name in (names[n], names[n - 1])]
        cash = [(f"account-{n:04d}", "USDT", 3_000.0) for n in range(count)]
        deep = dict.fromkeys(names, 1e6)
        made = build(root / str(count), LakeOf(symbols=names, positions=legs, collateral=cash, depth_usd=deep))
        found[str(count)] = Path(write_graph(made).report)
    return found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no chromium binary on the search path")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
        started = driver.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield started
        started.close()


LABELS = """() => {
  const svg = document.querySelector(".net"), frame = svg.getBoundingClientRect();
  const texts = [...svg.querySelectorAll("text")].filter((text) => getComputedStyle(text).display !== "none");
  const corners = (text) => {  // four corners on the screen: a turned label is no upright box
    const box = text.getBBox(), matrix = text.getScreenCTM();
    return [[0, 0], [1, 0], [1, 1], [0, 1]].map(([a, b]) =>
      new DOMPoint(box.x + a * box.width, box.y + b * box.height).matrixTransform(matrix));
  };
  const apart = (p, q) => [p, q].some((shape) => shape.some((a, i) => {
    const b = shape[(i + 1) % 4], nx = b.y - a.y, ny = a.x - b.x;
    const along = (points) => points.map((c) => c.x * nx + c.y * ny), [u, v] = [along(p), along(q)];
    return Math.max(...u) <= Math.min(...v) || Math.max(...v) <= Math.min(...u);
  }));
  const shapes = texts.map((text) => [text.textContent, corners(text)]), overlaps = [];
  shapes.forEach(([a, p], i) => shapes.slice(i + 1).forEach(([b, q]) => {
    if (!apart(p, q)) overlaps.push(`${a} / ${b}`);
  }));
  const cut = shapes.filter(([, p]) => p.some((c) =>
    c.x < frame.left - 1 || c.x > frame.right + 1 || c.y < frame.top - 1 || c.y > frame.bottom + 1));
  const scale = (text) => Math.hypot(text.getScreenCTM().a, text.getScreenCTM().b);
  const sizes = texts.map((text) => parseFloat(getComputedStyle(text).fontSize) * scale(text));
  return { labels: texts.length, overlaps, cut: cut.map(([a]) => a), small: Math.min(...sizes) };
}"""


@pytest.mark.service
@pytest.mark.parametrize("width_px", WIDTHS_PX)
@pytest.mark.parametrize("count", ["2", "14", "40"])
def test_the_page_opens_alone_and_nothing_overlaps(
    browser: Any, pages: dict[str, Path], count: str, width_px: int
) -> None:
    page = browser.new_page(viewport={"width": width_px, "height": 900})
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: None if request.url.startswith("file:") else complaints.append(request.url))
    page.goto(pages[count].as_uri())
    drawn = min(int(count), DRAWN_MAX)
    labels = page.evaluate(LABELS)
    assert (labels["overlaps"], labels["cut"]) == ([], [])
    assert labels["small"] >= 8
    assert labels["labels"] == (drawn if width_px == 420 else 2 * drawn)
    assert page.locator(".net circle").count() == 2 * drawn
    assert page.locator(".net .edge").count() > 0
    assert page.evaluate("document.documentElement.scrollWidth") == width_px
    assert page.locator("#symbols tbody tr").count() == int(count)
    assert page.locator("img").count() == 0
    assert page.locator("#symbols td.who", has_text="</text><img src=x").count() == 1
    assert [text for text in complaints if not text.startswith("data:")] == []
    page.close()


def test_a_page_of_no_gain_says_so(tmp_path: Path) -> None:
    rich = LakeOf(collateral=(("shared", "USDT", 1e6),))
    told = graph_of(world_from_lake(build(tmp_path, rich), VENUE, spill=0.0))
    assert (told.rho, told.edges, told.sources) == (0.0, [], [])
    text = render(asdict(replace(told, report="x", json="y")))
    assert "No symbol drags another along." in text
    assert "No self-sustaining cascade: loop gain 0.00" in text
