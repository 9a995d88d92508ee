"""Why a probability is what it is: contributions of feature families in log-odds, and one sentence of them.

Reasons cost several times a prediction: ask for the rows that alert, not for all.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from features.words import sentence
from models.calibration import Floats, logit
from models.periods import INTERVALS
from models.precedents import nearest
from models.warning import ALERT, KEYS, Limits, WarningModel

Names = NDArray[np.str_]

BASE = "base"
OTHER = "other"
FAMILIES_MAX = 3
LOG_ODDS_MIN = 0.05  # rounds to +0.1; less is not a reason
NO_REASON = "no family raises the risk above its base"


def _of_family(keys: pl.DataFrame, family: str, parts: Floats, values: Floats, names: Names) -> pl.DataFrame:
    """One row per row of `keys`: the family's sum and its leading feature."""
    lead, row = parts.argmax(axis=1), np.arange(keys.height)
    return keys.with_columns(
        pl.lit(family).alias("family"),
        pl.Series("log_odds", parts.sum(axis=1)),
        pl.Series("feature", names[lead].tolist(), dtype=pl.String),
        pl.Series("feature_log_odds", parts[row, lead]),
        pl.Series("value", values[row, lead]).fill_nan(None),
    )


def contributions(
    model: WarningModel, matrix: pl.DataFrame, families: Mapping[str, str], interval: int
) -> pl.DataFrame:
    """What each family of features adds to the log-odds of one interval's hazard, for every row of `matrix`.

    Returns `venue, symbol, ts, family, log_odds, feature, feature_log_odds, value, interval`: `feature` is the one
    that adds most within the family, `value` what was seen (null = missing). Family `base` is what no feature adds;
    a feature that `families` does not name belongs to `other`. Per row `log_odds` sums to the scorer's log-odds.

    Raises ValueError if a feature of the model is not a column of `matrix`.
    """
    values, keys = model.values(matrix), matrix.select(KEYS)
    parts = model.scorer.contributions(values, interval)
    family_of = np.array([families.get(name, OTHER) for name in model.features])
    names = np.array(model.features)
    masks = {str(family): family_of == family for family in np.unique(family_of)}
    found = [
        _of_family(keys, family, parts[:, :-1][:, mine], values[:, mine], names[mine]) for family, mine in masks.items()
    ]
    base = _of_family(keys, BASE, parts[:, -1:], np.full((keys.height, 1), np.nan), np.array([BASE]))
    return pl.concat([*found, base]).with_columns(pl.lit(INTERVALS[interval]).alias("interval"))


def sentences(found: pl.DataFrame) -> pl.DataFrame:
    """`venue, symbol, ts, lead_family, reasons` from the `contributions` of one interval per key.

    Up to FAMILIES_MAX families that raise the risk, strongest first; the single feature that adds most is named with
    its value. `lead_family` is null where none raises it by LOG_ODDS_MIN.
    """
    rising = (
        found.filter((pl.col("family") != BASE) & (pl.col("log_odds") >= LOG_ODDS_MIN))
        .sort(*KEYS, "log_odds", "family", descending=[False, False, False, True, False])
        .filter(pl.int_range(pl.len()).over(KEYS) < FAMILIES_MAX)
    )
    strongest = pl.int_range(pl.len()).over(KEYS) == pl.col("feature_log_odds").arg_max().over(KEYS)
    value = pl.col("value").round_sig_figs(3).cast(pl.String)
    seen = pl.when(pl.col("value").is_null()).then(sentence(" ({} missing)", "feature"))
    text = sentence("{} +{}", "family", pl.col("log_odds").round(1)) + pl.when(strongest).then(
        seen.otherwise(sentence(" ({} = {})", "feature", value))
    ).otherwise(pl.lit(""))
    worded = (
        rising.with_columns(text.alias("reasons"))
        .group_by(KEYS, maintain_order=True)
        .agg(lead_family=pl.col("family").first(), reasons=pl.col("reasons").str.join(", "))
    )
    return (
        found.select(KEYS)
        .unique(maintain_order=True)
        .join(worded, on=KEYS, how="left", maintain_order="left")
        .with_columns(pl.col("reasons").fill_null(NO_REASON))
    )


