"""What must hold for every feature of the catalogue."""

import ast
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from features import catalogue, matrix
from features.catalogue import FAMILIES, FAMILY_OF, FEATURES, LOOKBACK_MIN, MONOTONE, NAMES, TAILS, inputs_of
from features.feature import Feature, Step
from features.matrix import feature_matrix
from features.schema import Bars, polars_schema
from tests.features.worlds import START, World, bars_from, rich, rich_structure, rich_world

CUT = 1_700
LAST = 2_000
PACKAGE = Path(catalogue.__file__).parent
CALENDAR = ("hour_sin", "hour_cos", "weekend")  # read the clock alone: never null


@pytest.fixture(scope="module")
def world() -> World:
    return rich_world(LAST)


@pytest.fixture(scope="module")
def full(world: World) -> pl.DataFrame:
    return world.matrix()


def test_the_registries_speak_of_the_same_features() -> None:
    assert len(set(NAMES)) == len(NAMES) == len(FEATURES)
    assert set(FAMILY_OF) == set(TAILS) == set(NAMES)
    assert set(MONOTONE) <= set(NAMES)
    assert list(FAMILIES) == [
        *("cancels", "leverage", "crowding", "thin_book", "structure", "context", "drift", "health")
    ]


def test_the_matrix_is_keyed_sorted_and_float(full: pl.DataFrame) -> None:
    assert full.columns == ["venue", "symbol", "ts", "known_at", *NAMES]
    assert set(full.select(NAMES).dtypes) == {pl.Float64}
    assert full.select("symbol", "ts").equals(full.select("symbol", "ts").sort("symbol", "ts"))
    assert full.height == 3 * LAST


@pytest.mark.parametrize("name", [name for name in NAMES if name != "weekend"])
def test_a_rich_market_gives_values_that_vary(full: pl.DataFrame, name: str) -> None:
    later = full.filter(pl.col("ts") > START + timedelta(minutes=LOOKBACK_MIN))[name]
    assert later.null_count() == 0
    assert later.n_unique() > 1


def _after(t: int) -> pl.Expr:
    return pl.col("ts") > START + timedelta(minutes=t)


def _perturbed(frame: pl.DataFrame, t: int) -> pl.DataFrame:
    """`frame` with every number after minute `t` changed."""
    numbers = [name for name, dtype in frame.schema.items() if dtype.is_numeric()]
    return frame.with_columns(
        pl.when(_after(t)).then(pl.col(name) * 3 + 1).otherwise(pl.col(name)).cast(frame.schema[name]).alias(name)
        for name in numbers
    )


@pytest.fixture(scope="module")
def truncated(world: World) -> pl.DataFrame:
    return world.until(START + timedelta(minutes=CUT)).matrix()


@pytest.fixture(scope="module")
def perturbed(world: World) -> pl.DataFrame:
    changed = world.each(lambda frame: _perturbed(frame, CUT))
    changed = replace(changed, norms=_perturbed(world.norms, CUT + 60))  # a norm is known before its hour begins
    return changed.matrix().filter(~_after(CUT))


@pytest.mark.parametrize("name", NAMES)
def test_cutting_the_future_off_changes_nothing_before(full: pl.DataFrame, truncated: pl.DataFrame, name: str) -> None:
    before = full.filter(~_after(CUT))
    assert before[name].equals(truncated[name])


@pytest.mark.parametrize("name", NAMES)
def test_changing_the_future_changes_nothing_before(
    full: pl.DataFrame, world: World, perturbed: pl.DataFrame, name: str
) -> None:
    assert full.filter(~_after(CUT))[name].equals(perturbed[name])


def test_a_feature_that_peeks_is_caught(world: World) -> None:
    """The causality tests rest on this: a peeking expression does change when the future is cut off."""
    bars = world.bars.filter(pl.col("symbol") == "A-PERP")
    peek = pl.col("close").shift(-1).alias("peek")
    cut = bars.filter(~_after(CUT)).select(peek)["peek"]
    assert not bars.select(peek)["peek"].head(CUT).equals(cut)


