"""What an oracle sees, and small arithmetic in which None stands for null."""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from features.inputs import usable
from features.matrix import _with_norms, _with_peers, _with_structure
from tests.features.worlds import World

Value = float | None
Oracle = Callable[["Past", int], Value]


@dataclass(frozen=True)
class Past:
    """Usable inputs of one symbol, column by column; `others` are all symbols of the venue, this one included."""

    symbol: str
    columns: dict[str, list[Any]]
    others: "dict[str, Past]"
    bar_s: int = 60

    def bars(self, minutes: int) -> int:
        return 60 * minutes // self.bar_s

    def at(self, name: str, t: int) -> Any:
        """Column `name` of bar `t` (0 is the first); None before the first bar and for null."""
        return self.columns[name][t] if t >= 0 else None

    def window(self, name: str, t: int, bars: int, lag: int = 0) -> list[Any]:
        """Column `name` of the bars (t - lag - bars, t - lag], oldest first; None for those before the first."""
        return [self.at(name, i) for i in range(t - lag - bars + 1, t - lag + 1)]


def pasts(world: World) -> dict[str, Past]:
    """The past of each symbol of `world`, with structure, norms and peers as they were known."""
    with_norms = _with_norms(_with_structure(world.bars, world.structure), world.norms)
    joined = usable(_with_peers(with_norms, world.peers))
    found: dict[str, Past] = {}
    for (symbol,), part in joined.partition_by("symbol", as_dict=True, maintain_order=True).items():
        found[str(symbol)] = Past(str(symbol), part.to_dict(as_series=False), found, world.bar_s)
    return found


def whole(values: Sequence[Value]) -> list[float] | None:
    """The values where none is None, else None."""
    return None if any(v is None for v in values) else [float(v) for v in values if v is not None]


def told(values: Sequence[Value], share: float = 0.8) -> list[float] | None:
    """The values that are not None where they are at least `share` of all (and two, of more than one), else None."""
    kept = [float(v) for v in values if v is not None]
    least = max(min(2, len(values)), math.ceil(len(values) * share))
    return kept if len(kept) >= least else None


def total(values: Sequence[Value]) -> Value:
    kept = whole(values)
    return None if kept is None else math.fsum(kept)


def mean(values: Sequence[Value], share: float = 1.0) -> Value:
    kept = told(values, share)
    return None if kept is None else statistics.fmean(kept)


def rms(values: Sequence[Value], share: float = 1.0) -> Value:
    kept = told(values, share)
    return None if kept is None else math.sqrt(statistics.fmean(v * v for v in kept))


def spread(values: Sequence[Value], share: float = 0.8) -> Value:
    """`sqrt(mean((x - mean) ** 2) * n / (n - 1))`, n = the length of the window, as `exact.rolling_std`."""
    kept, n = told(values, share), len(values)
    return None if kept is None else math.sqrt(statistics.pvariance(kept) * n / (n - 1))


def score(x: Callable[[int], Value], t: int, lag: int, baseline: int, floor: float, *, share: float = 0.8) -> Value:
    """How far `x(t)` stands above its past: baseline (t - lag - baseline, t - lag]."""
    now, past = x(t), [x(i) for i in range(t - lag - baseline + 1, t - lag + 1)]
    middle, width = mean(past, share), spread(past, share)
    if now is None or middle is None or width is None:
        return None
    return (now - middle) / max(width, floor)


def log_return(past: Past, t: int, bars: int = 1) -> Value:
    now, before = past.at("close", t), past.at("close", t - bars)
    return None if now is None or before is None else math.log(now / before)


def clip(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)


def added(*values: Value) -> Value:
    """The sum, None where one is None."""
    return total(values)


def frame_of(past: Past) -> pl.DataFrame:
    return pl.DataFrame(past.columns, strict=False)
