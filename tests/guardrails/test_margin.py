"""Margin add-ons of peg and oracle, with hand arithmetic, and what they leave of the leverage cap."""

import math

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardrails.caps import leverage_cap
from guardrails.decide import decide
from guardrails.holdings import PEGS
from guardrails.margin import with_add_ons

TIERS = pl.DataFrame({"symbol": ["A"], "leverage_max": [50.0]})
FAULTS = ("price_fault", "depth_fault", "oi_fault", "mark_fault", "index_fault")
NUMBERS = {"volatility_1h": 0.001, "depth_ratio": 1.0, "depth_usd": 10e6, "oi_usd": 100e6, "divergence": 0.0}


@pytest.fixture(scope="session")
def row(at):
    def build(**facts):
        content = {"venue": "v", "symbol": "A", "ts": at(1), **dict.fromkeys(FAULTS), **NUMBERS, **facts}
        kinds = dict.fromkeys(FAULTS, pl.String) | dict.fromkeys(NUMBERS, pl.Float64) | {"ts": PEGS["ts"]}
        return pl.DataFrame([content], schema_overrides=kinds)

    return build


@pytest.fixture(scope="session")
def peg(at):
    """The peg table of one minute for a price of USDT."""

    def build(price, fault=None, minute=1):
        depeg = None if price is None else 1 - price
        return pl.DataFrame([{"ts": at(minute), "asset": "USDT", "depeg": depeg, "depeg_fault": fault}], schema=PEGS)

    return build


@pytest.mark.parametrize(
    ("price", "fault", "add_on"),
    [
        (1.0, None, 0.0),
        (1.02, None, 0.0),
        (0.991, None, 0.0),
        (0.99, None, 0.0),
        # 4 x (.99 - .989) = .004; 4 x (.99 - .97) = .08; the bound of .25 is reached at .9275
        (0.989, None, 0.004),
        (0.97, None, 0.08),
        (0.928, None, 0.248),
        (0.9275, None, 0.25),
        (0.9, None, 0.25),
        (0.0, None, 0.25),
        # what cannot be told costs the bound, even where the others hold their par; what was never told costs nothing
        (None, "price of USDT missing", 0.25),
        (1.0, "price of USDC missing", 0.25),
        (math.nan, None, 0.25),
        (-math.inf, None, 0.25),
        (None, None, 0.25),
        (None, "peg not told", 0.0),
        (None, "collateral not told", 0.0),
    ],
)
def test_a_lost_peg_adds_four_times_what_is_lost_below_ninety_nine_cents(policy, row, peg, *, price, fault, add_on):
    found = with_add_ons(row(), peg(price, fault), policy)
    assert found["peg_add_on"].item() == pytest.approx(add_on)
    assert found["add_on"].item() == pytest.approx(add_on)


def test_a_minute_without_a_peg_costs_the_bound_and_a_venue_without_collateral_nothing(policy, row, peg):
    assert with_add_ons(row(), peg(1.0, minute=2), policy)["add_on"].item() == 0.25
    assert with_add_ons(row(), None, policy)["add_on"].item() == 0.0


@pytest.mark.parametrize(
    ("divergence", "add_on"),
    [
        (0.0, 0.0),
        (0.0049, 0.0),
        (0.005, 0.0),
        # 4 x (.006 - .005) = .004; 4 x (.02 - .005) = .06; .25 at .0675
        (0.006, 0.004),
        (0.02, 0.06),
        (-0.02, 0.06),
        (0.0675, 0.25),
        (0.068, 0.25),
        (10.0, 0.25),
        (None, 0.25),
        (math.nan, 0.25),
        (math.inf, 0.25),
    ],
)
def test_a_doubtful_oracle_adds_four_times_the_divergence_above_half_a_percent(policy, row, divergence, add_on):
    assert with_add_ons(row(divergence=divergence), None, policy)["oracle_add_on"].item() == pytest.approx(add_on)


@pytest.mark.parametrize(("apart", "add_on"), [(2.5e-10, 1e-9), (2.5e-11, 0.0), (4e-10, 2e-9)])
def test_an_add_on_is_whole_billionths(policy, row, apart, add_on):
    # 4 x 2.5e-10 is a billionth, a tenth of that is none; 4 x 4e-10 = 1.6e-9 is two
    found = with_add_ons(row(divergence=0.005 + apart), None, policy)["oracle_add_on"].item()
    assert found == pytest.approx(add_on, abs=1e-13)


@pytest.mark.parametrize(
    ("divergence", "price", "leverage"),
    [
        (0.0, 1.0, 50.0),
        # 1 / (1/50 + .02) = 25 at a peg of .985; a little less and the step below is 20
        (0.0, 0.985, 25.0),
        (0.0, 0.9849, 20.0),
        # 1 / (.02 + .08) = 10; 1 / (.02 + .06) = 12.5 -> 10; both: 1 / (.02 + .14) = 6.25 -> 5
        (0.0, 0.97, 10.0),
        (0.02, 1.0, 10.0),
        (0.02, 0.97, 5.0),
        # both bounds: 1 / (.02 + .5) = 1.92 -> 1
        (0.5, 0.5, 1.0),
        (None, 1.0, 3.0),
    ],
)
def test_the_leverage_cap_leaves_room_for_the_add_ons(policy, row, peg, *, divergence, price, leverage):
    verdict = leverage_cap(row(divergence=divergence), TIERS, policy, peg(price)).row(0, named=True)
    assert verdict["limit"] == leverage


