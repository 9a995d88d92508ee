"""One symbol judged: what became of its events and alerts, and its rows counted; none of it grows with rows."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import polars as pl
from numpy.typing import NDArray

from features.labels import future_event_within
from models.evaluation import nab, tally
from models.evaluation.alarm_time import drawn_shifts, shifted_hits
from models.evaluation.alarms import AlarmPolicy, judged_episodes, judged_events
from models.evaluation.settings import Judging, Settings
from models.metrics import LOG_LOSS_FLOOR


@dataclass(frozen=True)
class OneSymbol:
    """What one symbol adds; nothing in it grows with its rows."""

    symbol: str
    events: pl.DataFrame  # symbol, onset, end, outcome, alerted_at, lead_min, standing; severity where it is given
    episodes: pl.DataFrame  # symbol, start, end, alerts, onset, false
    tally: pl.DataFrame
    fine: pl.DataFrame
    standing: pl.DataFrame  # score, bars
    days: pl.DataFrame  # day, rows, scored, improper, squares, losses
    under_alarm: int
    bars: int
    uncovered: int
    met: int  # onsets under alarm
    shifted: NDArray[np.int64]  # the same for every shift
    nab_raw: Mapping[str, float]
    nab_windows: int


def _covered_events(events: pl.DataFrame, rows: pl.DataFrame, settings: Settings) -> pl.DataFrame:
    """The events in whose warning time the scorer spoke at least once."""
    reach = timedelta(minutes=settings.horizon_min)
    spoke = rows.select("symbol", spoke_at="ts").sort("spoke_at")
    wanted = events.with_columns(reach=pl.col("onset") - reach).sort("reach")
    found = wanted.join_asof(
        spoke, left_on="reach", right_on="spoke_at", by="symbol", strategy="forward", check_sortedness=False
    )
    in_time = pl.col("spoke_at") <= pl.col("onset") - timedelta(minutes=settings.lead_min)
    return found.filter(in_time.fill_null(value=False)).drop("reach", "spoke_at").sort("onset")


def _by_day(rows: pl.DataFrame) -> pl.DataFrame:
    """Covered rows per day and, of those with a target and a probability, squares and log losses."""
    p, y = pl.col("score"), pl.col("happened")
    judged = y.is_not_null()
    held = p.clip(LOG_LOSS_FLOOR, 1 - LOG_LOSS_FLOOR)
    loss = -pl.when(y > 0).then(held.log()).otherwise((1 - held).log())
    return rows.group_by(day=pl.col("ts").dt.date()).agg(
        rows=pl.len().cast(pl.Int64),
        scored=judged.sum().cast(pl.Int64),
        improper=(judged & ~p.is_between(0, 1)).sum().cast(pl.Int64),
        squares=((p - y) ** 2).sum(),
        losses=pl.when(judged).then(loss).sum(),
    )


def _nab(
    detected: pl.DataFrame, rows: pl.DataFrame, events: pl.DataFrame, settings: Settings
) -> tuple[dict[str, float], int]:
    """The symbol as a file of the benchmark: a window per event, from a horizon before its onset to its end.

    An alert counts in the first row at which it was known; one after the last row in none.
    """
    at = rows["ts"].search_sorted(detected["ts"], "left").to_numpy()
    flags = np.zeros(rows.height, dtype=np.bool_)
    flags[at[at < rows.height]] = True
    ordered = events.sort("onset")
    first = rows["ts"].search_sorted(ordered["onset"] - timedelta(minutes=settings.horizon_min), "left")
    last = rows["ts"].search_sorted(ordered["end"], "right") - 1
    windows: list[tuple[int, int]] = []
    for begin, end in zip(first, last, strict=True):  # events are few
        if windows and begin <= windows[-1][1]:
            windows[-1] = (windows[-1][0], max(end, windows[-1][1]))
        elif begin <= end:
            windows.append((begin, end))
    return {name: nab.raw_score(flags, windows, profile) for name, profile in nab.PROFILES.items()}, len(windows)


def _alerting(rows: pl.DataFrame, policy: AlarmPolicy) -> pl.DataFrame:
    """Alerts by the moment at which they could be known."""
    found = policy.alerts(rows)
    if "available_at" not in rows.columns:
        return found
    known = found.join(rows.select("symbol", "ts", "available_at"), on=["symbol", "ts"], how="left")
    return known.select("symbol", ts=pl.max_horizontal("ts", "available_at")).sort("ts")


def judged_symbol(rows: pl.DataFrame, events: pl.DataFrame, judging: Judging) -> OneSymbol:
    """What one symbol's covered `rows` (no null score) say of its `events`."""
    settings, span = judging.settings, judging.span
    symbol = str(rows["symbol"][0])
    covered = _covered_events(events, rows, settings)
    alerts = _alerting(rows, judging.policy)
    told = judged_events(alerts, covered, horizon_min=settings.horizon_min, lead_min=settings.lead_min)
    future = future_event_within(rows.select("symbol", "ts"), events, settings.horizon_min, settings.refractory_min)
    target = future.select("ts", happened=pl.col(f"future_event_within_{settings.horizon_min}"))
    answered = rows.join(target, on="ts", how="left", maintain_order="left")
    window, place = settings.window(), span.place(rows["ts"])
    line = np.full(span.bars, -np.inf)
    line[place] = rows["score"].to_numpy()
    standing = window.standing(line)
    onset = span.place(told["onset"])
    met = standing[np.clip(onset, 0, span.bars - 1)]
    alarms = np.full(span.bars, -np.inf)
    alarms[np.clip(span.place(alerts["ts"]), 0, span.bars - 1)] = 1.0
    region = window.standing(alarms) > 0
    covered_region, spot = region[place], np.searchsorted(place, onset, side="right") - 1
    spot = spot[spot >= 0]
    shifts = drawn_shifts(span.bars, window, settings.replicates, settings.seed)
    levels = standing[place] if judging.exact else tally.cut(standing[place])
    raw, windows = _nab(alerts, rows, covered, settings)
    return OneSymbol(
        symbol=symbol,
        events=told.with_columns(standing=pl.Series(met)),
        episodes=judged_episodes(
            alerts,
            events,
            horizon_min=settings.horizon_min,
            refractory_min=settings.refractory_min,
            merge_min=settings.refractory_min,
        ),
        tally=tally.tally(answered, None if judging.exact else tally.COARSE),
        fine=tally.tally(answered, None if judging.exact else tally.FINE, by_day=False),
        standing=pl.DataFrame({"score": levels}).group_by("score").agg(bars=pl.len().cast(pl.Int64)),
        days=_by_day(answered),
        under_alarm=int(region[place].sum()),
        bars=rows.height,
        uncovered=events.height - covered.height,
        met=int(shifted_hits(covered_region, spot, np.zeros(1, np.int64))[0]),
        shifted=shifted_hits(covered_region, spot, shifts),
        nab_raw=raw,
        nab_windows=windows,
    )
