"""What positions and collateral tell beside fuel: each column by hand, a slow oracle, and what must not matter."""

import math
from typing import Any

import numpy as np
import polars as pl
import pytest

from features.leverage import peg_sensitivity
from features.schema import Structure, polars_schema
from features.structure import BANDS_BPS, LEVERAGE_MAX, LEVERS, PEG_OVER_ROOM_MAX, QUANTILES
from tests.features.test_structure import built, cash, instrument, mark, position

FACTS = polars_schema(Structure).names()[4:]
TOLD_LATER = FACTS[FACTS.index("rho") :]
AT_100, PLAIN = [mark("A", 100.0)], [instrument("A")]
TENTH = instrument("B", 0.1)


def one(positions: list[Any], collateral: list[Any], *more: Any, marks: Any = (), symbol: str = "A") -> dict[str, Any]:
    """The only snapshot of a symbol; A is at 100 with a maintenance of 1 %."""
    rows = built(positions, collateral, [*AT_100, *marks], [*PLAIN, *more])
    Structure.validate(rows)
    return rows.filter(pl.col("symbol") == symbol).row(0, named=True)


# --- margin ---


@pytest.mark.parametrize(
    ("margin", "overdue", "used"),
    [
        (20.0, 0, 0.5),  # 1 000 at 1 % need 10
        (10.0, 0, 1.0),  # equal is safe
        (9.99, 1_000, 1.0),
        (0.0, 1_000, 1.0),
    ],
)
def test_an_isolated_position_is_overdue_below_its_own_maintenance(margin: float, overdue: int, used: float) -> None:
    out = one([position("a", "A", 10.0, 100.0, margin)], [cash("a", 1e6)])
    assert (out["overdue_usd"], out["margin_used"]) == (overdue, pytest.approx(used))


def test_margin_used_is_the_accounts_whatever_leg_is_asked_for() -> None:
    """A needs 10 and B, 100 at 10 %, another 10: 20 of 40."""
    legs = [position("a", "A", 10.0, 100.0), position("a", "B", -100.0, 1.0)]
    around = ([cash("a", 40.0)], TENTH)
    for symbol in "AB":
        out = one(legs, *around, marks=[mark("B", 1.0)], symbol=symbol)
        assert out["margin_used"] == pytest.approx(0.5)
        assert out["leverage_p50"] == pytest.approx(1_100 / 40)
    assert one(legs, [cash("a", 19.0)], TENTH, marks=[mark("B", 1.0)])["overdue_usd"] == 1_000


def test_a_lost_equity_counts_as_all_of_it_used() -> None:
    """1 000 long and short from 130 with 200 of cash: equity -100. Beside it 1 000 with half of its margin used."""
    sunk, calm = position("a", "A", 10.0, 130.0), position("b", "A", 10.0, 100.0)
    out = one([sunk, calm], [cash("a", 200.0), cash("b", 20.0)])
    assert out["margin_used"] == pytest.approx(0.75)
    assert out["overdue_usd"] == 1_000
    assert (out["leverage_p50"], out["leverage_p75"]) == (50.0, LEVERAGE_MAX)


# --- the distribution of leverage ---


def test_quantiles_reach_their_share_of_notional() -> None:
    """Levers 1 to 10 hold a tenth of the notional each: the k-th tenth is reached by the k-th."""
    held = [position(f"a{k:02}", "A", 10.0, 100.0, 1_000.0 / k) for k in range(1, 11)]
    out = one(held, [])
    assert [out[f"leverage_p{q}"] for q in QUANTILES] == [pytest.approx(k) for k in (1, 3, 5, 8, 9, 10)]


@pytest.mark.parametrize(("lever", "shares"), [(10, (0, 0, 0)), (11, (1, 0, 0)), (21, (1, 1, 0)), (60, (1, 1, 1))])
def test_leverage_above_a_limit_is_more_than_it(lever: float, shares: tuple[int, ...]) -> None:
    out = one([position("a", "A", 10.0, 100.0, 1_000.0 / lever), position("b", "A", 30.0, 100.0, 3_000.0)], [])
    assert [out[f"over_{x}x_share"] for x in LEVERS] == [pytest.approx(share / 4) for share in shares]


# --- whose ---


@pytest.mark.parametrize(("accounts", "effective"), [(1, 1.0), (4, 4.0), (25, 25.0)])
def test_equal_accounts_are_as_many_as_they_are(accounts: int, effective: float) -> None:
    held = [position(f"a{k}", "A", 10.0 * (-1) ** k, 100.0, 100.0) for k in range(accounts)]
    out = one(held, [])
    assert out["accounts_effective"] == pytest.approx(effective)
    assert out["largest_share"] == pytest.approx(1 / accounts)


