"""Data health: every fault and every reason is reached by a world made for it, and every null has one."""

import time
from datetime import timedelta
from typing import Any

import polars as pl
import pytest

from features.catalogue import NAMES, catalogue
from features.faults import INPUTS, input_health, inputs_read, null_reasons
from features.feature import Feature
from features.leverage import oi_change
from features.matrix import Beside, _with_structure, feature_matrix, features_and_health
from tests.features.worlds import START, World, holed, rich, rich_structure, rich_world

FEATURES = {feature.name: feature for feature in catalogue().features}
AT = 700  # the bar that is made faulty, of 720
WORLD = rich_world(720, ("A-PERP",))


def _faulty(**columns: Any) -> pl.DataFrame:
    """Bars of a rich world in which bar AT has these values."""
    here = pl.int_range(pl.len()) == AT
    return WORLD.bars.with_columns(
        pl.when(here).then(pl.lit(value, dtype=WORLD.bars.schema[name])).otherwise(pl.col(name)).alias(name)
        for name, value in columns.items()
    )


FAULTS: list[tuple[str, dict[str, Any], str | None]] = [
    ("depth", {"book_rows_crossed": 1, "depth_age_s": 61.0}, "crossed"),
    ("depth", {"book_rows_crossed": 1, "depth_age_s": 60.0}, None),  # a good row came after it
    ("depth", {"book_rows_frozen": 1, "depth_age_s": 61.0}, "frozen"),
    ("depth", {"depth_unchanged_s": 301.0}, "frozen"),
    ("depth", {"depth_unchanged_s": 300.0}, None),
    ("depth", {"depth_bid_100bps_usd": None}, "absent"),
    ("depth", {"depth_bid_100bps_usd": -1}, "implausible"),
    ("depth", {"depth_age_s": 301.0}, "stale"),
    ("depth", {"depth_age_s": None}, "stale"),  # an age that is not known is no age
    ("depth", {"depth_age_s": 300.0}, None),
    ("trades", {"close": None}, "absent"),
    ("trades", {"close": float("nan")}, "implausible"),
    ("book events", {"cancels": None}, "absent"),
    ("quotes", {"quote_age_s": 301.0}, "stale"),
    ("quotes", {"bid": 0.0}, "implausible"),
    ("mark", {"mark_age_s": 301.0}, "stale"),
    ("index", {"index": None}, "absent"),
    ("funding", {"funding_age_s": 57_601.0}, "stale"),  # two intervals of 8 h are 57 600 s
    ("funding", {"funding_age_s": 57_600.0}, None),
    ("funding", {"funding_interval_h": None}, "stale"),
    ("open interest", {"oi_age_s": 3_901.0}, "stale"),
    ("liquidations", {"liqs": None}, "absent"),
]


@pytest.mark.parametrize(("name", "columns", "want"), FAULTS)
def test_fault_by_hand(name: str, columns: dict[str, Any], want: str | None) -> None:
    health = input_health(_with_structure(_faulty(**columns), WORLD.structure))
    column = health[f"{name.replace(' ', '_')}_fault"]
    assert column[AT] == want
    assert column[AT - 1] is None


def test_every_input_is_tried() -> None:
    assert {name for name, *_ in FAULTS} | {"structure"} == set(INPUTS)


READERS = {"depth": "depth_imbalance", "open interest": "oi_over_volume_60", "funding": "funding_annual"}


@pytest.mark.parametrize(("name", "columns", "want"), [row for row in FAULTS if row[0] in READERS])
def test_a_feature_is_null_exactly_where_its_input_is_at_fault(
    name: str, columns: dict[str, Any], want: str | None
) -> None:
    """`usable` and `input_health` state the same limits in two places."""
    told = feature_matrix(_faulty(**columns).tail(90))[READERS[name]]
    assert (told[AT - 720] is None) == (want is not None)


def test_a_structure_that_is_too_old_is_stale_and_one_that_never_was_is_absent() -> None:
    bars = rich(200)
    row = rich_structure(bars).filter(pl.col("ts") == START + timedelta(minutes=15))  # known at minute 16
    faults = input_health(_with_structure(bars, row))["structure_fault"].to_list()
    assert faults == ["absent"] * 15 + [None] * 90 + ["stale"] * 95


def _reason(bars: pl.DataFrame, name: str, minute: int = AT + 1, world: World = WORLD) -> str | None:
    """Why feature `name` is null at the bar that ends `minute` minutes in; None where it is not."""
    matrix, health = features_and_health(bars, Beside(world.structure, world.norms, world.peers))
    told = null_reasons(matrix, health, [FEATURES[name]])
    found = told.filter(pl.col("ts") == START + timedelta(minutes=minute))["reason"].to_list()
    return found[0] if found else None


REASONS: list[tuple[str, dict[str, Any], str, int, str | None]] = [
    ("the book was crossed", {"book_rows_crossed": 1, "depth_age_s": 61.0}, "depth_imbalance", 1, "depth crossed"),
    ("the book stood still", {"depth_unchanged_s": 301.0}, "depth_imbalance", 1, "depth frozen"),
    ("no book", {"depth_bid_100bps_usd": None}, "depth_imbalance", 1, "depth absent"),
    ("an old book", {"depth_age_s": 301.0}, "depth_imbalance", 1, "depth stale"),
    ("an impossible book", {"depth_bid_100bps_usd": -1}, "depth_imbalance", 1, "depth implausible"),
    ("5 min ago, at the other end", {"depth_age_s": 301.0}, "depth_drain_5", 6, "depth stale"),
    ("6 min ago it is over", {"depth_age_s": 301.0}, "depth_drain_5", 7, None),
    ("nothing traded", {"trades": 0, "trade_ids_missing": 0}, "trade_gap_share_5", 1, None),
    ("no cancels told", {"cancels": None, "cancel_bid_usd": None}, "cancel_side_5", 5, "book events absent"),
]


