"""Deleveraging and the insurance fund beside the bars, and the cascades that a venue knows of."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipelines.cli import run
from pipelines.config import Config, LabelConfig
from pipelines.evaluating.lake import label_of
from pipelines.labels import label_events, label_flags
from pipelines.lake import Lake
from pipelines.venue_truth import with_truth
from tests.pipelines.conftest import World
from tests.pipelines.test_bars_step import HOUR, at, bars_of, lake_of

CONFIG = Config(label=LabelConfig(name="adl"))


def mark(s: float) -> dict[str, Any]:
    return {"ts": at(s), "known_at": at(s), "mark": 100.0, "index": 100.0, "last": 100.0}


def closed(s: float, seq: int, usd: float, path: str) -> dict[str, Any]:
    more = {"qty": usd / 100, "price": 100.0, "notional_usd": usd, "path": path}
    return {"ts": at(s), "seq": seq, "known_at": at(s), "position_side": "long", **more}


def held(s: float, amount: float, asset: str = "USD", account: str = "insurance_fund") -> dict[str, Any]:
    return {"ts": at(s), "known_at": at(s + 30), "account": account, "asset": asset, "amount": amount}


def venue(root: Path, **tables: list[dict[str, Any]]) -> tuple[Lake, pl.DataFrame]:
    lake = lake_of(root, marks=[mark(60.0 * minute) for minute in range(1, 61)], **tables)
    return lake, bars_of(lake)


def told(root: Path, **tables: list[dict[str, Any]]) -> pl.DataFrame:
    lake, bars = venue(root, **tables)
    return with_truth(bars, lake, "v", bar_s=60, fund_account="insurance_fund").select("ts", "adl_usd", "fund_usd")


def test_a_deleveraging_counts_in_the_bar_in_which_it_happened_and_no_other_path_does(tmp_path: Path) -> None:
    forced = [closed(30, 1, 5.0, "market"), closed(601, 2, 700.0, "adl"), closed(660, 3, 40.0, "adl")]
    rows = told(tmp_path, liquidations=[*forced, closed(661, 4, 1.0, "adl")])
    # 601 and 660 lie in the bar that ends at 660, 661 in the next
    assert rows.filter(pl.col("adl_usd") > 0)["ts", "adl_usd"].rows() == [(at(660), 740.0), (at(720), 1.0)]
    assert rows["adl_usd"].null_count() == 0


def test_a_feed_that_tells_no_path_or_none_at_all_tells_of_no_deleveraging(tmp_path: Path) -> None:
    assert told(tmp_path / "a", liquidations=[closed(30, 1, 5.0, "unknown")])["adl_usd"].null_count() == 60
    assert told(tmp_path / "b")["adl_usd"].null_count() == 60


def test_the_fund_is_what_was_last_known_of_all_its_assets(tmp_path: Path) -> None:
    """USD is the quote of the venue's contracts; 2 S at 100; the account of somebody else does not count."""
    funds = [held(600, 1_000.0), held(600, 2.0, "S"), held(600, 9.0, account="x"), held(1_200, 800.0)]
    rows = told(tmp_path, collateral=funds)
    # known at 630: in the bar that ends at 660; 800 is known at 1230
    assert rows["fund_usd"].to_list() == [None] * 10 + [1_200.0] * 10 + [800.0] * 40


def test_an_asset_without_a_price_leaves_the_fund_unknown(tmp_path: Path) -> None:
    assert told(tmp_path, collateral=[held(600, 1_000.0), held(600, 2.0, "XXX")])["fund_usd"].null_count() == 60


def test_the_label_reads_it(tmp_path: Path) -> None:
    """60 USD deleveraged in minute 12; open interest is not told, so 10,000 USD stand for it: 0.6 %."""
    lake, _ = venue(tmp_path, liquidations=[closed(30, 1, 5.0, "market"), closed(700, 2, 60.0, "adl")])
    found = label_events(lake, "v", HOUR, CONFIG)
    (event,) = found.events
    assert (event["onset"], event["end"], event["severity"]) == (at(720), at(720 + 29 * 60), pytest.approx(0.6))
    flags = label_flags(lake, "v", HOUR, CONFIG)["flag"]
    assert (flags[10], flags[11], flags[40], flags[41]) == (None, True, True, False)  # the first windows are not whole


def test_a_label_is_told_with_the_parameters_it_reads() -> None:
    assert label_of(CONFIG) == {"name": "adl", "version": 1, "fall_pct": 2.0, "window_min": 30, "refractory_min": 240}
    burst = Config(label=LabelConfig(name="liq_burst", quantile=0.9))
    assert label_of(burst) | {"version": 1} == {
        "name": "liq_burst", "version": 1, "quantile": 0.9, "floor_usd": 250_000.0, "window_min": 30,
        "refractory_min": 240,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("label", "means"),
    [
        ("liq_burst", "more is liquidated within 30 min than the 0.99 quantile of the day before, and 250,000 USD"),
        ("adl", "positions are deleveraged, or 2 % of the insurance fund is gone within 30 min"),
        ("liq_share", "at least 2 % of open interest is liquidated within 30 min"),
    ],
)
def test_the_command_lists_and_shows_them(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str], label: str, means: str
) -> None:
    page = tmp_path / "page.html"
    assert run(["labels", "--lake", str(world.lake.root), "--label", label, "--html", str(page)]) == 0
    assert f"cascades by {label} v1" in capsys.readouterr().out
    assert means in page.read_text(encoding="utf-8")
