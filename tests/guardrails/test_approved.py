"""What the rules say of three made-up markets, kept as it was read and accepted: a changed outcome shows, meant or not.

`approved.txt` holds the decisions of the first market, a line each, and for every market a digest of each table that
`decide` returns. Where a change is meant: `python -m tests.guardrails.test_approved` writes the file anew, and its
difference is what there is to review.
"""

import hashlib
import random
from datetime import timedelta
from functools import cache
from pathlib import Path

import polars as pl
import pytest

from guardrails import breakers
from guardrails.decide import Decided, decide
from guardrails.policy import Policy, parse_policy
from guardrails.proposal import bounded, judged
from tests.guardrails.conftest import SHORT, _edited, _messy_bars
from tests.guardrails.test_decide import random_resets, random_tables

APPROVED = Path(__file__).with_name("approved.txt")
SYMBOLS = ("A", "B", "C")
MARKETS = {"holdings tell": 5, "it is told": 8, "in two runs": 11}
FIRST = next(iter(MARKETS))
MINUTES = 150
CHANGES = SHORT | {
    "inputs__not_published": [], "associated__leads": {"A": ["B"], "C": ["A"]}, "clusters__majors": ["A", "B"],
    "inputs__positions_age_min_max": 40, "inputs__collateral_age_min_max": 60, "fund__window_min": 60,
    "caps__account_ceiling_usd": 6_000_000, "caps__cluster_ceiling_usd": 4_000_000,
    "caps__exposure_ceiling_usd": 3_000_000, "breakers_venue_cap__enter": 30, "breakers_venue_cap__exit": 28,
}  # fmt: skip
ASSETS = {"USDT": (0.998, 0.95), "USDE": (0.97, 0.3), "BTC": (60_000.0, 0.2)}  # price, how often an account has it


def policy() -> Policy:
    text = Path(breakers.__file__).with_name("policy.toml").read_text(encoding="utf-8")
    return parse_policy(_edited(text, **CHANGES))


def tiers() -> pl.DataFrame:
    rows = [(s, top, rate, less) for s, top in zip(SYMBOLS, (50.0, 25.0, 10.0), strict=True)
            for rate, less in ((0.01, 0.0), (0.02, 10_000.0))]  # fmt: skip
    return pl.DataFrame(rows, schema=["symbol", "leverage_max", "maintenance_rate", "deduction_usd"], orient="row")


