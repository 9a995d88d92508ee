"""What holdings tell, with hand arithmetic: trip prices, loop gain, pegs, the insurance fund."""

import math
from itertools import pairwise

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardrails.holdings import (
    FUND,
    LOOP,
    PEGS,
    RATIO_MAX,
    forced,
    fund,
    loop_gain,
    maintenance_lines,
    pegs,
    with_trip_price,
)

UTC_US = pl.Datetime("us", "UTC")
ONE_PERCENT = pl.DataFrame({"symbol": ["A"], "maintenance_rate": [0.01], "deduction_usd": [0.0]})
BTC_BRACKETS = (  # upper notional, rate, deduction: Binance BTC, October 2024
    (50e3, 0.004, 0.0), (600e3, 0.005, 50.0), (3e6, 0.0065, 950.0), (12e6, 0.01, 11_450.0), (70e6, 0.02, 131_450.0),
    (100e6, 0.025, 481_450.0),
)  # fmt: skip


def trips(*legs):
    """Trip prices of legs (qty, price, equity, margin mode, lines) of one account."""
    most = max(len(lines) for *_, lines in legs)
    rows = [
        {"owner": 0, "qty": qty, "price": price, "equity_usd": equity, "margin_mode": mode,
         "notional_usd": abs(qty) * price}
        | {f"{name}_{k + 1}": lines[k][place] if k < len(lines) else None
           for k in range(most) for place, name in enumerate(("rate", "deduction"))}
        for qty, price, equity, mode, lines in legs
    ]  # fmt: skip
    return with_trip_price(pl.DataFrame(rows, schema_overrides={"owner": pl.UInt32}))["trip"].to_list()


@pytest.mark.parametrize(
    ("qty", "price", "margin", "line", "trip"),
    [
        # 40x: maintenance is half of the initial margin, 1 / 80; (100 000 - 5 000) / (1 - .0125)
        (1.0, 100_000.0, 5_000.0, (0.0125, 0.0), 96_202.53164556962),
        # entry 10, maintenance 1 %, deduction .01: (10 - .01 - 2) / .99 and (10 + .01 + 2) / 1.01
        (1.0, 10.0, 2.0, (0.01, 0.01), 8.070707070707071),
        (-1.0, 10.0, 2.0, (0.01, 0.01), 11.89108910891089),
        (1.0, 10.0, 10 / 3, (0.01, 0.01), 6.723905723905723),
        (-1.0, 10.0, 10 / 3, (0.01, 0.01), 13.211221122079207),
        # 95 / .996
        (1.0, 100.0, 5.0, (0.004, 0.0), 95.3815261044177),
    ],
)
def test_an_isolated_position_trips_where_its_margin_is_its_maintenance(qty, price, margin, line, trip):
    assert trips((qty, price, margin, "isolated", [line])) == [pytest.approx(trip, rel=1e-9)]


def test_a_small_leg_elsewhere_takes_the_room_of_a_cross_account():
    # the other leg needs .004 x 1 000 = 4: (100 + 4 - 5) / .996 = 99.397590; alone it had room down to 95.381526
    leg, other = (1.0, 100.0, 5.0, "cross", [(0.004, 0.0)]), (1.0, 1_000.0, 5.0, "cross", [(0.004, 0.0)])
    assert trips(leg, other)[0] == pytest.approx(99.397590361446, rel=1e-9)
    isolated = (1.0, 1_000.0, 5.0, "isolated", [(0.004, 0.0)])
    assert trips(leg, isolated)[0] == pytest.approx(95.381526104418, rel=1e-9)


def test_a_position_of_no_mode_shares_the_room_of_the_account():
    leg, other = (1.0, 100.0, 5.0, None, [(0.004, 0.0)]), (1.0, 1_000.0, 5.0, None, [(0.004, 0.0)])
    assert trips(leg, other)[0] == pytest.approx(99.397590361446, rel=1e-9)


