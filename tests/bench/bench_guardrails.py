"""Accounts against their caps: ours beside a bare read of the same columns, numpy and a Python loop.

`python -m tests.bench.bench_guardrails [--accounts N] [--full]` generates accounts of a venue with 19 clusters, so that
every account has 20 caps, compares the breaches and excesses that all programs find, and times them in alternating
rounds of one process. Ours makes the sentences of the accounts that breach, too; numpy and the loop do not. A second
line is `over_caps` whole, from positions and collateral to sentences. `--full` has five times the accounts. What
counts are ratios: absolute times belong to the machine.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib import resources

import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table

from guardrails.accounts import account_caps, breaches, over_caps
from guardrails.policy import Policy, parse_policy

ACCOUNTS = 1_000_000
SLICE = 20_000  # accounts of the Python loop: it would take a minute for all
AT = datetime(2026, 1, 5, 0, 1, tzinfo=UTC)
SYMBOLS = tuple(f"SYM{place:02d}" for place in range(38))
READ, OURS, NUMPY, LOOP = (
    "bare read of the columns",
    "ours, with sentences",
    "numpy",
    f"Python loop, {SLICE:,} accounts",
)
BREACH_SHARE = 0.001


def policy_of_twenty_rules() -> Policy:
    """The shipped policy with 19 clusters of two symbols: a ceiling and 19 caps for every account."""
    shipped = parse_policy(resources.files("guardrails").joinpath("policy.toml").read_text(encoding="utf-8"))
    return replace(shipped, clusters={f"pair{i:02d}": SYMBOLS[2 * i : 2 * i + 2] for i in range(19)})


def generated(accounts: int, policy: Policy) -> pl.DataFrame:
    """What `over_caps` judges of whole accounts: observed and allowed dollars of every cap, a few breaches and gaps."""
    dice = np.random.default_rng(1)
    columns: dict[str, np.ndarray] = {}
    for cap in account_caps(policy):
        limit = np.full(accounts, 50e6)
        over = dice.random(accounts) < BREACH_SHARE / 20
        columns[cap.observed] = np.where(over, 60e6, np.minimum(dice.lognormal(9, 2, accounts), 50e6))
        columns[cap.limit] = limit
        columns[cap.observed][dice.random(accounts) < BREACH_SHARE / 200] = np.nan
    names = pl.select(account=pl.format("account{}", pl.int_range(accounts))).to_series()
    return pl.DataFrame(columns).fill_nan(None).with_columns(
        account=names, ts=pl.lit(AT), snapshot_ts=pl.lit(AT - timedelta(minutes=1))
    )  # fmt: skip


class Programs:
    """The programs over one table; each returns `account number, rule number, excess` of every breach, or a read."""

    def __init__(self, table: pl.DataFrame, policy: Policy) -> None:
        self.table, self.caps = table, account_caps(policy)
        self.pairs = [(cap.observed, cap.limit) for cap in self.caps]
        self.arrays = [tuple(table[name].fill_null(np.nan).to_numpy() for name in pair) for pair in self.pairs]
        self.head = [tuple(table[name].head(SLICE).to_list() for name in pair) for pair in self.pairs]

    def read(self) -> object:
        return self.table.select(pl.col(name).max() for pair in self.pairs for name in pair)

    def ours(self) -> pl.DataFrame:
        return breaches(self.table, self.caps)

    def in_numpy(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        kept = [(seen >= 0) & (seen <= limit) & np.isfinite(limit) for seen, limit in self.arrays]
        rows = np.flatnonzero(~np.logical_and.reduce(kept))
        found = [(rows[~own[rows]], place) for place, own in enumerate(kept)]
        return (
            np.concatenate([own for own, _ in found]),
            np.concatenate([np.full(own.size, place) for own, place in found]),
            np.concatenate([self.arrays[place][0][own] - self.arrays[place][1][own] for own, place in found]),
        )

    def in_python(self) -> list[tuple[int, int]]:
        found = []
        for row in range(min(SLICE, self.table.height)):
            for place, (seen, limit) in enumerate(self.head):
                if not (seen[row] is not None and 0 <= seen[row] <= limit[row]):
                    found.append((row, place))
        return found


def agree(programs: Programs) -> int:
    """Raise AssertionError unless all programs find the same breaches, dollar for dollar; returns how many."""
    ours = programs.ours()
    rules = {cap.subject: place for place, cap in enumerate(programs.caps)}
    account = ours["account"].str.strip_prefix("account").cast(pl.Int64)
    mine = pl.DataFrame({"row": account, "rule": ours["symbol"].replace_strict(rules), "usd": ours["excess_usd"]})
    rows, places, excess = programs.in_numpy()
    other = pl.DataFrame({"row": rows, "rule": places, "usd": np.ceil(excess)}).fill_nan(None)
    order = {"row": pl.Int64, "rule": pl.Int64, "usd": pl.Int64}
    assert mine.cast(order).sort("row", "rule").equals(other.cast(order).sort("row", "rule")), "numpy found others"
    head = mine.filter(pl.col("row") < SLICE).select("row", "rule").sort("row", "rule").rows()
    assert head == sorted(programs.in_python()), "the loop found others"
    assert ours["reason"].null_count() == 0
    return mine.height


def timed(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, tuple[float, float]]:
    """Median CPU and wall seconds of each program over alternating rounds."""
    seen: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            cpu, wall = time.process_time(), time.perf_counter()
            run()
            seen[name].append((time.process_time() - cpu, time.perf_counter() - wall))
    return {
        name: (statistics.median(cpu for cpu, _ in some), statistics.median(wall for _, wall in some))
        for name, some in seen.items()
    }


def show(found: dict[str, tuple[float, float]], accounts: int, rules: int) -> Table:
    """A row per program; ratios are of CPU seconds per account, because others may be at work on the machine."""
    table = Table("program", "CPU s", "wall s", "M account-rules / CPU s", "read CPU / CPU", "CPU / ours")
    per_account = {name: (SLICE if name == LOOP else accounts) for name in found}
    mine, base = (found[name][0] / accounts for name in (OURS, READ))
    for name, (cpu, wall) in found.items():
        each = cpu / per_account[name]
        table.add_row(
            name, f"{cpu:.3f}", f"{wall:.3f}", f"{rules / each / 1e6:.1f}", f"{base / each:.2f}", f"{each / mine:.1f}"
        )
    return table


def holdings(accounts: int) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """One position and one deposit per account, and the limits of their minute."""
    dice = np.random.default_rng(2)
    known = AT - timedelta(seconds=30)
    base = pl.select(account=pl.format("account{}", pl.int_range(accounts))).with_columns(
        venue=pl.lit("bench"), ts=pl.lit(known), known_at=pl.lit(known)
    )
    positions = base.with_columns(
        symbol=pl.Series(dice.choice(SYMBOLS, accounts)), qty=pl.Series(dice.normal(0, 100, accounts)),
        entry_price=100.0, margin_mode=pl.lit("cross"), isolated_margin=pl.lit(None, pl.Float64),
    )  # fmt: skip
    deposits = base.with_columns(asset=pl.lit("USDT"), amount=positions["qty"].abs() * 15)
    limits = pl.DataFrame({"venue": "bench", "symbol": SYMBOLS, "ts": [AT] * len(SYMBOLS), "price": 100.0,
                           "leverage_cap": 25.0, "exposure_cap_usd": 20_000_000})  # fmt: skip
    return positions, deposits, limits.cast({"ts": pl.Datetime("us", "UTC")})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--accounts", type=int, default=ACCOUNTS)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--full", action="store_true", help="five times the accounts")
    given = parser.parse_args()
    accounts = given.accounts * (5 if given.full else 1)
    policy = policy_of_twenty_rules()
    programs = Programs(generated(accounts, policy), policy)
    rules, count = len(programs.caps), agree(programs)
    print(f"{accounts:,} accounts x {rules} rules, {count:,} breaches, each with its sentence; all programs agree")
    runs = {READ: programs.read, OURS: programs.ours, NUMPY: programs.in_numpy, LOOP: programs.in_python}
    Console(width=120).print(show(timed(runs, given.rounds), accounts, rules))
    positions, deposits, limits = holdings(accounts)
    minutes = limits["ts"].unique()
    whole = timed({"over_caps": lambda: over_caps(positions, deposits, limits, minutes, policy, since=None)}, 3)
    over = over_caps(positions, deposits, limits, minutes, policy, since=None).height
    cpu, wall = whole["over_caps"]
    print(f"over_caps, from {accounts:,} positions and deposits to {over:,} rows: {cpu:.2f} CPU s, {wall:.2f} s")


if __name__ == "__main__":
    main()
