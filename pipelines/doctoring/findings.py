"""Findings: what a check hands back, one row each, in words that stand alone."""

from typing import Any, Literal, TypeAlias

import polars as pl

from features.schema import UTC_US

Severity: TypeAlias = Literal["defect", "suspicion", "note"]
SEVERITIES: tuple[Severity, ...] = ("defect", "suspicion", "note")  # the worst first
SCHEMA = pl.Schema(
    {
        "severity": pl.String(),  # defect: certain; suspicion: likely, a person decides; note: worth knowing
        "check": pl.String(),
        "table": pl.String(),
        "venue": pl.String(),
        "symbol": pl.String(),  # "*": the venue as a whole
        "first": UTC_US,
        "last": UTC_US,
        "rows": pl.Int64(),  # rows (or stamps, or pairs of rows) the sentence speaks of
        "what": pl.String(),
        "mend": pl.String(),
    }
)


def finding(
    severity: Severity,
    check: str,
    table: str,
    key: tuple[str | None, str | None],
    span: tuple[Any, Any],
    *,
    rows: int,
    what: str,
    mend: str,
) -> dict[str, Any]:
    """One row of `SCHEMA`; `key` is venue and symbol, None where the row did not say; `span` two moments."""
    venue, symbol = key
    return {
        "severity": severity, "check": check, "table": table, "venue": venue, "symbol": symbol,
        "first": span[0], "last": span[1], "rows": rows, "what": what, "mend": mend,
    }  # fmt: skip


def findings(rows: list[dict[str, Any]]) -> pl.DataFrame:
    """`rows` in the shape of `SCHEMA`, in the order given."""
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def ranked(found: pl.DataFrame) -> pl.DataFrame:
    """The worst first; within a severity by check, table, venue, then most rows, then symbol."""
    worst = pl.col("severity").replace_strict(list(SEVERITIES), range(len(SEVERITIES)), return_dtype=pl.Int8)
    order = [
        worst,
        pl.col("check"),
        pl.col("table"),
        pl.col("venue"),
        -pl.col("rows"),
        pl.col("symbol"),
        pl.col("first"),
    ]
    return found.sort(order, nulls_last=True)


def lasting(seconds: float) -> str:
    """A span of time in its own unit.

    >>> [lasting(seconds) for seconds in (0.004, -1.26, 90, 68400, 260000)]
    ['4 ms', '-1.26 s', '1.5 min', '19 h', '3 d']
    """
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        if abs(seconds) >= size * (2 if unit == "d" else 1):
            return f"{round(seconds / size, 2 if unit == 's' else 1):g} {unit}"
    return f"{round(seconds * 1000, 1):g} ms"


def clock(ts: Any) -> str:
    """A moment to the second, "?" for None.

    >>> from datetime import UTC, datetime
    >>> clock(datetime(2025, 10, 10, 21, 5, tzinfo=UTC)), clock(None)
    ('2025-10-10 21:05:00Z', '?')
    """
    return "?" if ts is None else f"{ts:%Y-%m-%d %H:%M:%S}Z"


def many(count: int, word: str, plural: str | None = None) -> str:
    """A count with its noun.

    >>> many(1, "gap"), many(1200, "gap"), many(2, "series", "series")
    ('1 gap', '1,200 gaps', '2 series')
    """
    return f"{count:,} {word if count == 1 else plural or word + 's'}"


def share(part: float, whole: float) -> str:
    """A part of a whole; never rounded to nothing.

    >>> share(1, 3), share(3, 40320), share(0, 5)
    ('33.3 %', '0.0074 %', '0 %')
    """
    percentage = 100 * part / whole if whole else 0.0
    return f"{percentage:.1f} %" if percentage >= 1 else f"{percentage:.2g} %"
