"""Accounts over their caps, with hand arithmetic."""

import math
import re
from datetime import timedelta
from functools import cache

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guardrails.accounts import SCHEMA, Cap, breaches, first_of, minute_of, over_caps
from guardrails.decide import decide
from guardrails.policy import PolicyError, parse_policy

TIERS = pl.DataFrame({"symbol": ["A", "B"], "leverage_max": [10.0, 10.0]})
POSITION = {
    "venue": pl.String, "account": pl.String, "symbol": pl.String, "ts": pl.Datetime("us", "UTC"),
    "known_at": pl.Datetime("us", "UTC"), "qty": pl.Float64, "entry_price": pl.Float64, "margin_mode": pl.String,
    "isolated_margin": pl.Float64,
}  # fmt: skip


@pytest.fixture(scope="session")
def calm_limits(calm_bars):
    """The limits of 40 calm minutes of both symbols under a policy, made once for each."""

    @cache
    def of(sha256):
        return decide(calm_bars(40, ("A", "B")), known[sha256], tiers=TIERS).limits.with_columns(price=pl.lit(100.0))

    known = {}

    def run(policy):
        known[policy.sha256] = policy
        return of(policy.sha256)

    return run


@pytest.fixture(scope="session")
def judged(short_policy, calm_limits, at):
    """Judge positions (account, symbol, qty, and what differs) and collateral (account, asset, amount) at minute 35.

    Both symbols trade at 100 with a leverage cap of 10x and an exposure cap of 20 M USD. Given `bars`,
    everything is decided anew.
    """

    def run(
        positions, collateral, *, bars=None, since=None, price_usd=None, known=35, deposited=34, policy=short_policy
    ):
        rows = [
            {"venue": "v", "account": account, "symbol": symbol, "ts": at(known - 0.5), "known_at": at(known - 0.25),
             "qty": qty, "entry_price": 100.0, "margin_mode": "cross", "isolated_margin": None, **more}
            for account, symbol, qty, more in positions
        ]  # fmt: skip
        deposits = [
            {
                "venue": "v",
                "account": account,
                "asset": asset,
                "ts": at(deposited),
                "known_at": at(deposited),
                "amount": amount,
            }
            for account, asset, amount in collateral
        ]
        held = pl.DataFrame(rows, schema=POSITION)
        funds = pl.DataFrame(deposits, schema_overrides={"amount": pl.Float64}) if deposits else None
        if price_usd is not None and funds is not None:
            price = pl.when(pl.col("asset") == "USDT").then(1.0).otherwise(price_usd)
            funds = funds.with_columns(price_usd=price.cast(pl.Float64))
        if bars is not None:
            return decide(bars, policy, positions=held, collateral=funds, tiers=TIERS, since=since).account_decisions
        limits = calm_limits(policy)
        return over_caps(held, funds, limits, limits["ts"].unique().sort(), policy, since=since)

    return run


def only(table):
    return table.row(0, named=True) if table.height == 1 else pytest.fail(f"{table.height} rows: {table.rows()}")


def test_leverage_at_the_cap_is_allowed_and_above_is_reduced(judged):
    # 1 000 x 100 = 100 000 USD on 10 000 USD is 10x: the cap
    assert judged([("x", "A", 1_000.0, {})], [("x", "USDT", 10_000.0)]).is_empty()
    row = only(judged([("x", "A", -1_001.0, {})], [("x", "USDT", 10_000.0)]))
    # 100 100 / 10 000 = 10.01x; 100 100 - 10 x 10 000 = 100 USD too much
    assert (row["rule"], row["verdict"], row["action"], row["excess_usd"]) == ("leverage_cap", "tripped", "reduce", 100)
    assert row["leverage"] == pytest.approx(10.01)
    assert row["reason"] == (
        "leverage is 10.01x, cap 10x; notional is 100.1 k USD, cap 20.0 M USD; "
        "the account may only reduce until inside both"
    )


def test_a_cross_account_is_levered_as_a_whole_and_its_profit_counts(judged):
    legs = [("x", "A", 600.0, {}), ("x", "B", 600.0, {"entry_price": 105.0})]
    rows = judged(legs, [("x", "USDT", 13_000.0)])
    # equity 13 000 + 600 x (100 - 105) = 10 000; notional 60 000 + 60 000 = 12x; each leg half of the 20 000 too much
    assert rows["leverage"].to_list() == [12.0, 12.0]
    assert rows["excess_usd"].to_list() == [10_000, 10_000]
    assert judged(legs, [("x", "USDT", 15_000.0)]).is_empty()


