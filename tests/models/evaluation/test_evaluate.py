"""Every figure of an evaluation by hand, against slow oracles and libraries, and at chance where nothing is known."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sk

from models.evaluation import tally
from models.evaluation.alarm_time import Window, drawn_shifts, molchan, shift_p, shifted_hits
from models.evaluation.alarms import AlarmPolicy
from models.evaluation.evaluate import Parts, evaluate
from models.evaluation.figures import Evaluation
from models.evaluation.intervals import clopper_pearson, poisson_rate
from models.evaluation.settings import Settings
from models.metrics import corp

T0 = datetime(2025, 1, 1, tzinfo=UTC)
TIME = pl.Datetime("us", "UTC")
HOUR = Settings(horizon_min=60, lead_min=2, refractory_min=60, threshold=0.5, replicates=200)


def at(*minutes: float) -> pl.Series:
    return pl.Series([T0 + timedelta(minutes=m) for m in minutes], dtype=TIME)


def line(symbol: str, minutes: range, alerts: set[int], level: float = 0.9, quiet: float = 0.1) -> pl.DataFrame:
    score = [level if m in alerts else quiet for m in minutes]
    return pl.DataFrame({"symbol": symbol, "ts": at(*minutes), "score": score})


def parts(*frames: pl.DataFrame) -> Parts:
    def each() -> Iterator[pl.DataFrame]:
        yield from frames

    return each


def events(*rows: tuple[str, float, float]) -> pl.DataFrame:
    onset, end = (at(*(row[k] for row in rows)) for k in (1, 2))
    return pl.DataFrame({"symbol": pl.Series([row[0] for row in rows], dtype=pl.String), "onset": onset, "end": end})


# --- a day by hand ---

# A, 1440 minutes, onsets at 200, 500, 800, 1100: alerts at 150 (lead 50: hit), 499 (lead 1: late), none before 800
# (miss), 1000 (lead 100: too early, an episode without an onset within 60 min), 1060 (lead 40: hit; 60 min after 1000:
# an episode of its own). B: one onset at 30, alerts from 10 to 15 (lead 20: hit); the alert at 40 is in the refractory
# time of that event; alerts at 700 to 705 are false; no rows from 900 on, and an event at 1200 that cannot be judged.
A = line("A", range(1440), {150, 499, 1000, 1060})
B = line("B", range(900), {10, 11, 12, 13, 14, 15, 40, *range(700, 706)})
EVENTS = events(("A", 200, 210), ("A", 500, 510), ("A", 800, 810), ("A", 1100, 1105), ("B", 30, 35), ("B", 1200, 1210))


def judged(frames: Parts | None = None, found: pl.DataFrame = EVENTS, **changes: Any) -> Evaluation:
    return evaluate(frames or parts(A, B), found, Settings(**({**HOUR.__dict__, **changes})))


BY_HAND = {
    "events": 5, "hits": 3, "late": 1, "misses": 1, "event_recall": 0.6,
    "episodes": 6,  # A: 150, 499, 1000, 1060; B: 10-15, 700-705
    "false_episodes": 2, "episode_precision": 4 / 6,
    "covered_symbol_days": 2340 / 1440, "false_alarms_per_symbol_day": 2 / (2340 / 1440),
    "uncovered_events": 0, "threshold": 0.5,
    # an alert at t declares t + 2 .. t + 60, 59 minutes; of A: 152-210, 501-559, 1002-1060, 1062-1120; of B 12-75 and
    # 42-100, joined to 12-100 (89), and 702-765 (64)
    "alarm_time_share": (4 * 59 + 89 + 64) / 2340,
}  # fmt: skip


def test_a_day_of_two_symbols_by_hand() -> None:
    found = judged().found
    assert {name: found[name] for name in BY_HAND} == pytest.approx(BY_HAND)


def test_leads_by_hand() -> None:
    """Leads 50, 40 and 20; survival over five events, two of which had none in time."""
    lead = judged().found["lead_time_min"]
    assert [lead[q] for q in ("p10", "p50", "p90")] == pytest.approx([24.0, 40.0, 48.0])
    assert lead["survival"] == {"1": 0.6, "2": 0.6, "5": 0.6, "10": 0.6, "15": 0.6, "30": 0.4, "60": 0.0}


def test_an_event_after_the_last_row_of_its_symbol_is_not_judged_and_one_before_a_gap_is_named() -> None:
    gap = pl.concat([B.filter(pl.col("ts") < T0 + timedelta(minutes=300)), line("B", range(700, 900), set())])
    found = judged(parts(gap), events(("B", 30, 35), ("B", 500, 505), ("B", 950, 955))).found
    assert (found["events"], found["uncovered_events"]) == (2, 1)
    assert any("did not run" in text for text in found["warnings"])


EDGES = [  # lead in minutes, outcome: lead_min 2, horizon 60
    (61, "misses"), (60, "hits"), (59, "hits"), (3, "hits"), (2, "hits"), (1, "late"), (0, "late"), (-10, "late"),
    (-11, "misses"),
]  # fmt: skip


@pytest.mark.parametrize(("lead", "outcome"), EDGES)
def test_the_edges_of_being_in_time(lead: int, outcome: str) -> None:
    found = judged(parts(line("A", range(600), {300 - lead})), events(("A", 300, 310))).found
    assert [name for name in ("hits", "late", "misses") if found[name]] == [outcome]


def test_coverage_takes_rows_away_and_counts_no_day_for_them() -> None:
    kept = pl.DataFrame({"symbol": ["A", "A"], "start": at(-1, 1050), "end": at(400, 1440)})
    found = evaluate(parts(A, B), EVENTS, HOUR, kept).found
    assert found["covered_symbol_days"] == pytest.approx((401 + 389) / 1440)
    assert (found["events"], found["hits"], found["false_episodes"]) == (2, 2, 0)  # 200 and 1100; 1000 was not covered


def test_alerts_count_from_when_they_could_be_known() -> None:
    """The alert at 150 was available at 199: one minute before the onset it is late."""
    delayed = A.with_columns(available_at=pl.when(pl.col("score") > 0.5).then(pl.col("ts") + timedelta(minutes=49)))
    found = judged(parts(delayed), events(("A", 200, 210))).found
    assert (found["hits"], found["late"]) == (0, 1)


def test_the_benchmark_takes_an_alert_in_the_first_row_at_which_it_was_known() -> None:
    """Told 3 s after its row, it is the next row's; after the last row it is no row's."""
    late = pl.when(pl.col("score") > 0.5).then(pl.col("ts") + timedelta(seconds=3))
    onset = events(("A", 1100, 1105))
    told, next_row = (
        judged(parts(rows), onset).found["nab"]
        for rows in (
            line("A", range(1440), {1060, 1439}).with_columns(available_at=late),
            line("A", range(1440), {1061}),
        )
    )
    assert told == next_row
    assert told["standard"] > 50


POLICIES: list[tuple[dict[str, int], int]] = [
    ({}, 4),
    ({"persistence": 3}, 1),  # 10, 11, 12
    ({"episodes_per_symbol_day_max": 1}, 1),
]


@pytest.mark.parametrize(("changes", "episodes"), POLICIES)
def test_persistence_and_cap_are_part_of_the_policy(changes: dict[str, int], episodes: int) -> None:
    rows = line("A", range(1440), {10, 11, 12, 13, 400, 401, 700, 1000})
    assert judged(parts(rows), events(), **changes).found["episodes"] == episodes


# --- thresholds ---


def test_a_budget_is_kept_where_the_threshold_is_chosen_and_those_rows_are_not_judged() -> None:
    rng = np.random.default_rng(1)
    frame = pl.DataFrame({"symbol": "A", "ts": at(*range(20 * 1440)), "score": rng.random(20 * 1440)})
    until = T0 + timedelta(days=10)
    found = judged(parts(frame), events(), threshold=None, budget=2.0, fit_until=until).found
    early = frame.filter(pl.col("ts") <= until)
    assert evaluate(parts(early), events(), Settings(**{**HOUR.__dict__, "threshold": found["threshold"]})).found[
        "episodes"
    ] == pytest.approx(20, abs=2)
    assert found["scored_rows"] == 10 * 1440 - 1
    assert 10 < found["episodes"] < 35
    assert found["recall_at_budget"] == {"0.1": None, "0.5": None, "1": None, "2": None}


def test_without_threshold_and_without_rows_to_choose_one_on_nothing_is_judged() -> None:
    with pytest.raises(ValueError, match="`fit_until` must be given"):
        Settings(threshold=None)
    with pytest.raises(ValueError, match="judged row"):
        evaluate(parts(A.clear()), EVENTS, HOUR)


def test_every_violation_of_the_settings_is_named_at_once() -> None:
    with pytest.raises(ValueError, match=r"`horizon_min` .* \| `budget` .* \| `confidence`"):
        Settings(horizon_min=0, lead_min=0, budget=0, confidence=1, threshold=0.1)


# --- against libraries ---


def noisy(seed: int, symbols: int = 3, minutes: int = 3_000) -> tuple[list[pl.DataFrame], pl.DataFrame]:
    rng = np.random.default_rng(seed)
    frames, rows = [], []
    for number in range(symbols):
        onsets = np.sort(rng.choice(np.arange(100, minutes - 100, 300), size=5, replace=False))
        rows += [(f"S{number}", float(m), float(m + 5)) for m in onsets]
        ahead = np.min(
            np.where(onsets[None, :] > np.arange(minutes)[:, None], onsets - np.arange(minutes)[:, None], 999), axis=1
        )
        score = np.round(np.clip(rng.random(minutes) * 0.4 + 0.3 * (ahead <= 60), 0.001, 0.999), 3)
        frames.append(pl.DataFrame({"symbol": f"S{number}", "ts": at(*range(minutes)), "score": score}))
    return frames, events(*rows)


def bars_of(frames: list[pl.DataFrame], found: pl.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Outcome and score of every bar that has one, row by row in plain Python."""
    happened, score = [], []
    for frame in frames:
        own = [(row["onset"], row["end"]) for row in found.filter(pl.col("symbol") == frame["symbol"][0]).to_dicts()]
        last = frame["ts"].max()
        for ts, value in frame.select("ts", "score").iter_rows():
            inside = any(onset <= ts <= end + timedelta(minutes=60) for onset, end in own)
            if inside or ts + timedelta(minutes=60) > last:
                continue
            happened.append(any(ts < onset <= ts + timedelta(minutes=60) for onset, _ in own))
            score.append(value)
    return np.array(happened, dtype=float), np.array(score)


