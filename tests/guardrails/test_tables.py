"""The columns of every table that leaves the guardrails, typed by hand: whoever reads them relies on these names."""

import pytest

from guardrails import accounts, decide, exposures, holdings, proposal, throttle
from guardrails.decide import decide as decided
from guardrails.facts import market_facts

TABLES = (
    (accounts.SCHEMA,
     "venue account symbol ts snapshot_ts rule verdict leverage leverage_cap notional_usd exposure_cap_usd "
     "excess_usd action reason policy_version policy_sha256"
    ),
    (accounts.VALUES, "owner account ts asset worth_usd counted_usd"),
    (exposures.SCHEMA,
     "venue scope entity ts rule verdict observed limit unit largest_account accounts_effective excess_usd "
     "action reason clears_when policy_version policy_sha256"
    ),
    (throttle.SCHEMA,
     "venue symbol ts capacity_usd used_usd left_usd verdict fault reason clears_when policy_version "
     "policy_sha256"
    ),
    (decide.LIMITS,
     "venue symbol ts action leverage_cap exposure_cap_usd binding reason reasons missing expires_at "
     "policy_version policy_sha256 throttle_usd_min throttle_reason blocked blocked_why"
    ),
    (decide.DECISIONS,
     "decision_id venue scope entity ts rule state_before state_after action limit_before limit_after "
     "limit_unit observed threshold unit reason clears_when reset_authority expires_at data_health "
     "policy_version policy_sha256"
    ),
    (decide.STATE, "venue symbol rule ts state severity limit clean_min probation_min latched present_min first_ts"),
    (proposal.SCHEMA, "venue symbol ts leverage_cap_wish exposure_cap_usd_wish proposed_at valid_until"),
    (proposal.JUDGED,
     "proposal_id venue symbol ts leverage_cap_wish exposure_cap_usd_wish proposed_at valid_until refused"),
    (proposal.EFFECTIVE, "leverage_cap_hard leverage_cap_effective exposure_cap_usd_effective proposal"),
    (holdings.FORCED, "symbol ts snapshot_ts forced_fall_usd forced_rise_usd forced_fault"),
    (holdings.LOOP, "symbol ts loop_gain loop_fault"),
    (holdings.PEGS, "ts asset depeg depeg_fault"),
    (holdings.FUND, "ts fund_usd fund_drawdown fund_fault"),
)  # fmt: skip
FACTS = (
    "venue symbol ts present listed silent_min price reference_fast reference_slow move_fast move_slow mark "
    "mark_source index divergence depth_usd depth_bid_usd depth_ask_usd depth_normal_usd depth_ratio volatility_1h "
    "oi_usd feed_age_s trade_age_s mark_age_s index_age_s depth_age_s depth_unchanged_s oi_age_s crossed frozen "
    "move_horizon move_sigmas liq_window_usd liq_per_depth oi_drop book_fault_share price_fault band_fault mark_fault "
    "index_fault depth_fault oi_fault feed_fault liq_fault book_fault"
)


@pytest.mark.parametrize(("shape", "columns"), TABLES)
def test_a_table_has_these_columns_in_this_order(shape, columns):
    assert list(shape) == columns.split()


def test_facts_have_these_columns_in_this_order(policy, calm_bars):
    assert market_facts(calm_bars(1), policy).columns == FACTS.split()


def test_what_is_decided_is_in_these_tables_with_and_without_bars(policy, calm_bars):
    full = decided(calm_bars(1), policy)
    for found in (full, decided(calm_bars(1).clear(), policy)):
        assert dict(found.limits.schema) == decide.LIMITS
        assert dict(found.decisions.schema) == decide.DECISIONS
        assert dict(found.account_decisions.schema) == accounts.SCHEMA
        assert dict(found.exposure_decisions.schema) == exposures.SCHEMA
        assert dict(found.state.schema) == decide.STATE
