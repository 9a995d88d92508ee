"""Stress: what if these prices fell? One shock through the cascade, from files or from the lake, told with its danger.

    read the scene -> lay the shock on it -> run the cascade -> settle -> the same with half the depth -> tell

`rho`, `amplification` and the cliff prices describe the market as it stands before the shock.
"""

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path as FilePath
from typing import Any

import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table

from features.mechanics.impact import move, shape_law
from features.mechanics.paths import KINDS
from features.mechanics.profile import Fees, MarkRule, Path, Profile
from models.cascade.engine import Outcome, prepare, round_s, rules_of, run_one
from models.cascade.fuel import FALL, RISE, cliff_price, fuel
from models.cascade.graph import forced_flows, loop_of
from models.cascade.prepared import Prepared
from models.cascade.settle import settle
from models.cascade.slack import Pairs, pairs_of, unit_slack_usd
from models.cascade.spectrum import growth
from models.cascade.triggers import triggers
from models.cascade.world import Floats, World
from pipelines.errors import InputError
from pipelines.lake import Lake
from pipelines.profiles import load_profile
from pipelines.reporting.stress_page import render
from pipelines.score import venues_to_run
from pipelines.stress_files import Files, Scene, read_scene
from pipelines.times import show_time
from pipelines.worlds import world_from_lake

PLAIN = Profile(
    name="none", effective_from=datetime(1970, 1, 1, tzinfo=UTC), mark=MarkRule("last"), path=Path("market"),
    fees=Fees(0.0, 0.0), tiers={},
)  # fmt: skip
PATH_OF = {
    "market": "binance-usdm",
    "gradual": "dydx",
    "share_first": "hyperliquid",
    "velocity": "synthetix",
    "timed": "vega",
    "auction": "derive",
}  # the shipped profile that lends `--path` its parameters
WINDOW = 0.02  # size of the move that rho and cliff prices describe, as in `graph`
SD_ASSUMED = 0.04  # of daily returns, where the files name no volatility
UNITS_SHOWN, UNITS_LOOKED_AT = 20, 1_000
MINOR_SHARE, WEIGHTY = 0.25, 2.0  # a leg below this share of the notional, with so many times the share of the risk
_CHANGE = re.compile(r"([+-])(\d+(?:\.\d*)?|\.\d+)(%?)")


@dataclass(frozen=True)
class Summary:
    """The keys of `stress --json`. Drops are relative, shock included, positive = falls. None = there is no such."""

    shock: Mapping[str, float]
    profile: str
    path: str
    shape_by_symbol: Mapping[str, str]
    liquidated_usd: float
    liquidated_usd_by_symbol: Mapping[str, float]
    drop_by_symbol: Mapping[str, float]
    accounts: int
    accounts_liquidated: int
    accounts_short_before: int
    fees_usd: float
    bad_debt_usd: float
    fund_draw_usd: float
    adl_usd: float
    uncovered_usd: float
    rounds: int
    duration_s: float
    settled: bool
    exhausted: Mapping[str, bool]
    window: float  # of rho
    rho: float
    amplification: float | None
    self_sustaining: bool
    cliff_price_by_symbol: Mapping[str, float | None]
    depth_halved: Mapping[str, Any]
    triggers: Sequence[Mapping[str, Any]]
    spill: float
    notes: Sequence[str]


def parse_shock(text: str) -> dict[str, float]:
    """Relative changes by name: `-5%` and `-0.05` mean the same, the sign is required.

    Raises InputError for anything else, and for a fall of 100 % or more.

    >>> parse_shock("BTC=-5%, USDE=-0.03")
    {'BTC': -0.05, 'USDE': -0.03}
    """
    found: dict[str, float] = {}
    for part in text.split(","):
        name, sign, value = part.partition("=")
        match = _CHANGE.fullmatch(value.strip())
        if not sign or not name.strip() or match is None:
            mend = "write NAME=CHANGE with a sign, such as BTC=-5%,USDE=-0.03"
            raise InputError("a shock cannot be read", where=repr(part.strip()), mend=mend)
        change = float(match[1] + match[2]) / (100 if match[3] else 1)
        if not -1 < change < math.inf:
            raise InputError("a price cannot fall by 100 % or more", where=part.strip(), mend="did you mean percent?")
        if name.strip() in found:
            raise InputError("a shock names something twice", where=name.strip())
        found[name.strip()] = change
    return found