@pytest.mark.parametrize("side", [1, -1])
@pytest.mark.parametrize("qty", [0.5, 5.0, 40.0, 150.0, 900.0])
def test_at_the_trip_price_equity_is_what_the_tier_in_force_there_asks_for(side, qty):
    price, lines = 100_000.0, [(rate, deduction) for _, rate, deduction in BTC_BRACKETS]
    equity = 0.06 * qty * price
    (trip,) = trips((side * qty, price, equity, "isolated", lines))
    notional = qty * trip
    rate, deduction = next((rate, less) for upper, rate, less in BTC_BRACKETS if notional <= upper)
    assert (trip < price) == (side > 0)
    assert equity + side * qty * (trip - price) == pytest.approx(notional * rate - deduction, rel=1e-9)


@pytest.mark.parametrize(
    ("tiers", "rates"),
    [
        (None, [0.05]),
        (pl.DataFrame({"symbol": ["A"], "leverage_max": [50.0]}), [0.05]),
        (pl.DataFrame({"symbol": ["Z"], "maintenance_rate": [0.01], "deduction_usd": [0.0]}), [0.05]),
        (ONE_PERCENT, [0.01]),
        (pl.concat([ONE_PERCENT, ONE_PERCENT.with_columns(maintenance_rate=0.02, deduction_usd=50.0)]), [0.01, 0.02]),
        (pl.concat([ONE_PERCENT, ONE_PERCENT.with_columns(maintenance_rate=math.nan)]), [0.05]),
        (ONE_PERCENT.with_columns(maintenance_rate=0.0), [0.05]),
        (ONE_PERCENT.with_columns(maintenance_rate=1.0), [0.05]),
        (ONE_PERCENT.with_columns(deduction_usd=-1.0), [0.05]),
        (ONE_PERCENT.with_columns(deduction_usd=pl.lit(None, pl.Float64)), [0.05]),
    ],
)
def test_a_symbol_without_sound_tiers_needs_what_the_policy_says(policy, tiers, rates):
    lines = maintenance_lines(tiers, pl.Series(["A", "A"]), policy)
    assert lines.height == 1
    assert [lines[f"rate_{k + 1}"].item() for k in range(len(rates))] == rates
    assert sum(name.startswith("rate_") for name in lines.columns) == len(rates)


# --- loop gain


@pytest.fixture(scope="session")
def gains(policy, at):
    """Loop gain of symbol A at 100 at minutes 10 to `until`; positions (qty, isolated margin) are known from 10 on."""

    def run(positions, *, until=10, deposits=None, tiers=ONE_PERCENT, price=100.0, policy=policy, **facts):
        minutes = [at(i) for i in range(10, until + 1)]
        rows = {"venue": "v", "symbol": "A", "ts": minutes, "price": price, "price_fault": None, "depth_usd": 1e6,
                "depth_fault": None, **facts}  # fmt: skip
        market = pl.DataFrame(rows, schema_overrides={"ts": UTC_US, "price_fault": pl.String, "depth_fault": pl.String})
        market = market.with_columns(pl.col("price").cast(pl.Float64), pl.col("depth_usd").cast(pl.Float64))
        held = [
            {"venue": "v", "account": f"x{i}", "symbol": "A", "ts": at(10), "known_at": at(10), "qty": qty,
             "entry_price": 100.0, "margin_mode": "cross" if margin is None else "isolated", "isolated_margin": margin}
            for i, (qty, margin) in enumerate(positions)
        ]  # fmt: skip
        kinds = {"ts": UTC_US, "known_at": UTC_US, "qty": pl.Float64, "isolated_margin": pl.Float64}
        base = {"asset": "USDT", "ts": at(9), "known_at": at(9)}
        funds = deposits and pl.DataFrame(
            [{**base, "account": f"x{i}", "amount": usd} for i, usd in deposits],
            schema_overrides={"ts": UTC_US, "known_at": UTC_US},
        )
        table = pl.DataFrame(held, schema_overrides=kinds) if held else None
        return loop_gain(table, funds, tiers, market, policy)

    return run


