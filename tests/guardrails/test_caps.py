"""The caps, with hand arithmetic, and how slowly they come back."""

import polars as pl
import pytest

from guardrails.caps import exposure_cap, exposure_steps, leverage_cap, with_tiers
from guardrails.decide import decide
from guardrails.facts import market_facts

TIERS = pl.DataFrame({"symbol": ["A", "A"], "leverage_max": [50.0, 20.0]})


def one(policy, **facts):
    """The leverage verdict on one row of facts."""
    return leverage_cap(row_of(**facts), TIERS, policy).row(0, named=True)


FAULTS = ("price_fault", "depth_fault", "oi_fault", "mark_fault", "index_fault")
NUMBERS = ("volatility_1h", "depth_ratio", "depth_usd", "oi_usd", "divergence")


def row_of(**facts):
    row = {"venue": "v", "symbol": "A", "ts": 0, **dict.fromkeys(FAULTS), "divergence": 0.0, **facts}
    return pl.DataFrame([row], schema_overrides=dict.fromkeys(FAULTS, pl.String) | dict.fromkeys(NUMBERS, pl.Float64))


CALM = {"volatility_1h": 0.001, "depth_ratio": 1.0, "depth_usd": 10e6, "oi_usd": 100e6}


@pytest.mark.parametrize(
    ("facts", "limit"),
    [
        ({}, 50.0),
        # 1 / (4 x 0.5 %) = 50x; a little more volatility and the step below is 25x; 1 / (4 x 1 %) = 25x
        ({"volatility_1h": 0.005}, 50.0),
        ({"volatility_1h": 0.00501}, 25.0),
        ({"volatility_1h": 0.01}, 25.0),
        ({"volatility_1h": 0.0101}, 20.0),
        ({"volatility_1h": 0.5}, 1.0),
        ({"volatility_1h": 0.0}, 50.0),
        # depth is full at 80 % of its median; at 40 % half of 50x is 25x; at 39 % 24.4x -> 20x
        ({"depth_ratio": 0.8}, 50.0),
        ({"depth_ratio": 0.79}, 25.0),
        ({"depth_ratio": 0.4}, 25.0),
        ({"depth_ratio": 0.39}, 20.0),
        ({"depth_ratio": 0.0}, 1.0),
        # open interest / depth: 100 costs nothing; 550 is half way: margin .02 + .98 / 2 = .51 -> 1.96x -> 1x
        ({"oi_usd": 1_000e6}, 50.0),
        ({"oi_usd": 5_500e6}, 1.0),
        # 118: .02 + .98 x 18 / 900 = .0396 -> 25.25x -> 25x; 120: .04178 -> 23.9x -> 20x
        ({"oi_usd": 1_180e6}, 25.0),
        ({"oi_usd": 1_200e6}, 20.0),
        ({"oi_usd": 99_000e6}, 1.0),
        ({"depth_usd": 0.0, "depth_ratio": 0.0}, 1.0),
        ({"depth_usd": 0.0, "oi_usd": 0.0}, 1.0),
        # a dollar of depth is a book: 50 over 1 is not crowded
        ({"depth_usd": 1.0, "oi_usd": 50.0}, 50.0),
        # the tightest wins
        ({"volatility_1h": 0.02, "depth_ratio": 0.4}, 10.0),
    ],
)
def test_leverage_is_the_tightest_of_its_parts_down_to_a_step(policy, facts, limit):
    assert one(policy, **CALM | facts)["limit"] == limit


@pytest.mark.parametrize(
    ("facts", "limit", "fault"),
    [
        ({"volatility_1h": None, "price_fault": "price stale"}, 2.0, "price stale"),
        ({"volatility_1h": None}, 2.0, "price history short"),
        ({"depth_usd": None, "depth_ratio": None, "depth_fault": "depth crossed"}, 2.0, "depth crossed"),
        ({"oi_usd": None, "oi_fault": "open interest missing"}, 2.0, "open interest missing"),
        # what is known may be stricter than the floor: 1 / (4 x 20 %) = 1.25x -> 1x
        ({"volatility_1h": 0.2, "oi_usd": None, "oi_fault": "open interest missing"}, 1.0, "open interest missing"),
        ({"oi_usd": None, "oi_fault": "o", "depth_usd": None, "depth_ratio": None, "depth_fault": "d"}, 2.0, "d, o"),
    ],
)
def test_a_missing_input_gives_the_floor_with_its_name(policy, facts, limit, fault):
    verdict = one(policy, **CALM | facts)
    assert (verdict["limit"], verdict["fault"], verdict["verdict"]) == (limit, fault, "missing")
    assert fault in verdict["reason"]