def test_only_the_ten_largest_accounts_take_a_side() -> None:
    """Ten of 1 000, seven of them long; the hundred short ones of 900 are not asked."""
    large = [position(f"l{k}", "A", 10.0 if k < 7 else -10.0, 100.0, 100.0) for k in range(10)]
    small = [position(f"s{k}", "A", -9.0, 100.0, 100.0) for k in range(100)]
    assert one([*small, *large], [])["top10_long_share"] == pytest.approx(0.7)
    assert one(large[:7], [])["top10_long_share"] == 1.0
    assert one(small, [])["top10_long_share"] == 0.0


def test_an_account_of_two_symbols_counts_by_the_notional_in_each() -> None:
    legs = [position("a", "A", 10.0, 100.0), position("a", "B", 9_000.0, 1.0), position("b", "A", 30.0, 100.0)]
    out = one(legs, [cash("a", 1e4), cash("b", 1e4)], TENTH, marks=[mark("B", 1.0)])
    assert out["largest_share"] == pytest.approx(0.75)
    assert out["accounts_effective"] == pytest.approx(1 / (0.25**2 + 0.75**2))


# --- what accounts rely on ---

TEN = [position("a", "A", 10.0, 100.0)]
COIN = instrument("COIN-USDT", None, "COIN", haircut=0.5)
USDE = instrument("USDE-USDT", None, "USDE", haircut=0.1)
USDC = instrument("USDC-USDT", None, "USDC")


@pytest.mark.parametrize(
    ("collateral", "other", "over_room"),
    [
        ([cash("a", 100.0, "USD")], 0.0, 0.0),  # dollars have no peg
        ([cash("a", 60.0, "USD"), cash("a", 50.0)], 0.0, 50 / 100),  # room: 110 - 10
        ([cash("a", 10.0, "COIN"), cash("a", 60.0, "USD")], 40 / 100, 0.0),  # 10 at 8, half of it cut, beside 60
        ([cash("a", 100.0, "USDE"), cash("a", 10.0)], 0.0, 99.1 / 89.1),  # 100 at .99 less a tenth, and 10
        ([cash("a", 110.0), cash("a", -5.0, "COIN")], 0.0, 110 / 60),  # a debt is owed in full, and is no deposit
        (
            [cash("a", 10.0, "COIN"), cash("a", 60.0, "USD"), cash("a", -20.0)],
            40 / 100,
            0.0,
        ),  # so it is with stablecoins
        ([cash("a", 50.0, "NOBODY-KNOWS"), cash("a", 50.0)], 0.0, 50 / 40),  # without a price it is worth nothing
        ([cash("a", 10.0)], 0.0, PEG_OVER_ROOM_MAX),  # no room at all
        ([cash("a", 5.0, "USD")], 0.0, 0.0),  # no room, and nothing that could lose a peg
        ([], None, 0.0),
    ],
)
def test_deposits_are_dollars_stablecoins_or_coins(
    collateral: list[Any], other: float | None, over_room: float
) -> None:
    out = one(TEN, collateral, COIN, USDE, marks=[mark("COIN-USDT", 8.0), mark("USDE-USDT", 0.99)])
    assert out["collateral_other_share"] == (None if other is None else pytest.approx(other))
    assert out["stable_over_room"] == pytest.approx(over_room)


def test_room_is_summed_over_accounts_and_none_lends_to_another() -> None:
    """50 USDT over rooms of 40 and 0: the account that lacks 8 takes nothing from the other."""
    held = [*TEN, position("b", "A", -10.0, 100.0)]
    out = one(held, [cash("a", 50.0), cash("b", 2.0, "USD")])
    assert out["stable_over_room"] == pytest.approx(50 / 40)
    assert out["overdue_usd"] == 1_000


def test_what_others_hold_does_not_count() -> None:
    legs = [*TEN, position("b", "B", 1_000.0, 1.0), position("c", "A", 10.0, 100.0, 100.0)]
    money = [cash("a", 110.0, "USD"), cash("b", 1e6, "COIN"), cash("c", 1e6, "USDE")]
    out = one(legs, money, TENTH, COIN, USDE, marks=[mark("B", 1.0), mark("COIN-USDT", 8.0), mark("USDE-USDT", 0.9)])
    assert (out["collateral_other_share"], out["stable_over_room"], out["depeg_bps"]) == (0.0, 0.0, None)


