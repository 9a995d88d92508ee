"""Step `guard`: bars and policy -> limits, decisions, audit log; the model's wish enters last and only tightens."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from guardrails.decide import RULES, Decided, decide, empty_state
from guardrails.facts import KEY, NUMBERS
from guardrails.policy import LOOKBACK_MIN, Policy
from guardrails.proposal import bounded, judged
from pipelines.amendments import AGAIN, amend, amendments
from pipelines.audit import Appended, Run, append_run, content_of, keep_policy
from pipelines.bars import build_bars
from pipelines.config import Config
from pipelines.errors import InputError
from pipelines.lake import SCHEMAS, Lake
from pipelines.policies import in_force_over, policy_files
from pipelines.times import Interval

TIER_COLUMNS = ("leverage_max", "maintenance_rate", "deduction_usd")
PRICE_AGE_MAX = timedelta(hours=1)  # of an asset held as collateral
SOURCES = ("bars", "positions", "collateral", "marks", "instruments", "resets", "guard_state")  # what `observed` reads


@dataclass(frozen=True)
class GuardSummary:
    venue: str
    interval: str
    policy_version: int
    policy_sha256: str
    rows: int
    decisions: int
    by_rule: dict[str, int]
    account_decisions: int
    new_audit_entries: int
    tripped: list[dict[str, Any]]  # first observed breach per symbol and rule
    notes: list[str] = field(default_factory=list)
    earlier_policies: tuple[int, ...] = ()  # versions that judged minutes before this one took over


def _tiers(lake: Lake, venue: str) -> pl.DataFrame:
    """One row per tier of the newest instruments: `symbol, leverage_max, maintenance_rate, deduction_usd`."""
    newest = lake.scan("instruments", venue).sort("effective_from").group_by("symbol", maintain_order=True).last()
    rows = newest.select("symbol", "tiers").explode("tiers").drop_nulls().collect()
    return rows.select("symbol", *(pl.col("tiers").struct.field(name) for name in TIER_COLUMNS)).sort(pl.all())


def add_resets(lake: Lake, path: Path) -> int:
    """Append a person's resets from a csv with `venue, symbol, ts, rule, by`; returns how many rows the file holds.

    `symbol` may be `*`. A reset counts in its own minute and only once the rule's cool-down is over. The same file
    counts once. Raises InputError for a missing file, column, or an unreadable row, and then appends nothing.
    """
    schema = SCHEMAS["resets"]
    try:
        raw = pl.read_csv(path, infer_schema=False)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise InputError(f"the resets cannot be read ({error})", where=path) from None
    lacking = [name for name in schema.names() if name not in raw.columns]
    if lacking:
        raise InputError(f"the resets lack {', '.join(lacking)}", where=path, mend=f"columns: {', '.join(schema)}")
    stamps = pl.col("ts").str.to_datetime(time_unit="us", time_zone="UTC", strict=False)
    rows = raw.select(stamps if name == "ts" else pl.col(name).str.strip_chars() for name in schema.names())
    bad = rows.with_row_index("line", offset=2).filter(
        pl.any_horizontal(pl.all().is_null()) | ~pl.col("rule").is_in(list(RULES))
    )
    if bad.height:
        raise InputError(
            f"{bad.height} resets are not complete, the first in line {bad['line'][0]}",
            where=path,
            mend=f"every row needs a time with zone, a name in `by`, and a rule of: {', '.join(RULES)}",
        )
    with lake.writer():
        lake.append("resets", rows, hashlib.sha256(path.read_bytes()).hexdigest())
    return rows.height


def wishes(scores: pl.DataFrame, limits: pl.DataFrame, ttl_min: int) -> pl.DataFrame:
    """What the model asks for: while it alerts, the hard caps divided by anomaly / threshold.

    A wish becomes known with its score and lives `ttl_min`. The rules never see it; `bounded` clips it.
    """
    excess = (pl.col("anomaly") / pl.col("anomaly_threshold")).fill_null(1.0).clip(lower_bound=1.0)
    caps = limits.select(*KEY, "leverage_cap", "exposure_cap_usd")
    return (
        scores.filter("alert")
        .join(caps, on=["venue", "symbol", "ts"])
        .select(
            "venue",
            "symbol",
            "ts",
            leverage_cap_wish=pl.col("leverage_cap") / excess,
            exposure_cap_usd_wish=pl.col("exposure_cap_usd") / excess,
            proposed_at="available_at",
            valid_until=pl.col("available_at") + pl.duration(minutes=ttl_min),
        )
    )


def priced_collateral(collateral: pl.DataFrame, marks: pl.LazyFrame, instruments: pl.LazyFrame) -> pl.DataFrame:
    """`collateral` with `price_usd`: the newest price of the asset's market that was known when the row was.

    The market is the first by name whose base is the asset. Without one, the quote of the venue's linear instruments
    is 1: every price of the venue is told in it. Null for any other, and where the market's price is older than
    PRICE_AGE_MAX or not there: the rules treat that as unsafe.
    """
    if collateral.is_empty():
        return collateral.with_columns(price_usd=pl.lit(None, pl.Float64))
    markets = instruments.group_by(asset="base").agg(pl.col("symbol").min())
    units = instruments.filter(pl.col("settlement") == "linear").select(asset="quote", unit=1.0).unique()
    prices = marks.select("symbol", "known_at", price_usd=pl.coalesce("mark", "index", "last")).drop_nulls()
    assets = markets.join(units, on="asset", how="full", coalesce=True)
    wanted = collateral.lazy().join(assets, on="asset", how="left", maintain_order="left").sort("known_at")
    joined = wanted.join_asof(
        prices.sort("known_at"), on="known_at", by="symbol", tolerance=PRICE_AGE_MAX, check_sortedness=False
    )
    at_unit = pl.when(pl.col("symbol").is_null()).then("unit")
    return joined.with_columns(pl.coalesce("price_usd", at_unit)).drop("symbol", "unit").collect()


def state_before(lake: Lake, venue: str, start: datetime) -> pl.DataFrame:
    """The newest state that a run up to `start` left, at most `LOOKBACK_MIN` old; empty where none did.

    A run ends at its last minute with bars, so a venue that fell silent has left it some minutes before `start`.
    """
    left = lake.scan("guard_state", venue, start - timedelta(minutes=LOOKBACK_MIN), start)
    newest = left.filter(pl.col("ts") == pl.col("ts").max()).collect()
    return newest if newest.height else empty_state()


def observed(lake: Lake, venue: str, interval: Interval, policy: Policy) -> dict[str, pl.DataFrame]:
    """What the rules read, by the name that `decide` gives it: facts, a person's resets, the state of the run before.

    Bars hold the columns that rules know, and no other. Collateral reaches back as far as the fund's window asks.
    """
    since = interval.start - timedelta(minutes=LOOKBACK_MIN)
    deposited = since - timedelta(minutes=policy.fund.window_min + policy.inputs.collateral_age_min_max)
    return {
        "bars": lake.scan("bars", venue, since, interval.end).select(*KEY, *NUMBERS).collect(),
        "positions": lake.scan("positions", venue, since, interval.end).collect(),
        "collateral": priced_collateral(
            lake.scan("collateral", venue, deposited, interval.end).collect(),
            lake.scan("marks", venue, deposited - PRICE_AGE_MAX, interval.end),
            lake.scan("instruments", venue),
        ),
        "tiers": _tiers(lake, venue),
        "resets": lake.scan("resets", venue, interval.start, interval.end).collect(),
        "state": state_before(lake, venue, interval.start),
    }


def judge(seen: Mapping[str, pl.DataFrame], policy: Policy, since: datetime) -> Decided:
    """Hard limits and decisions: observed facts and policy only, continued from the state the run before left."""
    return decide(policy=policy, since=since, **seen)


def decide_venue(lake: Lake, venue: str, interval: Interval, policy: Policy, state: pl.DataFrame) -> Decided:
    """Hard limits and decisions of one policy: observed facts only, continued from `state`. Writes nothing."""
    return judge(observed(lake, venue, interval, policy) | {"state": state}, policy, interval.start)


def outputs(decided: Decided) -> dict[str, pl.DataFrame]:
    """What came of a run beside its decisions, which stand in the log one by one."""
    return {
        "limits": decided.limits,
        "account_decisions": decided.account_decisions,
        "exposure_decisions": decided.exposure_decisions,
        "state": decided.state,
    }


def guard_venue(
    lake: Lake, venue: str, interval: Interval, config: Config, *, why: str = AGAIN, at: datetime | None = None
) -> GuardSummary:
    """Judge every minute of `interval`, append what is new to the audit log, then write limits and decisions.

    Each policy judges its own minutes, as a run of its own that goes on from the state of the one before. Needs no
    score and no registry: without them the hard limits are the same and nothing is tightened further. The log comes
    first: no limit is in force that it does not account for. Decisions of these minutes that no longer follow are
    amended: `why`, and `at` which moment.
    """
    files = policy_files(config)
    texts = {file.policy.sha256: file.text for file in files}
    parts = in_force_over([file.policy for file in files], interval)
    return _together(
        interval,
        [_guard_under(lake, venue, part, one, texts[one.sha256], amending=(why, at)) for part, one in parts],
    )


def _guard_under(
    lake: Lake, venue: str, interval: Interval, policy: Policy, text: str, *, amending: tuple[str, datetime | None]
) -> GuardSummary:
    """`guard_venue` over minutes that one policy judges."""
    if lake.scan("bars", venue, interval.start, interval.end).head(1).collect().is_empty():
        build_bars(lake, venue, Interval(interval.start - timedelta(minutes=LOOKBACK_MIN), interval.end))

    versions = {table: lake.version(table) for table in SOURCES}
    seen = observed(lake, venue, interval, policy)
    decided = judge(seen, policy, interval.start)
    limits, notes = _with_wishes(lake, venue, interval, decided.limits, policy)
    run = Run(venue, interval, policy.version, policy.sha256, content_of(seen), content_of(outputs(decided)), versions)

    with lake.writer():
        keep_policy(lake, policy.sha256, text)
        appended = append_run(lake, decided.decisions, run)
        before = lake.scan("decisions", venue, interval.start, interval.end).collect()
        if lake.reaches("limits", venue, interval.start, interval.end):
            amend(lake, amendments(before, decided.decisions, *amending), json.dumps(run.entry(), sort_keys=True))
        for table, frame in (
            ("limits", limits),
            ("decisions", decided.decisions),
            ("account_decisions", decided.account_decisions),
            ("exposure_decisions", decided.exposure_decisions),
            ("guard_state", decided.state.filter(pl.col("ts") > interval.start)),  # not the state it began with
        ):
            lake.replace(table, frame, venue, interval.start, interval.end)
    notes += _cut_note(appended) + _absent_note(seen, policy)
    return _summary(venue, interval, policy, decided, appended.decisions, notes=notes)


def _together(interval: Interval, parts: Sequence[GuardSummary]) -> GuardSummary:
    """One summary of consecutive parts; the policy is the last one's."""
    first = {(trip["entity"], trip["rule"]): trip for part in reversed(parts) for trip in reversed(part.tripped)}
    by_rule = sum((Counter(part.by_rule) for part in parts), Counter[str]())
    return replace(
        parts[-1],
        interval=str(interval),
        rows=sum(part.rows for part in parts),
        decisions=sum(part.decisions for part in parts),
        by_rule=dict(sorted(by_rule.items())),
        account_decisions=sum(part.account_decisions for part in parts),
        new_audit_entries=sum(part.new_audit_entries for part in parts),
        tripped=sorted(first.values(), key=lambda trip: (trip["ts"], trip["entity"])),
        notes=[note for part in parts for note in part.notes],
        earlier_policies=tuple(part.policy_version for part in parts[:-1]),
    )


