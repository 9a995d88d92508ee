"""The features on real data, as pages: `python -m tests.evidence.features_evidence OUT_DIR`.

Reads ../shared/data into lakes beside the pages: the day of 10 October 2025 (20:00-21:30, and the hours before the
fall), a quiet week of candles, the calm capture of L2 diffs, and a day of single orders whose own deletes are counted
against the bars. `index.html` tells what was found; nothing in it is typed in.
"""

import contextlib
import io
import json
import lzma
import sys
from html import escape
from pathlib import Path
from typing import Any

import polars as pl

from features.bars import Market, Sources, bars_of
from features.catalogue import FAMILIES
from pipelines import cli
from pipelines.lake import Lake
from tests.pipelines.test_cancels_real_data import END, FIRST, START, told

DATA = Path("../shared/data")
FIRST_LIQUIDATION = "2025-10-10T21:15Z"  # hyperliquid-adl-oct10: 21:15:03


def cascadeguard(*words: str) -> dict[str, Any]:
    """One command with --json; stops where it fails."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = cli.run([*words, "--json"])
    if code:
        sys.exit(code)
    found: dict[str, Any] = json.loads(out.getvalue())
    return found


def table(head: list[str], rows: list[list[str]]) -> str:
    cells = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><tr>{''.join(f'<th>{escape(cell)}</th>' for cell in head)}</tr>{cells}</table>"


def percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"


def page_section(title: str, name: str, summary: dict[str, Any]) -> str:
    """What one page found: shares by family, and per symbol when each family became unusual."""
    page, told_share = summary["page"], summary["venues"][0]["told"]
    shares = [
        [family, percent(told_share[family]), percent(share["reference"]), percent(share["interval"])]
        for family, share in page["share_unusual"].items()
    ]
    since = {(row["symbol"], row["family"]): row for row in page["unusual"]}
    symbols = sorted({symbol for symbol, _ in since})
    rows = [
        [
            symbol,
            *(
                f"{found['since'][11:16]} {found['feature']}" if (found := since.get((symbol, family))) else "–"
                for family in FAMILIES
            ),
        ]
        for symbol in symbols
    ]
    return (
        f"<h2>{escape(title)}</h2><p>Reference {page['reference']}, shown {page['interval']}: "
        f"<a href='{name}'>{name}</a></p>"
        + table(["family", "values told", "unusual in the reference", "unusual here"], shares)
        + (table(["symbol", *FAMILIES], rows) if rows else "<p>No family stayed unusual.</p>")
    )


def october(out: Path) -> str:
    lake = str(out / "lake-oct10")
    cascadeguard(
        "ingest", "tardis", str(DATA / "oct10-binance-coinm-trades"), "--venue", "binance-coinm", "--lake", lake
    )
    cascadeguard("ingest", "tardis", str(DATA / "oct10-spot-trades"), "--role", "spot", "--lake", lake)
    cascadeguard("ingest", "binance-archive", str(DATA / "oct10-binance-bookdepth"), "--lake", lake)
    parts = []
    for name, start, end in (("before", "12:00", "14:30"), ("crash", "20:00", "21:30")):
        page = out / f"oct10-{name}.html"
        span = ("--from", f"2025-10-10T{start}Z", "--to", f"2025-10-10T{end}Z")
        found = cascadeguard("features", "--lake", lake, "--venue", "binance-coinm", *span, "--html", str(page))
        parts.append(page_section(f"10 October 2025, {start}-{end}", page.name, found))
        early = [row for row in found["page"]["unusual"] if row["since"] < FIRST_LIQUIDATION]
        if name == "crash":
            led = sorted({row["symbol"] for row in early})
            parts.append(f"<p>Unusual before the first liquidation ({FIRST_LIQUIDATION}): {len(led)} symbols.</p>")
    return "".join(parts)


def quiet_week(out: Path) -> str:
    lake, config = str(out / "lake-bybit"), out / "five.toml"
    config.write_text("[bars]\ninterval_s = 300\n", encoding="utf-8")
    cascadeguard("ingest", "freqtrade", str(DATA / "bybit-5m-2025-2026"), "--venue", "bybit", "--lake", lake)
    span = ("--from", "2025-11-24T00:00Z", "--to", "2025-12-01T00:00Z", "--html", str(out / "quiet-week.html"))
    found = cascadeguard("features", "--lake", lake, "--config", str(config), *span)
    return page_section("A quiet week of candles", "quiet-week.html", found)


def calm_capture(out: Path) -> str:
    """Eleven minutes: only short windows can speak; how near to neutral they are."""
    lake = str(out / "lake-l2")
    cascadeguard("ingest", "ws-capture", str(DATA / "binance-l2-diffs-2024"), "--lake", lake)
    cascadeguard("features", "--lake", lake)
    matrix = Lake(Path(lake)).scan("features").collect()
    names = (
        "net_fleeting_5",
        "cancel_to_add_5",
        "cancel_side_5",
        "depth_drain_5",
        "volume_imbalance_15",
        "replenish_5",
    )
    kept = ["venue", "symbol", *names]
    last = (
        matrix.filter(pl.any_horizontal(pl.col(names).is_not_null())).select(kept).unpivot(index=kept[:2]).drop_nulls()
    )
    found = last.group_by("venue", "symbol", "variable").agg(
        pl.len(), pl.col("value").min().alias("least"), pl.col("value").max().alias("most")
    )
    rows = [
        [venue, symbol, name, str(count), f"{least:+.3f}", f"{most:+.3f}"]
        for venue, symbol, name, count, least, most in found.sort("variable", "venue", "symbol").iter_rows()
    ]
    return "<h2>The calm L2 capture, eleven minutes</h2>" + table(
        ["venue", "symbol", "feature", "bars", "least", "most"], rows
    )


def single_orders(out: Path) -> str:
    """Cancels of the bars against the file's own deletes, minute by minute."""
    lake = out / "lake-l3"
    file = DATA / "bitstamp-l3-2015" / "orders.csv.xz"
    cascadeguard("ingest", "order-log", str(file), "--symbol", "BTCUSD", "--role", "spot", "--lake", str(lake))
    events = Lake(lake).scan_sorted("book_events", "bitstamp", ["BTCUSD"], START, END, stored=True)["BTCUSD"]
    bars = bars_of("bitstamp", Sources({"BTCUSD": Market({"book_events": events}, {"book_events": FIRST})}), START, END)
    lines = pl.read_csv(lzma.decompress(file.read_bytes())).unique(maintain_order=True)
    ts = pl.from_epoch("timestamp", "ms").dt.cast_time_unit("us").dt.replace_time_zone("UTC")
    minute = ts.dt.offset_by("-1us").dt.truncate("1m").dt.offset_by("1m").alias("minute")
    before = (pl.col(name).shift().over("id").alias(f"{name}_before") for name in ("price", "volume"))
    own = told(lines.with_columns(minute, *before), "cancel").group_by(ts="minute").agg(pl.len().alias("own"))
    both = bars.join(own, on="ts", how="left").with_columns(pl.col("own").fill_null(0))
    equal = both.select((pl.col("own") == pl.col("cancels")).sum()).item()
    total = both.select(pl.col("own", "cancels").sum()).row(0)
    said = f"{equal} of {both.height} minutes count the same cancels; {total[0]:,} by the file, {total[1]:,} in bars."
    return f"<h2>Single orders, 1 May 2015</h2><p>{said}</p>"


def main(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    parts = [part(out) for part in (october, quiet_week, calm_capture, single_orders)]
    style = "body{font:14px system-ui;max-width:1100px;margin:24px auto}td,th{padding:2px 10px;text-align:left}"
    text = f"<!DOCTYPE html><meta charset='utf-8'><title>Features on real data</title><style>{style}</style>"
    (out / "index.html").write_text(text + "<h1>Features on real data</h1>" + "".join(parts), encoding="utf-8")
    print(out / "index.html")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
