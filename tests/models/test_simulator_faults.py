"""Collateral that can lose its peg, outages of matching and feed: rare, on dice of their own, and told as they are."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from features.schema import CANONICAL, Instruments
from features.structure import structure
from models.simulator import VenueSettings, instruments, simulate
from models.simulator.legs import open_legs
from models.simulator.margin import BREACHED, FINE, scan
from models.simulator.outages import HALT, LATE, MISSING, Outage, OutageDraws, Outages, withhold
from models.simulator.peg import Peg, PegDraws
from models.simulator.venue import Venue

START = datetime(2025, 1, 1, 6, tzinfo=UTC)
ROUGH = VenueSettings(
    symbols=("AAA-PERP", "BBB-PERP"),
    accounts=120,
    step_s=60,
    volatility_day=0.2,
    leverage_median=25.0,
    outage_rate_day=0.0,
    stablecoin_account_share=0.6,
    depeg_rate_day=0.0,
)
Tables = dict[str, pl.DataFrame]


def day(settings: VenueSettings, hours: int, seed: int = 5) -> Tables:
    runs = list(simulate(settings, seed, START, hours))
    return {table: pl.concat([hour[table] for hour in runs]) for table in runs[0]}


def at(second: float) -> datetime:
    return START + timedelta(seconds=second)


# the stablecoin


def peg_of(losses: dict[int, float], steps: int, depeg_size: float = 0.06) -> list[float]:
    """Prices of a peg without noise that loses `losses` (in mean sizes) at the steps named."""
    peg = Peg(replace(ROUGH, depeg_rate_day=1.0, depeg_size=depeg_size))
    never, none = np.ones(steps), np.zeros(steps)
    draws = PegDraws(never, none.copy(), none)
    for step, size in losses.items():
        draws.at[step], draws.size[step] = 0.0, size
    return [peg.advance(draws, row) for row in range(steps)]


def test_a_lost_peg_falls_within_minutes_and_recovers_within_hours() -> None:
    """10 % owed, half of it fallen after 10 min, recovery with a half-life of 6 h: a quarter left after 12 h."""
    prices = peg_of({0: 1.0}, 721, depeg_size=0.1)
    assert prices[9] == pytest.approx(np.exp(-0.05), rel=5e-3)
    assert 0.90 < min(prices) < 0.93
    assert np.log(prices[720]) == pytest.approx(-0.1 / 4, rel=0.1)


def test_a_peg_never_loses_more_than_half_at_once() -> None:
    assert min(peg_of({0: 50.0}, 200)) >= 0.5


def test_without_losses_the_token_stays_near_a_dollar() -> None:
    marks = day(ROUGH, 6)["marks"].filter(symbol="USDE-USDT")["mark"].to_numpy()
    assert marks.size == 6 * 60
    assert np.abs(marks - 1).max() < 0.003
    assert np.unique(marks).size > 300


def test_the_peg_has_its_own_dice_and_follows_no_script() -> None:
    """Twice the leverage, other cascades: the token's price stays the same to the last digit."""
    loose = replace(ROUGH, depeg_rate_day=30.0)
    one, other = day(loose, 4), day(replace(loose, leverage_median=6.0), 4)
    prices = [run["marks"].filter(symbol="USDE-USDT")["mark"].to_numpy() for run in (one, other)]
    np.testing.assert_array_equal(prices[0], prices[1])
    assert prices[0].min() < 0.97
    assert not one["trades"].equals(other["trades"])


def test_a_lost_peg_sells_an_account_whose_own_market_did_not_move() -> None:
    """10 000 long, maintenance 100. Cash 10 and 100 tokens less 5 %: 105 at a dollar, 99.3 at 94 cents."""
    venue = Venue(replace(ROUGH, accounts=1, isolated_share=0.0), 5)
    ledger, mark = venue.ledger, np.array([100.0, 1.0])
    ledger.qty[:], ledger.cost[:], ledger.cash[:], ledger.tokens[:] = [[100.0, 0.0]], [[10_000.0, 0.0]], 10.0, 100.0
    health = []
    for ledger.token_price in (1.0, 0.94):
        health.append(int(scan(ledger, mark, venue.tiers, 1.0).health[0]))
    assert health == [FINE, BREACHED]
    assert open_legs(ledger, mark, venue.tiers).equity_usd.tolist() == pytest.approx([10 + 94 * 0.95])


