"""What all accounts together may hold, with hand arithmetic."""

import math

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardrails.decide import decide
from guardrails.exposures import RATIO_MAX, SCHEMA, over_limits, with_open_interest
from guardrails.facts import market_facts
from guardrails.policy import LOOKBACK_MIN
from tests.examples import examples

UTC_US = pl.Datetime("us", "UTC")
TIERS = pl.DataFrame({"symbol": ["A", "B"], "leverage_max": [50.0, 50.0]})
OF_VENUE = ("B",)


@pytest.fixture(scope="session")
def crowded(policy, calm_bars, at):
    """Open interest over the book at the last of `minutes`, A changed in it; bids of 40 M, asks of 50 M."""

    def run(minutes=1, symbols=("A",), **change):
        bars = calm_bars(minutes, symbols)
        here = (pl.col("symbol") == "A") & (pl.col("ts") == at(minutes))
        changed = bars.with_columns(
            pl.when(here).then(pl.lit(value)).otherwise(name).cast(bars.schema[name]).alias(name)
            for name, value in change.items()
        )
        facts = with_open_interest(market_facts(changed, policy), policy)
        return facts.filter(symbol="A", ts=at(minutes)).row(0, named=True)

    return run


@pytest.mark.parametrize(
    ("change", "ratio"),
    [
        # 1 bn over 40 M
        ({}, 25.0),
        ({"oi_usd": 40e9}, 1_000.0),
        ({"depth_ask_100bps_usd": 20e6}, 50.0),
        ({"oi_usd": 0.0}, 0.0),
        ({"depth_bid_100bps_usd": 0.0}, RATIO_MAX),
        ({"oi_usd": None}, None),
        ({"oi_usd": math.nan}, None),
        ({"oi_usd": -1.0}, None),
        ({"oi_age_s": 901.0}, None),
        ({"depth_bid_100bps_usd": None}, None),
        ({"book_rows_crossed": 1}, None),
    ],
)
def test_open_interest_is_held_against_the_thinner_side(crowded, change, ratio):
    assert crowded(**change)["oi_per_book"] == ratio


def test_a_book_that_has_just_filled_up_counts_as_its_median(crowded):
    # the median of 240 minutes is 40 M; 1 bn / 40 M
    assert crowded(241, depth_bid_100bps_usd=200e6, depth_ask_100bps_usd=200e6)["oi_per_book"] == 25.0
    assert crowded(241, depth_bid_100bps_usd=20e6)["oi_per_book"] == 50.0


@pytest.mark.parametrize(
    ("change", "ratio"),
    [
        # two symbols with 1 bn over 40 M each; with 3 bn in A: 4 bn over 80 M
        ({}, 25.0),
        ({"oi_usd": 3e9}, 50.0),
        # without a book in A: 1 + 1 bn over 0 + 40 M
        ({"depth_bid_100bps_usd": 0.0}, 50.0),
        # what goes missing counts as it was worst in 4 hours: here as in the minutes before
        ({"oi_usd": None}, 25.0),
        ({"depth_bid_100bps_usd": None}, 25.0),
        ({"book_rows_frozen": 1}, 25.0),
    ],
)
def test_the_venue_is_the_sum_of_its_symbols(crowded, change, ratio):
    row = crowded(3, ("A", "B"), **change)
    assert (row["venue_oi_per_book"], row["venue_fault"]) == (ratio, None)


@pytest.mark.parametrize(("oi_usd", "depth"), [(1e9, None), (None, 10e6)])
def test_what_a_symbol_never_told_is_not_borrowed_from_the_one_before_it(policy, calm_bars, oi_usd, depth):
    one, other = {"oi_usd": 2e9}, {"oi_usd": oi_usd, "depth_bid_100bps_usd": depth}
    bars = pl.concat([calm_bars(2, ("A",), {1: one, 2: one}), calm_bars(2, ("B",), {1: other, 2: other})])
    # A alone: 2 bn over 40 M; with A's book for B 3 bn over 80 M, with its open interest 4 bn over 50 M
    facts = with_open_interest(market_facts(bars, policy), policy)
    assert facts["venue_oi_per_book"].unique().to_list() == [50.0]


def test_a_symbol_that_never_told_is_not_counted_and_a_venue_of_such_is_missing(policy, calm_bars, at):
    bars = calm_bars(3, ("A", "B")).with_columns(oi_usd=pl.when(pl.col("symbol") == "B").then("oi_usd"))
    facts = with_open_interest(market_facts(bars, policy), policy)
    assert facts["venue_oi_per_book"].unique().to_list() == [25.0]
    silent = with_open_interest(market_facts(bars.with_columns(oi_usd=pl.lit(None)), policy), policy)
    assert silent["venue_oi_per_book"].null_count() == 6
    assert silent["venue_fault"].unique().to_list() == ["open interest or depth of every symbol missing"]