@pytest.mark.parametrize(
    ("usde", "usdc", "depeg"),
    [
        (0.97, 0.999, 300.0),  # the worst of them
        (0.999, 0.98, 200.0),
        (1.002, 1.001, 0.0),  # above a dollar nothing is lost
        (None, 0.998, 20.0),  # what has no mark is not known
        (None, None, None),
    ],
)
def test_the_worst_stablecoin_tells_the_lost_peg(usde: float | None, usdc: float | None, depeg: float | None) -> None:
    money = [cash("a", 100.0, "USDE"), cash("a", 100.0, "USDC"), cash("a", 1.0, "COIN")]
    prices = {"USDE-USDT": usde, "USDC-USDT": usdc, "COIN-USDT": 0.01}
    told = [mark(name, price) for name, price in prices.items() if price is not None]
    out = one(TEN, money, USDE, USDC, COIN, marks=told)
    assert out["depeg_bps"] == (None if depeg is None else pytest.approx(depeg))


def test_the_worst_peg_of_any_holder_counts() -> None:
    money = [cash("a", 100.0, "USDC"), cash("b", 100.0, "USDE"), cash("c", 1e6, "USDC")]
    held = [position(account, "A", 10.0, 100.0) for account in "abc"]
    out = one(held, money, USDE, USDC, marks=[mark("USDE-USDT", 0.97), mark("USDC-USDT", 0.999)])
    assert out["depeg_bps"] == pytest.approx(300.0)


def test_at_a_sensitivity_of_log_101_a_lost_percent_takes_all_room() -> None:
    """1 000 USDE back a position that needs 990: a hundred times the room of 10, gone at .99."""
    held = [position("a", "A", 990.0, 100.0)]
    coin = instrument("USDE-USDT", None, "USDE")
    before, after = (
        one(held, [cash("a", 1_000.0, "USDE")], coin, marks=[mark("USDE-USDT", price)]) for price in (1.0, 0.989)
    )
    assert pl.DataFrame([before]).select(peg_sensitivity()).item() == pytest.approx(math.log(101))
    assert (before["overdue_usd"], after["overdue_usd"]) == (0, 99_000)
    assert after["depeg_bps"] == pytest.approx(110.0)


# --- all at once ---


def _drawn(seed: int, isolated: float) -> tuple[list[Any], list[Any], dict[str, float]]:
    rng = np.random.default_rng(seed)
    prices = {"A": 100.0, "B": 7.0}
    rows: list[Any] = []
    for i in range(60):
        for symbol, price in prices.items():
            usd = float(10 ** rng.uniform(3, 6))
            own = usd / float(rng.uniform(1, 120)) if rng.random() < isolated else None
            entry = price * float(rng.uniform(0.98, 1.02))
            rows.append(position(f"a{i:02}", symbol, usd / price * float(rng.choice([-1, 1])), entry, own))
    money = [cash(f"a{i:02}", float(10 ** rng.uniform(2, 5.5)), asset) for i in range(60) for asset in ("USDT", "COIN")]
    return rows, money, prices


def _slow(symbol: str, rows: list[Any], money: list[Any], prices: dict[str, float]) -> dict[str, float]:
    """Account by account; maintenance is 1 % of A and 2 % of B, a COIN is 8 dollars of which half count."""
    rates = {"A": 0.01, "B": 0.02}

    def usd(row: Any) -> float:
        return float(abs(row["qty"])) * prices[row["symbol"]]

    def profit(row: Any) -> float:
        return float(row["qty"] * (prices[row["symbol"]] - row["entry_price"]))

    facts: list[tuple[float, float, float, float, Any]] = []  # notional, leverage, used, short of margin, row
    room, stable, coin = {}, {}, {}
    for row in (r for r in rows if r["symbol"] == symbol):
        name = row["account"]
        if row["margin_mode"] == "isolated":
            unit, equity = [row], row["isolated_margin"] + profit(row)
        else:
            unit = [r for r in rows if r["account"] == name and r["margin_mode"] == "cross"]
            held = {m["asset"]: m["amount"] for m in money if m["account"] == name}
            stable[name], coin[name] = held["USDT"], 8 * held["COIN"] * 0.5
            equity = stable[name] + coin[name] + sum(profit(r) for r in unit)
        need = sum(usd(r) * rates[r["symbol"]] for r in unit)
        if row["margin_mode"] == "cross":
            room[name] = max(equity - need, 0.0)
        lever = min(sum(usd(r) for r in unit) / equity, LEVERAGE_MAX) if equity > 0 else LEVERAGE_MAX
        facts.append((usd(row), lever, min(need / equity, 1.0) if equity > 0 else 1.0, float(need > equity), row))
    total = sum(fact[0] for fact in facts)
    out: dict[str, float] = {
        "position_usd": total,
        "overdue_usd": sum(fact[0] * fact[3] for fact in facts),
        "margin_used": sum(fact[0] * fact[2] for fact in facts) / total,
        "accounts_effective": 1 / sum((fact[0] / total) ** 2 for fact in facts),
        "stable_over_room": sum(stable.values()) / sum(room.values()),
        "collateral_other_share": sum(coin.values()) / (sum(coin.values()) + sum(stable.values())),
    }
    out |= {f"over_{x}x_share": sum(fact[0] for fact in facts if fact[1] > x) / total for x in LEVERS}
    largest = sorted(facts, key=lambda fact: -fact[0])[:10]
    out["top10_long_share"] = sum(f[0] for f in largest if f[4]["qty"] > 0) / sum(f[0] for f in largest)
    for q in QUANTILES:
        reached = 0.0
        for notional, lever, *_ in sorted(facts, key=lambda fact: fact[1]):
            reached += notional
            if reached >= q / 100 * total:
                out[f"leverage_p{q}"] = lever
                break
    return out


