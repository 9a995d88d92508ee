"""A small simulated venue as files: what a recorder would have put into an inbox, one file a table and interval."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl

from features.schema import CANONICAL, polars_schema
from pipelines.config import Config, SimulatorConfig
from pipelines.lake import Lake
from pipelines.simulate import simulate_venue
from pipelines.times import parse_time

MIDNIGHT = parse_time("2025-01-02T00:00Z")  # the first scheduled interval begins here
PAST_H = 4  # hours before it, delivered at once
STEP = timedelta(minutes=5)


@dataclass(frozen=True)
class Parcel:
    """The rows of one table that happened in `(start, end]`, as a file."""

    table: str
    end: datetime
    path: Path
    rows: int


@dataclass(frozen=True)
class Market:
    """Everything that will be delivered, by the end of the interval it belongs to."""

    folder: Path
    parcels: Mapping[datetime, tuple[Parcel, ...]]

    @property
    def ends(self) -> list[datetime]:
        return sorted(self.parcels)[1:]  # the first is the past


def make_market(folder: Path, intervals: int, seed: int, symbols: int = 2) -> Market:
    """Simulate and cut. The rows are those of `cascadeguard simulate`, as parquet with canonical columns."""
    folder.mkdir(parents=True)
    start, end = MIDNIGHT - timedelta(hours=PAST_H), MIDNIGHT + intervals * STEP
    names = tuple(f"{letter * 3}-PERP" for letter in "ABCDEFGH"[:symbols])
    days = -(-(end - start) // timedelta(hours=1)) / 24
    simulator = SimulatorConfig(symbols=names, accounts=40, days=days, step_s=60, outage_rate_day=2.0)
    lake = Lake(folder / "simulated")
    simulate_venue(lake, Config(simulator=simulator, seed=seed), start)
    (folder / "parcels").mkdir()
    (folder / "instruments.toml").write_text(_instruments(lake))
    (folder / "mapping.toml").write_text("\n".join(map(_section, _tables(lake))))
    cut: dict[datetime, list[Parcel]] = {}
    for table in _tables(lake):
        for parcel in _cut(lake, table, end, folder / "parcels"):
            cut.setdefault(parcel.end, []).append(parcel)
    for nth in range(intervals + 1):
        cut.setdefault(MIDNIGHT + nth * STEP, [])
    return Market(folder, {moment: tuple(parcels) for moment, parcels in cut.items()})


def _tables(lake: Lake) -> list[str]:
    return [name for name in CANONICAL if name != "instruments" and lake.has(name)]


def _cut(lake: Lake, table: str, until: datetime, folder: Path) -> list[Parcel]:
    every = f"{STEP // timedelta(minutes=1)}m"
    end = (pl.col("ts").dt.offset_by("-1us").dt.truncate(every).dt.offset_by(every)).clip(lower_bound=MIDNIGHT)
    rows = lake.scan(table).filter(pl.col("ts") <= until).with_columns(parcel=end).collect()
    found = []
    for (moment,), part in rows.partition_by("parcel", as_dict=True, include_key=False).items():
        assert isinstance(moment, datetime)
        path = folder / f"{table}-{moment:%Y%m%d%H%M}.parquet"
        part.write_parquet(path)
        found.append(Parcel(table, moment, path, part.height))
    return found


def _section(table: str) -> str:
    names = [name for name in polars_schema(CANONICAL[table]).names() if name not in ("ts", "known_at")]
    stamps = [f'{name} = {{ column = "{name}" }}' for name in ("ts", "known_at")]
    values = [f'{name} = "{name}"' for name in names]
    return "\n".join(
        ["[[table]]", f'table = "{table}"', f'files = "{table}-*.parquet"', *stamps, "[table.values]", *values, ""]
    )


def _instruments(lake: Lake) -> str:
    """The simulator's instruments in the language of instrument files."""
    return "\n".join(_instrument(row) for row in lake.scan("instruments").collect().to_dicts())


def _instrument(row: Mapping[str, object]) -> str:
    lines = ["[[instrument]]", f"effective_from = {row['effective_from']:%Y-%m-%dT%H:%M:%SZ}"]
    plain = ("venue", "symbol", "base", "quote", "settlement", "contract_size", "tick", "mark_rule", "path",
             "fee_taker", "fee_liquidation", "haircut")  # fmt: skip
    lines += [f"{name} = {json.dumps(row[name])}" for name in plain if row[name] is not None]
    tiers = row["tiers"]
    if isinstance(tiers, list):
        kept = [", ".join(f"{k} = {json.dumps(v)}" for k, v in tier.items() if v is not None) for tier in tiers]
        lines.append("tiers = [" + ", ".join(f"{{ {tier} }}" for tier in kept) + "]")
    return "\n".join([*lines, ""])
