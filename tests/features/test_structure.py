"""Margin formulas against published numbers, and structure against hand arithmetic and a slow oracle."""

from datetime import datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.mechanics.margin import (
    Tier,
    bankruptcy_price,
    deductions_usd,
    fillable_price,
    maintenance_usd,
    tiers_from,
    trip_price,
)
from features.schema import CANONICAL, Structure, polars_schema
from features.structure import LEVERAGE_MAX, structure
from tests.features.worlds import START

EDGES = [50e3, 600e3, 3e6, 12e6, 70e6, 100e6, 230e6, 480e6, 600e6, 800e6, 1.2e9, 1.8e9]
RATES = [0.004, 0.005, 0.0065, 0.01, 0.02, 0.025, 0.05, 0.1, 0.125, 0.15, 0.25, 0.5]
BTC = tuple(Tier(rate, cut) for rate, cut in zip(RATES, deductions_usd(EDGES, RATES), strict=True))


def test_deductions_of_the_btc_brackets_of_october_2024() -> None:
    want = [0, 50, 950, 11_450, 131_450, 481_450, 2_981_450, 14_481_450, 26_481_450, 41_481_450, 121_481_450]
    assert deductions_usd(EDGES, RATES) == pytest.approx([*want, 421_481_450])


@pytest.mark.parametrize("k", range(11))
def test_maintenance_is_continuous_at_tier_edges_and_uses_the_tier_of_the_notional(k: int) -> None:
    below, at, above = pl.select(maintenance_usd(pl.Series([EDGES[k] - 1, EDGES[k], EDGES[k] + 1]), BTC)).to_series()
    assert at == pytest.approx(EDGES[k] * RATES[k + 1] - BTC[k + 1].deduction_usd, abs=1e-6)
    assert at - below == pytest.approx(RATES[k], abs=1e-6)
    assert above - at == pytest.approx(RATES[k + 1], abs=1e-6)


def test_a_half_of_initial_margin_schedule() -> None:
    """BTC up to 150M at 40x, above at 20x: half the initial margin is 1.25 % and 2.5 %; 200M needs 3 125 000."""
    rates = [0.0125, 0.025]
    tiers = tuple(Tier(rate, cut) for rate, cut in zip(rates, deductions_usd([150e6], rates), strict=True))
    assert pl.select(maintenance_usd(pl.lit(200e6), tiers)).item() == pytest.approx(3_125_000)


def trip(qty: float, price: float, equity: float, other: float, tiers: tuple[Tier, ...]) -> float | None:
    return pl.select(trip_price(pl.lit(qty), pl.lit(price), pl.lit(equity), pl.lit(other), tiers)).item()


@pytest.mark.parametrize(
    ("leg", "tier", "want"),
    [
        ((1.0, 100_000.0, 5_000.0, 0.0), Tier(1 / 80, 0.0), 96_202.53164556962),  # 40x isolated long
        ((1.0, 10.0, 2.0, 0.0), Tier(0.01, 0.01), 8.070707070707071),  # 5x long
        ((-1.0, 10.0, 2.0, 0.0), Tier(0.01, 0.01), 11.89108910891089),  # 5x short
        ((1.0, 10.0, 10 / 3, 0.0), Tier(0.01, 0.01), 6.723905723905723),  # 3x long
        ((-1.0, 10.0, 10 / 3, 0.0), Tier(0.01, 0.01), 13.211221122079207),  # 3x short
        ((1.0, 100.0, 5.0, 0.0), Tier(0.004, 0.0), 95.38152610441767),  # cross, alone
        ((1.0, 100.0, 5.0, 4.0), Tier(0.004, 0.0), 99.39759036144578),  # cross, another leg needs 4
        ((1.0, 100.0, 200.0, 0.0), Tier(0.004, 0.0), 0.0),  # no fall can trip it
        ((0.0, 100.0, 5.0, 0.0), Tier(0.004, 0.0), None),
    ],
)
def test_trip_prices(leg: tuple[float, float, float, float], tier: Tier, want: float | None) -> None:
    """A leg is qty, price, equity and the other legs' maintenance margin."""
    got = trip(*leg, (tier,))
    assert got is None if want is None else got == pytest.approx(want, rel=1e-9)


