"""The timeline: plots over one shared time axis, as plain plotly figures. A plot without data becomes one sentence."""

import base64
import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

import numpy as np
import polars as pl
from numpy.typing import NDArray

from guardrails.ladder import ACTIONS
from pipelines.reporting import words
from pipelines.reporting.gather import KEY, Material
from pipelines.times import Interval

Figure: TypeAlias = dict[str, Any]
Floats: TypeAlias = NDArray[np.float32]

STEPS_MIN = (1, 2, 5, 10, 15, 30, 60, 120, 240, 480, 1440)
COLUMNS_MAX = 1500  # steps per plot; more than the pixels of a screen
ROWS_MAX = 40
LINES_MAX = 12
LABEL_MAX = 24
RATIO_MAX = 4.0  # heat map colours end at this multiple of the threshold
BASIS_LINEAR_BPS = 10.0  # the basis axis is linear within this and logarithmic beyond
BASIS_TICKS_BPS = (0, 1000, 100, 10, 10_000, 1, 300, 30, 3_000, 3)  # the earlier, the sooner a tick is given
ROW_PX = 21
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
INK, MUTED, GRID, SHADE, ALERT, LINE = "#1b2430", "#5b6675", "#e6e9ee", "#eef1f6", "#f9d9cf", "#1f5f8b"
ACTION_COLOURS = ("#dbe9df", "#f7dd8a", "#ef9a4d", "#b3261e")  # from normal to halted
HEAT = ((0.0, "#f5f7fa"), (0.2499, "#bccbdd"), (0.25, "#fdd9a0"), (0.5, "#f4914e"), (0.75, "#cf3f2c"), (1.0, "#7d0c1d"))
PALETTE = (
    "#1f5f8b", "#e07b00", "#c62f3b", "#2a9d8f", "#4c8c2b", "#b58900", "#8e4fa8", "#e86fa0", "#8a5a3c", "#555f6b",
    "#00a2c7", "#3d2f9b",
)  # fmt: skip


@dataclass(frozen=True)
class Axis:
    """The time axis that every plot shares: columns of `step_min` minutes, each stamped with its end."""

    interval: Interval
    step_min: int
    columns: int

    @classmethod
    def of(cls, interval: Interval) -> "Axis":
        """
        >>> from pipelines.times import parse_interval
        >>> day, month = parse_interval("2025-10-10", "2025-10-11"), parse_interval("2025-10-01", "2025-10-31")
        >>> [(Axis.of(span).step_min, Axis.of(span).columns) for span in (day, month)]
        [(1, 1440), (30, 1440)]
        """
        minutes = math.ceil((interval.end - interval.start) / timedelta(minutes=1))
        step = next((step for step in STEPS_MIN if minutes <= step * COLUMNS_MAX), STEPS_MIN[-1])
        return cls(interval, step, math.ceil(minutes / step))

    def column(self) -> pl.Expr:
        """The column of a row's `ts`, counted from 0; a column holds `(end - step, end]`."""
        since_us = (pl.col("ts") - pl.lit(self.interval.start)).dt.total_microseconds()
        return (since_us - 1) // (self.step_min * 60_000_000)

    def grid(self, frame: pl.DataFrame, rows: pl.DataFrame, value: pl.Expr) -> Floats:
        """`value`, aggregated per cell, as `(rows, columns)`; NaN where there is none. `rows`: `venue, symbol, row`."""
        cells = frame.join(rows, on=KEY).with_columns(column=self.column())
        cells = cells.group_by("row", "column").agg(value=value.cast(pl.Float32)).drop_nulls()
        grid = np.full((rows.height, self.columns), np.nan, dtype=np.float32)
        grid[cells["row"].to_numpy(), cells["column"].to_numpy()] = cells["value"].to_numpy()
        return grid


@dataclass(frozen=True)
class Panel:
    """One plot of the timeline, or the sentence that stands for it."""

    title: str
    caption: str = ""
    figure: Figure | None = None
    absent: str = ""
    legend: str = ""  # which legend the page draws above it: lines, heat, actions or none
    names: list[dict[str, str]] = field(default_factory=list)  # the lines' names and colours
    height_px: int = 0


