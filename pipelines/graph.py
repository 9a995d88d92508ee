"""Step `graph`: the lake at a moment -> the contagion graph as one HTML page and one JSON file beside it."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from models.cascade.fuel import FALL, REACH, RISE, Fuel, burnt_usd, cliff_distances, cliff_price, fuel, kappa
from models.cascade.graph import Loop, forced_flows, loop_of, overdue_usd
from models.cascade.slack import Pairs, pairs_of
from models.cascade.spectrum import amplification, growth, leading, spectral_radius, two_sided
from models.cascade.triggers import triggers
from models.cascade.world import Floats, World
from pipelines.errors import InputError
from pipelines.lake import Lake
from pipelines.pages import write_page
from pipelines.reporting.graph_page import render
from pipelines.score import venues_to_run
from pipelines.times import show_time
from pipelines.worlds import WINDOW, LakeWorld, world_from_lake

WINDOWS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.1)
EDGE_MIN = 0.001  # a loop gain below this is no edge
UNITS_SHOWN = 15
LEADERS = 5


@dataclass(frozen=True)
class GraphSummary:
    """The keys of `graph --json`, and of the JSON file. None stands for "there is none" or "infinite".

    Gains are relative moves per relative move, averaged over `window`. `nodes` rows: symbol, price_usd, depth_usd (per
    unit of relative price), depth_known_to, fuel_fall_usd and fuel_rise_usd (forced within `window`), overdue_usd
    (short of margin already), kappa_fall, kappa_rise, own_gain_fall, own_gain_rise, amplification (final drop of it
    per shock of it), source, victim (shares of the leading mode), cliff_price_usd (the nearer of cliff_fall_usd and
    cliff_rise_usd). `edges` rows: source, target, gain_fall, gain_rise (negative: moves the other way).
    `triggers` rows: as `models.cascade.triggers`, of the nearest units,
    distances in standard deviations of a day; `triggers_shared`: of the nearest units with several legs.
    """

    report: str
    json: str
    venue: str
    at: str
    positions_at: str
    window: float
    spill: float
    book_shape: str
    accounts: int
    units: int
    rho: float  # of falls and rises together
    rho_fall: float
    rho_rise: float
    rho_depth_halved: float
    rho_by_window: Sequence[Mapping[str, float]]
    self_sustaining: bool
    amplification: float | None  # 1 / (1 - rho)
    amplification_depth_halved: float | None
    nodes: Sequence[Mapping[str, Any]]
    edges: Sequence[Mapping[str, Any]]
    sources: Sequence[str]
    victims: Sequence[str]
    cliff_price_by_symbol: Mapping[str, float | None]
    triggers: Sequence[Mapping[str, Any]]
    triggers_shared: Sequence[Mapping[str, Any]]
    notes: Sequence[str]


def _rho(world: World, pairs: Pairs, window: float) -> float:
    return loop_of(world, forced_flows(world, window, pairs), window).rho()


def _finite(value: float) -> float | None:
    """
    >>> _finite(0.5), _finite(math.inf)
    (0.5, None)
    """
    return float(value) if math.isfinite(value) else None


def _shares(gains: Loop) -> tuple[Floats, Floats]:
    """Source and victim shares of every symbol, its falls and rises together."""
    ranking = leading(two_sided(gains.fall, gains.rise))
    size = len(gains.fall)
    return ranking.source[:size] + ranking.source[size:], ranking.victim[:size] + ranking.victim[size:]


def _cliffs(world: World, fuels: tuple[Fuel, Fuel], window: float) -> list[dict[str, float | None]]:
    """Cliff prices of each symbol: below, above, the nearer."""
    nearest = cliff_price(world, *fuels, window=window)
    below, above = (world.price_usd * (1 - item.side * cliff_distances(world, item, window)) for item in fuels)
    return [
        {"cliff_price_usd": near, "cliff_fall_usd": _finite(low), "cliff_rise_usd": _finite(high)}
        for near, low, high in zip(nearest, below.tolist(), above.tolist(), strict=True)
    ]


def _nodes(world: World, pairs: Pairs, gains: Loop, window: float) -> list[dict[str, Any]]:
    fuels = (fuel(world, FALL, REACH, pairs), fuel(world, RISE, REACH, pairs))
    final = amplification(gains.fall)
    source, victim = _shares(gains)
    columns = {
        "price_usd": world.price_usd,
        "depth_usd": world.books.depth_usd,
        "depth_known_to": world.books.depth_limit,
        "fuel_fall_usd": burnt_usd(fuels[0], window),
        "fuel_rise_usd": burnt_usd(fuels[1], window),
        "overdue_usd": overdue_usd(world),
        "kappa_fall": kappa(world, fuels[0], 0.0, window),
        "kappa_rise": kappa(world, fuels[1], 0.0, window),
        "own_gain_fall": np.diag(gains.fall),
        "own_gain_rise": np.diag(gains.rise),
        "amplification": np.full(len(source), np.inf) if final is None else np.diag(final),
        "source": source,
        "victim": victim,
    }
    cliffs = _cliffs(world, fuels, window)
    return [
        {"symbol": name, **{key: _finite(values[place]) for key, values in columns.items()}, **cliffs[place]}
        for place, name in enumerate(world.symbols)
    ]


def _edges(world: World, gains: Loop) -> list[dict[str, Any]]:
    """Gains between two symbols of at least EDGE_MIN, the largest first."""
    size = np.maximum(np.abs(gains.fall), np.abs(gains.rise))
    target, source = np.nonzero((size >= EDGE_MIN) & ~np.eye(len(size), dtype=bool))
    order = np.lexsort((target, source, -size[target, source]))
    return [
        {
            "source": world.symbols[j],
            "target": world.symbols[i],
            "gain_fall": float(gains.fall[i, j]),
            "gain_rise": float(gains.rise[i, j]),
        }
        for i, j in zip(target[order], source[order], strict=True)
    ]


def _leaders(nodes: Sequence[Mapping[str, Any]], key: str) -> list[str]:
    ranked = sorted((row for row in nodes if row[key] > 0), key=lambda row: (-row[key], row["symbol"]))
    return [str(row["symbol"]) for row in ranked[:LEADERS]]


def _triggers(found: LakeWorld) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Legs of the nearest units of all, and of the nearest with several legs."""
    rows = triggers(found.scene.world, found.scene.sd_day, found.scene.correlation)
    shared = rows.filter(pl.len().over("unit") > 1)
    return _nearest(rows), _nearest(shared)


