"""Facts of two lakes: what is refused, what is judged, the page, and the simulator against bands of real figures."""

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from features.schema import CANONICAL, Quarantine, polars_schema
from models.facts import FACTS
from pipelines.config import Config, SimulatorConfig
from pipelines.errors import InputError
from pipelines.facts import build_facts, measure, sound_depth, sound_liquidations, verdicts, window_days
from pipelines.ingest import Choice, ingest
from pipelines.lake import Lake
from pipelines.simulate import simulate_venue
from tests.pipelines.conftest import World

START = datetime(2025, 1, 1, tzinfo=UTC)
WINDOW_D = 5
# Real 5 to 95 % over four bybit symbols and binance's BTC in windows of five days, September 2025 to February 2026;
# clusters: smallest to largest of five hyperliquid symbols, May 2025; depth: one morning of one symbol, two errors.
BANDS = {
    "tail_index_left": (1.97, 3.37),
    "tail_index_right": (1.9, 3.27),
    "kurtosis_5min": (3.84, 78.6),
    "kurtosis_hour_ratio": (0.0255, 1.99),
    "return_acf_1": (-0.0866, 0.0854),
    "volatility_acf_1": (0.154, 0.414),
    "volatility_acf_12": (0.0465, 0.23),
    "volatility_acf_60": (-0.0108, 0.136),
    "volatility_decay": (0.241, 0.965),
    "volume_volatility": (0.38, 0.58),
    "funding_acf_1": (-0.269, 0.606),
    "funding_acf_3": (-0.531, 0.402),
    "depth_volatility_day": (-0.159, 0.018),
    "cluster_size_mean": (2.53, 4.14),
    "cluster_single_share": (0.19, 0.547),
    "cluster_regime_mean": (1.95, 2.67),
    "cluster_usd_log_sd": (1.98, 3.03),
}
# The simulator misses these; `volatility_decay` by a hair in a run this short, the others in long ones too. The table
# beside the simulator says by how much. One that comes right stays allowed here.
MISSED = {
    "volume_volatility", "volatility_decay", "depth_volatility_day", "cluster_size_mean", "cluster_single_share",
    "cluster_regime_mean", "cluster_usd_log_sd",
}  # fmt: skip


def liquidations(venue: str, gap_s: float, many: int = 200, usd: float = 5.0) -> pl.DataFrame:
    """Fills of one symbol `gap_s` apart whose dollars spread over four powers of ten above `usd`."""
    rows = [
        {"venue": venue, "symbol": "X", "ts": START + timedelta(seconds=gap_s * i), "seq": i, "price": 1.0,
         "known_at": START + timedelta(seconds=gap_s * i), "position_side": ("long", "short")[i % 2],
         "qty": usd * 10 ** (i % 5), "notional_usd": usd * 10 ** (i % 5), "path": "market"}
        for i in range(many)
    ]  # fmt: skip
    return pl.DataFrame(rows, schema=polars_schema(CANONICAL["liquidations"]))


