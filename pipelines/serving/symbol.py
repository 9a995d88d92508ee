"""One symbol: its last hours as plots on one time axis, where its positions would be forced, its decisions."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import polars as pl

from features.bars import BAR_S
from guardrails.ladder import ACTIONS, MEANING
from pipelines.lake import Lake
from pipelines.reporting import words
from pipelines.reporting.graph_page import price, usd
from pipelines.reporting.rules import decision_row
from pipelines.serving.charts import Line, plot, spans
from pipelines.serving.reading import ends
from pipelines.times import Interval

TABLES = ("scores", "limits", "bars", "structure", "decisions")
DECISIONS_MAX = 40
STRUCTURE_BACK = timedelta(hours=6)  # an older map of positions is no map of now
BANDS_BPS = ((0, 100), (100, 200), (200, 500))
SERIES = {  # table -> the columns of a symbol's minutes
    "bars": ("close", "mark", "index", "depth_bid_100bps_usd", "depth_ask_100bps_usd", "oi_usd"),
    "scores": ("anomaly", "anomaly_threshold", "p_15m", "p_60m", "p_60m_low", "p_60m_high", "p_threshold", "alert"),
    "limits": ("action", "leverage_cap_hard", "leverage_cap_effective", "exposure_cap_usd",
               "exposure_cap_usd_effective", "expires_at"),
}  # fmt: skip


@dataclass(frozen=True)
class Look:
    """What there is of one symbol: its minutes, the newest map of its positions, its newest decisions."""

    interval: Interval
    minutes: pl.DataFrame  # ts, and the columns of SERIES
    structure: dict[str, Any] | None
    depth: dict[str, Any] | None  # the newest bar's depth by side and band
    decisions: list[dict[str, Any]]


def symbols(lake: Lake) -> dict[str, list[str]]:
    """The symbols of every venue that the newest hour of scores, limits or bars names."""
    found: dict[str, set[str]] = {}
    for table in ("scores", "limits", "bars"):
        for venue, end in ends(lake, table).items():
            names = lake.scan(table, venue, end - timedelta(hours=1), end).select(pl.col("symbol").unique())
            found.setdefault(venue, set()).update(names.collect()["symbol"])
    return {venue: sorted(names - {"*"}) for venue, names in found.items()}


def look(lake: Lake, venue: str, symbol: str, hours: int) -> Look | None:
    """The last `hours` of `symbol`, up to the newest minute that the venue has; None where it has none at all."""
    newest = [end for table in SERIES if (end := ends(lake, table).get(venue)) is not None]
    if not newest:
        return None
    interval = Interval(max(newest) - timedelta(hours=hours), max(newest))
    frames = [_minutes(lake, table, venue, symbol, interval) for table in SERIES]
    minutes = frames[0]
    for frame in frames[1:]:
        minutes = minutes.join(frame, on="ts", how="full", coalesce=True)
    return Look(
        interval,
        minutes.sort("ts"),
        _structure(lake, venue, symbol, interval.end),
        _depth(lake, venue, symbol, interval),
        _decisions(lake, venue, symbol, interval),
    )


def _of(lake: Lake, table: str, venue: str, symbol: str, span: Interval) -> pl.LazyFrame:
    return lake.scan(table, venue, span.start, span.end, symbol)


def _minutes(lake: Lake, table: str, venue: str, symbol: str, interval: Interval) -> pl.DataFrame:
    return _of(lake, table, venue, symbol, interval).select("ts", *SERIES[table]).collect().unique("ts", keep="last")


def _structure(lake: Lake, venue: str, symbol: str, end: datetime) -> dict[str, Any] | None:
    rows = _of(lake, "structure", venue, symbol, Interval(end - STRUCTURE_BACK, end)).sort("ts").last().collect()
    return rows.row(0, named=True) if rows.height else None


def _depth(lake: Lake, venue: str, symbol: str, interval: Interval) -> dict[str, Any] | None:
    names = [f"depth_{side}_{band}bps_usd" for side in ("bid", "ask") for _, band in BANDS_BPS]
    rows = _of(lake, "bars", venue, symbol, interval).select("ts", *names).sort("ts").last().collect()
    return rows.row(0, named=True) if rows.height else None


def _decisions(lake: Lake, venue: str, symbol: str, interval: Interval) -> list[dict[str, Any]]:
    rows = lake.scan("decisions", venue, interval.start, interval.end)
    mine = rows.filter(pl.col("entity").is_in([symbol, "*"])).sort("ts", "rule", descending=[True, False])
    return [decision_row(row) for row in mine.head(DECISIONS_MAX).collect().to_dicts()]


def _share(value: float | None) -> str:
    return words.percent(value, 0 if value is None or value >= 0.1 or value == 0 else 1)


def _plain(value: float | None) -> str:
    return words.NOTHING if value is None else f"{value:,.4g}"


def _multiple(value: float | None) -> str:
    return words.NOTHING if value is None else f"{value:,.3g}×"


def plots(found: Look) -> list[dict[str, Any]]:
    """The plots of a symbol's minutes; one without values says what it lacks."""
    rows, span = found.minutes, found.interval
    asked = {
        "Price": (
            (Line("close", "last trade", "l-blue"), Line("mark", "mark", "l-orange"), Line("index", "index", "l-grey")),
            price, {"note": "no trades and no marks: run `cascadeguard ingest`, then `score`"},
        ),
        "Probability of a cascade": (
            (Line("p_60m", "within 60 min", "l-red"), Line("p_15m", "within 15 min", "l-orange"),
             Line("p_threshold", "alert threshold", "l-dash", step=True)),
            _share, {"zero": True, "band": ("p_60m_low", "p_60m_high", "how far calibration leaves it open"),
                     "note": "no early-warning model spoke: run `cascadeguard train`, then `score`"},
        ),
        "Anomaly": (
            (Line("anomaly", "surprise, −log10 p", "l-blue"),
             Line("anomaly_threshold", "threshold", "l-dash", step=True)),
            _plain, {"zero": True, "note": "the detector did not speak: run `cascadeguard score`"},
        ),
        "Leverage cap": (
            (Line("leverage_cap_effective", "in force", "l-red", step=True),
             Line("leverage_cap_hard", "hard", "l-hard", step=True)),
            _multiple, {"zero": True, "note": "no limits: run `cascadeguard guard`"},
        ),
        "Exposure cap, USD per account": (
            (Line("exposure_cap_usd_effective", "in force", "l-red", step=True),
             Line("exposure_cap_usd", "hard", "l-hard", step=True)),
            usd, {"zero": True, "note": "no limits: run `cascadeguard guard`"},
        ),
        "Depth within 1 %, USD": (
            (Line("depth_bid_100bps_usd", "bids", "l-green"), Line("depth_ask_100bps_usd", "asks", "l-red")),
            usd, {"zero": True, "note": "the lake holds no book depth of this symbol"},
        ),
        "Open interest, USD": (
            (Line("oi_usd", "open interest", "l-violet"),),
            usd, {"note": "the lake holds no open interest of this symbol"},
        ),
    }  # fmt: skip
    drawn = [plot(title, rows, span, lines, said, **more) for title, (lines, said, more) in asked.items()]  # type: ignore[arg-type]  # keywords by plot
    return [one for one in drawn if one["drawn"]] + [one for one in drawn if not one["drawn"]]


