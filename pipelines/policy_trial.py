"""A dry run of a policy: both policies judge the same stored history, and what differs is counted. Writes nothing."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import polars as pl

from guardrails.decide import Decided
from guardrails.ladder import ACTIONS
from guardrails.policy import Policy
from guardrails.policy_diff import Difference, policy_diff
from pipelines.config import Config
from pipelines.errors import InputError
from pipelines.guard import decide_venue, state_before
from pipelines.lake import Lake
from pipelines.policies import in_force_over, read_policies
from pipelines.progress import Say, silent
from pipelines.reporting.policy_trial_page import render
from pipelines.times import Interval, show_time

KEY = ["symbol", "ts"]
SIDES = ("before", "after")
MINUTE_COLUMNS = [*KEY, "action", "leverage_cap", "exposure_cap_usd"]
CAPS = ("leverage", "exposure")
SAME, ELSEWHERE = "the same", "the sums are the same, the minutes are not"
COUNTS = ("leverage_tighter_min", "leverage_looser_min", "exposure_tighter_min", "exposure_looser_min")


@dataclass(frozen=True)
class TrialSummary:
    """What `after` would have changed of `before`; counts are of symbol minutes."""

    venue: str
    interval: str
    before: tuple[dict[str, Any], ...]  # version, sha256 of the policies in force, in their order
    after: dict[str, Any]
    minutes: int
    trips: tuple[dict[str, Any], ...]  # per rule and symbol that trips under one of the two
    actions: tuple[dict[str, Any], ...]  # per symbol: minutes under each action, and of tighter and looser caps
    accounts: tuple[dict[str, Any], ...]  # per rule: rows of accounts over it
    settings: tuple[dict[str, Any], ...]  # what the policy changes, in words
    notes: tuple[str, ...]

    @property
    def same(self) -> bool:
        return not any(_differs(row) for rows in (self.trips, self.actions, self.accounts) for row in rows)


@dataclass(frozen=True)
class Run:
    """What one side decided: minutes (`MINUTE_COLUMNS`), trips (`rule, symbol, ts`), accounts over caps by rule."""

    minutes: pl.DataFrame
    trips: pl.DataFrame
    accounts: pl.DataFrame


# --- gather ---


def _by_day(parts: Sequence[tuple[Interval, Policy]]) -> Iterator[tuple[Interval, Policy]]:
    for part, policy in parts:
        for day in part.days():
            yield day, policy


def _kept(decided: Decided) -> Run:
    opened = (pl.col("state_after") == "open") & pl.col("state_before").ne_missing("open")
    return Run(
        decided.limits.select(MINUTE_COLUMNS),
        decided.decisions.filter(opened).select("rule", pl.col("entity").alias("symbol"), "ts"),
        decided.account_decisions.select("rule"),
    )


def _run(lake: Lake, venue: str, parts: Sequence[tuple[Interval, Policy]], say: Say, side: str) -> Run:
    """Decide day by day, so that memory holds one day of facts; the state carries over, which changes nothing."""
    state, kept = state_before(lake, venue, parts[0][0].start), list[Run]()
    for day, policy in _by_day(parts):
        say(f"{venue} {show_time(day.start)[:10]} {side}")
        decided = decide_venue(lake, venue, day, policy, state)
        state = decided.state
        kept.append(_kept(decided))
    return Run(*(pl.concat(table) for table in zip(*((r.minutes, r.trips, r.accounts) for r in kept), strict=True)))


# --- compare ---


def _beside(sides: Sequence[pl.DataFrame], on: Sequence[str]) -> pl.DataFrame:
    """One row per key of either side."""
    before, after = sides
    return before.join(after, on=on, how="full", coalesce=True)


def _trip_rows(before: Run, after: Run) -> list[dict[str, Any]]:
    """Per rule and symbol: trips on each side, the first one, and by how many minutes it comes later."""
    sides = [
        run.trips.group_by("rule", "symbol").agg(
            pl.len().cast(pl.Int64).alias(f"trips_{side}"), pl.col("ts").min().alias(f"first_{side}")
        )
        for side, run in zip(SIDES, (before, after), strict=True)
    ]
    both = _beside(sides, ["rule", "symbol"]).with_columns(
        pl.col("trips_before", "trips_after").fill_null(0),
        first_later_min=(pl.col("first_after") - pl.col("first_before")).dt.total_minutes(),
    )
    ordered = both.sort("rule", "symbol").select(
        "rule", "symbol", "trips_before", "trips_after", "first_before", "first_after", "first_later_min"
    )
    return [_plain(row) for row in ordered.to_dicts()]


def _tighter(before: str, after: str) -> pl.Expr:
    return (pl.col(after) < pl.col(before)).sum()


def _action_rows(before: Run, after: Run) -> list[dict[str, Any]]:
    """Per symbol: minutes under each action on each side, and minutes in which a cap is tighter or looser."""
    both = before.minutes.join(after.minutes, on=KEY, suffix="_after")
    counted = [
        (pl.col(column) == action).sum().alias(f"{action}_{side}")
        for side, column in zip(SIDES, ("action", "action_after"), strict=True)
        for action in ACTIONS
    ]
    pairs = (("leverage_cap", "leverage_cap_after"), ("exposure_cap_usd", "exposure_cap_usd_after"))
    compared = [expr for old, new in pairs for expr in (_tighter(old, new), _tighter(new, old))]
    named = [expr.alias(name) for expr, name in zip(compared, COUNTS, strict=True)]
    return both.group_by("symbol").agg(pl.len().alias("minutes"), *counted, *named).sort("symbol").to_dicts()


def _account_rows(before: Run, after: Run) -> list[dict[str, Any]]:
    sides = [
        run.accounts.group_by("rule").agg(pl.len().cast(pl.Int64).alias(f"rows_{side}"))
        for side, run in zip(SIDES, (before, after), strict=True)
    ]
    return (
        _beside(sides, ["rule"]).with_columns(pl.col("rows_before", "rows_after").fill_null(0)).sort("rule").to_dicts()
    )


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    return {name: show_time(value) if isinstance(value, datetime) else value for name, value in row.items()}


def _differs(row: Mapping[str, Any]) -> bool:
    sides = [name.removesuffix("_before") for name in row if name.endswith("_before")]
    return any(row[f"{name}_before"] != row[f"{name}_after"] for name in sides) or any(row.get(name) for name in COUNTS)


def _identity(policy: Policy) -> dict[str, Any]:
    return {"version": policy.version, "effective_from": show_time(policy.effective_from), "sha256": policy.sha256}


def _settings(found: Difference) -> tuple[dict[str, Any], ...]:
    return tuple({"setting": one.setting, "direction": one.direction, "words": one.words} for one in found.changes)


def _notes(parts: Sequence[tuple[Interval, Policy]], new: Policy, interval: Interval) -> Iterator[str]:
    if len(parts) > 1:
        yield f"{len(parts)} policies are in force over this time; the new one is held against each in its own minutes"
    if new.effective_from > interval.start:
        yield f"the new policy is effective from {show_time(new.effective_from)}; the trial lets it judge every minute"


def try_policy(
    lake: Lake, venue: str, interval: Interval, config: Config, new: Policy, *, say: Say = silent
) -> TrialSummary:
    """Decide every minute of `interval` under the policies in force and under `new`, and count what differs.

    Both sides start from the state that the lake holds at the start, else with every breaker closed. No score enters.
    Raises InputError where the lake holds no bars of the interval, or no policy was in force.
    """
    if lake.scan("bars", venue, interval.start, interval.end).head(1).collect().is_empty():
        raise InputError(
            "there are no bars",
            where=f"{venue} {interval}",
            mend="run `cascadeguard bars` first, or choose a venue with --venue",
        )
    parts = in_force_over(read_policies(config), interval)
    before = _run(lake, venue, parts, say, "as decided")
    after = _run(lake, venue, [(interval, new)], say, "under the new policy")
    return TrialSummary(
        venue=venue,
        interval=str(interval),
        before=tuple(_identity(policy) for _, policy in parts),
        after=_identity(new),
        minutes=before.minutes.height,
        trips=tuple(_trip_rows(before, after)),
        actions=tuple(_action_rows(before, after)),
        accounts=tuple(_account_rows(before, after)),
        settings=_settings(policy_diff(parts[-1][1], new)),
        notes=tuple(_notes(parts, new, interval)),
    )


# --- tell ---


def totals(summary: TrialSummary) -> dict[str, Any]:
    """The sums over symbols and rules that the first lines tell."""
    sides = {f"{action}_{side}": _sum(summary.actions, f"{action}_{side}") for action in ACTIONS for side in SIDES}
    trips = {f"trips_{side}": _sum(summary.trips, f"trips_{side}") for side in SIDES}
    return sides | trips | {name: _sum(summary.actions, name) for name in COUNTS}


def _sum(rows: Sequence[Mapping[str, Any]], name: str) -> int:
    return sum(row[name] for row in rows)


def _arrow(before: int, after: int) -> str:
    """
    >>> _arrow(1200, 1200), _arrow(0, 3)
    ('1,200', '0 -> 3')
    """
    return f"{before:,}" if before == after else f"{before:,} -> {after:,}"


def first_words(row: Mapping[str, Any]) -> str:
    """When the rule first trips under the new policy, against before.

    >>> first_words({"first_before": "2025-01-01T00:10Z", "first_after": "2025-01-01T00:04Z", "first_later_min": -6})
    '6 min earlier, at 2025-01-01T00:04Z'
    """
    if row["first_after"] is None:
        return f"none any more, was at {row['first_before']}"
    if row["first_before"] is None:
        return f"new, at {row['first_after']}"
    later = row["first_later_min"]
    if later == 0:
        return f"the same, at {row['first_after']}"
    return f"{abs(later):,} min {'later' if later > 0 else 'earlier'}, at {row['first_after']}"


def headline(summary: TrialSummary) -> str:
    """What would have changed, in one sentence; what stays the same is left out."""
    if summary.same:
        return "nothing would have changed"
    told = totals(summary)
    counted = [("trips", "trips", "")] + [(action, action, " min") for action in reversed(ACTIONS)]
    parts = [
        f"{said} {_arrow(told[f'{name}_before'], told[f'{name}_after'])}{unit}"
        for said, name, unit in counted
        if told[f"{name}_before"] != told[f"{name}_after"]
    ]
    moved = [(cap, moved_words(told, cap)) for cap in CAPS]
    return "; ".join([*parts, *(f"{cap} cap {words} min" for cap, words in moved if words != SAME)] or [ELSEWHERE])


def moved_words(row: Mapping[str, Any], cap: str) -> str:
    """
    >>> moved_words({"leverage_tighter_min": 1200, "leverage_looser_min": 0}, "leverage")
    'tighter in 1,200'
    """
    ways = [(way, row[f"{cap}_{way}_min"]) for way in ("tighter", "looser")]
    return ", ".join(f"{way} in {minutes:,}" for way, minutes in ways if minutes) or SAME


def _named(identity: Mapping[str, Any]) -> str:
    return f"policy {identity['version']} ({identity['sha256'][:12]})"


def against(summary: TrialSummary) -> str:
    """Which policy was held against which."""
    return f"{_named(summary.after)} against {', then '.join(map(_named, summary.before))}"


def _aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The rows under their header, a blank line before; nothing without rows."""
    if not rows:
        return []
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    padded = [[f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)] for row in (header, *rows)]
    return ["", *("  " + "  ".join(row).rstrip() for row in padded)]


