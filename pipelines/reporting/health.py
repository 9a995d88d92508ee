"""Data health of the interval: what was refused, what is missing, late or stale, and that nothing was lost."""

from datetime import timedelta
from typing import Any

import polars as pl

from models.scores import INPUT_TABLES
from pipelines.reporting import words
from pipelines.reporting.coverage import coverage_view
from pipelines.reporting.gather import FEED_AGES, KEY, Material

BUSY_MIN = 10  # minutes of the window in which the most trade ids are missing


def busiest(gaps: pl.DataFrame) -> pl.DataFrame:
    """Per symbol the `BUSY_MIN` minutes `(until - 10 min, until]` with the most missing ids, and how many those are."""
    rolled = gaps.sort(*KEY, "ts").rolling("ts", period=f"{BUSY_MIN}m", group_by=list(KEY))
    summed = rolled.agg(busy=pl.col("trade_ids_missing").sum())
    ordered = summed.sort("busy", "ts", descending=[True, False])
    return ordered.group_by(KEY, maintain_order=True).first().rename({"ts": "until"}).sort(KEY)


def _concentrated(gaps: pl.DataFrame) -> str:
    """All symbols together: the busiest `BUSY_MIN` minutes of missing trade ids, in words."""
    every = gaps.group_by("ts").agg(pl.col("trade_ids_missing").sum()).with_columns(venue=pl.lit(""), symbol=pl.lit(""))
    total = int(every["trade_ids_missing"].sum())
    busy = busiest(every).row(0, named=True)
    start = busy["until"] - timedelta(minutes=BUSY_MIN)
    return (
        f"{words.whole(total)} trade ids are missing over {words.plural(gaps.select(KEY).n_unique(), 'symbol')}; "
        f"{words.percent(busy['busy'] / total)} of them in the {BUSY_MIN} minutes "
        f"{words.moment(start)} to {words.until(start, busy['until'])}."
    )


def _refusal(part: list[dict[str, Any]]) -> str:
    """One sentence per symbol and table; `part` has a row per reason, the most frequent first."""
    top = part[0]
    rows = f"{words.plural(top['total'], 'row')} of {top['table'].replace('_', ' ')}"
    who = f" of {top['symbol']}" if top["symbol"] else ""
    where = f" ({top['venue']})" if top["venue"] else ""
    said = [
        f"{'' if reason['rows'] == top['total'] else words.whole(reason['rows']) + ' '}"
        f"as {words.spaced(reason['reason'], words.REFUSALS)}{_span(reason)}"
        for reason in part
    ]
    return f"{rows}{who}{where} {'was' if top['total'] == 1 else 'were'} refused: {'; '.join(said)}."


def _span(reason: dict[str, Any]) -> str:
    first, last = reason["first"], reason["last"]
    if first is None:
        return " (time stamps unreadable)"
    if first == last:
        return f" at {words.moment(first, seconds=True)}"
    return f" from {words.moment(first, seconds=True)} to {words.until(first, last, seconds=True)}"


def refusals(refused: pl.DataFrame) -> list[str]:
    """The sentences about refused rows, most rows first.

    >>> from datetime import datetime, UTC
    >>> row = {"venue": "v", "symbol": "A", "table": "book_depth", "total": 3, "rows": 3, "reason": "crossed_book"}
    >>> span = {"first": datetime(2025, 1, 1, 8, tzinfo=UTC), "last": datetime(2025, 1, 1, 9, tzinfo=UTC)}
    >>> print(refusals(pl.DataFrame([row | span]))[0].replace(" from ", "\\n"))
    3 rows of book depth of A (v) were refused: as crossed (bid at or above ask)
    2025-01-01 08:00:00Z to 09:00:00Z.
    """
    groups = refused.partition_by(*KEY, "table", maintain_order=True)
    return [_refusal(group.to_dicts()) for group in groups]


