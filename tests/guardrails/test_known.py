"""Tables of others, carried forward to the minutes in which they were known."""

import math
from datetime import timedelta

import polars as pl
import pytest

from guardrails.decide import decide
from guardrails.known import DEPEG, FUND, LOOP_GAIN, with_told

UTC_US = pl.Datetime("us", "UTC")
EMPTY = {"holdings": LOOP_GAIN, "pegs": DEPEG, "fund": FUND}


@pytest.fixture
def minutes(at):
    return pl.DataFrame({"symbol": ["A"] * 4, "ts": [at(i) for i in range(1, 5)]}, schema_overrides={"ts": UTC_US})


def gains(*rows):
    schema = {"symbol": pl.String, "ts": UTC_US, "loop_gain": pl.Float64, "loop_fault": pl.String}
    return pl.DataFrame(rows, schema=schema, orient="row")


def told(minutes, table, age_min_max=60):
    return with_told(minutes, table, LOOP_GAIN, age_min_max).select("loop_gain", "loop_fault").rows()


MISSING = (None, "positions missing")


def test_a_row_counts_from_the_moment_it_is_known_until_the_next(minutes, at):
    late = at(3) + timedelta(seconds=1)
    table = gains(("A", at(2), 0.2, None), ("A", late, 0.9, None), ("B", at(1), 0.7, None))
    assert told(minutes, table) == [MISSING, (0.2, None), (0.2, None), (0.9, None)]


