"""A model's wish can tighten within its bounds, for a while, and can do nothing else."""

import math
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardrails.proposal import EFFECTIVE, SCHEMA, bounded, judged
from tests.examples import examples

T = datetime(2026, 1, 5, 12, tzinfo=UTC)
HARD = (50.0, 20.0, 5.0, 2.0, 1.0)
TYPES = {"ts": pl.Datetime("us", "UTC"), "leverage_cap": pl.Float64, "exposure_cap_usd": pl.Int64}


def at(minute):
    return T + timedelta(minutes=minute)


def limits(*caps, symbol="A", usd=1_000_000):
    rows = {"venue": "v", "symbol": symbol, "leverage_cap": list(caps), "exposure_cap_usd": usd,
            "ts": [at(i) for i in range(len(caps))]}  # fmt: skip
    return pl.DataFrame(rows, schema_overrides=TYPES)


def proposal(wish, made, until, *, about=None, usd=None, symbol="A"):
    """A wish about the minute in which it is made, unless another is given."""
    return {
        "venue": "v",
        "symbol": symbol,
        "ts": at(made if about is None else about),
        "leverage_cap_wish": wish,
        "exposure_cap_usd_wish": usd,
        "proposed_at": at(made),
        "valid_until": at(until),
    }


def proposals(*rows):
    """(wish, proposed at minute, valid until minute), or whole rows."""
    return pl.DataFrame([row if isinstance(row, dict) else proposal(*row) for row in rows], schema=SCHEMA)


def effective(table, *rows, policy):
    found = bounded(table, proposals(*rows), policy)
    return list(zip(found["leverage_cap_effective"], found["proposal"], strict=True))


def caps(table, *rows, policy):
    return [cap for cap, _ in effective(table, *rows, policy=policy)]


# --- how far


@pytest.mark.parametrize(
    ("hard", "wish", "cap", "word"),
    [
        # hard 20x: half of it is 10x, 15x less is 5x: not below 10x
        (20.0, 15.0, 15.0, "taken"),
        (20.0, 10.0, 10.0, "taken"),
        (20.0, 9.9, 10.0, "bounded"),
        (20.0, 1e-9, 10.0, "bounded"),
        (20.0, 19.9, 19.9, "taken"),
        (20.0, 20.0, 20.0, "no tighter"),
        (20.0, 125.0, 20.0, "no tighter"),
        # hard 50x: half of it is 25x, 15x less is 35x: not below 35x
        (50.0, 36.0, 36.0, "taken"),
        (50.0, 35.0, 35.0, "taken"),
        (50.0, 34.0, 35.0, "bounded"),
        # hard 30x: both say 15x
        (30.0, 15.0, 15.0, "taken"),
        (30.0, 14.9, 15.0, "bounded"),
        # half of 1x would be 0.5x, the least is 1x: never to zero
        (2.0, 0.01, 1.0, "bounded"),
        (1.0, 0.01, 1.0, "bounded"),
        (20.0, 0.0, 20.0, "none"),
        (20.0, -5.0, 20.0, "none"),
        (20.0, None, 20.0, "none"),
        (20.0, math.nan, 20.0, "none"),
        (20.0, math.inf, 20.0, "none"),
        (20.0, -math.inf, 20.0, "none"),
    ],
)
def test_a_leverage_wish_is_bounded_by_a_share_by_an_amount_and_by_the_least(policy, hard, wish, cap, word):
    assert effective(limits(hard), (wish, 0, 10), policy=policy) == [(cap, word)]


@pytest.mark.parametrize(
    ("hard", "wish", "cap", "word"),
    [
        # hard 1 M USD: half of it is 500,000
        (1_000_000, 600_000.0, 600_000, "taken"),
        (1_000_000, 500_000.0, 500_000, "taken"),
        (1_000_000, 499_999.0, 500_000, "bounded"),
        (1_000_000, 600_000.4, 600_001, "taken"),  # whole dollars, up: never below what is asked
        (1_000_000, 1_000_000.0, 1_000_000, "no tighter"),
        # hard 25 M USD: half of it is 12.5 M, 10 M less is 15 M
        (25_000_000, 15_000_000.0, 15_000_000, "taken"),
        (25_000_000, 14_999_999.0, 15_000_000, "bounded"),
        # half of 10,000 would be 5,000; the least is 10,000
        (10_000, 1.0, 10_000, "bounded"),
        (15_000, 1.0, 10_000, "bounded"),
        (1_000_000, 0.0, 1_000_000, "none"),
        (1_000_000, math.nan, 1_000_000, "none"),
    ],
)
def test_an_exposure_wish_has_bounds_of_its_own(policy, hard, wish, cap, word):
    found = bounded(limits(20.0, usd=hard), proposals(proposal(None, 0, 10, usd=wish)), policy)
    assert found.select("exposure_cap_usd_effective", "leverage_cap_effective", "proposal").row(0) == (cap, 20.0, word)


