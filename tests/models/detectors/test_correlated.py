"""Many symbols at once: what outweighs what, who is named, and what the reference's dependence does to it."""

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from models.detectors.correlated import COLUMNS, Correlated

T0 = datetime(2025, 1, 1, tzinfo=UTC)
SYMBOLS = tuple(f"S{number:02d}" for number in range(20))
P5, P01 = 1.3011, 3.0  # surprises of p just below 5 %, and of 0.1 %


def minutes(surprise: np.ndarray, symbols: tuple[str, ...] = SYMBOLS) -> pl.DataFrame:
    """Surprises (minutes, symbols) as one detector gives them; NaN for no score."""
    stamps = [T0 + timedelta(minutes=i + 1) for i in range(len(surprise))]
    stamp = {"ts": pl.Datetime("us", "UTC"), "available_at": pl.Datetime("us", "UTC")}
    frames = [
        pl.DataFrame(
            {"venue": "v", "symbol": symbol, "ts": stamps, "available_at": stamps, "surprise": column},
            schema_overrides=stamp,
        )
        for symbol, column in zip(symbols, surprise.T, strict=True)
    ]
    return pl.concat(frames).with_columns(pl.col("surprise").fill_nan(None))


def surprises(rows: int, seed: int, common: float) -> np.ndarray:
    """-log10 of uniform p, `common` of whose normal score all symbols share."""
    from scipy.stats import norm

    rng = np.random.default_rng(seed)
    z = np.sqrt(common) * rng.normal(size=(rows, 1)) + np.sqrt(1 - common) * rng.normal(size=(rows, 20))
    return -norm.logsf(z) / np.log(10)


def fit(common: float) -> Correlated:
    return Correlated.fit(minutes(surprises(5_000, seed=1, common=common)))


def said(detector: Correlated, raised: dict[int, float], rest: float = 0.3) -> float:
    row = np.full((1, 20), rest)
    for number, surprise in raised.items():
        row[0, number] = surprise
    return detector.score(minutes(row))["surprise"].item()


TEN = dict.fromkeys(range(10), P5)


@pytest.mark.parametrize("common", [0.0, 0.4, 0.8])
def test_ten_of_twenty_at_five_percent_beat_one_at_a_tenth_of_a_percent(common: float) -> None:
    detector = fit(common)
    assert said(detector, TEN) > said(detector, {0: P01}) + 0.15


def test_many_at_once_are_the_less_unusual_the_more_the_symbols_move_together_anyway() -> None:
    apart, together = said(fit(0.0), TEN), said(fit(0.8), TEN)
    assert apart > 3
    assert together < 1


def test_one_symbol_alone_cannot_carry_the_venue() -> None:
    detector = fit(0.0)
    assert said(detector, {0: 12.0}) == said(detector, {0: 4.0}) < said(detector, TEN)


def test_copies_of_one_market_weigh_as_much_as_one() -> None:
    """S00 to S09 are the same series: each weighs a tenth of S10."""
    series = surprises(5_000, seed=2, common=0.0)
    series[:, :10] = series[:, :1]
    detector = Correlated.fit(minutes(series))
    assert detector.weights[0] == pytest.approx(0.1, rel=0.1)
    assert detector.weights[10] == pytest.approx(1.0, rel=0.25)
    assert said(detector, dict.fromkeys(range(10, 20), 2.0)) > said(detector, dict.fromkeys(range(10), 2.0)) + 1


def test_one_fresh_minute_in_a_hundred_has_a_surprise_of_two() -> None:
    """Between 0.6 and 1.5 % of 20,000 fresh minutes, with and without dependence."""
    for common in (0.0, 0.6):
        fresh = fit(common).score(minutes(surprises(20_000, seed=3, common=common)))
        assert 0.006 < (fresh["surprise"] >= 2).mean() < 0.015


def test_the_alarmed_are_named_and_of_them_the_largest_group_that_moves_together() -> None:
    """S00-S06 share one part, S07-S19 another; four alarmed of the first, three of the second."""
    first, second = surprises(5_000, seed=4, common=0.8), surprises(5_000, seed=5, common=0.8)
    detector = Correlated.fit(minutes(np.column_stack([first[:, :7], second[:, 7:]])))
    assert len(set(detector.groups[:7])) == len(set(detector.groups[7:])) == 1
    row = np.full((2, 20), 0.3)
    row[0, [5, 0, 3, 6]] = P5
    row[0, [7, 8, 9]] = 3.9
    found = detector.score(minutes(row)).to_dicts()
    assert found[0]["cluster"] == ["S00", "S03", "S05", "S06"]
    assert found[0]["alarmed"] == ["S00", "S03", "S05", "S06", "S07", "S08", "S09"]
    assert (found[1]["cluster"], found[1]["alarmed"], found[1]["known"]) == ([], [], 20)


def test_there_is_one_row_per_minute_for_the_venue() -> None:
    scored = fit(0.4).score(minutes(surprises(30, seed=6, common=0.4)))
    assert tuple(scored.columns) == COLUMNS
    assert scored["symbol"].unique().to_list() == ["*"]
    assert scored["ts"].to_list() == [T0 + timedelta(minutes=i + 1) for i in range(30)]
    assert scored["breadth"].null_count() == 0


def test_a_minute_scores_the_same_alone_and_in_any_company() -> None:
    detector, frame = fit(0.4), minutes(surprises(40, seed=7, common=0.4)).sample(fraction=0.9, seed=1)
    whole = detector.score(frame)
    alone = [detector.score(frame.filter(pl.col("ts") == ts)) for ts in whole["ts"]]
    assert pl.concat(alone).equals(whole)
    assert detector.score(frame.reverse()).equals(whole)


def test_symbols_without_a_score_are_left_out_and_half_the_weight_must_have_one() -> None:
    detector = fit(0.0)
    row = surprises(1, seed=8, common=0.0)
    nine, eleven = row.copy(), row.copy()
    nine[0, 9:], eleven[0, 11:] = np.nan, np.nan
    assert detector.score(minutes(nine)).select("breadth", "surprise", "known").row(0) == (None, None, 9)
    weights = np.array(detector.weights)[:11]
    assert detector.score(minutes(eleven))["breadth"].item() == pytest.approx(
        float((np.minimum(row[0, :11], 4) * weights).sum() / weights.sum())
    )


def test_a_symbol_that_the_reference_did_not_hold_and_the_venue_itself_count_for_nothing() -> None:
    detector, row = fit(0.0), surprises(1, seed=9, common=0.0)
    others = minutes(np.full((1, 2), 9.0), ("*", "stranger"))
    assert detector.score(pl.concat([minutes(row), others])).equals(detector.score(minutes(row)))
    assert detector.score(others)["surprise"].to_list() == [None]


def test_json_keeps_every_digit() -> None:
    detector = fit(0.4)
    again = Correlated.from_json(detector.to_json())
    assert again == detector
    assert again.to_json() == detector.to_json()


def test_a_venue_of_one_symbol_and_one_that_never_moves_are_fitted_too() -> None:
    series = surprises(100, seed=10, common=0.0)
    assert Correlated.fit(minutes(series[:, :1], SYMBOLS[:1])).groups == (0,)
    series[:, 3] = 0.0
    assert np.isfinite(Correlated.fit(minutes(series)).weights).all()


def test_a_reference_without_a_score_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one score"):
        Correlated.fit(minutes(np.full((5, 20), np.nan)))
