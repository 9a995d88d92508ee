"""What every path is made of: its parameters, their order, and one step of it as a compiled function.

A path answers one question: of `position_usd` that an account short of maintenance still holds, how much is closed now?
`take(position_usd, equity_usd, maintenance_usd, step, params)` returns a `Take`. `step` counts the steps since the
account entered the path, from 0; `params[0]` is always the length of a step in seconds, the parameters of the path
follow in the order of its `PARAMS`.

numba keeps what it compiled by the file of the outermost function: after a change here, callers elsewhere that are
cached must be compiled anew.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
F = TypeVar("F", bound=Callable[..., object])

STEP_S = 0  # place of the length of a step in every `params`


class Take(NamedTuple):
    """One step of a path.

    `book_share` of `close_usd` is sold into the book, the rest changes hands beside it. `discount_usd` of equity goes
    from the account to whoever takes it over.
    """

    close_usd: float
    book_share: float
    discount_usd: float


class Param(NamedTuple):
    """One parameter: its bounds `[low, high]`, and what it is when a profile does not name it (None: it must)."""

    name: str
    low: float
    high: float
    default: float | None
    meaning: str


def compiled(function: F) -> F:
    """numba's compiler with its cache on disk, typed as the identity."""
    return cast("F", numba.njit(cache=True)(function))