@given(
    side=st.sampled_from([-1.0, 1.0]),
    notional=st.floats(1e3, 1e9),
    room=st.floats(0.01, 0.9),
    other_share=st.floats(0.0, 0.5),
)
def test_at_the_trip_price_equity_equals_maintenance_in_whatever_tier(
    side: float, notional: float, room: float, other_share: float
) -> None:
    mark = 60_000.0
    qty, equity = side * notional / mark, room * notional
    other = other_share * equity
    price = trip(qty, mark, equity, other, BTC)
    assert price is not None
    then = equity + qty * (price - mark)
    needed = other + pl.select(maintenance_usd(pl.lit(abs(qty) * price), BTC)).item()
    assert then == pytest.approx(needed, abs=1e-9 * notional) or (price == 0.0 and then > needed)


def test_tiers_must_rise() -> None:
    with pytest.raises(ValueError, match="rise from tier to tier"):
        tiers_from([{"maintenance_rate": 0.02, "deduction_usd": 0.0}, {"maintenance_rate": 0.01, "deduction_usd": 0.0}])


def test_fillable_and_bankruptcy_price_of_the_worked_examples() -> None:
    """0.1 BTC at 50 000, cash -4 501: equity 499 of 500. Then 0.004 BTC and 0.1 ETH, cash -490: equity 10 of 50."""
    assert fillable_price(0.1, 50_000, 0.1, 499, 500, spread=0.1, adjustment=1) == pytest.approx(49_999)
    assert bankruptcy_price(0.1, 3_000, 0.1, 10, 50) == pytest.approx(2_940)


# Structure.


def table(name: str, rows: list[dict[str, Any]]) -> pl.DataFrame:
    schema = polars_schema(CANONICAL[name])
    filled = [{"venue": "v", "ts": START, "known_at": START} | row for row in rows]
    return pl.DataFrame(
        {n: pl.Series([row.get(n) for row in filled], dtype=dtype, strict=False) for n, dtype in schema.items()}
    )


def position(account: str, symbol: str, qty: float, entry: float, margin: float | None = None, **more: Any) -> Any:
    mode = "cross" if margin is None else "isolated"
    row = {"account": account, "symbol": symbol, "qty": qty, "entry_price": entry, "margin_mode": mode}
    return row | {"isolated_margin": margin} | more


def cash(account: str, amount: float, asset: str = "USDT", **more: Any) -> Any:
    return {"account": account, "asset": asset, "amount": amount} | more


def mark(symbol: str, price: float, **more: Any) -> Any:
    return {"symbol": symbol, "mark": price} | more


def instrument(symbol: str, rate: float | None = 0.01, base: str = "X", **more: Any) -> Any:
    tier = {"notional_usd_max": None, "maintenance_rate": rate, "deduction_usd": 0.0, "leverage_max": 50.0}
    row = {"symbol": symbol, "base": base, "quote": "USDT", "settlement": "linear", "contract_size": 1.0}
    return row | {"effective_from": START, "tiers": None if rate is None else [tier]} | more


def built(positions: list[Any], collateral: list[Any], marks: list[Any], instruments: list[Any]) -> pl.DataFrame:
    names = ("positions", "collateral", "marks", "instruments")
    return structure(
        *(table(n, rows) for n, rows in zip(names, (positions, collateral, marks, instruments), strict=True))
    )


def test_fuel_is_what_trips_within_five_percent_of_the_mark() -> None:
    """Longs of 10 at 100 with MM 1 %: margin m trips at (1000 - m) / 9.9, thus 58 at 95.15 and 62 at 94.75."""
    out = built(
        [
            position("near", "A", 10.0, 100.0, 58.0),
            position("far", "A", 10.0, 100.0, 62.0),
            position("over", "A", 10.0, 100.0, 5.0),  # already past its line
            position("short", "A", -20.0, 100.0, 100.0),  # trips at 2100 / 20.2 = 103.96
        ],
        [],
        [mark("A", 100.0)],
        [instrument("A")],
    ).row(0, named=True)
    assert out["fuel_long_500bps_usd"] == 2_000
    assert out["fuel_short_500bps_usd"] == 2_000
    assert out["position_usd"] == 5_000
    assert out["largest_share"] == pytest.approx(0.4)


