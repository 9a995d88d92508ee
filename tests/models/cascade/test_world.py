"""A world is validated whole: every violation at once, in one line."""

from dataclasses import replace

import numpy as np
import pytest

from models.cascade.world import FLAT, Books, World


def world() -> World:
    """One cross account with a long of each of two symbols."""
    return World(
        symbols=("A", "B"),
        price_usd=np.array([100.0, 10.0]),
        books=Books(np.array([1e6, 1e5]), (FLAT, FLAT), np.full(2, np.inf)),
        spill=np.eye(2),
        rates=np.array([[0.01, 0.02]]),
        deductions=np.zeros((1, 2)),
        cash_usd=np.array([50.0]),
        leg_start=np.array([0, 2]),
        leg_symbol=np.array([0, 1]),
        leg_qty=np.array([1.0, 10.0]),
        leg_entry=np.array([100.0, 10.0]),
        leg_closable=np.array([True, True]),
        account=np.array([0]),
        account_names=("a",),
    )


def test_a_sound_world_is_taken() -> None:
    assert world().units == 1


WRONG = {
    "`price_usd` must be finite and positive": {"price_usd": np.array([0.0, 1.0])},
    "`leg_entry` must be finite and positive": {"leg_entry": np.array([np.nan, 1.0])},
    "`cash_usd` must be finite": {"cash_usd": np.array([np.inf])},
    "`cash_usd`": {"leg_start": np.array([0, 2, 2]), "cash_usd": np.array([np.nan, 1.0]), "account": np.zeros(2, int)},
    "`rates` must be in": {"rates": np.array([[1.0, 0.02]])},
    "rise from tier to tier": {"rates": np.array([[0.02, 0.02], [0.01, 0.03]]), "deductions": np.zeros((2, 2))},
    "diagonal of ones": {"spill": np.full((2, 2), 0.5)},
    "places in `symbols`": {"leg_symbol": np.array([0, 2])},
    "rise from 0 to the number of legs": {"leg_start": np.array([0, 1])},
    "`symbols` must be distinct": {"symbols": ("A", "A")},
    "must have shape": {"leg_qty": np.array([1.0])},
    "without a book there is no fixed point": {"books": Books(np.zeros(2), (FLAT, FLAT), np.full(2, np.inf))},
    "`depth_limit` must be positive": {"books": Books(np.ones(2), (FLAT, FLAT), np.array([0.0, np.nan]))},
    "`shape` must be one of": {"books": Books(np.ones(2), (FLAT, "bumpy"), np.full(2, np.inf))},
    "one entry per symbol": {"books": Books(np.ones(1), (FLAT,), np.full(1, np.inf))},
}


@pytest.mark.parametrize("said", WRONG)
def test_what_is_wrong_with_a_world_is_said(said: str) -> None:
    with pytest.raises(ValueError, match=said):
        replace(world(), **WRONG[said])


def test_all_violations_are_said_at_once() -> None:
    with pytest.raises(ValueError, match=r"`price_usd`.*\|.*`cash_usd`"):
        replace(world(), price_usd=np.array([-1.0, 1.0]), cash_usd=np.array([np.nan]))