def _with_wishes(
    lake: Lake, venue: str, interval: Interval, limits: pl.DataFrame, policy: Policy
) -> tuple[pl.DataFrame, list[str]]:
    """`limits` with what the model's wishes make of them; wishes of the run before live on until they expire.

    Whatever happens while the scores are read costs the wishes and a note, never the hard limits.
    """
    span = Interval(interval.start - timedelta(minutes=policy.proposal.ttl_min), interval.end)
    try:
        earlier = lake.scan("limits", venue, span.start, interval.start).collect().select(limits.columns)
        known = pl.concat([earlier, limits])
        bars = lake.scan("bars", venue, span.start, span.end).select(KEY).collect()
        asked = wishes(lake.scan("scores", venue, span.start, span.end).collect(), known, policy.proposal.ttl_min)
        listed = known.join(bars, on=list(KEY), how="semi")
        refused = judged(asked, listed, policy).filter(pl.col("refused").is_not_null())
        return bounded(limits, asked, policy, listed=listed), _refusals(refused)
    except (Exception, pl.exceptions.PanicException) as error:
        why = " ".join(f"{type(error).__name__}: {error}".split())
        nothing = bounded(limits, pl.DataFrame(), policy)
        return nothing, [f"no wish of a model counts, the scores cannot be read ({why[:160]})"]