def _trip_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    told = [
        (row["rule"], row["symbol"], _arrow(row["trips_before"], row["trips_after"]), first_words(row)) for row in rows
    ]
    return _aligned(("rule", "symbol", "trips", "first trip"), told)


def _action_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A column for every action that occurs."""
    used = [action for action in ACTIONS if any(row[f"{action}_{side}"] for row in rows for side in SIDES)]
    told = [
        (
            row["symbol"],
            *(_arrow(row[f"{action}_before"], row[f"{action}_after"]) for action in used),
            *(moved_words(row, cap) for cap in CAPS),
        )
        for row in rows
    ]
    return _aligned(("minutes of", *used, *(f"{cap} cap" for cap in CAPS)), told)


def trial_sentence(summary: TrialSummary) -> str:
    """The trial as text: the sum of it, what the policy changes, then a line for every rule and symbol that differs."""
    trips, actions, over = (
        [row for row in rows if _differs(row)] for rows in (summary.trips, summary.actions, summary.accounts)
    )
    same = len(summary.actions) - len(actions)
    return "\n".join(
        [
            f"{summary.venue} {summary.interval}: {against(summary)}, {summary.minutes:,} symbol minutes",
            headline(summary),
            *(f"  {row['words']}" for row in summary.settings),
            *_trip_table(trips),
            *_action_table(actions),
            *([f"  {same} of {len(summary.actions)} symbols are the same in every minute"] if same else []),
            *(
                f"  rows of accounts over {row['rule']}: {_arrow(row['rows_before'], row['rows_after'])}"
                for row in over
            ),
            *(f"  note: {note}" for note in summary.notes),
        ]
    )


def trial_page(summaries: Sequence[TrialSummary]) -> str:
    """The trial as one self-contained page without scripts."""
    return render(
        [
            asdict(one)
            | {
                "headline": headline(one), "against": against(one), "same": one.same,
                "trips": [row | {"says": first_words(row), "differs": _differs(row)} for row in one.trips],
            }
            for one in summaries
        ]
    )  # fmt: skip
