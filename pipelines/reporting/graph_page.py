"""The contagion graph as one self-contained HTML page: a drawing in SVG and tables, no script."""

import math
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from pipelines.reporting import words

DRAWN_MAX = 30  # more symbols than this are in the table alone
EDGES_DRAWN_MAX = 60
EDGES_LISTED_MAX = 40
RADIUS = 210.0
NODE_RADIUS = (15.0, 34.0)
EDGE_WIDTH = (1.0, 9.0)
INWARD = 0.5  # how near to the middle of the circle curves bend, so that they pass no other symbol
NAME_LENGTH_MAX = 20
FRAME = (450, 300)  # half the width and height of the drawing; names that are turned need the width upwards too
UPRIGHT_MAX = 14  # more names than this are turned along the radius, so that neighbours do not touch


def _short(name: str) -> str:
    """
    >>> _short("BTC-PERP"), _short("A" * 30)
    ('BTC-PERP', 'AAAAAAAAAAAAAAAAAAA…')
    """
    return name if len(name) <= NAME_LENGTH_MAX else name[: NAME_LENGTH_MAX - 1] + "…"


def _weight(row: Mapping[str, Any]) -> float:
    return float(row["fuel_fall_usd"] + row["fuel_rise_usd"] + abs(row["overdue_usd"]))


def drawn_nodes(nodes: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The symbols with the most fuel on a circle, in their order: centre, radius, shade and where the name goes."""
    heaviest = {row["symbol"] for row in sorted(nodes, key=lambda row: (-_weight(row), row["symbol"]))[:DRAWN_MAX]}
    chosen = [(number, row) for number, row in enumerate(nodes, start=1) if row["symbol"] in heaviest]
    largest = max((_weight(row) for _, row in chosen), default=0.0)
    worst = max((row["victim"] for _, row in chosen), default=0.0)
    return [
        _circle(2 * math.pi * place / len(chosen) - math.pi / 2, _share(_weight(row), largest), len(chosen))
        | {"symbol": row["symbol"], "name": _short(row["symbol"]), "number": number}
        | {"shade": round(_share(row["victim"], worst), 3), "ring": round(1.5 + 5 * row["source"], 1)}
        for place, (number, row) in enumerate(chosen)
    ]


def _share(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0


def _circle(angle: float, share: float, count: int) -> dict[str, Any]:
    """A circle whose area grows with `share`, at `angle`, and where its name stands outside."""
    small, large = (min(size, 0.95 * math.pi * RADIUS / count) for size in NODE_RADIUS)
    radius = small + math.sqrt(share) * (large - small)
    x, y = RADIUS * math.cos(angle), RADIUS * math.sin(angle)
    out = RADIUS + radius + 8
    left = math.cos(angle) < -1e-9
    level = abs(math.cos(angle)) < 0.2 and count <= UPRIGHT_MAX
    turn = math.degrees(angle) + (180 if left else 0) if count > UPRIGHT_MAX else 0.0
    return {
        "x": round(x, 1), "y": round(y, 1), "r": round(radius, 1), "label_x": round(out * math.cos(angle), 1),
        "label_y": round((out + 8 * level) * math.sin(angle), 1), "turn": round(turn, 1),
        "anchor": "middle" if level else "end" if left else "start",
    }  # fmt: skip


def _frame(count: int) -> str:
    """
    >>> _frame(4)
    '-450 -300 900 600'
    """
    wide, high = FRAME if count <= UPRIGHT_MAX else (FRAME[0], FRAME[0])
    return f"{-wide} {-high} {2 * wide} {2 * high}"


def drawn_edges(edges: Sequence[Mapping[str, Any]], nodes: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The strongest gains as curves from rim to rim; there and back bend apart."""
    at = {row["symbol"]: row for row in nodes}
    chosen = [row for row in edges if row["source"] in at and row["target"] in at][:EDGES_DRAWN_MAX]
    largest = max((_gain(row) for row in chosen), default=0.0)
    return [_curve(at[row["source"]], at[row["target"]], row, _gain(row) / largest) for row in reversed(chosen)]


def _gain(row: Mapping[str, Any]) -> float:
    return float(max(abs(row["gain_fall"]), abs(row["gain_rise"])))


def _curve(start: Mapping[str, Any], end: Mapping[str, Any], row: Mapping[str, Any], share: float) -> dict[str, Any]:
    dx, dy = end["x"] - start["x"], end["y"] - start["y"]
    bend_x = INWARD * (start["x"] + end["x"]) / 2 - 0.1 * dy
    bend_y = INWARD * (start["y"] + end["y"]) / 2 + 0.1 * dx
    x1, y1 = _rim(start, bend_x, bend_y, 2.0)
    width = EDGE_WIDTH[0] + share * (EDGE_WIDTH[1] - EDGE_WIDTH[0])
    x2, y2 = _rim(end, bend_x, bend_y, 6.0 + 1.5 * width)
    return {
        "path": f"M{x1} {y1}Q{bend_x:.1f} {bend_y:.1f} {x2} {y2}", "width": round(width, 1),
        "tip": _tip(bend_x, bend_y, x2, y2, 4 + 1.5 * width),
        "opacity": round(0.3 + 0.6 * share, 2), "against": row["gain_fall"] < 0 or row["gain_rise"] < 0,
        "said": f"{row['source']} → {row['target']}: {_percent_of(row['gain_fall'])} of a fall, "
        f"{_percent_of(row['gain_rise'])} of a rise",
    }  # fmt: skip


def _rim(node: Mapping[str, Any], to_x: float, to_y: float, gap: float) -> tuple[float, float]:
    dx, dy = to_x - node["x"], to_y - node["y"]
    share = (node["r"] + gap) / math.hypot(dx, dy)
    return round(node["x"] + share * dx, 1), round(node["y"] + share * dy, 1)


def _tip(from_x: float, from_y: float, x: float, y: float, size: float) -> str:
    """A triangle that goes on from (x, y) in the direction of the curve."""
    length = math.hypot(x - from_x, y - from_y) or 1.0
    ux, uy = (x - from_x) / length * size, (y - from_y) / length * size
    corners = ((x + ux, y + uy), (x - 0.7 * uy, y + 0.7 * ux), (x + 0.7 * uy, y - 0.7 * ux))
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in corners)