@pytest.mark.parametrize(
    ("positions", "gain"),
    [
        # 1 000 long at 100 with maintenance 1 % trip at (100 000 - margin) / 990: with 1 990 at 99, a fall of 1 %
        ([(1_000.0, 1_989.0)], 0.1),
        ([(1_000.0, 1_990.0)], 0.1),
        ([(1_000.0, 1_991.0)], 0.0),
        # shorts trip at (100 000 + margin) / 1 010: with 2 010 at 101
        ([(-1_000.0, 2_009.0)], 0.1),
        ([(-1_000.0, 2_010.0)], 0.1),
        ([(-1_000.0, 2_011.0)], 0.0),
        # already past it
        ([(1_000.0, 10.0)], 0.1),
        # longs and shorts are not forced by the same move: the larger counts
        ([(1_000.0, 10.0), (-3_000.0, 10.0)], 0.3),
        ([(1_000.0, 10.0), (2_000.0, 10.0), (-2_500.0, 10.0)], 0.3),
        ([(0.0, 0.0)], 0.0),
        # equity that cannot be told counts as forced
        ([(1_000.0, None)], 0.1),
        ([(1_000.0, math.nan)], 0.1),
        ([(1e300, 10.0)], RATIO_MAX),
        ([(1_000.0, 1e300)], 0.0),
    ],
)
def test_loop_gain_is_what_the_next_percent_forces_over_the_book(gains, positions, gain):
    row = gains(positions).row(0, named=True)
    assert (row["loop_gain"], row["loop_fault"]) == (pytest.approx(gain), None)


def test_a_single_contract_is_a_position(gains):
    # 1 x 100 over 1 M
    assert gains([(1.0, 0.5)])["loop_gain"].item() == pytest.approx(1e-4)


def test_tiers_without_a_rate_or_a_deduction_are_none(policy):
    untiered = maintenance_lines(None, pl.Series(["A"]), policy).rows()
    for lacking in ("maintenance_rate", "deduction_usd"):
        assert maintenance_lines(ONE_PERCENT.drop(lacking), pl.Series(["A"]), policy).rows() == untiered


def test_a_cross_account_is_forced_through_its_room(gains):
    # 1 000 long at 100 with 1 990 of collateral trip at 99, with 1 991 below
    assert gains([(1_000.0, None)], deposits=[(0, 1_990.0)])["loop_gain"].item() == 0.1
    assert gains([(1_000.0, None)], deposits=[(0, 1_991.0)])["loop_gain"].item() == 0.0


def test_a_fall_meets_the_bids_and_a_rise_the_asks_where_both_are_known(gains):
    book = {"depth_bid_usd": 2e6, "depth_ask_usd": 0.5e6}
    assert gains([(1_000.0, 10.0)], **book)["loop_gain"].item() == 0.05
    assert gains([(-1_000.0, 10.0)], **book)["loop_gain"].item() == 0.2
    assert gains([(-1_000.0, 10.0)], **book | {"depth_ask_usd": None})["loop_fault"].item() == "depth missing"


@pytest.mark.parametrize(
    ("facts", "positions", "gain", "fault"),
    [
        ({"depth_usd": 0.0}, [(1_000.0, 10.0)], RATIO_MAX, None),
        ({"depth_usd": 0.0}, [(1_000.0, 90_000.0)], 0.0, None),
        ({"depth_usd": None, "depth_fault": "depth crossed"}, [(1_000.0, 10.0)], None, "depth crossed"),
        ({"price": None, "price_fault": "price stale"}, [(1_000.0, 10.0)], None, "price stale"),
        ({}, [(None, 10.0), (1.0, 1e6)], None, "position size missing"),
        ({}, [(math.inf, 10.0)], None, "position size missing"),
        ({}, [], None, "positions not told"),
    ],
)
def test_what_cannot_be_observed_is_named_and_an_empty_book_is_no_excuse(gains, facts, positions, gain, fault):
    table = gains(positions, **facts)
    assert table.schema == pl.Schema(LOOP)
    assert table.select("loop_gain", "loop_fault").row(0) == (gain, fault)


