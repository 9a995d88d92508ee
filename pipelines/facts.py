"""Stylised facts of a real and a simulated lake, side by side: measured, judged and written as one page."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from features.schema import UTC_US
from models.facts import (
    DAYS_MIN,
    FACTS,
    LAGS,
    RETURN_S,
    WITHIN,
    Floats,
    Series,
    Slope,
    autocorrelation,
    cancel_to_trade,
    cluster_facts,
    clusters,
    depth_volatility,
    forced_orders,
    judged,
    real_range,
    regular,
)
from pipelines.doctoring.evidence import survey
from pipelines.doctoring.liquidations import merged, throttled
from pipelines.errors import InputError
from pipelines.lake import Lake
from pipelines.pages import write_page
from pipelines.reporting.facts_page import render_facts

KEY = ["venue", "symbol"]
WINDOW_D_MAX = 7
FULL = 0.9  # of a window's returns; with fewer it is left out
DEPTH_HOURS_MIN = 6
FUNDING_H = 8.0
FUNDING_LAGS = (1, 3)
VALUES = pl.Schema(
    {"fact": pl.String(), "venue": pl.String(), "symbol": pl.String(), "window": UTC_US, "value": pl.Float64(),
     "error": pl.Float64()}
)  # fmt: skip
CURVES = pl.Schema(
    {"curve": pl.String(), "venue": pl.String(), "symbol": pl.String(), "window": UTC_US, "x": pl.Float64(),
     "y": pl.Float64()}
)  # fmt: skip
VERDICTS = pl.Schema(
    {"fact": pl.String(), "says": pl.String(), "real_median": pl.Float64(), "real_low": pl.Float64(),
     "real_high": pl.Float64(), "real_n": pl.Int64(), "real_from": pl.String(), "simulated": pl.Float64(),
     "simulated_low": pl.Float64(), "simulated_high": pl.Float64(), "simulated_n": pl.Int64(), "verdict": pl.String()}
)  # fmt: skip


@dataclass(frozen=True)
class Measured:
    """`values`: one per fact, symbol and window (`VALUES`; `error` is a standard error, null where none is known).
    `curves`: autocorrelation of |return|, of funding, and sizes of clusters (`CURVES`).
    """

    values: pl.DataFrame
    curves: pl.DataFrame


@dataclass(frozen=True)
class FactsSummary:
    page: str
    bytes: int
    window_d: int
    within: int
    beyond: int
    unjudged: int
    facts: tuple[dict[str, Any], ...]


# --- gather ---


def _fine_candles(lake: Lake) -> pl.DataFrame:
    """Candles of at most `RETURN_S`, of the shortest interval of each symbol."""
    rows = lake.scan("candles").filter(pl.col("interval_s") <= RETURN_S)
    chosen = rows.select(*KEY, "ts", "interval_s", "close", "volume").collect()
    return chosen.filter(pl.col("interval_s") == pl.col("interval_s").min().over(KEY)).sort(*KEY, "ts")


def window_days(lake: Lake) -> int:
    """The length of the windows that both sides are cut into: the whole days that the lake's candles span, at most 7.

    Raises InputError where they do not span a day.
    """
    span = lake.scan("candles").select(pl.col("ts").max() - pl.col("ts").min()).collect().item()
    days = 0 if span is None else (span + timedelta(minutes=5)) // timedelta(days=1)
    if days < 1:
        raise InputError(
            "facts need at least a day of simulated candles", where=lake.root, mend="simulate longer with --days"
        )
    return int(min(days, WINDOW_D_MAX))


def sound_liquidations(lake: Lake) -> pl.DataFrame:
    """Forced orders of feeds that tell all of them: throttled and merged recordings are refused whole."""
    rows = lake.scan("liquidations")
    evidence = survey({"liquidations": rows}, lake.scan("instruments").collect(), lake.scan("quarantine"))
    bad = pl.concat([throttled(evidence), merged(evidence)]).select("venue", "first", "last")
    kept = rows.collect()
    for venue, first, last in bad.iter_rows():  # a handful of recordings
        kept = kept.filter(~((pl.col("venue") == venue) & pl.col("ts").is_between(first, last)))
    return forced_orders(kept)


def sound_depth(lake: Lake) -> pl.DataFrame:
    """Depth within 100 bps, without the hours in which rows of the symbol's depth were refused.

    What stands between refused snapshots is the same doubtful book a moment earlier or later.
    """
    depth = lake.scan("book_depth").filter(pl.col("band_bps") == 100).collect()
    refused = lake.scan("quarantine").filter(pl.col("table") == "book_depth").select(*KEY, "ts").collect().drop_nulls()
    hours = refused.group_by(*KEY, hour=pl.col("ts").dt.truncate("1h")).agg().sort("hour")
    near = depth.with_columns(hour=pl.col("ts").dt.truncate("1h")).join(hours, on=[*KEY, "hour"], how="anti")
    return near.drop("hour").sort(*KEY, "ts")


# --- measure ---


def _of_symbol(rows: pl.DataFrame) -> Iterator[tuple[str, str, pl.DataFrame]]:
    for (venue, symbol), part in rows.partition_by(KEY, as_dict=True, maintain_order=True).items():
        yield str(venue), str(symbol), part


def _windows(rows: pl.DataFrame, days: int) -> Iterator[tuple[dict[str, Any], pl.DataFrame]]:
    """The rows of each symbol cut into windows of `days`, counted from its first row; `window` is the first stamp."""
    since = pl.col("ts") - pl.col("ts").min().over(KEY)
    cut = rows.with_columns(nth=(since.dt.total_microseconds() // (days * 86_400_000_000)))
    for (venue, symbol, _), part in cut.partition_by([*KEY, "nth"], as_dict=True, maintain_order=True).items():
        start = part["ts"].min()
        yield {"venue": venue, "symbol": symbol, "window": start}, part


def _value(where: dict[str, Any], fact: str, value: float | None, error: float | None = None) -> list[dict[str, Any]]:
    return [] if value is None else [where | {"fact": fact, "value": value, "error": error}]


def _slope(where: dict[str, Any], fact: str, slope: Slope | None) -> list[dict[str, Any]]:
    return [] if slope is None else _value(where, fact, slope.value, slope.error)


def _curve(where: dict[str, Any], name: str, y: Floats) -> list[dict[str, Any]]:
    return [where | {"curve": name, "x": float(x), "y": float(v)} for x, v in enumerate(y, 1) if np.isfinite(v)]


def _floats(rows: pl.DataFrame, column: str) -> Floats:
    return rows[column].cast(pl.Float64).fill_null(float("nan")).to_numpy()


def _of_returns(returns: pl.DataFrame, days: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    values, curves = [], []
    enough = FULL * days * 86_400 / RETURN_S
    for where, part in _windows(returns, days):
        if part["ret"].count() < enough:
            continue
        series = Series(_floats(part, "ret"), _floats(part, "volume_usd"))
        for fact in FACTS:
            values += _value(where, fact.name, fact.measure(series)) if fact.measure is not None else []
        curves += _curve(where, "volatility_acf", autocorrelation(np.abs(series.returns), LAGS))
    return values, curves


def _of_funding(lake: Lake, days: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    rows = lake.scan("funding").filter(pl.col("interval_h") == FUNDING_H).collect().sort(*KEY, "ts")
    values, curves = [], []
    for where, part in _windows(rows, days):
        if part.height < FULL * days * 24 / FUNDING_H:
            continue
        found = autocorrelation(_floats(part, "rate"), max(FUNDING_LAGS) * 2)
        curves += _curve(where, "funding_acf", found)
        for lag in FUNDING_LAGS:
            y = float(found[lag - 1])
            values += _value(where, f"funding_acf_{lag}", y if np.isfinite(y) else None)
    return values, curves


def _of_books(lake: Lake) -> list[dict[str, Any]]:
    values = []
    for table in ("book_events", "l2_events"):
        if not lake.has(table):
            continue
        series = lake.scan(table).select(KEY).unique().collect().sort(KEY)
        for venue, symbol in series.iter_rows():
            rows = lake.scan(table, venue=venue, symbol=symbol).select("ts", "event", "price", "qty")
            found = cancel_to_trade(rows.collect())
            where = {"venue": venue, "symbol": symbol, "window": None}
            for name, ratio in (found or {}).items():
                values += _value(where, f"cancel_to_trade_{name}", ratio)
    return values


def _of_depth(lake: Lake, returns: pl.DataFrame) -> list[dict[str, Any]]:
    values = []
    for venue, symbol, depth in _of_symbol(sound_depth(lake)):
        mine = returns.filter(pl.col("venue") == venue, pl.col("symbol") == symbol)
        days = depth.with_columns(day=pl.col("ts").dt.truncate("1d")).partition_by("day", as_dict=True)
        long = {day: part for (day,), part in days.items() if part["ts"].dt.hour().n_unique() >= DEPTH_HOURS_MIN}
        where = {"venue": venue, "symbol": symbol}
        for day, part in sorted(long.items()):
            slope = depth_volatility(part, mine, "1h")
            values += _slope(where | {"window": day}, "depth_volatility_day", slope)
        whole = depth_volatility(pl.concat(long.values()), mine, "1d") if len(long) >= DAYS_MIN else None
        values += _slope(where | {"window": None}, "depth_volatility_slope", whole)
    return values


def _of_clusters(lake: Lake) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    values, curves = [], []
    for venue, symbol, orders in _of_symbol(sound_liquidations(lake)):
        where = {"venue": venue, "symbol": symbol, "window": None}
        found = cluster_facts(orders)
        values += [row for fact, value in found.items() for row in _value(where, fact, value)]
        if found:
            ts_s = orders["ts"].dt.timestamp("us").to_numpy() / 1e6
            many, _ = clusters(ts_s, _floats(orders, "notional_usd"))
            larger = 1 - np.searchsorted(np.sort(many), np.arange(1, int(many.max()) + 1)) / many.size
            curves += _curve(where, "cluster_sizes", larger)
    return values, curves


def measure(lake: Lake, days: int) -> Measured:
    """Every fact of every symbol of `lake` that its tables can tell, over windows of `days` where that matters.

    Refused: candles longer than `RETURN_S`, windows with too many gaps, hours of refused depth, throttled and merged
    liquidation feeds, funding of other intervals than 8 h.
    """
    returns = regular(_fine_candles(lake))
    of_returns, of_funding, of_clusters = _of_returns(returns, days), _of_funding(lake, days), _of_clusters(lake)
    values = [*of_returns[0], *of_funding[0], *_of_books(lake), *_of_depth(lake, returns), *of_clusters[0]]
    curves = [*of_returns[1], *of_funding[1], *of_clusters[1]]
    return Measured(pl.DataFrame(values, schema=VALUES), pl.DataFrame(curves, schema=CURVES))


# --- judge ---


def _sources(values: pl.DataFrame) -> str:
    """Venues with the number of their symbols: `bybit 8, okx 7`."""
    counted = values.group_by("venue").agg(pl.col("symbol").n_unique()).sort("venue")
    return ", ".join(f"{venue} {many}" for venue, many in counted.iter_rows())


def verdicts(real: Measured, simulated: Measured) -> pl.DataFrame:
    """One row per fact (`VERDICTS`): real range, simulated median over symbols and windows, judgement."""
    rows = []
    for fact in FACTS:
        one, other = (side.values.filter(pl.col("fact") == fact.name) for side in (real, simulated))
        band = real_range(one["value"].to_numpy(), one["error"][0] if one.height == 1 else None)
        middle = other["value"].median()
        rows.append(
            {
                "fact": fact.name, "says": fact.says, "real_median": one["value"].median(),
                "real_low": None if band is None else band[0], "real_high": None if band is None else band[1],
                "real_n": one.height, "real_from": _sources(one), "simulated": middle,
                "simulated_low": other["value"].min(), "simulated_high": other["value"].max(),
                "simulated_n": other.height, "verdict": judged(middle, band),  # type: ignore[arg-type]  # a median of floats
            }
        )  # fmt: skip
    return pl.DataFrame(rows, schema=VERDICTS)


def build_facts(real: Lake, simulated: Lake, out: Path) -> FactsSummary:
    """Measure both lakes over windows of one length, judge every fact and write the page to `out`.

    Reads no clock: the same lakes give the same bytes. Raises InputError where the simulated lake holds less than a day
    of candles, the real one none at all, or the page cannot be written.
    """
    if not real.has("candles"):
        raise InputError("there are no candles to compare with", where=real.root, mend="ingest real ones first")
    days = window_days(simulated)
    there, here = measure(real, days), measure(simulated, days)
    found = verdicts(there, here)

    text = render_facts(found, (there.values, here.values), (there.curves, here.curves), days)

    size = write_page(out, text, "--facts")
    within = int((found["verdict"] == WITHIN).sum())
    judgeable = int((found["real_low"].is_not_null() & found["simulated"].is_not_null()).sum())
    rows = tuple(found.to_dicts())
    return FactsSummary(str(out), size, days, within, judgeable - within, found.height - judgeable, rows)
