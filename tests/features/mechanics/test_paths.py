"""Paths: the worked examples of every venue's rule, and what no path may ever do."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.mechanics import paths
from features.mechanics.paths import auction, gradual, market, share_first, timed, velocity
from features.mechanics.paths.schedule import completion_s, play
from features.mechanics.profile import Path

DYDX = Path("gradual", 1.1, {"share": 0.1, "notional_usd_min": 1_000.0, "limit_usd": 100_000.0})
HYPERLIQUID = Path("share_first", 30.0, {"full_usd": 100_000.0, "share": 0.2, "backstop_ratio": 2 / 3})
SYNTHETIX = Path("velocity", 10.0, {"budget_usd": 100.0})
VEGA = Path("timed", 10.0, {"fraction": 0.5, "full_usd": 50.0, "book_usd": 10_000.0, "book_share_max": 0.01})
DERIVE = Path("auction", 10.0, {"buffer": 0.1, "cutoff": 0.8, "fast_s": 100.0, "slow_s": 400.0, "hedge_share": 0.5})
ALL = (Path("market"), DYDX, HYPERLIQUID, SYNTHETIX, VEGA, DERIVE)
MODULES = (market, gradual, share_first, velocity, timed, auction)

money = st.floats(0.01, 1e10)


def one_percent(notional_usd: float) -> float:
    return 0.01 * notional_usd


def taken(path: Path, position: float, equity: float, maintenance: float, step: int = 0) -> paths.Take:
    return paths.take_of(paths.kind_of(path.kind).code, position, equity, maintenance, step, paths.params_of(path))


def test_market_closes_everything_at_once() -> None:
    steps = play(Path("market"), 1_000_000.0, one_percent)
    assert [step[:4] for step in steps] == [(0.0, 1_000_000.0, 0.0, 1_000_000.0)]


def test_dydx_needs_54_blocks_for_a_million_that_stays_liquidatable() -> None:
    steps = play(DYDX, 1_000_000.0, one_percent)
    # 1e6 * .9 ** 44 = 9 698 is the first size of which a tenth is below 1 000; then 10 blocks of 1 000 (the last 698).
    assert len(steps) == 54
    assert steps[0].closed_usd == 100_000.0
    assert steps[43].left_usd == pytest.approx(1e6 * 0.9**44, rel=1e-9)
    assert [round(step.closed_usd) for step in steps[44:]] == [1_000] * 9 + [698]
    assert completion_s(steps) == pytest.approx(53 * 1.1)


def test_dydx_never_closes_more_than_the_limit_of_a_block() -> None:
    assert taken(DYDX, 5_000_000.0, 0.0, 1.0).close_usd == 100_000.0
    assert taken(DYDX, 700.0, 0.0, 1.0).close_usd == 700.0


def test_hyperliquid_closes_a_fifth_waits_30_s_then_closes_the_rest() -> None:
    steps = play(HYPERLIQUID, 200_000.0, one_percent, equity_usd=1_500.0)
    # Maintenance 2 000 > 1 500; after 40 000 are closed it is 1 600, still more: the remaining 160 000 go after 30 s.
    assert [step[:3] for step in steps] == [(0.0, 40_000.0, 160_000.0), (30.0, 160_000.0, 0.0)]


def test_hyperliquid_stops_after_the_fifth_when_that_is_enough() -> None:
    steps = play(HYPERLIQUID, 200_000.0, one_percent, equity_usd=1_700.0)  # maintenance falls from 2 000 to 1 600
    assert [step[:3] for step in steps] == [(0.0, 40_000.0, 160_000.0)]


def test_hyperliquid_closes_a_small_position_whole() -> None:
    assert taken(HYPERLIQUID, 100_000.0, 900.0, 1_000.0).close_usd == 100_000.0
    assert taken(HYPERLIQUID, 100_001.0, 900.0, 1_000.0).close_usd == pytest.approx(20_000.2)


def test_hyperliquid_vault_takes_all_below_two_thirds_and_nothing_reaches_the_book() -> None:
    assert taken(HYPERLIQUID, 1e6, 6_666.0, 10_000.0) == (1e6, 0.0, 6_666.0)
    assert taken(HYPERLIQUID, 1e6, 6_667.0, 10_000.0) == (200_000.0, 1.0, 0.0)
    assert taken(HYPERLIQUID, 1e6, -50.0, 10_000.0) == (1e6, 0.0, 0.0)  # there is no equity to hand over


def test_synthetix_closes_two_positions_of_150_with_100_per_10_s() -> None:
    closes = velocity.queue([150.0, 150.0], [0.0, 6.0, 11.0, 23.0], budget_usd=100.0, window_s=10.0)
    assert [(c.time_s, c.position, c.closed_usd, c.left_usd) for c in closes] == [
        (0.0, 0, 100.0, 50.0),  # the window is used up; at +6 s it still is
        (11.0, 0, 50.0, 0.0),  # the first close has left the window: the rest of the first
        (11.0, 1, 50.0, 100.0),  # and 50 of the second
        (23.0, 1, 100.0, 0.0),
    ]


def test_a_velocity_window_is_open_at_its_old_end() -> None:
    # At 10 s the window (0, 10] no longer holds the close of 0 s; at 9.9 s it does.
    early = velocity.queue([150.0], [0.0, 9.9], budget_usd=100.0, window_s=10.0)
    late = velocity.queue([150.0], [0.0, 10.0], budget_usd=100.0, window_s=10.0)
    assert ([c.time_s for c in early], [c.time_s for c in late]) == ([0.0], [0.0, 10.0])
    with pytest.raises(ValueError, match="must rise"):
        velocity.queue([1.0], [5.0, 1.0], budget_usd=1.0, window_s=1.0)


def test_synthetix_one_position_alone_takes_a_window_each_step() -> None:
    steps = play(SYNTHETIX, 250.0, one_percent)
    assert [step[:3] for step in steps] == [(0.0, 100.0, 150.0), (10.0, 100.0, 50.0), (20.0, 50.0, 0.0)]
    assert paths.budget_usd_of(paths.VELOCITY, paths.params_of(SYNTHETIX)) == 100.0
    assert paths.budget_usd_of(paths.GRADUAL, paths.params_of(DYDX)) == np.inf


def test_vega_disposes_of_280_in_100_90_45_45() -> None:
    steps = play(VEGA, 280.0, one_percent)
    # .5 * 280 = 140 > 1 % of 10 000; .5 * 180 = 90; .5 * 90 = 45; 45 <= 50 goes whole.
    assert [step.closed_usd for step in steps] == [100.0, 90.0, 45.0, 45.0]
    assert [step.time_s for step in steps] == [0.0, 10.0, 20.0, 30.0]


def test_vega_bounds_a_full_disposal_by_the_book_too() -> None:
    small_book = Path("timed", 10.0, {"fraction": 0.5, "full_usd": 50.0, "book_usd": 1_000.0, "book_share_max": 0.01})
    assert taken(small_book, 45.0, 0.0, 1.0).close_usd == 10.0


def test_derive_sells_the_share_that_restores_the_buffer_margin() -> None:
    params = paths.params_of(DERIVE)
    # MtM 300, MM -100: maintenance 400. BM = -100 + (-100 - 300) * .1 = -140.
    assert auction.sold_share(300.0, 400.0, 1.0, params) == pytest.approx(140 / (140 + 300), rel=1e-12)
    assert auction.sold_share(300.0, 400.0, 1.0, params) == pytest.approx(0.318182, abs=5e-7)
    f = auction.sold_share(300.0, 400.0, 0.9, params)  # bid 270
    assert f == pytest.approx(0.341463, abs=5e-7)
    assert f * 270 == pytest.approx(92.195, abs=5e-4)


def test_derive_takes_the_discount_from_the_account_and_hedges_a_share() -> None:
    close_usd, book_share, discount_usd = taken(DERIVE, 4_000.0, 300.0, 400.0, step=5)  # 50 s: d = .9
    assert close_usd == pytest.approx(4_000 * 140 / 410)
    assert book_share == 0.5
    assert discount_usd == pytest.approx(140 / 410 * (300 - 270))


def test_derive_reserved_cash_is_not_discounted() -> None:
    reserve = Path(DERIVE.kind, DERIVE.step_s, DERIVE.params | {"reserve_usd": 100.0})
    # bid = 300 * .9 + 100 * .1 = 280; f = 140 / (140 + 280) = 1 / 3
    assert taken(reserve, 3_000.0, 300.0, 400.0, step=5).close_usd == pytest.approx(1_000.0)


def test_derive_price_falls_in_two_lines() -> None:
    params = paths.params_of(DERIVE)
    prices = [auction.discount(t, params) for t in (0.0, 50.0, 100.0, 300.0, 500.0, 9_999.0)]
    assert prices == pytest.approx([1.0, 0.9, 0.8, 0.4, 0.0, 0.0])


def test_derive_waits_for_bidders_but_not_when_the_account_is_insolvent() -> None:
    asking = Path(DERIVE.kind, DERIVE.step_s, DERIVE.params | {"bidder_edge": 0.1})
    assert taken(asking, 1_000.0, 300.0, 400.0, step=4).close_usd == 0.0
    assert taken(asking, 1_000.0, 300.0, 400.0, step=5).close_usd > 0.0
    assert taken(asking, 1_000.0, -1.0, 400.0, step=0) == (1_000.0, 0.5, 0.0)


@given(st.floats(1.0, 1e6), st.floats(0.0, 0.9999), st.integers(0, 60))
def test_one_sale_of_an_auction_leaves_exactly_the_buffer(maintenance: float, ratio: float, step: int) -> None:
    equity = maintenance * ratio
    close_usd, _, discount_usd = taken(DERIVE, 1e6, equity, maintenance, step)
    left = 1 - close_usd / 1e6
    # Shares of legs and cash leave together: equity - discount is what the account is worth at the mark.
    assert equity - discount_usd == pytest.approx(maintenance * left * 1.1, rel=1e-9, abs=1e-6 * maintenance)


@pytest.mark.parametrize("path", ALL, ids=[path.kind for path in ALL])
@given(position=money, ratio=st.floats(-5.0, 1.5), maintenance=money, step=st.integers(0, 1_000))
@settings(max_examples=60)
def test_no_path_closes_more_than_there_is(
    path: Path, position: float, ratio: float, maintenance: float, step: int
) -> None:
    equity = ratio * maintenance
    close_usd, book_share, discount_usd = taken(path, position, equity, maintenance, step)
    assert 0.0 <= close_usd <= position
    assert 0.0 <= book_share <= 1.0
    assert 0.0 <= discount_usd <= max(equity, 0.0)


@pytest.mark.parametrize("path", ALL, ids=[path.kind for path in ALL])
def test_a_position_that_stays_short_of_maintenance_is_closed_whole(path: Path) -> None:
    steps = play(path, 1_234.5, one_percent)
    assert sum(step.closed_usd for step in steps) == pytest.approx(1_234.5, rel=1e-12)
    assert steps[-1].left_usd == 0.0
    assert all(step.closed_usd > 0 for step in steps)


@pytest.mark.parametrize("path", ALL, ids=[path.kind for path in ALL])
def test_an_account_that_meets_maintenance_is_left_alone(path: Path) -> None:
    assert play(path, 1_000.0, one_percent, equity_usd=10.0) == []  # equal is safe


def test_the_buffer_keeps_an_account_in_liquidation_longer() -> None:
    # 990 of 1 000: after one block of 10 % maintenance is 900; with a buffer of 15 % 1 035 is needed: one block more.
    stops = [len(play(DYDX, 100_000.0, one_percent, 990.0, buffer=buffer)) for buffer in (0.0, 0.15)]
    assert stops == [1, 2]


def test_costs_are_paid_out_of_the_equity() -> None:
    # Block by block 10 000, 9 000, ...: 2 % of it is more than the 1 % of maintenance that it frees.
    assert len(play(DYDX, 100_000.0, one_percent, 999.0, cost_rate=0.02)) > 10


def test_every_path_is_a_row_a_module_and_a_branch() -> None:
    assert [kind.name for kind in paths.KINDS] == [module.__name__.rsplit(".", 1)[1] for module in MODULES]
    assert [kind.code for kind in paths.KINDS] == list(range(len(paths.KINDS)))
    for kind, module, path in zip(paths.KINDS, MODULES, ALL, strict=True):
        assert (kind.name, kind.params) == (path.kind, module.PARAMS)
        params = paths.params_of(path)
        args = (12_345.0, 90.0, 123.0, 3, params)
        assert paths.take_of(kind.code, *args) == module.take(*args)
        assert paths.close_usd_of(kind.code, *args) == module.take(*args).close_usd > 0


@pytest.mark.parametrize(("path", "module"), list(zip(ALL, MODULES, strict=True)), ids=[path.kind for path in ALL])
@given(position=money, ratio=st.floats(-5.0, 1.5), maintenance=money, step=st.integers(0, 100))
@settings(max_examples=40)
def test_what_is_compiled_is_what_is_written(  # noqa: PLR0917  # pytest and hypothesis pass names
    path: Path, module: Any, position: float, ratio: float, maintenance: float, step: int
) -> None:
    """Finds a compiled `take_of` that numba kept from before a path was changed: remove `__pycache__` then."""
    args = (position, ratio * maintenance, maintenance, step, paths.params_of(path))
    assert tuple(paths.take_of(paths.kind_of(path.kind).code, *args)) == pytest.approx(
        tuple(module.take.py_func(*args))
    )


def test_an_unknown_code_closes_nothing() -> None:
    assert paths.take_of(99, 100.0, 0.0, 1.0, 0, np.zeros(9)) == (0.0, 0.0, 0.0)


def test_all_faults_of_a_path_are_told_at_once() -> None:
    bad = Path("gradual", -1.0, {"share": 2.0, "shares": 0.1, "limit_usd": float("nan")})
    with pytest.raises(ValueError, match="shares") as told:
        paths.params_of(bad)
    for fault in ("`shares` is not a parameter", "`step_s` must be", "`share` must be in", "`limit_usd` must be in"):
        assert fault in str(told.value)
    with pytest.raises(ValueError, match="must be one of"):
        paths.params_of(Path("fire_sale"))