def test_a_snapshot_counts_for_its_age_and_not_a_minute_longer(gains):
    rows = gains([(1_000.0, 10.0)], until=71)
    assert rows["loop_fault"].to_list() == [None] * 61 + ["positions stale"]
    assert set(rows["loop_gain"].to_list()[:61]) == {0.1}


def test_the_book_is_that_of_the_minute(gains):
    assert gains([(1_000.0, 10.0)], until=11, depth_usd=[1e6, 0.5e6])["loop_gain"].to_list() == [0.1, 0.2]


@given(
    sizes=st.lists(st.tuples(st.integers(-2_000, 2_000), st.integers(0, 6_000)), min_size=1, max_size=6),
    less=st.integers(0, 5),
    depth=st.sampled_from([1e6, 5e5, 1.0, 0.0]),
    worse=st.sampled_from(["margin", "no margin", "no tiers", "depth"]),
)
def test_loop_gain_never_falls_when_an_input_gets_worse_or_goes_missing(gains_of, sizes, less, depth, worse):
    before = gains_of([(float(qty), float(margin)) for qty, margin in sizes])
    poorer = {"margin": lambda m: m / 2, "no margin": lambda m: None}.get(worse, lambda m: m)
    after = gains_of(
        [(float(qty), poorer(float(m)) if i == less % len(sizes) else float(m)) for i, (qty, m) in enumerate(sizes)],
        tiers=None if worse == "no tiers" else ONE_PERCENT,
        depth_usd=depth if worse == "depth" else 1e6,
    )
    assert after >= before


@pytest.fixture(scope="session")
def gains_of(gains):
    return lambda positions, **more: gains(positions, **more)["loop_gain"].item()


def test_without_positions_every_minute_says_so(gains, at):
    told = [("A", at(minute), None, "positions not told") for minute in (10, 11)]
    assert gains([], until=11).rows() == told


def test_dollars_are_forced_by_symbol_and_side(policy, at):
    held = {"venue": "v", "ts": at(9.5), "known_at": at(9.75), "margin_mode": "isolated", "isolated_margin": 10.0}
    legs = [
        ("x", "A", 1_000.0),
        ("y", "A", -500.0),
        ("x", "B", 2.5),
        ("y", "B", 0.0),
        ("z", "B", 0.5),
        ("z", "C", None),
    ]
    positions = pl.DataFrame(
        [
            held | {"account": account, "symbol": symbol, "qty": qty, "entry_price": 100.0}
            for account, symbol, qty in legs
        ],
        schema_overrides={"ts": UTC_US, "known_at": UTC_US, "qty": pl.Float64},
    )
    market = pl.DataFrame(
        {"symbol": list("ABCDE"), "ts": at(10), "price": [100.0] * 5, "price_fault": [None] * 4 + ["price stale"]},
        schema_overrides={"ts": UTC_US},
    )
    found = forced(positions, None, ONE_PERCENT, market, policy)
    # B: margin 10 on 250: trip (250 - 10) / (2.5 x .95) = 101, past it; on 50: 40 / (.5 x .95) = 84, far from it
    assert found.rows() == [
        ("A", at(10), at(9.5), 100_000, 50_000, None),
        ("B", at(10), at(9.5), 250, 0, None),
        ("C", at(10), at(9.5), 0, 0, "position size missing"),
        ("D", at(10), at(9.5), 0, 0, None),
        ("E", at(10), at(9.5), 0, 0, "price stale"),
    ]
    assert forced(positions, None, ONE_PERCENT, market[::-1], policy).equals(found)
    closed = pl.col("qty") == 0
    nobody = positions.with_columns(entry_price=pl.when(~closed).then("entry_price"), margin_mode=pl.lit("cross"))
    deposits = pl.DataFrame(
        [{"account": account, "asset": "USDT", "ts": at(9), "known_at": at(9), "amount": 1e9} for account in "xyz"],
        schema_overrides={"ts": UTC_US, "known_at": UTC_US},
    )
    assert forced(nobody, deposits, ONE_PERCENT, market, policy)["forced_rise_usd"].sum() == 0
    for nothing in (None, positions.clear()):
        assert forced(nothing, None, ONE_PERCENT, market, policy).schema == found.schema


