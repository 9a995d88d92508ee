"""Step `guard`: bars and policy -> limits, decisions, audit log; the model's wish enters last and only tightens."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import timedelta
from importlib import resources
from pathlib import Path
from typing import Any

import polars as pl

from guardrails.audit import GENESIS, chain, verify
from guardrails.decide import RULES, Decided, decide, empty_state
from guardrails.policy import LOOKBACK_MIN, Policy, PolicyError, parse_policy
from guardrails.proposal import bounded
from pipelines.bars import build_bars
from pipelines.config import Config
from pipelines.errors import InputError
from pipelines.lake import SCHEMAS, Lake
from pipelines.times import Interval

PRICE_AGE_MAX = timedelta(hours=1)  # of an asset held as collateral


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


def read_policy(config: Config) -> Policy:
    """The policy of the settings, else the one that comes with the package; InputError lists every violation."""
    shipped = resources.files("guardrails").joinpath("policy.toml")
    where = config.policy if config.policy is not None else "guardrails/policy.toml"
    try:
        text = config.policy.read_text(encoding="utf-8") if config.policy else shipped.read_text(encoding="utf-8")
        return parse_policy(text)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the policy cannot be read ({error})", where=where) from None
    except PolicyError as error:
        raise InputError(f"the policy is not valid: {' | '.join(str(error).splitlines())}", where=where) from None


def policy_summary(policy: Policy) -> dict[str, Any]:
    return {"version": policy.version, "sha256": policy.sha256}


def _tiers(lake: Lake, venue: str) -> pl.DataFrame | None:
    """`symbol, leverage_max` of the newest instruments; None where the venue's tiers are not known."""
    newest = lake.scan("instruments", venue).sort("effective_from").group_by("symbol").last()
    leverage = pl.col("tiers").list.eval(pl.element().struct.field("leverage_max"))
    rows = newest.select("symbol", leverage_max=leverage).explode("leverage_max").drop_nulls().collect()
    return None if rows.is_empty() else rows


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
    """What the model asks for: while it alerts, the hard leverage cap divided by anomaly / threshold.

    A wish becomes known with its score and lives `ttl_min`. The rules never see it; `bounded` clips it.
    """
    excess = (pl.col("anomaly") / pl.col("anomaly_threshold")).fill_null(1.0).clip(lower_bound=1.0)
    caps = limits.select("venue", "symbol", "ts", "leverage_cap")
    return (
        scores.filter("alert")
        .join(caps, on=["venue", "symbol", "ts"])
        .select(
            "venue",
            "symbol",
            "ts",
            leverage_cap_wish=pl.col("leverage_cap") / excess,
            proposed_at="available_at",
            valid_until=pl.col("available_at") + pl.duration(minutes=ttl_min),
        )
    )


def priced_collateral(collateral: pl.DataFrame, marks: pl.LazyFrame, instruments: pl.LazyFrame) -> pl.DataFrame:
    """`collateral` with `price_usd`: the newest price of the asset's market that was known when the row was.

    The market is the first by name whose base is the asset. Null without one, or where its price is older than
    PRICE_AGE_MAX: the rules treat that as unsafe.
    """
    if collateral.is_empty():
        return collateral.with_columns(price_usd=pl.lit(None, pl.Float64))
    markets = instruments.group_by(pl.col("base").alias("asset")).agg(pl.col("symbol").min())
    prices = marks.select("symbol", "known_at", price_usd=pl.coalesce("mark", "index", "last")).drop_nulls()
    wanted = collateral.lazy().join(markets, on="asset", how="left", maintain_order="left").sort("known_at")
    joined = wanted.join_asof(
        prices.sort("known_at"), on="known_at", by="symbol", tolerance=PRICE_AGE_MAX, check_sortedness=False
    )
    return joined.drop("symbol").collect()


def _decide(lake: Lake, venue: str, interval: Interval, policy: Policy) -> Decided:
    """Hard limits and decisions: observed facts and policy only, continued from the state the run before left."""
    lookback = timedelta(minutes=LOOKBACK_MIN)
    bars = lake.scan("bars", venue, interval.start - lookback, interval.end).collect()
    since = interval.start - lookback
    collateral = priced_collateral(
        lake.scan("collateral", venue, since, interval.end).collect(),
        lake.scan("marks", venue, since - PRICE_AGE_MAX, interval.end),
        lake.scan("instruments", venue),
    )
    before = lake.scan("guard_state", venue, end=interval.start).filter(pl.col("ts") == interval.start).collect()
    return decide(
        bars,
        policy,
        positions=lake.scan("positions", venue, interval.start - lookback, interval.end).collect(),
        collateral=collateral,
        tiers=_tiers(lake, venue),
        resets=lake.scan("resets", venue, interval.start, interval.end).collect(),
        state=before if before.height else empty_state(),
        since=interval.start,
    )