@pytest.mark.parametrize("leverage_max", [None, float("nan"), float("inf"), -5.0, 0.0])
def test_an_unknown_tier_is_not_a_licence(policy, leverage_max):
    facts = row_of(**CALM)
    tiers = pl.DataFrame(
        {"symbol": ["A"], "leverage_max": [leverage_max]}, schema_overrides={"leverage_max": pl.Float64}
    )
    for known in (tiers, tiers.clear(), None):
        assert leverage_cap(facts, known, policy)["limit"].item() == 5.0


@pytest.mark.parametrize(
    ("change", "limit"),
    [
        # the thinner side is 40 M: half of it is 20 M; a tenth of the open interest of 1 bn is 100 M; the step is 20 M
        ({}, 20_000_000),
        ({"depth_bid_100bps_usd": 39.9e6}, 10_000_000),
        ({"depth_bid_100bps_usd": 49.9e6, "depth_ask_100bps_usd": 60e6}, 20_000_000),
        ({"depth_bid_100bps_usd": 200e6, "depth_ask_100bps_usd": 200e6}, 25_000_000),
        # a tenth of 100 M is 10 M
        ({"oi_usd": 100e6}, 10_000_000),
        ({"oi_usd": 99e6}, 5_000_000),
        ({"oi_usd": 0.0}, 10_000),
        ({"depth_bid_100bps_usd": 0.0}, 10_000),
        ({"oi_usd": None}, 10_000),
        ({"book_rows_crossed": 3}, 10_000),
    ],
)
def test_exposure_is_a_share_of_depth_and_of_open_interest(policy, calm_bars, change, limit):
    assert decide(calm_bars(1, changes={1: change}), policy).limits["exposure_cap_usd"].item() == limit


def test_exposure_moves_on_a_ladder_between_floor_and_ceiling(policy):
    steps = exposure_steps(policy.caps)
    assert steps[:3] == (25e6, 20e6, 10e6)
    assert steps[-3:] == (50e3, 20e3, 10e3)


def test_a_cap_falls_at_once_and_rises_after_the_hold_to_the_minute(policy, calm_bars, at):
    limits = decide(calm_bars(60, changes={10: {"depth_bid_100bps_usd": 4e6}}), policy, tiers=TIERS).limits
    exposure = dict(zip(limits["ts"], limits["exposure_cap_usd"], strict=True))
    # half of 4 M is 2 M; minutes 11-40 are the 30 min in which 20 M is allowed again
    assert [exposure[at(i)] for i in (9, 10, 11, 40, 41)] == [20_000_000, 2_000_000, 2_000_000, 2_000_000, 20_000_000]


def test_facts_of_a_calm_market_leave_the_tier_alone(short_policy, calm_bars):
    facts = market_facts(calm_bars(20), short_policy)
    verdict = leverage_cap(facts, TIERS, short_policy).row(-1, named=True)
    assert (verdict["limit"], verdict["verdict"], verdict["reason"]) == (50.0, "clear", None)


@pytest.mark.parametrize(
    ("facts", "tiers", "said"),
    [
        ({"volatility_1h": 0.01}, TIERS, "25x: an hour's volatility is 1.0 %; margin covers 4 sd of it"),
        ({"depth_ratio": 0.4}, TIERS, "25x: depth is 40.0 % of its median; 80.0 % would be full"),
        (
            {"oi_usd": 1_200e6},
            TIERS,
            "20x: open interest is 120x the depth within 100 bps; margin rises above 100x",
        ),
        # 1 / (4 x 10 %) = 2.5x, below the 5x of an unknown tier
        ({"volatility_1h": 0.1}, None, "2x: tier unknown, an hour's volatility is 10.0 %; margin covers 4 sd of it"),
        # 25x by volatility and by depth alike: the first of the two speaks
        (
            {"volatility_1h": 0.01, "depth_ratio": 0.4},
            TIERS,
            "25x: an hour's volatility is 1.0 %; margin covers 4 sd of it",
        ),
        # 49x is no step of the ladder: the tier alone never says that it is tight
        ({}, pl.DataFrame({"symbol": ["A"], "leverage_max": [49.0]}), None),
    ],
)
def test_a_tight_leverage_cap_says_which_part_made_it_so(policy, facts, tiers, said):
    verdict = leverage_cap(row_of(**CALM | facts), tiers, policy).row(0, named=True)
    assert verdict["reason"] == (None if said is None else f"leverage cap is {said}")
    assert verdict["clears_when"] == (None if said is None else "rises after 30 min that allow more")
    assert (verdict["state"], verdict["verdict"]) == (("clear", "clear") if said is None else ("tight", "tripped"))