def test_a_snapshot_told_twice_is_forced_once_as_told_last(policy, at):
    held = {"venue": "v", "account": "x", "symbol": "A", "ts": at(9), "entry_price": 100.0, "margin_mode": "isolated"}
    told = [{"known_at": at(9.5), "qty": 700.0}, {"known_at": at(9.75), "qty": 1_000.0}]
    market = pl.DataFrame(
        {"symbol": ["A"], "ts": at(10), "price": [100.0], "price_fault": pl.Series([None], dtype=pl.String)},
        schema_overrides={"ts": UTC_US},
    )
    for rows in (told, told[::-1]):
        positions = pl.DataFrame(
            [held | {"isolated_margin": 10.0} | row for row in rows],
            schema_overrides={"ts": UTC_US, "known_at": UTC_US},
        )
        assert forced(positions, None, ONE_PERCENT, market, policy)["forced_fall_usd"].to_list() == [100_000]


def test_the_order_of_positions_and_facts_is_irrelevant_to_what_is_forced(policy, at):
    """Legs of one account apart in the table still share their room."""
    base = {"venue": "v", "ts": at(10), "known_at": at(10), "entry_price": 100.0, "margin_mode": "cross"}
    rows = [
        {**base, "account": account, "symbol": symbol, "qty": qty}
        for symbol, qty in (("A", 1_000.0), ("B", -900.0), ("C", 800.0))
        for account in "xyz"
    ]
    positions = pl.DataFrame(rows, schema_overrides={"ts": UTC_US, "known_at": UTC_US}).with_columns(
        isolated_margin=pl.lit(None, pl.Float64)
    )
    deposits = pl.DataFrame(
        [{"account": account, "asset": "USDT", "ts": at(9), "known_at": at(9), "amount": usd}
         for account, usd in (("x", 2_000.0), ("y", 4_000.0), ("z", 9_000.0))],
        schema_overrides={"ts": UTC_US, "known_at": UTC_US},
    )  # fmt: skip
    market = pl.DataFrame(
        [{"symbol": symbol, "ts": at(i), "price": 100.0, "price_fault": None, "depth_usd": 1e6, "depth_fault": None}
         for symbol in "ABC" for i in (10, 11)],
        schema_overrides={"ts": UTC_US, "price_fault": pl.String, "depth_fault": pl.String},
    )  # fmt: skip
    sound = positions.sort("account", "symbol")
    expected = loop_gain(sound, deposits, ONE_PERCENT, market, policy)
    assert expected.filter(ts=at(10))["loop_gain"].n_unique() > 1
    for mixed in (market[::-1], market.sort("ts", "symbol", descending=[True, False])):
        found = loop_gain(positions, deposits, ONE_PERCENT, mixed, policy)
        assert found.equals(expected)  # by symbol and time, whatever the order of facts


def test_positions_of_a_snapshot_that_is_half_known_wait_for_the_rest(policy, at):
    base = {"venue": "v", "symbol": "A", "ts": at(10), "entry_price": 100.0, "margin_mode": "isolated"}
    rows = [
        {**base, "account": "x", "known_at": at(10), "qty": 1_000.0, "isolated_margin": 10.0},
        {**base, "account": "y", "known_at": at(12), "qty": 500.0, "isolated_margin": 10.0},
    ]
    positions = pl.DataFrame(rows, schema_overrides={"ts": UTC_US, "known_at": UTC_US})
    market = pl.DataFrame(
        {"symbol": "A", "ts": [at(i) for i in (10, 11, 12)], "price": 100.0, "price_fault": None, "depth_usd": 1e6,
         "depth_fault": None},
        schema_overrides={"ts": UTC_US, "price_fault": pl.String, "depth_fault": pl.String},
    )  # fmt: skip
    found = loop_gain(positions, None, ONE_PERCENT, market, policy)
    assert found["loop_fault"].to_list() == ["positions missing", "positions missing", None]
    assert found["loop_gain"].to_list() == [None, None, pytest.approx(0.15)]