@pytest.mark.parametrize(("why", "columns", "name", "later", "want"), REASONS, ids=[row[0] for row in REASONS])
def test_reason_by_hand(why: str, columns: dict[str, Any], name: str, later: int, want: str | None) -> None:
    assert _reason(_faulty(**columns), name, AT + later) == want, why


def test_a_ratio_of_nothing_is_not_defined() -> None:
    silent = WORLD.bars.with_columns(trades=pl.lit(0, dtype=pl.Int64), trade_ids_missing=pl.lit(0, dtype=pl.Int64))
    assert _reason(silent, "trade_gap_share_5") == "not defined here"


def test_a_history_that_is_too_short_is_said_to_be() -> None:
    assert _reason(WORLD.bars, "oi_change_30", 30) == "history shorter than the window"
    assert _reason(WORLD.bars, "oi_change_30", 31) is None


def test_a_fault_within_the_window_comes_before_a_short_history() -> None:
    early = WORLD.bars.with_columns(pl.when(pl.col("ts") > START + timedelta(minutes=3)).then("oi_usd").alias("oi_usd"))
    assert _reason(early, "oi_change_30", 30) == "open interest absent"


def test_missing_norms_and_snapshots_are_named() -> None:
    bare = World(WORLD.bars, WORLD.structure.clear(), WORLD.norms.clear(), WORLD.peers)
    assert _reason(WORLD.bars, "depth_norm", world=bare) == "too little known of norms"
    assert _reason(WORLD.bars, "fuel_side", world=bare) == "structure absent"


def test_of_two_faults_the_later_one_is_the_reason() -> None:
    """The first input that a feature reads was once told even where its fault was long over."""
    feature = Feature("both", pl.col("volume_usd") + pl.col("depth_bid_100bps_usd") + pl.col("mark"), 60)
    assert inputs_read(feature)[0] != "mark"
    broken = _faulty(depth_age_s=301.0).with_columns(
        pl.when(pl.int_range(pl.len()) != AT + 5).then("mark").alias("mark"),
    )
    health = input_health(_with_structure(broken, WORLD.structure))
    matrix = broken.select("venue", "symbol", "ts", "known_at", pl.lit(None, dtype=pl.Float64).alias("both"))
    told = null_reasons(matrix, health, [feature])["reason"].to_list()
    assert told[AT] == told[AT + 4] == "depth stale"
    assert told[AT + 5] == told[AT + 19] == "mark absent"


def test_what_a_feature_reads_is_told_by_its_columns() -> None:
    assert inputs_read(Feature("x", pl.col("book_gaps") + pl.col("rows_refused"), 0)) == ()
    assert inputs_read(FEATURES["structure_age_min"]) == ("structure",)
    assert inputs_read(FEATURES["weekend"]) == ()
    assert inputs_read(Feature("oi_change_30", oi_change(30), 30)) == ("open interest",)
    known = {*INPUTS, "norms", "other symbols", "other venues"}
    assert {name for feature in FEATURES.values() for name in inputs_read(feature)} <= known


@pytest.fixture(scope="module")
def torn() -> tuple[pl.DataFrame, pl.DataFrame]:
    world = holed(rich_world(900), 1)
    return features_and_health(world.bars, Beside(world.structure, world.norms, world.peers))


def test_every_null_has_exactly_one_reason(torn: tuple[pl.DataFrame, pl.DataFrame]) -> None:
    matrix, health = torn
    told = null_reasons(matrix, health, catalogue().features)
    key = ["venue", "symbol", "ts", "feature"]
    nulls = matrix.unpivot(NAMES, index=["venue", "symbol", "ts"], variable_name="feature").filter(
        pl.col("value").is_null()
    )
    assert told["reason"].null_count() == 0
    assert told.select(key).is_duplicated().sum() == 0
    assert told.select(key).sort(key).equals(nulls.select(key).sort(key))
    assert told["reason"].n_unique() > 10


def test_no_features_no_reasons(torn: tuple[pl.DataFrame, pl.DataFrame]) -> None:
    told = null_reasons(*torn, [])
    assert told.is_empty()
    assert told.schema == null_reasons(*torn, [FEATURES["fuel_side"]]).schema


def test_the_order_of_health_does_not_matter(torn: tuple[pl.DataFrame, pl.DataFrame]) -> None:
    matrix, health = torn
    mixed = health.sample(fraction=1.0, shuffle=True, seed=1)
    some = [FEATURES[name] for name in ("depth_drop_240", "oi_score_30")]
    assert null_reasons(matrix, mixed, some).equals(null_reasons(matrix, health, some))


def test_reasons_of_200_000_rows_take_seconds(torn: tuple[pl.DataFrame, pl.DataFrame]) -> None:
    matrix, health = (
        pl.concat([part.with_columns(pl.col("symbol") + f"-{number}") for number in range(75)]) for part in torn
    )
    assert matrix.height > 200_000
    begun = time.perf_counter()
    told = null_reasons(matrix, health, catalogue().features)
    assert time.perf_counter() - begun < 15  # 2 s on an idle machine
    assert told.height > 1_000_000
