"""From detector and early-warning model to one table of scores: who spoke, what they said, and why.

Goes in: the feature matrix, the detector's rows, the model's rows (either may be absent).
Comes out: `Scores`, one row per symbol and minute and one for the venue. Never a limit: those are the guardrails'.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

import polars as pl

from features.schema import VENUE_WIDE, Scores, polars_schema
from features.words import sentence
from models.detector import Detector
from models.explain import reasons
from models.thresholds import capped, trailing_threshold
from models.warning import ALERT, BAND, PROBABILITIES, WarningModel

KEY = ("venue", "symbol", "ts")
SAID = (*PROBABILITIES, *BAND)
ALERT_SCHEMA = {"symbol": pl.String(), "ts": pl.Datetime("us", "UTC")}
INPUT_TABLES: Mapping[str, str] = {  # table -> the column of bars that is null while the table is missing
    "trades": "close",
    "book events": "cancels",
    "book depth": "depth_bid_100bps_usd",
    "mark": "mark",
    "index": "index",
    "funding": "funding_rate",
    "open interest": "oi_usd",
    "liquidations": "liqs",
}
_TOLD_MIN = 1.0  # a family with a surprise below 1 (p above 10 %) is no reason


def missing_inputs(bars: pl.DataFrame) -> pl.DataFrame:
    """`venue, symbol, ts, missing_inputs`: the tables without a usable value; null when all are there."""
    names = [pl.when(pl.col(column).is_null()).then(pl.lit(table)) for table, column in INPUT_TABLES.items()]
    text = pl.concat_str(names, separator=", ", ignore_nulls=True).replace("", None)
    return bars.select(*KEY, missing_inputs=text)


def detector_reasons(detected: pl.DataFrame, matrix: pl.DataFrame) -> pl.DataFrame:
    """`venue, symbol, ts, lead_family, reasons` of the alerting rows of `Detector.score`.

    Families with a surprise of at least 1, strongest first, each with its leading feature and what was seen:
    "crowding 4.4 (basis_bps_5 = -31.2), thin_book 2.1 (amihud_score_15 = 6.3)".
    """
    alerts = detected.filter("alert")
    families = [name.removeprefix("family_") for name in detected.columns if name.startswith("family_")]
    parts = [
        alerts.select(
            *KEY,
            family=pl.lit(family),
            surprise=pl.col(f"family_{family}"),
            feature=pl.col(f"lead_{family}").cast(pl.String),
        )
        for family in families
    ]
    features = [name for name in matrix.columns if name not in (*KEY, "known_at")]
    seen = (
        matrix.join(alerts.select(KEY), on=KEY, how="semi")
        .unpivot(features, index=list(KEY), variable_name="feature", value_name="value")
        .with_columns(pl.col("value").round_sig_figs(3).cast(pl.String))
    )
    evidence = pl.when(pl.col("value").is_null()).then(sentence("({})", "feature"))
    found = evidence.otherwise(sentence("({} = {})", "feature", "value"))
    told = sentence("{} {} {}", "family", pl.col("surprise").round(1), found)
    return (
        pl.concat(parts)
        .filter(pl.col("surprise") >= _TOLD_MIN, pl.col("feature").is_not_null())
        .join(seen, on=[*KEY, "feature"], how="left")
        .sort(*KEY, "surprise", "family", descending=[False, False, False, True, False])
        .group_by(KEY, maintain_order=True)
        .agg(lead_family=pl.col("family").first(), reasons=told.str.join(", "))
    )


@dataclass(frozen=True)
class Trailing:
    """A threshold that moves with the market (`models.thresholds.trailing_threshold`).

    `earlier` has `symbol, ts, score`: what the model said of bars before the first row.
    """

    share: float
    window_min: int
    samples_min: int
    earlier: pl.DataFrame

    def moved(self, said: pl.DataFrame) -> pl.DataFrame:
        """`said` (`symbol, ts`, ALERT, p_threshold) with this threshold for the fixed one where it is known."""
        known = [self.earlier.select("symbol", "ts", "score"), said.select("symbol", "ts", score=ALERT)]
        found = trailing_threshold(pl.concat(known), self.share, self.window_min, self.samples_min)
        told = said.join(found.drop("score"), on=["symbol", "ts"], how="left", maintain_order="left")
        return told.with_columns(p_threshold=pl.coalesce("threshold", "p_threshold")).drop("threshold")


@dataclass(frozen=True)
class AlertPolicy:
    """A hard cap on the model's alerts: episodes per symbol and UTC day; the others are muted, not forgotten.

    `earlier` has `symbol, ts` of minutes before the first row in which the model stood above its threshold. Without
    `trailing` that threshold is the model's own.
    """

    episodes_per_symbol_day: int
    refractory_min: int
    earlier: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=ALERT_SCHEMA))
    trailing: Trailing | None = None

    def kept(self, alerts: pl.DataFrame) -> pl.DataFrame:
        """The rows of `alerts` (`symbol, ts`) within the cap, counting what came earlier."""
        everything = pl.concat([self.earlier.select("symbol", "ts"), alerts.select("symbol", "ts")]).unique()
        return capped(everything, self.episodes_per_symbol_day, self.refractory_min)

    def alerted(self, said: pl.DataFrame, threshold: float | None) -> pl.DataFrame:
        """`said` (`symbol, ts`, ALERT) with `p_threshold` and `model_alert`: at or above it, within the cap."""
        fixed = said.with_columns(p_threshold=pl.lit(threshold, dtype=pl.Float64))
        rows = fixed if self.trailing is None else self.trailing.moved(fixed)
        kept = self.kept(rows.filter(_above())).with_columns(model_alert=pl.lit(value=True))
        told = rows.join(kept, on=["symbol", "ts"], how="left", maintain_order="left")
        return told.with_columns(pl.col("model_alert").fill_null(value=False))


def _above() -> pl.Expr:
    return (pl.col(ALERT) >= pl.col("p_threshold")).fill_null(value=False)


def above_threshold(scores: pl.LazyFrame) -> pl.LazyFrame:
    """`symbol, ts` of the rows of stored scores in which the model stood above its threshold, muted or not."""
    own = scores.filter(pl.col("symbol") != VENUE_WIDE)
    return own.filter(_above()).select("symbol", "ts")


def _warned(
    matrix: pl.DataFrame, model: WarningModel | None, families: Mapping[str, str], policy: AlertPolicy | None
) -> pl.DataFrame:
    """The model's probabilities for every row, its alerts and, for those, its reasons."""
    if model is None:
        return matrix.select(
            *KEY,
            *(pl.lit(None, dtype=pl.Float64).alias(name) for name in (*SAID, "p_threshold")),
            abstain_reason=pl.lit(None, dtype=pl.String),
            model_alert=pl.lit(value=False),
            model_family=pl.lit(None, dtype=pl.String),
            model_reasons=pl.lit(None, dtype=pl.String),
        )
    predicted = model.predict(matrix)
    if policy is None:
        fixed = predicted.with_columns(p_threshold=pl.lit(model.threshold, dtype=pl.Float64))
        predicted = fixed.with_columns(model_alert=_above())
    else:
        predicted = policy.alerted(predicted, model.threshold)
    hits = matrix.join(predicted.filter("model_alert").select(KEY), on=KEY, how="semi", maintain_order="left")
    told = reasons(model, hits, families).rename({"lead_family": "model_family", "reasons": "model_reasons"})
    return predicted.join(told, on=KEY, how="left").drop("missing_share", "outside_share", "abstained")


