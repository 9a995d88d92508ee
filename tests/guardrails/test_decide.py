"""What must always hold of limits and decisions."""

import math
import random
import re
from datetime import timedelta

import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from guardrails import breakers
from guardrails import decide as decide_module
from guardrails.decide import DECISIONS, LIMITS, RULES, STATE, decide, empty_state
from guardrails.facts import NUMBERS
from guardrails.ladder import ACTIONS, severity
from guardrails.policy import LOOKBACK_MIN
from guardrails.proposal import bounded
from tests.examples import examples

TIERS = pl.DataFrame({"symbol": ["A", "B", "C"], "leverage_max": [50.0, 25.0, 10.0]})
seeds = st.integers(0, 10_000)


def same(one, other):
    for name in ("limits", "decisions", "account_decisions"):
        left, right = getattr(one, name), getattr(other, name)
        assert left.schema == right.schema
        assert left.rows() == right.rows(), name


def random_resets(seed, bars):
    dice = random.Random(seed)
    stamps = bars["ts"].unique().sort().to_list()
    count = 400
    return pl.DataFrame(
        {
            "rule": [dice.choice(("price_halt", "venue_wide", "outage")) for _ in range(count)],
            "symbol": [dice.choice(("A", "B", "C", "*")) for _ in range(count)],
            "ts": [dice.choice(stamps) - timedelta(seconds=dice.randint(0, 59)) for _ in range(count)],
            "by": ["risk manager"] * count,
        }
    )


EVERYTHING = {"inputs__not_published": [], "associated__leads": {"A": ["B", "C"], "C": ["A"], "gone": ["C"]}}


@pytest.fixture(scope="module")
def whole_policy(policy_with):
    """Every rule on: nothing is declared away, and symbols follow each other."""
    return policy_with(**EVERYTHING)


@pytest.fixture(scope="module")
def short_whole_policy(short_policy_with):
    return short_policy_with(**EVERYTHING)


def random_tables(seed, bars):
    """Loop gains, pegs and the insurance fund at odd moments: faults, and silences longer than their age limit."""
    dice = random.Random(seed)
    start, end = bars["ts"].min(), bars["ts"].max()
    span_s = int((end - start).total_seconds())

    def told(value, fault, center, **key):
        count = span_s // 2400 + 3
        stamps = dice.sample(range(-3600, span_s), count)
        return [
            {**key, "ts": start + timedelta(seconds=second),
             value: dice.choice((center * dice.random() * 2, center * dice.random(), None, math.nan)),
             fault: dice.choice((None, None, None, None, f"{value} unknown"))}
            for second in stamps
        ]  # fmt: skip

    gains = [row for symbol in "ABC" for row in told("loop_gain", "loop_fault", 0.7, symbol=symbol)]
    pegs = [row | {"asset": dice.choice(("USDT", "USDC"))} for row in told("depeg", "depeg_fault", 0.015)]
    texts = {"loop_fault": pl.String, "depeg_fault": pl.String, "fund_fault": pl.String}

    def table(rows):
        return pl.DataFrame(rows, schema_overrides={name: kind for name, kind in texts.items() if name in rows[0]})

    return {
        "holdings": table(gains),
        "pegs": table(pegs),
        "fund": table(told("fund_drawdown", "fund_fault", 0.2)),
    }


# --- shape


def test_every_symbol_has_a_limit_in_every_minute_and_the_tables_have_their_columns(policy, calm_bars):
    decided = decide(calm_bars(30, ("A", "B")), policy)
    assert decided.limits.height == 60
    assert decided.limits.schema == pl.Schema(LIMITS)
    assert decided.decisions.schema == pl.Schema(DECISIONS)
    assert decided.state.schema == pl.Schema(STATE)
    by_venue = sum(card.scope == "venue" for card in breakers.RULES)
    assert decided.state.height == 2 * (len(RULES) - by_venue) + by_venue
    assert (
        decided.limits.select(pl.col("leverage_cap", "exposure_cap_usd", "action", "reason").null_count()).row(0)
        == (0,) * 4
    )


