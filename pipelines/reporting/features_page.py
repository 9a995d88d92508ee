"""The families of features over time as one self-contained HTML page: heat maps in SVG and tables, no script."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib import resources
from typing import Any

import polars as pl
from jinja2 import Environment, PackageLoader, StrictUndefined

from pipelines.reporting import words

COLUMNS_MAX = 180  # columns of a heat map; more bars share one, the highest counts
SYMBOLS_MAX = 60  # rows of a heat map; the most unusual symbols
ROW, LABEL, WIDE = 16, 150, 1_000
SHADES = ((2.0, "#f6d9b8"), (3.0, "#ef9a4d"), (4.0, "#cf3f2c"), (6.0, "#7a1210"))  # surprise from which, colour
LISTED_MAX = 120


def _columns(told: pl.DataFrame) -> tuple[pl.DataFrame, int, datetime, datetime]:
    """Highest surprise by symbol, family and column; how many columns; first and last bar."""
    stamps = told["ts"].unique().sort()
    per = -(-len(stamps) // COLUMNS_MAX)
    places = pl.DataFrame({"ts": stamps}).with_row_index("bar").with_columns((pl.col("bar") // per).alias("column"))
    joined = told.join(places, on="ts").group_by("symbol", "family", "column").agg(pl.col("surprise").max())
    return joined, -(-len(stamps) // per), stamps[0], stamps[-1]


def _shade(surprise: float) -> str | None:
    """
    >>> _shade(1.9), _shade(2.0), _shade(9.0)
    (None, '#f6d9b8', '#7a1210')
    """
    return next((colour for least, colour in reversed(SHADES) if surprise >= least), None)


def heat_map(cells: pl.DataFrame, family: str, symbols: Sequence[str], columns: int) -> dict[str, Any]:
    """Rectangles of one family: neighbours of one shade are one rectangle, what is usual is left white."""
    step = (WIDE - LABEL) / columns
    mine = cells.filter(pl.col("family") == family).sort("symbol", "column")
    told = mine.drop_nulls("surprise")
    rows = {symbol: place for place, symbol in enumerate(symbols)}
    rects: list[dict[str, Any]] = []
    for symbol, column, surprise in told.select("symbol", "column", "surprise").iter_rows():
        shade = _shade(surprise)
        if shade is None or symbol not in rows:
            continue
        last = rects[-1] if rects else None
        if last and last["row"] == rows[symbol] and last["shade"] == shade and last["end"] == column:
            last["end"] = column + 1
        else:
            rects.append({"row": rows[symbol], "shade": shade, "start": column, "end": column + 1})
    for rect in rects:
        rect["x"] = round(LABEL + rect["start"] * step, 1)
        rect["w"] = round((rect["end"] - rect["start"]) * step, 1)
        rect["y"] = rect["row"] * ROW
    return {"family": family, "title": words.spaced(family, words.FAMILIES), "rects": rects, "told": told.height > 0}


def _clock(start: datetime, end: datetime, columns: int) -> list[dict[str, Any]]:
    """Ticks under a heat map: five moments, evenly."""
    pattern = "%H:%M" if (end - start).total_seconds() <= 86_400 else "%d %b"
    return [
        {"x": round(LABEL + share * (WIDE - LABEL), 1), "text": (start + share * (end - start)).strftime(pattern)}
        for share in (0.0, 0.25, 0.5, 0.75, 1.0)
        if columns
    ]


def _percent(share: float | None) -> str:
    """
    >>> _percent(0.0123), _percent(None)
    ('1.2 %', '–')
    """
    return words.NOTHING if share is None else f"{100 * share:.1f} %"


def _headline(first: pl.DataFrame, interval: str) -> str:
    """Which families were unusual in how many symbols, and since when."""
    if first.is_empty():
        return f"No family of features stayed unusual in {interval}."
    by_family = first.group_by("family").agg(pl.len().alias("symbols"), pl.col("since").min()).sort("since")
    said = [
        f"{words.spaced(family, words.FAMILIES)} in {symbols} symbol{'s' * (symbols > 1)} since {since:%d %b %H:%M}"
        for family, symbols, since in by_family.iter_rows()
    ]
    return "Unusual: " + "; ".join(said) + "."


def _listed(first: pl.DataFrame) -> list[dict[str, str]]:
    rows = []
    for row in first.head(LISTED_MAX).to_dicts():
        value = "" if row["value"] is None else f" = {row['value']:.4g}"
        rows.append(
            {
                "since": f"{row['since']:%d %b %H:%M}",
                "symbol": row["symbol"],
                "family": words.spaced(row["family"], words.FAMILIES),
                "said": words.feature(f"{row['feature']}{value}") if row["feature"] else words.NOTHING,
                "feature": row["feature"] or "",
            }
        )
    return rows


def _hours(hours: pl.DataFrame, families: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    """A row per hour (per day where there are many), a column per family."""
    days = hours["hour"].n_unique() > 48
    by = pl.col("hour").dt.truncate("1d" if days else "1h")
    grouped = hours.group_by(by, "family").agg(pl.col("share").mean()).sort("hour")
    rows = []
    for (hour,), part in grouped.partition_by("hour", as_dict=True, maintain_order=True).items():
        shares = dict(part.select("family", "share").iter_rows())
        label = f"{hour:%d %b}" if days else f"{hour:%d %b %H:%M}"
        rows.append({"hour": label, "shares": [shares.get(family) for family in families]})
    return rows


def _why(reasons: Mapping[str, int]) -> str:
    """The three commonest reasons of nulls."""
    most = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))[:3]
    return ", ".join(f"{reason} ({count:,})" for reason, count in most)


def render(
    *,
    venue: str,
    reference: str,
    interval: str,
    told: pl.DataFrame,
    first: pl.DataFrame,
    shares: Mapping[str, Mapping[str, float | None]],
    hours: pl.DataFrame,
    faults: Sequence[Mapping[str, Any]],
    reasons: Mapping[str, Mapping[str, int]],
    families: Mapping[str, Sequence[str]],
    used: set[str],
) -> str:
    """The page as text; the same frames give the same bytes, nothing is loaded from anywhere."""
    cells, columns, start, end = _columns(told)
    totals = told.group_by("symbol").agg(pl.col("surprise").clip(0, 6).sum())
    loud = totals.sort(["surprise", "symbol"], descending=[True, False])
    symbols = sorted(loud["symbol"].head(SYMBOLS_MAX))
    maps = [heat_map(cells, family, symbols, columns) for family in families]
    style = resources.files("pipelines").joinpath("templates", "report.css").read_text(encoding="utf-8")
    environment = Environment(
        loader=PackageLoader("pipelines"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["percent"] = _percent
    return environment.get_template("features.html.j2").render(
        venue=venue, reference=reference, interval=interval, headline=_headline(first, interval), style=style,
        maps=maps, symbols=symbols, all_symbols=loud.height, ticks=_clock(start, end, columns), row=ROW, label=LABEL,
        wide=WIDE, shades=SHADES, listed=_listed(first), more=max(first.height - LISTED_MAX, 0),
        hours=_hours(hours, families),
        families=[
            {
                "name": words.spaced(family, words.FAMILIES), "members": len(members),
                "used": sum(name in used for name in members),
                "reference": shares["reference"][family], "interval": shares["interval"][family],
                "why": _why(reasons.get(family, {})),
            }
            for family, members in families.items()
        ],
        faults=[
            {"input": row["input"], "said": ", ".join(f"{f} {_percent(s)}" for f, s in row["faults"].items()) or "none"}
            for row in faults
        ],
    )  # fmt: skip