# --- pegs


@pytest.fixture(scope="session")
def pegged(policy, at):
    """Pegs at `minutes`; deposits (asset, minute, amount), prices (asset, minute, price)."""

    def run(deposits, prices, minutes=(10,)):
        kinds = {"ts": UTC_US, "known_at": UTC_US, "amount": pl.Float64, "price_usd": pl.Float64}
        held = [
            {"account": "x", "asset": asset, "ts": at(i), "known_at": at(i), "amount": amount}
            for asset, i, amount in deposits
        ]
        quotes = [{"asset": asset, "ts": at(i), "price_usd": price} for asset, i, price in prices]
        table = pl.DataFrame(held, schema_overrides=kinds) if held else None
        shape = {"asset": pl.String, "ts": UTC_US, "price_usd": pl.Float64}
        return pegs(table, pl.DataFrame(quotes, schema=shape), pl.Series([at(i) for i in minutes]), policy)

    return run


@pytest.mark.parametrize(
    ("deposits", "prices", "found"),
    [
        ([("USDT", 9, 5.0)], [("USDT", 9, 0.97)], ("USDT", 0.03, None)),
        ([("USDT", 9, 5.0)], [("USDT", 9, 1.01)], ("USDT", -0.01, None)),
        # the worst of those in use; what nobody holds does not count, nor what is not at par
        ([("USDT", 9, 5.0), ("USDC", 9, 5.0)], [("USDT", 9, 0.99), ("USDC", 9, 0.9)], ("USDC", 0.1, None)),
        ([("USDT", 9, 5.0)], [("USDT", 9, 0.99), ("USDC", 9, 0.9)], ("USDT", 0.01, None)),
        ([("USDT", 9, 5.0), ("USDC", 9, 0.0)], [("USDT", 9, 0.99), ("USDC", 9, 0.9)], ("USDT", 0.01, None)),
        ([("USDT", 9, 5.0), ("BTC", 9, 5.0)], [("USDT", 9, 0.99), ("BTC", 9, 0.5)], ("USDT", 0.01, None)),
        # the newest price, and not one that is not known yet
        ([("USDT", 9, 5.0)], [("USDT", 8, 0.9), ("USDT", 9, 0.98), ("USDT", 11, 0.5)], ("USDT", 0.02, None)),
        # a debt is a use; an amount that cannot be told, too
        ([("USDT", 9, -5.0)], [("USDT", 9, 0.97)], ("USDT", 0.03, None)),
        ([("USDT", 9, None)], [("USDT", 9, 0.97)], ("USDT", 0.03, None)),
        # missing: named, and the worst of the others stands
        ([("USDT", 9, 5.0)], [("USDT", 9, math.nan), ("USDT", 8, 0.9)], ("USDT", None, "price of USDT missing")),
        ([("USDT", 9, 5.0)], [("USDT", 8, 0.9), ("USDT", 9, -1.0)], ("USDT", None, "price of USDT missing")),
        ([("USDT", 9, 5.0), ("USDC", 9, 5.0)], [("USDT", 9, None), ("USDT", 7, 1.0), ("USDC", 9, 0.9)],
         ("USDC", 0.1, "price of USDT missing")),
        # several that are missing: all are named, by name
        ([("USDT", 9, 5.0), ("USDC", 9, 5.0), ("DAI", 9, 5.0)],
         [("USDT", 9, None), ("USDT", 7, 1.0), ("DAI", 9, None), ("DAI", 7, 1.0), ("USDC", 9, 0.9)],
         ("USDC", 0.1, "price of DAI, USDT missing")),
        # the dollar has no peg; nobody holds a stablecoin
        ([("USD", 9, 5.0)], [("USDT", 9, 0.9)], (None, 0.0, None)),
        ([("BTC", 9, 5.0)], [("USDT", 9, 0.9)], (None, 0.0, None)),
        ([("USDT", 9, 5.0)], [], (None, None, "peg not told")),
        ([], [("USDT", 9, 0.9)], (None, None, "collateral not told")),
    ],
)  # fmt: skip
def test_the_peg_is_the_worst_of_the_stablecoins_in_use(pegged, deposits, prices, found):
    table, (asset, depeg, fault) = pegged(deposits, prices), found
    assert table.schema == pl.Schema(PEGS)
    row = table.row(0, named=True)
    assert (row["asset"], row["depeg_fault"]) == (asset, fault)
    assert row["depeg"] == (None if depeg is None else pytest.approx(depeg))