def test_an_isolated_position_stands_on_its_own_margin(judged):
    legs = [("x", "A", 1_000.0, {"margin_mode": "isolated", "isolated_margin": 5_000.0}), ("x", "B", 10.0, {})]
    row = only(judged(legs, [("x", "USDT", 1e6)]))
    assert (row["symbol"], row["leverage"], row["excess_usd"]) == ("A", 20.0, 50_000)


def test_a_position_above_the_exposure_cap_is_reduced_to_it(judged):
    row = only(judged([("x", "A", 200_001.0, {})], [("x", "USDC", 1e9)]))
    assert (row["rule"], row["excess_usd"], row["exposure_cap_usd"]) == ("exposure_cap", 100, 20_000_000)


@pytest.fixture(scope="session")
def in_clusters(policy_with):
    """The short policy with A and B in one cluster and other numbers of the caps."""

    def build(**caps):
        short = {
            "inputs__reference_slow_min": 10, "inputs__volatility_min": 10, "inputs__depth_normal_min": 10,
            "caps__loosen_hold_min": 5, "clusters__majors": ["A", "B"],
        }  # fmt: skip
        return policy_with(**short, **{f"caps__{name}": value for name, value in caps.items()})

    return build


@pytest.mark.parametrize(
    ("legs", "caps", "excess"),
    [
        # two symbol caps of 20 M are 40 M: 200 000 x 100 in each is the cap, whatever the sides
        ([("A", 200_000.0), ("B", 200_000.0)], {}, None),
        ([("A", 200_000.0), ("B", -200_000.0)], {}, None),
        ([("A", 190_000.0), ("B", -190_000.0)], {"cluster_symbol_caps": 1.9}, None),
        ([("A", 190_000.0), ("B", -190_001.0)], {"cluster_symbol_caps": 1.9}, 100),
        # the ceiling of 30 M is below them
        ([("A", 150_000.0), ("B", 150_000.0)], {"cluster_ceiling_usd": 30_000_000}, None),
        ([("A", 150_000.0), ("B", 150_001.0)], {"cluster_ceiling_usd": 30_000_000}, 100),
    ],
)
def test_symbols_that_fall_together_share_a_cap(judged, in_clusters, legs, caps, excess):
    rows = judged([("x", symbol, qty, {}) for symbol, qty in legs], [("x", "USDC", 1e9)], policy=in_clusters(**caps))
    if excess is None:
        assert rows.is_empty()
        return
    row = only(rows)
    assert (row["rule"], row["symbol"], row["verdict"]) == ("cluster_cap", "cluster:majors", "tripped")
    assert (row["excess_usd"], row["action"]) == (excess, "reduce")
    assert row["notional_usd"] - row["exposure_cap_usd"] == excess


def test_a_cluster_says_what_it_holds_and_allows(judged, in_clusters):
    legs = [("x", "A", 150_000.0, {}), ("x", "B", -160_000.0, {})]
    row = only(judged(legs, [("x", "USDC", 1e9)], policy=in_clusters(cluster_ceiling_usd=30_000_000)))
    assert row["reason"] == (
        "gross notional in majors is 31.0 M USD, cap 30.0 M USD; the account may only reduce until inside"
    )


def test_the_cap_of_a_cluster_falls_with_the_caps_of_its_symbols(judged, in_clusters, calm_bars, at):
    # a book of 3 M in both leaves 1 M per symbol (half of 3 M, down to a step), and 2 M in the cluster
    thin = calm_bars(40, ("A", "B")).with_columns(depth_bid_100bps_usd=3e6)
    legs = [("x", "A", 10_000.0, {}), ("x", "B", 10_000.0, {})]
    assert judged(legs, [("x", "USDC", 1e9)], bars=thin, policy=in_clusters()).is_empty()
    legs = [("x", "A", 10_000.0, {}), ("x", "B", 10_001.0, {})]
    rows = judged(legs, [("x", "USDC", 1e9)], bars=thin, policy=in_clusters())
    assert rows["rule"].to_list() == ["exposure_cap", "cluster_cap"]


