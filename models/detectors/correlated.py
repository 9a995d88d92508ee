"""Correlated anomalies: many symbols unusual at once, more than they usually are together.

    c[i]     = min(surprise of symbol i, SYMBOL_MAX)               # one symbol cannot carry the venue
    R[i, j]  = correlation of c[i] and c[j] in the reference
    w[i]     = 1 / sum over j of max(R[i, j], 0)                   # n copies of one market weigh as much as one
    breadth  = sum of w[i] c[i] / sum of w[i]                      # over the symbols that have a score
    surprise = -log10 P(Breadth >= breadth)                        # by the reference, minute by minute

The reference holds whole minutes, so how often its symbols were unusual together is in the tail of Breadth: where they
always move as one, ten at p = 5 % are hardly more unusual than one; where they do not, they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from features.schema import VENUE_WIDE
from models.detectors.kernel import gram
from models.detectors.plain import from_json, to_json
from models.detectors.standard import added
from models.detectors.tails import Floats, Tail

SYMBOL_MAX = 4.0  # p = 0.01 %
ALARM = -float(np.log10(0.05))  # surprise from which a symbol is named
GROUP_CORRELATION_MIN = 0.3  # mean correlation of two groups from which they are one
KNOWN_WEIGHT_MIN = 0.5  # share of the symbols' weight that must have a score
COLUMNS = ("venue", "symbol", "ts", "available_at", "breadth", "surprise", "known", "alarmed", "cluster")


@dataclass(frozen=True)
class Correlated:
    """Weight and group of each symbol, and the tail of breadth in the reference."""

    symbols: tuple[str, ...]
    weights: tuple[float, ...]
    groups: tuple[int, ...]
    scale: Tail

    @classmethod
    def fit(cls, surprises: pl.DataFrame) -> "Correlated":
        """From `symbol, ts, surprise` of the reference: one detector, one venue, any order.

        Raises ValueError if no symbol has a score.
        """
        scored = _of_symbols(surprises).filter(pl.col("surprise").is_not_null())
        if scored.is_empty():
            raise ValueError("surprises must hold at least one score, were all null")
        symbols = scored["symbol"].unique().sort().to_list()
        table = _table(scored, scored["ts"].unique().sort(), symbols)
        correlation = _correlation(table)
        weights = 1.0 / np.maximum(correlation, 0.0).sum(axis=1)
        return cls(tuple(symbols), tuple(weights.tolist()), _groups(correlation), Tail.fit(_breadth(table, weights)))

    def score(self, surprises: pl.DataFrame) -> pl.DataFrame:
        """One row per minute of `venue, symbol, ts, available_at, surprise`, with the symbol `*`, sorted: `COLUMNS`.

        `known` counts the symbols with a score, `alarmed` names those of them at p <= 5 %, `cluster` the largest group
        of the alarmed (of equal ones the more surprised, then the first by name); empty lists where there is none.
        `breadth` and `surprise` are null where the known symbols have less than half of all weight. Symbols that the
        reference did not hold count for nothing. A minute's row depends on that minute alone.
        """
        rows = _of_symbols(surprises)
        minutes = rows.group_by("venue", "ts").agg(pl.col("available_at").max()).sort("ts")
        breadth = _breadth(_table(rows, minutes["ts"], self.symbols), np.array(self.weights))
        said = {"breadth": breadth, "surprise": self.scale.surprise(breadth)}
        return (
            minutes.with_columns(pl.lit(VENUE_WIDE).alias("symbol"))
            .with_columns(pl.Series(name, values).fill_nan(None) for name, values in said.items())
            .join(self._named(rows), on="ts", how="left", maintain_order="left")
            .with_columns(pl.col("known").fill_null(0), pl.col("alarmed", "cluster").fill_null([]))
            .select(COLUMNS)
        )

    def _named(self, rows: pl.DataFrame) -> pl.DataFrame:
        """`ts, known, alarmed, cluster` of every minute with a score."""
        grouped = pl.DataFrame({"symbol": self.symbols, "group": self.groups})
        scored = rows.filter(pl.col("surprise").is_not_null()).join(grouped, on="symbol")
        alarmed = scored.filter(pl.col("surprise") >= ALARM).sort("symbol")
        clusters = (
            alarmed.group_by("ts", "group", maintain_order=True)
            .agg(cluster=pl.col("symbol"), size=pl.len(), sum=pl.col("surprise").sum())
            .sort("size", "sum", "cluster", descending=[True, True, False])
        )
        return (
            scored.group_by("ts")
            .agg(known=pl.len())
            .join(alarmed.group_by("ts", maintain_order=True).agg(alarmed=pl.col("symbol")), on="ts", how="left")
            .join(clusters.group_by("ts", maintain_order=True).agg(pl.col("cluster").first()), on="ts", how="left")
        )

    def to_json(self) -> str:
        return to_json(self)

    @classmethod
    def from_json(cls, text: str) -> "Correlated":
        fields = from_json(text)
        return cls(**(fields | {"scale": Tail(**fields["scale"])}))


def _of_symbols(surprises: pl.DataFrame) -> pl.DataFrame:
    return surprises.filter(pl.col("symbol") != VENUE_WIDE)


def _table(rows: pl.DataFrame, minutes: pl.Series, symbols: Sequence[str]) -> Floats:
    """Bounded surprise, shape (minutes, symbols); NaN where there is none. Symbols not asked for are left out."""
    places = pl.DataFrame({"symbol": symbols, "column": range(len(symbols))})
    lines = pl.DataFrame({"ts": minutes, "line": range(len(minutes))})
    placed = rows.join(places, on="symbol").join(lines, on="ts")
    table = np.full((len(minutes), len(symbols)), np.nan)
    values = placed["surprise"].clip(upper_bound=SYMBOL_MAX).to_numpy()
    table[placed["line"].to_numpy(), placed["column"].to_numpy()] = values
    return table


def _breadth(table: Floats, weights: Floats) -> Floats:
    known = np.isfinite(table)
    weight = added(known * weights)
    enough = weight >= KNOWN_WEIGHT_MIN * weights.sum()
    total = added(np.where(known, table, 0.0) * weights)
    return np.where(enough, total / np.where(enough, weight, 1.0), np.nan)


def _correlation(table: Floats) -> Floats:
    """Of the columns, a missing value counting as the column's mean; 0 beside a column that never moves."""
    centred = np.nan_to_num(table - np.nanmean(table, axis=0), nan=0.0)
    moments = gram(centred)
    sd = np.sqrt(np.diag(moments))
    scale = np.where(sd > 0, sd, 1.0)
    correlation = np.clip(moments / np.outer(scale, scale), -1.0, 1.0)
    np.fill_diagonal(correlation, 1.0)
    return np.asarray(correlation)


def _groups(correlation: Floats) -> tuple[int, ...]:
    """Average linkage: groups merge while their mean correlation is at least `GROUP_CORRELATION_MIN`."""
    from scipy.cluster import hierarchy  # noqa: PLC0415 - slow to import; only fitting needs it

    if correlation.shape[0] < 2:
        return (0,)
    apart = 1.0 - correlation[np.triu_indices_from(correlation, k=1)]
    tree = hierarchy.linkage(apart, method="average")
    return tuple(int(label) for label in hierarchy.fcluster(tree, 1.0 - GROUP_CORRELATION_MIN, criterion="distance"))