def _percent_of(share: float) -> str:
    """
    >>> _percent_of(0.0313), _percent_of(-0.0004), _percent_of(0.0)
    ('3.1 %', '>-0.1 %', '0 %')
    """
    if share == 0:
        return "0 %"
    return f"{100 * share:,.1f} %" if abs(share) >= 0.0005 else "<0.1 %" if share > 0 else ">-0.1 %"


def usd(value: float | None) -> str:
    """
    >>> [usd(value) for value in (None, 0.0, 950.0, -12_345.0, 7.6e8, 2.5e9)]
    ['–', '0', '950', '-12.3 k', '760 M', '2.5 bn']
    """
    if value is None:
        return words.NOTHING
    for size, unit in ((1e9, " bn"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= size:
            return f"{value / size:,.3g}{unit}" if abs(value) < 1e3 * size else f"{value / size:,.0f}{unit}"
    return f"{value:,.0f}"


def price(value: float | None) -> str:
    """
    >>> price(60_777.797), price(0.22093424), price(None)
    ('60,777.80', '0.22093', '–')
    """
    if value is None:
        return words.NOTHING
    return f"{value:,.2f}" if abs(value) >= 100 else f"{value:,.5g}"


def _cliff(row: Mapping[str, Any]) -> dict[str, str]:
    at = row["cliff_price_usd"]
    if at is None:
        known = row["depth_known_to"]
        return {
            "price": "none",
            "away": "within 50 %" if known is None else f"within {100 * known:.3g} %, where the known book ends",
        }
    away = 100 * (at / row["price_usd"] - 1)
    return {"price": price(at), "away": "at the mark" if abs(away) < 0.005 else f"{away:+.2f} %"}


def _number(value: float | None, digits: int = 3) -> str:
    return "∞" if value is None else f"{value:,.{digits}f}"


def headline(summary: Mapping[str, Any]) -> str:
    """The one sentence on top."""
    rho, halved = f"loop gain {summary['rho']:.2f}", f"{summary['rho_depth_halved']:.2f}"
    if summary["self_sustaining"]:
        return f"A cascade would sustain itself: {rho}, at or above 1"
    if not summary["rho_depth_halved"] < 1:
        return f"Stable at today's depth, not at half of it: {rho}, then {halved}"
    return f"No self-sustaining cascade: {rho}, at half the depth {halved}"


def _tiles(summary: Mapping[str, Any]) -> list[dict[str, str]]:
    risky = "calm" if summary["rho"] < 1 else "risk"
    halved = _number(summary["amplification_depth_halved"], 2)
    heaviest = max(summary["nodes"], key=_weight)
    texts = [
        (_number(summary["rho"]), "loop gain rho", "a cascade sustains itself from 1 on", risky),
        (f"{_number(summary['amplification'], 2)}×", "amplification", f"{halved}× at half the depth", risky),
        ((summary["sources"] or ["none"])[0], "largest source", "its shock feeds the loop most", ""),
        ((summary["victims"] or ["none"])[0], "largest victim", "takes most of the loop's moves", ""),
        (usd(_weight(heaviest)), "most fuel", f"{heaviest['symbol']}, USD of either side", ""),
        _nearest_cliff(summary["nodes"]),
    ]
    return [dict(zip(("value", "label", "note", "tone"), row, strict=True)) for row in texts]


def _nearest_cliff(nodes: Sequence[Mapping[str, Any]]) -> tuple[str, str, str, str]:
    found = [row for row in nodes if row["cliff_price_usd"] is not None]
    if not found:
        return ("none", "nearest cliff", "in the known books", "")
    row = min(found, key=lambda row: abs(row["cliff_price_usd"] / row["price_usd"] - 1))
    return (row["symbol"], "nearest cliff", f"{price(row['cliff_price_usd'])}, {_cliff(row)['away']}", "")


def view(summary: Mapping[str, Any]) -> dict[str, Any]:
    """What a template draws of a summary (the keys of `GraphSummary`); its filters are `FILTERS`."""
    nodes = drawn_nodes(summary["nodes"])
    return {
        **summary, "headline": headline(summary), "tiles": _tiles(summary), "drawn": nodes, "frame": _frame(len(nodes)),
        "curves": drawn_edges(summary["edges"], nodes), "listed": summary["edges"][:EDGES_LISTED_MAX],
        "rho_max": max([row["rho"] for row in summary["rho_by_window"]] + [1.25]),
    }  # fmt: skip


FILTERS = {"usd": usd, "price": price, "gain": _percent_of, "number": _number, "cliff": _cliff}


def render(summary: Mapping[str, Any]) -> str:
    """The page: the same summary gives the same bytes."""
    environment = Environment(
        loader=PackageLoader("pipelines"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters.update(FILTERS)
    style = resources.files("pipelines").joinpath("templates", "report.css").read_text(encoding="utf-8")
    return environment.get_template("graph.html.j2").render(**view(summary), style=style)
