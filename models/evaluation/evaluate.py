"""One scorer judged against events: by event first, by bar second, beside chance.

In: the scores of each symbol, the events, where the scorer ran, settings. Out: `Evaluation`. Never: a threshold chosen
on the rows it is judged on, a claim on fewer than EVENTS_MIN events.

A pass over the symbols for each of span, threshold and judgement, one symbol at a time: memory does not grow with rows.
"""

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta

import polars as pl

from models.evaluation import tally
from models.evaluation.figures import BUDGETS, Evaluation, figures
from models.evaluation.settings import DAY_S, Judging, Settings, Span
from models.evaluation.symbol import OneSymbol, judged_symbol
from models.thresholds import added, charges, threshold_within

Parts = Callable[[], Iterator[pl.DataFrame]]  # of one symbol each: symbol, ts, score; sorted by ts


def chosen_thresholds(parts: Parts, settings: Settings, budgets: tuple[float, ...], exact: bool) -> dict[float, float]:
    """The threshold for each budget of episodes per symbol-day, from the rows up to `fit_until` alone.

    Raises ValueError where they hold no score.
    """
    charged: list[pl.DataFrame] = []
    symbol_days = 0.0
    for part in parts():
        fit = part.filter(pl.col("ts") <= settings.fit_until, pl.col("score").is_not_nan())
        scored = (
            fit if exact or fit.is_empty() else fit.with_columns(pl.Series("score", tally.cut(fit["score"].to_numpy())))
        )
        charged = [added([*charged, charges(scored, settings.refractory_min)])]
        symbol_days += fit.height * settings.bar_s / DAY_S
    whole = added(charged)
    return {
        budget: threshold_within(whole, budget * symbol_days, settings.refractory_min, settings.bar_s)
        for budget in budgets
    }


def _within(rows: pl.DataFrame, coverage: pl.DataFrame | None) -> pl.DataFrame:
    """Rows inside a span `(start, end]` of their symbol: `symbol, start, end`, apart from one another."""
    if coverage is None:
        return rows
    spans = coverage.filter(pl.col("symbol").is_in(rows["symbol"].unique().implode())).sort("start")
    found = rows.join_asof(
        spans, left_on="ts", right_on="start", by="symbol", allow_exact_matches=False, check_sortedness=False
    )
    return found.filter((pl.col("ts") <= pl.col("end")).fill_null(value=False)).select(rows.columns)


def _judged_rows(part: pl.DataFrame, settings: Settings, coverage: pl.DataFrame | None) -> pl.DataFrame:
    known = part.filter(pl.col("score").is_not_nan() & pl.col("score").is_not_null())
    late = known if settings.fit_until is None else known.filter(pl.col("ts") > settings.fit_until)
    return _within(late, coverage)


def span_of(parts: Parts, settings: Settings, coverage: pl.DataFrame | None) -> tuple[Span, int]:
    """The time that is judged, and how many rows it holds. Raises ValueError where it holds none."""
    ends: list[datetime] = []
    height = 0
    for part in parts():
        rows = _judged_rows(part, settings, coverage)
        if rows.height:
            ends += [rows["ts"].min(), rows["ts"].max()]  # type: ignore[list-item]  # datetimes: rows are there
            height += rows.height
    if not ends:
        raise ValueError("scores must hold a judged row, held none")
    bars = round((max(ends) - min(ends)).total_seconds() / settings.bar_s) + 1
    return Span(min(ends), bars, settings.bar_s), height


def evaluate(
    parts: Parts, events: pl.DataFrame, settings: Settings, coverage: pl.DataFrame | None = None
) -> Evaluation:
    """Judge a scorer. `parts` yields the rows of one symbol after another (`symbol, ts, score`, sorted by ts, and
    optionally `available_at`); `events`: `symbol, onset, end` and perhaps `severity`, which weighs what a hit is worth;
    `coverage`: `symbol, start, end`, by default every row.

    Events without a covered row in their warning time are not judged, and counted as `uncovered_events`.
    Raises ValueError where no row is judged, and where a threshold must be chosen and no row may choose it.
    """
    span, height = span_of(parts, settings, coverage)
    exact = height <= tally.ROWS_EXACT
    fitted = chosen_thresholds(parts, settings, (settings.budget, *BUDGETS), exact) if settings.fit_until else {}
    threshold = settings.threshold if settings.threshold is not None else fitted[settings.budget]
    judging = Judging(settings, settings.policy(threshold), span, exact)

    def symbols() -> Iterator[OneSymbol]:
        for part in parts():
            rows = _judged_rows(part, settings, coverage)
            if rows.height:
                yield judged_symbol(rows, _own(events, rows, judging), judging)

    return figures(symbols(), judging, fitted)


def _own(events: pl.DataFrame, rows: pl.DataFrame, judging: Judging) -> pl.DataFrame:
    """The symbol's events from the first judged bar of all to a horizon after its own last one."""
    last = pl.lit(rows["ts"].max()) + timedelta(minutes=judging.settings.horizon_min)
    first = judging.span.start - timedelta(seconds=judging.settings.bar_s)
    own = events.filter(pl.col("symbol") == rows["symbol"][0], pl.col("onset") > first, pl.col("onset") <= last)
    return own.select("symbol", "onset", "end", pl.col("^severity$").cast(pl.Float64))
