"""The venue's own path, the fund and auto-deleveraging: what is closed, who pays, and that no money is lost."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from features.mechanics.profile import Path
from models.simulator import VenueSettings
from models.simulator.accounts import Ledger, draw_traits
from models.simulator.book import BID, Book
from models.simulator.deleveraging import deleverage
from models.simulator.legs import Legs, Market, open_legs
from models.simulator.liquidation import Costs, liquidate
from models.simulator.path import Desk, Sale, whole_sale
from models.simulator.settings import tier_arrays
from models.simulator.venue import Venue

START = datetime(2025, 1, 1, 6, tzinfo=UTC)
TWO = VenueSettings(symbols=("AAA-PERP", "BBB-PERP"), accounts=4, step_s=10, fee_taker=0.0)
TIERS = tier_arrays(TWO)
GRADUAL = Path("gradual", 10.0, {"share": 0.1})
SHARE_FIRST = Path("share_first", 30.0, {"full_usd": 1_000.0, "share": 0.2, "backstop_ratio": 2 / 3})
VELOCITY = Path("velocity", 10.0, {"budget_usd": 100.0})
TIMED = Path("timed", 10.0, {"fraction": 0.5, "full_usd": 50.0})
AUCTION = Path(
    "auction",
    10.0,
    {"buffer": 0.1, "cutoff": 0.8, "fast_s": 20.0, "slow_s": 80.0, "bidder_edge": 0.1, "hedge_share": 0.5},
)
PATHS = (Path("market"), GRADUAL, SHARE_FIRST, VELOCITY, TIMED, AUCTION)


def unit(account: int, usd: Sequence[float], equity: float, maintenance: float) -> Legs:
    """Legs of one cross account at a mark of 1 dollar, each with its share of the maintenance margin."""
    notional = np.array(usd)
    size = np.ones(notional.size)
    own = maintenance * np.abs(notional) / np.abs(notional).sum()
    return Legs(
        account=np.full(notional.size, account),
        symbol=np.arange(notional.size),
        qty=notional,
        notional_usd=notional,
        equity_usd=equity * size,
        maintenance_usd=maintenance * size,
        own_maintenance_usd=own,
        isolated=np.zeros(notional.size, dtype=np.bool_),
    )


def joined(*parts: Legs) -> Legs:
    return Legs(*(np.concatenate([getattr(part, name) for part in parts]) for name in Legs.__dataclass_fields__))


def desk(path: Path, **settings: object) -> Desk:
    return Desk(replace(TWO, path=path, **settings))  # type: ignore[arg-type]  # any field of the settings


def closed_usd(found: tuple[Legs, Sale]) -> list[float]:
    legs, sale = found
    return [float(usd) for usd in sale.share * np.abs(legs.notional_usd)]


# the path


def test_a_gradual_path_closes_the_same_share_of_every_leg() -> None:
    assert closed_usd(desk(GRADUAL).sales(unit(0, [600.0, -400.0], 99.0, 100.0), 0)) == pytest.approx([60.0, 40.0])


def test_a_liquidation_begins_below_maintenance_and_ends_at_the_buffer() -> None:
    """Maintenance 100, buffer 2 %: 99 begins; once begun 101 goes on, 102 is the end; from there 101 is safe again."""
    venue = desk(GRADUAL, exit_buffer=0.02)
    acted = [
        len(closed_usd(venue.sales(unit(0, [1_000.0], equity, 100.0), tick)))
        for tick, equity in enumerate((100.0, 99.0, 101.0, 102.0, 101.0))
    ]
    assert acted == [0, 1, 1, 0, 0]


def test_the_first_step_of_a_unit_is_marked_and_no_other() -> None:
    venue, leg = desk(GRADUAL), unit(0, [1_000.0], 99.0, 100.0)
    assert [venue.sales(leg, tick)[1].fresh.tolist() for tick in range(3)] == [[True], [False], [False]]


def test_a_share_goes_first_and_the_rest_after_its_wait() -> None:
    """Steps of 30 s on a venue of 10 s: acts at ticks 5 and 8. 20 % of 10 000, then all of what is left."""
    venue = desk(SHARE_FIRST)
    left, closed = 10_000.0, []
    for tick in range(5, 9):
        now = closed_usd(venue.sales(unit(0, [left], 90.0, 100.0), tick))
        closed.append(now)
        left -= sum(now)
    assert closed == [[2_000.0], [], [], [8_000.0]]


def test_units_that_enter_at_different_times_keep_their_own_clocks() -> None:
    venue = desk(SHARE_FIRST)
    first, second = unit(0, [10_000.0], 90.0, 100.0), unit(2, [10_000.0], 90.0, 100.0)
    venue.sales(first, 0)
    venue.sales(joined(first, second), 1)
    assert venue.accounts().tolist() == [0, 2]
    legs, _ = venue.sales(joined(first, second), 3)
    assert legs.account.tolist() == [0]
    legs, _ = venue.sales(joined(first, second), 4)
    assert legs.account.tolist() == [2]


def test_a_backstop_takes_a_hopeless_unit_beside_the_book() -> None:
    legs, sale = desk(SHARE_FIRST).sales(unit(0, [10_000.0], 60.0, 100.0), 0)  # below 2 / 3 of 100
    assert closed_usd((legs, sale)) == [10_000.0]
    assert (sale.beside.tolist(), sale.book_share.tolist(), sale.discount_usd.tolist()) == ([True], [0.0], [60.0])


def test_a_velocity_budget_is_shared_by_those_who_want_it() -> None:
    """Two units of 150 in one symbol, 100 per window: each may take 100, both together 100, so 50 each."""
    both = joined(unit(0, [150.0], 0.5, 1.0), unit(1, [150.0], 0.5, 1.0))
    assert closed_usd(desk(VELOCITY).sales(both, 0)) == pytest.approx([50.0, 50.0])


def test_an_auction_sells_nothing_until_bidders_come_and_hedges_a_part() -> None:
    """Equity 300, maintenance 400, buffer .1: lacking 140. At 20 s d = .8: bid 240, f = 140 / 380, discount f * 60."""
    venue, leg = desk(AUCTION), unit(0, [4_000.0], 300.0, 400.0)
    assert closed_usd(venue.sales(leg, 0)) == [0.0]
    venue.sales(leg, 1)
    legs, sale = venue.sales(leg, 2)
    assert closed_usd((legs, sale)) == pytest.approx([4_000 * 140 / 380])
    assert sale.discount_usd.tolist() == pytest.approx([60 * 140 / 380])
    assert (sale.beside.tolist(), sale.book_share.tolist()) == ([True], [0.5])


def test_the_clock_of_a_path_runs_in_its_own_steps() -> None:
    """Steps of 20 s on a venue of 10 s: at the second, 20 s after it began, d = .8; nothing happens in between."""
    venue, leg = desk(replace(AUCTION, step_s=20.0)), unit(0, [4_000.0], 300.0, 400.0)
    closed = [closed_usd(venue.sales(leg, tick)) for tick in range(3)]
    assert closed == [[0.0], [], [pytest.approx(4_000 * 140 / 380)]]


# one liquidation


def ledger_of(cash: Sequence[float], *, isolated: bool = False) -> Ledger:
    settings = replace(TWO, accounts=len(cash), isolated_share=float(isolated))
    rng = np.random.default_rng(0)
    ledger = Ledger(settings, draw_traits(settings, rng), rng)
    ledger.cash[:] = cash
    ledger.traits.leverage[:] = 10.0
    ledger.deposits = ledger.balance_usd()
    return ledger


def trade(ledger: Ledger, account: int, dq: float, price: float) -> None:
    ledger.trade(np.array([account]), np.array([0]), np.array([dq]), np.array([price]))


def market_at(mark: float) -> Market:
    price = np.array([mark, 1.0])
    return Market(price, price, TIERS, deep())


def deep() -> Book:
    return Book(replace(TWO, accounts=10**9, depth_exponent=1.0))


def forced(ledger: Ledger, mark: float, sale: Sale | None = None, fee: float = 0.0, rule: str = "rank") -> Legs:
    price = np.array([mark, 1.0])
    legs = open_legs(ledger, price, TIERS)
    legs = legs.rows(legs.equity_usd < legs.maintenance_usd)
    sold = whole_sale(legs) if sale is None else sale
    liquidate(ledger, Market(price, price, TIERS, deep()), legs, sold, Costs(0.0, fee, rule))
    return legs


def part(share: float, discount: float = 0.0, *, beside: bool = False) -> Sale:
    one = np.ones(1)
    return Sale(share * one, one, np.array([beside]), discount * one, np.array([True]))


def test_a_partial_liquidation_of_an_isolated_leg_leaves_its_equity_with_it() -> None:
    """10 000 at 10 x: margin 1 000. At 91 the leg is worth 100, maintenance 91; at 90.5 it has 50.

    Half is sold at 90.5: it loses 475, half of 950, which its margin pays: 525 stay for a loss of 475, equity 50.
    """
    ledger = ledger_of([2_000.0], isolated=True)
    trade(ledger, 0, 100.0, 100.0)
    forced(ledger, 90.5, part(0.5))
    assert (ledger.qty[0, 0], ledger.cash[0]) == (50.0, 1_000.0)
    assert ledger.isolated[0, 0] == pytest.approx(525.0)
    assert ledger.isolated[0, 0] + 50 * 90.5 - ledger.cost[0, 0] == pytest.approx(50.0)


def test_a_part_that_eats_all_margin_leaves_the_rest_to_the_entry_price() -> None:
    """At 88 the leg has lost 1 200 of 1 000. Half sold: 600 from the margin. Then 90 %: 540, of which 400 are there."""
    ledger = ledger_of([2_000.0], isolated=True)
    trade(ledger, 0, 100.0, 100.0)
    for share, margin in ((0.5, 400.0), (0.9, 0.0)):
        forced(ledger, 88.0, part(share))
        assert ledger.isolated[0, 0] == pytest.approx(margin)
        assert ledger.isolated[0, 0] + ledger.qty[0, 0] * 88.0 - ledger.cost[0, 0] == pytest.approx(-200.0)
        assert ledger.balance_usd() == pytest.approx(ledger.deposits)


def test_the_fee_of_a_part_never_takes_an_account_below_zero() -> None:
    """Cash 30, 10 000 at 100 and at the mark: selling half costs 25 of fee, the next half only the 5 that are left."""
    ledger = ledger_of([30.0])
    trade(ledger, 0, 100.0, 100.0)
    fund = ledger.fund
    for cash in (5.0, 0.0):
        forced(ledger, 100.0, part(0.5), fee=0.005)
        assert ledger.cash[0] == pytest.approx(cash)
    assert ledger.fund - fund == pytest.approx(30.0)


def test_bidders_pay_the_mark_less_their_discount_and_the_book_is_not_touched() -> None:
    """4 000 of 10 000 sold at 100 for a discount of 12: the price is 99.7, the account 12 poorer."""
    ledger = ledger_of([90.0])
    trade(ledger, 0, 100.0, 100.0)
    forced(ledger, 100.0, part(0.4, 12.0, beside=True))
    assert ledger.qty[0, 0] == pytest.approx(60.0)
    assert ledger.cash[0] == pytest.approx(78.0)


def test_tokens_pay_what_a_closed_account_owes_before_the_fund_does() -> None:
    """Cash -20 after the loss, 50 tokens at .8: 25 of them pay it."""
    ledger = ledger_of([30.0])
    ledger.tokens[0], ledger.deposits_tokens, ledger.token_price = 50.0, 50.0, 0.8
    trade(ledger, 0, 100.0, 100.0)
    fund = ledger.fund
    forced(ledger, 99.5)  # loses 50
    assert (ledger.cash[0], ledger.tokens[0], ledger.house_tokens) == pytest.approx((0.0, 25.0, 25.0))
    assert ledger.fund == fund
    assert ledger.balance_usd() == pytest.approx(ledger.deposits)


# auto-deleveraging


def deleveraged(rule: str) -> Ledger:
    """Account 0 is long 100 from 100 with 200 of cash: bankrupt at 98, the mark is 97. The others are short against it.

    1: 60 from 110; 2: 60 from 105 with much more cash; 3: 60 from 97.5, which has no profit at 98.
    """
    ledger = ledger_of([200.0, 500.0, 50_000.0, 5_000.0])
    for account, (qty, entry) in enumerate(((100.0, 100.0), (-60.0, 110.0), (-60.0, 105.0), (-60.0, 97.5))):
        trade(ledger, account, qty, entry)
    ledger.fund = 0.0
    ledger.deposits = ledger.balance_usd()
    forced(ledger, 97.0, rule=rule)
    return ledger


def test_winners_with_the_highest_profit_and_leverage_are_deleveraged_first() -> None:
    """1 gives all 60 at 98: 720 of profit; 2 the other 40: 280. 3 would lose at 98 and keeps its position."""
    ledger = deleveraged("rank")
    assert ledger.qty[:, 0].tolist() == pytest.approx([0.0, 0.0, -20.0, -60.0])
    assert ledger.cash.tolist() == pytest.approx([0.0, 1_220.0, 50_280.0, 5_000.0])


def test_capped_pro_rata_asks_all_winners_for_the_same_share() -> None:
    ledger = deleveraged("pro_rata")
    assert ledger.qty[:, 0].tolist() == pytest.approx([0.0, -10.0, -10.0, -60.0])
    assert ledger.cash.tolist() == pytest.approx([0.0, 1_100.0, 50_350.0, 5_000.0])


@pytest.mark.parametrize("rule", ["rank", "pro_rata"])
def test_deleveraging_costs_nobody_else_anything(rule: str) -> None:
    """100 change hands at 98 instead of 97: 100 dollars, paid by winners; the house and the fund stay as they were."""
    ledger = deleveraged(rule)
    assert ledger.adl == pytest.approx(100.0)
    assert (ledger.fund, ledger.bad_debt) == (0.0, 0.0)
    assert ledger.house_qty[0] == pytest.approx(80.0)
    assert ledger.balance_usd() == pytest.approx(ledger.deposits)


def test_without_a_rule_of_deleveraging_the_hole_is_bad_debt() -> None:
    ledger = deleveraged("none")
    assert ledger.qty[1:, 0].tolist() == [-60.0, -60.0, -60.0]
    assert ledger.bad_debt == pytest.approx(100.0, abs=1.0)  # 300 lost at 97, 200 there


def test_what_no_winner_takes_stays_with_the_house() -> None:
    ledger = ledger_of([200.0, 500.0])
    trade(ledger, 0, 100.0, 100.0)
    trade(ledger, 1, -60.0, 110.0)
    legs = open_legs(ledger, np.array([97.0, 1.0]), TIERS).rows(np.array([0]))
    ledger.force(legs.account, legs.symbol, np.ones(1), np.array([98.0]))
    deleverage(ledger, market_at(97.0), legs, np.array([98.0]), "rank")
    assert ledger.qty[:, 0].tolist() == [0.0, 0.0]
    assert ledger.house_qty[0] == pytest.approx(0.0)
    assert ledger.cash[1] == pytest.approx(500 + 60 * (110 - 98))


def test_several_bankrupt_legs_are_matched_in_order_at_their_own_prices() -> None:
    """50 at 98 and 50 at 96 against winners of 60 and 60: the first pays 50 * 98 + 10 * 96, the second 40 * 96."""
    ledger = ledger_of([0.0, 0.0, 500.0, 50_000.0])
    for account, (qty, entry) in enumerate(((50.0, 100.0), (50.0, 100.0), (-60.0, 110.0), (-60.0, 105.0))):
        trade(ledger, account, qty, entry)
    mark = np.array([95.0, 1.0])
    legs = open_legs(ledger, mark, TIERS).rows(np.array([0, 1]))
    price = np.array([98.0, 96.0])
    ledger.force(legs.account, legs.symbol, np.ones(2), price)
    deleverage(ledger, market_at(95.0), legs, price, "rank")
    assert ledger.cash[2:].tolist() == pytest.approx([500 + 60 * 110 - 50 * 98 - 10 * 96, 50_000 + 40 * 105 - 40 * 96])


# a venue in time


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.kind)
def test_money_and_tokens_are_conserved_on_every_path_and_nobody_is_forced_too_early(path: Path) -> None:
    rough = replace(
        TWO,
        accounts=100,
        step_s=60,
        volatility_day=0.3,
        leverage_median=25.0,
        jump_rate_day=30.0,
        jump_size=0.04,
        fund_account_usd=1.0,
        stablecoin_account_share=0.5,
        depeg_rate_day=5.0,
        path=replace(path, params={**path.params, **({"budget_usd": 2e4} if path.kind == "velocity" else {})}),
    )
    venue, fills = Venue(rough, 3), []
    for hour in range(8):
        fills += [fill for _, fill in venue.run_hour(START + timedelta(hours=hour)).forced]
        ledger = venue.ledger
        scale = np.abs(ledger.cash).sum() + np.abs(ledger.cost).sum() + abs(ledger.house_cash)
        assert ledger.balance_usd() == pytest.approx(ledger.deposits, abs=1e-9 * scale)
        assert ledger.tokens.sum() + ledger.house_tokens == pytest.approx(ledger.deposits_tokens, rel=1e-9)
        np.testing.assert_allclose(ledger.qty.sum(axis=0) + ledger.house_qty, 0.0, atol=1e-9 * np.abs(ledger.qty).sum())
        assert min(ledger.isolated.min(), ledger.tokens.min(), ledger.fund, ledger.bad_debt) >= 0
    assert sum(fill.qty.size for fill in fills) > 10
    for fill in fills:
        bound = np.where(fill.fresh, 1.0, 1 + rough.exit_buffer) * fill.maintenance_usd
        assert (fill.equity_usd < bound).all()


def test_forced_fills_carry_the_path_of_the_venue() -> None:
    rough = replace(TWO, accounts=100, step_s=60, volatility_day=0.3, leverage_median=25.0)
    for path, word in ((GRADUAL, "gradual"), (replace(AUCTION, step_s=60.0), "auction")):
        venue = Venue(replace(rough, path=path), 3)
        hours = [venue.emitter.tables(venue.run_hour(START + timedelta(hours=hour))) for hour in range(4)]
        words = {name for hour in hours for name in hour["liquidations"]["path"].to_list()}
        assert word in words <= {word, "adl"}


def test_a_gradual_path_reaches_the_book_in_more_and_smaller_pieces_than_market_orders() -> None:
    book = deep()
    assert book.within_usd(250.0)[0, BID] > 0
    sizes = []
    for path in (Path("market"), GRADUAL):
        settings = replace(TWO, accounts=100, step_s=60, volatility_day=0.3, leverage_median=25.0, path=path)
        venue = Venue(settings, 3)
        fills = [f for hour in range(4) for _, f in venue.run_hour(START + timedelta(hours=hour)).forced]
        sizes.append(np.abs(np.concatenate([fill.qty * fill.price for fill in fills])))
    assert sizes[1].size > 2 * sizes[0].size
    assert np.median(sizes[1]) < 0.5 * np.median(sizes[0])


def test_a_path_that_is_not_one_is_refused_with_all_its_faults() -> None:
    with pytest.raises(ValueError, match=r"`share` is missing") as caught:
        VenueSettings(path=Path("gradual", 0.1, {}), adl="luck", exit_buffer=-1.0)
    for words in ("`step_s` must be 0 or at least", "`adl` must be one of", "`exit_buffer` must be at least 0"):
        assert words in str(caught.value)
