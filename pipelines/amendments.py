"""What a later run over the same minutes makes of decisions that were made: nothing is rewritten without a word.

The table `decisions` shows what stands. Where a run over minutes that were judged before takes a decision back, changes
it or adds one, a row of `amendments` keeps the original whole, names what stands in its place, and says why. The audit
log holds both, in the order in which they were made.
"""

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import polars as pl

from pipelines.lake import AMENDMENTS_SCHEMA, Lake

PLACE = ("ts", "entity", "rule")  # a rule decides on an entity once a minute
AGAIN = "a person had these minutes judged again"


def amendments(before: pl.DataFrame, after: pl.DataFrame, why: str, at: datetime | None) -> pl.DataFrame:
    """One row, of AMENDMENTS_SCHEMA, per decision of one venue that `before` and `after` do not share.

    Both are of the table `decisions`, of the same venue and minutes. Sorted by place.
    """
    gone = before.join(after, on="decision_id", how="anti")
    new = after.join(before, on="decision_id", how="anti").select("venue", *PLACE, after="decision_id")
    originals = pl.Series("original", [_original(row) for row in gone.iter_rows(named=True)], dtype=pl.String)
    old = gone.select("venue", *PLACE, before="decision_id").with_columns(originals)
    both = old.join(new, on=["venue", *PLACE], how="full", coalesce=True)
    moment = AMENDMENTS_SCHEMA["amended_at"]
    told = both.with_columns(why=pl.lit(why), amended_at=pl.lit(at, moment))
    return told.select(pl.col(name).cast(dtype) for name, dtype in AMENDMENTS_SCHEMA.items()).sort(PLACE)


def _original(decision: Mapping[str, Any]) -> str:
    return json.dumps(decision, default=lambda moment: moment.isoformat(), sort_keys=True)


def amend(lake: Lake, rows: pl.DataFrame, made_by: str) -> None:
    """Append amendments once: a run that was killed after them and is done again finds them there.

    `made_by` tells this run from one that amends the same decisions in the same way another time. The caller holds the
    lake's lock and has not replaced the decisions yet.
    """
    if rows.height:
        ids = rows.select("before", "after").rows()
        key = hashlib.sha256(json.dumps([made_by, ids]).encode()).hexdigest()
        lake.append("amendments", rows, key)


def amendments_of(lake: Lake, decision_id: str) -> list[dict[str, Any]]:
    """The amendments in which a decision takes part, oldest first."""
    takes_part = (pl.col("before") == decision_id) | (pl.col("after") == decision_id)
    return lake.scan("amendments").filter(takes_part).sort("amended_at", nulls_last=False).collect().to_dicts()