def test_both_wishes_of_a_proposal_count(policy):
    found = bounded(limits(20.0), proposals(proposal(15.0, 0, 10, usd=1.0)), policy)
    assert found.select("leverage_cap_effective", "exposure_cap_usd_effective", "proposal").row(0) == (
        15.0,
        500_000,
        "bounded",
    )


def test_steps_do_not_add_up(policy):
    assert caps(limits(*[20.0] * 5), *((0.1, i, 30) for i in range(5)), policy=policy) == [10.0] * 5


# --- how long


def test_a_proposal_ends_when_it_says_so_and_at_the_latest_after_its_time_to_live(policy):
    found = effective(limits(*[20.0] * 40), (15.0, 2, 5), policy=policy)
    assert [cap for cap, _ in found[:8]] == [20, 20, 15, 15, 15, 15, 20, 20]
    assert [word for _, word in found[:8]] == ["none"] * 2 + ["taken"] * 4 + ["none"] * 2
    # 30 minutes to live: minutes 2 to 32
    assert caps(limits(*[20.0] * 40), (15.0, 2, 10_000), policy=policy) == [20.0] * 2 + [15.0] * 31 + [20.0] * 7


def test_the_time_to_live_begins_with_the_minute_a_wish_is_about(policy):
    # about minute 0, made in minute 25: minutes 25 to 30
    late = proposal(15.0, 25, 10_000, about=0)
    assert caps(limits(*[20.0] * 35), late, policy=policy) == [20.0] * 25 + [15.0] * 6 + [20.0] * 4


def test_a_proposal_counts_from_the_first_full_minute_after_it_was_made(policy):
    row = {**proposal(15.0, 0, 30), "proposed_at": at(0) + timedelta(seconds=1)}
    assert caps(limits(*[20.0] * 3), row, policy=policy) == [20.0, 15.0, 15.0]


def test_tightening_is_immediate_and_loosening_back_waits(policy):
    # 15x from minute 0; 12x from minute 3, tighter: at once; 18x from minute 5: after 10 minutes, in minute 15
    found = caps(limits(*[20.0] * 20), (15.0, 0, 30), (12.0, 3, 30), (18.0, 5, 30), policy=policy)
    assert found == [15.0] * 3 + [12.0] * 12 + [18.0] * 5


@pytest.mark.parametrize(("delay", "first"), [(0, 5), (1, 6), (3, 8)])
def test_the_delay_of_a_looser_wish_is_the_policys(policy_with, delay, first):
    policy = policy_with(proposal__loosen_delay_min=delay)
    found = caps(limits(*[20.0] * 12), (12.0, 0, 30), (18.0, 5, 30), policy=policy)
    assert found == [12.0] * first + [18.0] * (12 - first)


def test_a_tighter_wish_is_not_held_beyond_its_own_end(policy):
    # 12x ends with minute 6, though 18x of minute 5 would let it hold until minute 14
    found = caps(limits(*[20.0] * 10), (12.0, 0, 6), (18.0, 5, 30), policy=policy)
    assert found == [12.0] * 7 + [18.0] * 3


def test_what_was_superseded_never_comes_back(policy):
    # 18x supersedes 12x in minute 15 and ends with minute 16: the hard cap, although 12x was valid until minute 30
    found = caps(limits(*[20.0] * 20), (12.0, 0, 30), (18.0, 5, 16), policy=policy)
    assert found == [12.0] * 15 + [18.0] * 2 + [20.0] * 3


