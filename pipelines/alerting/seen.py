"""What an interval shows that is worth telling: columns of the lake in, alerts out. Nothing is remembered here.

| kind | severity | when |
|---|---|---|
| breaker | info, warning, critical | cautious, reduce only, halted; a rule of the venue as a whole is critical |
| episode | info | the detector alerts |
| | warning | the model alerts; the anomaly is at `anomaly_ratio_warning`; the venue as a whole alerts |
| | critical | the model alerts with a chance at `probability_critical` within the hour |
| data | info | an input is missing, or an action is blocked |
| | warning | not even reducing is allowed |
| | critical | the interval has no limits at all |
| run | warning | a run failed; results come later than `lag_min_max` |
| | critical | `failures_critical` failed in a row; four times as late |
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import polars as pl

from guardrails.ladder import ACTIONS, CAUTIOUS, HALTED, MEANING, REDUCE_ONLY
from models.thresholds import episodes
from pipelines.alerting.alert import CRITICAL, INFO, WARNING, Alert, key_of
from pipelines.reporting import words
from pipelines.times import Interval

LATCHED = ("open", "half_open")  # a breaker that has seen a breach and has not been cleared since
RULE = ("venue", "entity", "rule")
SYMBOL = ("venue", "symbol")
WHOLE = "*"
SEVERITY_OF = {CAUTIOUS: INFO, REDUCE_ONLY: WARNING, HALTED: CRITICAL}
RESET_STATE = "reset by a person"
REASONS_MAX = 3


@dataclass(frozen=True)
class Sight:
    """The alerts that an interval shows of one kind, and the keys of all that are in force at its end.

    `in_force` is None where the kind was not judged: then nothing that stands of it may be called gone.
    """

    alerts: tuple[Alert, ...]
    in_force: frozenset[str] | None


# --- breakers, as one spell from breach to clearance


def breaker_spells(decisions: pl.DataFrame) -> pl.DataFrame:
    """The newest spell of every breaker that `decisions` speak of, as a decision with `since`, `until`, `worst`.

    A spell goes from the breach to `closed`; probation is part of it. `since` is null where it began before the first
    row. While it lasts `until` is null and the decision is the newest; once it is over, `until` is when and the
    decision is the strictest of the spell, the first of these. `worst` is the strictest step of the ladder, by number,
    and `reset` whether a person has just reset it. Breakers without any spell are left out.
    """
    latched = pl.col("state_after").is_in(LATCHED)
    before = pl.col("state_before").is_in(LATCHED).fill_null(value=False)
    step = pl.col("action").replace_strict(list(ACTIONS), list(range(len(ACTIONS))), return_dtype=pl.Int64)
    reset = (pl.col("state_before") == "open") & (pl.col("state_after") == "half_open")
    numbered = (
        decisions.filter(latched | before)
        .sort("ts")
        .with_columns(latched=latched, begins=latched & ~before, step=step)
        .with_columns(spell=pl.col("begins").cum_sum().over(RULE))
        .filter(pl.col("spell") == pl.col("spell").max().over(RULE))
    )
    told = numbered.with_columns(
        worst=pl.col("step").max().over(RULE),
        since=pl.col("ts").filter("begins").first().over(RULE),
        until=pl.when(~pl.col("latched")).then("ts").last().over(RULE),
        reset=reset & (pl.col("reset_authority") == "person"),
    )
    shown = pl.col("until").is_null() | (pl.col("step") == pl.col("worst"))
    chosen = pl.when(pl.col("until").is_null()).then(pl.col("ts").max()).otherwise(pl.col("ts").min()).over(RULE)
    return told.filter(shown).filter(pl.col("ts") == chosen).sort(RULE)


def _of_breaker(row: dict[str, Any], end: datetime) -> Alert:
    step = ACTIONS[row["worst"] if row["until"] is not None else row["step"]]
    wide = row["scope"] == "venue"
    seen, limit = [*words.without_clearing(row["reason"]).split("; "), ""][:2]
    return Alert(
        key=key_of("breaker", row["venue"], row["entity"], row["rule"]),
        kind="breaker",
        venue=row["venue"],
        symbol=row["entity"],
        rule=row["rule"],
        severity=CRITICAL if wide else SEVERITY_OF.get(step, INFO),
        since=row["since"] or end,
        until=row["until"],
        state=RESET_STATE if row["reset"] else step,
        seen=seen,
        limit=limit.removeprefix("limit is ") or words.amount(row["threshold"], row["unit"]),
        allowed=f"{MEANING[step]} ({words.limit(row['limit_after'], row['limit_unit'])})",
        why=f"rule {words.spaced(row['rule'], words.RULES)} of policy {row['policy_version']}",
        clears=row["clears_when"].removeprefix("clears "),
        look=f"cascadeguard explain {row['decision_id']}",
    )


def breakers(decisions: pl.DataFrame, state: pl.DataFrame, end: datetime) -> Sight:
    """Breakers with a spell in `decisions`; in force are those that are latched in `state`, the guard's at its end."""
    spells = breaker_spells(decisions)
    alerts = tuple(_of_breaker(row, end) for row in spells.to_dicts())
    if state.is_empty():
        return Sight(alerts, None)
    held = state.filter(pl.col("state").is_in(LATCHED)).select("venue", "symbol", "rule")
    return Sight(alerts, frozenset(key_of("breaker", *row) for row in held.iter_rows()))