def test_a_decision_says_in_one_minute_what_when_why_and_what_clears_it(short_policy, calm_bars, at):
    decided = decide(calm_bars(40, changes={20: {"mark": 97.0}}), short_policy, tiers=TIERS)
    rows = decided.decisions.filter(rule="mark_index_divergence").select(
        "ts", "state_before", "state_after", "action", "limit_before", "limit_after"
    )
    assert rows.rows() == [
        (at(1), None, "closed", "normal", None, None),
        (at(20), "closed", "open", "reduce_only", None, 0.0),
        (at(30), "open", "half_open", "cautious", 0.0, 2.0),
        (at(35), "half_open", "closed", "normal", 2.0, None),
    ]
    told = decided.decisions.select(
        "decision_id", "reason", "clears_when", "reset_authority", "expires_at", "data_health"
    )
    assert told.null_count().row(0) == (0,) * 6
    assert decided.decisions["decision_id"].is_unique().all()
    assert (decided.decisions["expires_at"] - decided.decisions["ts"]).unique().to_list() == [timedelta(minutes=15)]
    assert decided.decisions["policy_sha256"].unique().to_list() == [short_policy.sha256]


def test_a_verdict_that_is_clear_or_off_says_so(short_policy, calm_bars):
    first = decide(calm_bars(12), short_policy, tiers=TIERS).decisions
    told = {row["rule"]: row for row in first.rows(named=True)}
    assert told["mark_index_divergence"]["reason"] == "mark index divergence is clear"
    assert told["mark_index_divergence"]["clears_when"] == "nothing to clear"
    # bars alone: the policy of this test says that positions are not published
    off = told["loop_gain"]
    assert (off["state_after"], off["reason"]) == ("off", "loop gain is off: positions not published here")
    assert (off["action"], off["limit_unit"], off["unit"], off["threshold"]) == (
        "normal",
        "x of new positions",
        "x",
        1.0,
    )
    assert (off["observed"], off["limit_after"], off["reset_authority"], off["data_health"]) == (
        None,
        None,
        "timer",
        "ok",
    )


def test_positions_that_are_given_are_judged_by_the_loop_they_make(short_policy_with, calm_bars, at):
    policy = short_policy_with(inputs__not_published=["collateral", "fund"])
    # a long of 50 M USD on a margin of .5 M is forced by a fall of 1 %: 50 over bids of 40 M is 1.25
    held = {"venue": "v", "account": "x", "symbol": "A", "ts": at(20), "known_at": at(20), "qty": 5e5,
            "entry_price": 100.0, "margin_mode": "isolated", "isolated_margin": 5e5}  # fmt: skip
    table = pl.DataFrame([held]).cast({"ts": pl.Datetime("us", "UTC"), "known_at": pl.Datetime("us", "UTC")})
    tiers = TIERS.with_columns(maintenance_rate=0.01, deduction_usd=0.0)
    row = (
        decide(calm_bars(20), policy, positions=table, tiers=tiers)
        .decisions.filter(rule="loop_gain")
        .row(-1, named=True)
    )
    assert (row["state_after"], row["observed"]) == ("open", 1.25)
    assert decide(calm_bars(20), policy, positions=table.clear(), tiers=tiers).state.filter(rule="loop_gain")[
        "state"
    ].to_list() == ["missing"]


def test_a_calm_market_is_normal_with_the_tier_as_its_cap(short_policy, calm_bars):
    row = decide(calm_bars(40), short_policy, tiers=TIERS).limits.row(-1, named=True)
    assert (row["action"], row["leverage_cap"], row["exposure_cap_usd"], row["missing"]) == (
        "normal",
        50.0,
        20_000_000,
        None,
    )
    assert row["binding"] == "exposure_cap"
    deep = {"depth_bid_100bps_usd": 4e10, "depth_ask_100bps_usd": 5e10, "oi_usd": 1e12}
    clear = decide(calm_bars(40, changes=dict.fromkeys(range(1, 41), deep)), short_policy, tiers=TIERS).limits
    assert clear.select("binding", "reason", "reasons").row(-1) == ("none", *["all rules are clear"] * 2)


