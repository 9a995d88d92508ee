"""The venue simulator: the same seed gives the same world, money is conserved, nobody is sold who can pay."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from features.schema import CANONICAL, DEPTH_BANDS_BPS, Instruments, polars_schema
from models.simulator import VenueSettings, instruments, simulate
from models.simulator.accounts import Ledger, draw_traits
from models.simulator.behaviour import stop_orders
from models.simulator.book import ASK, BID, REACH_BPS, Book
from models.simulator.legs import Legs, Market, open_legs
from models.simulator.liquidation import Costs, liquidate
from models.simulator.margin import BREACHED, FINE, WORRIED, scan
from models.simulator.path import whole_sale
from models.simulator.prices import Prices
from models.simulator.record import HourRecord
from models.simulator.settings import Floats, tier_arrays, tiers_of_rank, volatilities_day
from models.simulator.venue import Venue

START = datetime(2025, 1, 1, 6, tzinfo=UTC)  # funding falls due at 08:00
HOURS = 4
TABLES = [
    "trades",
    "candles",
    "book_events",
    "book_depth",
    "marks",
    "funding",
    "open_interest",
    "liquidations",
    "collateral",
    "positions",
]
ROUGH = VenueSettings(
    symbols=("AAA-PERP", "BBB-PERP"), accounts=150, volatility_day=0.3, leverage_median=25.0, fund_account_usd=0.0
)
Hours = list[dict[str, pl.DataFrame]]


@pytest.fixture(scope="module")
def hours() -> Hours:
    return list(simulate(ROUGH, 5, START, HOURS))


@pytest.fixture(scope="module")
def day(hours: Hours) -> dict[str, pl.DataFrame]:
    return {table: pl.concat([hour[table] for hour in hours]) for table in TABLES}


def records(venue: Venue, hours: int) -> Iterator[HourRecord]:
    for hour in range(hours):
        yield venue.run_hour(START + timedelta(hours=hour))


# the frames


def test_the_same_seed_gives_the_same_frames_and_another_seed_does_not(hours: Hours) -> None:
    again, other = next(simulate(ROUGH, 5, START, 1)), next(simulate(ROUGH, 6, START, 1))
    for table in TABLES:
        assert_frame_equal(again[table], hours[0][table])
    assert not again["trades"].equals(other["trades"])
    assert not again["positions"].equals(other["positions"])


def test_a_shorter_run_is_the_beginning_of_a_longer_one(hours: Hours) -> None:
    short = list(simulate(ROUGH, 5, START, 2))
    assert len(short) == 2
    for mine, theirs in zip(short, hours, strict=False):
        for table in TABLES:
            assert_frame_equal(mine[table], theirs[table])


def test_every_table_has_rows_and_obeys_its_schema_over_several_hours(day: dict[str, pl.DataFrame]) -> None:
    for table, frame in day.items():
        assert frame.height > 0, table
        assert frame.schema == polars_schema(CANONICAL[table])
        CANONICAL[table].validate(frame)  # types, ranges and unique keys


def test_every_hour_has_every_table_and_an_hour_without_funding_an_empty_one(hours: Hours) -> None:
    assert all(list(hour) == TABLES for hour in hours)
    assert [hour["funding"].height for hour in hours] == [0, 2, 0, 0]
    assert hours[1]["funding"]["ts"].unique().to_list() == [START + timedelta(hours=2)]
    assert hours[0]["funding"].schema == hours[1]["funding"].schema


def test_rows_lie_inside_their_hour_and_are_known_after_they_happen(hours: Hours) -> None:
    for number, hour in enumerate(hours):
        begin, end = START + timedelta(hours=number), START + timedelta(hours=number + 1)
        for name, frame in hour.items():
            assert frame.filter((pl.col("ts") <= begin) | (pl.col("ts") > end)).height == 0
            at_once = name == "candles"  # a candle is known at its end
            assert (
                frame.filter(
                    (pl.col("known_at") < pl.col("ts")) | ((pl.col("known_at") == pl.col("ts")) != at_once)
                ).height
                == 0
            )


def test_market_tables_are_sorted_by_symbol_and_time(hours: Hours) -> None:
    for table in set(TABLES) - {"collateral"}:
        assert hours[0][table].equals(hours[0][table].sort("symbol", "ts", maintain_order=True)), table


def test_trade_ids_and_event_numbers_count_on_without_a_gap(day: dict[str, pl.DataFrame]) -> None:
    for _, trades in day["trades"].group_by("symbol"):
        ordered = trades.sort("ts", pl.col("trade_id").cast(pl.Int64))
        assert ordered["trade_id"].cast(pl.Int64).to_list() == list(range(1, trades.height + 1))
    for _, events in day["book_events"].group_by("symbol"):
        assert events.sort("ts", "seq")["seq"].to_list() == list(range(1, events.height + 1))


def test_every_forced_fill_is_also_a_trade_of_the_other_side(day: dict[str, pl.DataFrame]) -> None:
    forced = day["liquidations"].with_columns(side=pl.col("position_side").replace({"long": "sell", "short": "buy"}))
    assert forced.height > 10
    keys = ["symbol", "ts", "side", "price", "qty", "known_at"]
    assert forced.join(day["trades"], on=keys, how="semi").height == forced.height


def test_positions_cancel_out_and_open_interest_is_what_the_longs_hold(day: dict[str, pl.DataFrame]) -> None:
    sums = (
        day["positions"]
        .group_by("symbol", "ts")
        .agg(net=pl.col("qty").sum(), long=pl.col("qty").clip(lower_bound=0).sum())
    )
    assert sums.height == 2 * HOURS * 4
    assert (sums["net"].abs() <= 1e-9 * sums["long"]).all()
    venue = Venue(ROUGH, 5)
    *_, last = records(venue, HOURS)
    final = sums.filter(pl.col("ts") == START + timedelta(hours=HOURS)).sort("symbol")
    np.testing.assert_allclose(last.oi_base[-1], final["long"].to_numpy(), rtol=1e-9)


def test_snapshots_hold_what_the_venue_itself_computes_equity_from() -> None:
    venue = Venue(ROUGH, 5)
    tables, mark = venue.emitter.tables(venue.run_hour(START)), venue.prices.index + venue.prices.basis_ema
    prices = pl.DataFrame({"symbol": ROUGH.symbols, "mark": mark})
    last = [tables[name].filter(pl.col("ts") == START + timedelta(hours=1)) for name in ("positions", "collateral")]
    profit = (pl.col("qty") * (pl.col("mark") - pl.col("entry_price")) + pl.col("isolated_margin").fill_null(0.0)).sum()
    legs = last[0].join(prices, on="symbol").group_by("account").agg(profit=profit)
    is_fund = pl.col("account") == "insurance_fund"
    fund, held = (last[1].filter(side) for side in (is_fund, ~is_fund))
    assert fund["amount"].to_list() == [venue.ledger.fund]
    seen = held.join(legs, on="account", how="left").sort("account")
    assert seen["profit"].null_count() == 0
    assert seen.height == legs.height > 50
    rows = [int(name[1:]) for name in seen["account"][:-1]]
    mine = scan(venue.ledger, mark, venue.tiers, 2.0).equity_usd[rows]
    np.testing.assert_allclose((seen["amount"] + seen["profit"]).to_numpy()[:-1], mine, rtol=1e-9)
    assert seen["account"][-1] == "house"


def test_a_candle_holds_the_trades_of_its_minute_and_no_other(day: dict[str, pl.DataFrame]) -> None:
    candles, trades = day["candles"], day["trades"]
    assert candles["volume"].sum() == pytest.approx(trades["qty"].sum(), rel=1e-12)
    row = candles.row(candles.height // 2, named=True)
    since = row["ts"] - timedelta(minutes=1)
    mine = trades.filter(pl.col("symbol") == row["symbol"], pl.col("ts") > since, pl.col("ts") <= row["ts"]).sort("ts")
    prices = mine["price"]
    assert (row["open"], row["high"], row["low"], row["close"]) == (prices[0], prices.max(), prices.min(), prices[-1])
    assert row["taker_buy_volume"] == pytest.approx(mine.filter(pl.col("side") == "buy")["qty"].sum(), rel=1e-12)


def test_depth_is_cumulative_and_follows_the_shape_of_the_book(day: dict[str, pl.DataFrame]) -> None:
    wide = day["book_depth"].pivot(on="band_bps", index=["symbol", "ts", "side"], values="depth_usd")
    assert wide.height == 2 * 2 * HOURS * 60
    for band in DEPTH_BANDS_BPS:
        share = (wide[str(band)] / wide["500"]).to_numpy()
        np.testing.assert_allclose(share, (band / 500) ** ROUGH.depth_exponent, rtol=1e-9)


def test_book_events_add_up_to_the_change_of_depth() -> None:
    venue = Venue(ROUGH, 5)
    record = venue.run_hour(START)
    events = venue.emitter.tables(record)["book_events"].with_columns(
        usd=pl.col("price") * pl.col("qty") * pl.when(pl.col("event") == "add").then(1).otherwise(-1)
    )
    assert set(events["event"]) == {"add", "cancel", "trade"}
    for number, symbol in enumerate(ROUGH.symbols):
        for column, side in ((BID, "bid"), (ASK, "ask")):
            change = record.depth_after[-1, number, column] - record.depth_before[0, number, column]
            total = events.filter(symbol=symbol, side=side)["usd"].sum()
            assert total == pytest.approx(change, abs=3 * 180)  # amounts of a dollar and less are not printed


def test_traded_dollars_are_the_dollars_taken_from_the_book() -> None:
    venue = Venue(ROUGH, 5)
    record = venue.run_hour(START)
    trades = venue.emitter.tables(record)["trades"]
    for number, symbol in enumerate(ROUGH.symbols):
        for column, side in ((BID, "sell"), (ASK, "buy")):
            traded = trades.filter(symbol=symbol, side=side)["notional_usd"].sum()
            assert traded == pytest.approx(record.taken[:, number, column].sum(), rel=2e-3)


# the rules of the venue


def test_money_is_conserved_through_liquidations_funding_bad_debt_and_deleveraging() -> None:
    storm = replace(ROUGH, fund_account_usd=1.0, jump_rate_day=50.0, jump_size=0.05, step_s=60)
    venue, paths = Venue(storm, 3), set()
    before = venue.ledger.deposits
    for record in records(venue, 12):
        ledger = venue.ledger
        scale = np.abs(ledger.cash).sum() + np.abs(ledger.cost).sum() + abs(ledger.house_cash)
        assert ledger.balance_usd() == pytest.approx(ledger.deposits, abs=1e-9 * scale)
        np.testing.assert_allclose(ledger.qty.sum(axis=0) + ledger.house_qty, 0.0, atol=1e-9 * np.abs(ledger.qty).sum())
        paths |= {bool(adl) for _, fills in record.forced for adl in fills.adl}
    assert venue.ledger.bad_debt > 0
    assert venue.ledger.deposits != before
    assert paths == {False, True}


@pytest.mark.parametrize("isolated_share", [0.0, 1.0])
def test_nobody_above_maintenance_margin_is_liquidated(isolated_share: float) -> None:
    rough = replace(ROUGH, isolated_share=isolated_share, actions_account_day=30.0)
    fills = [fill for record in records(Venue(rough, 5), HOURS) for _, fill in record.forced]
    equity, maintenance, fresh = (
        np.concatenate([getattr(fill, name) for fill in fills]) for name in ("equity_usd", "maintenance_usd", "fresh")
    )
    assert fresh.sum() >= 5
    assert (equity < maintenance)[fresh].all()
    assert (equity < maintenance * (1 + rough.exit_buffer)).all()


def one_account(isolated: bool = False, cash: float = 1_000.0) -> Ledger:
    settings = VenueSettings(
        symbols=("AAA-PERP", "BBB-PERP"), accounts=1, isolated_share=float(isolated), fee_taker=0.0
    )
    rng = np.random.default_rng(0)
    ledger = Ledger(settings, draw_traits(settings, rng), rng)
    ledger.cash[:] = cash
    ledger.traits.leverage[:] = 10.0
    ledger.deposits = ledger.balance_usd()
    return ledger


def trade(ledger: Ledger, symbol: int, dq: float, price: float) -> None:
    ledger.trade(np.array([0]), np.array([symbol]), np.array([dq]), np.array([price]))


def test_trades_realise_profit_by_hand_arithmetic() -> None:
    ledger = one_account()
    trade(ledger, 0, 10.0, 100.0)
    trade(ledger, 0, 10.0, 110.0)  # 20 at an average of 105
    assert (ledger.qty[0, 0], ledger.cost[0, 0], ledger.cash[0]) == (20.0, 2_100.0, 1_000.0)
    trade(ledger, 0, -5.0, 121.0)  # closes 5: 5 * (121 - 105) = 80
    assert (ledger.qty[0, 0], ledger.cost[0, 0], ledger.cash[0]) == (15.0, 1_575.0, 1_080.0)
    trade(ledger, 0, -25.0, 95.0)  # closes 15: 15 * (95 - 105) = -150; opens 10 short at 95
    assert (ledger.qty[0, 0], ledger.cost[0, 0], ledger.cash[0]) == (-10.0, -950.0, 930.0)
    assert ledger.house_qty[0] == 10.0
    assert ledger.balance_usd() == pytest.approx(ledger.deposits)


def test_two_positions_of_one_account_may_trade_in_one_call() -> None:
    ledger = one_account()
    both, symbols = np.array([0, 0]), np.array([0, 1])
    ledger.trade(both, symbols, np.array([10.0, -10.0]), np.array([100.0, 50.0]))
    ledger.trade(both, symbols, np.array([-10.0, 10.0]), np.array([101.0, 47.0]))  # 10 and 30 of profit
    assert ledger.cash[0] == pytest.approx(1_040.0)
    assert ledger.balance_usd() == pytest.approx(ledger.deposits)


def test_isolated_margin_is_locked_by_leverage_and_freed_in_proportion() -> None:
    ledger = one_account(isolated=True)
    trade(ledger, 0, 10.0, 100.0)  # notional 1 000 at 10 x
    assert (ledger.isolated[0, 0], ledger.cash[0]) == (100.0, 900.0)
    trade(ledger, 0, -5.0, 104.0)  # frees 50, realises 20
    assert (ledger.isolated[0, 0], ledger.cash[0]) == (50.0, 970.0)


def test_funding_is_paid_by_longs_and_received_by_the_house() -> None:
    ledger = one_account()
    trade(ledger, 0, 10.0, 100.0)
    house = ledger.house_cash
    ledger.pay_funding(np.array([0.001, 0.5]), np.array([110.0, 1.0]))  # 10 * 110 * 0.001
    assert ledger.cash[0] == pytest.approx(998.9)
    assert ledger.house_cash - house == pytest.approx(1.1)


def test_a_cross_account_is_breached_where_equity_meets_the_sum_of_maintenance() -> None:
    """Two legs of 10 000 at 1 %: maintenance 200. Cash 1 000: safe at a loss of 800, breached just beyond it."""
    ledger, tiers = one_account(), tier_arrays(VenueSettings(symbols=("AAA-PERP", "BBB-PERP")))
    trade(ledger, 0, 100.0, 100.0)
    trade(ledger, 1, -100.0, 100.0)
    cases = {92.0: WORRIED, 91.9: BREACHED, 100.0: FINE}  # loss 800; 810; 0
    for price, health in cases.items():
        legs = open_legs(ledger, np.array([price, 100.0]), tiers)
        assert legs.equity_usd.tolist() == pytest.approx([1_000 - 100 * (100 - price)] * 2)
        assert legs.maintenance_usd.tolist() == pytest.approx([price + 100.0] * 2)
        assert scan(ledger, np.array([price, 100.0]), tiers, worry=2.0).health[0] == health


def test_the_compiled_scan_agrees_with_the_numpy_columns() -> None:
    venue = Venue(ROUGH, 9)
    for _ in records(venue, 2):
        for shock in (0.9, 0.97, 1.0, 1.04):
            mark = venue.prices.mark * shock
            legs, seen = open_legs(venue.ledger, mark, venue.tiers), scan(venue.ledger, mark, venue.tiers, 2.0)
            below = np.unique(legs.account[legs.equity_usd < legs.maintenance_usd])
            near = np.unique(legs.account[legs.equity_usd < 2 * legs.maintenance_usd])
            assert np.flatnonzero(seen.health == BREACHED).tolist() == below.tolist()
            assert np.flatnonzero(seen.health != FINE).tolist() == near.tolist()
            profit = np.bincount(legs.account, legs.notional_usd, 150) - venue.ledger.cost.sum(axis=1)
            equity = venue.ledger.cash + venue.ledger.isolated.sum(axis=1) + profit
            np.testing.assert_allclose(seen.equity_usd, equity, atol=1e-6)
            stopped = np.unique(stop_orders(venue.ledger, mark, np.arange(150)).account)
            assert np.flatnonzero(seen.stopped).tolist() == stopped.tolist()
    assert below.size == 0 or near.size > below.size


def thin(exponent: float = 1.0, accounts: int = 1) -> Book:
    """A book with 10 000 dollars within 100 bps."""
    settings = VenueSettings(
        symbols=("AAA-PERP", "BBB-PERP"), accounts=accounts, depth_account_100bps_usd=10_000.0, depth_exponent=exponent
    )
    return Book(settings)


def test_impact_of_a_flat_book_is_dollars_over_depth_and_doubles_when_depth_halves() -> None:
    book = thin()
    assert book.impact(0, BID, np.array([5_000.0]))[0] == pytest.approx(0.005)
    book.state[0, BID] = 0.5
    assert book.impact(0, BID, np.array([5_000.0]))[0] == pytest.approx(0.01)
    curved = thin(exponent=0.85)
    before = curved.impact(0, BID, np.array([5_000.0]))[0]
    curved.state[0, BID] = 0.5
    assert curved.impact(0, BID, np.array([5_000.0]))[0] / before == pytest.approx(2 ** (1 / 0.85))


def forced_from(ledger: Ledger, book: Book, mark: float) -> tuple[Legs, Floats, Floats, bool]:
    price, tiers = np.array([mark, 1.0]), tier_arrays(VenueSettings(symbols=("AAA-PERP", "BBB-PERP")))
    legs = open_legs(ledger, price, tiers)
    fills = liquidate(ledger, Market(price, price, tiers, book), legs, whole_sale(legs), Costs(0.0, 0.005))
    return legs, fills.qty, fills.price, bool(fills.adl.any())


def test_a_liquidation_walks_the_book_and_pays_its_fee_from_what_is_left() -> None:
    """10 000 sold into 10 000 per 1 %: the mean price is 0.5 % lower, 99.5; loss 50; fee 0.5 % of 9 950."""
    ledger, fund = one_account(cash=90.0), 150.0
    trade(ledger, 0, 100.0, 100.0)
    _, qty, price, adl = forced_from(ledger, thin(), 100.0)
    assert (qty.tolist(), price.tolist(), adl) == ([100.0], [pytest.approx(99.5)], False)
    assert ledger.cash[0] == pytest.approx(0.0)  # 90 - 50 = 40 is less than the fee of 49.75
    assert ledger.fund == pytest.approx(fund + 40.0)
    assert not ledger.qty.any()


def test_the_insurance_fund_covers_a_hole_and_what_it_lacks_is_bad_debt() -> None:
    """Cash 30, loss 50: a hole of 20. The fund has 5, so 15 are bad debt."""
    ledger = one_account(cash=30.0)
    trade(ledger, 0, 100.0, 100.0)
    ledger.fund = 5.0
    ledger.deposits = ledger.balance_usd()
    forced_from(ledger, thin(), 100.0)
    assert ledger.cash[0] == pytest.approx(0.0)
    assert (ledger.fund, ledger.bad_debt) == pytest.approx((0.0, 15.0))
    assert ledger.balance_usd() == pytest.approx(ledger.deposits)


def test_what_does_not_fit_into_the_book_waits() -> None:
    ledger, book = one_account(cash=1_000.0), thin()
    trade(ledger, 0, 1_000.0, 100.0)  # 100 000 against 10 000 per 1 %
    _, qty, _, _ = forced_from(ledger, book, 100.0)
    assert qty[0] * 100.0 == pytest.approx(book.within_usd(REACH_BPS)[0, BID])
    assert ledger.qty[0, 0] == pytest.approx(1_000.0 - qty[0])
    assert ledger.cost[0, 0] == pytest.approx(100.0 * ledger.qty[0, 0])


def test_with_an_empty_fund_a_bankrupt_position_goes_to_the_house_at_its_bankruptcy_price() -> None:
    """100 bought at 100 with 200 of cash: worth nothing at 98. At a mark of 97 the house takes it at 98."""
    ledger = one_account(cash=200.0)
    trade(ledger, 0, 100.0, 100.0)
    ledger.fund = 0.0
    _, qty, price, adl = forced_from(ledger, thin(), 97.0)
    assert (qty.tolist(), adl) == ([100.0], True)
    assert price[0] == pytest.approx(98.0)
    assert ledger.cash[0] == pytest.approx(0.0, abs=1e-9)
    assert ledger.bad_debt == pytest.approx(0.0, abs=1e-9)


def test_the_mark_follows_a_step_of_the_basis_as_a_moving_average_of_150_s() -> None:
    """After 20 s steps worth 100 s, 1 - exp(-100 / 150) = 48.7 % of a basis of 1 % is in the mark."""
    prices = Prices(VenueSettings(symbols=("AAA-PERP",)))
    prices.perp = prices.index * 1.01
    for _ in range(5):
        prices.settle_step()
    basis = (prices.basis_ema / prices.index)[0]
    assert basis == pytest.approx(0.01 * (1 - np.exp(-100 / 150)), rel=1e-9)


def test_makers_leave_quickly_when_volatility_rises_and_come_back_slowly() -> None:
    book, calm, noise = thin(), np.zeros(2), np.zeros((2, 2))
    for _ in range(15):  # 5 minutes
        book.requote(np.array([1.0, 1.0]), noise)
    thinned = book.state.copy()
    assert (thinned < 0.6).all()
    for _ in range(15):
        book.requote(calm, noise)
    assert (book.state > thinned).all()
    assert (book.state - thinned < 0.5 * (1 - thinned)).all()


def test_one_sided_flow_empties_the_side_it_hits() -> None:
    book, noise = thin(), np.zeros((2, 2))
    for _ in range(6):
        book.eat(np.array([[4_000.0, 500.0], [500.0, 500.0]]))
        book.requote(np.zeros(2), noise)
    assert book.state[0, BID] < 0.5 < book.state[0, ASK]
    assert book.state[1].tolist() == pytest.approx([1.0, 1.0])


# cascades


def cascade_minutes(settings: VenueSettings, seeds: range, hours: int = 30) -> int:
    """Minutes at which open interest has fallen by 2 % in 30 min and the price moved 4 ordinary standard deviations.

    The yardstick is the ordinary volatility of the settings, the same for all worlds that are compared.
    """
    sigma, total = volatilities_day(settings) * np.sqrt(30 / 1440), 0
    for seed in seeds:
        run = list(records(Venue(settings, seed), hours))
        perp, oi = (np.concatenate([getattr(record, name) for record in run]) for name in ("perp", "oi_base"))
        move, fall = np.abs(np.log(perp[30:] / perp[:-30])), 1 - oi[30:] / oi[:-30]
        total += int(((move > 4 * sigma) & (fall >= 0.02)).sum())
    return total


@pytest.mark.slow
def test_cascades_without_any_jump_need_leverage_and_thin_books() -> None:
    """The index is the same in all three worlds and never jumps: what differs comes from leverage and depth."""
    world = VenueSettings(
        symbols=("AAA-PERP", "BBB-PERP"),
        accounts=300,
        step_s=60,
        volatility_day=0.04,
        jump_rate_day=0.0,
        leverage_median=20.0,
    )
    usual = cascade_minutes(world, range(4))
    half_leverage = cascade_minutes(replace(world, leverage_median=10.0), range(4))
    half_depth = cascade_minutes(replace(world, depth_account_100bps_usd=world.depth_account_100bps_usd / 2), range(4))
    assert usual > 20
    assert 1.5 * half_leverage < usual
    assert half_depth > 1.5 * usual


# settings and instruments


def test_settings_list_every_violation_at_once() -> None:
    with pytest.raises(ValueError, match="symbols") as caught:
        VenueSettings(
            symbols=("A", "A"), accounts=0, volatility_day=float("nan"), correlation=1.5, funding_interval_h=7
        )
    for name in ("symbols", "accounts", "volatility_day", "correlation", "funding_interval_h"):
        assert f"`{name}`" in str(caught.value)


def test_a_start_that_is_not_a_full_hour_of_utc_is_refused() -> None:
    for start in (datetime(2025, 1, 1), datetime(2025, 1, 1, 0, 30, tzinfo=UTC)):  # noqa: DTZ001  # the mistake itself
        with pytest.raises(ValueError, match="full hour of UTC"):
            simulate(ROUGH, 1, start, 1)
    with pytest.raises(ValueError, match="`hours`"):
        simulate(ROUGH, 1, START, -1)


def test_instruments_are_linear_with_tiers_that_join_continuously() -> None:
    frame = instruments(VenueSettings(), START)
    Instruments.validate(frame)
    assert frame["settlement"].unique().to_list() == ["linear"]
    assert frame["symbol"].to_list() == list(VenueSettings().symbols)
    for rank in (0, 3):
        tiers = tiers_of_rank(rank)
        for low, high in pairwise(tiers):
            edge = low["notional_usd_max"]
            assert edge is not None
            margins = [edge * float(t["maintenance_rate"] or 0) - float(t["deduction_usd"] or 0) for t in (low, high)]
            assert margins[0] == pytest.approx(margins[1])


def test_one_symbol_one_account_and_long_steps_work() -> None:
    tiny = VenueSettings(symbols=("ONE",), accounts=1, step_s=60, funding_interval_h=1)
    tables = next(simulate(tiny, 1, START, 1))
    for table, frame in tables.items():
        CANONICAL[table].validate(frame)
    assert tables["open_interest"].height == 60
    assert tables["funding"].height == 1


def test_a_venue_of_two_hundred_symbols_runs_and_its_last_ones_are_alike() -> None:
    """Ranks that went on for ever made the last symbols wilder than numbers can be."""
    wide = VenueSettings(symbols=tuple(f"S{n:03}" for n in range(200)), accounts=50, step_s=60)
    volatility = volatilities_day(wide)
    assert volatility[199] == volatility[7] == pytest.approx(0.022 * 1.25**7)
    tables = next(simulate(wide, 1, START, 1))
    for table, frame in tables.items():
        CANONICAL[table].validate(frame)
    last = tables["marks"].filter(pl.col("symbol") == "S199")
    assert last.height > 0
    assert last["mark"].is_between(1, 10_000).all()