def test_a_price_of_a_peg_counts_for_an_hour_and_a_use_for_a_day(pegged):
    rows = pegged([("USDT", 0, 5.0)], [("USDT", 0, 0.97)], minutes=(60, 61, 1_440, 1_441))
    assert rows["depeg"].to_list() == [pytest.approx(0.03), None, None, 0.0]
    assert rows["depeg_fault"].to_list() == [None, "price of USDT missing", "price of USDT missing", None]


def test_pegs_are_known_when_they_are_in_whatever_unit_that_was_told(policy, at):
    table = pl.DataFrame(
        [{"account": "x", "asset": "USDT", "ts": at(9), "known_at": at(9), "amount": 1.0, "price_usd": 0.95}]
    )
    for kind in ("us", "ms", "ns"):
        told = table.cast(dict.fromkeys(("ts", "known_at"), pl.Datetime(kind, "UTC")))
        assert pegs(told, None, pl.Series([at(10)]), policy)["depeg"].item() == pytest.approx(0.05)


def test_the_order_of_minutes_is_irrelevant_to_pegs(pegged):
    minutes, deposits = range(3, 60), [("USDT", 0, 5.0)]
    prices = [("USDT", minute, 1 - minute / 1000) for minute in range(60)]
    assert pegged(deposits, prices, reversed(minutes)).equals(pegged(deposits, prices, minutes))


def test_without_a_table_of_prices_those_of_the_collateral_count(policy, at):
    table = pl.DataFrame(
        {"account": "x", "asset": "USDT", "ts": [at(9)], "known_at": [at(9)], "amount": 5.0, "price_usd": 0.95}
    )
    assert pegs(table, None, pl.Series([at(10)]), policy)["depeg"].item() == pytest.approx(0.05)
    assert pegs(table.drop("price_usd"), None, pl.Series([at(10)]), policy)["depeg_fault"].item() == "peg not told"


# --- the insurance fund


@pytest.fixture(scope="session")
def funded(policy, at):
    """The fund at `minutes`; its rows (asset, minute, amount, price)."""

    def run(rows, minutes, account="insurance_fund"):
        kinds = {"ts": UTC_US, "known_at": UTC_US, "amount": pl.Float64, "price_usd": pl.Float64}
        held = [
            {"account": account, "asset": asset, "ts": at(i), "known_at": at(i), "amount": amount, "price_usd": price}
            for asset, i, amount, price in rows
        ]
        table = pl.DataFrame(held, schema_overrides=kinds) if held else None
        return fund(table, pl.Series([at(i) for i in minutes], dtype=UTC_US), policy)

    return run