def test_a_small_leg_elsewhere_makes_a_safe_position_fuel() -> None:
    """Equity 60 on 1 000 trips at 94.9: safe. Another leg that needs 10 of margin moves it to 95.96: fuel."""
    alone = [position("a", "A", 10.0, 100.0)]
    both = [*alone, position("a", "B", 100.0, 1.0)]
    around = ([cash("a", 60.0)], [mark("A", 100.0), mark("B", 1.0)], [instrument("A"), instrument("B", 0.1)])
    assert built(alone, *around)["fuel_long_500bps_usd"].to_list() == [0]
    assert built(both, *around).filter(pl.col("symbol") == "A")["fuel_long_500bps_usd"].to_list() == [1_000]


def test_leverage_is_the_accounts_and_weighted_by_notional() -> None:
    """Leverage 2 on 1 000, 5 on 8 000 and, without equity, the cap on 1 500: half is at 5, 90 % at the cap."""
    out = built(
        [position("a", "A", 10.0, 100.0), position("b", "A", -80.0, 100.0), position("c", "A", 15.0, 100.0)],
        [cash("a", 500.0), cash("b", 1_600.0)],
        [mark("A", 100.0)],
        [instrument("A")],
    ).row(0, named=True)
    assert (out["leverage_p50"], out["leverage_p90"]) == (5.0, LEVERAGE_MAX)


def test_fuel_is_told_for_each_band() -> None:
    """Longs of 10 at 100 with MM 1 %: margins of 15, 25, 58 trip at 99.49, 98.48, 95.15."""
    longs = [position(f"l{m}", "A", 10.0, 100.0, float(m)) for m in (15, 25, 58)]
    short = position("s", "A", -10.0, 100.0, 15.0)  # trips at 1015 / 10.1 = 100.495
    out = built([*longs, short], [], [mark("A", 100.0)], [instrument("A")]).row(0, named=True)
    assert [out[f"fuel_long_{band}bps_usd"] for band in (100, 200, 500)] == [1_000, 2_000, 3_000]
    assert [out[f"fuel_short_{band}bps_usd"] for band in (100, 200, 500)] == [1_000, 1_000, 1_000]


THREE = (
    [position("a", "A", 10.0, 100.0), position("b", "A", 80.0, 100.0), position("c", "A", -15.0, 100.0)],
    [cash("a", 500.0), cash("b", 1_600.0, "USD"), cash("c", 14.0)],
    [mark("A", 100.0)],
    [instrument("A")],
)


def test_what_the_accounts_of_a_symbol_are_like() -> None:
    """1 000 at 2x, 8 000 at 5x, 1 500 short at 107x with equity 14 below its maintenance of 15."""
    out = built(*THREE).row(0, named=True)
    assert out["position_usd"] == 10_500
    assert out["overdue_usd"] == 1_500
    assert [out[f"leverage_p{q}"] for q in (10, 25, 50, 75)] == [5.0] * 4  # 1 000 of 10 500 are less than a tenth
    assert out["leverage_p90"] == out["leverage_p99"] == pytest.approx(1_500 / 14, rel=1e-6)
    assert [out[f"over_{x}x_share"] for x in (10, 20, 50)] == [pytest.approx(1_500 / 10_500)] * 3
    # 10 of 500, 80 of 1 600, and all of it: .02 * 1 000 + .05 * 8 000 + 1 * 1 500
    assert out["margin_used"] == pytest.approx(1_920 / 10_500)
    assert out["accounts_effective"] == pytest.approx(10.5**2 / (1**2 + 8**2 + 1.5**2))
    assert out["top10_long_share"] == pytest.approx(9_000 / 10_500)