def _refusals(refused: pl.DataFrame) -> list[str]:
    """One line per reason for which wishes were refused."""
    by_reason = refused.sort(KEY).group_by("refused", maintain_order=True).agg(pl.len(), pl.first("symbol", "ts"))
    return [
        f"{count:,} wishes refused: {why}; the first for {symbol}, {ts:%Y-%m-%d %H:%MZ}"
        for why, count, symbol, ts in by_reason.iter_rows()
    ]


def _summary(
    venue: str, interval: Interval, policy: Policy, decided: Decided, new: int, *, notes: list[str]
) -> GuardSummary:
    decisions = decided.decisions
    opened = decisions.filter(pl.col("state_after") == "open", pl.col("state_before").ne_missing("open"))
    first = opened.sort("ts").group_by("entity", "rule", maintain_order=True).first().sort("ts", "entity")
    return GuardSummary(
        venue=venue,
        interval=str(interval),
        policy_version=policy.version,
        policy_sha256=policy.sha256,
        rows=decided.limits.height,
        decisions=decisions.height,
        by_rule=dict(decisions.group_by("rule").len().sort("rule").iter_rows()),
        account_decisions=decided.account_decisions.height,
        new_audit_entries=new,
        tripped=first.select(
            "decision_id", "entity", "rule", pl.col("ts").dt.strftime("%Y-%m-%dT%H:%MZ"), "action", "reason"
        ).to_dicts(),
        notes=notes,
    )