def guard_venue(lake: Lake, venue: str, interval: Interval, config: Config) -> GuardSummary:
    """Judge every minute of `interval`, write limits and decisions, append what is new to the audit log.

    Needs no score and no registry: without them the hard limits are the same and nothing is tightened further.
    """
    policy = read_policy(config)
    if lake.scan("bars", venue, interval.start, interval.end).head(1).collect().is_empty():
        build_bars(lake, venue, Interval(interval.start - timedelta(minutes=LOOKBACK_MIN), interval.end))

    decided = _decide(lake, venue, interval, policy)
    limits = _with_wishes(lake, venue, interval, decided.limits, policy)

    with lake.writer():
        for table, frame in (
            ("limits", limits),
            ("decisions", decided.decisions),
            ("account_decisions", decided.account_decisions),
            ("guard_state", decided.state),
        ):
            lake.replace(table, frame, venue, interval.start, interval.end)
        new = append_audit(lake, decided.decisions)
    return _summary(venue, interval, policy, decided, new)


def _with_wishes(lake: Lake, venue: str, interval: Interval, limits: pl.DataFrame, policy: Policy) -> pl.DataFrame:
    """`limits` with what the model's wishes make of them; wishes of the run before live on until they expire.

    A wish that has expired leaves no trace: how long ago it was depends on where a run begins.
    """
    alive = interval.start - timedelta(minutes=policy.proposal.ttl_min)
    scores = lake.scan("scores", venue, alive, interval.end).collect()
    earlier = lake.scan("limits", venue, alive, interval.start).collect().select(limits.columns)
    found = bounded(limits, wishes(scores, pl.concat([earlier, limits]), policy.proposal.ttl_min), policy)
    return found.with_columns(pl.col("proposal").replace("expired", "none"))


def _summary(venue: str, interval: Interval, policy: Policy, decided: Decided, new: int) -> GuardSummary:
    decisions = decided.decisions
    opened = decisions.filter(pl.col("state_after") == "open", pl.col("state_before") != "open")
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
    )


def guard_sentence(summary: GuardSummary) -> str:
    lines = [
        f"{summary.venue}: {summary.decisions:,} decisions over {summary.rows:,} symbol minutes, "
        f"policy {summary.policy_version} ({summary.policy_sha256[:12]}), "
        f"{summary.new_audit_entries:,} new audit entries"
    ]
    lines += [f"  {trip['ts']} {trip['entity']:<16} {trip['rule']:<22} {trip['reason']}" for trip in summary.tripped]
    return "\n".join(lines)


def audit_path(lake: Lake) -> Path:
    return lake.root / "audit" / "decisions.jsonl"


def _audit_lines(lake: Lake) -> list[str]:
    path = audit_path(lake)
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def append_audit(lake: Lake, decisions: pl.DataFrame) -> int:
    """Append the decisions that the log does not hold yet, all or none; returns how many.

    Raises InputError when the log is broken: nothing is ever chained to a log that cannot be trusted.
    """
    lines = _audit_lines(lake)
    found = verify(lines)
    if not found.ok:
        raise _broken(lake, found.line, found.reason)
    held = {_decision_id(line) for line in lines}
    fresh = decisions.filter(~pl.col("decision_id").is_in(list(held))).to_dicts()
    if not fresh:
        return 0
    last = found.last_hash if lines else GENESIS
    lines += chain(fresh, last, first_seq=len(lines))
    path = audit_path(lake)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".tmp")
    beside.write_text("\n".join(lines) + "\n", encoding="utf-8")
    beside.replace(path)
    return len(fresh)


def _decision_id(line: str) -> str:
    return str(json.loads(line)["entry"]["decision_id"])


def _broken(lake: Lake, line: int | None, reason: str | None) -> InputError:
    return InputError(
        f"the audit log is broken at line {line} ({reason})",
        where=audit_path(lake),
        mend="restore it from a copy; decisions are not appended to a log that cannot be trusted",
    )


def verify_audit(lake: Lake) -> dict[str, Any]:
    """Check the whole chain; InputError names the first broken entry."""
    path = audit_path(lake)
    if not path.exists():
        raise InputError("there is no audit log", where=path, mend="run `cascadeguard guard` first")
    found = verify(_audit_lines(lake))
    if not found.ok:
        raise _broken(lake, found.line, found.reason)
    return asdict(found)


def explain_decision(lake: Lake, decision_id: str) -> dict[str, Any]:
    """One decision as the lake holds it."""
    rows = lake.scan("decisions").filter(pl.col("decision_id") == decision_id).collect()
    if rows.is_empty():
        raise InputError("no such decision", where=decision_id, mend="ids are in the report and in `guard --json`")
    return rows.row(0, named=True)


def explain_sentence(found: Mapping[str, Any]) -> str:
    return (
        f"{found['ts']:%Y-%m-%d %H:%MZ} {found['venue']} {found['entity']}: {found['rule']} "
        f"{found['state_before'] or 'new'} -> {found['state_after']}, action {found['action']}\n"
        f"why: {found['reason']}\nclears: {found['clears_when']}\nmay be reset by: {found['reset_authority']}\n"
        f"data health: {found['data_health']}; policy {found['policy_version']} ({found['policy_sha256'][:12]})"
    )