def test_the_cap_of_a_symbol_elsewhere_is_no_room_for_a_cluster(judged, in_clusters, calm_bars):
    # A and B as above, beside C, whose book leaves the whole ceiling: 2 M in the cluster all the same
    thin = calm_bars(40, ("A", "B", "C")).with_columns(
        depth_bid_100bps_usd=pl.when(pl.col("symbol") == "C").then("depth_bid_100bps_usd").otherwise(3e6)
    )
    legs = [("x", "A", 10_000.0, {}), ("x", "B", 10_001.0, {})]
    rows = judged(legs, [("x", "USDC", 1e9)], bars=thin, policy=in_clusters())
    assert rows.filter(rule="cluster_cap")["exposure_cap_usd"].to_list() == [2_000_000]


def test_an_absurd_position_is_over_by_as_much_as_a_number_can_say(judged):
    row = judged([("x", "A", 1e300, {})], [("x", "USDT", 1e6)]).filter(symbol="A").row(0, named=True)
    assert (row["verdict"], row["excess_usd"]) == ("tripped", 10**15)


def test_a_cluster_that_cannot_be_told_is_over_its_cap_and_one_without_positions_is_not(judged, in_clusters):
    lost = judged([("x", "A", math.nan, {}), ("x", "B", 1.0, {})], [("x", "USDC", 1e9)], policy=in_clusters())
    row = only(lost.filter(symbol="cluster:majors"))
    assert (row["verdict"], row["excess_usd"]) == ("missing", None)
    assert row["reason"] == "gross notional in majors cannot be told; safe side: the account may only reduce"
    elsewhere = judged([("x", "Z", math.nan, {})], [("x", "USDC", 1e9)], policy=in_clusters())
    assert elsewhere.filter(symbol="cluster:majors").is_empty()
    assert elsewhere.filter(symbol="*").height == 1


@pytest.mark.parametrize(
    ("deposits", "held", "allowed"),
    [
        # half of 100 000 is in BTC; with one dollar more it is not
        ([("USDT", 50_000.0), ("BTC", 5.0)], None, None),
        ([("USDT", 49_999.0), ("BTC", 5.0)], 50_000.0, 49_999),
        ([("BTC", 5.0)], 50_000.0, 25_000),
        # 10 000 USD of anything are free; a debt is no deposit and makes no other share smaller
        ([("BTC", 1.0)], None, None),
        ([("BTC", 1.0001)], 10_001.0, 10_000),
        ([("USDT", 49_999.0), ("BTC", 5.0), ("ETH", -3.0)], 50_000.0, 49_999),
        ([("USDT", 90_000.0), ("BTC", -5.0)], None, None),
    ],
)
def test_one_asset_is_at_most_half_of_what_stands_behind_positions(judged, deposits, held, allowed):
    funds = [("x", asset, amount) for asset, amount in deposits]
    rows = judged([("x", "A", 1.0, {})], funds, price_usd=10_000.0).filter(rule="collateral_cap")
    if held is None:
        assert rows.is_empty()
        return
    row = only(rows)
    assert (row["symbol"], row["verdict"], row["action"]) == ("asset:BTC", "tripped", "reduce")
    assert (row["notional_usd"], row["exposure_cap_usd"]) == (pytest.approx(held), allowed)
    assert row["reason"].startswith("collateral in one asset is ")


def test_collateral_that_cannot_be_told_is_over_its_cap(judged):
    for deposits in ([("x", "BTC", None)], [("x", "BTC", 1.0), ("x", "USDT", math.nan)]):
        row = only(judged([("x", "A", 1.0, {})], deposits, price_usd=10_000.0).filter(rule="collateral_cap"))
        assert (row["symbol"], row["verdict"], row["excess_usd"]) == ("asset:BTC", "missing", None)
    assert judged([("x", "A", 1.0, {})], [("y", "BTC", None)]).filter(rule="collateral_cap").is_empty()


WORSE = {
    "more quantity": {"qty": lambda q: q * 1.5},
    "no quantity": {"qty": lambda q: None},
    "no entry price": {"entry_price": lambda p: None},
    "no collateral": {"amount": lambda a: None},
    "less collateral": {"amount": lambda a: a / 2},
}