def test_no_bars_give_no_rows_and_leave_the_state(policy, calm_bars):
    decided = decide(calm_bars(5), policy)
    nothing = decide(calm_bars(1).clear(), policy, state=decided.state)
    assert (nothing.limits.height, nothing.decisions.height) == (0, 0)
    assert nothing.state.equals(decided.state)
    again = decide(calm_bars(5), policy, state=decided.state)
    assert again.limits.is_empty()
    assert again.state.equals(decided.state)


# --- strictest wins, order is irrelevant


def test_the_strictest_action_wins_and_every_reason_is_kept(short_policy, calm_bars):
    changes = {20: {"close": 75.0, "depth_bid_100bps_usd": 1e6, "trade_age_s": 200.0}}
    row = decide(calm_bars(20, changes=changes), short_policy, tiers=TIERS).limits.row(-1, named=True)
    assert (row["action"], row["binding"], row["leverage_cap"]) == ("halted", "price_halt", 1.0)
    for words in (
        "5-min mean; band is 5.0 %",
        "10-min mean; band is 10.0 %",
        "10-min mean; band is 20.0 %",
        "2.5 % of its",
    ):
        assert words in row["reasons"]


def test_of_equals_a_breach_binds_before_a_missing_input(short_policy, calm_bars, at):
    # the divergence of minute 20 is on probation, cautious, from 30 on; the book of 31 is missing, cautious too
    changes = {20: {"mark": 97.0}, 31: {"depth_bid_100bps_usd": None}}
    row = decide(calm_bars(31, changes=changes), short_policy, tiers=TIERS).limits.row(-1, named=True)
    assert (row["action"], row["binding"], row["missing"]) == ("cautious", "mark_index_divergence", "depth missing")


def test_the_state_keeps_the_first_minute_of_every_symbol(short_policy, calm_bars, at):
    bars = calm_bars(30, ("A", "B")).filter((pl.col("symbol") == "A") | (pl.col("ts") > at(5)))
    first = decide(bars.filter(pl.col("ts") <= at(20)), short_policy)
    later = decide(bars.filter(pl.col("ts") > at(15)), short_policy, state=first.state, since=at(20))
    for decided in (first, later):
        kept = dict(decided.state.filter(pl.col("symbol") != "*").select("symbol", "first_ts").rows())
        assert kept == {"A": at(1), "B": at(6)}


def checked_actions(decided):
    """The actions of all limits, each checked against the newest decision of every rule that counts for its symbol."""
    running, actions = {}, set()
    symbols = ("A", "B", "C")
    by_key = {(symbol, ts): [] for symbol in symbols for ts in decided.decisions["ts"]}
    for row in decided.decisions.iter_rows(named=True):
        for symbol in symbols if row["scope"] == "venue" else (row["entity"],):
            by_key[symbol, row["ts"]].append(row)
    for row in decided.limits.iter_rows(named=True):
        for change in by_key.get((row["symbol"], row["ts"]), ()):
            running[row["symbol"], change["rule"]] = change
        mine = [change for (symbol, _), change in running.items() if symbol == row["symbol"]]
        assert row["action"] == max((change["action"] for change in mine), key=severity)
        cap = running[row["symbol"], "leverage_cap"]["limit_after"]
        assert row["leverage_cap"] == (cap if row["action"] == "normal" else min(cap, 2.0))
        actions.add(row["action"])
    return actions


@examples(4)
@given(seed=seeds)
def test_every_limit_is_as_strict_as_its_strictest_verdict(short_policy, messy_bars, seed):
    assert checked_actions(decide(messy_bars(seed, 120), short_policy, tiers=TIERS))


def test_limits_of_every_strictness_are_checked(short_policy, messy_bars):
    assert len(checked_actions(decide(messy_bars(1, 120), short_policy, tiers=TIERS))) >= 3