# --- episodes


def _episode_severity(probability_critical: float, ratio_warning: float) -> pl.Expr:
    by_model = (pl.col("p_60m") >= pl.col("p_threshold")).fill_null(value=False)
    strong = (pl.col("anomaly") >= ratio_warning * pl.col("anomaly_threshold")).fill_null(value=False)
    certain = by_model & (pl.col("p_60m") >= probability_critical) & (pl.col("symbol") != WHOLE)
    return (
        pl.when(certain).then(CRITICAL)
        .when(by_model | strong | (pl.col("symbol") == WHOLE)).then(WARNING)
        .otherwise(INFO)
    )  # fmt: skip


def _of_episode(row: dict[str, Any], quiet_min: int) -> Alert:
    told = [f"anomaly up to {row['ratio']:.1f}× its threshold"] if row["ratio"] is not None else []
    told += (
        [f"chance of a cascade within the hour up to {words.percent(row['p_60m'])}"] if row["p_60m"] is not None else []
    )
    limits = [] if row["p_threshold"] is None else [f"told from a chance of {words.percent(row['p_threshold'])}"]
    why = [": ".join(filter(None, (one["family"], one["text"]))) for one in words.reasons(row["reasons"])[:REASONS_MAX]]
    return Alert(
        key=key_of("episode", row["venue"], row["symbol"]),
        kind="episode",
        venue=row["venue"],
        symbol=row["symbol"],
        rule="model" if row["by_model"] else "detector",
        severity=row["severity"],
        since=row["start"],
        until=None if row["open"] else row["end"],
        state="early warning",
        seen="; ".join(told) or "an alert",
        limit="; ".join([*limits, "an anomaly is told from 1.0×"]),
        allowed="what the guardrails allow; a warning only tightens within its bounds",
        why="; ".join(why) or "no single reason stands out",
        clears=f"when nothing is alerted for {quiet_min} min",
        look="cascadeguard report",
    )


def alert_episodes(
    scores: pl.DataFrame, interval: Interval, refractory_min: int, probability_critical: float, ratio_warning: float
) -> Sight:
    """Episodes of alerts that are open at the end of the interval, or ended in it.

    `scores` reach `refractory_min` back before the interval, so that an alert just before it opens no second episode.
    """
    inside = scores.filter(pl.col("ts") > interval.start)
    if inside.is_empty():
        return Sight((), None)
    graded = scores.filter("alert").with_columns(
        severity=_episode_severity(probability_critical, ratio_warning),
        by_model=(pl.col("p_60m") >= pl.col("p_threshold")).fill_null(value=False),
    )
    last = episodes(graded, refractory_min).sort("start").group_by("symbol").last()
    open_from = interval.end - timedelta(minutes=refractory_min)
    spans = last.with_columns(open=pl.col("end") > open_from).filter(
        pl.col("end") > interval.start - (interval.end - open_from)
    )
    own = graded.join(spans, on="symbol").filter(pl.col("ts") >= pl.col("start"))
    ratio = pl.col("anomaly") / pl.col("anomaly_threshold")
    most = own.group_by("symbol").agg(
        pl.col("severity", "p_60m").max(), ratio=ratio.max(), by_model=pl.col("by_model").any()
    )
    newest = own.sort("ts").group_by("symbol").last().drop("severity", "p_60m", "by_model")
    rows = newest.join(most, on="symbol").sort("symbol")
    alerts = tuple(_of_episode(row, refractory_min) for row in rows.to_dicts())
    return Sight(alerts, frozenset(alert.key for alert in alerts if alert.until is None))


# --- data health