def test_only_cross_accounts_hold_tokens_and_they_count_less_their_haircut() -> None:
    venue = Venue(replace(ROUGH, isolated_share=0.5), 5)
    ledger = venue.ledger
    assert not ledger.tokens[ledger.traits.isolated].any()
    assert 0.3 < (ledger.tokens[~ledger.traits.isolated] > 0).mean() < 0.9
    before = scan(ledger, venue.prices.mark, venue.tiers, 2.0).equity_usd
    ledger.token_price = 0.5
    lost = before - scan(ledger, venue.prices.mark, venue.tiers, 2.0).equity_usd
    np.testing.assert_allclose(lost, ledger.tokens * 0.5 * 0.95, rtol=1e-9)


def test_the_tables_value_collateral_as_the_venue_does() -> None:
    """Tokens in `collateral` are worth what the same dollars in cash would be: price from `marks`, its haircut."""
    settings = replace(ROUGH, depeg_rate_day=20.0)
    tables, contracts = day(settings, 3), instruments(settings, START)
    Instruments.validate(contracts)
    token = tables["collateral"].filter(asset="USDE")
    assert token.height > 50
    prices = tables["marks"].filter(symbol="USDE-USDT").select("known_at", "mark").sort("known_at")
    worth = token.sort("known_at").join_asof(prices, on="known_at")
    in_cash = worth.with_columns(amount=pl.col("amount") * pl.col("mark") * 0.95).drop("mark")
    plain = pl.concat([tables["collateral"].filter(asset="USDT"), in_cash.select(tables["collateral"].columns)])
    plain = plain.group_by("venue", "account", "ts", "known_at").agg(pl.col("amount").sum(), asset=pl.lit("USDT"))
    seen = structure(tables["positions"], tables["collateral"], tables["marks"], contracts)
    same = structure(tables["positions"], plain, tables["marks"], contracts)
    assert seen.height == 2 * 3 * 4
    assert_frame_equal(seen.drop("depeg_bps"), same.drop("depeg_bps"), abs_tol=1e-5)
    assert same["depeg_bps"].null_count() == same.height  # nobody holds the token there
    assert seen["depeg_bps"].to_numpy().max() > 100  # 20 lost pegs a day


def test_a_venue_without_the_token_does_not_mention_it() -> None:
    plain = replace(ROUGH, stablecoin_account_share=0.0)
    tables = day(plain, 1)
    assert instruments(plain, START)["symbol"].to_list() == list(plain.symbols)
    assert tables["collateral"]["asset"].unique().to_list() == ["USDT"]
    assert set(tables["marks"]["symbol"]) == set(plain.symbols)


# outages


def outages_of(begin: dict[int, tuple[float, float]], steps: int, variance_ratio: float = 1.0) -> list[Outage | None]:
    """Outages of 4 min that begin at the steps named, with the dice `(kind, late)`."""
    dice = OutageDraws(np.full(steps, 0.005), np.zeros(steps), np.zeros(steps), np.zeros(steps))
    for step, (kind, late) in begin.items():
        dice.at[step], dice.kind[step], dice.late[step] = 0.0, kind, late
    process = Outages(replace(ROUGH, outage_rate_day=1.0))  # 1 / 1440 per step
    return [process.advance(dice, row, 60 * row, np.array([variance_ratio])) for row in range(steps)]


def test_an_outage_lasts_for_its_length_and_its_kind_is_drawn() -> None:
    seen = outages_of({1: (0.1, 0.0), 6: (0.9, 0.1), 12: (0.9, 0.9)}, 17)
    kinds = [None if outage is None else outage.kind for outage in seen]
    assert kinds == [None, *[HALT] * 4, None, *[LATE] * 4, None, None, *[MISSING] * 4, None]
    assert seen[6] == Outage(LATE, 360, 600)


