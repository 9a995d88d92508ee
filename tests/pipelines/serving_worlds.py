"""Lakes for the dashboard: many symbols by columns, and the little world of the report beside them.

Symbol n of `wide_lake` is called `S0000-PERP` and so on. In the last minute every tenth symbol alerts (its anomaly is 8
against a threshold of 2), every seventh has an open price band, every fifth misses its depth; the rest is calm.
"""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from pipelines.lake import SCHEMAS, Lake

VENUE = "wide"
START = datetime(2025, 10, 10, tzinfo=UTC)
RULES = ("price_band", "depth_collapse", "stale_feed", "leverage_cap", "exposure_cap")
POLICY = {"policy_version": pl.lit(3), "policy_sha256": pl.lit("ab" * 32)}


def at(minute: float) -> datetime:
    return START + timedelta(minutes=minute)


def grid(symbols: int, first: int, last: int) -> pl.DataFrame:
    """`venue, symbol, ts, n` (the symbol's number) of the minutes `first` to `last`."""
    number = pl.col("n").cast(pl.String).str.zfill(4)
    names = pl.DataFrame({"n": range(symbols)}).with_columns(symbol=pl.format("S{}-PERP", number))
    ends = [at(minute) for minute in range(first, last + 1)]
    minutes = pl.DataFrame({"ts": ends}, schema={"ts": SCHEMAS["bars"]["ts"]})
    return names.join(minutes, how="cross").with_columns(venue=pl.lit(VENUE))


def shaped(table: str, rows: pl.DataFrame) -> pl.DataFrame:
    """`rows` in the columns of `table`; those that are not given are null."""
    absent = {name: pl.lit(None) for name in SCHEMAS[table].names() if name not in rows.columns}
    return rows.with_columns(**absent).select(pl.col(name).cast(dtype) for name, dtype in SCHEMAS[table].items())


def scores(rows: pl.DataFrame, *, last: int) -> pl.DataFrame:
    """Scores of `rows` and of the venue as a whole; those that alert do so in the last five minutes."""
    n, alert = pl.col("n"), (pl.col("n") % 10 == 0) & (pl.col("ts") > at(last - 5))
    said = pl.lit("crowding 4.4 (basis_bps_5 = -31.2), thin_book 2.1 (kyle_score_60 = 6.3)")
    own = rows.with_columns(
        available_at="ts", status=pl.lit("detector; model"),
        anomaly=pl.when(alert).then(8.0).otherwise(0.5 + n % 4 / 4), anomaly_threshold=pl.lit(2.0),
        p_5m=0.001 + n / 1e5, p_15m=0.004 + n / 1e4, p_30m=0.01 + n / 5e3, p_60m=0.02 + n / 2e3, p_240m=0.05 + n / 1e3,
        p_60m_low=0.01 + n / 2e3, p_60m_high=0.04 + n / 2e3, p_threshold=pl.lit(0.25), alert=alert,
        lead_family=pl.when(alert).then(pl.lit("crowding")), reasons=pl.when(alert).then(said),
        missing_inputs=pl.when(n % 5 == 0).then(pl.lit("book depth")),
    )  # fmt: skip
    whole = own.filter(n == 0).with_columns(symbol=pl.lit("*"), missing_inputs=pl.lit(None, dtype=pl.String))
    return shaped("scores", pl.concat([own, whole]).sort("symbol", "ts"))


def _either(breached: str, held: str, calm: str) -> pl.Expr:
    """What holds of a symbol: its price band is open, else its depth is missing, else nothing."""
    n = pl.col("n")
    return pl.when(n % 7 == 0).then(pl.lit(breached)).when(n % 5 == 0).then(pl.lit(held)).otherwise(pl.lit(calm))


def limits(rows: pl.DataFrame) -> pl.DataFrame:
    n = pl.col("n")
    seen = "price moved -7.2 % against its 5-min mean; band is 5.0 %; clears after 10 min within 2.5 %"
    reason = _either(seen, "depth missing; safe side", "all rules are clear")
    made = rows.with_columns(
        action=_either("reduce_only", "cautious", "normal"), binding=_either("price_band", "depth_collapse", "none"),
        reason=reason, reasons=reason, missing=pl.when(n % 5 == 0).then(pl.lit("depth missing")),
        leverage_cap=10.0, leverage_cap_hard=10.0, leverage_cap_effective=pl.when(n % 7 == 0).then(5.0).otherwise(10.0),
        exposure_cap_usd=1_000_000 + 1000 * n, exposure_cap_usd_effective=1_000_000 + 1000 * n,
        proposal=_either("bounded", "none", "none"), expires_at=pl.col("ts") + pl.duration(minutes=15), **POLICY,
    )  # fmt: skip
    return shaped("limits", made)


