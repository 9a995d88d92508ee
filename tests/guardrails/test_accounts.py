"""Accounts over their caps, with hand arithmetic."""

import polars as pl
import pytest

from guardrails.accounts import SCHEMA
from guardrails.decide import decide

TIERS = pl.DataFrame({"symbol": ["A", "B"], "leverage_max": [10.0, 10.0]})
POSITION = {
    "venue": pl.String, "account": pl.String, "symbol": pl.String, "ts": pl.Datetime("us", "UTC"),
    "known_at": pl.Datetime("us", "UTC"), "qty": pl.Float64, "entry_price": pl.Float64, "margin_mode": pl.String,
    "isolated_margin": pl.Float64,
}  # fmt: skip


@pytest.fixture
def judged(short_policy, calm_bars, at):
    """Judge positions (account, symbol, qty, and what differs) and collateral (account, asset, amount) at minute 35.

    Both symbols trade at 100 with a leverage cap of 10x and an exposure cap of 20 M USD.
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
            funds = funds.with_columns(price_usd=pl.lit(price_usd, pl.Float64))
        table = calm_bars(40, ("A", "B")) if bars is None else bars
        return decide(table, policy, positions=held, collateral=funds, tiers=TIERS, since=since).account_decisions

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
    rows = judged([("x", "A", 1.0, position)], collateral).filter(pl.col("symbol") != "*")
    assert only(rows)["verdict"] == "missing"
    assert only(rows)["reason"] == f"{words}; safe side: the account may only reduce"


def test_an_account_without_equity_is_over_every_cap(judged):
    row = only(judged([("x", "A", 100.0, {"entry_price": 200.0})], [("x", "USDT", 10_000.0)]))
    assert (row["verdict"], row["excess_usd"]) == ("tripped", 10_000)
    assert row["reason"].startswith("leverage is without equity, cap 10x")


def test_other_collateral_counts_at_its_price_less_the_haircut_and_a_debt_more(judged):
    # 1 BTC at 12 500 less 20 % is 10 000: 10x is allowed, 10.1x is not
    assert judged([("x", "A", 1_000.0, {})], [("x", "BTC", 1.0)], price_usd=12_500.0).is_empty()
    assert judged([("x", "A", 1_010.0, {})], [("x", "BTC", 1.0)], price_usd=12_500.0).height == 1
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


def test_a_closed_position_is_nobodys_business(judged):
    assert judged([("x", "A", 0.0, {})], []).is_empty()


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
