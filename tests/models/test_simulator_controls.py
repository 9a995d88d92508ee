"""Controls at the simulated venue: what they bind is bound, what they do not touch is the same to the last byte."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from models.simulator import Controls, Stretch, VenueSettings, prices, simulate, simulate_controlled
from models.simulator.accounts import Ledger, draw_traits
from models.simulator.behaviour import NOTIONAL_USD_MIN, Orders
from models.simulator.controls import ACTIONS, allowed, free
from models.simulator.legs import Legs, Market
from models.simulator.liquidation import _walk
from models.simulator.record import HourRecord
from models.simulator.settings import Floats
from models.simulator.venue import Venue

START = datetime(2025, 1, 1, 6, tzinfo=UTC)
ROUGH = VenueSettings(
    symbols=("AAA-PERP", "BBB-PERP"), accounts=150, volatility_day=0.3, leverage_median=25.0, fund_account_usd=0.0
)
WORLD = ("book_depth", "marks", "funding", "open_interest", "collateral", "positions")  # no dice of prints in them
GOLDEN_ROWS = {
    "trades": 5091, "candles": 720, "book_events": 11011, "book_depth": 5760, "marks": 720, "funding": 2,
    "open_interest": 720, "liquidations": 35, "collateral": 1145, "positions": 1225,
}  # fmt: skip
GOLDEN_SUMS = (795829.9004306311, 23800070.021532025, 861.9560631109662)
SERIES = ("perp", "mark", "index", "heat", "oi_base", "taken", "depth_after")


def run(settings: VenueSettings, steer: Callable[..., Controls], hours: int = 2, every_min: int = 5) -> list[Stretch]:
    return list(simulate_controlled(settings, 5, START, hours, steer, every_min=every_min))


def always(controls: Controls) -> Callable[..., Controls]:
    return lambda _tables, _now: controls


def under(action: tuple[str, ...] = ("normal", "normal"), **caps: float) -> Controls:
    """Controls of two symbols, the same caps for both."""
    return replace(free(2), action=action, **{name: np.full(2, value) for name, value in caps.items()})


def whole(stretches: list[Stretch], table: str) -> pl.DataFrame:
    return pl.concat([stretch.tables[table] for stretch in stretches])


def series(records: list[HourRecord], name: str) -> Floats:
    return np.concatenate([getattr(record, name) for record in records])


@pytest.fixture(scope="module")
def unsteered() -> list[Stretch]:
    return run(ROUGH, always(free(2)), hours=4)


# what nobody controls does not change


def test_without_controls_the_simulator_says_what_it_always_said() -> None:
    """Counts and dollars of six hours as they were before controls existed; a die thrown more moves all of them."""
    tables = {name: pl.concat([hour[name] for hour in simulate(ROUGH, 5, START, 6)]) for name in GOLDEN_ROWS}
    assert {name: frame.height for name, frame in tables.items()} == GOLDEN_ROWS
    told = tables["liquidations"]["notional_usd"].sum(), tables["marks"]["mark"].sum(), tables["trades"]["qty"].sum()
    assert told == pytest.approx(GOLDEN_SUMS, rel=1e-9)


def test_an_hour_in_parts_is_the_hour_in_one() -> None:
    at_once, in_parts = Venue(ROUGH, 5), Venue(ROUGH, 5)
    hours = [at_once.run_hour(START + timedelta(hours=hour)) for hour in range(2)]
    parts = [in_parts.run_minutes(START + timedelta(minutes=minute), 5) for minute in range(0, 120, 5)]
    assert sum(len(hour.forced) for hour in hours) > 0
    for name in SERIES:
        np.testing.assert_array_equal(series(hours, name), series(parts, name))
    assert at_once.ledger.cash.tolist() == in_parts.ledger.cash.tolist()


def test_how_often_somebody_steers_who_changes_nothing_does_not_matter(unsteered: list[Stretch]) -> None:
    hourly = run(ROUGH, always(free(2)), hours=4, every_min=60)
    for table in WORLD:
        assert whole(unsteered, table).height > 0
        assert_frame_equal(whole(unsteered, table).sort(pl.all()), whole(hourly, table).sort(pl.all()))


def test_caps_that_nobody_reaches_change_no_byte(unsteered: list[Stretch]) -> None:
    wide = under(leverage_cap=1e12, exposure_cap_usd=1e15, throttle_usd_min=1e15)
    steered = run(ROUGH, always(wide), hours=4)
    for table in unsteered[0].tables:
        assert_frame_equal(whole(unsteered, table), whole(steered, table))
    assert steered[-1].refused_usd == 0


def test_exogenous_dice_do_not_depend_on_controls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where flow is kept out of the index, its path is the same to the byte, whatever is barred."""
    monkeypatch.setattr(prices, "BURST_GAIN", 0.0)
    monkeypatch.setattr(prices, "PASS_HALF_LIFE_S", 1e300)
    freely, barred = (run(ROUGH, always(controls)) for controls in (free(2), under(("reduce_only", "halted"))))
    index, other = (series([one.record for one in stretches], "index") for stretches in (freely, barred))
    np.testing.assert_array_equal(index, other)
    assert not np.array_equal(*(series([one.record for one in runs], "perp") for runs in (freely, barred)))