def _status(model: WarningModel | None, model_note: str) -> pl.Expr:
    detector = (
        pl.when(pl.col("in_reference"))
        .then(pl.lit("reference period"))
        .when(pl.col("anomaly").is_null())
        .then(pl.lit("detector has no input"))
        .otherwise(pl.lit("detector"))
    )
    if model is None:
        return sentence("{}; {}", detector, pl.lit(model_note))
    warning = (
        pl.when(pl.col("symbol") == VENUE_WIDE)
        .then(pl.lit("model: highest symbol"))
        .when(pl.col("abstain_reason").is_not_null())
        .then(sentence("model abstains: {}", "abstain_reason"))
        .otherwise(pl.lit("model"))
    )
    return sentence("{}; {}", detector, warning)


def compose(
    matrix: pl.DataFrame,
    bars: pl.DataFrame,
    detector: Detector,
    model: WarningModel | None,
    families: Mapping[str, str],
    *,
    reference_end: datetime,
    model_note: str,
    detector_uri: str | None,
    model_uri: str | None,
    policy: AlertPolicy | None = None,
) -> pl.DataFrame:
    """Scores of every row of `matrix` and of the venue, sorted by symbol and ts.

    Up to `reference_end` the detector is silent: it learned from these minutes. `model_note` says why there is no
    model. The venue's probabilities are those of its most endangered symbol. A row's scores depend on its own minute,
    whether it alerts also on the alerts before it, where `policy` caps them.
    """
    detected = detector.score(matrix)
    warned = _warned(matrix, model, families, policy)
    highest = warned.group_by("venue", "ts").agg(pl.col(*SAID, "p_threshold").max(), pl.col("model_alert").any())
    venue = highest.with_columns(symbol=pl.lit(VENUE_WIDE))
    both = detected.join(pl.concat([warned, venue], how="diagonal_relaxed"), on=KEY, how="left")
    silent = pl.col("ts") <= reference_end
    muted = both.with_columns(
        in_reference=silent,
        anomaly=pl.when(~silent).then("anomaly"),
        alert=pl.col("alert") & ~silent,
    )
    told = detector_reasons(muted.select(detected.columns), matrix)
    joined = muted.join(told, on=KEY, how="left").join(missing_inputs(bars), on=KEY, how="left")
    scores = joined.with_columns(
        status=_status(model, model_note),
        alert=pl.col("alert") | pl.col("model_alert").fill_null(value=False),
        lead_family=pl.coalesce("lead_family", "model_family"),
        reasons=pl.concat_str(
            pl.col("reasons"), pl.lit("model: ") + pl.col("model_reasons"), separator=" | ", ignore_nulls=True
        ).replace("", None),
        detector_uri=pl.lit(detector_uri, dtype=pl.String),
        model_uri=pl.lit(model_uri, dtype=pl.String),
    )
    schema = polars_schema(Scores)
    return scores.select(pl.col(name).cast(dtype) for name, dtype in schema.items()).sort("symbol", "ts")