@pytest.fixture(scope="module")
def alone(world: World) -> pl.DataFrame:
    return world.each(lambda frame: frame.filter(pl.col("symbol") == "B-PERP")).matrix()


OF_THE_MARKET = [name for name in NAMES if any(column.startswith("market_") for column in inputs_of(name))]


def test_symbols_see_each_other_in_the_features_of_the_whole_market_alone(
    full: pl.DataFrame, alone: pl.DataFrame
) -> None:
    own = [name for name in full.columns if name not in OF_THE_MARKET]
    both = full.filter(pl.col("symbol") == "B-PERP")
    assert_frame_equal(both.select(own), alone.select(own), check_exact=True)
    assert all(not both[name].equals(alone[name]) for name in OF_THE_MARKET)


def test_the_size_of_a_stack_does_not_matter(world: World, full: pl.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matrix, "STACK_ROWS", 1)
    assert_frame_equal(world.matrix(), full, check_exact=True)


def test_a_spacer_that_is_too_short_lets_symbols_touch(
    world: World, full: pl.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The two tests above rest on this: without empty bars the second symbol does see the first."""
    monkeypatch.setattr(Step, "back", lambda *_: 1)
    assert not world.matrix().select(NAMES).equals(full.select(NAMES))


def test_the_order_of_the_rows_does_not_matter(world: World, full: pl.DataFrame) -> None:
    shuffled = world.each(lambda frame: frame.sample(fraction=1.0, shuffle=True, seed=1))
    assert_frame_equal(shuffled.matrix(), full, check_exact=True)


def test_prices_in_another_unit_change_no_feature(world: World, full: pl.DataFrame) -> None:
    prices = ("open", "high", "low", "close", "mark", "index", "bid", "ask")
    scaled = replace(world, bars=world.bars.with_columns(pl.col(name) * 1024.0 for name in prices))
    assert_frame_equal(scaled.matrix(), full, check_exact=True)


def test_open_interest_in_another_unit_changes_no_feature(world: World, full: pl.DataFrame) -> None:
    scaled = replace(world, bars=world.bars.with_columns(pl.col("oi_base") * 4.0))
    assert_frame_equal(scaled.matrix(), full, check_exact=True)


def test_known_at_waits_for_the_latest_bar_a_feature_looks_back_on() -> None:
    late = START + timedelta(minutes=30)
    bars = rich(20).with_columns(
        pl.when(pl.col("ts") == START + timedelta(minutes=5)).then(late).otherwise("known_at").alias("known_at")
    )
    known = feature_matrix(bars)["known_at"].to_list()
    assert known[3] == START + timedelta(minutes=4)
    assert set(known[4:]) == {late}


def test_a_structure_is_used_when_known_and_until_it_is_too_old() -> None:
    bars = rich(200)
    row = rich_structure(bars).filter(pl.col("ts") == START + timedelta(minutes=15))  # known at minute 16
    fuel = feature_matrix(bars, row)["fuel_side"].is_not_null().to_list()
    assert [minute for minute, known in enumerate(fuel, start=1) if known] == list(range(16, 106))


def test_without_tables_there_are_only_nulls_and_no_error() -> None:
    empty = bars_from(close=[None] * 50)
    matrix = feature_matrix(empty)
    assert matrix.height == 50
    silent = [name for name in NAMES if name not in CALENDAR]
    assert matrix.select(pl.all_horizontal(pl.col(silent).is_null().all())).item()
    assert matrix.select(CALENDAR).null_count().sum_horizontal().item() == 0
    assert feature_matrix(empty.head(0)).columns == matrix.columns


def test_trades_alone_feed_the_features_of_a_real_public_day() -> None:
    """Public archives often hold trades and a spot index only: volatility, Amihud, Kyle and basis must still speak."""
    keep = "open high low close trades volume_usd buy_usd sell_usd trade_age_s trade_ids_missing latency_ms_max"
    kept = ["venue", "symbol", "ts", "known_at", "index", "index_age_s", "rows_refused", *keep.split()]
    bars = rich(700)
    public = bars.select(pl.col(n) if n in kept else pl.lit(None, dtype=bars.schema[n]).alias(n) for n in bars.columns)
    last = feature_matrix(public).row(-1, named=True)
    speaking = {name for name in NAMES if last[name] is not None}
    assert speaking == {
        *("basis_bps_5", "basis_score_5", "basis_heat_15", "vol_ratio_15", "parkinson_ratio_15", "vol_score_15"),
        *("basis_trend_60", "vol_annual_60", "vol_short_long_5", "vol_of_vol_240", "vol_wick_60", "vol_one_way_60"),
        "vol_gap_share_60",
        *("jump_share_60", "amihud_score_15", "range_score_15", "kyle_slope_60", "kyle_score_60"),
        *("trade_gap_share_5", "latency_ratio_5", "feed_stale_s", "rows_refused_5"),
        *("volume_imbalance_15", "shock_decay_240"),
        *CALENDAR,
    }


@pytest.mark.parametrize(
    ("bars", "complaint"),
    [
        (pl.concat([rich(5), rich(5).with_columns(venue=pl.lit("other"))]), "one venue"),
        (pl.concat([rich(5), rich(5)]), "one row per symbol and ts"),
    ],
)
def test_bars_that_are_not_one_grid_are_refused(bars: pl.DataFrame, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        feature_matrix(bars)


# No NaN and no infinity, whatever the bars hold.

_INTS = st.sampled_from([0, 0, 1, 1_000, 10**6, 10**15, 2**63 - 1, -5]) | st.none()
_FLOATS = st.sampled_from([0.0, 1e-300, 1e-12, 1.0, 100.0, 101.0, 1e12, 1e300, -1.0, float("nan"), float("inf")])
_KEYS = ("venue", "symbol", "ts", "known_at", "index_source")


@st.composite
def wild_bars(draw: st.DrawFn) -> pl.DataFrame:
    """Spells of constant values, each of a draw of extremes: silence, faults, jumps and holes."""
    spells = draw(st.lists(st.integers(1, 300), min_size=1, max_size=4))
    columns: dict[str, list[Any]] = {}
    for name, dtype in polars_schema(Bars).items():
        if name not in _KEYS:
            values = _INTS if dtype == pl.Int64 else _FLOATS | st.none()
            drawn = draw(st.lists(values, min_size=len(spells), max_size=len(spells)))
            columns[name] = [v for v, length in zip(drawn, spells, strict=True) for _ in range(length)]
    return bars_from(**{name: pl.Series(values, strict=False) for name, values in columns.items()})


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(wild_bars())
def test_nothing_is_ever_nan_or_infinite(bars: pl.DataFrame) -> None:
    matrix = feature_matrix(bars, rich_structure(bars)).select(NAMES)
    assert all(column.is_finite().fill_null(True).all() for column in matrix)


def test_silence_is_neither_null_nor_a_score() -> None:
    """A market in which nothing moves or trades scores zero: the floors stand in for the missing spread."""
    still = {n: pl.Series([0] * 700) for n, dtype in polars_schema(Bars).items() if dtype == pl.Int64}
    prices = {n: pl.Series([100.0] * 700) for n in ("open", "high", "low", "close", "index")}
    ages = {n: pl.Series([1.0] * 700) for n in ("trade_age_s", "index_age_s", "depth_age_s", "quote_age_s")}
    ages |= {n: pl.Series([1.0] * 700) for n in ("spread_bps", "spread_bps_max")}
    last = feature_matrix(bars_from(**still, **prices, **ages)).row(-1, named=True)
    names = [n for n in NAMES if n.rsplit("_", 1)[0].endswith(("_burst", "_score", "_ratio", "_drop", "_slope"))]
    scores = {
        n: last[n] for n in names if FAMILY_OF[n] != "leverage" and n not in ("crowding_score_15", "latency_ratio_5")
    }
    assert len(scores) >= 10
    assert all(abs(value) < 1e-3 for value in scores.values())


def test_one_faulty_bar_does_not_poison_the_rest() -> None:
    """Rolling float sums would carry a NaN or an infinity for ever; here it costs its own windows only."""
    bars = rich(LAST)
    wild = pl.when(pl.col("ts") == START + timedelta(minutes=100))
    numbers = [n for n, dtype in bars.schema.items() if dtype == pl.Float64]
    faulty = bars.with_columns(wild.then(float("nan")).otherwise(pl.col(n)).alias(n) for n in numbers)
    structure = rich_structure(bars)
    clean, after = (feature_matrix(b, structure).filter(_after(100 + LOOKBACK_MIN)) for b in (bars, faulty))
    assert_frame_equal(clean, after, check_exact=True)


# What a reader must find, and what a reviewer must not have to look for.


CARD = (
    "feature",
    "idea and formula",
    "unit",
    "lookback",
    "tail",
    "mirror",
    "dollars",
    "null when",
    "source",
    "fails when",
)


def _cards() -> dict[str, dict[str, str]]:
    """Feature -> its card, from the tables of the README."""
    found: dict[str, dict[str, str]] = {}
    text = (PACKAGE / "README.md").read_text(encoding="utf-8").split("## Cards")[1].split("\n## ")[0]
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").replace("\\|", "/").split("|")]
        if line.startswith("| `"):
            assert len(cells) == len(CARD), line
            name = cells[0].strip("`")
            assert name not in found, name
            found[name] = dict(zip(CARD, cells, strict=True))
    return found


def test_the_cards_are_those_of_the_catalogue_in_its_order() -> None:
    assert list(_cards()) == list(NAMES)


@pytest.mark.parametrize("feature", catalogue.catalogue().features, ids=lambda feature: feature.name)
def test_every_card_says_what_the_record_says(feature: Feature) -> None:
    card = _cards()[feature.name]
    told = (card["lookback"], card["tail"], card["mirror"], card["dollars"])
    assert told == (str(feature.lookback_min), feature.tail, feature.mirror, feature.scale)
    assert all(len(card[part]) > 1 for part in ("idea and formula", "unit", "null when", "source", "fails when"))


FORWARD = (
    "shift(-",
    "reverse",
    "center=True",
    "backward_fill",
    'strategy="backward_fill"',
    "fill_null(strategy",
    "bfill",
)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.name)
def test_only_labels_may_look_forward(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    if path.name != "labels.py":
        assert [word for word in FORWARD if word in text] == []
        assert 'strategy="forward"' not in text
        assert "def future_" not in text
        assert "features.labels" not in text


def _divides_by_a_number(node: ast.AST) -> bool:
    """Whether an expression is divided by a plain number that is no power of two."""
    if not (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)):
        return False
    calls = [call.func for call in ast.walk(node.left) if isinstance(call, ast.Call)]
    of_columns = any(
        not (isinstance(f, ast.Attribute) and getattr(f.value, "id", "") in ("math", "step")) for f in calls
    )
    right = node.right
    plain = isinstance(right, ast.Constant) and right.value not in (2, 4)
    named = isinstance(right, ast.Name) and (right.id.isupper() or right.id in ("window", "baseline", "usd"))
    return of_columns and (plain or named or ast.unparse(right).startswith("math."))


EXPRESSIONS = ("cancels", "leverage", "crowding", "thin_book", "structural", "context", "health", "exact", "volatility")


@pytest.mark.parametrize("module", EXPRESSIONS)
def test_no_expression_is_divided_by_a_plain_number(module: str) -> None:
    """Polars divides a column of one row, and multiplies a longer one with the inverse: the last bit would depend on
    how many rows are computed at once. Multiplying with the inverse does not."""
    tree = ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))
    assert [ast.unparse(node) for node in ast.walk(tree) if _divides_by_a_number(node)] == []


def test_a_division_by_a_plain_number_is_seen() -> None:
    tree = ast.parse("x = log_return() / 3\ny = 1 / 3\nz = pl.col('a') / pl.col('b')\nw = steps(x) / window")
    assert [ast.unparse(node) for node in ast.walk(tree) if _divides_by_a_number(node)] == [
        "log_return() / 3",
        "steps(x) / window",
    ]