def test_the_fund_is_held_against_its_highest_of_a_day(funded):
    rows = [("USDT", 0, 100.0, None), ("USDT", 5, 80.0, None), ("USDT", 1_000, 90.0, None)]
    found = funded(rows, (0, 4, 5, 999, 1_000, 1_439, 1_444, 1_445))
    assert found.schema == pl.Schema(FUND)
    assert found["fund_usd"].to_list() == [100.0, 100.0, 80.0, 80.0, 90.0, 90.0, 90.0, 90.0]
    # 1 - 80 / 100 = .2; 1 - 90 / 100 = .1; the last minute at 100 is 4: it is in (t - 1440, t] until 1 443
    assert found["fund_drawdown"].to_list() == pytest.approx([0, 0, 0.2, 0.2, 0.1, 0.1, 0, 0])
    assert found["fund_fault"].null_count() == 8


@pytest.mark.parametrize(
    ("rows", "drawdown", "fault"),
    [
        ([("USDT", 0, 100.0, None), ("USDT", 9, 0.0, None)], 1.0, None),
        ([("USDT", 0, 100.0, None), ("USDT", 9, -5.0, None)], 1.0, None),
        ([("USDT", 9, 0.0, None)], 1.0, None),
        ([("USDT", 0, 1.0, None), ("USDT", 9, 0.5, None)], 0.5, None),
        # 1 BTC at 100 less the haircut of a fifth is 80, then at 50 it is 40: half is gone
        ([("BTC", 0, 1.0, 100.0), ("BTC", 9, 1.0, 50.0)], 0.5, None),
        ([("BTC", 9, 1.0, None)], None, "insurance fund missing, stale or without a price"),
        ([("USDT", 9, 1e300, None)], None, "insurance fund missing, stale or without a price"),
        ([("USDT", 9, math.nan, None)], None, "insurance fund missing, stale or without a price"),
        ([("USDT", 11, 5.0, None)], None, "insurance fund missing, stale or without a price"),
        ([], None, "insurance fund not told"),
    ],
)
def test_a_fund_that_is_empty_is_lost_whole_and_one_that_cannot_be_told_is_named(funded, rows, drawdown, fault):
    row = funded(rows, (10,)).row(0, named=True)
    assert (row["fund_fault"], row["fund_drawdown"]) == (
        fault,
        drawdown if drawdown is None else pytest.approx(drawdown),
    )


def test_collateral_of_others_is_no_insurance_fund(funded):
    assert funded([("USDT", 0, 1e9, None)], (10,), account="x")["fund_fault"].item() == "insurance fund not told"


def test_a_fund_row_grows_too_old(funded):
    rows = funded([("USDT", 0, 100.0, None)], (1_440, 1_441))
    assert rows["fund_fault"].to_list() == [None, "insurance fund missing, stale or without a price"]


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=8), st.floats(0, 1e6))
def test_a_smaller_fund_is_never_a_smaller_drawdown(funded, balances, loss):
    rows = [("USDT", i, amount, None) for i, amount in enumerate(balances)]
    smaller = [*rows[:-1], ("USDT", len(rows) - 1, balances[-1] - loss, None)]
    now = (len(rows) - 1,)
    assert funded(smaller, now)["fund_drawdown"].item() >= funded(rows, now)["fund_drawdown"].item()


def test_no_fact_depends_on_a_later_minute(gains, pegged, funded):
    rows = gains([(1_000.0, 10.0)], until=20)
    assert all(rows.head(n).equals(gains([(1_000.0, 10.0)], until=9 + n)) for n in (1, 5, 11))
    deposits, prices = [("USDT", 1, 5.0), ("USDC", 15, 5.0)], [("USDT", i, 1 - i / 100) for i in range(20)]
    whole = pegged(deposits, prices, range(20))
    for cut, _ in pairwise((3, 9, 16, 20)):
        known = pegged([d for d in deposits if d[1] <= cut], [p for p in prices if p[1] <= cut], range(cut + 1))
        assert known.equals(whole.head(cut + 1))
    balances = [("USDT", i, 100.0 - i, None) for i in range(20)]
    whole = funded(balances, range(20))
    assert all(funded(balances[: cut + 1], range(cut + 1)).equals(whole.head(cut + 1)) for cut in (0, 7, 19))