def test_owners_of_paired_runs_throw_the_same_dice_whatever_happened_before() -> None:
    freely, barred = Venue(ROUGH, 5, paired=True), Venue(ROUGH, 5, paired=True)
    barred.steer(under(("halted", "halted")))
    for venue in (freely, barred):
        venue.run_minutes(START, 30)
        venue._renew(START + timedelta(minutes=31))
    assert freely.owners.random() == barred.owners.random()


# what is allowed


def desk(qty: Floats, cash: float = 1_000.0) -> Ledger:
    """Accounts with `qty` (accounts, symbols), bought at the mark of 100."""
    settings = replace(ROUGH, accounts=len(qty))
    ledger = Ledger(settings, draw_traits(settings, np.random.default_rng(1)), np.random.default_rng(1))
    ledger.qty[:], ledger.cost[:], ledger.cash[:] = qty, qty * 100.0, cash
    return ledger


MARK = np.array([100.0, 100.0])


@pytest.mark.parametrize(
    ("held", "dq", "controls", "sent"),
    [
        # gross 1,000; leverage 5 of 1,000 USD allows 5,000: 4,000 more, 40 units
        (10.0, 39.0, under(leverage_cap=5.0), 39.0),
        (10.0, 40.0, under(leverage_cap=5.0), 40.0),
        (10.0, 41.0, under(leverage_cap=5.0), 40.0),
        # exposure of 1,500 USD: 500 more, 5 units, long or short
        (10.0, 5.0, under(exposure_cap_usd=1_500.0), 5.0),
        (10.0, 6.0, under(exposure_cap_usd=1_500.0), 5.0),
        (-10.0, -6.0, under(exposure_cap_usd=1_500.0), -5.0),
        # a position beyond its cap stays, and may be reduced
        (10.0, 1.0, under(exposure_cap_usd=900.0), 0.0),
        (10.0, -4.0, under(exposure_cap_usd=900.0, leverage_cap=0.0), -4.0),
        # beyond flat: the closing part goes whole, what it opens is growth: 10 closed, 3 of 7 opened
        (10.0, -17.0, under(exposure_cap_usd=300.0), -13.0),
        # what is closed makes room: leverage 0.5 of 1,000 USD allows 500 the other way, 5 units
        (10.0, -17.0, under(leverage_cap=0.5), -15.0),
        # 49 USD of room are not worth an order, 51 are
        (10.0, 5.0, under(exposure_cap_usd=1_049.0), 0.0),
        (10.0, 5.0, under(exposure_cap_usd=1_051.0), 0.51),
        (10.0, 1.0, under(("cautious", "normal")), 1.0),
        (10.0, 1.0, under(("reduce_only", "normal")), 0.0),
        (10.0, -17.0, under(("reduce_only", "normal")), -10.0),
        (10.0, -1.0, under(("halted", "normal")), 0.0),
    ],
)
def test_growth_is_cut_to_the_caps_and_what_reduces_goes_through(
    held: float, dq: float, controls: Controls, sent: float
) -> None:
    ledger = desk(np.array([[held, 0.0]]))
    orders = Orders(np.array([0]), np.array([0]), np.array([dq]))
    left, _ = allowed(orders, ledger, MARK, np.array([1_000.0]), controls)
    assert left.dq.tolist() == pytest.approx([sent] if sent else [])


def test_the_gross_of_all_symbols_counts_against_the_leverage_cap_of_one() -> None:
    ledger = desk(np.array([[0.0, 30.0]]))  # 3,000 USD elsewhere of 5,000 allowed: 20 units
    orders = Orders(np.array([0]), np.array([0]), np.array([50.0]))
    left, refused_usd = allowed(orders, ledger, MARK, np.array([1_000.0]), under(leverage_cap=5.0))
    assert (left.dq.tolist(), refused_usd) == ([20.0], 3_000.0)


numbers = st.floats(-100, 100, allow_nan=False)