def _nearest(rows: pl.DataFrame) -> list[dict[str, Any]]:
    nearest = rows.filter(pl.col("unit").rle_id() < UNITS_SHOWN).to_dicts()
    return [
        {key: _finite(value) if isinstance(value, float) else value for key, value in row.items()} for row in nearest
    ]


def graph_of(found: LakeWorld, window: float = WINDOW) -> GraphSummary:
    """Everything the page and the JSON say, without their paths. Reads no clock."""
    world = found.scene.world
    pairs = pairs_of(world)
    forced = forced_flows(world, window, pairs)
    gains, thin = loop_of(world, forced, window), loop_of(world.with_depth(0.5), forced, window)
    nodes = _nodes(world, pairs, gains, window)
    rho, rho_thin = gains.rho(), thin.rho()
    nearest, shared = _triggers(found)
    sides = spectral_radius(np.stack([gains.fall, gains.rise]))
    return GraphSummary(
        report="",
        json="",
        venue=found.venue,
        at=show_time(found.at),
        positions_at=show_time(found.positions_at),
        window=window,
        spill=found.scene.spill,
        book_shape=", ".join(sorted(set(world.books.shape))),
        accounts=len(set(world.account.tolist())),
        units=world.units,
        rho=rho,
        rho_fall=float(sides[0]),
        rho_rise=float(sides[1]),
        rho_depth_halved=rho_thin,
        rho_by_window=[{"window": width, "rho": _rho(world, pairs, width)} for width in WINDOWS],
        self_sustaining=growth(rho) is None,
        amplification=growth(rho),
        amplification_depth_halved=growth(rho_thin),
        nodes=nodes,
        edges=_edges(world, gains),
        sources=_leaders(nodes, "source"),
        victims=_leaders(nodes, "victim"),
        cliff_price_by_symbol={str(row["symbol"]): row["cliff_price_usd"] for row in nodes},
        triggers=nearest,
        triggers_shared=shared,
        notes=found.notes,
    )


def write_graph(
    lake: Lake,
    venue: str | None = None,
    at: datetime | None = None,
    *,
    window: float = WINDOW,
    spill: float | None = None,
    out: Path | None = None,
) -> GraphSummary:
    """Write the graph of `venue` (None: the only one of the lake) as known at `at` (None: its last positions).

    The page goes to `out` (default `<lake>/reports/graph-<venue>-<time>.html`), the JSON beside it. The same lake and
    arguments give the same bytes. Raises InputError for bad arguments and where the lake has no positions or depth.
    """
    if not 0 < window <= REACH:
        raise InputError("--window must be above 0 and at most 50 %", where=window, mend="write it like 0.02")
    if spill is not None and not 0 <= spill <= 1:
        raise InputError("--spill must be in [0, 1]", where=spill)
    found = world_from_lake(lake, _only_venue(lake, venue), at, spill=spill)

    summary = graph_of(found, window)

    page = out if out is not None else _default_path(lake, found)
    beside = page.with_suffix(".json")
    if beside == page:
        raise InputError("--out names the page, the JSON goes beside it", where=out, mend="let it end in .html")
    summary = replace(summary, report=str(page), json=str(beside))
    write_page(page, render(asdict(summary)))
    write_page(beside, json.dumps(asdict(summary), indent=1, allow_nan=False) + "\n")
    return summary


def _default_path(lake: Lake, found: LakeWorld) -> Path:
    return lake.root / "reports" / f"graph-{found.venue}-{found.at.strftime('%Y%m%dT%H%MZ')}.html"


def _only_venue(lake: Lake, venue: str | None) -> str:
    known = venues_to_run(lake, venue)
    if len(known) > 1:
        raise InputError("the lake holds several venues", where=", ".join(known), mend="choose one with --venue")
    return known[0]


def graph_sentence(summary: GraphSummary) -> str:
    """The graph in a few lines for people."""
    end = (
        "a cascade sustains itself"
        if summary.self_sustaining
        else f"shocks end {summary.amplification:.2f} times as large"
    )
    lines = [
        f"{summary.venue} at {summary.at}: rho {summary.rho:.3f} over moves of {summary.window:.1%}, {end}",
        f"  at half the depth ({summary.book_shape} book): rho {summary.rho_depth_halved:.3f}",
        f"  sources {', '.join(summary.sources) or 'none'}; victims {', '.join(summary.victims) or 'none'}",
    ]
    return "\n".join([*lines, *(f"  note: {note}" for note in summary.notes), f"  page: {summary.report}"])