def strips(found: Look) -> dict[str, list[dict[str, Any]]]:
    """Above the plots: when it alerted, and which action was in force, as boxes on the plots' time axis."""
    step, span = timedelta(seconds=BAR_S), found.interval
    alerts = found.minutes.with_columns(alert=pl.when(pl.col("alert")).then(pl.lit("alert")))
    actions = found.minutes.with_columns(action=pl.when(pl.col("action").is_in(ACTIONS)).then("action"))
    return {
        "alerts": [_told(box, "alert") for box in spans(alerts, "alert", span, step)],
        "actions": [
            _told(box, f"{words.spaced(box['value'], words.ACTIONS)} ({MEANING[box['value']]})")
            for box in spans(actions, "action", span, step)
        ],
    }


def _told(box: Mapping[str, Any], what: str) -> dict[str, Any]:
    said = f"{what} from {words.moment(box['first'])} to {words.until(box['first'], box['last'])}"
    return {"x": box["x"], "width": box["width"], "value": box["value"], "said": said}


def liquidation_map(found: Look) -> dict[str, Any] | None:
    """What a move would force, ring by ring, beside the book that would take it; None without positions.

    A fall forces longs, whose sales the bids must take; a rise forces shorts, whose purchases the asks must take.
    """
    rows = found.structure
    if rows is None:
        return None
    rings = [_ring(found, "long", "bid", low, high) for low, high in reversed(BANDS_BPS)]
    rings += [_ring(found, "short", "ask", low, high) for low, high in BANDS_BPS]
    largest = max([*(ring["fuel"] or 0 for ring in rings), *(ring["depth"] or 0 for ring in rings), 1])
    return {
        "at": words.moment(rows["ts"]),
        "rings": [
            ring | {"fuel_width": _width(ring["fuel"], largest), "depth_width": _width(ring["depth"], largest),
                    "fuel_said": usd(ring["fuel"]), "depth_said": usd(ring["depth"])}
            for ring in rings
        ],
        "facts": [
            {"name": "loop gain rho of the venue", "said": words.decimal(rows["rho"], 3)},
            {"name": "fuel over book within 2 %, fall / rise",
             "said": f"{words.decimal(rows['kappa_fall'], 2)} / {words.decimal(rows['kappa_rise'], 2)}"},
            {"name": "nearest cliff below", "said": _bps(rows["cliff_fall_bps"])},
            {"name": "half of the notional is levered above", "said": words.times(rows["leverage_p50"])},
            {"name": "short of margin already", "said": f"{usd(rows['overdue_usd'])} USD"},
        ],
    }  # fmt: skip


def _bps(value: float | None) -> str:
    return "none" if value is None else f"{value / 100:.2f} % away"


def _width(value: float | None, largest: float) -> float:
    return round(200 * (value or 0) / largest, 1)


def _ring(found: Look, position: str, side: str, low: int, high: int) -> dict[str, Any]:
    """Dollars between `low` and `high` bps away: forced positions, and the book."""
    fuel = {bps: (found.structure or {}).get(f"fuel_{position}_{bps}bps_usd") for bps in (100, 200, 500)} | {0: 0}
    depth = {bps: (found.depth or {}).get(f"depth_{side}_{bps}bps_usd") for bps in (100, 200, 500)} | {0: 0}
    sign = "−" if position == "long" else "+"
    return {
        "name": f"{sign if low else ''}{low / 100:g} to {sign}{high / 100:g} %", "side": position,
        "fuel": _between(fuel, low, high), "depth": _between(depth, low, high),
    }  # fmt: skip


def _between(cumulated: Mapping[int, int | None], low: int, high: int) -> int | None:
    near, far = cumulated[low], cumulated[high]
    return None if near is None or far is None else far - near
