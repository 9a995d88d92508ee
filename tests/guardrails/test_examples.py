"""The worked examples of a policy are read strictly and run through the real rules."""

import re

import pytest

from guardrails.breakers import RULES
from guardrails.examples import KINDS, ExampleError, amount, check_examples, read_examples
from guardrails.policy import Policy, parse_policy

FORM = "; write `#> rule: input value, input value -> result`"
STATES = "must be a state (closed, open, half_open, missing) and an action (normal, cautious, reduce_only, halted)"


@pytest.fixture(scope="module")
def outcome(policy: Policy):
    """What is wrong with one example under the shipped policy; None where it holds."""

    def check(line: str) -> str | None:
        found = check_examples(f"\n{line}\n", policy)
        assert len(found.violations) + sum(found.held.values()) == 1
        return found.violations[0] if found.violations else None

    return check


def test_every_example_of_the_shipped_policy_holds_and_every_rule_has_two(policy, policy_text):
    found = check_examples(policy_text, policy)
    assert found.violations == ()
    assert set(found.held) == set(KINDS) > {card.name for card in RULES}
    assert min(found.held.values()) >= 2


def test_a_planted_wrong_number_is_named_with_its_line_its_rule_and_what_came_out(policy, policy_text):
    spoiled = policy_text.replace("price_band: observed 5 % -> open", "price_band: observed 5 % -> closed")
    line = next(i for i, text in enumerate(spoiled.splitlines(), 1) if "5 % -> closed, reduce_only" in text)
    assert check_examples(spoiled, policy).violations == (
        f"line {line}: price_band: `observed 5 %` gives open, reduce_only, the example says closed, reduce_only",
    )


def test_a_changed_number_breaks_the_examples_that_spoke_of_it(edited):
    text = edited(caps__sigmas_covered=5)  # 1 / (5 x 5 %) is 4, down to the step 3
    (violation,) = check_examples(text, parse_policy(text)).violations
    assert violation.endswith("oi_per_depth 50` gives 3 x, the example says 5 x")
    assert "leverage_cap" in violation


def test_examples_do_not_change_the_hash(shipped, policy_text):
    assert "#>" in policy_text
    without = "\n".join(line for line in policy_text.splitlines() if not line.startswith("#>"))
    assert parse_policy(without).sha256 == shipped.sha256


# price_band: enter 5 %, exit 2.5 %, 10 min of cooling, 5 min of probation, 5 min after a missing input
@pytest.mark.parametrize(
    ("seen", "result"),
    [
        ("observed 4.99 %", "closed, normal"),
        ("observed 0.05", "open, reduce_only"),
        ("observed -5 %", "open, reduce_only"),  # its size counts, not its sign
        ("observed 5 % then observed 2.5 % for 9 min", "open, reduce_only"),
        ("observed 5 % then observed 2.5 % for 10 min", "half_open, cautious"),
        ("observed 5 % then observed 2.51 % for 10 min", "open, reduce_only"),
        ("observed 5 % then observed 2.5 % for 14 min", "half_open, cautious"),
        ("observed 5 % then observed 2.5 % for 15 min", "closed, normal"),
        ("observed 5 % then observed 0 % for 10 min then observed missing", "open, reduce_only"),
        ("observed missing", "missing, cautious"),
        ("observed missing then observed 0 % for 4 min", "missing, cautious"),
        ("observed missing then observed 0 % for 5 min", "closed, normal"),
    ],
)
def test_a_breaker_comes_out_as_its_machine_says(outcome, seen, result):
    assert outcome(f"#> price_band: {seen} -> {result}") is None


@pytest.mark.parametrize(
    ("minutes", "result"), [("29 min then reset", "half_open, reduce_only"), ("28 min then reset", "open, halted"),
                            ("30 min", "open, halted"), ("600 min", "open, halted")],
)  # fmt: skip
def test_a_halt_waits_for_a_person_once_it_is_cool(outcome, minutes, result):
    assert outcome(f"#> price_halt: observed 20 % then observed 10 % for {minutes} -> {result}") is None