def drops_of(shock: Mapping[str, float], scene: Scene) -> tuple[Floats, Floats]:
    """Relative drops by symbol and by asset. Raises InputError for names that the scene does not know.

    A symbol that is named itself moves as told, whatever is said of its base or of the asset that follows it.
    """
    unknown = [name for name in shock if name not in scene.moves]
    if unknown:
        known = ", ".join(sorted(scene.moves))
        raise InputError("the shock names what is not there", where=", ".join(unknown), mend=f"known are {known}")
    symbol, asset = np.zeros(len(scene.world.symbols)), np.zeros(len(scene.assets))
    for name in sorted(shock, key=lambda word: word in scene.world.symbols):
        symbols, assets = scene.moves[name]
        symbol[[scene.world.symbols.index(other) for other in symbols]] = -shock[name]
        asset[[scene.assets.index(other) for other in assets]] = -shock[name]
    return symbol, asset


def with_path(profile: Profile, kind: str | None) -> Profile:
    """The profile with another path: its own parameters if it has that path, else those of the venue that made it so.

    Raises InputError for a path that does not exist.
    """
    if kind is None or kind == profile.path.kind:
        return profile
    if kind not in PATH_OF:
        raise InputError("unknown path", where=kind, mend=f"use one of {', '.join(item.name for item in KINDS)}")
    return replace(profile, path=load_profile(PATH_OF[kind]).path)


def run_stress(
    shock: str,
    files: Files | None,
    *,
    lake: Lake | None = None,
    venue: str | None = None,
    at: datetime | None = None,
    profile: str | None = None,
    path: str | None = None,
    spill: float | None = None,
) -> Summary:
    """The command `stress`: read files, else the lake as it was known at `at`; run; tell.

    The profile's version is the one in force at `at`. Raises InputError for everything a user can get wrong.
    """
    changes = parse_shock(shock)
    rules = with_path(PLAIN if profile is None else load_profile(profile, at), path)
    if spill is not None and not 0 <= spill <= 1:
        raise InputError("--spill must be in [0, 1]", where=spill)
    if files is not None:
        return stress(read_scene(files, rules, spill=spill), changes, rules)
    if lake is None or not lake.root.is_dir():
        mend = "give --positions, --instruments and --depth, or name a lake with --lake"
        raise InputError("there is nothing to stress", mend=mend)
    return stress(_scene_of_lake(lake, venue, at, rules, spill), changes, rules)


def _scene_of_lake(lake: Lake, venue: str | None, at: datetime | None, rules: Profile, spill: float | None) -> Scene:
    venues = venues_to_run(lake, venue)
    if len(venues) != 1:
        raise InputError("the lake holds several venues", where=", ".join(venues), mend="choose one with --venue")
    found = world_from_lake(lake, venues[0], at, profile=rules, spill=spill)
    notes = (f"{found.venue} as known at {show_time(found.at)}", *found.notes)
    return replace(found.scene, notes=notes)


def files_of(
    positions: FilePath | None, instruments: FilePath | None, depth: FilePath | None, collateral: FilePath | None
) -> Files | None:
    """The files given on the command line; None where there are none. Raises InputError where one is missing."""
    given = {"--positions": positions, "--instruments": instruments, "--depth": depth}
    if positions is None and instruments is None and depth is None and collateral is None:
        return None
    if positions is None or instruments is None or depth is None:
        missing = [name for name, file in given.items() if file is None]
        raise InputError(
            "files are missing", where=", ".join(missing), mend="positions, instruments and depth go together"
        )
    return Files(positions, instruments, depth, collateral)