def _input(row: dict[str, Any], table: str) -> dict[str, Any] | None:
    """What to say of one input of one symbol; None when it is there in every minute."""
    minutes, total = row[f"minutes:{table}"], row["minutes"]
    if minutes == total:
        return None
    if not minutes:
        return {"name": table, "never": True, "text": table}
    last = row[f"last:{table}"]
    text = f"{table}: {words.whole(total - minutes)} of {words.whole(total)} min without"
    stopped = f", last {words.moment(last)}" if last < row["end"] else ""
    return {"name": table, "never": False, "text": text + stopped}


def _stalest(row: dict[str, Any]) -> tuple[str, str]:
    ages = [(row[f"age:{feed}"], feed, row[f"age:{feed}:at"]) for feed in FEED_AGES if row[f"age:{feed}"] is not None]
    if not ages:
        return words.NOTHING, ""
    age, feed, at = max(ages)
    return f"{feed} {words.duration(age)}", f"at {words.moment(at)}"


def _lost_ids(row: dict[str, Any]) -> tuple[str, str]:
    if not row["ids_missing"]:
        return "none" if row["trades"] else words.NOTHING, ""
    start = row["until"] - timedelta(minutes=BUSY_MIN)
    sent = row["ids_missing"] + row["trades"]
    lost = f"{words.whole(row['ids_missing'])} ({words.percent(row['ids_missing'] / sent, 2)} of trades)"
    busy = words.percent(row["busy"] / row["ids_missing"])
    return lost, f"{busy} in {words.moment(start)} to {words.until(start, row['until'])}"


def _latency(row: dict[str, Any]) -> tuple[str, str]:
    worst = row["latency"]
    return (words.NOTHING, "") if worst is None else (f"{worst / 1000:,.1f} s", f"at {words.moment(row['latency:at'])}")


def _refused_by_symbol(refused: pl.DataFrame) -> pl.DataFrame:
    return refused.select(*KEY, "table", "total").unique().group_by(KEY).agg(refused=pl.col("total").sum())


def symbol_rows(material: Material) -> list[dict[str, Any]]:
    """One row per symbol that has bars."""
    joined = material.health.join(busiest(material.gaps), on=KEY, how="left").join(
        _refused_by_symbol(material.refused), on=KEY, how="left"
    )
    rows = []
    for row in joined.with_columns(end=pl.lit(material.interval.end)).sort(KEY).to_dicts():
        inputs = [said for table in INPUT_TABLES if (said := _input(row, table)) is not None]
        rows.append(
            {
                "venue": row["venue"],
                "symbol": row["symbol"],
                "never": ", ".join(said["name"] for said in inputs if said["never"]),
                "partly": [said["text"] for said in inputs if not said["never"]],
                "refused": words.whole(row["refused"] or 0),
                "ids": _lost_ids(row),
                "latency": _latency(row),
                "stale": _stalest(row),
            }
        )
    return rows


def _ingest(ingest: pl.DataFrame) -> dict[str, Any]:
    counts = ("files", "rows_read", "rows_accepted", "rows_quarantined")
    total = {name: int(ingest[name].sum()) for name in counts}
    return {
        "rows": [row | {name: words.whole(row[name]) for name in counts} for row in ingest.to_dicts()],
        "total": {name: words.whole(value) for name, value in total.items()},
        "adds_up": total["rows_read"] == total["rows_accepted"] + total["rows_quarantined"],
    }


def health_view(material: Material) -> dict[str, Any]:
    """Sentences first, then the coverage plot, a row per symbol, and the totals of the ingest log."""
    total = int(material.refused.select(*KEY, "table", "total").unique()["total"].sum())
    return {
        "refused_total": total,
        "sentences": refusals(material.refused) + ([_concentrated(material.gaps)] if material.gaps.height else []),
        "symbols": symbol_rows(material),
        "coverage": coverage_view(material.coverage, material.interval),
        "ingest": _ingest(material.ingest),
    }
