"""The unsupervised detector: how unlikely is this minute, judged by a reference period in which nothing was wrong?

Every number it uses comes from the reference period. A row's score depends on that row alone, never on the batch it is
scored in. Only the tail that means risk counts: an unusually deep book is not an anomaly.

    z[j]       = tail of (x[j] - median[j]) / scale[j]               # median, MAD of the symbol in the reference
    s[j]       = -log10 P(Z[j] >= z[j])                              # surprise; pooled, exponential far tail
    family[f]  = max(0, max_j s[j] - log10(members of f))            # the smallest p of the family, Bonferroni
    joint      = sum_f family[f]                                     # as if families were independent ...
    anomaly    = -log10 P(Joint >= joint)                            # ... and made honest by the reference again
    venue      = -log10 P(mean over symbols of min(anomaly, 4) ...)  # many symbols at once matter more than one

Another judge may take the place of the last two: any of `models.detectors` for a symbol's anomaly and, for the venue's,
how many symbols are unusual together against how many usually are (`models.detectors.correlated`). Families and their
leading features stay, as reasons.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from features.schema import VENUE_WIDE
from models.detectors import suite
from models.detectors.correlated import Correlated
from models.detectors.settings import Settings
from models.detectors.tails import MAD_TO_SIGMA, Floats, Tail, one_sided
from models.thresholds import budget_threshold

FAMILIES = "families"  # the kind that judges by families; the others are `suite.DETECTORS`
KINDS = (FAMILIES, *suite.DETECTORS)

VENUE_CLIP = 4.0  # one symbol alone cannot carry the venue


@dataclass(frozen=True)
class FeatureNorm:
    """What one feature looked like in the reference: location and scale by symbol, tail over all symbols."""

    name: str
    family: str
    side: str  # which tail means risk: high, low or both
    median: Mapping[str, float]
    scale: Mapping[str, float]
    tail: Tail

    def surprise(self, values: Floats, symbols: NDArray[np.str_]) -> Floats:
        """Surprise per row; NaN for a null value and for a symbol that the reference did not hold."""
        known, codes = np.unique(symbols, return_inverse=True)
        centre = np.array([self.median.get(str(symbol), np.nan) for symbol in known])[codes]
        scale = np.array([self.scale.get(str(symbol), np.nan) for symbol in known])[codes]
        return self.tail.surprise(one_sided((values - centre) / scale, self.side))


@dataclass(frozen=True)
class Judge:
    """Who says how unusual a row is, and how unusual a minute of the venue."""

    symbol: suite.Fitted
    venue: Correlated

    def of_rows(self, matrix: pl.DataFrame) -> pl.DataFrame:
        """`symbol, ts, anomaly` of every row, in the order of `matrix`; null where the judge has no score."""
        return self.symbol.score(matrix).select("symbol", "ts", anomaly="surprise")

    def of_venue(self, rows: pl.DataFrame) -> pl.DataFrame:
        """`ts, anomaly` of every minute of `rows` (`venue, symbol, ts, available_at, anomaly`)."""
        return self.venue.score(rows.rename({"anomaly": "surprise"})).select("ts", anomaly="surprise")


@dataclass(frozen=True)
class Detector:
    """A fitted detector. Immutable; `to_json` and `from_json` are exact."""

    venue: str
    reference: str  # the interval, for people
    norms: tuple[FeatureNorm, ...]
    joint: Tail
    crowd: Tail
    threshold: float
    venue_threshold: float
    unused: tuple[str, ...]  # features without enough data in the reference
    judge: Judge | None = None  # None: families judge

    @property
    def families(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(norm.family for norm in self.norms))

    def score(self, matrix: pl.DataFrame) -> pl.DataFrame:
        """Score every row of a feature matrix and every minute of the venue.

        Returns `venue, symbol, ts, available_at, anomaly, anomaly_threshold, alert`, one `family_<name>` and the
        leading feature `lead_<name>` per family, sorted by symbol and ts; rows with symbol `*` are the venue.
        `anomaly` is null where no feature has a value. Raises ValueError if the matrix lacks a feature.
        """
        missing = [norm.name for norm in self.norms if norm.name not in matrix.columns]
        if missing:
            raise ValueError(f"matrix must hold the detector's features, lacks {', '.join(missing)}")
        symbols = _symbol_rows(matrix, self.norms, self.joint, self.judge)
        scored = symbols.with_columns(anomaly_threshold=pl.lit(self.threshold))
        crowd = _venue_rows(symbols, self.crowd, self.venue_threshold, self.judge)
        alert = (pl.col("anomaly") >= pl.col("anomaly_threshold")).fill_null(value=False)
        return pl.concat([crowd.select(scored.columns), scored]).with_columns(alert=alert)

    def to_json(self) -> str:
        judge = None if self.judge is None else [self.judge.symbol.to_json(), self.judge.venue.to_json()]
        return json.dumps(asdict(replace(self, judge=None)) | {"judge": judge}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "Detector":
        raw = json.loads(text)
        for name in ("joint", "crowd"):
            raw[name] = _tail(raw[name])
        raw["norms"] = tuple(FeatureNorm(**(norm | {"tail": _tail(norm["tail"])})) for norm in raw["norms"])
        told = raw.get("judge")
        judge = None if told is None else Judge(suite.Fitted.from_json(told[0]), Correlated.from_json(told[1]))
        return cls(**(raw | {"unused": tuple(raw["unused"]), "judge": judge}))


def _tail(raw: Mapping[str, object]) -> Tail:
    return Tail(tuple(raw["quantiles"]), float(raw["excess_mean"]))  # type: ignore[arg-type]  # JSON has no types


def _family_surprises(matrix: pl.DataFrame, norms: Sequence[FeatureNorm]) -> dict[str, pl.Series]:
    """Per family: Bonferroni-corrected surprise, and the name of the feature that leads it (null below 0)."""
    symbols = matrix["symbol"].to_numpy().astype(np.str_)
    columns: dict[str, pl.Series] = {}
    for family in dict.fromkeys(norm.family for norm in norms):
        members = [norm for norm in norms if norm.family == family]
        surprise = np.column_stack([norm.surprise(matrix[norm.name].to_numpy(), symbols) for norm in members])
        known = np.isfinite(surprise).any(axis=1)
        filled = np.where(np.isfinite(surprise), surprise, -np.inf)
        best = filled.max(axis=1)
        corrected = np.where(known, np.maximum(best - np.log10(len(members)), 0.0), np.nan)
        names = np.array([norm.name for norm in members])[filled.argmax(axis=1)]
        columns[f"family_{family}"] = pl.Series(corrected).fill_nan(None)
        columns[f"lead_{family}"] = pl.Series(np.where(corrected > 0, names, "")).replace("", None)
    return columns


def _symbol_rows(
    matrix: pl.DataFrame, norms: Sequence[FeatureNorm], joint: Tail, judge: Judge | None = None
) -> pl.DataFrame:
    surprises = _family_surprises(matrix, norms)
    rows = matrix.select("venue", "symbol", "ts", pl.col("known_at").alias("available_at")).with_columns(**surprises)
    families = [name for name in surprises if name.startswith("family_")]
    total = pl.sum_horizontal(families).alias("joint")
    known = pl.any_horizontal(pl.col(name).is_not_null() for name in families)
    sums = rows.select(pl.when(known).then(total).alias("joint"))["joint"]
    anomaly = (
        pl.Series("anomaly", joint.surprise(sums.to_numpy())).fill_nan(None)
        if judge is None
        else judge.of_rows(matrix)["anomaly"]
    )
    return rows.with_columns(anomaly, joint=sums).sort("symbol", "ts")


def _crowd(rows: pl.DataFrame) -> pl.DataFrame:
    """Per minute: mean over the symbols of the clipped anomaly, and the same per family."""
    families = [name for name in rows.columns if name.startswith("family_")]
    return (
        rows.group_by("venue", "ts")
        .agg(
            pl.col("available_at").max(),
            pl.col("anomaly").clip(upper_bound=VENUE_CLIP).mean().alias("crowd"),
            pl.col("joint").mean(),
            *(pl.col(name).mean() for name in families),
            *(pl.col(name.replace("family_", "lead_")).drop_nulls().mode().sort().first() for name in families),
        )
        .sort("ts")
    )


def _venue_rows(rows: pl.DataFrame, crowd: Tail, threshold: float, judge: Judge | None = None) -> pl.DataFrame:
    venue = _crowd(rows)
    said = {"symbol": pl.lit(VENUE_WIDE), "anomaly_threshold": pl.lit(threshold)}
    if judge is not None:
        return venue.join(judge.of_venue(rows), on="ts", how="left", maintain_order="left").with_columns(**said)
    anomaly = pl.Series("anomaly", crowd.surprise(venue["crowd"].to_numpy())).fill_nan(None)
    return venue.with_columns(anomaly, **said)


def _fit_norm(reference: pl.DataFrame, name: str, family: str, side: str) -> FeatureNorm:
    """Median and MAD by symbol; where a symbol's MAD is zero its standard deviation, else one unit."""
    value = pl.col(name)
    stats = (
        reference.filter(value.is_not_null())
        .group_by("symbol")
        .agg(
            value.median().alias("median"),
            value.std().alias("std"),
            (value - value.median()).abs().median().alias("mad"),
        )
        .sort("symbol")
        .with_columns(mad=pl.col("mad") * MAD_TO_SIGMA)
        .with_columns(scale=pl.when(pl.col("mad") > 0).then("mad").when(pl.col("std") > 0).then("std").otherwise(1.0))
    )
    median = dict(stats.select("symbol", "median").iter_rows())
    scale = dict(stats.select("symbol", "scale").iter_rows())
    joined = reference.select("symbol", name).join(stats, on="symbol")
    z = joined.select((value - pl.col("median")) / pl.col("scale")).to_series().to_numpy()
    return FeatureNorm(name, family, side, median, scale, Tail.fit(one_sided(z, side)))


