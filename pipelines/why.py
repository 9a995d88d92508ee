"""Why the model says what it says of one symbol at one moment: probabilities, families, what-if, the likest cascade."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import polars as pl

from features.catalogue import FAMILY_OF
from models.explain import BASE, contributions, leading_intervals, what_if
from models.periods import HORIZONS_MIN, INTERVALS
from models.precedents import nearest
from models.warning import ALERT_HORIZON_MIN, WarningModel
from pipelines.config import Config
from pipelines.errors import InputError
from pipelines.lake import Lake
from pipelines.matrix import read_matrix
from pipelines.score import prepare
from pipelines.times import Interval, show_time


@dataclass(frozen=True)
class Why:
    """One row explained. `families`: family, log_odds, feature, value, p_if_usual, the strongest first.

    `base_log_odds` and the families' `log_odds` sum to the scorer's log-odds of `interval`, the span of minutes ahead
    in which the row stands out most. `p_if_usual` is the probability within ALERT_HORIZON_MIN, were the family as
    usual; no statement about causes. `like`: symbol and onset of the past cascade that was most alike.
    """

    venue: str
    symbol: str
    ts: datetime
    model_uri: str
    probabilities: dict[str, float | None]
    threshold: float | None
    abstain_reason: str | None
    interval: str
    base_log_odds: float
    families: tuple[dict[str, Any], ...]
    like: dict[str, Any] | None

    def sentence(self) -> str:
        said = ", ".join(f"{name[2:]} {p:.2%}" for name, p in self.probabilities.items() if p is not None)
        lines = [
            f"{self.venue} {self.symbol} {show_time(self.ts)} by {self.model_uri}: {said or self.abstain_reason}",
            f"  alerts from {self.threshold:.2%} within {ALERT_HORIZON_MIN} min" if self.threshold is not None else "",
            f"  minutes ({self.interval.replace('_', ', ')}] ahead stand out most; in log-odds:",
            f"  {self.base_log_odds:+6.2f} {BASE}",
            *(_line(row) for row in self.families),
        ]
        if self.like is not None:
            lines.append(f"  most like {self.like['symbol']} before {show_time(self.like['onset'])}")
        return "\n".join(line for line in lines if line)


def _line(row: dict[str, Any]) -> str:
    value = "missing" if row["value"] is None else f"= {row['value']:.3g}"
    usual = f"{row['p_if_usual']:.2%} within {ALERT_HORIZON_MIN} min were it as usual"
    return f"  {row['log_odds']:+6.2f} {row['family']:<12} {row['feature']} {value}; {usual}"


def row_at(lake: Lake, venue: str, symbol: str, at: datetime, config: Config) -> pl.DataFrame:
    """The row of the feature matrix whose bar ended at `at`, computed anew. InputError where there is no such bar."""
    bar = timedelta(seconds=config.bars.interval_s)
    span = Interval(at - bar, at)
    prepare(lake, venue, span, bar_s=config.bars.interval_s)
    rows = read_matrix(lake, venue, span)
    own = rows.filter(pl.col("symbol") == symbol)
    if own.is_empty():
        known = ", ".join(rows["symbol"].unique().sort()) or "none"
        raise InputError(
            f"{venue} has no bar of {symbol} at {show_time(at)}", where=lake.root, mend=f"symbols there: {known}"
        )
    return own


def explain_row(model: WarningModel, uri: str, row: pl.DataFrame) -> Why:
    """`row` of the feature matrix explained; it must be one."""
    said = model.predict(row).row(0, named=True)
    chosen = int(leading_intervals(model, row)[0])
    found = contributions(model, row, FAMILY_OF, chosen)
    usual = what_if(model, row, FAMILY_OF).select("family", "p_if_usual")
    told = found.filter(pl.col("family") != BASE).join(usual, on="family").sort("log_odds", descending=True)
    like = nearest(found, model.precedents)
    return Why(
        venue=said["venue"],
        symbol=said["symbol"],
        ts=said["ts"],
        model_uri=uri,
        probabilities={f"p_{minutes}m": said[f"p_{minutes}m"] for minutes in HORIZONS_MIN},
        threshold=model.threshold,
        abstain_reason=said["abstain_reason"],
        interval=INTERVALS[chosen],
        base_log_odds=float(found.filter(pl.col("family") == BASE)["log_odds"][0]),
        families=tuple(told.select("family", "log_odds", "feature", "value", "p_if_usual").to_dicts()),
        like=None
        if like.is_empty()
        else {"symbol": like["like_symbol"][0], "onset": like["like_onset"][0], "distance": like["distance"][0]},
    )
