"""The guardrails on 10 October 2025, in one table: `python -m tests.evidence.guardrails_evidence OUT_DIR`.

Reads that day's perpetuals, spot markets and the published book of one symbol (../shared/data) into a lake in OUT_DIR,
guards them under the shipped policy, which is told what these files do not hold, and prints Markdown: which rule
tripped when, in how many symbols, and how often in the quiet hours. Nothing in it is typed in.
"""

import sys
from importlib import resources
from pathlib import Path

import polars as pl

from pipelines.lake import Lake
from tests.evidence.features_evidence import DATA, FIRST_LIQUIDATION, cascadeguard, percent

DAY = ("--from", "2025-10-10T00:00Z", "--to", "2025-10-11T00:00Z")
HEARD_UNTIL = {"binance-coinm": "2025-10-10T20:00Z", "binance-usdm": "2025-10-10T15:30Z"}  # the quiet hours end
ABSENT = {
    "binance-coinm": ("positions", "collateral", "fund", "liquidations", "open_interest", "depth", "mark"),
    "binance-usdm": ("positions", "collateral", "fund", "liquidations", "open_interest", "mark", "index"),
}


def filled(folder: Path) -> Lake:
    """The lake of the day, with its bars; taken as it is where it is there."""
    lake = Lake(folder / "lake")
    where = ("--lake", str(lake.root))
    cascadeguard("ingest", "tardis", str(DATA / "oct10-binance-coinm-trades"), "--venue", "binance-coinm", *where)
    cascadeguard("ingest", "tardis", str(DATA / "oct10-spot-trades"), "--role", "spot", *where)
    cascadeguard("ingest", "binance-archive", str(DATA / "oct10-binance-bookdepth"), *where)
    return lake


def guarded(lake: Lake, folder: Path, venue: str) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Decisions and limits of the venue under the shipped policy, told what the files do not hold."""
    shipped = resources.files("guardrails").joinpath("policy.toml").read_text(encoding="utf-8")
    names = ", ".join(f'"{name}"' for name in ABSENT[venue])
    policy, settings = folder / f"{venue}.policy.toml", folder / f"{venue}.toml"
    policy.write_text(shipped.replace("not_published = []", f"not_published = [{names}]"), encoding="utf-8")
    settings.write_text(f'policy = "{policy}"\n', encoding="utf-8")
    cascadeguard("guard", "--venue", venue, *DAY, "--lake", str(lake.root), "--config", str(settings))
    return lake.scan("decisions", venue).collect(), lake.scan("limits", venue).collect()


def told(venue: str, decisions: pl.DataFrame, limits: pl.DataFrame) -> list[str]:
    """Markdown: a row per rule that tripped, then what the quiet hours cost."""
    latched = pl.col("state_before").is_in(["open", "half_open"]).fill_null(False)
    trips = decisions.filter(pl.col("state_after") == "open", ~latched).sort("ts", "entity")
    quiet = pl.col("ts") <= pl.lit(HEARD_UNTIL[venue]).str.to_datetime("%Y-%m-%dT%H:%MZ", time_zone="UTC")
    after = trips.filter(~quiet)
    by_rule = after.group_by("rule", maintain_order=True).agg(
        pl.first("ts", "entity", "reason"), pl.col("entity").n_unique().alias("entities"), pl.len().alias("trips")
    )
    before = dict(trips.filter(quiet).group_by("rule").len().iter_rows())
    lines = [
        "| rule | first | of | symbols | trips | in the quiet hours | its sentence |",
        "|---|---|---|--:|--:|--:|---|",
    ]
    for row in by_rule.iter_rows(named=True):
        rest = (row["entities"], row["trips"], before.pop(row["rule"], 0))
        cells = [f"`{row['rule']}`", f"{row['ts']:%H:%M}", row["entity"], *map(str, rest), row["reason"]]
        lines.append("| " + " | ".join(cells) + " |")
    paused = limits.filter(quiet)["action"].is_in(["reduce_only", "halted"]).mean()
    others = ", ".join(f"`{rule}` {count}" for rule, count in sorted(before.items())) or "none"
    until, first = HEARD_UNTIL[venue][11:16], FIRST_LIQUIDATION[11:16]
    return [
        f"**{venue}**, quiet until {until}; the first liquidation known is at {first}",
        "",
        *lines,
        "",
        f"Trips of the quiet hours by rules that did not trip later: {others}; paused there {percent(paused)} of "
        f"{limits.filter(quiet).height:,} symbol minutes.",
        "",
    ]


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lake = filled(folder)
    for venue in ABSENT:
        print("\n".join(told(venue, *guarded(lake, folder, venue))))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m tests.evidence.guardrails_evidence OUT_DIR")
    main(Path(sys.argv[1]))