@settings(max_examples=30)
@given(
    sizes=st.lists(st.integers(-300_000, 300_000).filter(bool), min_size=2, max_size=2),
    dollars=st.integers(1, 10**8), coins=st.integers(0, 10**4), worse=st.sampled_from(sorted(WORSE)),
)  # fmt: skip
def test_no_account_gets_inside_when_an_input_gets_worse_or_goes_missing(
    judged, in_clusters, *, sizes, dollars, coins, worse
):
    """Every rule that an account breaks, it breaks still; the one that cannot be told any more says so."""
    change = WORSE[worse]

    def broken(changed):
        touch = lambda name, value: change[name](value) if changed and name in change else value  # noqa: E731
        legs = [
            ("x", symbol, touch("qty", float(qty)), {"entry_price": touch("entry_price", 101.0)})
            for symbol, qty in zip("AB", sizes, strict=True)
        ]
        funds = [("x", "USDT", touch("amount", float(dollars))), ("x", "BTC", float(coins))]
        rows = judged(legs, funds, price_usd=1_000.0, policy=in_clusters(cluster_ceiling_usd=26_000_000))
        return set(rows["symbol"])

    before = broken(False)
    assert before <= broken(True)


def test_a_cap_is_kept_from_zero_to_its_limit_and_by_nothing_else():
    seen = [0.0, 4.9, 5.0, 5.1, -0.1, None, math.nan, math.inf, -math.inf]
    table = pl.DataFrame({"x": seen, "limit": [5.0] * len(seen)})
    assert table.filter(Cap("rule", "x", "limit").kept())["x"].to_list() == [0.0, 4.9, 5.0]
    for limit in (None, math.nan, math.inf, -1.0):
        assert table.with_columns(limit=pl.lit(limit, pl.Float64)).filter(Cap("rule", "x", "limit").kept()).is_empty()


def test_every_cap_that_a_row_does_not_keep_gives_a_row_and_the_order_of_caps_is_irrelevant(at):
    table = pl.DataFrame({"account": ["p", "q", "r"], "ts": at(1), "snapshot_ts": at(1), "one": [1.0, 9.0, None],
                          "two": [9.0, 9.0, 1.0], "most": 5.0})  # fmt: skip
    caps = (Cap("first", "one", "most", "one", "*"), Cap("second", "two", "most", "two", "*"))
    rows = breaches(table, caps)
    assert rows.select("account", "rule", "verdict", "excess_usd").rows() == [
        ("q", "first", "tripped", 4), ("r", "first", "missing", None),
        ("p", "second", "tripped", 4), ("q", "second", "tripped", 4),
    ]  # fmt: skip
    assert breaches(table, caps[::-1]).sort("rule", "account").equals(rows.sort("rule", "account"))
    unlimited = breaches(table.with_columns(most=pl.lit(math.nan)), caps)
    assert unlimited["exposure_cap_usd"].to_list() == [None] * 6
    assert unlimited["verdict"].unique().to_list() == ["missing"]
    assert unlimited.schema["exposure_cap_usd"] == rows.schema["exposure_cap_usd"] == pl.Int64


@pytest.mark.parametrize(
    ("clusters", "words"),
    [
        ('majors = ["A"]', "`clusters.majors` must hold two symbols"),
        ('majors = ["A", "B"]\nminors = ["B", "C"]', "`clusters` must hold B once, held it 2 times"),
        ('majors = ["A", ""]', "`clusters.majors` has a bad entry: ''"),
        ("majors = 3", "`clusters.majors` must be a list"),
    ],
)
def test_a_cluster_that_is_none_is_refused(policy_text, clusters, words):
    broken = re.sub(r"(?m)^majors = .*$", clusters, policy_text)
    with pytest.raises(PolicyError, match=re.escape(words)):
        parse_policy(broken)


def test_a_policy_without_clusters_is_a_policy_and_one_without_the_table_is_not(policy_text):
    assert parse_policy(re.sub(r"(?m)^majors = .*$", "", policy_text)).clusters == {}
    with pytest.raises(PolicyError, match="`clusters` is missing"):
        parse_policy(re.sub(r"(?m)^(majors = .*|\[clusters\].*)$", "", policy_text))
    with pytest.raises(PolicyError, match=r"`fund\.account` must be a name, was ''"):
        parse_policy(policy_text.replace('account = "insurance_fund"', 'account = ""'))


def test_the_account_as_a_whole_has_a_ceiling(judged, policy_with):
    tight = policy_with(caps__exposure_ceiling_usd=20_000_000, caps__account_ceiling_usd=30_000_000)
    legs = [("x", "A", 150_000.0, {}), ("x", "B", -160_000.0, {})]
    row = only(judged(legs, [("x", "USDC", 1e9)], policy=tight).filter(symbol="*"))
    # 15 M + 16 M gross, 1 M above the ceiling; long and short do not cancel
    assert (row["notional_usd"], row["excess_usd"], row["rule"]) == (31e6, 1_000_000, "account_ceiling")