def packed(values: Floats) -> dict[str, str]:
    """A float array as plotly reads it: base64 of little-endian 32-bit numbers.

    >>> packed(np.array([1.0], dtype=np.float32))
    {'dtype': 'f4', 'bdata': 'AACAPw=='}
    """
    data = {"dtype": "f4", "bdata": base64.b64encode(values.astype("<f4").tobytes()).decode()}
    return data | ({"shape": f"{values.shape[0]}, {values.shape[1]}"} if values.ndim == 2 else {})


def shown(name: str) -> str:
    """A name as plot text: cut to size, and harmless, because plotly reads HTML in its labels.

    >>> shown("<b>A</b>")
    '&lt;b&gt;A&lt;/b&gt;'
    """
    cut = name if len(name) <= LABEL_MAX else name[: LABEL_MAX - 1] + "…"
    return html.escape(cut, quote=False)


def _stamp(ts: datetime) -> str:
    return ts.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def _rows(states: pl.DataFrame, keep: pl.DataFrame, *, most: int) -> pl.DataFrame:
    """The first `most` rows of `states` that `keep` (venue, symbol) has, numbered, with a label that is unique."""
    kept = states.join(keep.select(KEY).unique(), on=KEY, how="semi", maintain_order="left").head(most)
    repeated = pl.col("symbol").is_duplicated() & (pl.col("symbol") != "*")
    label = (
        pl.when(pl.col("symbol") == "*")
        .then(pl.format("venue {}", "venue"))
        .when(repeated)
        .then(pl.format("{} {}", "symbol", "venue"))
        .otherwise("symbol")
    )
    return kept.select(*KEY, label=label).with_columns(row=pl.int_range(pl.len()))


def _labels(rows: pl.DataFrame) -> list[str]:
    """Row labels; names that are equal once cut get a number, because a category axis would merge them."""
    seen: dict[str, int] = {}
    labels = []
    for name in rows["label"]:
        label = shown(name)
        seen[label] = seen.get(label, 0) + 1
        labels.append(label if seen[label] == 1 else f"{label} ({seen[label]})")
    return labels


def _left_px(states: pl.DataFrame) -> int:
    """Left margin that holds the longest row label; the same for every plot, so that they line up."""
    longest = max((min(len(name), LABEL_MAX) for name in _rows(states, states, most=ROWS_MAX)["label"]), default=8)
    return max(64, 16 + round(7.0 * longest))


@dataclass(frozen=True)
class Frame:
    """What all plots have in common."""

    axis: Axis
    left_px: int
    reference: list[tuple[datetime, datetime]]

    def _shades(self) -> list[dict[str, Any]]:
        return [_band(start, end, SHADE) for start, end in self.reference]

    def _reference_words(self) -> list[dict[str, Any]]:
        return [
            {
                "x": _stamp(start + (end - start) / 2), "y": 0.5, "yref": "paper", "showarrow": False,
                "text": "reference period", "font": {"size": 12, "color": MUTED},
            }
            for start, end in self.reference
            if (end - start) / (self.axis.interval.end - self.axis.interval.start) > 0.15
        ]  # fmt: skip

    def layout(self, height_px: int, *, bottom_px: int = 40, named: bool = False, **more: Any) -> Figure:
        """A plot's layout; `named` writes the words "reference period" into its shade."""
        span = self.axis.interval
        base: Figure = {
            "height": height_px,
            "margin": {"l": self.left_px, "r": 18, "t": 8, "b": bottom_px},
            "font": {"family": FONT, "size": 12, "color": INK},
            "paper_bgcolor": "#ffffff",
            "plot_bgcolor": "#ffffff",
            "showlegend": False,
            "hoverlabel": {"font": {"family": FONT, "size": 12}, "namelength": -1},
            "hovermode": "closest",
            "dragmode": "zoom",
            "shapes": self._shades(),
            "annotations": self._reference_words() if named else [],
            "xaxis": {
                "type": "date", "range": [_stamp(span.start), _stamp(span.end)], "gridcolor": GRID,
                "linecolor": "#c4cad3", "ticks": "outside", "tickcolor": "#c4cad3", "hoverformat": "%Y-%m-%d %H:%MZ",
                "tickangle": 0, "zeroline": False,
            },
        }  # fmt: skip
        shapes = base["shapes"] + more.pop("shapes", [])
        return base | more | {"shapes": shapes}

    def x(self) -> dict[str, Any]:
        """Columns stand at their ends."""
        step = timedelta(minutes=self.axis.step_min)
        return {"x0": _stamp(self.axis.interval.start + step), "dx": self.axis.step_min * 60_000}


