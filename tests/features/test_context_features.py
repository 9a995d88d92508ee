"""Context: hand arithmetic, and that shocks and liquidations are seen when they happen and forgotten in time."""

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest

from features.context import funding_due_min, hour_cos, hour_sin, liq_decay, shock_decay, weekend
from features.health import book_gaps, quote_age_s, structure_age_min
from features.matrix import feature_matrix
from tests.features.worlds import START, bars_from, rich, rich_structure

LONG = 700  # bars; the shock features look back on 484


def last(feature: pl.Expr, **columns: Any) -> Any:
    return pl.DataFrame(columns).select(feature).to_series()[-1]


def at(text: str) -> list[datetime]:
    return [datetime.fromisoformat(text).replace(tzinfo=UTC)]


SUNDAY, MONDAY = "2025-01-05", "2025-01-06"

HAND: list[tuple[str, pl.Expr, dict[str, Any], float | None]] = [
    ("06:00 is a quarter of the day", hour_sin(), {"ts": at(f"{MONDAY}T06:00")}, 1.0),
    ("18:00 is three quarters", hour_sin(), {"ts": at(f"{MONDAY}T18:00")}, -1.0),
    ("noon lies opposite midnight", hour_cos(), {"ts": at(f"{MONDAY}T12:00")}, -1.0),
    ("03:00 is an eighth: cos 45 degrees", hour_cos(), {"ts": at(f"{MONDAY}T03:00")}, 0.5**0.5),
    ("Sunday's last minute is of the weekend", weekend(), {"ts": at(f"{SUNDAY}T23:59")}, 1.0),
    ("the bar that ends at midnight is Monday's", weekend(), {"ts": at(f"{MONDAY}T00:00")}, 0.0),
    ("Friday is no weekend", weekend(), {"ts": at("2025-01-03T12:00")}, 0.0),
    (
        "07:59 is a minute before 08:00",
        funding_due_min(),
        {"ts": at(f"{MONDAY}T07:59"), "funding_interval_h": [8.0]},
        1,
    ),
    (
        "at 08:00 the next is at 16:00",
        funding_due_min(),
        {"ts": at(f"{MONDAY}T08:00"), "funding_interval_h": [8.0]},
        480,
    ),
    ("hourly at 13:20: 40 min", funding_due_min(), {"ts": at(f"{MONDAY}T13:20"), "funding_interval_h": [1.0]}, 40),
    ("7 h do not divide a day", funding_due_min(), {"ts": at(f"{MONDAY}T08:00"), "funding_interval_h": [7.0]}, None),
    ("no interval, no answer", funding_due_min(), {"ts": at(f"{MONDAY}T08:00"), "funding_interval_h": [None]}, None),
    (
        "seconds cannot be scheduled",
        funding_due_min(),
        {"ts": at(f"{MONDAY}T08:00"), "funding_interval_h": [0.001]},
        None,
    ),
    ("log(1 + 1 + 0 + 2)", book_gaps(3), {"book_gaps": [7, 1, 0, 2]}, math.log(4)),
    ("a null in the window", book_gaps(3), {"book_gaps": [7, 1, None, 2]}, None),
    ("a day at most", quote_age_s(), {"quote_age_s": [100_000.0]}, 86_400.0),
    ("90 s are a minute and a half", structure_age_min(), {"structure_age_s": [90.0]}, 1.5),
    ("never a snapshot", structure_age_min(), {"structure_age_s": pl.Series([None], dtype=pl.Float64)}, None),
]


@pytest.mark.parametrize(("why", "feature", "columns", "want"), HAND, ids=[row[0] for row in HAND])
def test_feature_by_hand(why: str, feature: pl.Expr, columns: dict[str, Any], want: float | None) -> None:
    got = last(feature, **columns)
    assert (got is None) == (want is None), why
    assert want is None or got == pytest.approx(want, abs=1e-12)


def test_windows_that_cannot_be_are_refused() -> None:
    for window, move, baseline in ((0, 5, 240), (240, 0, 240), (240, 5, 5)):
        with pytest.raises(ValueError, match="must be"):
            shock_decay(window, move, baseline)
    for window, flow in ((0, 5), (240, 0)):
        with pytest.raises(ValueError, match="must be"):
            liq_decay(window, flow)


def _calm(**changed: Any) -> pl.DataFrame:
    """A market that moves 2 bps a minute, up and down, and trades a million a minute without liquidations."""
    close = 100 * np.exp(2e-4 * (np.arange(LONG) % 2))
    flows = {"volume_usd": np.full(LONG, 10**6), "liq_long_usd": np.zeros(LONG, dtype=int)}
    return bars_from(**({"close": close, "liq_short_usd": np.zeros(LONG, dtype=int), **flows} | changed))


def _decays(bars: pl.DataFrame, name: str = "shock_decay_240") -> list[float | None]:
    return feature_matrix(bars)[name].to_list()


def test_a_calm_market_has_no_shock() -> None:
    told = _decays(_calm())
    assert told[:484] == [None] * 484
    assert told[484:] == [0.0] * (LONG - 484)