@pytest.mark.parametrize(
    ("position", "collateral", "words"),
    [
        ({}, [], "equity missing"),
        ({}, [("y", "USDT", 1e9)], "equity missing"),
        ({}, [("x", "USDT", None)], "equity missing"),
        ({}, [("x", "USDT", float("nan"))], "equity missing"),
        ({}, [("x", "USDT", 1e300)], "equity missing"),
        ({}, [("x", "BTC", 5.0)], "equity missing"),
        ({"qty": None}, [("x", "USDT", 1e9)], "quantity, equity missing"),
        ({"qty": float("nan")}, [("x", "USDT", 1e9)], "quantity, equity missing"),
        ({"qty": float("inf")}, [("x", "USDT", 1e9)], "quantity, equity missing"),
        ({"entry_price": None}, [("x", "USDT", 1e9)], "equity missing"),
        ({"symbol": "Z"}, [("x", "USDT", 1e9)], "price, equity, cap in force missing"),
        ({"margin_mode": "isolated"}, [("x", "USDT", 1e9)], "equity missing"),
    ],
)
def test_what_cannot_be_computed_is_over_the_cap_with_that_reason(judged, position, collateral, words):
    rows = judged([("x", "A", 1.0, position)], collateral).filter(~pl.col("symbol").str.contains(r"^\*|:"))
    assert only(rows)["verdict"] == "missing"
    assert only(rows)["reason"] == f"{words}; safe side: the account may only reduce"


def test_an_account_without_equity_is_over_every_cap(judged):
    row = only(judged([("x", "A", 100.0, {"entry_price": 200.0})], [("x", "USDT", 10_000.0)]))
    assert (row["verdict"], row["excess_usd"]) == ("tripped", 10_000)
    assert row["reason"].startswith("leverage is without equity, cap 10x")


def test_other_collateral_counts_at_its_price_less_the_haircut_and_a_debt_more(judged, policy_with):
    # 1 BTC at 12 500 less 20 % is 10 000: 10x is allowed, 10.1x is not
    one_asset = policy_with(
        inputs__reference_slow_min=10, inputs__volatility_min=10, inputs__depth_normal_min=10,
        caps__loosen_hold_min=5, caps__collateral_share_account_max=1.0,
    )  # fmt: skip
    assert judged([("x", "A", 1_000.0, {})], [("x", "BTC", 1.0)], price_usd=12_500.0, policy=one_asset).is_empty()
    assert judged([("x", "A", 1_010.0, {})], [("x", "BTC", 1.0)], price_usd=12_500.0, policy=one_asset).height == 1
    # a debt of 1 BTC costs 15 000: 25 000 - 15 000 = 10 000
    funds = [("x", "USDT", 25_000.0), ("x", "BTC", -1.0)]
    assert judged([("x", "A", 1_000.0, {})], funds, price_usd=12_500.0).is_empty()
    assert judged([("x", "A", 1_001.0, {})], funds, price_usd=12_500.0).height == 1


def test_collateral_is_used_only_once_it_is_known_and_not_when_it_is_old(judged, policy_with):
    position, funds = [("x", "A", 1.0, {})], [("x", "USDT", 1e6)]
    assert judged(position, funds, deposited=35).is_empty()
    assert judged(position, funds, deposited=36).height == 1
    short_life = policy_with(inputs__collateral_age_min_max=10)
    assert judged(position, funds, deposited=25, policy=short_life).filter(verdict="missing").is_empty()
    assert judged(position, funds, deposited=24, policy=short_life).filter(verdict="missing").height == 1


def test_every_snapshot_of_a_lone_position_counts(judged, calm_limits, short_policy, at):
    rows = [
        {"venue": "v", "account": "x", "symbol": "A", "ts": at(minute), "known_at": at(minute), "qty": 1_001.0,
         "entry_price": 100.0, "margin_mode": "cross", "isolated_margin": None}
        for minute in (33, 35, 36)
    ]  # fmt: skip
    limits = calm_limits(short_policy)
    found = over_caps(
        pl.DataFrame(rows, schema=POSITION), None, limits, limits["ts"].unique(), short_policy, since=None
    )
    assert found.filter(symbol="A")["ts"].to_list() == [at(33), at(35), at(36)]