def _band(start: datetime, end: datetime, colour: str) -> dict[str, Any]:
    return {
        "type": "rect", "xref": "x", "yref": "paper", "x0": _stamp(start), "x1": _stamp(end), "y0": 0, "y1": 1,
        "fillcolor": colour, "line": {"width": 0}, "layer": "below",
    }  # fmt: skip


def _level(value: float, colour: str, dash: str = "dash") -> dict[str, Any]:
    return {
        "type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": value, "y1": value,
        "line": {"color": colour, "width": 1.2, "dash": dash},
    }  # fmt: skip


def _y(**more: Any) -> dict[str, Any]:
    return {"gridcolor": GRID, "zeroline": False, "linecolor": "#c4cad3", "fixedrange": True, "nticks": 6} | more


def _nothing(grid: Floats) -> bool:
    return not bool(np.isfinite(grid).any())


def _venue_alerts(found: pl.DataFrame, venue: str, interval: Interval) -> list[dict[str, Any]]:
    mine = found.filter(pl.col("venue") == venue, pl.col("symbol") == "*")
    minute = timedelta(minutes=1)
    return [
        _band(max(row["start"] - minute, interval.start), min(row["end"], interval.end), ALERT)
        for row in mine.to_dicts()
    ]


def venue_panel(frame: Frame, material: Material, found: pl.DataFrame, venue: str) -> Panel:
    """Anomaly of a venue as a whole, its threshold, and its alert episodes as shades."""
    title = f"Anomaly of the venue {venue}"
    rows = pl.DataFrame({"venue": [venue], "symbol": ["*"], "row": [0]})
    grid = frame.axis.grid(material.scores, rows, pl.col("anomaly").max())
    if _nothing(grid):
        return Panel(title, absent=_why_no_anomaly(material, venue))
    mine = material.scores.filter(pl.col("venue") == venue, pl.col("symbol") == "*")
    threshold = mine["anomaly_threshold"].drop_nulls().tail(1).to_list()
    top = float(np.nanmax(grid))
    hover = "%{x}<br>anomaly %{y:.1f}<extra></extra>"
    line = {
        "type": "scatter", "mode": "lines", **frame.x(), "y": packed(grid[0]), "hovertemplate": hover,
        "line": {"color": LINE, "width": 1.6}, "name": "anomaly",
    }  # fmt: skip
    shapes = _venue_alerts(found, venue, material.interval) + [_level(value, "#b3261e") for value in threshold]
    layout = frame.layout(190, shapes=shapes, named=True, yaxis=_y(range=[0, max([top, *threshold]) * 1.08]))
    said = f"dashed: the alert threshold {words.decimal(threshold[0])}; " if threshold else ""
    caption = (
        f"Surprise of the detector, −log10 of a tail probability; {said}red: alert episodes; grey: reference period."
    )
    return Panel(title, caption, {"data": [line], "layout": layout}, height_px=190)


def _why_no_anomaly(material: Material, venue: str) -> str:
    known = material.provenance.filter(pl.col("venue") == venue)
    if known.is_empty():
        return f"No plot: {venue} was not scored in this interval."
    spoke = sorted({status.split("; ")[0] for status in known["statuses"][0]})
    return f"No plot: the venue has no anomaly in this interval ({', '.join(spoke)})."


def probability_panel(frame: Frame, material: Material, venue: str) -> Panel | None:
    """Probability of a cascade within 15 and 60 minutes, of the most endangered symbol; None where there is none."""
    title = f"Probability of a cascade, {venue}"
    rows = pl.DataFrame({"venue": [venue], "symbol": ["*"], "row": [0]})
    grids = {name: frame.axis.grid(material.scores, rows, pl.col(name).max()) for name in ("p_15m", "p_60m")}
    if all(_nothing(grid) for grid in grids.values()):
        return None
    colours = {"p_15m": PALETTE[1], "p_60m": PALETTE[0]}
    said = {"p_15m": "within 15 min", "p_60m": "within 60 min"}
    lines = [
        {
            "type": "scatter", "mode": "lines", **frame.x(), "y": packed(100 * grid[0]), "name": said[name],
            "hovertemplate": "%{x}<br>%{y:.1f} % " + said[name] + "<extra></extra>",
            "line": {"color": colours[name], "width": 1.6},
        }
        for name, grid in grids.items()
        if not _nothing(grid)
    ]  # fmt: skip
    mine = material.scores.filter(pl.col("venue") == venue, pl.col("symbol") == "*")
    levels = [_level(100 * value, "#b3261e") for value in mine["p_threshold"].drop_nulls().tail(1)]
    top = max(100 * float(np.nanmax(grid)) for grid in grids.values() if not _nothing(grid))
    layout = frame.layout(180, shapes=levels, yaxis=_y(range=[0, min(105.0, max(5.0, top * 1.1))], ticksuffix=" %"))
    names = [{"name": line["name"], "colour": line["line"]["color"]} for line in lines]
    caption = "Of the symbol that is most endangered; dashed: the alert threshold for 60 minutes."
    return Panel(title, caption, {"data": lines, "layout": layout}, legend="lines", names=names, height_px=180)