def _absent_note(seen: Mapping[str, pl.DataFrame], policy: Policy) -> list[str]:
    """Which tables are not there at all, although the policy does not say that the venue does not publish them."""
    bars, deposits = seen["bars"], seen["collateral"]
    columns = {
        "liquidations": "liq_long_usd",
        "open_interest": "oi_usd",
        "depth": "depth_bid_100bps_usd",
        "index": "index",
    }
    absent = {
        "positions": seen["positions"].is_empty(),
        "collateral": deposits.is_empty(),
        "fund": not (deposits["account"] == policy.fund.account).any(),
        **{name: bars[column].null_count() == bars.height for name, column in columns.items()},
    }
    names = [name for name, gone in absent.items() if gone and name not in policy.inputs.not_published]
    if not names:
        return []
    told = f"there is nothing of {', '.join(names)}: the breakers that need them stay on the safe side"
    return [f"{told}; a venue that does not publish them says so in `inputs.not_published` of its policy"]


def _cut_note(appended: Appended) -> list[str]:
    if not appended.cut:
        return []
    lines = f"{appended.cut:,} line" + "s" * (appended.cut != 1)
    return [f"{lines} that a killed run had left at the end of the audit log cut off"]


def guard_sentence(summary: GuardSummary) -> str:
    since = "".join(f"policy {version}, then " for version in summary.earlier_policies)
    lines = [
        f"{summary.venue}: {summary.decisions:,} decisions over {summary.rows:,} symbol minutes, "
        f"{since}policy {summary.policy_version} ({summary.policy_sha256[:12]}), "
        f"{summary.new_audit_entries:,} new audit entries"
    ]
    lines += [f"  {trip['ts']} {trip['entity']:<16} {trip['rule']:<22} {trip['reason']}" for trip in summary.tripped]
    lines += [f"  note: {note}" for note in summary.notes]
    return "\n".join(lines)
