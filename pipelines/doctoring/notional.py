"""Dollars that do not follow from size and price."""

import polars as pl

from pipelines.doctoring.bases import bases
from pipelines.doctoring.evidence import Evidence
from pipelines.doctoring.findings import finding, findings, share

OFF_SHARE = 0.01  # a percent covers rounding of published dollars and a quote token a few tenths off the dollar
DOLLARS = ("USD", "USDT", "USDC", "BUSD")
ROWS_SHARE = 0.001  # a stray row may be a venue's own rounding of dust


def _said(low: float, high: float, contract_size: float | None) -> str:
    """What the factor between stored and expected dollars looks like."""
    if high > low * (1 + OFF_SHARE):
        return f"{low:,.4g} to {high:,.4g} x"
    for name, size in (("the contract size", contract_size), ("one over the contract size", 1 / (contract_size or 1))):
        if contract_size not in {None, 1.0} and abs(low / size - 1) <= OFF_SHARE:  # type: ignore[operator]  # not None
            return f"{low:,.4g} x, which is {name}"
    return f"{low:,.4g} x"


def notional_off(evidence: Evidence) -> pl.DataFrame:
    """Rows of `trades` and `liquidations` with `notional_usd / (qty * price)` more than 1 % away from 1, per symbol.

    A constant factor is a contract size that was left out, or put in twice: it is compared with the instrument's. Blind
    where size and dollars ignore it together (see `volume_units`), and to symbols quoted in anything but a dollar.
    """
    known = bases(evidence.days, evidence.instruments)
    rows = []
    for table in ("trades", "liquidations"):
        held = evidence.rows(table)
        if held is None:
            continue
        factor = pl.col("notional_usd") / (pl.col("qty") * pl.col("price"))
        off = (factor - 1).abs() > OFF_SHARE
        counted = held.group_by("venue", "symbol").agg(
            total=pl.len().cast(pl.Int64), rows=off.sum().cast(pl.Int64), low=factor.filter(off).min(),
            high=factor.filter(off).max(), first=pl.col("ts").filter(off).min(), last=pl.col("ts").filter(off).max(),
        )  # fmt: skip
        bad = counted.filter(pl.col("rows") > ROWS_SHARE * pl.col("total")).collect(engine="streaming")
        joined = bad.join(known, on=["venue", "symbol"], how="left").sort("venue", "symbol")
        for row in joined.filter(pl.col("quote").is_null() | pl.col("quote").is_in(DOLLARS)).iter_rows(named=True):
            what = (
                f"`notional_usd` of {row['rows']:,} rows ({share(row['rows'], row['total'])}) is not qty * price but "
                f"{_said(row['low'], row['high'], row['contract_size'])} that"
            )
            key, span = (row["venue"], row["symbol"]), (row["first"], row["last"])
            mend = "put the contract size right in the instruments or the mapping and ingest again"
            rows.append(finding("defect", "notional", table, key, span, rows=row["rows"], what=what, mend=mend))
    return findings(rows)