@pytest.mark.parametrize("name", ["oi_usd", "depth_bid_100bps_usd"])
def test_what_is_missing_counts_as_its_worst_of_four_hours_and_then_no_more(policy, calm_bars, at, name):
    worst = {"oi_usd": 3e9, "depth_bid_100bps_usd": 0.0}[name]
    bars = calm_bars(260, ("A", "B")).with_columns(
        pl.when((pl.col("symbol") == "A") & (pl.col("ts") > at(10)))
        .then(None)
        .when((pl.col("symbol") == "A") & (pl.col("ts") == at(10)))
        .then(worst)
        .otherwise(name)
        .alias(name)
    )
    facts = with_open_interest(market_facts(bars, policy), policy).filter(symbol="B")
    ratio = dict(zip(facts["ts"], facts["venue_oi_per_book"], strict=True))
    # 4 bn over 80 M, or 2 bn over 40 M, is 50; the window (t - 240 min, t] holds minute 10 until 249
    assert [ratio[at(i)] for i in (9, 10, 11, 249, 250)] == [25.0, 50.0, 50.0, 50.0, 25.0]


@pytest.mark.parametrize(
    ("oi_usd", "action"),
    [(39.99e9, "normal"), (40e9, "reduce_only"), (41e9, "reduce_only")],
)
def test_new_positions_are_paused_at_a_thousand_times_the_book(policy_with, calm_bars, at, oi_usd, action):
    # the cap of the venue is put out of the way
    symbol_alone = policy_with(
        inputs__reference_slow_min=10, inputs__volatility_min=10, inputs__depth_normal_min=10,
        breakers_venue_cap__enter=10_000, breakers_venue_cap__exit=9_000,
    )  # fmt: skip
    bars = calm_bars(30, ("A", "B")).with_columns(
        oi_usd=pl.when((pl.col("symbol") == "A") & (pl.col("ts") == at(30))).then(oi_usd).otherwise("oi_usd")
    )
    limits = decide(bars, symbol_alone, tiers=TIERS).limits.filter(ts=at(30))
    assert limits["action"].to_list() == [action, "normal"]
    assert ("open interest of the symbol is 1000x the depth" in limits["reasons"][0]) == (oi_usd == 40e9)


def test_the_venue_is_paused_as_a_whole_with_its_sentence(short_policy, calm_bars, at):
    bars = calm_bars(30, ("A", "B")).with_columns(
        oi_usd=pl.when((pl.col("symbol") == "A") & (pl.col("ts") == at(30))).then(39e9).otherwise("oi_usd")
    )
    limits = decide(bars, short_policy, tiers=TIERS).limits.filter(ts=at(30))
    # 39 + 1 bn over 80 M is 500; A alone is at 975 and below its own cap
    assert limits["action"].to_list() == ["reduce_only", "reduce_only"]
    assert limits["binding"].to_list() == ["venue_cap", "venue_cap"]
    assert limits["reason"][1] == (
        "open interest of all symbols is 500x the depth within 100 bps; cap is 500x; new positions are paused; "
        "clears after 30 min within 400x"
    )


@examples(40)
@given(
    oi=st.floats(0, 1e12), depth=st.floats(0, 1e9), more=st.floats(0, 1e12),
    worse=st.sampled_from(["oi", "depth"]),
)  # fmt: skip
def test_no_ratio_falls_when_open_interest_grows_or_the_book_thins(crowded, oi, depth, more, worse):
    before = crowded(2, ("A", "B"), oi_usd=oi, depth_bid_100bps_usd=depth)
    after = crowded(
        2,
        ("A", "B"),
        oi_usd=oi + more if worse == "oi" else oi,
        depth_bid_100bps_usd=depth / 3 if worse == "depth" else depth,
    )
    for name in ("oi_per_book", "venue_oi_per_book"):
        assert after[name] >= before[name]


# --- snapshots


