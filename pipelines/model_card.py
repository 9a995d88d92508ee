"""The model card: what it is, on what it was judged, what it must not be used for; and the plots beside it."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from features.catalogue import FAMILY_OF
from models.warning import ALERT, WarningModel
from pipelines.case import Case
from pipelines.trial import FoldReport, Ranking, Y, floats

COLUMNS = ("ap_lift_15m", "ap_lift_60m", "ap_lift_240m", "brier_60m", "recall", "false_alarms_per_symbol_day")
BINS = 10


def shown(value: float | None) -> str:
    """
    >>> shown(None), shown(0.012345)
    ('-', '0.0123')
    """
    return "-" if value is None else f"{value:.3g}"


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table in Markdown."""
    return [f"| {' | '.join(line)} |" for line in (columns, ["---"] * len(columns), *rows)]


def _fold_table(folds: Sequence[FoldReport]) -> list[str]:
    rows = [
        [fold.test, str(fold.events), *(shown(fold.metrics.get(name)) for name in COLUMNS), fold.note] for fold in folds
    ]
    return table(("test", "cascades", *COLUMNS, "note"), rows)


def ranking_table(found: Sequence[Ranking]) -> list[str]:
    rows = [
        [one.name, shown(one.ap_lift), f"{shown(one.low)} .. {shown(one.high)}", shown(one.roc_auc)] for one in found
    ]
    return table(("score", "AP lift at 60 min", "90 % over days", "ROC AUC"), rows)


def card(
    case: Case,
    model: WarningModel,
    folds: Sequence[FoldReport],
    *,
    ranked: Sequence[Ranking],
    ablated: Sequence[Ranking],
    verdict: str,
) -> str:
    """The card in Markdown."""
    meta, config = model.metadata, case.config
    best = sorted(zip(model.importance, model.features, strict=True), reverse=True)[:10]
    lines = [
        "# Early-warning model",
        "",
        "Probability that a liquidation cascade starts within 5, 15, 30, 60 and 240 minutes, per symbol and bar.",
        f"Discrete-time hazards ({model.scorer.to_dict()['kind']}), calibrated on time after their training.",
        "",
        f"- venue: {', '.join(case.matrix['venue'].unique().sort())}; symbols: {case.matrix['symbol'].n_unique()}; "
        f"bars of {config.bars.interval_s} s",
        f"- label: {config.label.model_dump_json()}",
        f"- cascades: {case.events.height}, of them {meta['train_events']} in training and "
        f"{meta['calibrate_events']} in calibration (those with a minute that could still be warned)",
        *(f"- {name}: {' to '.join(meta[name])}" for name in ("train", "calibrate", "threshold")),
        f"- calibration: {', '.join(one.kind for one in model.calibrators)}",
        f"- alert at {ALERT} >= {model.threshold:.6g}, by {config.warning.threshold_by}",
        f"- gate: {verdict}",
        f"- wholly null in training, not used: {', '.join(model.dropped) or 'none'}",
        "",
        "## Walk-forward",
        "",
        *_fold_table(folds),
        "",
        "## Beside its rivals, all folds together",
        "",
        *ranking_table(ranked),
        *(["", "## With some of the features", "", *ranking_table(ablated)] if ablated else []),
        "",
        "## What it rests on",
        "",
        *(f"- {name} ({FAMILY_OF.get(name, 'other')}): {share:.3f}" for share, name in best),
        "",
        "## Limits",
        "",
        "It abstains where most of what it rests on is missing, or lies beyond what the training saw. It proposes;",
        "hard limits never depend on it. Fewer than 100 cascades: read the figures as an indication, not as a claim.",
        "",
    ]
    return "\n".join(lines)


def reliability(happened: np.ndarray[Any, Any], p: np.ndarray[Any, Any]) -> pl.DataFrame:
    """`p, share, rows` of BINS groups of equally many rows, by probability: mean p against what happened."""
    order = np.argsort(p, kind="stable")
    parts = [part for part in np.array_split(order, BINS) if part.size]
    means = [(float(p[part].mean()), float(happened[part].mean()), part.size) for part in parts]
    return pl.DataFrame(means, schema=["p", "share", "rows"], orient="row")


def plots(rows: pl.DataFrame | None) -> dict[str, bytes]:
    """Reliability of the test rows as a PNG; nothing where no fold answered."""
    if rows is None:
        return {}
    answered = rows.filter(pl.col(ALERT).is_not_null())
    if answered.is_empty():
        return {}
    from matplotlib.figure import Figure

    found = reliability(floats(answered, Y), floats(answered, ALERT))
    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.subplots()
    top = max(float(floats(found, "p").max()), float(floats(found, "share").max()), 1e-3)
    axes.plot([0, top], [0, top], color="#999999", linewidth=1)
    axes.plot(found["p"].to_numpy(), found["share"].to_numpy(), marker="o", color="#0b5fa5")
    axes.set_xlabel("probability given, mean of the group")
    axes.set_ylabel("share that happened")
    axes.set_title("Cascade within 60 minutes, test rows of all folds")
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=110)
    return {"reliability_60m.png": image.getvalue()}
