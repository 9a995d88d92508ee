"""The page of `stress`: what the shock does, to whom, and how near the market is to running away; no script at all."""

from collections.abc import Mapping
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

SYMBOLS_SHOWN = 60  # rows of the table; the rest is one line


def render(summary: Mapping[str, Any], words: str) -> str:
    """The page as text: `words` in front, then tables. The same summary gives the same bytes."""
    style = resources.files("pipelines").joinpath("templates").joinpath("report.css").read_text(encoding="utf-8")
    environment = Environment(
        loader=PackageLoader("pipelines"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"usd": "{:,.0f}".format, "percent": "{:.2%}".format, "price": _price, "sd": _sd}
    rows = symbol_rows(summary)
    return environment.get_template("stress.html.j2").render(
        it=summary, words=words.splitlines(), style=style, rows=rows[:SYMBOLS_SHOWN], more=rows[SYMBOLS_SHOWN:]
    )


def symbol_rows(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row per symbol, those that lose the most first; `width` and `half_width` in percent of the largest drop."""
    half = summary["depth_halved"]["drop_by_symbol"]
    largest = max([1e-12, *map(abs, summary["drop_by_symbol"].values()), *map(abs, half.values())])
    rows = [
        {
            "symbol": name,
            "shape": summary["shape_by_symbol"][name],
            "drop": drop,
            "half": half[name],
            "width": round(100 * abs(drop) / largest, 2),
            "half_width": round(100 * abs(half[name]) / largest, 2),
            "liquidated_usd": summary["liquidated_usd_by_symbol"][name],
            "cliff": summary["cliff_price_by_symbol"][name],
            "exhausted": summary["exhausted"][name],
        }
        for name, drop in summary["drop_by_symbol"].items()
    ]
    return sorted(rows, key=lambda row: (-row["drop"], row["symbol"]))


def _price(value: float | None) -> str:
    return "–" if value is None else f"{value:,.6g}"


def _sd(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