@pytest.mark.parametrize("again", [7, 16, 25, 31, 45])
def test_a_wish_that_is_sent_again_has_no_second_effect(policy, again):
    table = limits(*[20.0] * 60)
    rows = [(12.0, 0, 20), (18.0, 5, 16)]
    once = bounded(table, proposals(*rows), policy)
    # the same wish about the same minute, with a new stamp and a later end
    twice = bounded(table, proposals(*rows, proposal(12.0, again, 59, about=0)), policy)
    assert twice.equals(once)
    assert judged(proposals(*rows, *rows), table, policy).height == 2


def test_an_expired_wish_is_refused_for_good(policy):
    # about minute 0, made in minute 31: its 30 minutes are over
    late = proposals(proposal(12.0, 31, 59, about=0))
    assert judged(late, limits(*[20.0] * 60), policy)["refused"].to_list() == ["expired before it was made"]
    assert judged(proposals(proposal(12.0, 30, 59, about=0)), limits(20.0), policy)["refused"].to_list() == [None]


def test_a_wish_is_superseded_by_the_first_that_was_made_about_a_later_minute(policy):
    # 19x about minute 2, made in minute 5, ends 12x after minute 14, and 18x about minute 1 before it is made
    rows = [(12.0, 0, 30), proposal(18.0, 20, 30, about=1), proposal(19.0, 5, 30, about=2)]
    assert caps(limits(*[20.0] * 25), *rows, policy=policy) == [12.0] * 15 + [19.0] * 10


def test_of_two_wishes_about_a_later_minute_the_first_made_supersedes(policy):
    # about minute 3: 18x made in minute 5 and 17x in minute 12; 12x about minute 0 ends after minute 14
    rows = [(12.0, 0, 30), proposal(18.0, 5, 30, about=3), proposal(17.0, 12, 30, about=3)]
    assert caps(limits(*[20.0] * 18), *rows, policy=policy) == [12.0] * 15 + [17.0] * 3


# --- who may ask, and for what


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"symbol": "NEW"}, "no limit or no bar of the symbol in its minute"),
        ({"venue": "w"}, "no limit or no bar of the symbol in its minute"),
        ({"ts": at(0) - timedelta(seconds=1)}, "no limit or no bar of the symbol in its minute"),
        ({"ts": at(1)}, "about a minute after it was made"),
        ({"proposed_at": at(99)}, "expired before it was made"),
        ({"valid_until": at(-1)}, "expired before it was made"),
        ({"valid_until": None}, "not complete"),
        ({"proposed_at": None}, "not complete"),
        ({"symbol": None}, "not complete"),
        ({"leverage_cap_wish": None}, "no wish is a positive number"),
        ({"leverage_cap_wish": -1.0, "exposure_cap_usd_wish": math.nan}, "no wish is a positive number"),
        ({}, None),
    ],
)
def test_what_may_not_be_asked_is_refused_with_its_reason_and_changes_nothing(policy, change, why):
    table, rows = limits(*[20.0] * 5), proposals(proposal(15.0, 0, 30) | change)
    assert judged(rows, table, policy)["refused"].to_list() == [why]
    assert (bounded(table, rows, policy)["leverage_cap_effective"].to_list() == [20.0] * 5) == (why is not None)


def test_a_symbol_without_a_bar_in_the_minute_is_refused(policy):
    table = limits(*[20.0] * 5)
    with_bars = table.filter(pl.col("ts") != at(1)).select("venue", "symbol", "ts")
    rows = proposals((15.0, 1, 30))
    assert judged(rows, with_bars, policy)["refused"].to_list() == ["no limit or no bar of the symbol in its minute"]
    assert bounded(table, rows, policy, listed=with_bars)["proposal"].to_list() == ["none"] * 5
    assert bounded(table, rows, policy, listed=table)["proposal"].to_list() == ["none"] + ["taken"] * 4


def test_of_a_wish_that_is_sent_twice_the_first_counts_though_it_lives_longer(policy):
    """The same wish about the same minute: made at 0 to live until 20, and at 1 to live until 5."""
    twice = proposals(proposal(12.0, 1, 5, about=0), proposal(12.0, 0, 20))
    (row,) = judged(twice, limits(*[20.0] * 30), policy).rows(named=True)
    assert (row["proposed_at"], row["valid_until"]) == (at(0), at(20))


