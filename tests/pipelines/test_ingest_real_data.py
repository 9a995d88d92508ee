from pathlib import Path

import polars as pl
import pytest

from features.schema import Trades
from pipelines.config import Config
from pipelines.ingest import Choice, ingest
from pipelines.lake import Lake

DATA = Path(__file__).parents[3] / "shared" / "data"
pytestmark = [
    pytest.mark.real_data,
    pytest.mark.skipif(not DATA.is_dir(), reason=f"no market data at {DATA}"),
]


@pytest.mark.slow
def test_the_perpetual_trades_of_the_crash_are_all_accounted_for(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    summary = ingest("tardis", [DATA / "oct10-binance-coinm-trades"], lake, Config())
    assert (summary.files, summary.rows_read, len(summary.symbols)) == (12, 2_174_469, 12)
    assert summary.rows_accepted + summary.rows_quarantined == summary.rows_read
    assert summary.rows_accepted == 2_174_469  # the capture is clean: no duplicate, no unreadable row
    avax = lake.scan("trades", "binance-coinm", symbol="AVAXUSD_PERP").collect()
    Trades.validate(avax)
    assert avax.height == 137_632
    assert avax["ts"].is_sorted()
    first = avax.row(0, named=True)
    assert (first["trade_id"], first["price"], first["notional_usd"]) == ("54966950", 28.41, 1050.0)  # 105 x 10 USD
    assert first["qty"] == pytest.approx(1050 / 28.41, rel=1e-12)
    gaps = (
        lake.scan("trades").select("symbol", "ts", pl.col("trade_id").cast(pl.Int64).alias("id")).sort("symbol", "id")
    )
    missing = gaps.select((pl.col("id").diff().over("symbol") - 1).sum()).collect().item()
    assert missing == 12_359
    again = ingest("tardis", [DATA / "oct10-binance-coinm-trades"], lake, Config())
    assert (again.files, len(again.skipped)) == (0, 12)


def test_spot_files_are_taken_as_spot(tmp_path: Path) -> None:
    folder = DATA / "oct10-spot-trades"
    assert len(list(folder.iterdir())) == 19
    chosen = [path for path in sorted(folder.iterdir()) if path.stat().st_size < 350_000]
    summary = ingest("tardis", chosen, Lake(tmp_path), Config(), Choice(role="spot"))
    assert summary.files == len(chosen) >= 9
    assert summary.rows_quarantined == 0
    assert {symbol.partition(":")[0] for symbol in summary.symbols} == {"coinbase", "gemini"}


@pytest.mark.slow
def test_all_nineteen_spot_files_are_known(tmp_path: Path) -> None:
    summary = ingest("tardis", [DATA / "oct10-spot-trades"], Lake(tmp_path), Config(), Choice(role="spot"))
    assert (summary.files, len(summary.symbols), summary.rows_accepted) == (19, 19, 1_032_393)


def test_the_ghost_bid_is_found_and_refused_from_its_first_snapshot_on(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    summary = ingest("binance-archive", [DATA / "oct10-binance-bookdepth"], lake, Config())
    assert (summary.rows_read, summary.rows_accepted, summary.rows_quarantined) == (28_790, 19_100, 9_690)
    assert summary.reasons == {"crossed_book": 9_690, "frozen_book": 9_220}  # ten rows a snapshot
    refused = lake.scan("quarantine", "binance-usdm", symbol="BTCUSDT").collect()
    assert refused["ts"].n_unique() == 969
    assert str(refused["ts"].min()) == "2025-10-10 15:30:42+00:00"
    kept = lake.scan("book_depth", "binance-usdm", symbol="BTCUSDT").collect()
    assert kept["ts"].n_unique() == 1_910
    assert kept.join(refused, on="ts", how="semi").is_empty()
    assert kept.group_by("ts").len()["len"].unique().to_list() == [10]
