"""Market, gradual, auction: the same accounts, books and shocks, closed by three paths. Prints a markdown table.

`python -m tests.bench.paths_table [--accounts N] [--shocks N] [--seed N]`. Everything is generated from the seed; only
the path differs: fees, fund, ADL rule and latencies are the same. Money is per shock, on average; the drop is the
worst of any symbol in any shock, the shock itself taken off.
"""

import argparse
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np

from features.mechanics.profile import Fees, Latency, MarkRule, Path, Profile
from models.cascade.engine import Prepared, prepare, round_s, rules_of, run_one
from models.cascade.settle import settle
from models.cascade.world import Floats
from pipelines.profiles import load_profile
from tests.bench.worlds import accounts, market_shocks

LENDERS = {"market": "binance-usdm", "gradual": "dydx", "auction": "derive"}  # profiles that lend their path
SYMBOLS = 8
FUND_SHARE = 0.0005  # of open interest
FEES, LATENCY = Fees(taker=0.0005, liquidation=0.005), Latency(book_s=0.1, mark_s=1.0, liquidation_s=0.5)


@dataclass(frozen=True)
class Row:
    """One path over all shocks."""

    path: str
    liquidated_usd: float
    worst_drop: float
    bad_debt_usd: float
    adl_usd: float
    uncovered_usd: float
    duration_s: float  # median
    duration_s_max: float


def world_and_shocks(count: int, shocks: int, seed: int) -> tuple[Prepared, Floats]:
    """Levered cross accounts of three positions each, and falls of all symbols together: 2 to 20 %."""
    world = accounts(count, seed, symbols=SYMBOLS, depth_share=4.0, leverage=12.0, longs=0.75)
    moves = market_shocks(shocks, SYMBOLS, seed + 1, sigma=0.03, correlation=0.8)
    return prepare(world), np.abs(moves).clip(0.0, 0.5)


def row(prepared: Prepared, shocks: Floats, profile: Profile, name: str) -> Row:
    """Every shock by the path of `profile`, settled one by one."""
    rules, length_s = rules_of(profile), round_s(profile.path, profile.latency)
    outcomes = [run_one(prepared, shock, rules) for shock in shocks]
    money = [settle(prepared, outcome, profile.fund_usd, profile.adl) for outcome in outcomes]
    own = max(float((found.all.drop[0] - shock).max()) for found, shock in zip(outcomes, shocks, strict=True))
    durations = np.array([int(found.all.rounds[0]) * length_s for found in outcomes])
    return Row(
        name,
        float(np.mean([found.all.liquidated_usd.sum() for found in outcomes])),
        own,
        float(np.mean([paid.bad_debt_micro for paid in money])) / 1e6,
        float(np.mean([paid.adl_micro for paid in money])) / 1e6,
        float(np.mean([paid.uncovered_micro for paid in money])) / 1e6,
        float(np.median(durations)),
        float(durations.max()),
    )


def venue(path: Path, open_interest_usd: float) -> Profile:
    """The venue that all rows share, but for its path."""
    start = datetime(2025, 1, 1, tzinfo=UTC)
    fund = FUND_SHARE * open_interest_usd
    return Profile("bench", start, MarkRule("index"), path, FEES, {}, latency=LATENCY, fund_usd=fund)


def rows(count: int, shocks: int, seed: int) -> list[Row]:
    prepared, moves = world_and_shocks(count, shocks, seed)
    interest = float(np.abs(prepared.world.leg_qty * prepared.world.price_usd[prepared.world.leg_symbol]).sum())
    found = []
    for name, lender in LENDERS.items():
        lent = load_profile(lender)
        found.append(row(prepared, moves, replace(venue(lent.path, interest), buffer=lent.buffer), name))
    return found


def table(found: list[Row]) -> str:
    """Markdown; money in millions."""
    lines = [
        "| path | liquidated M USD | worst drop beyond the shock | bad debt M USD | ADL M USD | uncovered M USD "
        "| duration s, median (longest) |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for item in found:
        money = [item.liquidated_usd, item.bad_debt_usd, item.adl_usd, item.uncovered_usd]
        liquidated, debt, adl, uncovered = (f"{usd / 1e6:,.2f}" for usd in money)
        span = f"{item.duration_s:,.0f} ({item.duration_s_max:,.0f})"
        lines.append(f"| {item.path} | {liquidated} | {item.worst_drop:.2%} | {debt} | {adl} | {uncovered} | {span} |")
    return "\n".join(lines)


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--accounts", type=int, default=10_000)
    asked.add_argument("--shocks", type=int, default=200)
    asked.add_argument("--seed", type=int, default=7)
    given = asked.parse_args()
    print(table(rows(given.accounts, given.shocks, given.seed)))


if __name__ == "__main__":
    main()