def test_a_row_counts_up_to_its_age_limit_to_the_second(minutes, at):
    # a limit of one minute: known at 2:00 it counts in 2 and 3, known at 1:59 in 2 alone
    assert told(minutes, gains(("A", at(2), 0.2, None)), 1) == [
        MISSING, (0.2, None), (0.2, None), (None, "positions stale"),
    ]  # fmt: skip
    assert told(minutes, gains(("A", at(2) - timedelta(seconds=1), 0.2, None)), 1) == [
        MISSING, (0.2, None), (None, "positions stale"), (None, "positions stale"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("value", "fault", "said"),
    [
        (0.0, None, None),
        (0.3, "marks stale", "marks stale"),
        (None, "marks stale", "marks stale"),
        (None, None, "loop gain invalid"),
        (math.nan, None, "loop gain invalid"),
        (math.inf, None, "loop gain invalid"),
        (-0.1, None, "loop gain invalid"),
    ],
)
def test_what_the_table_cannot_tell_is_a_fault_and_no_value(minutes, at, value, fault, said):
    assert told(minutes.head(1), gains(("A", at(1), value, fault))) == [(value if said is None else None, said)]


def test_a_newer_row_that_cannot_be_told_is_not_replaced_by_an_older_one(minutes, at):
    table = gains(("A", at(1), 0.2, None), ("A", at(2), None, "equity missing"))
    assert told(minutes, table)[1] == (None, "equity missing")


@pytest.mark.parametrize("table", EMPTY)
def test_no_table_an_empty_one_and_one_without_a_row_yet_are_missing(short_policy_with, calm_bars, at, table):
    rule = {"holdings": "loop_gain", "pegs": "collateral_depeg", "fund": "fund_drawdown"}[table]
    others = {"holdings": "positions", "pegs": "collateral", "fund": "fund"}
    numbers = short_policy_with(inputs__not_published=[name for key, name in others.items() if key != table])
    what = EMPTY[table]
    columns = {"ts": UTC_US, what.value: pl.Float64, what.fault: pl.String} | dict.fromkeys(
        (*what.by, *what.words), pl.String
    )
    empty = pl.DataFrame(schema=columns)
    late = pl.DataFrame([{"ts": at(99), what.value: 0.0, "symbol": "A"}], schema=columns)
    for given in (None, empty, late):
        last = decide(calm_bars(20), numbers, **{table: given}).limits.row(-1, named=True)
        assert (last["action"], last["binding"], last["missing"]) == ("cautious", rule, f"{what.what} missing")


def test_a_table_that_is_not_one_is_refused(policy, calm_bars, at):
    twice = gains(("A", at(1), 0.2, None), ("A", at(1), 0.3, None))
    for table, words in (
        (twice, "must hold one row per symbol and ts"),
        (gains((None, at(1), 0.2, None)), "must hold one row per symbol and ts"),
        (gains(("A", None, 0.2, None)), "must hold one row per symbol and ts"),
        (twice.drop("loop_fault", "ts"), "`holdings` must have the columns loop_fault, ts, had symbol, loop_gain"),
    ):
        with pytest.raises(ValueError, match=words):
            decide(calm_bars(3), policy, holdings=table)


@pytest.mark.parametrize(
    ("told_of", "rows", "words"),
    [
        (DEPEG, [(1, 0.1, None), (1, 0.2, None)], "`pegs` must hold one row per ts, held null or repeated ones"),
        (FUND, [(None, 0.1, None)], "`fund` must hold one row per ts, held null or repeated ones"),
    ],
)
def test_a_table_of_the_venue_holds_one_row_per_moment(minutes, at, told_of, rows, words):
    schema = {"ts": UTC_US, told_of.value: pl.Float64, told_of.fault: pl.String}
    stamped = [(minute and at(minute), *rest) for minute, *rest in rows]
    table = pl.DataFrame(stamped, schema=schema, orient="row").with_columns(asset=pl.lit("USDC"))
    with pytest.raises(ValueError, match=words):
        with_told(minutes, table, told_of, 60)


@pytest.mark.parametrize(
    ("told_of", "value", "fault", "seen"),
    [
        # what the worst collateral has lost is no less for a price that is missing beside it; above its peg is no loss
        (DEPEG, 0.03, "price of DAI missing", (0.03, "price of DAI missing")),
        (DEPEG, -0.03, None, (0.0, None)),
        (DEPEG, None, "price of DAI missing", (None, "price of DAI missing")),
        (DEPEG, math.nan, None, (None, "depeg invalid")),
        (FUND, 0.03, "fund missing", (None, "fund missing")),
        (FUND, -0.03, None, (None, "fund drawdown invalid")),
        (FUND, 0.0, None, (0.0, None)),
    ],
)
def test_a_value_beside_its_fault_counts_only_where_it_is_the_least(minutes, at, *, told_of, value, fault, seen):
    schema = {"ts": UTC_US, told_of.value: pl.Float64, told_of.fault: pl.String}
    table = pl.DataFrame([(at(1), value, fault)], schema=schema, orient="row").with_columns(asset=pl.lit("USDC"))
    for age_min_max in (1, 60):
        rows = with_told(minutes, table, told_of, age_min_max)
        assert rows.select(told_of.value, told_of.fault).row(1) == seen
        assert rows.columns == ["symbol", "ts", told_of.value, *dict.fromkeys((told_of.fault, *told_of.words))]
    assert with_told(minutes, table, told_of, 1).select(told_of.value, told_of.fault).row(2) == (
        None,
        f"{told_of.what} stale",
    )


# --- what the venue does not publish

NEEDS = {
    "mark_index_divergence": ("index",), "depth_collapse": ("depth",), "liquidation_rate": ("liquidations", "depth"),
    "oi_drop": ("open_interest",), "book_fault": ("depth",), "loop_gain": ("positions", "depth"),
    "collateral_depeg": ("collateral",), "fund_drawdown": ("fund",),
}  # fmt: skip
LOST = {
    "index": ("index", "index_age_s"), "liquidations": ("liq_long_usd", "liq_short_usd"),
    "depth": ("depth_bid_100bps_usd", "depth_ask_100bps_usd", "depth_age_s", "depth_unchanged_s"),
    "open_interest": ("oi_base", "oi_usd", "oi_age_s"),
}  # fmt: skip
PAIRS = [(rule, table) for rule, tables in NEEDS.items() for table in tables]


@pytest.mark.parametrize(("rule", "table"), PAIRS)
def test_a_breaker_whose_table_is_declared_not_to_be_published_is_off(policy_with, calm_bars, rule, table):
    bars = calm_bars(30).drop(LOST.get(table, ()))
    decided = decide(bars, policy_with(inputs__not_published=[table]))
    found = decided.state.filter(rule=rule).row(0, named=True)
    assert (found["state"], found["severity"], found["limit"], found["latched"]) == ("off", 0, None, False)
    first = decided.decisions.filter(rule=rule)
    assert first.select("state_before", "state_after", "action").rows() == [(None, "off", "normal")]
    said = f"{rule.replace('_', ' ')} is off: {table.replace('_', ' ')} not published here"
    assert first["reason"].to_list() == [said]


@pytest.mark.parametrize(("rule", "table"), PAIRS)
def test_the_same_table_neither_declared_nor_there_is_missing(policy_with, calm_bars, rule, table):
    decided = decide(calm_bars(30).drop(LOST.get(table, ())), policy_with(inputs__not_published=[]))
    assert decided.limits["action"].unique().to_list() == ["cautious"]
    # depth that is gone now does not hide forced flow, but depth that never was is no measure either
    assert decided.state.filter(rule=rule)["state"].item() == "missing"


@pytest.mark.parametrize("table", LOST)
def test_what_is_off_gives_no_verdict_whatever_its_table_holds(policy_with, calm_bars, table):
    wild = {"index": 50.0, "liq_long_usd": 10**9, "depth_bid_100bps_usd": 1.0, "oi_base": 1.0, "book_rows_crossed": 5}
    numbers = policy_with(inputs__not_published=["positions", "collateral", "fund", table])
    decided = decide(calm_bars(40, changes=dict.fromkeys(range(30, 41), wild)), numbers)
    off = [rule for rule, tables in NEEDS.items() if table in tables]
    assert decided.state.filter(pl.col("rule").is_in(off))["state"].unique().to_list() == ["off"]
    assert decided.decisions.filter(pl.col("rule").is_in(off), pl.col("state_after") != "off").is_empty()


def test_a_venue_of_bars_alone_is_normal_and_its_caps_stay_at_their_floor_without_depth(policy_with, calm_bars):
    bars = calm_bars(400).drop(*LOST["depth"], *LOST["open_interest"], *LOST["liquidations"], *LOST["index"])
    everything = [*LOST, "positions", "collateral", "fund", "mark"]
    last = decide(bars, policy_with(inputs__not_published=everything)).limits.row(-1, named=True)
    assert (last["action"], last["leverage_cap"], last["exposure_cap_usd"]) == ("normal", 2.0, 10_000)
    assert last["missing"] == "depth missing, open interest missing"


def test_a_breaker_that_was_open_when_its_table_was_declared_away_starts_afresh_later(policy_with, calm_bars, at):
    bars = calm_bars(60, changes={i: {"oi_base": 5e6} for i in range(30, 61)})
    on, off = policy_with(), policy_with(inputs__not_published=["positions", "collateral", "fund", "open_interest"])
    first = decide(bars.filter(pl.col("ts") <= at(40)), on)
    second = decide(bars.filter(pl.col("ts") <= at(50)), off, state=first.state, since=at(40))
    third = decide(bars, on, state=second.state, since=at(50))
    assert [run.state.filter(rule="oi_drop")["state"].item() for run in (first, second, third)] == [
        "open",
        "off",
        "open",
    ]
    assert third.decisions.filter(rule="oi_drop").select("state_before", "state_after").rows() == [("off", "open")]


def deposits(at, price_usd):
    """USDT of one account, told at minutes 1 and 390."""
    rows = {"venue": "v", "account": "a", "asset": "USDT", "ts": [at(1), at(390)], "known_at": [at(1), at(390)]}
    return pl.DataFrame(rows | {"amount": 1e6, "price_usd": price_usd}, schema_overrides={"price_usd": pl.Float64})


def test_a_price_of_a_peg_that_nobody_told_is_missing_whether_or_not_one_was_told_before(policy_with, calm_bars, at):
    policy = policy_with(inputs__not_published=["positions", "fund"])
    for price, verdict in ((None, "missing"), ([1.0, 1.0], "closed"), ([0.97, 0.97], "open"), ([1.0, None], "missing")):
        decisions = decide(calm_bars(400), policy, collateral=deposits(at, price)).decisions
        last = decisions.filter(pl.col("rule") == "collateral_depeg").sort("ts")["state_after"][-1]
        assert last == verdict, price
