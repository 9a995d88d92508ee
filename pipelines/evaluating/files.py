"""Files of scores, events and coverage, checked: one clear line says what is wrong, where, and how to mend it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from features.schema import UTC_US
from models.evaluation.evaluate import Parts
from pipelines.errors import InputError

TIMES = ("ts", "onset", "end", "start", "available_at")
NOT_SCORES = ("symbol", "ts", "venue", "known_at", "available_at", "horizon_min")
SUFFIXES = (".parquet", ".csv", ".csv.gz")


def scan(path: Path) -> pl.LazyFrame:
    """The file, its times as UTC microseconds. Raises InputError where it cannot be read."""
    if not path.exists():
        raise InputError("there is no such file", where=path)
    try:
        rows = pl.scan_parquet(path) if path.suffix == ".parquet" else pl.scan_csv(path, try_parse_dates=True)
        schema = rows.collect_schema()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise InputError(
            f"the file cannot be read ({error})", where=path, mend=f"give a file of {', '.join(SUFFIXES)}"
        ) from None
    return rows.with_columns(_utc(name, schema[name], path) for name in TIMES if name in schema)


def _utc(name: str, dtype: pl.DataType, path: Path) -> pl.Expr:
    column = pl.col(name)
    if isinstance(dtype, pl.String):
        return column.str.to_datetime(time_unit="us", time_zone="UTC")
    if not isinstance(dtype, pl.Datetime):
        raise InputError(f"`{name}` must hold times, holds {dtype}", where=path, mend="write them as 2025-10-10T21:00Z")
    zoned = column.dt.replace_time_zone("UTC") if dtype.time_zone is None else column.dt.convert_time_zone("UTC")
    return zoned.cast(UTC_US)


def need(rows: pl.LazyFrame, names: tuple[str, ...], path: Path) -> None:
    have = rows.collect_schema().names()
    lacking = [name for name in names if name not in have]
    if lacking:
        raise InputError(f"the file lacks {', '.join(lacking)}", where=path, mend=f"it has {', '.join(have)}")


def read_events(path: Path) -> pl.DataFrame:
    """`symbol, onset, end` and what else the file tells of each, by onset. InputError for a row that is not whole."""
    rows = scan(path)
    need(rows, ("symbol", "onset", "end"), path)
    found = _collected(rows, path).with_row_index("line", offset=2)
    bad = found.filter(
        pl.any_horizontal(pl.col("symbol", "onset", "end").is_null()) | (pl.col("end") < pl.col("onset"))
    )
    if bad.height:
        raise InputError(
            f"{bad.height} events are not whole, the first in row {bad['line'][0]}",
            where=path,
            mend="every event needs a symbol, an onset, and an end that is not before it",
        )
    if found.select("symbol", "onset").is_duplicated().any():
        raise InputError("events come twice", where=path, mend="keep one row per symbol and onset")
    return found.drop("line").sort("onset", "symbol")


def label_in(events: pl.DataFrame) -> dict[str, object] | None:
    """What a file of events says of its label: `name` and, where it tells, `version`; None without or with several.

    >>> label_in(pl.DataFrame({"label": ["oi_flush"], "label_version": [1]}))
    {'name': 'oi_flush', 'version': 1}
    """
    told = events.select(pl.col("^(label|label_version)$")).unique()
    if "label" not in told.columns or told.height != 1:
        return None
    return {"name": told["label"][0], "version": told["label_version"][0] if "label_version" in told.columns else None}


def read_coverage(path: Path) -> pl.DataFrame:
    """`symbol, start, end` by symbol and start. Raises InputError where intervals of a symbol overlap or are empty."""
    rows = scan(path)
    need(rows, ("symbol", "start", "end"), path)
    found = _collected(rows, path).select("symbol", "start", "end").sort("symbol", "start")
    overlap = pl.col("start") < pl.col("end").shift().over("symbol")
    empty = (pl.col("end") > pl.col("start")).fill_null(value=False)
    bad = found.filter(overlap.fill_null(value=False) | ~empty)
    if bad.height:
        raise InputError(
            f"{bad.height} intervals are empty or overlap, the first of {bad['symbol'][0]} from {bad['start'][0]}",
            where=path,
            mend="give intervals (start, end] that lie apart",
        )
    return found


def _collected(rows: pl.LazyFrame, path: Path) -> pl.DataFrame:
    try:
        return rows.collect(engine="streaming")
    except pl.exceptions.PolarsError as error:
        raise InputError(f"the file cannot be read ({str(error).splitlines()[0]})", where=path) from None


@dataclass(frozen=True)
class ScoreFile:
    """A file of scores, one symbol in memory at a time; fast where it is sorted by symbol.

    `columns`: what may be judged: `score` first, then every other number, each a baseline.
    """

    path: Path
    rows: pl.LazyFrame
    symbols: tuple[str, ...]
    columns: tuple[str, ...]
    bar_s: float

    def parts(self, column: str = "score") -> Parts:
        """The rows of one symbol after another, `column` as `score`, by ts; NaN counts as no score."""

        def each() -> Iterator[pl.DataFrame]:
            for symbol in self.symbols:
                yield self._part(symbol, column)

        return each

    def _part(self, symbol: str, column: str) -> pl.DataFrame:
        known = [name for name in ("available_at",) if name in self.rows.collect_schema()]
        score = pl.col(column).cast(pl.Float64).fill_nan(None).alias("score")
        own = self.rows.filter(pl.col("symbol") == symbol).select("symbol", "ts", *known, score)
        found = _collected(own, self.path).sort("ts")
        if found["ts"].null_count() or found["ts"].is_duplicated().any():
            raise InputError(
                f"{symbol} has rows without `ts`, or two of the same", where=self.path, mend="keep one row per bar"
            )
        if found["score"].is_infinite().any():
            raise InputError(f"`{column}` of {symbol} holds infinite values", where=self.path, mend="leave them empty")
        return found


def read_scores(path: Path, horizon_min: int | None = None, bar_s: float | None = None) -> ScoreFile:
    """A file with `symbol, ts, score` (higher is riskier); `bar_s` is by default its most common step.

    Where it has `horizon_min`, the rows of that horizon are judged. Raises InputError for a file without scores.
    """
    rows = scan(path)
    need(rows, ("symbol", "ts", "score"), path)
    schema = rows.collect_schema()
    if "horizon_min" in schema:
        rows = rows.filter(pl.col("horizon_min") == horizon_min)
    symbols = _collected(rows.select(pl.col("symbol").drop_nulls().unique().sort()), path)["symbol"]
    if symbols.is_empty():
        raise InputError(
            f"the file holds no score for a horizon of {horizon_min} min"
            if "horizon_min" in schema
            else "the file is empty",
            where=path,
        )
    numbers = [name for name, dtype in schema.items() if dtype.is_numeric() and name not in NOT_SCORES]
    if "score" not in numbers:
        raise InputError(f"`score` must hold numbers, holds {schema['score']}", where=path)
    found = ScoreFile(path, rows, tuple(symbols), ("score", *(n for n in numbers if n != "score")), 0.0)
    return ScoreFile(path, rows, found.symbols, found.columns, bar_s or _step_s(found))


def _step_s(found: ScoreFile) -> float:
    first = next(found.parts()())
    step = first["ts"].diff().drop_nulls().mode().sort()
    if step.is_empty():
        raise InputError("the length of a bar cannot be told from one row", where=found.path, mend="say it with --bar")
    return float(step[0].total_seconds())