def _jump(size: float) -> pl.DataFrame:
    """rms = 2 bps: four of them are 8 bps, over five bars sqrt(5) * 8 = 17.9 bps."""
    close = _calm()["close"].to_numpy() * np.where(np.arange(LONG) >= 500, math.exp(size), 1.0)
    return _calm(close=close)


def test_a_jump_is_a_shock_that_fades_by_half_lives_and_is_forgotten_after_four_hours() -> None:
    told = _decays(_jump(12e-4))  # even bar: the return is 12 - 2 = 10 bps in one bar, too little in five
    assert told[499] == 0.0
    assert [told[t] for t in (500, 501, 560)] == pytest.approx([1.0, math.exp(-1 / 60), math.exp(-1)])
    close = _jump(12e-4)["close"].to_list()
    assert abs(math.log(close[502] / close[497])) < 17.9e-4
    early = _calm(close=_calm()["close"].to_numpy() * np.where(np.arange(LONG) >= 400, math.exp(12e-4), 1.0))
    forgotten = _decays(early)
    assert forgotten[400 + 239] == pytest.approx(math.exp(-239 / 60))
    assert forgotten[400 + 240] == 0.0


def test_a_jump_within_four_sigmas_is_no_shock() -> None:
    assert set(_decays(_jump(9e-4))[500:]) == {0.0}  # 9 - 2 = 7 bps


def test_a_jump_is_not_held_against_itself() -> None:
    """10.2 - 2 = 8.2 bps exceed 4 * 2; with the jump in the baseline the limit would be 4 * 2.065 = 8.26."""
    assert _decays(_jump(10.2e-4))[500] == 1.0


def test_a_slide_too_slow_for_one_bar_is_a_shock_over_five() -> None:
    slide = np.clip(np.arange(LONG) - 499, 0, 5) * -5e-4  # 5 +- 2 bps a bar: below 8; 25 -+ 2 in five: above 17.9
    told = _decays(_calm(close=_calm()["close"].to_numpy() * np.exp(slide)))
    assert told[501] == 0.0
    assert 1.0 in told[502:506]


def test_forced_flow_is_a_shock_whatever_the_price_did() -> None:
    liqs = np.where(np.arange(LONG) == 500, 260_000, 0)  # of 5.01 million in five minutes: 5.2 %, then 1 % again
    assert _decays(_calm(liq_long_usd=liqs))[500:506] == pytest.approx([1, 1, 1, 1, 1, math.exp(-1 / 60)])
    assert set(_decays(_calm(liq_long_usd=liqs * 24 // 26))[484:]) == {0.0}
    assert set(_decays(_calm(liq_long_usd=[None] * LONG))[484:]) == {0.0}


def test_liquidations_decay_apart_and_only_where_they_are_published() -> None:
    liqs = np.where(np.arange(LONG) == 500, 60_000, 0)  # 1.2 % of five minutes
    told = _decays(_calm(liq_short_usd=liqs), "liq_decay_240")
    assert told[:243] == [None] * 243
    assert told[499] == 0.0
    assert told[504:506] == pytest.approx([1.0, math.exp(-1 / 60)])
    assert set(_decays(_calm(liq_short_usd=[None] * LONG), "liq_decay_240")) == {None}


@pytest.mark.parametrize(("missing", "want"), [(44, 0.0), (45, None)])
def test_too_many_unknown_bars_make_the_answer_unknown(missing: int, want: float | None) -> None:
    """48 of 240 may be untold, and five minutes with a null are: what is not known is not called calm."""
    hole = [None if 600 <= i < 600 + missing else 0 for i in range(LONG)]
    assert _decays(_calm(liq_long_usd=hole), "liq_decay_240")[-1] == want


def test_the_time_of_day_does_not_depend_on_the_batch() -> None:
    bars = rich(900)
    whole, part = feature_matrix(bars), feature_matrix(bars.tail(17))
    for name in ("hour_sin", "hour_cos", "weekend", "funding_due_min"):
        assert part[name].equals(whole[name].tail(17))


def test_the_weekend_begins_and_ends_at_midnight() -> None:
    ts = pl.datetime_range(datetime(2025, 1, 3, tzinfo=UTC), datetime(2025, 1, 7, tzinfo=UTC), "1h", eager=True)
    told = pl.DataFrame({"ts": ts}).select("ts", weekend())
    assert told.filter(pl.col("weekend") == 1)["ts"].dt.date().unique().to_list() == [
        *(datetime(2025, 1, day, tzinfo=UTC).date() for day in (4, 5)),
    ]
    assert told["weekend"].sum() == 48


def test_the_age_of_positions_is_told_beyond_their_use() -> None:
    bars = rich(200)
    row = rich_structure(bars).filter(pl.col("ts") == START + timedelta(minutes=15))  # known at minute 16
    told = feature_matrix(bars, row)
    age = told["structure_age_min"].to_list()
    assert age[:15] == [None] * 15
    assert age[15:18] == [1.0, 2.0, 3.0]
    assert told["fuel_side"][150] is None
    assert age[150] == 136.0