def _probability_panels(frame: Frame, material: Material) -> list[Panel]:
    """A plot per venue that has probabilities; where no venue has, one sentence."""
    drawn = [probability_panel(frame, material, venue) for venue in material.venues]
    absent = Panel("Probability of a cascade", absent=f"No plot: {why_no_probability(material)}.")
    return [panel for panel in drawn if panel is not None] or [absent]


def why_no_probability(material: Material, venue: str | None = None) -> str:
    """What the scores say about the early-warning model, of one venue or of all."""
    known = material.provenance if venue is None else material.provenance.filter(pl.col("venue") == venue)
    statuses = known.explode("statuses")["statuses"].to_list()
    spoke = sorted({status.split("; ", 1)[1] for status in statuses if "; " in status})
    return ", ".join(spoke) or ("nothing was scored" if known.is_empty() else "no early-warning model")


def _heat_figure(
    frame: Frame, rows: pl.DataFrame, traces: Sequence[tuple[Floats, dict[str, Any]]], *, named: bool = False
) -> tuple[Figure, int]:
    """A heat map of `traces` (grid and what is special about it) and its height."""
    labels = _labels(rows)
    height = 56 + ROW_PX * len(labels)
    common = {"type": "heatmap", **frame.x(), "y": labels, "showscale": False, "ygap": 1, "hoverongaps": False}
    y = {"type": "category", "categoryarray": labels, "autorange": "reversed", "dtick": 1, "ticks": "",
         "fixedrange": True, "showgrid": False, "zeroline": False}  # fmt: skip
    data = [common | {"z": packed(grid)} | special for grid, special in traces]
    return {"data": data, "layout": frame.layout(height, named=named, yaxis=y)}, height


def _left_out(states: pl.DataFrame, rows: pl.DataFrame, drawn: int) -> str:
    more = states.join(rows.select(KEY).unique(), on=KEY, how="semi").height - drawn
    return f" The {drawn} most severe rows are drawn, {more:,} more are left out." if more > 0 else ""


def anomaly_panel(frame: Frame, material: Material, states: pl.DataFrame) -> Panel:
    """Heat map of anomaly over threshold, symbols by time."""
    title = "Anomaly relative to its threshold"
    if not material.scores["anomaly"].is_not_null().any():
        reasons = [_why_no_anomaly(material, venue) for venue in material.venues]
        return Panel(title, absent=" ".join(reasons))
    ratio = pl.col("anomaly") / pl.col("anomaly_threshold")
    rows = _rows(states, material.scores, most=ROWS_MAX)
    grid = frame.axis.grid(material.scores, rows, ratio.max())
    heat = {
        "zmin": 0, "zmax": RATIO_MAX, "colorscale": [list(stop) for stop in HEAT],
        "hovertemplate": "%{y}<br>%{x}<br>%{z:.1f} times the threshold<extra></extra>",
    }  # fmt: skip
    figure, height = _heat_figure(frame, rows, [(grid, heat)], named=True)
    caption = "Most severe symbols on top; white: no score." + _left_out(states, material.scores, rows.height)
    return Panel(title, caption, figure, legend="heat", height_px=height)


def _of_action(grid: Floats, rank: int) -> tuple[Floats, dict[str, Any]]:
    """The cells with one action, in its colour and with its word."""
    colour = ACTION_COLOURS[rank]
    said = words.spaced(ACTIONS[rank], words.ACTIONS)
    hover = f"%{{y}}<br>%{{x}}<br>{said}<extra></extra>"
    one = np.where(grid == rank, grid, np.float32(np.nan)).astype(np.float32)
    return one, {"zmin": 0, "zmax": 3, "colorscale": [[0, colour], [1, colour]], "hovertemplate": hover}