def test_a_reset_lasts_its_own_minute(outcome):
    early = "observed 20 %, reset then observed 10 % for 30 min"
    assert outcome(f"#> price_halt: {early} -> open, halted") is None
    later = "observed 20 % then observed 10 % for 30 min then observed 9 %, reset for 2 min then observed 9 %"
    assert outcome(f"#> price_halt: {later} -> half_open, reduce_only") is None


@pytest.mark.parametrize(
    ("rule", "seen", "result"),
    [
        # 1 / (4 x 5 %) = 5; 1 / (4 x 5.01 %) = 4.99, down to 3
        ("leverage_cap", "tier 20, volatility_1h 5 %, depth_ratio 1, oi_per_depth 0", "5"),
        ("leverage_cap", "tier 20, volatility_1h 5.01 %, depth_ratio 1, oi_per_depth 0", "3 x"),
        # 20 x 40 % / 80 % = 10
        ("leverage_cap", "tier 20, volatility_1h 1 %, depth_ratio 40 %, oi_per_depth 0", "10x"),
        # margin 1/20 + 19/20 x (550 - 100) / 900 = 0.525: 1.9, down to 1
        ("leverage_cap", "tier 20x, volatility_1h 1 %, depth_ratio 1, oi_per_depth 550", "1x"),
        ("leverage_cap", "tier 20, volatility_1h 1 %, depth_ratio 1, oi_per_depth missing", "2x"),
        ("leverage_cap", "tier missing, volatility_1h 1 %, depth_ratio 1, oi_per_depth 0", "5x"),
        # down at once; back after 30 minutes that allow more, the tight one still among the last 30
        ("leverage_cap", "tier 20, volatility_1h 5 %, depth_ratio 1, oi_per_depth 0 then volatility_1h 1 % for 30 min",
         "5x"),
        ("leverage_cap", "tier 20, volatility_1h 5 %, depth_ratio 1, oi_per_depth 0 then volatility_1h 1 % for 31 min",
         "20x"),
        # half of 10 M, a tenth of 30 M, the ceiling of 25 M; nothing less than the floor
        ("exposure_cap", "depth_usd 10_000_000, oi_usd 1_000_000_000", "5_000_000 USD"),
        ("exposure_cap", "depth_usd 10_000_000 USD, oi_usd 30_000_000", "2_000_000"),
        ("exposure_cap", "depth_usd 1_000_000_000, oi_usd 1_000_000_000_000", "25_000_000"),
        ("exposure_cap", "depth_usd missing, oi_usd 1_000_000_000", "10_000"),
        ("exposure_cap", "depth_usd 10_000_000, oi_usd 30_000_000 USD", "2_000_000"),
        ("account_ceiling", "notional_usd 100_000_000", "inside"),
        ("account_ceiling", "notional_usd 100_000_000 USD", "inside"),
        ("account_ceiling", "notional_usd 100_000_001", "reduce"),
        ("account_ceiling", "notional_usd missing", "reduce"),
    ],
)  # fmt: skip
def test_a_cap_comes_out_as_the_hand_arithmetic_says(outcome, rule, seen, result):
    assert outcome(f"#> {rule}: {seen} -> {result}") is None
    assert outcome(f"#> {rule}: {seen} -> {'inside' if result == 'reduce' else 'reduce' if result == 'inside' else 7}")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("#> price_band observed 5 % -> open, reduce_only",
         f"`price_band observed 5 % -> open, reduce_only` is not an example{FORM}"),
        ("#> price_band: observed 5 %", f"`price_band: observed 5 %` is not an example{FORM}"),
        ("#>", f"`` is not an example{FORM}"),
        ("#> moon: observed 5 % -> open, halted", f"`moon` is not a rule; rules: {', '.join(KINDS)}"),
        ("#> price_band: move 5 % -> open, halted", "`move 5 %` is not an input with its value; inputs: observed"),
        ("#> price_band: observed -> open, halted", "`observed` is not an input with its value; inputs: observed"),
        ("#> price_band: observed five -> open, halted", "`five` is not a number"),
        ("#> price_band: observed nan -> open, halted", "`nan` is not a number"),
        ("#> price_band: observed 1e999 -> open, halted", "`1e999` is too large"),
        ("#> price_band: observed 5 s -> open, halted", "`5 s` must be in % or a share"),
        ("#> stale_feed: observed 5 % -> open, halted", "`5 %` must be in s"),
        ("#> price_band: observed 5 %, observed 6 % -> open, halted",
         "`observed 5 %, observed 6 %` names an input twice"),
        ("#> price_band: reset -> open, halted", "`reset` lacks observed"),
        ("#> price_band: observed 5 % for 0 min -> open, halted",
         "`observed 5 % for 0 min` must last from 1 to 10080 min"),
        ("#> price_band: observed 5 % for 10081 min -> open, halted",
         "`observed 5 % for 10081 min` must last from 1 to 10080 min"),
        ("#> price_band: observed 5 % then  then reset -> open, halted", f"nothing is seen between two `then`{FORM}"),
        ("#> price_band: observed 5 % -> shut, halted", f"`shut, halted` {STATES}"),
        ("#> price_band: observed 5 % -> open, paused", f"`open, paused` {STATES}"),
        ("#> price_band: observed 5 % -> open", f"`open` {STATES}"),
        ("#> leverage_cap: tier 20, volatility_1h 5 % -> 5 x",
         "`tier 20, volatility_1h 5 %` lacks depth_ratio, oi_per_depth"),
        ("#> leverage_cap: tiers 20 -> 5 x",
         "`tiers 20` is not an input with its value; inputs: tier, volatility_1h, depth_ratio, oi_per_depth"),
        ("#> leverage_cap: tier 20, volatility_1h 5 %, depth_ratio 1, oi_per_depth 1 then tier 10 -> 5 x",
         "leverage_cap: `tier` must not change within an example"),
        ("#> leverage_cap: tier 20, volatility_1h 5 %, depth_ratio 1, oi_per_depth 1 -> 5 USD", "`5 USD` must be in x"),
        ("#> account_ceiling: notional_usd 1 -> fine", "`fine` must be reduce or inside"),
    ],
)  # fmt: skip
def test_an_example_that_cannot_be_read_is_a_violation_with_its_line(outcome, line, said):
    assert outcome(line) == f"line 2: {said}"


def test_an_example_may_last_a_week(outcome):
    assert outcome("#> price_band: observed 5 % for 10080 min -> open, reduce_only") is None


def test_a_mark_with_spaces_is_an_example_too_and_other_comments_are_not():
    text = "# > price_band: observed 5 % -> open, halted\n# why -> because\nenter = 1 #> no\n  #>price_band: x -> y"
    read, violations = read_examples(text)
    assert [example.line for example in read] == [1]
    assert len(violations) == 1
    assert violations[0].startswith("line 4: ")


def test_violations_are_in_the_order_of_lines(policy):
    text = "#> price_band: observed 5 % -> closed, normal\n#> what\n#> price_band: observed 1 % -> open, halted"
    lines = [re.match(r"line (\d)", violation)[1] for violation in check_examples(text, policy).violations]
    assert lines == ["1", "2", "3"]


@pytest.mark.parametrize(("text", "share"), [("0.35 %", 0.0035), ("7%", 0.07), ("2.5 %", 0.025), ("1.1 %", 0.011)])
def test_percent_is_the_share_to_the_last_bit(text, share):
    assert amount(text, "share") == share
    with pytest.raises(ExampleError):
        amount(text, "x")