def test_what_the_accounts_rely_on() -> None:
    """514 USDT over a room of 490 + 1 520 + 0; no coins. Then 2 X at 100 beside 2 114 of deposits."""
    out = built(*THREE).row(0, named=True)
    assert out["stable_over_room"] == pytest.approx(514 / 2_010)
    assert out["collateral_other_share"] == 0.0
    assert out["depeg_bps"] is None
    positions, collateral, marks, instruments = THREE
    coined = built(positions, [*collateral, cash("a", 2.0, "X")], marks, instruments).row(0, named=True)
    assert coined["collateral_other_share"] == pytest.approx(200 / 2_314)


def test_a_stablecoin_below_its_peg_is_seen_and_priced() -> None:
    """100 USDE at .98 are 98 dollars and 200 bps off; a debt in it is no reliance."""
    positions, _, marks, instruments = THREE
    coin = [instrument("USDE-SPOT", None, "USDE", haircut=0.0)]
    deposits = [cash("a", 100.0, "USDE"), cash("b", 1_600.0), cash("c", 100.0)]
    out = built(positions, deposits, [*marks, mark("USDE-SPOT", 0.98)], [*instruments, *coin]).row(0, named=True)
    assert out["depeg_bps"] == pytest.approx(200.0)
    assert out["collateral_other_share"] == 0.0
    owing = [cash("a", -1.0, "USDE"), cash("a", 600.0), cash("b", 1_600.0), cash("c", 100.0)]
    owed = built(positions, owing, [*marks, mark("USDE-SPOT", 0.98)], [*instruments, *coin]).row(0, named=True)
    assert owed["depeg_bps"] is None


def test_isolated_positions_have_no_collateral_to_rely_on() -> None:
    out = built([position("a", "A", 10.0, 100.0, 58.0)], [], [mark("A", 100.0)], [instrument("A")]).row(0, named=True)
    assert (out["collateral_other_share"], out["stable_over_room"], out["depeg_bps"]) == (None, None, None)
    assert out["margin_used"] == pytest.approx(10 / 58)


@pytest.mark.parametrize(
    ("collateral", "instruments", "equity"),
    [
        ([cash("a", 100.0), cash("a", 50.0, "USDC")], [], 150.0),
        ([cash("a", 2.0, "X")], [], 200.0),  # 2 X at the mark of 100
        ([cash("a", 100.0)], [instrument("USDT-SPOT", None, "USDT", haircut=0.1)], 90.0),
        ([cash("a", 300.0), cash("a", -1.0, "X")], [instrument("X-SPOT", None, "X", haircut=0.5)], 200.0),
        ([cash("a", 100.0), cash("a", 1e9, "NOBODY-KNOWS")], [], 100.0),
    ],
)
def test_collateral_counts_with_price_and_haircut(collateral: list[Any], instruments: list[Any], equity: float) -> None:
    held = [position("a", "A", 10.0, 100.0)]
    out = built(held, collateral, [mark("A", 100.0)], [instrument("A"), *instruments])
    assert out["leverage_p50"].to_list() == [pytest.approx(1_000 / equity, rel=1e-6)]


def test_only_what_was_known_at_the_snapshot_counts() -> None:
    later = {"ts": START, "known_at": START + timedelta(seconds=5)}
    late = {"ts": START + timedelta(minutes=1), "known_at": START + timedelta(minutes=1)}
    out = built(
        [position("a", "A", 10.0, 100.0)],
        [cash("a", 100.0, **later), cash("a", 10.0, **late)],
        [mark("A", 100.0), mark("A", 50.0, **late)],
        [instrument("A"), instrument("A", 0.5, effective_from=late["ts"])],
    )
    assert out["known_at"].to_list() == [START + timedelta(seconds=5)]  # the snapshot's last row
    assert out["position_usd"].to_list() == [1_000]
    assert out["leverage_p50"].to_list() == [10.0]


def test_older_collateral_beats_collateral_that_is_nearer_but_not_yet_known() -> None:
    before = {"ts": START - timedelta(minutes=10), "known_at": START - timedelta(minutes=10)}
    after = {"ts": START + timedelta(seconds=1), "known_at": START + timedelta(seconds=2)}
    money = [cash("a", 100.0, **before), cash("a", 10.0, **after)]
    out = built([position("a", "A", 10.0, 100.0)], money, [mark("A", 100.0)], [instrument("A")])
    assert out["leverage_p50"].to_list() == [10.0]