def test_a_leverage_verdict_holds_what_was_seen_against_the_tier(policy):
    # depth is 36 % of its median, of the 80 % that would be full .45: .45 x 50 = 22.5x, down to 20x
    row = one(policy, **CALM | {"depth_ratio": 0.36})
    assert row["observed"] == pytest.approx(22.5)
    assert (row["limit"], row["limit_unit"], row["threshold"], row["unit"]) == (20.0, "x", 50.0, "x")
    assert (row["rule"], row["severity"], row["fault"], row["reset_authority"]) == ("leverage_cap", 0, None, "timer")
    lost = one(policy, **CALM | {"oi_usd": None, "oi_fault": "open interest missing"})
    assert (lost["state"], lost["observed"]) == ("missing", None)
    assert lost["reason"] == "leverage cap is 2x: open interest missing; safe side is at most 2x"
    assert lost["clears_when"] == "rises 30 min after every input is present"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"depth_bid_100bps_usd": 4e6}, "2.0 M USD: 50.0 % of the 4.0 M USD within 100 bps"),
        ({"oi_usd": 50e6}, "5.0 M USD: 10.0 % of the open interest of 50.0 M USD"),
        # half of 4 M and a tenth of 20 M are both 2 M: the book speaks
        ({"depth_bid_100bps_usd": 4e6, "oi_usd": 20e6}, "2.0 M USD: 50.0 % of the 4.0 M USD within 100 bps"),
        ({"oi_usd": None}, "10.0 k USD: open interest missing; safe side is at most 10,000 USD"),
        (
            {"oi_usd": None, "depth_bid_100bps_usd": None},
            "10.0 k USD: depth missing, open interest missing; safe side is at most 10,000 USD",
        ),
        ({"depth_bid_100bps_usd": 60e6, "depth_ask_100bps_usd": 60e6}, None),
    ],
)
def test_a_tight_exposure_cap_says_which_part_made_it_so(policy, calm_bars, change, said):
    row = exposure_cap(market_facts(calm_bars(1, changes={1: change}), policy), policy).row(0, named=True)
    assert row["reason"] == (None if said is None else f"exposure cap is {said}")


def test_an_exposure_verdict_holds_what_was_seen_against_the_ceiling(policy, calm_bars):
    # half of 5 M is 2.5 M, down to 2 M; a minute later half of 40 M is 20 M, held at 2 M
    facts = market_facts(calm_bars(2, changes={1: {"depth_bid_100bps_usd": 5e6}}), policy)
    first, second = exposure_cap(facts, policy).rows(named=True)
    assert (first["limit"], first["observed"], first["threshold"]) == (2e6, 2.5e6, 25e6)
    assert (first["limit_unit"], first["unit"], first["rule"], first["state"]) == (
        "USD",
        "USD",
        "exposure_cap",
        "tight",
    )
    assert second["reason"] == "exposure cap is 2.0 M USD: held until more has been allowed for 30 min"
    assert (second["limit"], second["observed"]) == (2e6, 20e6)


@pytest.mark.parametrize(
    ("leverage_max", "tier"), [(0.99, None), (1.0, 1.0), (1000.0, 1000.0), (1000.1, None), ("20", 20.0), ("x", None)]
)
def test_a_tier_is_a_number_from_one_to_a_thousand(leverage_max, tier):
    found = with_tiers(row_of(**CALM), pl.DataFrame({"symbol": ["A"], "leverage_max": [leverage_max]}))
    assert found["tier"].to_list() == [tier]


def test_tiers_of_other_symbols_change_nothing_and_the_order_of_rows_stays():
    rows = pl.concat([row_of(symbol=symbol, **CALM) for symbol in "CABD"])
    tiers = pl.DataFrame({"symbol": ["A", "B", "B", "C", "E"], "leverage_max": [7.0, 20.0, 30.0, 50.0, 100.0]})
    found = with_tiers(rows, tiers)
    assert found.select("symbol", "tier").rows() == [("C", 50.0), ("A", 7.0), ("B", 30.0), ("D", None)]


def test_no_volatility_at_all_is_covered_by_any_leverage(policy):
    # a fraction of a billionth is not divided by: the tier decides
    assert one(policy, **CALM | {"volatility_1h": 0.0})["observed"] == 50.0


def test_a_tier_below_the_floor_stays_where_nothing_else_is_known(policy):
    lost = {"volatility_1h": None, "depth_usd": None, "depth_ratio": None, "oi_usd": None, "oi_fault": "o"}
    tiers = pl.DataFrame({"symbol": ["A"], "leverage_max": [1.0]})
    assert leverage_cap(row_of(**lost), tiers, policy)["limit"].item() == 1.0
    assert leverage_cap(row_of(**lost), TIERS, policy)["limit"].item() == 2.0