@pytest.mark.parametrize(("seed", "isolated"), [(1, 0.0), (2, 0.4), (3, 0.9)])
def test_columns_equal_a_slow_oracle_on_random_accounts(seed: int, isolated: float) -> None:
    rows, money, prices = _drawn(seed, isolated)
    marks = [mark("B", prices["B"]), mark("COIN-USDT", 8.0)]
    for symbol in prices:
        got = one(rows, money, instrument("B", 0.02), COIN, marks=marks, symbol=symbol)
        want = _slow(symbol, rows, money, prices)
        assert 0 < want["overdue_usd"] < want["position_usd"]
        for name, value in want.items():
            slack = 60.0 if name.endswith("_usd") else 1e-5  # dollars are rounded leg by leg
            assert got[name] == pytest.approx(value, rel=1e-5, abs=slack), name


def test_bands_lie_in_each_other_and_within_positions() -> None:
    rows, money, prices = _drawn(4, 0.5)
    out = one(rows, money, instrument("B", 0.02), COIN, marks=[mark("B", prices["B"]), mark("COIN-USDT", 8.0)])
    for side in ("long", "short"):
        near, middle, far = (out[f"fuel_{side}_{band}bps_usd"] for band in BANDS_BPS)
        assert 0 < near < middle < far
    fuel = [out[f"fuel_long_{band}bps_usd"] + out[f"fuel_short_{band}bps_usd"] for band in BANDS_BPS]
    assert out["overdue_usd"] <= fuel[0]  # what is past its line is within every band
    assert fuel[-1] <= out["position_usd"]


def test_the_order_of_rows_changes_no_bit_and_the_cascade_is_told_elsewhere() -> None:
    rows, money, prices = _drawn(5, 0.5)
    marks = [*AT_100, mark("B", prices["B"]), mark("COIN-USDT", 8.0)]
    contracts = [*PLAIN, instrument("B", 0.02), COIN]
    whole = built(rows, money, marks, contracts)
    assert whole.equals(built(rows[::-1], money[::-1], marks[::-1], contracts[::-1]))
    nulls = {name for name in FACTS if whole[name].null_count()}
    assert nulls == {*TOLD_LATER, "depeg_bps"}  # USDT has no mark here


def test_units_of_the_price_change_nothing_and_dollars_nothing_but_dollars() -> None:
    """Prices times 1 024 with quantities by as much less; then every dollar times 8."""
    rows, money, prices = _drawn(6, 0.5)
    marks, contracts = [*AT_100, mark("B", prices["B"]), mark("COIN-USDT", 8.0)], [*PLAIN, instrument("B", 0.02), COIN]
    plain = built(rows, money, marks, contracts)

    def seen(price: float, qty: float) -> pl.DataFrame:
        usd = price * qty
        held = [
            row
            | {"qty": row["qty"] * qty, "entry_price": row["entry_price"] * price}
            | ({} if row["isolated_margin"] is None else {"isolated_margin": row["isolated_margin"] * usd})
            for row in rows
        ]
        cashed = [m | {"amount": m["amount"] * (usd if m["asset"] == "USDT" else qty)} for m in money]
        return built(held, cashed, [m | {"mark": m["mark"] * price} for m in marks], contracts)

    assert seen(1_024.0, 1 / 1_024).equals(plain)
    grown = seen(1.0, 8.0)
    for name in FACTS:
        if name.endswith("_usd"):
            assert grown[name].to_numpy() == pytest.approx(8 * plain[name].to_numpy(), abs=300)
        elif name not in TOLD_LATER and name != "depeg_bps":
            assert grown[name].to_numpy() == pytest.approx(plain[name].to_numpy(), rel=1e-3)
