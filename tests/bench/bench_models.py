"""Models: training, scoring and explaining beside plain LightGBM and scikit-learn, and every detector.

`python -m tests.bench.bench_models [--rows N] [--rounds N] [--full]` draws rows with a planted signal and prints one
Markdown table. Ours is one booster over five intervals; the others are five binary models, one per horizon, with the
same rounds, leaves, learning rate, smallest leaf and l2. Everything runs on one thread, in alternating rounds of one
process. The lift of each on held-out rows (5 / 60 / 240 min; 1 is chance) says whether equals are
compared; `falls` is the share of rows where a longer horizon is said to be the less likely one. `x ours` is the cost
as a multiple of the first row of its kind.

Ours learns from a quarter of the quiet rows (and corrects for it); the others from all, as the scripts do that people
write, and LightGBM from the same quarter too, so that what thinning saves is not taken for what one booster saves.
`--full` adds ours on every row and scikit-learn thinned. What counts are ratios: absolute times belong to the machine.
"""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import lightgbm
import numpy as np
import polars as pl
from sklearn.ensemble import HistGradientBoostingClassifier
from threadpoolctl import threadpool_limits

from models.calibration import Floats
from models.detectors.suite import DETECTORS, fit
from models.explain import reasons
from models.fitting import Recipe, TreeSettings, fit_trees, grow, parameters, values_of
from models.metrics import average_precision_lift
from models.periods import HORIZONS_MIN, TARGETS
from models.scorers import Trees
from models.warning import ALERT_HORIZON_MIN, PROBABILITIES, Limits, WarningModel, fitted
from tests.bench.bench_cascade import Took, median, once

ROWS, FEATURES, SYMBOLS, SEED = 200_000, 60, 20, 7
LATER, DETECTED, EXPLAINED = 30_000, 60_000, 100
START = datetime(2025, 1, 1, tzinfo=UTC)
NAMES = tuple(f"f{place:02}" for place in range(FEATURES))
FAMILY_OF = {name: f"family_{place // 10}" for place, name in enumerate(NAMES)}
TAILS = {name: "both" if place % 3 == 0 else "high" for place, name in enumerate(NAMES)}
HAZARD_PER_MIN = 1e-4
SOON_MIN = 15.0
TITLES = ("what", "program", "rows", "wall s", "CPU s", "rows / CPU s", "x ours, CPU", "x ours, wall", "lift", "falls")
LIFTS = tuple(HORIZONS_MIN.index(horizon) for horizon in (5, ALERT_HORIZON_MIN, 240))
Scores = Callable[[Floats], Floats]


# --- the rows ---


