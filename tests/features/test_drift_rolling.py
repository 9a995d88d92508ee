"""Drift as a score in time: which rows are compared, when it speaks, and that it sees a shift and no future."""

from datetime import timedelta

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from features.drift import drift_table
from features.drift_rolling import KS_P_MAX, rolling_drift
from tests.features.worlds import START

HOUR = timedelta(hours=1)
SPANS = {"current": 2 * HOUR, "reference": 6 * HOUR}
NAMES = ("one", "two", "never")


def matrix(hours: int, *, shift_h: int | None = None, seed: int = 0) -> pl.DataFrame:
    """Bars of a minute of independent noise for A and B; `one` of A is a unit higher from hour `shift_h` on."""
    minutes = 60 * hours
    rng = np.random.default_rng(seed)
    stamps = [START + timedelta(minutes=m) for m in range(1, minutes + 1)]
    parts = [
        pl.DataFrame({"symbol": [symbol] * minutes, "ts": stamps, "one": one, "two": two}).with_columns(
            pl.col("ts").cast(pl.Datetime("us", "UTC")), never=pl.lit(None, pl.Float64)
        )
        for symbol, one, two in (("A", *rng.normal(size=(2, minutes))), ("B", *rng.normal(size=(2, minutes))))
    ]
    both = pl.concat(parts)
    if shift_h is None:
        return both
    late = (pl.col("symbol") == "A") & (pl.col("ts") > START + shift_h * HOUR)
    return both.with_columns(one=pl.col("one") + late.cast(pl.Float64))


def test_a_moment_compares_the_last_hours_with_those_before_them() -> None:
    """At 10:00, with START at a whole hour: (8, 10] against (2, 8], the shares of what can be told."""
    rows, at = matrix(12, shift_h=9), START + 10 * HOUR
    now = rows.filter(pl.col("ts") > at - 2 * HOUR, pl.col("ts") <= at)
    before = rows.filter(pl.col("ts") > at - 8 * HOUR, pl.col("ts") <= at - 2 * HOUR)
    table = drift_table(now, before, NAMES)
    for symbol in "AB":
        own = table.filter(pl.col("symbol") == symbol, pl.col("feature") != "never")
        want = (own["drifted"].sum() / 2, (own["ks_p"] < KS_P_MAX).sum() / 2)
        got = rolling_drift(rows, NAMES, **SPANS).filter(symbol=symbol, ts=at)
        assert got.select("drift_psi", "drift_ks").row(0) == want


def test_it_speaks_at_whole_hours_once_the_reference_is_whole() -> None:
    """Bars from 00:01 to 12:00: 2 + 6 hours after the first is 08:01, so 09:00 is the first moment."""
    found = rolling_drift(matrix(12), NAMES, **SPANS).filter(symbol="A")
    assert found["ts"].to_list() == [START + hour * HOUR for hour in (9, 10, 11, 12)]
    assert rolling_drift(matrix(8), NAMES, **SPANS).is_empty()
    assert rolling_drift(matrix(8).head(0), NAMES, **SPANS).is_empty()


def test_a_shift_is_seen_in_its_symbol_and_its_feature() -> None:
    found = rolling_drift(matrix(30, shift_h=20), NAMES, **SPANS)
    at = {
        symbol: dict(rows.select("ts", "drift_psi").iter_rows())
        for (symbol,), rows in found.partition_by("symbol", as_dict=True).items()
    }
    assert at["A"][START + 22 * HOUR] == 0.5  # one of the two that can be told
    assert np.mean([value for ts, value in at["A"].items() if ts <= START + 20 * HOUR]) < 0.1
    assert np.mean(list(at["B"].values())) < 0.1


def test_what_comes_later_changes_nothing() -> None:
    rows, cut = matrix(16, shift_h=11), START + 13 * HOUR
    whole = rolling_drift(rows, NAMES, **SPANS).filter(pl.col("ts") <= cut)
    assert_frame_equal(rolling_drift(rows.filter(pl.col("ts") <= cut), NAMES, **SPANS), whole)
    spoilt = rows.with_columns(one=pl.when(pl.col("ts") > cut).then(1e9).otherwise("one"))
    assert_frame_equal(rolling_drift(spoilt, NAMES, **SPANS).filter(pl.col("ts") <= cut), whole)


def test_where_nothing_can_be_told_there_is_no_score() -> None:
    found = rolling_drift(matrix(10), ["never"], **SPANS)
    assert found.select("drift_psi", "drift_ks").null_count().row(0) == (found.height, found.height) != (0, 0)


@pytest.mark.parametrize("span", ["current", "reference", "every"])
def test_a_span_that_is_none_is_refused(span: str) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        rolling_drift(matrix(1), NAMES, **{span: timedelta(0)})