def accounts(seed: int, bars: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """Positions and collateral of nine accounts at odd seconds: debts, coins, isolated legs, gaps, the unknown."""
    dice, start = random.Random(seed), bars["ts"].min()
    held, funds = [], []
    for moment in sorted(dice.sample(range(60, 60 * MINUTES), 14)):
        key = {"venue": "v", "ts": start + timedelta(seconds=moment)}
        key["known_at"] = key["ts"] + timedelta(seconds=dice.choice((0, 20, 61)))
        for account in (*"qrstuvwx", "insurance_fund"):
            me = key | {"account": account}
            for symbol in ("A", "B", "C", "Z") if account != "insurance_fund" else ():
                if dice.random() < 0.5:
                    qty = dice.choice((0.0, None, float("nan"))) if dice.random() < 0.06 else dice.gauss(0, 2e4)
                    leg = {"symbol": symbol, "qty": qty, "entry_price": dice.choice((100.0, 95.0, None, 103.0))}
                    mode = dice.choice(("cross", "cross", "isolated", None))
                    held.append(me | leg | {"margin_mode": mode, "isolated_margin": dice.uniform(1e4, 4e5)})
            for asset, (price, often) in ASSETS.items():
                if dice.random() < often:
                    worth, known = dice.uniform(-1e5, 2e6), dice.random() > 0.03
                    funds.append(me | {"asset": asset, "amount": worth / price, "price_usd": price if known else None})
    return {"positions": pl.DataFrame(held, infer_schema_length=None), "collateral": pl.DataFrame(funds)}


@cache
def market(name: str) -> Decided:
    seed = MARKETS[name]
    bars = _messy_bars(seed, MINUTES, SYMBOLS)
    more = {"tiers": tiers(), "resets": random_resets(seed, bars), **accounts(seed, bars)}
    if name == "it is told":
        more |= random_tables(seed, bars)
    if name != "in two runs":
        return decide(bars, policy(), **more)
    cut = bars["ts"].min() + timedelta(minutes=70)
    first = decide(bars.filter(pl.col("ts") <= cut), policy(), **more)
    return decide(bars, policy(), state=first.state, since=cut, **more)


def wishes(decided: Decided) -> pl.DataFrame:
    """A wish for every fourth row of limits: tighter and looser ones, for times that overlap, some of them none."""
    dice = random.Random(1)
    rows = decided.limits.gather_every(4)

    def share(choices: tuple[float | None, ...]) -> pl.Series:
        return pl.Series([dice.choice(choices) for _ in range(rows.height)], dtype=pl.Float64)

    return rows.select(
        "venue", "symbol", "ts",
        leverage_cap_wish=share((None, 0.0, 0.4, 0.9, 1.5)) * pl.col("leverage_cap"),
        exposure_cap_usd_wish=share((None, 0.0, 0.4, 0.9)) * pl.col("exposure_cap_usd"),
        proposed_at=pl.col("ts") + pl.duration(seconds=7), valid_until=pl.col("ts") + pl.duration(minutes=9),
    )  # fmt: skip


def told(frame: pl.DataFrame) -> list[str]:
    """Every row as text; numbers to six digits, for the last ones belong to the machine."""

    def text(value: object) -> str:
        return f"{value:.6g}" if isinstance(value, float) else str(value)

    return [" | ".join(frame.columns), *(" | ".join(text(value) for value in row) for row in frame.iter_rows())]


def digest(frame: pl.DataFrame) -> str:
    return hashlib.sha256("\n".join(told(frame)).encode()).hexdigest()[:16]


def tables(decided: Decided) -> dict[str, pl.DataFrame]:
    kinds = ("limits", "decisions", "account_decisions", "exposure_decisions", "state")
    own = {kind: getattr(decided, kind) for kind in kinds}
    asked = wishes(decided)
    return own | {
        "bounded": bounded(decided.limits, asked, policy()),
        "wishes": judged(asked, decided.limits, policy()),
    }


def digests(name: str) -> list[str]:
    return [f"{name} | {kind} | {rows.height} rows | {digest(rows)}" for kind, rows in tables(market(name)).items()]


def changes(name: str) -> list[str]:
    """A line for each decision after the first of its rule and symbol."""
    rows = market(name).decisions.filter(pl.col("state_before").is_not_null())
    return [
        f"{row['ts']:%H:%M} {row['entity']} {row['rule']}: {row['state_before']} -> {row['state_after']}, "
        f"{row['action']}, limit {row['limit_before']} -> {row['limit_after']}: {row['reason']}; {row['clears_when']}"
        for row in rows.iter_rows(named=True)
    ]


def kept() -> list[list[str]]:
    return [part.splitlines() for part in APPROVED.read_text(encoding="utf-8").split("\n\n")]


@pytest.mark.parametrize("name", MARKETS)
def test_the_tables_are_those_that_were_accepted(name):
    changed = set(digests(name)) - set(kept()[0])
    assert not changed, "the rules say something else; see the head of this file"


def test_the_decisions_are_those_that_were_read():
    assert changes(FIRST) == kept()[1]


def test_the_markets_show_every_rule_and_every_table_has_rows():
    found = [market(name) for name in MARKETS]
    rules = pl.concat([one.decisions for one in found]).filter(pl.col("action") != "normal")["rule"].unique()
    assert {card.name for card in breakers.RULES} <= set(rules)
    assert all(frame.height for one in found for frame in tables(one).values())


if __name__ == "__main__":
    told_first = [said for name in MARKETS for said in digests(name)]
    APPROVED.write_text("\n".join([*told_first, "", *changes(FIRST)]) + "\n", encoding="utf-8")
