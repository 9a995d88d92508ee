"""Bars do not depend on how rows were cut into files, in which order these came, or how often bars were built."""

import random
import tempfile
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from pipelines.bars import build_pending
from pipelines.config import Config
from pipelines.ingest import Choice, ingest
from pipelines.lake import Lake
from pipelines.pending import pending_marks

VENUE = "binance-usdm"
START_MS = 1_748_779_200_000  # 2025-06-01T12:00Z
MINUTES = 12
TARDIS = "exchange,symbol,timestamp,local_timestamp"


def _tardis(stamp_ms: int, *cells: object) -> str:
    """A line whose capture lags behind the exchange by up to four seconds, out of order with its neighbours."""
    lag_ms = stamp_ms * 7919 % 4000
    return ",".join(map(str, ("binance-futures", "BTCUSDT", stamp_ms * 1000, (stamp_ms + lag_ms) * 1000, *cells)))


def _levels(dice: random.Random) -> list[str]:
    """A book around a wandering price: a snapshot, then levels restated."""
    start_us = START_MS * 1000
    lines = [
        f"binance-futures,BTCUSDT,{start_us},{start_us},true,{side},{100_000 + 10 * sign * step},{1 + step}"
        for side, sign in (("bid", -1), ("ask", 1))
        for step in range(1, 30)
    ]
    for nth in range(400):
        ms = START_MS + 50 + nth * MINUTES * 60_000 // 400
        side, sign = dice.choice((("bid", -1), ("ask", 1)))
        price, amount = 100_000 + 10 * sign * dice.randint(1, 30), dice.choice((0, 1, 2.5, 4))
        lines.append(f"binance-futures,BTCUSDT,{ms * 1000},{ms * 1000 + 900},false,{side},{price},{amount}")
    return lines


def _streams() -> dict[str, tuple[str, str, str, list[str]]]:
    """name -> adapter, kind, header, lines."""
    dice = random.Random(5)
    stamps = sorted(dice.sample(range(START_MS, START_MS + MINUTES * 60_000), 300))
    trades = [
        _tardis(ms, nth, dice.choice(("buy", "sell")), 100_000 + dice.randint(-30, 30), dice.choice((0.5, 1, 0.001)))
        for nth, ms in enumerate(stamps)
    ]
    forced = [_tardis(ms, "", dice.choice(("buy", "sell")), 100_000, 0.25) for ms in stamps[::20]]
    interest = [
        f"2025-06-01 12:{minute:02d}:00,BTCUSDT,{80_000 + minute},{8_000_000_000 + minute}"
        for minute in range(0, MINUTES, 5)
    ]
    marks = [
        f"{START_MS + m * 60_000},1,1,1,{100_000 + m},0,{START_MS + m * 60_000 + 59_999},0,1,0,0,0"
        for m in range(MINUTES)
    ]
    kline = "open_time,open,high,low,close,volume,close_time,quote_volume,count,taker_buy_volume,taker_buy_quote_volume"
    kline += ",ignore"
    archive = "binance-archive"
    return {
        "trades": ("tardis", "trades", f"{TARDIS},id,side,price,amount", trades),
        "liquidations": ("tardis", "liquidations", f"{TARDIS},id,side,price,amount", forced),
        "levels": ("tardis", "incremental_book_L2", f"{TARDIS},is_snapshot,side,price,amount", _levels(dice)),
        "BTCUSDT-metrics-2025-06-01": (
            archive, "metrics", "create_time,symbol,sum_open_interest,sum_open_interest_value", interest
        ),
        "BTCUSDT-markPriceKlines-1m-2025-06-01": (archive, "markPriceKlines", kline, marks),
    }  # fmt: skip


STREAMS = _streams()


def _take(lake: Lake, folder: Path, name: str, lines: list[str], part: int) -> None:
    adapter, kind, header, _ = STREAMS[name]
    path = folder / f"{name}-{part}.csv"
    path.write_text("\n".join([header, *lines]) + "\n")
    ingest(adapter, [path], lake, Config(), Choice(venue=VENUE, symbol="BTCUSDT", kind=kind))


def _bars(lake: Lake) -> pl.DataFrame:
    return lake.scan("bars", VENUE).sort("symbol", "ts").collect()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    folder = tmp_path_factory.mktemp("whole")
    lake = Lake(folder / "lake")
    for name, (_, _, _, lines) in STREAMS.items():
        _take(lake, folder, name, lines, 0)
    build_pending(lake, VENUE)
    return _bars(lake)


def test_the_world_says_something_in_every_part_of_a_bar(whole: pl.DataFrame) -> None:
    assert whole.height == MINUTES + 1  # rows at the very start have the bar that ends there
    for name in (
        "volume_usd",
        "cancel_bid_usd",
        "add_ask_usd",
        "spread_bps",
        "depth_bid_20bps_usd",
        "liqs",
        "mark",
        "oi_usd",
    ):
        assert whole[name].drop_nulls().n_unique() > 1, name


@pytest.mark.parametrize("seed", range(5))
def test_any_split_and_any_order_of_arrival_gives_the_same_bars(whole: pl.DataFrame, seed: int) -> None:
    """A failure of such a world cannot be made smaller in useful time: the seed is what there is to look at."""
    dice = random.Random(seed)
    parts = dice.randint(2, 6)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lake = Lake(folder / "lake")
        files: dict[tuple[str, int], list[str]] = {}
        for stream, (_, _, _, lines) in STREAMS.items():
            for line in lines:
                files.setdefault((stream, dice.randrange(parts)), []).append(line)
        order = list(files)
        dice.shuffle(order)
        for stream, part in order:
            lines = files[stream, part]
            dice.shuffle(lines)
            _take(lake, folder, stream, lines, part)
            if dice.random() < 0.2:
                build_pending(lake, VENUE)  # what comes later is late for these
        build_pending(lake, VENUE)
        assert_frame_equal(_bars(lake), whole)
        assert pending_marks(lake, VENUE).is_empty()
        assert build_pending(lake, VENUE).rows == 0


def test_the_same_file_again_asks_for_nothing(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    lines = STREAMS["trades"][3]
    _take(lake, tmp_path, "trades", lines, 0)
    build_pending(lake, VENUE)
    version = lake.version("bars")
    _take(lake, tmp_path, "trades", lines, 0)
    assert build_pending(lake, VENUE).rows == 0
    assert lake.version("bars") == version