def action_panel(frame: Frame, material: Material, states: pl.DataFrame) -> Panel:
    """Heat map of guardrail actions, symbols by time."""
    title = "Guardrail actions"
    if material.limits.is_empty():
        return Panel(title, absent="No plot: nothing was guarded in this interval.")
    rows = _rows(states, material.limits, most=ROWS_MAX)
    grid = frame.axis.grid(material.limits, rows, pl.col("severity").max())
    figure, height = _heat_figure(frame, rows, [_of_action(grid, rank) for rank in range(len(ACTIONS))])
    caption = "The strictest action of each step in time." + _left_out(states, material.limits, rows.height)
    return Panel(title, caption, figure, legend="actions", height_px=height)


def _relative_prices(material: Material) -> pl.DataFrame:
    """Price in percent of the first one of the interval, and the basis in bps."""
    first = pl.col("price").drop_nulls().first().over(KEY)
    basis = 1e4 * (pl.col("price") / pl.col("index") - 1)
    return material.prices.with_columns(change_pct=100 * (pl.col("price") / first - 1), basis_bps=basis)


def squeezed(basis_bps: Floats | float) -> Any:
    """The basis axis: `sign(x) log10(1 + |x| / 10 bps)`, so that 5 bps and 5 000 bps are both seen.

    >>> float(squeezed(0.0)), round(float(squeezed(-990.0)), 6)
    (0.0, -2.0)
    """
    return np.sign(basis_bps) * np.log10(1 + np.abs(basis_bps) / BASIS_LINEAR_BPS)


def _line_rows(frame: pl.DataFrame, states: pl.DataFrame, column: str) -> pl.DataFrame:
    """The `LINES_MAX` most severe symbols that have a value in `column`."""
    return _rows(states.filter(~pl.col("whole_venue")), frame.filter(pl.col(column).is_not_null()), most=LINES_MAX)


def _lines(
    frame: Frame, rows: pl.DataFrame, grid: Floats, hover: str, colour: Callable[[int], str], **more: Any
) -> list[dict[str, Any]]:
    labels = _labels(rows)
    return [
        {
            "type": "scatter", "mode": "lines", **frame.x(), "y": packed(grid[row]), "name": labels[row],
            "hovertemplate": f"{labels[row]}<br>%{{x}}<br>{hover}<extra></extra>",
            "line": {"color": colour(row), "width": 1.2}, "legendgroup": labels[row],
        }
        | ({"customdata": packed(more["customdata"][row])} if "customdata" in more else {})
        for row in range(rows.height)
    ]  # fmt: skip


def _alert_marks(frame: Frame, rows: pl.DataFrame, grid: Floats, found: pl.DataFrame) -> list[dict[str, Any]]:
    """A mark on each symbol's line where an alert episode begins."""
    began = found.filter(pl.col("start") > frame.axis.interval.start).join(rows, on=KEY)
    began = began.with_columns(column=began.select(ts="start").select(frame.axis.column()).to_series())
    labels = _labels(rows)
    marks = []
    for (row,), part in began.partition_by("row", as_dict=True, maintain_order=True).items():
        y = grid[row, part["column"].to_numpy()].astype(np.float32)
        marks.append(
            {
                "type": "scatter", "mode": "markers", "name": labels[row], "legendgroup": labels[row],
                "x": [_stamp(ts) for ts in part["start"]], "y": packed(y),
                "marker": {"symbol": "triangle-down", "size": 10, "color": PALETTE[row % len(PALETTE)],
                           "line": {"color": "#ffffff", "width": 1}},
                "hovertemplate": f"{labels[row]}<br>%{{x}}<br>alert begins<extra></extra>",
            }
        )  # fmt: skip
    return marks


def _colour(row: int) -> str:
    return PALETTE[row % len(PALETTE)]


def _names(rows: pl.DataFrame) -> list[dict[str, str]]:
    return [{"name": label, "colour": _colour(row)} for row, label in enumerate(_labels(rows))]