def stress(scene: Scene, shock: Mapping[str, float], profile: Profile) -> Summary:
    """Run one shock through the scene and tell everything about it."""
    drops, asset_drops = drops_of(shock, scene)
    world = scene.shocked(asset_drops)
    prepared, rules = prepare(world), rules_of(profile)
    outcome = run_one(prepared, drops, rules)
    halved = _shallow(prepared)
    again = run_one(halved, drops, rules)
    pairs = pairs_of(scene.world)
    forced = forced_flows(scene.world, WINDOW, pairs)
    rho, half_rho = (loop_of(one, forced, WINDOW).rho() for one in (scene.world, halved.world))
    money = settle(prepared, outcome, profile.fund_usd, profile.adl)
    found, named = outcome.all, _named(world)
    return Summary(
        shock=dict(shock),
        profile=profile.name,
        path=profile.path.kind,
        shape_by_symbol=dict(zip(world.symbols, world.books.shape, strict=True)),
        liquidated_usd=float(found.liquidated_micro.sum()) / 1e6,
        liquidated_usd_by_symbol=named(found.liquidated_usd[0]),
        drop_by_symbol=named(found.drop[0]),
        accounts=len(world.account_names),
        accounts_liquidated=len(outcome.account),
        accounts_short_before=len(np.unique(scene.world.account[unit_slack_usd(scene.world) < 0])),
        fees_usd=money.fee_micro / 1e6,
        bad_debt_usd=money.bad_debt_micro / 1e6,
        fund_draw_usd=money.fund_draw_micro / 1e6,
        adl_usd=money.adl_micro / 1e6,
        uncovered_usd=money.uncovered_micro / 1e6,
        rounds=int(found.rounds[0]),
        duration_s=int(found.rounds[0]) * round_s(profile.path, profile.latency),
        settled=bool(found.settled[0]),
        exhausted={name: bool(flag) for name, flag in zip(world.symbols, found.exhausted[0], strict=True)},
        window=WINDOW,
        rho=rho,
        amplification=growth(rho),
        self_sustaining=growth(rho) is None,
        cliff_price_by_symbol=_cliffs(scene.world, pairs),
        depth_halved=_halved_view(prepared, halved, again, half_rho),
        triggers=_triggers(scene),
        spill=scene.spill,
        notes=(*scene.notes, *_sd_notes(scene)),
    )


def _named(world: World) -> Any:
    return lambda values: {name: float(value) for name, value in zip(world.symbols, values, strict=True)}


def _shallow(prepared: Prepared) -> Prepared:
    """The same units before books of half the depth."""
    world = prepared.world.with_depth(0.5)
    return replace(prepared, world=world, law=shape_law(world.books.shape, world.books.depth_usd))


def _cliffs(world: World, pairs: Pairs) -> dict[str, float | None]:
    prices = cliff_price(world, fuel(world, FALL, pairs=pairs), fuel(world, RISE, pairs=pairs), WINDOW)
    return dict(zip(world.symbols, prices, strict=True))


def _halved_view(prepared: Prepared, halved: Prepared, outcome: Outcome, rho: float) -> dict[str, Any]:
    """How much worse the same flow slips and the same shock ends when the book is half as deep."""
    flow = np.ones(len(prepared.world.symbols))
    named, found = _named(prepared.world), outcome.all
    return {
        "slippage_ratio_by_symbol": named(move(halved.law, flow) / move(prepared.law, flow)),
        "rho": rho,
        "amplification": growth(rho),
        "self_sustaining": growth(rho) is None,
        "liquidated_usd": float(found.liquidated_micro.sum()) / 1e6,
        "drop_by_symbol": named(found.drop[0]),
    }


def _triggers(scene: Scene) -> list[dict[str, Any]]:
    """Legs of the units nearest to liquidation, and of the nearest that a small leg weighs upon."""
    sd = np.where(np.isnan(scene.sd_day), SD_ASSUMED, scene.sd_day)
    rows = triggers(scene.world, sd, scene.correlation, UNITS_LOOKED_AT)
    weighty = pl.col("share_of_risk") > WEIGHTY * pl.col("share_of_notional")
    small = ~pl.col("collateral") & (pl.col("share_of_notional") < MINOR_SHARE) & weighty
    minor = rows.filter(small)["unit"].unique(maintain_order=True)
    nearest = rows["unit"].unique(maintain_order=True).head(UNITS_SHOWN)
    shown = rows.filter(pl.col("unit").is_in(pl.concat([nearest, minor.head(UNITS_SHOWN)]).implode()))
    return [{name: _finite(value) for name, value in row.items()} for row in shown.to_dicts()]


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _sd_notes(scene: Scene) -> tuple[str, ...]:
    names = [name for name, sd in zip(scene.world.symbols, scene.sd_day, strict=True) if math.isnan(sd)]
    if not names:
        return ()
    return (f"{_few(names)}: volatility not given, {SD_ASSUMED:.0%} a day assumed for the shares of risk",)