@pytest.mark.parametrize("seed", range(3))
def test_bar_figures_are_those_of_scikit_learn(seed: int) -> None:
    frames, found = noisy(seed)
    happened, score = bars_of(frames, found)
    told = judged(parts(*frames), found).found
    assert told["prevalence"] == pytest.approx(happened.mean())
    assert told["average_precision"] == pytest.approx(sk.average_precision_score(happened, score))
    assert told["roc_auc"] == pytest.approx(sk.roc_auc_score(happened, score))
    assert told["brier"] == pytest.approx(sk.brier_score_loss(happened, score))
    assert told["log_loss"] == pytest.approx(sk.log_loss(happened, score))
    low, high = told["average_precision_lift_ci"]
    assert low < told["average_precision_lift"] < high


@pytest.mark.parametrize("seed", range(3))
def test_the_parts_of_the_brier_score_sum_to_it(seed: int) -> None:
    frames, found = noisy(seed)
    told, split = judged(parts(*frames), found).found, corp(*bars_of(frames, found))
    assert split is not None
    assert told["corp"] == pytest.approx(split._asdict())
    assert told["corp"]["miscalibration"] - told["corp"]["discrimination"] + told["corp"][
        "uncertainty"
    ] == pytest.approx(told["brier"])


def test_scores_that_are_no_probabilities_have_no_calibration() -> None:
    found = judged(parts(A.with_columns(pl.col("score") * 9)), threshold=4.0).found
    assert found["brier"] is None
    assert found["average_precision"] is not None
    assert any("no probabilities" in text for text in found["warnings"])