def world(rows: int, seed: int) -> pl.DataFrame:
    """Rows with NAMES and TARGETS; minutes until the onset are exponential, at two rates.

        risk  = 0.9 f00 + 0.7 |f01| + 0.6 f02 [f03 > 0]
        rate  = HAZARD_PER_MIN exp(risk + 1.2 f04) up to SOON_MIN, HAZARD_PER_MIN exp(risk) after

    One value in twenty is null; the other 55 features tell nothing.
    """
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, FEATURES))
    risk = 0.9 * x[:, 0] + 0.7 * np.abs(x[:, 1]) + 0.6 * x[:, 2] * (x[:, 3] > 0)
    soon, late = HAZARD_PER_MIN * np.exp(risk + 1.2 * x[:, 4]), HAZARD_PER_MIN * np.exp(risk)
    spent = rng.exponential(size=rows)
    until = np.where(spent < SOON_MIN * soon, spent / soon, SOON_MIN + (spent - SOON_MIN * soon) / late)
    x[rng.random(x.shape) < 0.05] = np.nan
    minutes = pl.Series([START + timedelta(minutes=k // SYMBOLS) for k in range(rows)], dtype=pl.Datetime("us", "UTC"))
    return pl.DataFrame(x, schema=list(NAMES)).with_columns(
        pl.all().fill_nan(None),
        pl.lit("v").alias("venue"),
        pl.Series("symbol", [f"S{k % SYMBOLS:02}" for k in range(rows)]),
        minutes.alias("ts"),
        minutes.alias("known_at"),
        *(pl.Series(name, until <= horizon).cast(pl.Int8) for name, horizon in zip(TARGETS, HORIZONS_MIN, strict=True)),
    )


def thinned(values: Floats, happened: Floats, share: float, seed: int) -> tuple[Floats, Floats]:
    """Every row that happened and about `share` of the others."""
    kept = (happened > 0) | (np.random.default_rng(seed).random(happened.size) < share)
    return values[kept], happened[kept]


# --- the programs: values and targets in, scores of five horizons out ---


@dataclass(frozen=True)
class Rows:
    """The same rows as each program takes them: ours a frame, the others arrays that are theirs already."""

    frame: pl.DataFrame
    values: Floats
    happened: Floats  # (rows, horizons)

    @classmethod
    def of(cls, frame: pl.DataFrame) -> "Rows":
        return cls(frame, values_of(frame, NAMES), values_of(frame, TARGETS))


def ours(rows: Rows, settings: TreeSettings) -> Trees:
    return fit_trees(rows.frame, NAMES, Recipe(settings, SEED, {}, grow))


def boosters(rows: Rows, settings: TreeSettings, share: float) -> list[Any]:
    chosen = parameters(settings, [], SEED)
    found = []
    for happened in rows.happened.T:
        x, y = thinned(rows.values, happened, share, SEED) if share < 1 else (rows.values, happened)
        found.append(lightgbm.train(chosen, lightgbm.Dataset(x, label=y), num_boost_round=settings.rounds))
    return found


def histograms(rows: Rows, settings: TreeSettings, share: float) -> list[Any]:
    found = []
    for happened in rows.happened.T:
        x, y = thinned(rows.values, happened, share, SEED) if share < 1 else (rows.values, happened)
        model = HistGradientBoostingClassifier(
            max_iter=settings.rounds,
            max_leaf_nodes=settings.leaves,
            learning_rate=settings.learning_rate,
            min_samples_leaf=settings.leaf_rows_min,
            l2_regularization=settings.l2,
            early_stopping=False,
            random_state=SEED,
        )
        found.append(model.fit(x, y))
    return found


def of_boosters(models: list[Any], values: Floats) -> Floats:
    return np.column_stack([model.predict(values, num_threads=1) for model in models])


def of_histograms(models: list[Any], values: Floats) -> Floats:
    return np.column_stack([model.predict_proba(values)[:, 1] for model in models])


def trainers(settings: TreeSettings, full: bool) -> dict[str, Callable[[Rows], Any]]:
    alike = settings.negative_share
    usual = {
        "ours": partial(ours, settings=settings),
        "LightGBM x 5": partial(boosters, settings=settings, share=1.0),
        "LightGBM x 5, thinned": partial(boosters, settings=settings, share=alike),
        "scikit-learn x 5": partial(histograms, settings=settings, share=1.0),
    }
    more = {
        "ours, every row": partial(ours, settings=replace(settings, negative_share=1.0)),
        "scikit-learn x 5, thinned": partial(histograms, settings=settings, share=alike),
    }
    return usual | more if full else usual


def probabilities(found: Any, train: Rows, calibrate: Rows) -> Scores:
    """What a trained program says of rows. Ours without abstention here, so that every row is judged."""
    if isinstance(found, Trees):
        told = replace(fitted(found, train.frame, calibrate.frame), limits=Limits(1.0, 1.0))
        return lambda values: told.predict(keyed(values)).select(PROBABILITIES).to_numpy()
    return partial(of_boosters if isinstance(found[0], lightgbm.Booster) else of_histograms, found)


def keyed(values: Floats) -> pl.DataFrame:
    frame = pl.DataFrame(values, schema=list(NAMES))
    return frame.with_columns(pl.lit("v").alias("venue"), pl.lit("S00").alias("symbol"), pl.lit(START).alias("ts"))


def lifts(p: Floats, happened: Floats) -> tuple[float | None, ...]:
    """Average-precision lift of every horizon."""
    return tuple(average_precision_lift(happened[:, k], p[:, k]) for k in range(len(HORIZONS_MIN)))


def falls(p: Floats) -> float:
    """Share of rows where a longer horizon is said to be less likely than a shorter one."""
    return float((np.diff(p, axis=1) < 0).any(axis=1).mean())


# --- in rounds ---


def in_rounds(programs: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, tuple[Any, Took]]:
    """What each returned last, and medians over alternating rounds."""
    seen: dict[str, list[tuple[Any, Took]]] = {name: [] for name in programs}
    for _ in range(rounds):
        for name, program in programs.items():
            seen[name].append(once(program))
    return {name: (some[-1][0], median([took for _, took in some])) for name, some in seen.items()}


def row(what: str, program: str, rows: int, took: Took, mine: Took | None = None, *told: str) -> list[str]:
    ratios = ["", ""] if mine is None else [f"{took.cpu / mine.cpu:.2f}", f"{took.wall / mine.wall:.2f}"]
    cells = [what, program, f"{rows:,}", f"{took.wall:.3g}", f"{took.cpu:.3g}", f"{rows / took.cpu:,.0f}", *ratios]
    return [*cells, *told, *[""] * (len(TITLES) - len(cells) - len(told))]


def training(train: Rows, calibrate: Rows, test: Rows, rounds: int, full: bool) -> tuple[dict[str, Any], list[Any]]:
    """Trained models by program, and rows of the table. Lift of 5, 60 and 240 min on `test`."""
    programs = trainers(TreeSettings(), full)
    small = Rows.of(train.frame.head(2_000))
    for name, program in trainers(TreeSettings(rounds=2), full).items():
        assert program(small), f"{name} trained nothing"
    found = in_rounds({name: partial(program, train) for name, program in programs.items()}, rounds)
    table, mine = [], found["ours"][1]
    for name, (model, took) in found.items():
        p = probabilities(model, train, calibrate)(test.values)
        lift = " / ".join(f"{lifts(p, test.happened)[k] or np.nan:.1f}" for k in LIFTS)
        table.append(row("train", name, len(train.values), took, mine, lift, f"{falls(p):.1%}"))
    return {name: model for name, (model, _) in found.items()}, table


def scoring(model: WarningModel, trained: dict[str, Any], test: Rows, rounds: int) -> list[list[str]]:
    """Ours takes a frame and returns one with probabilities, band and abstention; the others arrays."""
    programs = {
        "ours: predict": partial(model.predict, test.frame),
        "LightGBM x 5": partial(of_boosters, trained["LightGBM x 5"], test.values),
        "scikit-learn x 5": partial(of_histograms, trained["scikit-learn x 5"], test.values),
    }
    model.predict(test.frame.head(10))
    found = in_rounds(programs, rounds)
    mine = found["ours: predict"][1]
    return [row("score", name, len(test.values), took, mine) for name, (_, took) in found.items()]


def explaining(model: WarningModel, test: Rows, rounds: int) -> list[list[str]]:
    """The rows that alert are explained: here those with the highest probability. Ratio: to predict of those rows."""
    p = test.frame.with_columns(model.predict(test.frame)[f"p_{ALERT_HORIZON_MIN}m"].alias("p"))
    some = p.sort("p", descending=True, nulls_last=True).drop("p").head(EXPLAINED)
    reasons(model, some, FAMILY_OF)
    found = in_rounds(
        {"ours: predict": lambda: model.predict(some), "ours: reasons": lambda: reasons(model, some, FAMILY_OF)},
        max(rounds, 5),
    )
    mine = found["ours: predict"][1]
    return [row("explain", name, some.height, took, mine) for name, (_, took) in found.items()]


def detecting(matrix: pl.DataFrame, rounds: int) -> list[list[str]]:
    """Every kind, fitted on and asked about the same rows."""
    for kind in DETECTORS:
        fit(kind, matrix.head(2_000), FAMILY_OF, TAILS).score(matrix.head(100))
    fits = in_rounds({kind: partial(fit, kind, matrix, FAMILY_OF, TAILS) for kind in DETECTORS}, rounds)
    scores = in_rounds({kind: partial(found.score, matrix) for kind, (found, _) in fits.items()}, rounds)
    return [
        row(f"detector, {what}", kind, matrix.height, took)
        for kind in DETECTORS
        for what, (_, took) in (("fit", fits[kind]), ("score", scores[kind]))
    ]


def markdown(table: list[list[str]]) -> str:
    """One Markdown table under TITLES."""
    lines = [TITLES, ("---", "---", *["--:"] * (len(TITLES) - 2)), *table]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument(
        "--full", action="store_true", help="three rounds; ours on every row and scikit-learn thinned, too"
    )
    given = parser.parse_args()
    rounds = max(given.rounds, 3) if given.full else given.rounds
    train, calibrate, test = (Rows.of(world(rows, SEED + k)) for k, rows in enumerate((given.rows, LATER // 2, LATER)))
    with threadpool_limits(limits=1):
        trained, table = training(train, calibrate, test, rounds, given.full)
        model = fitted(trained["ours"], train.frame, calibrate.frame)
        table += scoring(model, trained, test, rounds)
        table += explaining(model, test, rounds)
        table += detecting(train.frame.head(DETECTED), rounds)
    print(markdown(table))


if __name__ == "__main__":
    main()