@examples(2)
@given(seed=seeds)
def test_the_order_of_rows_and_of_rules_is_irrelevant(short_whole_policy, messy_bars, seed):
    bars = messy_bars(seed, 80)
    tables = random_tables(seed, bars)

    def mixed(table):
        return table.sample(fraction=1.0, shuffle=True, seed=seed)

    expected = decide(bars, short_whole_policy, tiers=TIERS, **tables)
    more = {name: mixed(table) for name, table in tables.items()}
    same(decide(mixed(bars), short_whole_policy, tiers=mixed(TIERS), **more), expected)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(breakers, "RULES", tuple(reversed(breakers.RULES)))
        patched.setattr(decide_module, "RULES", tuple(reversed(RULES)))
        same(decide(bars, short_whole_policy, tiers=TIERS, **tables), expected)


def with_rules(left_out, decided):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(breakers, "RULES", tuple(card for card in breakers.RULES if card.name not in left_out))
        return decided()


LEFT_OUT = sorted({card.name for card in breakers.RULES} - {"price_band", "outage"})  # one of each scope stays


def compared(seed, left_out, policy, messy_bars):
    """Limits under all rules beside those (`_fewer`) without some, with what a severity is worth."""
    bars = messy_bars(seed, 100)
    more = {"tiers": TIERS, **random_tables(seed, bars)}
    fewer = with_rules(left_out, lambda: decide(bars, policy, **more)).limits
    both = decide(bars, policy, **more).limits.join(fewer, on=["symbol", "ts"], suffix="_fewer")
    return both.with_columns(
        pl.col("action", "action_fewer").replace_strict(list(ACTIONS), list(range(len(ACTIONS))), return_dtype=pl.Int64)
    )


@examples(4)
@given(seed=seeds, left_out=st.sets(st.sampled_from(LEFT_OUT), min_size=1))
def test_a_rule_more_never_loosens(short_whole_policy, messy_bars, seed, left_out):
    both = compared(seed, left_out, short_whole_policy, messy_bars)
    assert both.height > 200
    assert (both["action"] >= both["action_fewer"]).all()
    for cap in ("leverage_cap", "exposure_cap_usd", "throttle_usd_min"):
        assert (both[cap] <= both[f"{cap}_fewer"]).all()


@pytest.mark.parametrize("rule", ["price_band_sigma", "depth_collapse", "book_fault", "mark_index_divergence"])
def test_a_rule_more_tightens_where_it_trips(short_whole_policy, messy_bars, rule):
    """Beside the two that stay, `rule` alone."""
    with_it = compared(3, set(LEFT_OUT) - {rule}, short_whole_policy, messy_bars)["action_fewer"]
    without = compared(3, LEFT_OUT, short_whole_policy, messy_bars)["action_fewer"]
    assert (with_it >= without).all()
    assert (with_it > without).any()


# --- causality and parity


@examples(6)
@given(seed=seeds, cut=st.integers(5, 170))
def test_cutting_the_future_off_changes_nothing_before_the_cut(short_whole_policy, messy_bars, seed, cut):
    bars = messy_bars(seed, 180)
    resets, tables = random_resets(seed, bars), random_tables(seed, bars)
    end = bars["ts"].min() + timedelta(minutes=cut)
    more = {"tiers": TIERS, "resets": resets, **random_positions(seed, bars)}
    whole = decide(bars, short_whole_policy, **more, **tables)
    cut_off = {name: table.filter(pl.col("ts") <= end) for name, table in tables.items()}
    known = decide(bars.filter(pl.col("ts") <= end), short_whole_policy, **more, **cut_off)
    accounts = whole.account_decisions.filter(pl.col("ts") <= end)
    assert known.account_decisions.rows() == accounts.rows()
    assert known.limits.rows() == whole.limits.filter(pl.col("ts") <= end).rows()
    assert known.decisions.rows() == whole.decisions.filter(pl.col("ts") <= end).rows()
    assert known.limits.height > 0