def test_counting_with_fewer_bits_changes_a_ranking_by_less_than_a_thousandth(monkeypatch: pytest.MonkeyPatch) -> None:
    frames, found = noisy(4, minutes=20_000)
    fine = [
        frame.with_columns(pl.col("score") + pl.Series(np.random.default_rng(2).random(20_000) * 1e-3))
        for frame in frames
    ]
    exact = judged(parts(*fine), found).found
    monkeypatch.setattr(tally, "ROWS_EXACT", 1)
    coarse = judged(parts(*fine), found).found
    assert exact["exact_scores"]
    assert not coarse["exact_scores"]
    for name in ("average_precision_lift", "roc_auc", "area_skill_score", "brier", "event_recall"):
        assert coarse[name] == pytest.approx(exact[name], rel=2e-3)


@given(st.integers(0, 40), st.integers(0, 40))
def test_intervals_are_those_of_scipy(hits: int, more: int) -> None:
    found = clopper_pearson(hits, hits + more)
    if hits + more == 0:
        assert found is None
        return
    want = stats.binomtest(hits, hits + more).proportion_ci(0.95, method="exact")
    assert found == pytest.approx((want.low, want.high), abs=1e-9)


@pytest.mark.parametrize("count", [0, 1, 3, 50])
def test_a_poisson_interval_leaves_a_fortieth_on_either_side(count: int) -> None:
    low, high = poisson_rate(count, 4.0) or (np.nan, np.nan)
    assert stats.poisson.cdf(count, high * 4.0) == pytest.approx(0.025)
    assert low == 0 if count == 0 else stats.poisson.sf(count - 1, low * 4.0) == pytest.approx(0.025)