def test_a_lost_peg_of_the_collateral_lowers_the_cap_of_every_symbol(short_policy, calm_bars, at):
    base = {"account": "x", "asset": "USDT", "amount": 5.0}
    prices = [(20, 1.0), (30, 0.97), (31, 1.0)]
    deposits = pl.DataFrame([{**base, "ts": at(i), "known_at": at(i), "price_usd": usd} for i, usd in prices])
    deposits = deposits.cast({"ts": PEGS["ts"], "known_at": PEGS["ts"]})
    tiers = pl.DataFrame({"symbol": ["A", "B"], "leverage_max": [50.0, 20.0]})
    limits = decide(calm_bars(40, ("A", "B")), short_policy, collateral=deposits, tiers=tiers).limits
    caps = {(symbol, ts): cap for symbol, ts, cap in limits.select("symbol", "ts", "leverage_cap").rows()}
    # 50 / (1 + 50 x .08) = 10; 20 / (1 + 20 x .08) = 7.7 -> 5; held for 5 minutes after the peg is back
    assert [caps["A", at(i)] for i in (29, 30, 35, 36)] == [50.0, 10.0, 10.0, 50.0]
    assert [caps["B", at(i)] for i in (29, 30, 35, 36)] == [20.0, 5.0, 5.0, 20.0]


def test_the_sentence_says_what_was_added_and_why(policy, row, peg):
    facts = row(divergence=None, index_fault="index stale")
    assert leverage_cap(facts, TIERS, policy, peg(0.97))["reason"].item() == (
        "leverage cap is 2x: the tier allows 50x; USDT is 3.0 % below par: 8.0 % more margin and "
        "index stale: 25.0 % more margin"
    )
    assert leverage_cap(row(), TIERS, policy, peg(1.0))["reason"].item() is None


@pytest.mark.parametrize(
    ("facts", "price", "fault", "said"),
    [
        ({}, 1.0, None, None),
        ({}, None, "peg not told", None),
        # only what costs margin is named: a peg within its free cent, or a mark within half a percent, is not
        ({"divergence": 0.02}, 0.995, None, "mark is 2.0 % from the index: 6.0 % more margin"),
        ({"divergence": -0.02}, 1.0, None, "mark is 2.0 % from the index: 6.0 % more margin"),
        ({"divergence": 0.004}, 0.97, None, "USDT is 3.0 % below par: 8.0 % more margin"),
        ({}, 0.97, "price of USDC missing", "price of USDC missing: 25.0 % more margin"),
        # the mark's own fault before that of the index, and a divergence that is missing for no reason given
        ({"divergence": None, "mark_fault": "mark stale", "index_fault": "index stale"}, 1.0, None,
         "mark stale: 25.0 % more margin"),
        ({"divergence": None}, 1.0, None, "divergence missing: 25.0 % more margin"),
    ],
)  # fmt: skip
def test_only_what_costs_margin_is_said(policy, row, peg, *, facts, price, fault, said):
    assert with_add_ons(row(**facts), peg(price, fault), policy)["add_on_reason"].item() == said


def test_a_lost_peg_of_an_unnamed_asset_is_a_stablecoin(policy, row, peg):
    unnamed = peg(0.97).with_columns(asset=pl.lit(None, pl.String))
    said = with_add_ons(row(), unnamed, policy)["add_on_reason"].item()
    assert said == "a stablecoin is 3.0 % below par: 8.0 % more margin"


def test_nothing_but_the_add_ons_joins_the_facts(policy, row, peg):
    wanted = [*row().columns, "peg_add_on", "oracle_add_on", "add_on", "add_on_reason"]
    assert with_add_ons(row(), peg(0.97), policy).columns == wanted
    assert with_add_ons(row(), None, policy).columns == wanted


@given(
    price=st.one_of(st.none(), st.floats(0, 1.5)),
    divergence=st.one_of(st.none(), st.floats(0, 1)),
    lost=st.floats(0, 1),
    apart=st.floats(0, 1),
    missing=st.sampled_from(["peg", "oracle", "neither"]),
)
def test_the_cap_never_loosens_when_peg_or_oracle_gets_worse_or_goes_missing(
    policy, row, peg, *, price, divergence, lost, apart, missing
):  # fmt: skip
    def limit(price, divergence):
        return leverage_cap(row(divergence=divergence), TIERS, policy, peg(price))["limit"].item()

    worse_price = None if price is None or missing == "peg" else price - lost
    worse_divergence = None if divergence is None or missing == "oracle" else divergence + apart
    assert 1.0 <= limit(worse_price, worse_divergence) <= limit(price, divergence) <= 50.0
