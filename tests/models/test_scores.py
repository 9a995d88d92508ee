"""The cap on alerts: what is muted, and that a day scored in parts says what a day scored at once does."""

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from models.scores import AlertPolicy, Trailing, above_threshold
from models.thresholds import capped, cost_threshold, trailing_threshold

START = datetime(2025, 1, 1, tzinfo=UTC)


def alerts(minutes: list[int], symbol: str = "A") -> pl.DataFrame:
    ts = pl.Series([START + timedelta(minutes=minute) for minute in minutes], dtype=pl.Datetime("us", "UTC"))
    return pl.DataFrame({"symbol": pl.Series([symbol] * len(minutes), dtype=pl.String), "ts": ts})


def told(found: pl.DataFrame) -> list[int]:
    return [round((ts - START).total_seconds() / 60) for ts in found.sort("symbol", "ts")["ts"]]


CAPPED = [
    # three episodes on one day, two allowed: the third is muted, its minutes too
    ([0, 5, 100, 300, 301], 2, [0, 5, 100]),
    # an episode belongs to the day of its first alert, also beyond midnight
    ([1430, 1445, 1480], 1, [1430, 1445, 1480]),
    # the next day counts anew
    ([0, 100, 1500], 1, [0, 1500]),
    # an alarm that lasts is one episode
    (list(range(0, 600, 10)), 1, list(range(0, 600, 10))),
]


@pytest.mark.parametrize(("minutes", "cap", "kept"), CAPPED)
def test_the_cap_keeps_the_first_episodes_of_each_day(minutes: list[int], cap: int, kept: list[int]) -> None:
    assert told(capped(alerts(minutes), cap, 60)) == kept


def test_symbols_are_capped_apart() -> None:
    both = pl.concat([alerts([0, 100]), alerts([50, 200], "B")])
    assert capped(both, 1, 60).sort("symbol").rows() == [
        ("A", START), ("B", START + timedelta(minutes=50)),
    ]  # fmt: skip


def test_no_cap_below_one() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        capped(alerts([0]), 0, 60)


@pytest.mark.parametrize("cut", [1, 50, 150, 250, 1435])
def test_a_day_in_two_runs_alerts_as_in_one(cut: int) -> None:
    minutes = [0, 5, 100, 200, 201, 300, 1439, 1441, 1600]
    whole = AlertPolicy(2, 60).kept(alerts(minutes))
    early = AlertPolicy(2, 60).kept(alerts([m for m in minutes if m <= cut]))
    late = AlertPolicy(2, 60, alerts([m for m in minutes if m <= cut])).kept(alerts([m for m in minutes if m > cut]))
    edge = START + timedelta(minutes=cut)
    assert told(whole) == told(early) + told(late.filter(pl.col("ts") > edge))


def test_muted_minutes_are_remembered_as_above_the_threshold() -> None:
    rows = alerts([0, 1, 2]).with_columns(
        pl.Series("p_60m", [0.5, 0.1, None]), p_threshold=pl.lit(0.4), alert=pl.lit(value=False)
    )
    venue = rows.with_columns(symbol=pl.lit("*"))
    assert told(above_threshold(pl.concat([rows, venue]).lazy()).collect()) == [0]


def test_alerting_pays_from_the_ratio_of_the_costs_on() -> None:
    """1 for a false alarm, 9 for a missed minute: at p = .1 both cost .9."""
    assert cost_threshold(1, 9) == pytest.approx(0.1)
    with pytest.raises(ValueError, match="positive"):
        cost_threshold(0, 1)


def test_a_trailing_threshold_never_sees_its_own_row() -> None:
    """Share .25 of four rows: the .75 quantile, higher neighbour, of [t - 4, t): of 1 2 3 4 it is 4."""
    rows = alerts(list(range(6))).with_columns(score=pl.Series([1.0, 2.0, 3.0, 4.0, 100.0, 0.0]))
    found = trailing_threshold(rows, 0.25, 4, 4)
    assert found["threshold"].to_list() == [None, None, None, None, 4.0, 100.0]
    cut = trailing_threshold(rows.head(5), 0.25, 4, 4)
    assert cut["threshold"].to_list() == found["threshold"].to_list()[:5]
    with pytest.raises(ValueError, match="share"):
        trailing_threshold(rows, 1.0, 4, 4)


def test_a_cap_holds_what_a_trailing_quantile_overruns() -> None:
    """A market that heats up every hour stands above its own past for good; the cap keeps two episodes a day."""
    minutes = list(range(0, 3 * 1440, 7))
    rows = alerts(minutes).with_columns(score=pl.Series([m + (500.0 if m % 180 < 7 else 0.0) for m in minutes]))
    found = trailing_threshold(rows, 0.02, 720, 20).filter(pl.col("score") >= pl.col("threshold"))
    assert found.height > 10
    kept = capped(found.select("symbol", "ts"), 2, 60)
    opening = kept.with_columns(gap=pl.col("ts").diff() >= pl.duration(minutes=60)).filter(
        pl.col("gap").fill_null(value=True)
    )
    assert opening.group_by(pl.col("ts").dt.date()).len()["len"].max() <= 2  # type: ignore[operator]


def said(p: list[float | None], first: int = 0) -> pl.DataFrame:
    return alerts(list(range(first, first + len(p)))).with_columns(pl.Series("p_60m", p, dtype=pl.Float64))


def trailing(earlier: pl.DataFrame) -> Trailing:
    return Trailing(0.25, 4, 4, earlier.rename({"p_60m": "score"}))


def test_a_trailing_threshold_takes_the_place_of_the_fixed_one_once_enough_was_said() -> None:
    """Share .25 of four: their .75 quantile, higher neighbour. Of 1 2 3 4 that is 4, of 2 3 4 9 it is 9."""
    found = AlertPolicy(9, 1, trailing=trailing(said([]))).alerted(said([1.0, 2.0, 3.0, 4.0, 9.0, 8.0]), 3.5)
    assert found["p_threshold"].to_list() == [3.5, 3.5, 3.5, 3.5, 4.0, 9.0]
    assert found["model_alert"].to_list() == [False, False, False, True, True, False]


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_trailing_threshold_in_two_runs_is_that_of_one(cut: int) -> None:
    p = [0.1, 0.2, 0.3, None, 0.2, 0.9, 0.1, 0.4, 0.8, 0.8, 0.1, 0.9]
    whole = AlertPolicy(9, 1, trailing=trailing(said([]))).alerted(said(p), 0.5)
    late = AlertPolicy(9, 1, trailing=trailing(said(p[:cut]))).alerted(said(p[cut:], cut), 0.5)
    assert whole[cut:].equals(late)


def test_a_symbol_that_said_nothing_yet_keeps_the_fixed_threshold() -> None:
    other = said([0.1] * 8).with_columns(symbol=pl.lit("B"))
    found = AlertPolicy(9, 1, trailing=trailing(other)).alerted(said([0.6, 0.4]), 0.5)
    assert found["p_threshold"].to_list() == [0.5, 0.5]