# --- alarm time ---


@profile(max_examples=60)
@given(st.data())
def test_the_area_skill_of_bars_is_the_auc_and_half_of_the_prevalence(data: st.DataObject) -> None:
    """Each bar an alarm for itself and each happening bar an event: ASS = (1 - pi) AUC + pi / 2."""
    size = data.draw(st.integers(5, 60))
    score = np.array(data.draw(st.lists(st.integers(0, 8), min_size=size, max_size=size)), dtype=float)
    happened = np.array(data.draw(st.lists(st.booleans(), min_size=size, max_size=size)), dtype=float)
    if not 0 < happened.sum() < size:
        return
    level, bars = np.unique(score, return_counts=True)
    found = molchan(level, bars.astype(float), score[happened > 0])
    assert found is not None
    pi = happened.mean()
    assert found.area_skill == pytest.approx((1 - pi) * sk.roc_auc_score(happened, score) + pi / 2)


def test_standing_is_the_highest_score_of_the_bars_that_warn() -> None:
    rng = np.random.default_rng(0)
    score = np.where(rng.random(300) < 0.2, -np.inf, rng.random(300))
    window = Window.of(2, 10, 60)
    want = [max((score[j] for j in range(max(i - 10, 0), i - 1)), default=-np.inf) for i in range(300)]
    assert window.standing(score).tolist() == want
    assert Window.of(2, 60, 300) == Window(1, 12)
    with pytest.raises(ValueError, match="ahead"):
        Window.of(61, 62, 300)