def _judge(
    kind: str, reference: pl.DataFrame, family_of: Mapping[str, str], tails: Mapping[str, str], seed: int
) -> Judge | None:
    if kind == FAMILIES:
        return None
    fitted = suite.fit(kind, reference, family_of, tails, settings=Settings(seed=seed), null_share_max=1.0)
    return Judge(fitted, Correlated.fit(fitted.score(reference)))


def _usable(reference: pl.DataFrame, names: Sequence[str], null_share_max: float) -> list[str]:
    shares = reference.select(pl.col(name).null_count() / pl.len() for name in names).row(0, named=True)
    return [name for name in names if shares[name] <= null_share_max]


def fit_detector(
    reference: pl.DataFrame,
    family_of: Mapping[str, str],
    tails: Mapping[str, str],
    *,
    null_share_max: float,
    budget_per_symbol_day: float,
    refractory_min: int,
    bar_s: int = 60,
    kind: str = FAMILIES,
    seed: int = 0,
) -> Detector:
    """Fit on the feature matrix of the reference period of one venue; thresholds come from that period alone.

    A feature with a larger share of nulls than `null_share_max` in the reference is not used. The alert threshold is
    the smallest at which the reference itself would have had at most `budget_per_symbol_day` alert episodes.
    `kind`: one of KINDS, who judges. Raises ValueError when no feature is usable, and for an unknown kind.
    """
    usable = _usable(reference, tuple(family_of), null_share_max) if reference.height else []
    if not usable:
        raise ValueError("reference must hold at least one feature with values, had none")
    norms = tuple(_fit_norm(reference, name, family_of[name], tails[name]) for name in usable)
    raw = _symbol_rows(reference, norms, Tail.fit(np.zeros(1)))
    joint = Tail.fit(raw["joint"].to_numpy())
    judge = _judge(kind, reference, {name: family_of[name] for name in usable}, tails, seed)
    rows = _symbol_rows(reference, norms, joint, judge)
    crowd = Tail.fit(_crowd(rows)["crowd"].to_numpy())
    venue = _venue_rows(rows, crowd, 0.0, judge)
    days = reference["ts"].n_unique() * bar_s / 86_400
    threshold, venue_threshold = (
        budget_threshold(
            frame.select("symbol", "ts", score="anomaly"), days, budget_per_symbol_day, refractory_min, bar_s
        )
        for frame in (rows, venue)
    )
    minute = pl.col("ts").dt.strftime("%Y-%m-%dT%H:%MZ")
    span = reference.select(pl.concat_str(minute.min(), minute.max(), separator="..")).item()
    unused = tuple(name for name in family_of if name not in usable)
    return Detector(reference["venue"][0], span, norms, joint, crowd, threshold, venue_threshold, unused, judge)
