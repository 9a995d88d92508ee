"""The structure family by hand: what snapshots of the cascade say, feature by feature."""

import math
from typing import Any

import polars as pl
import pytest

from features import structural
from features.feature import Step
from features.schema import Structure, polars_schema
from tests.features.worlds import bars_from, rich_world

KNOWN = {"rho": 0.5, "amplification": 2.0, "kappa_fall": 0.4, "kappa_rise": 0.2}

# a sentence, the structure in force, the feature, the wanted value
BY_HAND: list[tuple[str, dict[str, Any], pl.Expr, float | None]] = [
    ("the worse side is the fall", KNOWN, structural.kappa_worse(), 0.4),
    ("the worse side is the rise", KNOWN | {"kappa_rise": 0.9}, structural.kappa_worse(), 0.9),
    ("one side unknown, nothing is worse", KNOWN | {"kappa_rise": None}, structural.kappa_worse(), None),
    ("(.4 - .2) / (.4 + .2 + .01)", KNOWN, structural.kappa_side(), 0.2 / 0.61),
    ("a rise finds it: (0 - 1) / 1.01", {"kappa_fall": 0.0, "kappa_rise": 1.0}, structural.kappa_side(), -1 / 1.01),
    ("no fuel has no side", {"kappa_fall": 0.0, "kappa_rise": 0.0}, structural.kappa_side(), 0.0),
    ("the loop gain as it is", KNOWN, structural.rho_now(), 0.5),
    ("a move ends twice as large", KNOWN, structural.loop_amplification(), math.log(2)),
    ("no end from 1 on", {"rho": 1.0, "amplification": None}, structural.loop_amplification(), 10.0),
    ("rounding does not make an end", {"rho": 1 - 1e-12, "amplification": None}, structural.loop_amplification(), 10.0),
    ("an end near 1 is at most that", {"rho": 0.999, "amplification": 1e9}, structural.loop_amplification(), 10.0),
    ("the symbol's own book unknown", {"rho": 0.5, "amplification": None}, structural.loop_amplification(), None),
    ("nothing known", {"rho": None, "amplification": None}, structural.loop_amplification(), None),
    ("the nearer cliff", KNOWN | {"cliff_fall_bps": 300.0, "cliff_rise_bps": 12.0}, structural.cliff_distance(), 12.0),
    ("only one cliff", KNOWN | {"cliff_fall_bps": 300.0}, structural.cliff_distance(), 300.0),
    ("books known and no cliff", KNOWN, structural.cliff_distance(), 10_000.0),
    ("no books, no cliff and no answer", {"rho": None}, structural.cliff_distance(), None),
    ("past its margin", {"distance_sd_p10": -0.3}, structural.margin_distance(), -0.3),
    ("a third is triggered here", {"trigger_share": 0.33}, structural.trigger_leg_share(), 0.33),
    ("12 bps below a dollar", {"depeg_bps": 12.0}, structural.depeg(), 12.0),
    (
        "3M + 1M of 40M within 1 %",
        {"fuel_long_100bps_usd": 3_000_000, "fuel_short_100bps_usd": 1_000_000, "position_usd": 40_000_000},
        structural.band_mass(100),
        0.1,
    ),
    (
        "(8M + 2M) - (3M + 1M) of 40M between 2 and 5 %",
        {
            "fuel_long_200bps_usd": 3_000_000, "fuel_short_200bps_usd": 1_000_000,
            "fuel_long_500bps_usd": 8_000_000, "fuel_short_500bps_usd": 2_000_000, "position_usd": 40_000_000,
        },
        structural.band_mass(200, 500),
        0.15,
    ),
    (
        "nobody holds anything",
        {"fuel_long_100bps_usd": 0, "fuel_short_100bps_usd": 0, "position_usd": 0},
        structural.band_mass(100),
        None,
    ),
    ("an hour", {"touch_q25_s": 3_600.0}, structural.touch_log(), math.log(3_600)),
    ("at the mark already: a second", {"touch_q25_s": 0.0}, structural.touch_log(), 0.0),
]  # fmt: skip


@pytest.mark.parametrize(("sentence", "facts", "feature", "want"), BY_HAND, ids=[row[0] for row in BY_HAND])
def test_by_hand(sentence: str, facts: dict[str, Any], feature: pl.Expr, want: float | None) -> None:
    schema = polars_schema(Structure)
    row = pl.DataFrame([pl.Series(name, [facts.get(name)], dtype=schema[name]) for name in schema])
    got = row.select(feature.alias("value")).item()
    assert got == (None if want is None else pytest.approx(want, abs=1e-12)), sentence


def test_rho_change_is_the_gain_less_that_of_the_window_before() -> None:
    rho = [0.2, 0.2, None, 0.5, 0.4]
    frame = pl.DataFrame({"rho": rho}, schema={"rho": pl.Float64})
    got = frame.select(structural.rho_change(2))["rho_change_2"].to_list()
    assert got == [None, None, None, pytest.approx(0.3), None]  # .5 - .2; the others meet a null or the beginning


@pytest.mark.parametrize(("near", "far"), [(50, None), (100, 300), (500, 200), (200, 200)])
def test_bands_that_are_not_told_are_refused(near: int, far: int | None) -> None:
    with pytest.raises(ValueError, match=r"band|exceed"):
        structural.band_mass(near, far)


def test_a_window_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="window"):
        structural.rho_change(0)


def test_a_snapshot_counts_from_when_it_was_known_and_for_90_minutes() -> None:
    """Snapshot of 00:30 known at 00:31: bars before know nothing, the bar of 02:00 is the last that it speaks for."""
    world = rich_world(150, ("A-PERP",))
    first = world.structure.filter(pl.col("ts").dt.minute() == 30).head(1)
    bars = bars_from(close=[100.0] * 150)
    alone = type(world)(bars, first, world.norms, world.peers)
    told = alone.matrix().select(pl.int_range(1, pl.len() + 1).alias("minute"), "rho_now").drop_nulls()
    assert told["minute"].to_list() == list(range(31, 121))
    assert set(told["rho_now"]) == {first["rho"][0]}


def test_the_family_is_named_after_its_records() -> None:
    for feature in structural.family(Step(60)):
        assert feature.expr.meta.output_name() == feature.name
