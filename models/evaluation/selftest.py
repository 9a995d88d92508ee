"""Scorers whose worth is known, and what an evaluation must say of each: a suite that cannot tell them apart is broken.

In: a seed. Out: per scorer what it is, what was measured, and whether the suite saw it. Never: real data.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from models.evaluation.evaluate import Parts, evaluate
from models.evaluation.settings import Settings

Floats = NDArray[np.float64]
Saw = Callable[[Mapping[str, Any]], bool]

START = datetime(2025, 1, 1, tzinfo=UTC)
SYMBOLS, DAYS, EVENTS = 6, 40, 10  # per symbol
DAY_MIN, HORIZON_MIN, EVENT_MIN = 1_440, 60, 30
PERIODIC_MIN = 600
WITHIN = 0.05  # of a p-value: chance does not do as well


@dataclass(frozen=True)
class World:
    """Bars of SYMBOLS x DAYS and their cascades; `until`: minutes to the next onset, by symbol; `inside`: an event."""

    events: pl.DataFrame
    until: tuple[Floats, ...]
    inside: tuple[NDArray[np.bool_], ...]
    seed: int

    def parts(self, scorer: "Scorer") -> Parts:
        minutes = DAYS * DAY_MIN
        first = pl.Series("ts", [START], dtype=pl.Datetime("us", "UTC"))
        ts = first[0] + pl.int_range(minutes, eager=True).cast(pl.Int64) * timedelta(minutes=1)

        def each() -> Iterator[pl.DataFrame]:
            for number in range(SYMBOLS):
                rng = np.random.default_rng([self.seed, number])
                score = scorer.score(self.until[number], self.inside[number], rng)
                yield pl.DataFrame({"symbol": f"S{number}", "ts": ts, "score": score})

        return each


@dataclass(frozen=True)
class Scorer:
    """A score of each bar from what is to come; `says`: what an honest suite must find, in words and as a condition."""

    name: str
    score: Callable[[Floats, NDArray[np.bool_], np.random.Generator], Floats]
    says: str
    saw: Saw


@dataclass(frozen=True)
class Checked:
    name: str
    says: str
    seen: bool
    found: Mapping[str, Any]


def world(seed: int) -> World:
    """Onsets at random, at least half a day apart."""
    rng, rows, until, inside = np.random.default_rng(seed), [], [], []
    minutes = np.arange(DAYS * DAY_MIN)
    for number in range(SYMBOLS):
        slots = np.sort(rng.choice(np.arange(1, DAYS * 2 - 1), EVENTS, replace=False))
        onsets = slots * DAY_MIN // 2 + rng.integers(0, 300, EVENTS)
        following = np.append(onsets, 10**9)[np.searchsorted(onsets, minutes, side="right")]
        before = np.append(-(10**9), onsets)[np.searchsorted(onsets, minutes, side="right")]
        until.append((following - minutes).astype(np.float64))
        inside.append(minutes - before <= EVENT_MIN)
        rows += [
            (f"S{number}", START + timedelta(minutes=int(m)), START + timedelta(minutes=int(m) + EVENT_MIN))
            for m in onsets
        ]
    schema = {"symbol": pl.String(), "onset": pl.Datetime("us", "UTC"), "end": pl.Datetime("us", "UTC")}
    return World(pl.DataFrame(rows, schema=schema, orient="row"), tuple(until), tuple(inside), seed)


# --- scorers ---


def _noise(size: int, rng: np.random.Generator) -> Floats:
    """Persistent, between 0 and 1."""
    steps = rng.normal(size=size)
    walk = pl.Series(steps).ewm_mean(half_life=60).to_numpy()
    return np.asarray(0.4 / (1 + np.exp(-8 * walk)), dtype=np.float64)


def _planted(until: Floats, _: NDArray[np.bool_], rng: np.random.Generator) -> Floats:
    return np.asarray(np.minimum(_noise(until.size, rng) + 0.5 * (until <= rng.integers(20, 60)), 1.0))


def _placebo(until: Floats, inside: NDArray[np.bool_], rng: np.random.Generator) -> Floats:
    return np.roll(_planted(until, inside, rng), int(rng.integers(2_000, 10_000)))


def _always(until: Floats, _: NDArray[np.bool_], __: np.random.Generator) -> Floats:
    return np.ones_like(until)


def _never(until: Floats, _: NDArray[np.bool_], __: np.random.Generator) -> Floats:
    return np.zeros_like(until)


def _periodic(until: Floats, _: NDArray[np.bool_], __: np.random.Generator) -> Floats:
    return np.asarray((np.arange(until.size) % PERIODIC_MIN == 0).astype(np.float64))


def _late(until: Floats, inside: NDArray[np.bool_], rng: np.random.Generator) -> Floats:
    return np.where(inside, 0.9, _noise(until.size, rng))


def _leaked(until: Floats, _: NDArray[np.bool_], __: np.random.Generator) -> Floats:
    return (until <= HORIZON_MIN).astype(np.float64) * 0.99 + 0.005


SCORERS = (
    Scorer(
        "planted signal", _planted, "warns in time, more often than chance",
        lambda f: f["event_recall"] > 0.8 and f["circular_shift_p"] <= WITHIN and f["area_skill_score"] > 0.8,
    ),
    Scorer(
        "placebo", _placebo, "the same alarms at other times: no better than chance",
        lambda f: f["circular_shift_p"] > WITHIN and f["average_precision_lift"] < 2,
    ),
    Scorer(
        "always on", _always, "warns of everything, all the time: no skill",
        lambda f: f["alarm_time_share"] > 0.9 and abs(f["area_skill_score"] - 0.5) < 0.05,
    ),
    Scorer(
        "never", _never, "warns of nothing: no recall, no false alarm",
        lambda f: f["event_recall"] == 0 and f["episodes"] == 0,
    ),
    Scorer(
        "periodic", _periodic, "an alarm every ten hours: no better than chance, although the benchmark likes it",
        lambda f: f["circular_shift_p"] > WITHIN and abs(f["area_skill_score"] - 0.5) < 0.15,
    ),
    Scorer(
        "late only", _late, "alarms once it has begun: late, neither hit nor false alarm",
        lambda f: f["late"] > 0.8 * f["events"] and f["event_recall"] < 0.3,
    ),
    Scorer(
        "leaked label", _leaked, "knows the answer: too good to be believed",
        lambda f: f["roc_auc"] > 0.999 and f["event_recall"] == 1 and any("too good" in w for w in f["warnings"]),
    ),
)  # fmt: skip


def self_test(seed: int = 7) -> tuple[Checked, ...]:
    """Every scorer judged at a threshold of one half, with a horizon of an hour."""
    made = world(seed)
    settings = Settings(horizon_min=HORIZON_MIN, refractory_min=240, threshold=0.5, replicates=400, seed=seed)
    found = [(scorer, evaluate(made.parts(scorer), made.events, settings).found) for scorer in SCORERS]
    return tuple(Checked(one.name, one.says, bool(one.saw(told)), told) for one, told in found)