def test_another_symbol_s_wishes_neither_supersede_nor_keep_alive(policy):
    # A: 12x about minute 0, and 18x about minute 1: 12x ends 10 minutes after that, 18x with minute 20
    both = pl.concat([limits(*[20.0] * 25), limits(*[20.0] * 25, symbol="B")])
    rows = (proposal(12.0, 0, 20), proposal(18.0, 1, 20), proposal(11.0, 0, 20, symbol="B"))
    found = bounded(both, proposals(*rows), policy).filter(symbol="A")["leverage_cap_effective"].to_list()
    assert found == [12.0] * 11 + [18.0] * 10 + [20.0] * 4


def test_a_refused_wish_supersedes_nothing(policy):
    rows = [(12.0, 0, 30), (math.nan, 2, 30), proposal(19.0, 3, 30, symbol="NEW")]
    assert caps(limits(*[20.0] * 20), *rows, policy=policy) == [12.0] * 20


def test_another_symbols_wish_has_no_effect(policy):
    table = pl.concat([limits(20.0, 20.0), limits(20.0, 20.0, symbol="B")])
    assert caps(table, proposal(15.0, 0, 30, symbol="B"), policy=policy) == [20.0, 20.0, 15.0, 15.0]


def test_an_id_is_of_the_content_not_of_its_stamps(policy):
    table = limits(*[20.0] * 9)
    ids = {
        judged(proposals(row), table, policy)["proposal_id"].item()
        for row in (proposal(15.0, 0, 5), proposal(15.0, 2, 9, about=0))
    }
    others = {
        judged(proposals(row), table, policy)["proposal_id"].item()
        for row in (
            proposal(15.1, 0, 5), proposal(15.0, 1, 5), proposal(15.0, 0, 5, usd=1.0), proposal(15.0, 0, 5, symbol="B"),
        )
    }  # fmt: skip
    assert (len(ids), len(others), ids & others) == (1, 4, set())


# --- never


wishes = st.one_of(st.none(), st.floats())
moments = st.integers(-50, 60)
row = st.builds(
    proposal, wishes, moments, moments, about=moments, usd=wishes, symbol=st.sampled_from(("A", "A", "B", "NEW"))
)


@examples(150)
@given(hard=st.lists(st.sampled_from(HARD), min_size=1, max_size=30), rows=st.lists(row, max_size=8))
def test_no_proposal_ever_loosens_a_hard_limit_or_tightens_beyond_its_bounds(policy, hard, rows):
    table = limits(*hard, usd=30_000)
    found = bounded(table, proposals(*rows), policy)
    assert found.select(table.columns).equals(table)
    assert found["leverage_cap_hard"].to_list() == hard
    assert found.select(list(EFFECTIVE)).schema == pl.Schema(EFFECTIVE)
    assert found.null_count().sum_horizontal().item() == 0
    for cap, soft, usd in found.select(
        "leverage_cap_hard", "leverage_cap_effective", "exposure_cap_usd_effective"
    ).rows():
        assert max(cap * 0.5, cap - 15, min(cap, 1.0)) <= soft <= cap
        assert 15_000 <= usd <= 30_000


@examples(100)
@given(rows=st.lists(row, max_size=10))
def test_a_wish_holds_exactly_as_the_rules_say_one_by_one(policy, rows):
    """The slow way, minute by minute, from the words of the docstring."""
    table = limits(*[20.0] * 50)
    accepted = judged(proposals(*rows), table, policy).filter(pl.col("refused").is_null()).to_dicts()
    for minute, cap in enumerate(bounded(table, proposals(*rows), policy)["leverage_cap_effective"]):
        now, asked = at(minute), [20.0]
        for one in accepted:
            newer = [other["proposed_at"] for other in accepted if other["ts"] > one["ts"]]
            alive = one["proposed_at"] <= now <= min(one["valid_until"], one["ts"] + timedelta(minutes=30))
            if alive and not any(made + timedelta(minutes=10) <= now for made in newer):
                asked.append(max(one["leverage_cap_wish"] or 20.0, 10.0))
        assert cap == min(asked)


