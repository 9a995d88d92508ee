"""The cascade that each snapshot of positions could feed: numbers by hand, what was known then, and no defaults."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from features.mechanics.first_passage import touch_probability
from features.schema import Structure, polars_schema
from pipelines import cascade_columns as step
from pipelines.cascade_columns import NAMES, SCHEMA, cascade_columns, newest_at_each
from pipelines.config import Config
from pipelines.lake import SCHEMAS, Lake
from pipelines.matrix import build_structure
from pipelines.simulate import simulate_venue
from pipelines.times import Interval
from pipelines.worlds import newest, world_from_lake
from tests.pipelines.conftest import START as SIM_START
from tests.pipelines.graph_worlds import SEEN, SNAPSHOT, VENUE, LakeOf, build, price_of


def columns_of(lake: Lake, venue: str = VENUE) -> pl.DataFrame:
    """The columns of every snapshot that the lake holds."""
    positions = lake.scan("positions", venue).collect()
    stamps = pl.concat(
        [lake.scan(name, venue).select("ts", "known_at").collect() for name in ("positions", "collateral")]
    )
    seen = stamps.join(positions.select("ts").unique(), on="ts").group_by("ts").agg(pl.col("known_at").max())
    return cascade_columns(lake, venue, positions, seen)


def rows_by_symbol(lake: Lake) -> dict[str, dict[str, Any]]:
    return {str(row["symbol"]): row for row in columns_of(lake).to_dicts()}


# --- by hand ---
#
# The account `shared` holds 1,000 A at 100 and 5,000 B at 10 on 1,896 USD: maintenance 1 % of 150,000, 396 of room.
# A's fall of x costs 100,000 x and frees 1,000 x of maintenance: it trips at 396 / 99,000 = .4 %; B's at 396 / 49,500.
# The thin side holds 1M within 1 %: 2M within 2 %, 1e8 per unit of relative price.


def test_gains_fuel_and_amplification_by_hand(tmp_path: Path) -> None:
    rows = rows_by_symbol(build(tmp_path / "lake"))
    a, b = rows["A-PERP"], rows["B-PERP"]
    assert (a["kappa_fall"], b["kappa_fall"]) == (pytest.approx(0.05), pytest.approx(0.025))  # 100k and 50k over 2M
    assert a["kappa_rise"] == b["kappa_rise"] == 0.0
    # Either fall of 2 % sells 100k of A and 50k of B: .05 and .025 per unit. Both move as one, a tenth spills over:
    # rows .05 + .1 * .025 = .0525 and .025 + .1 * .05 = .03 for either source: rho = .0525 + .03.
    assert a["rho"] == b["rho"] == pytest.approx(0.0825, rel=1e-6)
    # M is of rank one: (I - M)^-1 = I + M / (1 - rho).
    assert a["amplification"] == pytest.approx(1 + 0.0525 / 0.9175, rel=1e-6)
    assert b["amplification"] == pytest.approx(1 + 0.03 / 0.9175, rel=1e-6)
    assert {row[f"cliff_{side}_bps"] for row in (a, b) for side in ("fall", "rise")} == {None}


def test_distances_and_triggers_by_hand(tmp_path: Path) -> None:
    lake = build(tmp_path / "lake")
    sd_a, sd_b = world_from_lake(lake, VENUE, SEEN).scene.sd_day.tolist()
    rows = rows_by_symbol(lake)
    # both move as one: the risk is 100,000 sd_a + 50,000 sd_b, for 396 of room
    want = 396 / (100_000 * sd_a + 50_000 * sd_b)
    assert rows["A-PERP"]["distance_sd_p10"] == rows["B-PERP"]["distance_sd_p10"] == pytest.approx(want, rel=1e-6)
    # without A 1,396 of room for 50,000 sd_b: A takes the most; sd_b is twice sd_a, so B's notional is half the risk
    assert (rows["A-PERP"]["trigger_share"], rows["B-PERP"]["trigger_share"]) == (1.0, 0.0)
    for name, distance, sd in (("A-PERP", 0.004, sd_a), ("B-PERP", 0.008, sd_b)):
        chance = touch_probability(distance, sd * np.sqrt(365), rows[name]["touch_q25_s"])
        assert chance == pytest.approx(0.25)


def test_a_book_that_fuel_outweighs_has_a_cliff_and_no_end(tmp_path: Path) -> None:
    """40k within 1 % of A: 80k within 2 % against 100k of fuel from .4 % on."""
    lake = build(tmp_path / "lake", LakeOf(depth_usd={"A-PERP": 4e4, "B-PERP": 1e6}))
    a = rows_by_symbol(lake)["A-PERP"]
    assert a["kappa_fall"] == pytest.approx(1.25)
    assert a["cliff_fall_bps"] == pytest.approx(40.0)
    assert a["cliff_rise_bps"] is None
    assert a["rho"] > 1
    assert a["amplification"] is None


def test_shorts_burn_in_a_rise(tmp_path: Path) -> None:
    """A short of 1,000 at 100 on 1,396 of its own: 396 of room, trips at a rise of 396 / 101,000."""
    lake = build(tmp_path / "lake", LakeOf(positions=[("s", "A-PERP", -1_000.0, 1_396.0)], collateral=()))
    row = rows_by_symbol(lake)["A-PERP"]
    assert (row["kappa_fall"], row["kappa_rise"]) == (0.0, pytest.approx(0.05))
    assert row["rho"] == pytest.approx(0.05)
    assert row["amplification"] == pytest.approx(1 / 0.95)
    assert row["trigger_share"] == 1.0


def test_the_tenth_that_is_nearest_counts(tmp_path: Path) -> None:
    """Isolated longs of A: 5 % of the notional near its margin, 5 % a little further, 90 % far away."""
    near, next_, far = (500.0, 5_000 * 0.01 + 5_000 * 0.005), (500.0, 5_000 * 0.01 + 5_000 * 0.02), (9_000.0, 4.5e5)
    positions = [(f"a{n}", "A-PERP", size / 10, margin) for n, (size, margin) in enumerate((near, next_, far))]
    lake = build(tmp_path / "lake", LakeOf(positions=positions, collateral=()))
    row, sd = rows_by_symbol(lake)["A-PERP"], world_from_lake(lake, VENUE, SEEN).scene.sd_day[0]
    assert row["distance_sd_p10"] == pytest.approx(0.02 / sd)  # the second: with it a tenth is reached
    assert touch_probability(0.02 / 0.99, sd * np.sqrt(365), row["touch_q25_s"]) == pytest.approx(0.25)


def test_what_lies_far_away_is_a_year(tmp_path: Path) -> None:
    """Nine tenths and more of its value behind it: no fall of half trips the position."""
    lake = build(tmp_path / "lake", LakeOf(positions=[("a", "A-PERP", 10.0, 990.0)], collateral=()))
    row = rows_by_symbol(lake)["A-PERP"]
    assert row["touch_q25_s"] == step.TOUCH_S_MAX
    assert row["kappa_fall"] == row["rho"] == 0.0
    assert row["amplification"] == 1.0


# --- what is not known ---


def told(row: dict[str, Any]) -> set[str]:
    return {name for name in NAMES if row[name] is not None and "cliff" not in name}


WITH_BOOKS = {"rho", "amplification", "kappa_fall", "kappa_rise"}
WITH_RETURNS = {"distance_sd_p10", "trigger_share", "touch_q25_s"}


def test_without_any_book_nothing_is_told(tmp_path: Path) -> None:
    rows = rows_by_symbol(build(tmp_path / "lake", LakeOf(depth_usd={})))
    assert set(rows) == {"A-PERP", "B-PERP"}
    assert [told(row) for row in rows.values()] == [set(), set()]


@pytest.mark.parametrize("change", [{"depth_usd": {"B-PERP": 1e6}}, {"marked": ("B-PERP",)}], ids=["book", "mark"])
def test_a_symbol_without_a_book_or_mark_is_not_told_nor_is_the_venue(tmp_path: Path, change: dict[str, Any]) -> None:
    """A is two thirds of the notional: what the rest says is not the venue."""
    rows = rows_by_symbol(build(tmp_path / "lake", LakeOf(**change)))
    assert told(rows["A-PERP"]) == set()
    assert told(rows["B-PERP"]) == {"kappa_fall", "kappa_rise"} | WITH_RETURNS


def test_a_small_symbol_without_a_book_does_not_silence_the_venue(tmp_path: Path) -> None:
    small = (("shared", "A-PERP", 1_000.0, None), ("other", "B-PERP", 100.0, 12.0))  # 1 % of the notional
    rows = rows_by_symbol(build(tmp_path / "lake", LakeOf(positions=small, depth_usd={"A-PERP": 1e6})))
    assert told(rows["B-PERP"]) == set()
    assert told(rows["A-PERP"]) == WITH_BOOKS | WITH_RETURNS
    # 896 of room: A trips at .9 %, 100k over 2M; B, which would trip too, stands outside of it with its unknown book
    assert rows["A-PERP"]["rho"] == pytest.approx(0.05, rel=1e-9)


def test_without_returns_books_still_tell(tmp_path: Path) -> None:
    """One mark is a price, and no deviation."""
    lake = build(tmp_path / "lake", LakeOf(marked=()))
    ts = SNAPSHOT - timedelta(minutes=5)
    marks = [
        {"venue": VENUE, "symbol": name, "ts": ts, "known_at": ts, "mark": price_of(place), "index": None, "last": None}
        for place, name in enumerate(("A-PERP", "B-PERP"))
    ]
    lake.append("marks", pl.DataFrame(marks, schema=SCHEMAS["marks"]), "later")
    assert [told(row) for row in rows_by_symbol(lake).values()] == [WITH_BOOKS, WITH_BOOKS]


def test_no_snapshot_gives_no_rows(tmp_path: Path) -> None:
    lake = build(tmp_path / "lake")
    got = cascade_columns(lake, VENUE, lake.scan("positions", VENUE).head(0).collect(), pl.DataFrame(
        schema={"ts": SCHEMA["ts"], "known_at": SCHEMA["ts"]}
    ))  # fmt: skip
    assert got.schema == SCHEMA
    assert got.is_empty()


# --- what was known then ---


def _later(frame: pl.DataFrame, change: Callable[[pl.DataFrame], pl.DataFrame], *, late: bool) -> pl.DataFrame:
    """Rows of the last stamp, changed; told after SEEN, of a time before it (`late`) or after."""
    rows = change(frame.filter(pl.col("ts") == pl.col("ts").max()))
    known = pl.lit(SEEN + timedelta(seconds=1)).cast(frame.schema["known_at"])
    ts = pl.col("ts") + timedelta(milliseconds=500) if late else known
    return rows.with_columns(known.alias("known_at"), ts.cast(frame.schema["ts"]).alias("ts"))


@pytest.mark.parametrize("late", [True, False], ids=["an earlier time, told later", "a later time"])
def test_what_became_known_later_changes_nothing(tmp_path: Path, late: bool) -> None:
    lake = build(tmp_path / "lake")
    want = columns_of(lake)
    changes = {
        "marks": pl.col("mark") * 0.5,
        "book_depth": pl.col("depth_usd") * 0.01,
        "collateral": pl.col("amount") * 0.0,
    }
    positions = lake.scan("positions", VENUE).collect()
    for table, changed in changes.items():
        frame = lake.scan(table, VENUE).collect()
        lake.append(table, _later(frame, lambda rows, x=changed: rows.with_columns(x), late=late), f"{table} later")
    seen = pl.DataFrame({"ts": [SNAPSHOT], "known_at": [SEEN]}, schema={"ts": SCHEMA["ts"], "known_at": SCHEMA["ts"]})
    assert_frame_equal(cascade_columns(lake, VENUE, positions, seen), want, check_exact=True)
    after = seen.with_columns(pl.col("known_at") + timedelta(seconds=5))
    assert not cascade_columns(lake, VENUE, positions, after).equals(want)  # the changes are there to be seen


T0 = datetime(2025, 1, 1, tzinfo=UTC)
MINUTES = st.integers(0, 40)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.sampled_from("abc"), MINUTES, st.integers(-2, 15)), min_size=1, unique_by=lambda r: r[:2]
    ),
    moments=st.lists(MINUTES, min_size=1, max_size=8),
)
def test_moment_by_moment_is_what_one_look_gives(rows: list[tuple[str, int, int]], moments: list[int]) -> None:
    """Rows come late, or are stamped later than they were told; age 10 minutes."""
    minute = timedelta(minutes=1)
    facts = [
        {"key": key, "ts": T0 + at * minute, "known_at": T0 + (at + delay) * minute, "value": float(place)}
        for place, (key, at, delay) in enumerate(rows)
    ]
    frame = pl.DataFrame(facts, schema_overrides={"ts": SCHEMA["ts"], "known_at": SCHEMA["ts"]})
    asked = pl.Series([T0 + at * minute for at in sorted(moments)], dtype=SCHEMA["ts"])
    found = newest_at_each(frame.lazy(), asked, ["key"], ["value"], 10 * minute)
    for at, got in zip(asked, found, strict=True):
        want = newest(frame.lazy(), at, ["key"], 10 * minute).collect()
        assert got.sort("key").equals(want.select(got.columns).sort("key"))


# --- a simulated venue ---


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory, small_config: Config) -> Lake:
    lake = Lake(tmp_path_factory.mktemp("cascades") / "lake")
    simulate_venue(lake, small_config, SIM_START)
    return lake


@pytest.fixture(scope="module")
def at_once(simulated: Lake) -> pl.DataFrame:
    return columns_of(simulated, "sim")


def test_every_snapshot_is_the_world_known_at_its_moment(simulated: Lake, at_once: pl.DataFrame) -> None:
    stamps = simulated.scan("positions", "sim").group_by("ts").agg(pl.col("known_at").max()).sort("ts").collect()
    assert stamps.height > 10
    assert at_once["kappa_fall"].null_count() == 0
    for ts, at in stamps.rows()[::5]:
        want = step._values(world_from_lake(simulated, "sim", at))
        got = at_once.filter(pl.col("ts") == ts)
        assert {name: got[name].to_list() for name in NAMES} == {
            name: values.to_list() for name, values in want.items()
        }


def test_the_step_writes_them_whatever_the_interval(simulated: Lake, at_once: pl.DataFrame) -> None:
    end = at_once["ts"].max()
    assert isinstance(end, datetime)
    for hours in (48, 2):
        rows = build_structure(simulated, "sim", Interval(end - timedelta(hours=hours), end))
        assert rows.columns == polars_schema(Structure).names()
        joined = rows.select(SCHEMA.names())
        want = at_once.join(joined.select("symbol", "ts"), on=["symbol", "ts"])
        assert_frame_equal(joined, want, check_exact=True, check_row_order=False)
        stored = simulated.scan("structure", "sim", end - timedelta(hours=hours), end).collect()
        assert_frame_equal(stored.sort("symbol", "ts"), rows.sort("symbol", "ts"), check_exact=True)
        Structure.validate(rows)