def test_always_on_and_never_have_the_skill_of_chance() -> None:
    rows = line("A", range(5_000), set(), quiet=0.7)
    found = judged(parts(rows), events(("A", 1000, 1010), ("A", 3000, 3010))).found
    assert found["area_skill_score"] == pytest.approx(0.5, abs=0.02)
    assert found["alarm_time_share"] > 0.99
    assert any("under alarm" in text for text in found["warnings"])


def test_hits_of_a_rolled_alarm_by_hand() -> None:
    """Alarm in bars 3, 4 of 10; onsets at 4 and 9. Rolled by 5 it stands in 8, 9: one hit; by 1 in 4, 5: one."""
    region = np.isin(np.arange(10), [3, 4])
    assert shifted_hits(region, np.array([4, 9]), np.array([5, 1, 0, 2])).tolist() == [1, 1, 1, 0]
    assert shift_p(1, np.array([1, 1, 0])) == pytest.approx(3 / 4)
    assert shift_p(1, np.array([], dtype=np.int64)) is None


def test_a_persistent_score_that_knows_nothing_is_rejected_as_often_as_stated() -> None:
    """A plain permutation test rejects a third of these; shifts 5 %, give or take what 400 worlds allow."""
    window, rejected, bars = Window.of(2, 60, 60), 0, 6_000
    for seed in range(400):
        rng = np.random.default_rng(seed)
        walk = np.zeros(bars)
        for i, step in enumerate(rng.normal(size=bars)[1:], start=1):
            walk[i] = 0.995 * walk[i - 1] + step
        alarm = np.where(walk > np.quantile(walk, 0.9), 1.0, -np.inf)
        region = window.standing(alarm) > 0
        onsets = rng.integers(0, bars, size=12)
        p = shift_p(int(region[onsets].sum()), shifted_hits(region, onsets, drawn_shifts(bars, window, 199, seed)))
        rejected += p is not None and p <= 0.05
    assert 0.02 <= rejected / 400 <= 0.08


def test_a_signal_is_told_from_chance_and_labels_moved_away_from_it_are_not() -> None:
    frames, found = noisy(7, minutes=12_000)
    planted = judged(parts(*frames), found).found
    moved = found.with_columns(pl.col("onset", "end") + timedelta(minutes=5_000))
    placebo = judged(parts(*frames), moved).found
    assert planted["circular_shift_p"] < 0.01
    assert planted["average_precision_lift"] > 2
    assert planted["area_skill_score"] > 0.75
    assert placebo["circular_shift_p"] > 0.05
    assert placebo["average_precision_lift"] < 1.5


def test_months_and_symbols_add_up_to_the_whole() -> None:
    found = judged().found
    for split in ("by_symbol", "by_month"):
        for name in ("events", "hits", "late", "misses", "episodes", "false_episodes", "covered_symbol_days"):
            assert sum(part[name] for part in found[split].values()) == pytest.approx(found[name])
    assert list(found["by_month"]) == ["2025-01"]


def test_fewer_than_five_events_support_no_claim() -> None:
    few = judged(parts(A), EVENTS).found
    assert any("support no claim" in text for text in few["warnings"])
    assert not any("support no claim" in text for text in judged().found["warnings"])


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.95])
def test_the_policy_never_alerts_on_a_null(threshold: float) -> None:
    rows = A.with_columns(score=pl.lit(None, dtype=pl.Float64))
    assert AlarmPolicy(threshold).alerts(rows).is_empty()


def test_a_gap_makes_a_permanent_alarm_no_better_than_chance() -> None:
    """Rolled over the clock, gaps would take hits away from every shift but the one that happened."""
    rows = line("A", range(5_000), set(), quiet=0.7)
    kept = rows.filter(~pl.col("ts").is_between(T0 + timedelta(minutes=2_000), T0 + timedelta(minutes=3_500)))
    onsets = [("A", float(m), float(m + 10)) for m in (500, 900, 1300, 1700, 3900, 4300, 4700)]
    found = judged(parts(kept), events(*onsets)).found
    assert found["event_recall"] == 1.0
    assert found["circular_shift_p"] > 0.9