def random_positions(seed, bars):
    """Five accounts with snapshots at odd moments, some of them in minutes without bars, and their collateral."""
    dice = random.Random(seed)
    start, end = bars["ts"].min(), bars["ts"].max()
    minutes = int((end - start).total_seconds() // 60)
    held, funds = [], []
    for account in "uvwxy":
        for _ in range(12):
            ts = start + timedelta(seconds=dice.randint(0, 60 * minutes))
            known = ts + timedelta(seconds=dice.randint(0, 90))
            key = {"venue": "v", "account": account, "ts": ts, "known_at": known}
            held += [
                {**key, "symbol": symbol, "qty": dice.gauss(0, 2e4), "entry_price": 100.0, "margin_mode": "cross"}
                for symbol in "AB"
            ]
            funds.append({**key, "asset": "USDT", "amount": dice.uniform(1e5, 2e6)})
    return {
        "positions": pl.DataFrame(held).with_columns(isolated_margin=pl.lit(None, pl.Float64)),
        "collateral": pl.DataFrame(funds),
    }


def split_run(bars, policy, cuts, **more):
    parts, state, since = [], None, None
    for cut in [*cuts, bars["ts"].max()]:
        seen = bars.filter(pl.col("ts") <= cut)
        told = {name: more[name].filter(pl.col("ts") <= cut) for name in ("holdings", "pegs", "fund") if name in more}
        if since is not None:
            seen = seen.filter(pl.col("ts") > since - timedelta(minutes=LOOKBACK_MIN))
        decided = decide(seen, policy, state=state, since=since, **more | told)
        parts, state, since = [*parts, decided], decided.state, cut
    joined = {
        name: pl.concat([getattr(part, name) for part in parts])
        for name in ("limits", "decisions", "account_decisions")
    }
    return joined, state


@examples(3)
@given(seed=seeds, cuts=st.lists(st.integers(1, 890), min_size=1, max_size=3, unique=True).map(sorted))
def test_runs_over_parts_give_the_rows_of_one_run_over_the_whole(whole_policy, messy_bars, seed, cuts):
    bars = messy_bars(seed, 900)
    resets, tables = random_resets(seed, bars), random_tables(seed, bars)
    stamps = [bars["ts"].min() + timedelta(minutes=cut) for cut in cuts]
    more = {"tiers": TIERS, "resets": resets, **random_positions(seed, bars)}
    whole = decide(bars, whole_policy, **more, **tables)
    parts, state = split_run(bars, whole_policy, stamps, **more, **tables)
    met = set(whole.decisions.filter(pl.col("state_after") == "open")["rule"])
    assert len(met) >= 8, "a market that shows too little"
    assert parts["limits"].sort("symbol", "ts").rows() == whole.limits.rows()
    assert parts["decisions"].rows() == whole.decisions.rows()
    assert parts["account_decisions"].rows() == whole.account_decisions.rows()
    assert whole.account_decisions.height > 0
    assert state.equals(whole.state)


@pytest.mark.parametrize("rows", [1, 1_100, 2_000])
def test_how_many_rows_are_worked_on_together_changes_nothing(whole_policy, messy_bars, monkeypatch, rows):
    """One rule at a time, two rules of the symbols' 540 rows, and three."""
    bars = messy_bars(7, 180)
    more = {"resets": random_resets(7, bars), **random_tables(7, bars)}
    whole, cut = decide(bars, whole_policy, **more), bars["ts"].min() + timedelta(minutes=60)
    monkeypatch.setattr(breakers, "ROWS_AT_ONCE", rows)
    first = decide(bars.filter(pl.col("ts") <= cut), whole_policy, **more)
    second = decide(bars, whole_policy, state=first.state, since=cut, **more)
    same(decide(bars, whole_policy, **more), whole)
    assert second.state.equals(whole.state)
    assert pl.concat([first.decisions, second.decisions]).rows() == whole.decisions.rows()


def test_what_was_given_out_after_the_state_and_before_since_is_not_given_out_again(short_policy, calm_bars, at):
    bars = calm_bars(40, changes={15: {"mark": 97.0}, 39: {"mark": 97.0}})
    state = decide(bars.filter(pl.col("ts") <= at(10)), short_policy).state
    found = decide(bars, short_policy, state=state, since=at(30)).decisions
    whole = decide(bars, short_policy).decisions
    assert found.rows() == whole.filter(pl.col("ts") > at(30)).rows()
    assert found.height > 0 < whole.filter(pl.col("ts").is_between(at(11), at(30))).height


def test_a_change_of_the_action_alone_is_a_decision(short_policy_with, calm_bars, at):
    """Open and then without its input: the state stays, the limit stays at 0, the action does not."""
    policy = short_policy_with(breakers_mark_index_divergence__missing_action="halted")
    decided = decide(calm_bars(25, changes={15: {"mark": 97.0}, 17: {"index": None}}), policy)
    rows = decided.decisions.filter(pl.col("ts") > at(1), rule="mark_index_divergence")
    assert rows.select("ts", "state_before", "state_after", "action", "limit_before", "limit_after").rows() == [
        (at(15), "closed", "open", "reduce_only", None, 0.0),
        (at(17), "open", "open", "halted", 0.0, 0.0),
        (at(22), "open", "open", "reduce_only", 0.0, 0.0),
    ]


def test_with_a_state_and_no_moment_everything_after_the_state_is_given_out(short_policy, calm_bars, at):
    bars = calm_bars(30, changes={15: {"mark": 97.0}})
    first = decide(bars.filter(pl.col("ts") <= at(20)), short_policy)
    told, default = (decide(bars, short_policy, state=first.state, since=since) for since in (at(20), None))
    same(told, default)
    assert (default.limits.height, default.limits["ts"].min()) == (10, at(21))


def test_a_symbol_that_never_comes_back_is_carried_by_the_state(policy, calm_bars, at):
    bars = calm_bars(1000, ("A", "B")).filter((pl.col("symbol") == "B") | (pl.col("ts") <= at(100)))
    whole = decide(bars, policy)
    parts, _ = split_run(bars, policy, [at(150), at(700)])
    assert parts["limits"].sort("symbol", "ts").rows() == whole.limits.rows()
    assert parts["decisions"].rows() == whole.decisions.rows()
    gone = whole.limits.filter(pl.col("symbol") == "A").row(-1, named=True)
    assert (gone["ts"], gone["action"], gone["leverage_cap"]) == (at(1000), "reduce_only", 2.0)
    assert "price missing" in gone["missing"]


@pytest.mark.parametrize("cuts", [(200, 801), (150, 803), (199, 810, 1230)])
def test_an_outage_longer_than_the_lookback_is_the_same_in_parts(whole_policy, calm_bars, at, cuts):
    bars = calm_bars(1300, ("A", "B")).filter(~pl.col("ts").is_between(at(201), at(800)))
    tables = random_tables(3, bars)
    whole = decide(bars, whole_policy, **tables)
    parts, state = split_run(bars, whole_policy, [at(cut) for cut in cuts], **tables)
    assert parts["limits"].sort("symbol", "ts").rows() == whole.limits.rows()
    assert parts["decisions"].rows() == whole.decisions.rows()
    assert state.equals(whole.state)
    outage = whole.decisions.filter(rule="outage").select("ts", "state_after", "observed").rows()
    assert outage[1:] == [(at(801), "open", 60.0), (at(811), "half_open", 0.0), (at(821), "closed", 0.0)]


def test_a_state_of_another_venue_or_of_a_later_time_is_refused(policy, calm_bars, at):
    bars = calm_bars(10)
    state = decide(bars, policy).state
    with pytest.raises(ValueError, match="state"):
        decide(bars.with_columns(venue=pl.lit("w")), policy, state=state)
    told = f"`since` must not be before the state's {at(10)}, was {at(5)}"
    with pytest.raises(ValueError, match=f"^{re.escape(told)}$"):
        decide(bars, policy, state=state, since=at(5))
    later = state.with_columns(pl.col("ts") + pl.duration(minutes=1))
    two_minutes = pl.concat([state, later])
    with pytest.raises(ValueError, match="one minute"):
        decide(bars, policy, state=two_minutes)
    assert decide(bars, policy, state=empty_state(), since=at(5)).limits["ts"].min() == at(6)


# --- independence of every model


@pytest.mark.parametrize("scores", [None, math.nan, 0.0, 1.0, math.inf, "noise"])
def test_no_score_changes_a_hard_limit_or_a_decision(short_policy, messy_bars, scores):
    bars = messy_bars(7, 100)
    expected = decide(bars, short_policy, tiers=TIERS)
    dice = random.Random(1)
    values = [dice.gauss(0, 1) if scores == "noise" else scores for _ in range(bars.height)]
    names = ("p_15m", "p_60m", "anomaly", "score", "alert", "leverage_cap_wish")
    scored = bars.with_columns(pl.Series(name, values, pl.Float64) for name in names)
    decided = decide(scored, short_policy, tiers=TIERS)
    same(decided, expected)
    proposals = decided.limits.select(
        "venue", "symbol", "ts",
        pl.Series("leverage_cap_wish", [values[i % len(values)] for i in range(decided.limits.height)], pl.Float64),
        proposed_at="ts", valid_until=pl.col("ts") + pl.duration(minutes=10),
    )  # fmt: skip
    wished = bounded(decided.limits, proposals, short_policy)
    assert wished.select(list(LIMITS)).equals(expected.limits)
    assert wished["leverage_cap_hard"].equals(expected.limits["leverage_cap"].alias("leverage_cap_hard"))


# --- fail closed

INPUTS = {  # what a fault in the column must be called somewhere in `missing`
    "close": "price|trades", "trade_age_s": "price|trade_age_s", "mark": "mark|price", "mark_age_s": "mark",
    "index": "index", "index_age_s": "index", "depth_bid_100bps_usd": "depth", "depth_ask_100bps_usd": "depth",
    "depth_age_s": "depth", "depth_unchanged_s": "depth", "book_rows_crossed": "depth", "book_rows_frozen": "depth",
    "oi_usd": "open interest", "oi_age_s": "open interest",
    "liq_long_usd": "liquidations", "liq_short_usd": "liquidations",
}  # fmt: skip
FAULTS = {"null": None, "nan": math.nan, "inf": math.inf, "minus inf": -math.inf, "negative": -5.0, "huge": 1e300}


def judge_fault(calm, row, name, stands_in):
    assert (calm["action"], calm["leverage_cap"]) == ("normal", 50.0)
    if stands_in:
        assert row["action"] == "normal"  # a venue without a mark: the last trade stands in, nothing is missing
        return
    assert row["leverage_cap"] <= 2.0
    assert row["action"] != "normal"
    assert row["exposure_cap_usd"] <= calm["exposure_cap_usd"]
    assert re.search(INPUTS[name], row["missing"] or row["reasons"])


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_input_gives_the_safe_side_and_is_named(short_policy, calm_bars, at, fault):
    """One symbol per input, each with that input alone broken in the last five minutes, and one that is sound."""
    tiers = pl.DataFrame({"symbol": [*INPUTS, "sound"], "leverage_max": [50.0] * (len(INPUTS) + 1)})
    bad = pl.col("ts") > at(35)
    broken = calm_bars(40, (*INPUTS, "sound")).with_columns(
        pl.when(bad & (pl.col("symbol") == name)).then(pl.lit(FAULTS[fault], pl.Float64)).otherwise(name).alias(name)
        for name in INPUTS
    )
    last = (
        decide(broken, short_policy, tiers=tiers)
        .limits.filter(ts=at(40))
        .rows_by_key("symbol", named=True, unique=True)
    )
    for name in INPUTS:
        judge_fault(last["sound"], last[name], name, stands_in=(name, fault) == ("mark", "null"))


@pytest.mark.parametrize("name", INPUTS)
def test_a_column_that_is_absent_or_holds_no_numbers_gives_the_safe_side(short_policy, calm_bars, at, name):
    calm = {"action": "normal", "leverage_cap": 50.0, "exposure_cap_usd": 20_000_000}
    for broken in (calm_bars(15).drop(name), calm_bars(15).with_columns(pl.lit("soon").alias(name))):
        row = decide(broken, short_policy, tiers=TIERS).limits.row(-1, named=True)
        judge_fault(calm, row, name, stands_in=name == "mark")


BAD = (None, math.nan, math.inf, -math.inf, -1.0, 1e300, -1e300)


@examples(8)
@given(
    bad=st.dictionaries(st.sampled_from(sorted(NUMBERS)), st.sampled_from(BAD), min_size=1),
    minutes=st.sets(st.integers(1, 16), min_size=1),
)
def test_no_mixture_of_bad_inputs_is_looser_than_a_calm_market(short_policy, calm_bars, bad, minutes):
    """Whole numbers cannot be NaN: every column is a float here."""
    calm = calm_bars(16).with_columns(pl.col(NUMBERS).cast(pl.Float64))
    hit = pl.col("ts").is_in([calm["ts"][minute - 1] for minute in minutes])
    spoilt = calm.with_columns(
        pl.when(hit).then(pl.lit(value, pl.Float64)).otherwise(name).alias(name) for name, value in bad.items()
    )
    both = decide(calm, short_policy, tiers=TIERS).limits.join(
        decide(spoilt, short_policy, tiers=TIERS).limits, on=["symbol", "ts"], suffix="_spoilt"
    )
    order = pl.col("action", "action_spoilt").replace_strict(list(ACTIONS), list(range(len(ACTIONS))))
    both = both.with_columns(order)
    assert (both["action_spoilt"] >= both["action"]).all()
    for cap in ("leverage_cap", "exposure_cap_usd", "throttle_usd_min"):
        assert (both[f"{cap}_spoilt"] <= both[cap]).all()
    kept = both.filter(pl.col("blocked").is_not_null())
    for before, after in kept.select("blocked", "blocked_spoilt").unique().rows():
        assert set(before.split(", ")) <= set((after or "").split(", "))


@pytest.mark.parametrize("age", ["trade_age_s", "mark_age_s", "index_age_s", "depth_age_s", "depth_unchanged_s"])
def test_a_stale_feed_is_a_trigger_not_a_gap(short_policy, calm_bars, age):
    row = decide(calm_bars(40, changes={40: {age: 5000.0}}), short_policy, tiers=TIERS).limits.row(-1, named=True)
    assert (row["action"], row["binding"]) == ("reduce_only", "stale_feed")
    assert "oldest feed is 5000 s old" in row["reason"]


def test_bars_with_nothing_but_their_key_are_cautious_not_normal(policy, calm_bars):
    limits = decide(calm_bars(10).select("venue", "symbol", "ts"), policy).limits
    assert limits["action"].unique().to_list() == ["cautious"]
    assert limits["leverage_cap"].unique().to_list() == [2.0]
    assert limits["exposure_cap_usd"].unique().to_list() == [10_000]
    told = (
        "depth missing, open interest missing, price missing, liquidations missing, no feed heard, trades missing, "
        "open interest or depth of every symbol missing"
    )  # each once, where the first rule by name that lacks it stands
    assert limits["missing"].unique().to_list() == [told]


# --- asymmetry


@examples(3)
@given(seed=seeds)
@example(seed=2773)  # all symbols silent at once: what opened in the silence is told in the first minute after it
def test_nothing_loosens_without_a_clean_time_before_it(policy, messy_bars, seed):
    """Whatever the market does, a breaker that opened stays shut to new risk at least for its cool-down."""
    bars = messy_bars(seed, 200, gaps=0)
    decided = decide(bars, policy, tiers=TIERS)
    heard, minute = set(bars["ts"]), timedelta(minutes=1)
    opened = {}
    for row in decided.decisions.iter_rows(named=True):
        key = row["entity"], row["rule"]
        if row["state_after"] == "open":
            opened[key] = row["ts"] if row["ts"] - minute in heard else row["ts"] - minute
        if row["state_before"] == "open":
            rule = policy.breakers[row["rule"]]
            assert row["state_after"] == "half_open"
            assert row["ts"] - opened[key] >= timedelta(minutes=rule.cool_down_min)
        if row["state_before"] == "half_open":
            assert row["state_after"] in ("open", "closed")
    assert opened
    assert set(decided.limits["action"]) <= set(ACTIONS)