@examples(60)
@given(rows=st.lists(row, min_size=1, max_size=8), order=st.randoms())
def test_the_order_of_proposals_is_irrelevant(policy, rows, order):
    mixed = list(rows)
    order.shuffle(mixed)
    table = limits(*[20.0] * 30)
    assert bounded(table, proposals(*rows), policy).equals(bounded(table, proposals(*mixed), policy))


@examples(60)
@given(rows=st.lists(row, max_size=8), cut=st.integers(1, 29))
def test_cutting_the_future_off_or_the_expired_past_changes_no_minute(policy, rows, cut):
    """Two runs, each with the wishes about its own minutes and the 30 before, give what one run gives."""
    table, all_ = limits(*[20.0] * 60), proposals(*rows)
    whole = bounded(table, all_, policy)
    early = bounded(table.head(cut), all_.filter(pl.col("proposed_at") < at(cut)), policy)
    assert early.equals(whole.head(cut))
    recent = all_.filter(pl.col("ts") >= at(cut - 30))
    assert bounded(table.slice(cut), recent, policy, listed=table).equals(whole.slice(cut))


GARBAGE = {
    "text": pl.lit("soon"),
    "true": pl.lit(True),
    "null": pl.lit(None),
    "a whole number": pl.lit(-(2**63)),
    "huge": pl.lit(1e308),
    "a list": pl.lit(pl.Series([[1.0]])).first(),
    "a struct": pl.struct(a=pl.lit(1)),
    "bytes": pl.lit(b"x"),
    "a day": pl.lit(datetime(2026, 1, 5).date()),  # noqa: DTZ001
    "a time without zone": pl.lit(datetime(2026, 1, 5, 12)),  # noqa: DTZ001
    "the year 9999": pl.lit(datetime(9999, 12, 31, tzinfo=UTC)),
    "the first moment": pl.lit(-(2**63)).cast(pl.Datetime("us", "UTC")),
    "the last moment in ms": pl.lit(2**63 - 1).cast(pl.Datetime("ms", "UTC")),
    "a duration": pl.lit(timedelta(days=1)),
}


@pytest.mark.parametrize("name", [*SCHEMA, "something_else"])
@pytest.mark.parametrize("what", GARBAGE)
def test_whatever_a_column_holds_nothing_is_raised_and_the_hard_limits_stay(policy, name, what):
    table = limits(*HARD)
    rows = proposals((15.0, 0, 30), (10.0, 1, 30)).with_columns(GARBAGE[what].alias(name))
    found = bounded(table, rows, policy)
    assert found.select(table.columns).equals(table)
    assert found["leverage_cap_hard"].to_list() == list(HARD)
    assert (found["leverage_cap_effective"] <= found["leverage_cap_hard"]).all()


@pytest.mark.parametrize("name", SCHEMA)
def test_an_absent_column_is_refused_not_raised(policy, name):
    found = bounded(limits(20.0), proposals(proposal(15.0, 0, 30, usd=600_000.0)).drop(name), policy)
    other = {"leverage_cap_wish": (20.0, 600_000), "exposure_cap_usd_wish": (15.0, 1_000_000)}
    told = found.select("leverage_cap_effective", "exposure_cap_usd_effective").row(0)
    assert told == other.get(name, (20.0, 1_000_000))


def test_limits_keep_their_order_and_no_proposals_change_nothing(policy):
    table = limits(*HARD).sort("ts", descending=True)
    for nothing in (pl.DataFrame(schema=SCHEMA), pl.DataFrame()):
        found = bounded(table, nothing, policy)
        assert found.select(table.columns).equals(table)
        assert found["leverage_cap_effective"].to_list() == table["leverage_cap"].to_list()
        assert found["exposure_cap_usd_effective"].to_list() == table["exposure_cap_usd"].to_list()
        assert found["proposal"].to_list() == ["none"] * 5


def test_a_limit_that_is_not_there_stays_so(policy):
    """Null is no cap that a wish could stand in for."""
    table = limits(20.0).with_columns(leverage_cap=pl.lit(None, pl.Float64), exposure_cap_usd=pl.lit(None, pl.Int64))
    found = bounded(table, proposals(proposal(15.0, 0, 30, usd=600_000.0)), policy)
    assert found.select("leverage_cap_effective", "exposure_cap_usd_effective").row(0) == (None, None)