@pytest.fixture(scope="session")
def over(policy, at):
    """Rows over a limit, from holdings (account, qty) of A at 100 and deposits (account, asset, amount, price)."""

    def run(holdings, deposits=(), *, oi_usd=1_000_000.0, policy=policy, price=100.0):
        stamp = {"ts": at(9.5), "known_at": at(9.75)}
        kinds = {"ts": UTC_US, "known_at": UTC_US}
        rows = [
            {**stamp, "account": account, "symbol": "A", "qty": qty, "entry_price": 100.0, "margin_mode": "cross"}
            for account, qty in holdings
        ]
        positions = pl.DataFrame(rows, schema_overrides=kinds | {"qty": pl.Float64})
        positions = positions.with_columns(isolated_margin=pl.lit(None, pl.Float64))
        names = ("account", "asset", "amount", "price_usd")
        funds = [{**stamp, **dict(zip(names, row, strict=True))} for row in deposits]
        floats = {"amount": pl.Float64, "price_usd": pl.Float64}
        collateral = pl.DataFrame(funds, schema_overrides=kinds | floats) if funds else None
        facts = pl.DataFrame(
            [{"venue": "v", "symbol": "A", "ts": at(10), "price": price, "oi_usd": oi_usd}],
            schema_overrides={"ts": UTC_US, "price": pl.Float64, "oi_usd": pl.Float64},
        )
        return over_limits(positions, collateral, facts, facts["ts"], policy, since=None)

    return run


FIVE = [(name, 2_000.0) for name in "abcde"]


@pytest.mark.parametrize(
    ("holdings", "share", "effective"),
    [
        # 2 501 x 100 of an open interest of 1 M; (2 501 + 4 x 2 000)^2 / (2 501^2 + 4 x 2 000^2) = 4.957
        ([*FIVE[1:], ("x", 2_501.0)], 0.2501, 4.957),
        ([("a", 2_000.0), ("b", -2_000.0), ("c", 2_000.0), ("d", -2_000.0)], 0.2, 4.0),
        ([("a", 101.0)], 0.0101, 1.0),
        ([*FIVE, ("x", 1e300)], 1e296, None),
        # ten equal accounts, and one with more than a quarter
        ([*((f"n{i}", 2_000.0) for i in range(10)), ("x", 2_600.0)], 0.26, 10.923),
    ],
)
def test_a_symbol_in_few_hands_is_cautious(over, holdings, share, effective):
    row = over(holdings).row(0, named=True)
    verdict = "missing" if effective is None else "tripped"
    assert (row["rule"], row["scope"], row["entity"], row["verdict"]) == ("concentration", "symbol", "A", verdict)
    assert (row["observed"], row["action"]) == (pytest.approx(share), "cautious")
    assert row["accounts_effective"] == (effective and pytest.approx(effective, abs=0.01))


@pytest.mark.parametrize(
    "holdings",
    [
        FIVE,
        # at the cap of a quarter, with 25 more of the same size
        [("x", 2_500.0), *((f"n{i}", 2_500.0) for i in range(25))],
        # nobody holds more than 10 000 USD
        [("a", 100.0)],
        [("a", -100.0)],
        [("a", 0.0)],
    ],
)
def test_a_symbol_in_many_hands_or_small_ones_is_inside(over, holdings):
    assert over(holdings).is_empty()


def test_the_sentence_names_shares_caps_and_what_is_allowed(over):
    row = over([*FIVE[1:], ("x", 2_501.0)]).row(0, named=True)
    assert (row["largest_account"], row["excess_usd"]) == ("x", 100)
    assert row["reason"] == (
        "the largest account holds 25.0 % of the open interest, cap 25.0 %; positions are as concentrated as those of "
        "5.0 equal accounts, at least 5; new positions only up to the leverage floor"
    )


@pytest.mark.parametrize(
    ("holdings", "facts"),
    [
        (FIVE, {"oi_usd": None}),
        (FIVE, {"oi_usd": 0.0}),
        (FIVE, {"price": None}),
        ([*FIVE, ("x", None)], {}),
        ([*FIVE, ("x", math.nan)], {}),
    ],
)
def test_a_concentration_that_cannot_be_told_is_cautious_with_that_reason(over, holdings, facts):
    row = over(holdings, **facts).row(0, named=True)
    assert (row["verdict"], row["action"]) == ("missing", "cautious")
    assert row["reason"].startswith("open interest or a position cannot be told")