@given(
    held=st.tuples(numbers, numbers),
    dq=numbers.filter(bool),
    equity=st.floats(-1e3, 1e5),
    action=st.sampled_from(ACTIONS),
    caps=st.tuples(st.just(np.inf) | st.floats(0, 60), st.just(np.inf) | st.floats(0, 2e4)),
)
def test_no_order_ever_grows_a_position_beyond_what_is_allowed(
    held: tuple[float, float], dq: float, equity: float, action: str, caps: tuple[float, float]
) -> None:
    lever, cap = caps
    ledger = desk(np.array([held]))
    orders = Orders(np.array([0]), np.array([0]), np.array([dq]))
    controls = under((action, "normal"), leverage_cap=lever, exposure_cap_usd=cap)
    left, refused_usd = allowed(orders, ledger, MARK, np.array([equity]), controls)
    sent = float(left.dq.sum())
    assert 0 <= sent / dq <= 1
    assert refused_usd >= 0
    before, after = abs(held[0]), abs(held[0] + sent)
    grown = after > before * (1 + 1e-12) or (held[0] * (held[0] + sent) < 0)
    if grown:
        assert action in {"normal", "cautious"}
        assert after * 100 <= cap * (1 + 1e-9)
        assert lever == np.inf or (after + abs(held[1])) * 100 <= lever * max(equity, 0.0) * (1 + 1e-9)
    if held[0] * dq < 0 and action != "halted":
        assert abs(sent) >= min(abs(dq), before) * (1 - 1e-12)  # whatever reduces goes through
    assert action != "halted" or sent == 0


def test_isolated_positions_opened_under_a_cap_lock_the_margin_of_the_cap() -> None:
    ledger = desk(np.zeros((2, 2)), cash=10_000.0)
    ledger.traits.isolated[:], ledger.traits.leverage[:] = True, [20.0, 4.0]
    ledger.leverage_cap = np.array([5.0, np.inf])
    ledger.trade(np.array([0, 1]), np.array([0, 0]), np.array([10.0, 10.0]), np.array([100.0, 100.0]))
    assert ledger.isolated[:, 0].tolist() == [200.0, 250.0]  # 1,000 / 5, and 1,000 / 4: own leverage is lower


# whole runs


def test_under_reduce_only_no_position_grows() -> None:
    venue = Venue(ROUGH, 5, paired=True)
    venue.run_minutes(START, 30)
    venue.steer(under(("reduce_only", "reduce_only")))
    held, closed = np.abs(venue.ledger.qty), 0.0
    for minute in range(30, 60):
        venue.run_minutes(START + timedelta(minutes=minute), 1)
        now = np.abs(venue.ledger.qty)
        assert (now <= held * (1 + 1e-12)).all()
        held, closed = now, closed + float((held - now).sum())
    assert closed > 0
    assert venue.refused_usd > 0


def test_under_a_leverage_cap_no_owner_holds_more_than_it_allows_but_by_losses() -> None:
    venue = Venue(replace(ROUGH, isolated_share=1.0, volatility_day=0.02), 5, paired=True)
    for held in (venue.ledger.qty, venue.ledger.cost, venue.ledger.isolated, venue.ledger.house_qty):
        held[:] = 0.0
    venue.steer(under(leverage_cap=3.0))
    for minute in range(60):
        venue.run_minutes(START + timedelta(minutes=minute), 1)
    opened = venue.ledger.qty != 0
    assert opened.sum() > 5
    levered = np.abs(venue.ledger.cost[opened]) / venue.ledger.isolated[opened]
    assert levered.max() <= 3.0 * (1 + 1e-9)


def test_a_halted_symbol_neither_trades_nor_liquidates_while_its_mark_goes_on_and_the_other_trades() -> None:
    stretches = run(ROUGH, always(under(("halted", "normal"))), hours=2)
    first, rest = stretches[0], stretches[1:]
    assert "AAA-PERP" in first.tables["trades"]["symbol"]
    for table in ("trades", "liquidations", "book_events"):
        assert set(whole(rest, table)["symbol"]) == {"BBB-PERP"}
    records = [stretch.record for stretch in rest]
    assert np.unique(series(records, "perp")[:, 0]).size == 1
    for name in ("mark", "index"):
        assert np.unique(series(records, name)[:, 0]).size == len(series(records, name))
    held = whole(stretches, "positions").filter(pl.col("symbol") == "AAA-PERP", pl.col("account") != "house")
    after = held.filter(pl.col("ts") > first.end).group_by("account").agg(pl.col("qty").n_unique())
    assert after.height > 0
    assert after["qty"].max() == 1