def _of_data(row: dict[str, Any]) -> Alert:
    blocked = row["blocked"] or ""
    stuck = "reduce" in blocked.split(", ")
    missing = row["missing"] or ""
    return Alert(
        key=key_of("data", row["venue"], row["symbol"]),
        kind="data",
        venue=row["venue"],
        symbol=row["symbol"],
        rule="inputs",
        severity=WARNING if stuck else INFO,
        since=row["since"],
        until=None,
        state="data fault blocks" if blocked else "inputs missing",
        seen=missing or "every input is there, but not fit for every use",
        limit="every safety input present, fresh and sound",
        allowed=f"not allowed: {blocked}" if blocked else f"{MEANING[row['action']]}",
        why=row["blocked_why"] or "a missing safety input counts as unsafe",
        clears="when the inputs are back for as long as the policy asks",
        look="cascadeguard doctor",
    )


def data_faults(limits: pl.DataFrame, venue: str, interval: Interval) -> Sight:
    """Symbols whose newest limits of the interval name a missing input or a blocked action.

    `since` is the first minute of the interval's last unbroken run of such minutes. Without any limits of the interval
    the venue itself is at fault: what it may do is not known.
    """
    if limits.is_empty():
        return Sight((_no_limits(venue, interval),), None)
    faulty = pl.col("missing").is_not_null() | pl.col("blocked").is_not_null()
    rows = limits.sort("ts").with_columns(faulty=faulty)
    sound = pl.col("ts").filter(~pl.col("faulty")).max().over(SYMBOL)
    run = rows.filter("faulty", (pl.col("ts") > sound).fill_null(value=True))
    ended = rows.group_by(SYMBOL).agg(last=pl.col("ts").max())
    last = run.with_columns(since=pl.col("ts").min().over(SYMBOL)).group_by(SYMBOL).last()
    found = last.join(ended, on=SYMBOL).filter(pl.col("ts") == pl.col("last")).sort(SYMBOL)
    alerts = tuple(map(_of_data, found.to_dicts()))
    return Sight(alerts, frozenset(alert.key for alert in alerts))


def _no_limits(venue: str, interval: Interval) -> Alert:
    return Alert(
        key=key_of("data", venue, WHOLE, "limits"),
        kind="data",
        venue=venue,
        symbol=WHOLE,
        rule="inputs",
        severity=CRITICAL,
        since=interval.start,
        until=None,
        state="no limits",
        seen=f"no limit was computed for {interval}",
        limit="a limit for every symbol and minute",
        allowed="nothing once the limits before have expired",
        why="the venue told nothing in these minutes, or the guard did not run",
        clears="with the first interval that has limits",
        look="cascadeguard status",
    )


# --- runs


def late(venue: str, interval: Interval, now: datetime, lag_min_max: int) -> Sight:
    """That results come later than `lag_min_max` minutes after their interval ended."""
    lag = now - interval.end
    allowed = timedelta(minutes=lag_min_max)
    if lag <= allowed:
        return Sight((), frozenset())
    alert = Alert(
        key=key_of("run", venue, WHOLE, "late"),
        kind="run",
        venue=venue,
        symbol=WHOLE,
        rule="late",
        severity=CRITICAL if lag > 4 * allowed else WARNING,
        since=interval.end + allowed,
        until=None,
        state="late",
        seen=f"the interval up to {words.moment(interval.end)} was done {words.duration(lag.total_seconds())} after it",
        limit=f"{lag_min_max} min",
        allowed="limits older than their time to live may not be relied on",
        why="runs were missed, failed, or take too long",
        clears="when an interval is done in time",
        look="cascadeguard status",
    )
    return Sight((alert,), frozenset({alert.key}))


def failed(venue: str, interval: Interval, error: str, count: int, failures_critical: int) -> Alert:
    """That a run over `interval` failed, the `count`-th in a row."""
    return Alert(
        key=key_of("run", venue, WHOLE, "failed"),
        kind="run",
        venue=venue,
        symbol=WHOLE,
        rule="failed",
        severity=CRITICAL if count >= failures_critical else WARNING,
        since=interval.end,
        until=None,
        state=f"failed, {count} in a row" if count > 1 else "failed",
        seen=error or "no reason given",
        limit="every interval done",
        allowed="limits older than their time to live may not be relied on",
        why=f"the run over {interval} ended with this error",
        clears="with the next run that goes well",
        look="cascadeguard status",
    )


def merged(sights: Iterable[Sight]) -> tuple[Alert, ...]:
    """
    >>> merged([Sight((), None), Sight((), frozenset())])
    ()
    """
    return tuple(alert for sight in sights for alert in sight.alerts)