def test_missing_tiers_marks_and_positions_are_survived() -> None:
    unknown = built([position("a", "A", 10.0, 100.0, 90.0)], [], [], [])
    assert unknown["fuel_long_500bps_usd"].to_list() == [1_000]  # with 5 % maintenance 90 trips at 95.8
    assert built([], [], [], []).is_empty()
    assert built([position("a", "A", 0.0, 100.0)], [], [], []).is_empty()
    Structure.validate(unknown)


def _slow_fuel(rows: list[Any], amounts: dict[str, float], prices: dict[str, float]) -> dict[str, tuple[int, int]]:
    """Bisection of equity against maintenance, account by account, over the BTC brackets."""

    def need(usd: float) -> float:
        return max(usd * tier.rate - tier.deduction_usd for tier in BTC)

    fuel = {symbol: [0, 0] for symbol in prices}
    for row in rows:
        legs = [leg for leg in rows if leg["account"] == row["account"]]

        def over(price: float, row: Any = row, legs: list[Any] = legs) -> bool:
            at = prices | {row["symbol"]: price}
            equity = amounts[row["account"]] + sum(
                leg["qty"] * (at[leg["symbol"]] - leg["entry_price"]) for leg in legs
            )
            return equity <= sum(need(abs(leg["qty"]) * at[leg["symbol"]]) for leg in legs)

        edge = prices[row["symbol"]] * (0.95 if row["qty"] > 0 else 1.05)
        if over(edge):
            fuel[row["symbol"]][int(row["qty"] < 0)] += round(abs(row["qty"]) * prices[row["symbol"]])
    return {symbol: (long, short) for symbol, (long, short) in fuel.items()}


def test_structure_equals_a_slow_oracle_on_random_accounts() -> None:
    rng = np.random.default_rng(4)
    prices = {"A": 100.0, "B": 7.0, "C": 30_000.0}
    rows = [
        position(f"a{i}", s, float(rng.normal() * 10 ** rng.uniform(3, 7) / p), p * float(rng.uniform(0.97, 1.03)))
        for i in range(200)
        for s, p in prices.items()
        if rng.random() < 0.6
    ]
    gross = {row["account"]: 0.0 for row in rows}
    for row in rows:
        gross[row["account"]] += abs(row["qty"]) * prices[row["symbol"]]
    amounts = {account: usd / float(rng.uniform(3, 40)) for account, usd in gross.items()}
    tiers = [
        {"notional_usd_max": None, "maintenance_rate": t.rate, "deduction_usd": t.deduction_usd, "leverage_max": 1.0}
        for t in BTC
    ]
    out = built(
        rows,
        [cash(account, amount) for account, amount in amounts.items()],
        [mark(symbol, price) for symbol, price in prices.items()],
        [instrument(symbol) | {"tiers": tiers} for symbol in prices],
    )
    got = {r["symbol"]: (r["fuel_long_500bps_usd"], r["fuel_short_500bps_usd"]) for r in out.to_dicts()}
    want = _slow_fuel(rows, amounts, prices)
    assert all(min(pair) > 0 for pair in want.values())
    assert got == {
        symbol: (pytest.approx(long, abs=300), pytest.approx(short, abs=300)) for symbol, (long, short) in want.items()
    }


def test_later_snapshots_do_not_change_earlier_ones() -> None:
    stamps: list[datetime] = [START + timedelta(minutes=15 * k) for k in range(3)]
    at = [{"ts": t, "known_at": t} for t in stamps]
    rows = [position("a", "A", 10.0 + k, 100.0, **stamp) for k, stamp in enumerate(at)]
    money = [cash("a", 60.0 - k, **stamp) for k, stamp in enumerate(at)]
    prices = [mark("A", 100.0 - k, **stamp) for k, stamp in enumerate(at)]
    whole = built(rows, money, prices, [instrument("A")])
    assert whole.height == 3
    assert whole.head(2).equals(built(rows[:2], money[:2], prices[:2], [instrument("A")]))