def reason_sentence(found: pl.DataFrame) -> str:
    """The sentence for the `contributions` of one row and interval.

    >>> keys = {"venue": "v", "symbol": "A", "ts": 0, "interval": "0_15", "value": 5.1}
    >>> rows = [("thin_book", 1.2, "depth_z", 0.6), ("crowding", 0.8, "basis_z_240", 0.7), ("base", -4.0, "base", -4.0)]
    >>> columns = ("family", "log_odds", "feature", "feature_log_odds")
    >>> reason_sentence(pl.DataFrame([keys | dict(zip(columns, row, strict=True)) for row in rows]))
    'thin_book +1.2, crowding +0.8 (basis_z_240 = 5.1)'
    """
    worded = sentences(found)
    if worded.height != 1:
        raise ValueError(f"contributions must be those of one row, were of {worded.height}")
    return str(worded["reasons"][0])


def leading_intervals(model: WarningModel, matrix: pl.DataFrame) -> NDArray[np.intp]:
    """For every row the interval whose hazard stands highest above that of a usual row, in log-odds."""
    values = model.values(matrix)
    usual = model.hazards(np.array([model.support.usual]))
    odds = logit(model.hazards(values)) - logit(usual)
    return np.asarray(odds.argmax(axis=1), dtype=np.intp)


def explained(model: WarningModel, matrix: pl.DataFrame, families: Mapping[str, str]) -> pl.DataFrame:
    """The `contributions` of every row's leading interval, in the order of `matrix`."""
    if matrix.is_empty():
        return contributions(model, matrix, families, 0)
    chosen = leading_intervals(model, matrix)
    parts = [matrix.filter(pl.Series(chosen == k)) for k in range(len(INTERVALS))]
    found = pl.concat([contributions(model, part, families, k) for k, part in enumerate(parts) if part.height])
    return matrix.select(KEYS).join(found, on=KEYS, how="left", maintain_order="left_right")


def reasons(model: WarningModel, matrix: pl.DataFrame, families: Mapping[str, str]) -> pl.DataFrame:
    """`venue, symbol, ts, lead_family, reasons` for every row of `matrix`, explained by its leading interval.

    Where the model remembers past episodes, the sentence ends with the one that was most alike.
    """
    found = explained(model, matrix, families)
    told = sentences(found)
    if not model.precedents:
        return told
    like = nearest(found, model.precedents)
    ending = pl.format("; most like {} of {}", "like_symbol", pl.col("like_onset").dt.strftime("%Y-%m-%d %H:%MZ"))
    joined = told.join(like, on=KEYS, how="left", maintain_order="left")
    return joined.with_columns(pl.col("reasons") + ending.fill_null("")).select(told.columns)


def what_if(model: WarningModel, matrix: pl.DataFrame, families: Mapping[str, str]) -> pl.DataFrame:
    """What the alert probability would be, were one family of features as usual.

    Returns `venue, symbol, ts, family, p, p_if_usual`: every feature of the family at its median in training, the
    others as they are. One row per row of `matrix` and family. No statement about causes: features move together.
    """
    family_of = np.array([families.get(name, OTHER) for name in model.features])
    usual = dict(zip(model.features, model.support.usual, strict=True))
    answers = replace(model, limits=Limits(1.0, 1.0))
    now = answers.predict(matrix).select(*KEYS, p=ALERT)
    found = []
    for family in dict.fromkeys(family_of.tolist()):
        calm = {name: usual[name] for name, own in zip(model.features, family_of, strict=True) if own == family}
        changed = matrix.with_columns(pl.lit(value, dtype=pl.Float64).alias(name) for name, value in calm.items())
        p = answers.predict(changed)[ALERT]
        found.append(now.with_columns(pl.lit(family).alias("family"), p.alias("p_if_usual")))
    return pl.concat(found).select(*KEYS, "family", "p", "p_if_usual")