def test_no_more_is_forced_into_the_book_in_a_minute_than_the_throttle_lets_through() -> None:
    def by_minute(stretches: list[Stretch]) -> pl.Series:
        rows = [(one.start, row, f) for one in stretches[1:] for row, f in one.record.forced]
        usd: dict[tuple[datetime, int], float] = {}
        for start, row, fills in rows:
            for symbol, qty, price, adl in zip(fills.symbol, fills.qty, fills.price, fills.adl, strict=True):
                key = start + timedelta(minutes=row * ROUGH.step_s // 60), int(symbol)
                usd[key] = usd.get(key, 0.0) + (0.0 if adl else abs(qty) * price)
        return pl.Series(list(usd.values()))

    limit = 2_000.0
    freely, throttled = (run(ROUGH, always(one), hours=3) for one in (free(2), under(throttle_usd_min=limit)))
    assert by_minute(freely).max() > 3 * limit  # type: ignore[operator]  # there is something to throttle
    slow = by_minute(throttled)
    assert slow.max() <= limit * 1.05  # type: ignore[operator]  # fills are counted at their own price, the limit at the last
    assert (slow > 0.9 * limit).sum() > 3  # the rest waits, and goes on


@pytest.mark.parametrize(
    ("second", "left_usd"),
    [
        (20, 900.0),
        (40, 0.0),
        (60, 0.0),
        (80, 900.0),
    ],  # steps of 20 s: those that end at 20 and 80 are first in a minute
)
def test_the_budget_of_the_throttle_is_whole_again_in_the_first_step_of_a_minute(second: int, left_usd: float) -> None:
    venue = Venue(ROUGH, 5)
    venue.steer(under(throttle_usd_min=900.0))
    venue.forced_left_usd = np.zeros(2)
    venue._renew(START + timedelta(seconds=second))
    assert venue.forced_left_usd.tolist() == [left_usd] * 2


def test_longs_and_shorts_share_the_budget_of_the_throttle_and_the_neediest_go_first() -> None:
    """1,500 USD: of 2 longs of 500 each and 2 shorts of 500 each at 100, the shorts that need it less wait."""
    count, qty = 4, np.array([5.0, 5.0, -5.0, -5.0])
    equity, need = np.array([1.0, 2.0, 9.0, 3.0]), np.full(count, 10.0)
    legs = Legs(np.arange(count), np.zeros(count, dtype=np.int64), qty, qty * 100, equity, need, need, qty > 99)
    book = Venue(ROUGH, 5).book
    market = Market(MARK, MARK, (np.ones((1, 2)), np.ones((1, 2))), book, np.array([1_500.0, 0.0]))
    _, share = _walk(market, 0.0, legs, np.ones(count), np.ones(count, dtype=np.bool_))
    assert share.tolist() == [1.0, 1.0, 0.0, 1.0]


def test_what_the_throttle_keeps_back_waits() -> None:
    venue = Venue(replace(ROUGH, outage_rate_day=0.0), 5, paired=True)
    venue.steer(under(throttle_usd_min=0.0))
    record = venue.run_minutes(START, 60)
    assert not [fills for _, fills in record.forced if not fills.adl.all()]
    assert venue.desk.keys.size > 0  # they wait


# the protocol


def test_who_steers_is_asked_between_stretches_with_the_rows_of_the_last_one() -> None:
    asked: list[tuple[datetime, datetime, datetime]] = []

    def steer(tables: dict[str, pl.DataFrame], now: datetime) -> Controls:
        asked.append((now, tables["marks"]["ts"].min(), tables["trades"]["ts"].max()))  # type: ignore[arg-type]
        return under(("cautious", "normal"))

    stretches = run(ROUGH, steer, hours=1, every_min=20)
    assert [now for now, _, _ in asked] == [START + timedelta(minutes=20), START + timedelta(minutes=40)]
    assert all(now - timedelta(minutes=20) < first and last <= now for now, first, last in asked)
    assert [one.controls.action[0] for one in stretches] == ["normal", "cautious", "cautious"]
    assert [one.end for one in stretches[:2]] == [now for now, _, _ in asked]


@pytest.mark.parametrize("every_min", [0, 7, 120])
def test_stretches_that_do_not_fill_an_hour_are_refused(every_min: int) -> None:
    with pytest.raises(ValueError, match="`every_min` must divide 60"):
        simulate_controlled(ROUGH, 1, START, 1, always(free(2)), every_min=every_min)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"action": ("normal", "closed")}, "`action` must be of"),
        ({"leverage_cap": np.array([np.nan, 1.0])}, "`leverage_cap` must be at least 0"),
        ({"exposure_cap_usd": np.array([-1.0, 1.0])}, "`exposure_cap_usd` must be at least 0"),
        ({"throttle_usd_min": np.ones(3)}, "`throttle_usd_min` must have 2 entries"),
    ],
)
def test_controls_that_mean_nothing_are_refused(change: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        replace(free(2), **change)  # type: ignore[arg-type]


def test_growth_below_the_smallest_order_is_not_sent() -> None:
    assert NOTIONAL_USD_MIN == 50.0  # the tables above count on it