def price_panels(frame: Frame, material: Material, states: pl.DataFrame, found: pl.DataFrame) -> list[Panel]:
    """Prices relative to the start with alerts marked, and the basis against spot, in the same colours."""
    moved = _relative_prices(material)
    rows = _line_rows(moved, states, "change_pct")
    title, basis_title = "Prices relative to the start", "Perpetual against spot"
    if rows.is_empty():
        absent = "No plot: no symbol has a price in this interval."
        return [Panel(title, absent=absent), Panel(basis_title, absent=absent)]
    grid = frame.axis.grid(moved, rows, pl.col("change_pct").drop_nulls().last())
    data = _lines(frame, rows, grid, "%{y:+.1f} %", _colour) + _alert_marks(frame, rows, grid, found)
    layout = frame.layout(300, shapes=[_level(0.0, "#9aa4b1", "solid")], yaxis=_y(ticksuffix=" %"))
    without = states.filter(~pl.col("whole_venue")).join(moved.drop_nulls("price"), on=KEY, how="anti")
    caption = "Mark price, else last trade; a triangle marks the beginning of an alert episode." + _left_out(
        states, moved.filter(pl.col("change_pct").is_not_null()), rows.height
    )
    caption += f" Without a price: {words.joined(without['symbol'].to_list())}." if without.height else ""
    names = _names(rows)
    prices = Panel(title, caption, {"data": data, "layout": layout}, legend="lines", names=names, height_px=300)
    return [prices, _basis_panel(frame, moved, rows, basis_title, names)]


def basis_ticks(low_bps: float, high_bps: float) -> list[int]:
    """Round values between `low_bps` and `high_bps` (and 0) that stand apart on the squeezed axis, falling.

    >>> basis_ticks(-8128.0, 710.0), basis_ticks(-28.0, 20.0)
    ([300, 100, 30, 0, -30, -100, -300, -1000, -3000], [10, 3, 0, -3, -10])
    """
    low, high = float(squeezed(min(low_bps, 0.0))), float(squeezed(max(high_bps, 0.0)))
    apart = max((high - low) / 11, 0.01)
    chosen: dict[int, float] = {}
    for tick in (sign * size for size in BASIS_TICKS_BPS for sign in (1, -1)):
        at = float(squeezed(float(tick)))
        if low <= at <= high and all(abs(at - other) >= apart for other in chosen.values()):
            chosen[tick] = at
    return sorted(chosen, reverse=True)


def _basis_panel(
    frame: Frame, moved: pl.DataFrame, rows: pl.DataFrame, title: str, names: Sequence[dict[str, str]]
) -> Panel:
    grid = frame.axis.grid(moved, rows, pl.col("basis_bps").sort_by(pl.col("basis_bps").abs()).drop_nulls().last())
    if _nothing(grid):
        return Panel(title, absent="No plot: no symbol has a spot or index price in this interval.")
    ticks = basis_ticks(float(np.nanmin(grid)), float(np.nanmax(grid)))
    y = _y(
        tickmode="array",
        tickvals=[round(float(squeezed(tick)), 6) for tick in ticks],
        ticktext=[f"{tick:+,} bps" if tick else "0" for tick in ticks],
    )
    data = _lines(frame, rows, squeezed(grid), "%{customdata:+,.0f} bps", _colour, customdata=grid)
    layout = frame.layout(280, shapes=[_level(0.0, "#9aa4b1", "solid")], yaxis=y)
    caption = "(perpetual − index) / index; the scale is linear within 10 bps and logarithmic beyond."
    return Panel(title, caption, {"data": data, "layout": layout}, names=list(names), height_px=280)


def _reference(material: Material) -> list[tuple[datetime, datetime]]:
    """Distinct reference periods, cut to the interval."""
    spans = material.provenance.drop_nulls("reference_end").select("reference_start", "reference_end").unique()
    spans = spans.sort("reference_start", "reference_end")
    start, end = material.interval.start, material.interval.end
    return [(max(first, start), min(last, end)) for first, last in spans.iter_rows()]


def panels(material: Material, states: pl.DataFrame, found: pl.DataFrame) -> list[Panel]:
    """Every plot of the timeline, in order; the same left margin and time range, so that they line up."""
    frame = Frame(Axis.of(material.interval), _left_px(states), _reference(material))
    by_venue = [venue_panel(frame, material, found, venue) for venue in material.venues]
    return [
        *by_venue,
        *_probability_panels(frame, material),
        anomaly_panel(frame, material, states),
        *price_panels(frame, material, states, found),
        action_panel(frame, material, states),
    ]
