"""What a feature is: an expression over usable bars, and what must be known to run and to test it.

Windows are stated in minutes and become bars of whatever length the venue's bars have.
"""

from typing import Literal, NamedTuple

import polars as pl

Tail = Literal["high", "low", "both", "none"]  # which tail means risk; none of a calendar
# what happens where bids and asks, longs and shorts, rises and falls change places
Mirror = Literal["same", "flip", "none"]
Scale = Literal["same", "log", "-log", "1/root", "stated"]  # what happens where every amount of dollars is multiplied

BAR_S_CHOICES = (60, 300)


class Feature(NamedTuple):
    """One feature of the catalogue.

    `lookback_min`: the value at `t` depends on the bars in `[t - lookback_min, t]` and on no other.
    `mirror`: the value of the mirrored market is the same, or has the other sign, or (`none`) neither: the formula
    holds a constant with a side, such as the interest that longs owe at a neutral price.
    `scale`: with every amount of dollars (flows, depth, open interest, positions) multiplied by k, far above the
    floors, the value stays the `same`, gains log(k) (`log`), loses it (`-log`), is divided by the square root of k
    (`1/root`), or is compared with an amount that is stated in dollars (`stated`).
    """

    name: str
    expr: pl.Expr
    lookback_min: int
    tail: Tail = "high"
    mirror: Mirror = "same"
    scale: Scale = "same"


class Step(NamedTuple):
    """The length of a bar, and windows in it."""

    bar_s: int = 60

    def bars(self, minutes: int) -> int:
        """How many bars `minutes` are. Raises ValueError unless they are whole bars.

        >>> Step(60).bars(240), Step(300).bars(240)
        (240, 48)
        """
        count, rest = divmod(60 * minutes, self.bar_s)
        if rest:
            raise ValueError(f"{minutes} min must be whole bars of {self.bar_s} s")
        return count

    def back(self, minutes: int) -> int:
        """How many bars lie within `minutes` before a bar, a started one counted: enough for a lookback.

        >>> Step(60).back(248), Step(300).back(248)
        (248, 50)
        """
        return -(-60 * minutes // self.bar_s)