@pytest.mark.parametrize(
    ("deposits", "share"),
    [
        # 25 BTC-dollars of 100 are the cap; 26 of 101 are above
        ([("a", "USDT", 75.0, None), ("b", "BTC", 1.0, 25.0)], None),
        ([("a", "USDT", 75.0, None), ("b", "BTC", 1.0, 26.0)], 26 / 101),
        ([("a", "USDT", 75.0, None), ("b", "BTC", 0.5, 26.0), ("c", "BTC", 0.5, 26.0)], 26 / 101),
        # a debt is no deposit, neither of BTC nor of dollars; the insurance fund is not customers' money
        ([("a", "USDT", 75.0, None), ("b", "BTC", 1.0, 26.0), ("c", "BTC", -1.0, 26.0)], 26 / 101),
        ([("a", "USDT", 75.0, None), ("b", "BTC", 1.0, 26.0), ("c", "USDT", -75.0, None)], 26 / 101),
        ([("a", "USDT", 75.0, None), ("b", "BTC", 1.0, 26.0), ("insurance_fund", "USDT", 1e9, None)], 26 / 101),
        ([("a", "USDT", 75.0, None), ("b", "USDC", 75.0, None)], None),
        ([("a", "USDT", 75.0, None), ("b", "BTC", 0.0, 25.0)], None),
        ([("b", "BTC", 1.0, 25.0)], 1.0),
        # one dollar is all there is; and less than half a dollar is nothing
        ([("b", "BTC", 1.0, 1.0)], 1.0),
        ([("b", "BTC", 1.0, 0.4)], None),
    ],
)
def test_one_collateral_asset_is_at_most_a_quarter_of_all(over, deposits, share):
    rows = over([], deposits) if share == "none" else over(FIVE, deposits)
    if share is None:
        assert rows.is_empty()
        return
    row = rows.row(0, named=True)
    assert (row["rule"], row["scope"], row["entity"]) == ("venue_collateral_cap", "asset", "BTC")
    assert (row["verdict"], row["action"], row["observed"]) == ("tripped", "refuse", pytest.approx(share))
    assert rows.height == 1


@pytest.mark.parametrize("lost", [("b", "BTC", 1.0, None), ("b", "BTC", None, 5.0), ("b", "BTC", 1e20, 5.0)])
def test_an_asset_whose_share_cannot_be_told_is_refused(over, lost):
    row = over(FIVE, [("a", "USDT", 1e6, None), lost]).row(0, named=True)
    assert (row["verdict"], row["action"], row["observed"]) == ("missing", "refuse", None)
    assert row["reason"] == "the worth of 1 deposits cannot be told; safe side: further deposits of BTC do not count"


def test_a_collateral_row_says_what_is_held_what_may_be_and_by_how_much_it_is_over(over, policy):
    # 60 of 160 is 37.5 %; a quarter of 160 is 40, so 20 are over
    row = over(FIVE, [("a", "USDT", 100.0, None), ("b", "BTC", 2.0, 30.0)]).row(0, named=True)
    assert row["reason"] == "BTC is 37.5 % of all collateral, cap 25.0 %; further deposits of it do not count"
    assert (row["observed"], row["limit"], row["unit"], row["excess_usd"]) == (0.375, 0.25, "share", 20)
    assert row["clears_when"] == "clears at the first snapshot inside the cap"
    assert (row["venue"], row["policy_version"], row["policy_sha256"]) == ("v", policy.version, policy.sha256)
    assert row["largest_account"] is None
    # two of BTC cannot be told; the third deposit can
    lost = over(FIVE, [("a", "BTC", 1.0, None), ("b", "BTC", None, 30.0), ("c", "ETH", 1.0, 5.0)]).sort("entity")
    assert lost["reason"].to_list() == [
        f"the worth of 2 deposits cannot be told; safe side: further deposits of {asset} do not count"
        for asset in ("BTC", "ETH")
    ]
    assert lost["excess_usd"].to_list() == [None, None]


def test_a_concentration_row_says_what_is_held_what_may_be_and_by_how_much_it_is_over(over):
    # 3 000 x 100 of 1 M is 30 %, 50 000 over a quarter
    row = over([*FIVE, ("x", -3_000.0)]).row(0, named=True)
    assert (row["observed"], row["limit"], row["unit"], row["excess_usd"]) == (0.3, 0.25, "share", 50_000)
    assert over([*FIVE, ("x", -3_000.0)]).schema == pl.Schema(SCHEMA)
    assert (row["largest_account"], row["clears_when"]) == ("x", "clears at the first snapshot inside both")
    # half a dollar more is a whole one; too few accounts are over nothing in dollars
    assert over([*FIVE, ("x", -3_000.005)])["excess_usd"].to_list() == [50_001]
    assert over([*FIVE[1:], ("x", 1_999.0)])["excess_usd"].to_list() == [0]
    lost = over(FIVE, oi_usd=None).row(0, named=True)
    assert (lost["observed"], lost["excess_usd"], lost["largest_account"]) == (None, None, "a")
    assert lost["reason"] == (
        "open interest or a position cannot be told; safe side: new positions only up to the leverage floor"
    )