def test_a_row_counts_from_the_first_full_minute_not_before_it_is_known(at):
    tick = timedelta(microseconds=1)
    known = pl.DataFrame({"known_at": [at(3) - tick, at(3), at(3) + tick, at(3) + 2 * tick]})
    assert known.select(minute_of("known_at")).to_series().to_list() == [at(3), at(3), at(4), at(4)]


def test_the_newest_collateral_counts_whatever_the_order_of_rows(calm_limits, short_policy, at):
    row = {"venue": "v", "account": "x", "ts": at(34), "known_at": at(34)}
    leg = {"symbol": "A", "qty": 1_001.0, "entry_price": 100.0, "margin_mode": "cross", "isolated_margin": None}
    held = pl.DataFrame([row | leg], schema=POSITION)
    told = pl.DataFrame(
        [row | {"asset": "USDT", "amount": amount, "ts": at(minute), "known_at": at(minute)}
         for minute, amount in ((33, 10_000.0), (31, 1e9), (32, 1e8))]
    )  # fmt: skip
    limits = calm_limits(short_policy)
    found = over_caps(held, told, limits, limits["ts"].unique(), short_policy, since=None)
    assert found["excess_usd"].to_list() == [100]


def test_less_than_a_dollar_of_equity_is_equity(judged):
    row = only(judged([("x", "A", 1.0, {})], [("x", "USDT", 0.5)]))
    assert (row["leverage"], row["excess_usd"]) == (200.0, 95)  # 100 / 0.5; 100 - 10 x 0.5


def test_the_first_minute_not_before_is_found_whatever_the_order_of_minutes(at):
    minutes = pl.Series([at(7), at(3), at(5), at(3)])
    wanted = pl.Series([at(6), at(1), at(5), at(8)])
    assert first_of(minutes, wanted).rows() == [(at(1), at(3)), (at(5), at(5)), (at(6), at(7))]


def test_a_closed_position_is_nobodys_business(judged):
    assert judged([("x", "A", 0.0, {})], []).is_empty()


@pytest.mark.parametrize(
    ("sizes", "apart", "seen"),
    [
        ((3_000.0, 1_001.0), 0.1, 100_100.0),  # told again with another size: what was told last counts
        ((1_001.0, 3_000.0), 0.1, 300_000.0),
        ((3_000.0, 0.0), 0.1, None),  # told again as closed
        ((3_000.0, -1_001.0), 0.0, 300_000.0),  # known together: the larger, of either side
        ((1_001.0, -3_000.0), 0.0, 300_000.0),
        ((3_000.0, None), 0.0, "missing"),  # known together: what cannot be told is the safe side
        ((None, 3_000.0), 0.0, "missing"),
        ((None, 3_000.0), 0.1, 300_000.0),
    ],
)
def test_a_snapshot_told_twice_counts_once_as_told_last(judged, at, sizes, apart, seen):
    told = [
        ("x", "A", sizes[0], {"known_at": at(34.75 - apart)}),
        ("x", "B", 0.0, {}),
        ("x", "A", sizes[1], {}),
        ("y", "A", 1_001.0, {}),
    ]
    funds = [("x", "USDT", 10_000.0), ("y", "USDT", 1e9)]
    for rows in (told, told[::-1]):
        found = judged(rows, funds)
        if seen is None:
            assert found.is_empty()
        elif seen == "missing":
            assert set(found["verdict"]) == {"missing"}
        else:
            assert (only(found)["notional_usd"], only(found)["symbol"]) == (seen, "A")


def test_a_snapshot_is_judged_once_at_the_first_minute_with_bars_in_which_it_is_known(judged, at, calm_bars):
    position = [("x", "A", 1_001.0, {})]
    funds = [("x", "USDT", 10_000.0)]
    assert judged(position, funds, since=at(34))["ts"].to_list() == [at(35)]
    assert judged(position, funds, since=at(35)).is_empty()
    silent = calm_bars(40, ("A", "B")).filter(~pl.col("ts").is_between(at(33), at(37)))
    assert judged(position, funds, bars=silent)["ts"].to_list() == [at(38)]
    assert judged(position, funds, known=41).is_empty()