def _few(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


# --- for people ---


def page(found: Summary) -> str:
    """The HTML page of `found`."""
    return render(asdict(found), words(found))


def sentence(found: Summary) -> str:
    """A few sentences and one line per symbol."""
    return f"{words(found)}\n{_symbol_table(found)}"


def words(found: Summary) -> str:
    """A few sentences: what is liquidated, who pays, how near the market is to running away."""
    shock = ", ".join(f"{name} {change:+.2%}" for name, change in found.shock.items())
    lines = [
        f"{shock}: {_usd(found.liquidated_usd)} liquidated of {found.accounts_liquidated:,} of {found.accounts:,} "
        f"accounts, in {found.rounds:,} rounds ({_seconds(found.duration_s)}), path {found.path}, "
        f"profile {found.profile}.",
        f"Bad debt {_usd(found.bad_debt_usd)} = fund {_usd(found.fund_draw_usd)} + ADL {_usd(found.adl_usd)} + "
        f"uncovered {_usd(found.uncovered_usd)}; liquidation fees {_usd(found.fees_usd)}.",
        _loop_words(found.rho, found.amplification, "The market as it stands"),
        _halved_words(found),
    ]
    if not found.settled:
        lines.append("The path closes nothing of accounts that stay short of margin: the cascade did not come to rest.")
    used = [name for name, flag in found.exhausted.items() if flag]
    if used:
        lines.append(f"The book of {_few(used)} is used up beyond what is known of it: the true drop is larger.")
    if found.accounts_short_before:
        lines.append(f"{found.accounts_short_before:,} accounts lack margin before the shock.")
    return "\n".join([*lines, *(f"note: {note}" for note in found.notes)])


def _usd(value: float) -> str:
    return f"{value:,.0f} USD"


def _seconds(value: float) -> str:
    return "at once" if value == 0 else f"{value:,.1f} s"


def _loop_words(rho: float, amplification: float | None, who: str) -> str:
    if amplification is None:
        return f"{who}: loop gain rho {rho:.3f}, a cascade sustains itself."
    return f"{who}: loop gain rho {rho:.3f}, a small shock ends {amplification:.3f} times as large."


def _halved_words(found: Summary) -> str:
    """The jump of the amplification is the danger, not the slippage: said with the shape of the book."""
    half = found.depth_halved
    ratios = {found.shape_by_symbol[name]: ratio for name, ratio in half["slippage_ratio_by_symbol"].items()}
    slip = ", ".join(f"{ratio:.3f} on a {shape} book" for shape, ratio in sorted(ratios.items()))
    grown = half["amplification"]
    before = "no end" if found.amplification is None else f"{found.amplification:.3f}"
    after = f"no end (rho {half['rho']:.3f}, it sustains itself)" if grown is None else f"{grown:.3f}"
    return (
        f"With half the depth: slippage x {slip}, but amplification {before} -> {after}, "
        f"liquidated {_usd(found.liquidated_usd)} -> {_usd(half['liquidated_usd'])}."
    )


def _symbol_table(found: Summary) -> str:
    table = Table(box=None, header_style="bold")
    for name in ("symbol", "book", "drop", "liquidated USD", "cliff price", "drop at half depth"):
        table.add_column(name, justify="left" if name in {"symbol", "book"} else "right")
    for name, shape in found.shape_by_symbol.items():
        cliff = found.cliff_price_by_symbol[name]
        table.add_row(
            name,
            shape,
            f"{found.drop_by_symbol[name]:.4%}",
            f"{found.liquidated_usd_by_symbol[name]:,.0f}",
            "-" if cliff is None else f"{cliff:,.6g}",
            f"{found.depth_halved['drop_by_symbol'][name]:.4%}",
        )
    page = io.StringIO()
    Console(file=page, width=110).print(table)
    return page.getvalue().rstrip()