@pytest.mark.parametrize(
    ("holdings", "inside"),
    [
        # exactly five equal accounts; four and a little
        (FIVE, True),
        ([*FIVE[1:], ("x", 1_999.0)], False),
        # exactly a quarter, and exactly what one account may always hold
        ([("x", 2_500.0), *((f"n{i}", 2_500.0) for i in range(9))], True),
        ([("x", 2_501.0), *((f"n{i}", 2_500.0) for i in range(9))], False),
        ([("x", 100.0)], True),
        ([("x", 100.01)], False),
    ],
)
def test_the_caps_of_concentration_are_exact(over, holdings, inside):
    assert over(holdings).is_empty() == inside


def test_a_dollar_deposit_that_cannot_be_told_hides_no_share(over):
    row = over(FIVE, [("a", "USDT", None, None), ("b", "BTC", 1.0, 1.0)]).row(0, named=True)
    assert (row["entity"], row["verdict"]) == ("BTC", "missing")


def test_a_position_is_priced_as_its_own_symbol_is(policy, at):
    stamp = {"ts": at(9.5), "known_at": at(9.75), "symbol": "A", "entry_price": 100.0, "margin_mode": "cross"}
    held = pl.DataFrame(
        [stamp | {"account": name, "qty": qty} for name, qty in [*FIVE[1:], ("x", 2_501.0)]],
        schema_overrides={"ts": UTC_US, "known_at": UTC_US},
    ).with_columns(isolated_margin=pl.lit(None, pl.Float64))
    facts = pl.DataFrame(
        {"venue": "v", "symbol": ["A", "B"], "ts": at(10), "price": [100.0, 1.0], "oi_usd": [1e6, 1e9]},
        schema_overrides={"ts": UTC_US},
    )
    row = over_limits(held, None, facts, facts["ts"].unique(), policy, since=None).row(0, named=True)
    # as of A alone: (2 501 + 4 x 2 000)^2 / (2 501^2 + 4 x 2 000^2)
    assert (row["observed"], row["accounts_effective"]) == (0.2501, pytest.approx(4.955, abs=0.001))


def test_without_positions_there_is_nothing_to_judge(policy, calm_bars):
    facts = market_facts(calm_bars(1), policy)
    table = over_limits(None, None, facts, facts["ts"], policy, since=None)
    assert table.is_empty()
    assert table.schema == pl.Schema(SCHEMA)


def test_the_order_of_rows_is_irrelevant(over):
    holdings = [("x", 2_600.0), *((f"n{i}", 100.0 + i / 7) for i in range(30))]
    deposits = [("a", "USDT", 75.0, None), ("b", "BTC", 1.0, 66.0), ("c", "ETH", 3.0, 26.0)]
    assert over(holdings, deposits).equals(over(holdings[::-1], deposits[::-1]))
    assert over(holdings, deposits).height == 3


SIZES = st.lists(st.integers(-5_000, 5_000), min_size=1, max_size=8)


@given(sizes=SIZES, more=st.integers(0, 5_000), less=st.floats(0.1, 1), missing=st.sampled_from(["oi", "size", "no"]))
def test_the_largest_share_never_falls_when_the_largest_grows_or_open_interest_shrinks(
    over, sizes, more, less, missing
):
    holdings = [(f"n{i}", float(qty)) for i, qty in enumerate(sizes)]
    place = max(range(len(sizes)), key=lambda i: abs(sizes[i]))
    grown = sizes[place] + (more if sizes[place] >= 0 else -more)
    worse = [*holdings[:place], (f"n{place}", None if missing == "size" else float(grown)), *holdings[place + 1 :]]
    before = over(holdings).filter(rule="concentration")
    after = over(worse, oi_usd=None if missing == "oi" else 1e6 * less).filter(rule="concentration")
    if before.height and max(abs(qty) for qty in sizes) * 100 > 10_000:
        assert after.height == 1


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_lookback_of_bars_gives_the_rows_of_the_whole(policy, messy_bars, at, seed):
    bars, names = messy_bars(seed, 900), ("symbol", "ts", "oi_per_book", "venue_oi_per_book", "venue_fault")
    late = bars.filter(pl.col("ts") > at(800 - LOOKBACK_MIN))
    whole, part = (
        with_open_interest(market_facts(rows, policy), policy).filter(pl.col("ts") > at(800)).select(names)
        for rows in (bars, late)
    )
    assert part.equals(whole)
    assert whole["oi_per_book"].n_unique() > 100