def test_without_positions_the_table_is_empty_and_has_its_columns(policy, calm_bars):
    table = decide(calm_bars(3), policy).account_decisions
    assert table.is_empty()
    assert table.schema == pl.Schema(SCHEMA)


def test_times_in_other_units_are_the_same_times(calm_limits, short_policy, at):
    """Would have caught: in milliseconds the moment before a full minute was that minute, and a row came one late."""
    row = {"venue": "v", "account": "x", "ts": at(34), "known_at": at(34)}
    leg = {"symbol": "A", "qty": 1_001.0, "entry_price": 100.0, "margin_mode": "cross", "isolated_margin": None}
    held = pl.DataFrame([row | leg], schema=POSITION)
    funds = pl.DataFrame([row | {"asset": "USDT", "amount": 10_000.0}])
    limits = calm_limits(short_policy)
    found = [
        over_caps(held.cast(unit), funds.cast(unit), limits, limits["ts"].unique(), short_policy, since=None)
        for kind in ("us", "ms", "ns")
        for unit in (dict.fromkeys(("ts", "known_at"), pl.Datetime(kind, "UTC")),)
    ]
    assert found[0].equals(found[1])
    assert found[0].equals(found[2])
    assert found[0]["excess_usd"].to_list() == [100]


def test_a_row_says_whose_it_is_when_it_was_seen_and_by_which_policy(judged, short_policy, at):
    row = only(judged([("x", "A", 1_001.0, {})], [("x", "USDT", 10_000.0)]))
    assert (row["venue"], row["account"], row["symbol"], row["ts"]) == ("v", "x", "A", at(35))
    assert (row["snapshot_ts"], row["leverage_cap"], row["exposure_cap_usd"]) == (at(34.5), 10.0, 20_000_000)
    assert (row["notional_usd"], row["action"]) == (100_100.0, "reduce")
    assert (row["policy_version"], row["policy_sha256"]) == (short_policy.version, short_policy.sha256)


def test_an_isolated_position_counts_neither_in_the_cross_account_nor_does_it_borrow_its_equity(judged):
    legs = [("x", "A", 1_000.0, {}), ("x", "B", 5_000.0, {"margin_mode": "isolated", "isolated_margin": 50_000.0})]
    # cross: 100 000 on 10 000; isolated: 500 000 on 50 000: both 10x, the cap
    assert judged(legs, [("x", "USDT", 10_000.0)]).is_empty()
    # a loss of 1 a piece is 5 000 of its own margin: 500 000 / 45 000
    legs[1][3]["entry_price"] = 101.0
    row = only(judged(legs, [("x", "USDT", 10_000.0)]))
    assert (row["symbol"], row["leverage"], row["excess_usd"]) == ("B", pytest.approx(500 / 45), 50_000)
    # a short gains what a long loses: 500 000 / 55 000
    legs[1] = ("x", "B", -5_000.0, legs[1][3])
    assert judged(legs, [("x", "USDT", 10_000.0)]).is_empty()


def test_what_an_account_owes_is_no_equity(judged):
    # 10 000 less 10 000 is none: all of its notional is too much, and leverage is not told as a number
    row = only(judged([("x", "A", 100.0, {"entry_price": 200.0})], [("x", "USDT", 10_000.0)]))
    assert (row["leverage"], row["excess_usd"], row["verdict"]) == (math.inf, 10_000, "tripped")
    assert row["reason"].startswith("leverage is without equity, cap 10x; notional is 10.0 k USD")


def test_of_every_account_the_newest_snapshot_of_the_minute_counts(calm_limits, short_policy, at):
    base = {"venue": "v", "symbol": "A", "entry_price": 100.0, "margin_mode": "cross", "isolated_margin": None}
    rows = [("x", 34.2, 2_000.0), ("x", 34.4, 1_001.0), ("y", 34.3, 1_002.0)]
    held = pl.DataFrame(
        [base | {"account": name, "ts": at(seen), "known_at": at(34.5), "qty": qty} for name, seen, qty in rows],
        schema=POSITION,
    )
    funds = pl.DataFrame(
        [{"account": name, "asset": "USDT", "amount": 10_000.0, "ts": at(34), "known_at": at(34)} for name in "xy"]
    )
    limits = calm_limits(short_policy)
    found = over_caps(held, funds, limits, limits["ts"].unique(), short_policy, since=None)
    assert found.select("account", "snapshot_ts", "excess_usd").rows() == [("x", at(34.4), 100), ("y", at(34.3), 200)]