def test_a_throttled_feed_is_refused_and_a_whole_one_beside_it_kept(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    lake.append("liquidations", liquidations("throttled", 1.4), "one")
    lake.append("liquidations", liquidations("whole", 0.4), "two")
    kept = sound_liquidations(lake)
    assert kept["venue"].unique().to_list() == ["whole"]
    assert kept.height == 200


def test_hours_with_refused_depth_are_left_out(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    stamps = [START + timedelta(minutes=10 * i) for i in range(1, 18)]
    depth = [
        {"venue": "v", "symbol": "X", "ts": ts, "known_at": ts, "side": side, "band_bps": 100, "depth_usd": 1e6}
        for ts in stamps
        for side in ("bid", "ask")
    ]
    lake.append("book_depth", pl.DataFrame(depth, schema=polars_schema(CANONICAL["book_depth"])), "depth")
    line = {
        "table": "book_depth", "source": "f", "source_sha256": "0", "line": 2, "item": 0, "venue": "v", "symbol": "X",
        "ts": START + timedelta(minutes=75), "known_at": START + timedelta(minutes=75), "reason": "crossed_book",
        "raw": "",
    }  # fmt: skip
    lake.append("quarantine", pl.DataFrame([line], schema=polars_schema(Quarantine)), "refused")
    assert sorted(sound_depth(lake)["ts"].dt.hour().unique()) == [0, 2]  # 75 minutes are in the second hour


def test_the_window_is_as_many_whole_days_as_were_simulated_and_a_short_run_is_refused(
    world: World, tmp_path: Path
) -> None:
    assert window_days(world.lake) == 1  # 30 hours
    short = Lake(tmp_path / "short")
    short.append("candles", world.lake.scan("candles").filter(pl.col("ts") <= pl.col("ts").min()).collect(), "few")
    with pytest.raises(InputError, match="at least a day of simulated candles"):
        build_facts(world.lake, short, tmp_path / "facts.html")
    with pytest.raises(InputError, match="no candles to compare with"):
        build_facts(Lake(tmp_path / "nothing"), world.lake, tmp_path / "facts.html")


def test_a_lake_against_itself_is_within_on_every_fact_that_is_judged(world: World) -> None:
    mine = measure(world.lake, 1)
    found = verdicts(mine, mine)
    assert found["fact"].to_list() == [fact.name for fact in FACTS]
    judged = found.filter(pl.col("real_low").is_not_null())
    assert judged["verdict"].unique().to_list() == ["within the real range"]
    assert {"tail_index_left", "cancel_to_trade_usd", "depth_volatility_day"} <= set(judged["fact"])
    assert found["simulated"].drop_nulls().is_finite().all()


def test_twice_the_cancels_are_twice_the_ratio_and_nothing_else_moves(world: World, tmp_path: Path) -> None:
    doubled = Lake(tmp_path / "doubled")
    for table in ("candles", "funding", "book_depth", "liquidations"):
        doubled.append(table, world.lake.scan(table).collect(), table)
    events = world.lake.scan("book_events").collect()
    twice = pl.when(pl.col("event") == "cancel").then(2 * pl.col("qty")).otherwise(pl.col("qty"))
    doubled.append("book_events", events.with_columns(qty=twice), "book_events")
    key = ["fact", "venue", "symbol", "window"]
    both = measure(world.lake, 1).values.join(measure(doubled, 1).values, on=key, nulls_equal=True)
    ratio = both.with_columns(ratio=pl.col("value_right") / pl.col("value")).drop_nulls("ratio")
    cancels = pl.col("fact") == "cancel_to_trade_usd"
    assert ratio.filter(cancels)["ratio"].to_list() == pytest.approx([2.0, 2.0])
    assert ratio.filter(~cancels)["ratio"].to_list() == pytest.approx([1.0] * ratio.filter(~cancels).height)


def test_the_page_is_one_file_that_loads_nothing_and_comes_out_the_same_twice(world: World, tmp_path: Path) -> None:
    one = build_facts(world.lake, world.lake, tmp_path / "one.html")
    build_facts(world.lake, world.lake, tmp_path / "two.html")
    text = (tmp_path / "one.html").read_text(encoding="utf-8")
    assert text == (tmp_path / "two.html").read_text(encoding="utf-8")
    assert one.bytes == len(text.encode())
    assert one.within + one.beyond + one.unjudged == len(FACTS)
    assert not re.search(r"<(?:script|link|img)[^>]+(?:src|href)=\"(?!data:)", text)
    figures = json.loads(re.search(r'id="figures">(.*?)</script>', text).group(1))  # type: ignore[union-attr]  # found
    assert len(figures) == text.count('data-figure="') == len(FACTS) + text.count("<figcaption>")
    assert all(figure["data"] for figure, fact in zip(figures[-len(FACTS) :], one.facts, strict=True) if fact["real_n"])
    for fact in FACTS:
        assert fact.name.replace("_", " ") in text


def test_a_page_that_cannot_be_written_is_one_error_and_leaves_nothing(world: World, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="the page cannot be written"):
        build_facts(world.lake, world.lake, tmp_path / "file" / "facts.html")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.slow
def test_five_simulated_days_lie_within_the_real_bands_but_for_the_facts_named_as_missed(tmp_path: Path) -> None:
    """The seed is the default one. Other seeds leave the bands of tails and kurtosis too when no cascade falls in."""
    lake = Lake(tmp_path / "lake")
    simulator = SimulatorConfig(symbols=("BTC-PERP", "ETH-PERP", "SOL-PERP"), accounts=600, days=WINDOW_D, step_s=60)
    simulate_venue(lake, Config(simulator=simulator), START)
    values = measure(lake, WINDOW_D).values
    middle = dict(values.group_by("fact").agg(pl.col("value").median()).iter_rows())
    assert BANDS.keys() <= middle.keys()
    outside = {fact for fact, (low, high) in BANDS.items() if not low <= middle[fact] <= high}
    assert outside <= MISSED, {fact: middle[fact] for fact in outside - MISSED}


@pytest.mark.real_data
def test_the_bands_are_what_the_real_files_show(real_data: Path, tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    folder = real_data / "bybit-5m-2025-2026"
    files = [path for coin in ("AVAX", "BTC", "ETH", "SOL") for path in folder.glob(f"{coin}_*.feather")]
    ingest("freqtrade", [path for path in files if "mark" not in path.name], lake, Config(), Choice(venue="bybit"))
    ingest("freqtrade", [*(real_data / "binance-btc-5m-oct2025").glob("*5m*")], lake, Config(), Choice("binance-usdm"))
    ingest("binance-archive", [real_data / "oct10-binance-bookdepth"], lake, Config())
    mapping = Choice(mapping=Path("hyperliquid-hourly"))
    ingest("table", [real_data / "groupm-hl-hourly-oi" / "liquidations.parquet"], lake, Config(), mapping)
    ingest("binance-archive", [real_data / "binance-forceorder-sessions"], lake, Config())
    real = measure(lake, WINDOW_D)
    found = {row["fact"]: (row["real_low"], row["real_high"]) for row in verdicts(real, real).to_dicts()}
    assert {fact: found[fact] for fact in BANDS} == {
        fact: pytest.approx(band, rel=0.01) for fact, band in BANDS.items()
    }
    clusters = real.values.filter(pl.col("fact") == "cluster_size_mean")
    assert clusters["venue"].unique().to_list() == ["hyperliquid"]  # binance's sessions are throttled