def bars(rows: pl.DataFrame) -> pl.DataFrame:
    n, wave = pl.col("n"), (pl.col("ts").dt.epoch("s") / 3600).sin()
    swing = (100_000 * wave).cast(pl.Int64)
    deep = pl.when(n % 5 != 0)
    made = rows.with_columns(
        known_at="ts", close=100 + n + wave, mark=100 + n + wave, index=100 + n + 0.9 * wave, trades=50,
        depth_bid_100bps_usd=deep.then(1_000_000 + swing), depth_ask_100bps_usd=deep.then(1_200_000 - swing),
        oi_usd=20_000_000 + 10 * swing,
    )  # fmt: skip
    return shaped("bars", made)


def _verdicts(rows: pl.DataFrame) -> pl.DataFrame:
    """Every rule of every symbol of `rows` with its state."""
    every = rows.join(pl.DataFrame({"rule": RULES}), how="cross")
    opened = (pl.col("rule") == "price_band") & (pl.col("n") % 7 == 0)
    missing = (pl.col("rule") == "depth_collapse") & (pl.col("n") % 5 == 0)
    state = pl.when(opened).then(pl.lit("open")).when(missing).then(pl.lit("missing")).otherwise(pl.lit("closed"))
    return every.with_columns(state=state, severity=pl.when(opened).then(2).when(missing).then(1).otherwise(0))


def guard_state(rows: pl.DataFrame) -> pl.DataFrame:
    """The state of every breaker in the newest minute of `rows`."""
    return shaped("guard_state", _verdicts(rows.filter(pl.col("ts") == pl.col("ts").max())))


def decisions(rows: pl.DataFrame, minute: int) -> pl.DataFrame:
    """One decision per rule and symbol, made at `minute`."""
    made = _verdicts(rows.unique("symbol", keep="any").with_columns(ts=pl.lit(at(minute))))
    actions = {0: "normal", 1: "cautious", 2: "reduce_only"}
    told = made.with_columns(
        decision_id=pl.format("{}-{}-{}", "n", "rule", pl.lit(minute)).str.replace_all("_", "-"),
        scope=pl.lit("symbol"), entity="symbol", state_before=pl.lit("closed"), state_after="state",
        action=pl.col("severity").replace_strict(actions, return_dtype=pl.String),
        limit_after=pl.when(pl.col("severity") > 0).then(0.0), limit_unit=pl.lit("x of new positions"),
        observed=pl.when(pl.col("severity") == 2).then(0.072), threshold=0.05, unit=pl.lit("share"),
        reason=pl.format("{} said so; clears after 10 min", "rule"),
        clears_when=pl.format("clears after 10 min of {}", "rule"), reset_authority=pl.lit("timer"),
        expires_at=pl.lit(at(minute + 15)), data_health=pl.lit("ok"), **POLICY,
    )  # fmt: skip
    return shaped("decisions", told)


STEPS = {"ingest": {"s": 0.4, "rows": 900}, "bars": {"s": 0.6}, "score": {"s": 0.8}, "guard": {"s": 0.2}}


def runs(minutes: range, **changed: Any) -> pl.DataFrame:
    """One good run per five minutes that took two seconds, done seven seconds after its interval."""
    rows = [
        {"venue": VENUE, "ts": at(m), "start": at(m - 5), "run_id": f"{m:04x}" * 16, "token": m, "kind": "due",
         "state": "ok", "started_at": at(m) + timedelta(seconds=5), "finished_at": at(m) + timedelta(seconds=7),
         "steps": json.dumps(STEPS), "rows_ingested": 900, "alerts": 1, "decisions": 2, "notes": [], "error": None}
        | changed
        for m in minutes
    ]  # fmt: skip
    return pl.DataFrame(rows, schema=SCHEMAS["runs"])


def add_minutes(lake: Lake, symbols: int, first: int, last: int) -> None:
    """What a run over the minutes `first` to `last` leaves in the lake."""
    rows = grid(symbols, first, last)
    made = {
        "bars": bars(rows), "scores": scores(rows, last=last), "limits": limits(rows), "guard_state": guard_state(rows),
        "decisions": decisions(rows, last),
    }  # fmt: skip
    for table, frame in made.items():
        lake.replace(table, frame, VENUE, at(first - 1), at(last))


def wide_lake(root: Path, symbols: int, minutes: int) -> Lake:
    """A lake of `symbols` over `minutes`, with its runs."""
    lake = Lake(root)
    add_minutes(lake, symbols, 1, minutes)
    lake.append("runs", runs(range(5, minutes + 1, 5)), None)
    return lake
