"""Liquidation paths: how a position that lacks margin is closed. One module per path, one row here.

    cascade kernel:  take_of(kind, ...) / close_usd_of(kind, ...) / budget_usd_of(kind, ...), compiled
    by hand:         params_of(path) -> the array they read;  `schedule.play(...)` -> steps in time

A new path is a small module with `PARAMS` and `take`, a row in `KINDS` and a branch in `take_of`: compiled code cannot
look functions up in a table. A test holds the three together.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from features.mechanics.paths import auction, gradual, market, share_first, timed, velocity
from features.mechanics.paths.step import Floats, Param, Take, compiled
from features.mechanics.profile import Path

MARKET, GRADUAL, SHARE_FIRST, VELOCITY, TIMED, AUCTION = range(6)

_market, _gradual, _share_first = market.take, gradual.take, share_first.take
_velocity, _timed, _auction = velocity.take, timed.take, auction.take


class Kind(NamedTuple):
    name: str
    code: int
    params: tuple[Param, ...]


KINDS = (
    Kind("market", MARKET, market.PARAMS),
    Kind("gradual", GRADUAL, gradual.PARAMS),
    Kind("share_first", SHARE_FIRST, share_first.PARAMS),
    Kind("velocity", VELOCITY, velocity.PARAMS),
    Kind("timed", TIMED, timed.PARAMS),
    Kind("auction", AUCTION, auction.PARAMS),
)


@compiled
def take_of(  # noqa: PLR0911, PLR0917  # one branch per path; compiled code takes no keywords
    kind: int, position_usd: float, equity_usd: float, maintenance_usd: float, step: int, params: Floats
) -> Take:
    """One step of the path `kind`: what it closes (`0 <= close_usd <= position_usd`), where, at which discount.

    An unknown `kind` closes nothing.
    """
    if kind == MARKET:
        return _market(position_usd, equity_usd, maintenance_usd, step, params)
    if kind == GRADUAL:
        return _gradual(position_usd, equity_usd, maintenance_usd, step, params)
    if kind == SHARE_FIRST:
        return _share_first(position_usd, equity_usd, maintenance_usd, step, params)
    if kind == VELOCITY:
        return _velocity(position_usd, equity_usd, maintenance_usd, step, params)
    if kind == TIMED:
        return _timed(position_usd, equity_usd, maintenance_usd, step, params)
    if kind == AUCTION:
        return _auction(position_usd, equity_usd, maintenance_usd, step, params)
    return Take(0.0, 0.0, 0.0)


@compiled
def close_usd_of(  # noqa: PLR0917  # compiled code takes no keywords
    kind: int, position_usd: float, equity_usd: float, maintenance_usd: float, step: int, params: Floats
) -> float:
    """USD that the path `kind` closes now.

    >>> close_usd_of(GRADUAL, 1e6, 0.0, 1.0, 0, params_of(Path("gradual", 1.1, {"share": 0.1})))
    100000.0
    """
    return take_of(kind, position_usd, equity_usd, maintenance_usd, step, params).close_usd


@compiled
def budget_usd_of(kind: int, params: Floats) -> float:
    """USD that one symbol may see closed in one step, all accounts together; infinite for all but `velocity`."""
    return float(params[1]) if kind == VELOCITY else math.inf


def kind_of(name: str) -> Kind:
    """Raises ValueError for a path that does not exist."""
    for kind in KINDS:
        if kind.name == name:
            return kind
    raise ValueError(f"`kind` must be one of {[kind.name for kind in KINDS]}, was {name!r}")


def params_of(path: Path) -> Floats:
    """`[step_s, *parameters in the order of the path's PARAMS]`, as `take_of` reads it.

    Raises ValueError that lists everything that is missing, unknown or out of bounds.

    >>> params_of(Path("timed", 10.0, {"fraction": 0.5, "full_usd": 50.0})).tolist()
    [10.0, 0.5, 50.0, inf, 1.0]
    >>> params_of(Path("velocity", 10.0, {"budget": 100}))
    Traceback (most recent call last):
    ValueError: `budget` is not a parameter of velocity | `budget_usd` is missing: closed per window and symbol at most
    """
    kind = kind_of(path.kind)
    faults = list(_faults(path, kind))
    if faults:
        raise ValueError(" | ".join(faults))
    given = [path.params.get(param.name, param.default) for param in kind.params]
    return np.array([path.step_s, *given], dtype=np.float64)


def _faults(path: Path, kind: Kind) -> Iterator[str]:
    for name in sorted(set(path.params) - {param.name for param in kind.params}):
        yield f"`{name}` is not a parameter of {kind.name}"
    if not 0.0 <= path.step_s < math.inf:
        yield f"`step_s` must be finite and not negative, was {path.step_s}"
    for param in kind.params:
        value = path.params.get(param.name, param.default)
        if value is None:
            yield f"`{param.name}` is missing: {param.meaning}"
        elif not param.low <= value <= param.high:
            yield f"`{param.name}` must be in [{param.low:g}, {param.high:g}], was {value}"