def test_outages_are_more_likely_when_it_is_rough() -> None:
    """0.005 is above the rate of 1 / 1440 per step and below eight times of it."""
    assert all(outage is None for outage in outages_of({}, 5, 1.0))
    assert outages_of({}, 5, 50.0)[0] is not None


def frame(seconds: list[float], name: str = "trades") -> Tables:
    ts = [at(second) for second in seconds]
    return {name: pl.DataFrame({"ts": ts, "known_at": [t + timedelta(milliseconds=20) for t in ts]})}


def told(kind: str, name: str = "trades") -> list[tuple[float, float]]:
    rows = withhold(frame([60.0, 61.0, 120.0, 120.5], name), [Outage(kind, 60, 120)], round(START.timestamp() * 1e6))[
        name
    ]
    return [((ts - START).total_seconds(), (known - START).total_seconds()) for ts, known in rows.rows()]


def test_rows_of_an_outage_of_the_feed_are_late_or_missing() -> None:
    """The outage is (60 s, 120 s]: rows at 61 s and 120 s are in it, those at 60 s and 120.5 s are not."""
    assert told(LATE) == [(60.0, 60.02), (61.0, 120.02), (120.0, 120.02), (120.5, 120.52)]
    assert told(MISSING) == [(60.0, 60.02), (120.5, 120.52)]
    assert told(HALT) == [(60.0, 60.02), (61.0, 61.02), (120.0, 120.02), (120.5, 120.52)]


def test_funding_is_never_lost_and_the_venues_own_tables_are_never_late() -> None:
    assert told(MISSING, "funding") == told(LATE)
    assert told(MISSING, "positions") == told(HALT)


FAULTY = replace(ROUGH, outage_rate_day=40.0)


def test_nothing_is_matched_while_the_matching_stands_still() -> None:
    venue = Venue(replace(FAULTY, halt_share=1.0, outage_rate_day=120.0), 5)
    halted = 0
    for hour in range(4):
        record = venue.run_hour(START + timedelta(hours=hour))
        tables, rows = venue.emitter.tables(record), np.flatnonzero(record.halted)
        halted += rows.size
        assert not record.taken[rows].any()
        np.testing.assert_array_equal(record.perp[rows], record.perp_before[rows])
        np.testing.assert_array_equal(record.depth_after[rows], record.depth_before[rows])
        assert not set(rows) & {row for row, _ in record.forced}
        assert (np.abs(np.diff(record.index[rows], axis=0)) > 0).any() or rows.size < 2
        step = ((pl.col("ts") - START).dt.total_microseconds() - 1) // 60_000_000 - 60 * hour
        for table in ("trades", "book_events", "liquidations"):
            assert not set(tables[table].select(step)["ts"]) & set(rows.tolist()), table
    assert 10 < halted < 150


def test_faulty_tables_obey_their_schemas_and_show_what_is_missing_as_gaps() -> None:
    tables = day(replace(FAULTY, halt_share=0.0), 4)
    for name, rows in tables.items():
        CANONICAL[name].validate(rows)
        assert (rows["known_at"] >= rows["ts"]).all()
    lost = tables["trades"].sort("symbol", "ts").filter(symbol="AAA-PERP")["trade_id"].cast(pl.Int64).sort().diff()
    assert (lost.drop_nulls() > 1).sum() >= 1
    late = (tables["trades"]["known_at"] - tables["trades"]["ts"]).dt.total_seconds()
    assert (late > 30).sum() > 20
    whole = day(ROUGH, 4)
    assert tables["trades"].height < whole["trades"].height
    for name in ("positions", "collateral", "funding"):
        assert tables[name].height == whole[name].height > 0
    keys = ["symbol", "ts", "trade_id", "price", "qty"]
    assert tables["trades"].join(whole["trades"], on=keys, how="anti").is_empty()
    assert_frame_equal(tables["positions"], whole["positions"])  # what happens stays the same


def test_a_shorter_run_is_the_beginning_of_a_longer_one_across_outages() -> None:
    short, whole = list(simulate(FAULTY, 5, START, 1)), list(simulate(FAULTY, 5, START, 3))
    for mine, theirs in zip(short, whole, strict=False):
        for table, rows in mine.items():
            assert_frame_equal(rows, theirs[table])
