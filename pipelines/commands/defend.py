"""Commands that explain and defend: policy, audit log, decisions."""

from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from pipelines.commands.shared import (
    ConfigOption,
    FromOption,
    JsonOption,
    LakeOption,
    ToOption,
    VenueOption,
    each_venue,
    emit,
    emit_venues,
    need_lake,
    open_lake,
    span_text,
)
from pipelines.errors import InputError
from pipelines.progress import progress
from pipelines.times import parse_time


class ShowUnlessNamed(TyperGroup):
    """`policy [FILE]` without a command's name is `policy show [FILE]`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        named = bool(args) and (args[0] in self.commands or args[0] == "--help")
        return super().parse_args(ctx, args if named else ["show", *args])


policy = typer.Typer(
    name="policy",
    cls=ShowUnlessNamed,
    help="The guardrail policy: check it, compare two, try one on history. Alone: version and hash of FILE, or of the "
    "one in force.",
    no_args_is_help=False,
)


@policy.command("show", hidden=True)
def policy_show(
    file: Annotated[Path | None, typer.Argument(metavar="FILE", help="A policy; default the one in force.")] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Validate a guardrail policy whole and print its version and hash."""
    from pipelines.policies import policy_in_force, policy_summary, read_policies, read_policy

    settings, _ = open_lake(config, None)
    chosen = read_policy(file) if file else policy_in_force(read_policies(settings), datetime.now(UTC))
    emit(policy_summary(chosen), as_json, lambda s: f"policy {s['version']} is valid, sha256 {s['sha256']}")


@policy.command("check")
def policy_check(
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="A policy or a directory of them; default the settings'.")
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Validate a policy whole, and run the worked examples in its comments through the real rules.

    An example is a comment line such as `#> price_band: observed 5 % -> open, reduce_only`.
    """
    from pipelines.policies import check_policies

    settings, _ = open_lake(config, None)
    emit(check_policies(file or settings.policy), as_json, lambda s: s.sentence())


@policy.command("diff")
def policy_diff(
    a: Annotated[Path, typer.Argument(metavar="A", help="The policy before.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="The policy after.")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """What policy B changes of A, in words: every setting that differs, tighter or looser, and what that means."""
    from pipelines.policies import diff_files, diff_sentence

    open_lake(config, None)
    emit(diff_files(a, b), as_json, diff_sentence)


@policy.command("trial")
def policy_trial(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The new policy.")],
    start: FromOption = None,
    end: ToOption = None,
    venue: VenueOption = None,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write a self-contained page too.")
    ] = None,
    config: ConfigOption = None,
    lake: LakeOption = None,
    as_json: JsonOption = False,
) -> None:
    """What a new policy would have changed over stored history; nothing is written to the lake."""
    from pipelines.pages import write_page
    from pipelines.policies import read_policy
    from pipelines.policy_trial import trial_page, trial_sentence, try_policy

    new = read_policy(file)
    with progress("trial") as say:
        summaries = [
            try_policy(store, name, span, settings, new, say=say)
            for store, name, span, settings in each_venue(config, lake, venue, start, end)
        ]
    if html is not None:
        write_page(html, trial_page(summaries), "--html")
    emit_venues(summaries, as_json, trial_sentence)


def replay(
    verify: Annotated[bool, typer.Option("--verify", help="Check the audit log's hash chain and seal.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Recompute every decision and compare byte by byte.")] = False,
    start: FromOption = None,
    end: ToOption = None,
    config: ConfigOption = None,
    lake: LakeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Verify the audit log, or recompute it from the inputs and policies it names; exit code 1 where it differs."""
    from pipelines.audit import verify_audit
    from pipelines.replay import INTACT, check_replay, check_sentence

    if verify == check:
        raise InputError(
            "say what to replay", mend="use `cascadeguard replay --verify` or `cascadeguard replay --check`"
        )
    if verify and (start or end):
        raise InputError("the chain is verified whole", mend="leave out --from and --to, or use --check")
    _, store = open_lake(config, lake)
    need_lake(store)
    if verify:
        emit(verify_audit(store), as_json, _verified)
        return
    found = check_replay(store, span_text(start, end))
    emit(found, as_json, check_sentence)
    if found.verdict != INTACT:
        raise typer.Exit(1)


def _verified(found: dict[str, Any]) -> str:
    runs = f"{found['runs']:,} run" + "s" * (found["runs"] != 1)
    return f"audit log intact: {found['decisions']:,} decisions of {runs}; keep its last hash: {found['last_hash']}"


def explain(
    decision_id: Annotated[str, typer.Argument(help="From the report, or `guard --json`.")],
    config: ConfigOption = None,
    lake: LakeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tell one decision in a minute: what was seen, the limit, what is allowed, why, what would clear it."""
    from pipelines.explain import explain_decision, explain_sentence

    _, store = open_lake(config, lake)
    need_lake(store)
    emit(explain_decision(store, decision_id), as_json, explain_sentence)


class Side(StrEnum):
    LONG = "long"
    SHORT = "short"


def bands(
    symbol: Annotated[str, typer.Argument(help="Symbol or base asset, such as BTC or BTCUSDT.")],
    entry: Annotated[float, typer.Option("--entry", help="Entry price, USD.")],
    side: Annotated[Side, typer.Option("--side", help="Direction of the position.")] = Side.LONG,
    qty: Annotated[float | None, typer.Option("--qty", help="Size in base units.")] = None,
    notional: Annotated[
        float | None, typer.Option("--notional", help="Size in USD at entry, instead of --qty.")
    ] = None,
    leverage: Annotated[float | None, typer.Option("--leverage", help="Margin is notional / leverage.")] = None,
    margin: Annotated[
        float | None, typer.Option("--margin", help="Isolated margin, or cross equity at entry, USD.")
    ] = None,
    mark: Annotated[float | None, typer.Option("--mark", help="Present mark price; default the entry.")] = None,
    other_maintenance: Annotated[
        float, typer.Option("--other-maintenance", help="Cross margin: what the other legs need, USD.")
    ] = 0.0,
    profile: Annotated[
        list[str] | None,
        typer.Option(
            "--profile", metavar="NAME|FILE", help="A shipped venue or a .toml file; may be given repeatedly."
        ),
    ] = None,
    on: Annotated[str | None, typer.Option("--on", metavar="TIME", help="Rules in force then; default newest.")] = None,
    sigma: Annotated[float, typer.Option("--sigma", help="Volatility a year: 0.8 is 80 percent.")] = 0.8,
    fall: Annotated[float, typer.Option("--fall", help="Speed of the move, percent a minute.")] = 1.0,
    local_share: Annotated[
        float, typer.Option("--local-share", help="Share of the move that only the venue's own book sees.")
    ] = 0.2,
    depth: Annotated[
        float | None,
        typer.Option("--depth", help="USD the book takes per unit of relative price; default no slippage."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write the page with plots here.")] = None,
    config: ConfigOption = None,
    lake: LakeOption = None,
    as_json: JsonOption = False,
) -> None:
    """One position under several venues' rules: prices and times of forced reduction, and why they differ."""
    from pipelines.bands import compare_bands, position_of, scenario_of

    open_lake(config, lake)
    position = position_of(
        symbol, side.value, entry=entry, qty=qty, notional=notional, leverage=leverage, margin=margin, mark=mark,
        other_maintenance=other_maintenance,
    )  # fmt: skip
    scenario = scenario_of(sigma_year=sigma, fall_pct_per_min=fall, local_share=local_share, depth_usd=depth)
    moment = parse_time(on) if on is not None else None
    summary = compare_bands(position, scenario, profile or (), on=moment, out=out)
    emit(summary, as_json, lambda s: s.sentence())


def stress(
    shock: Annotated[str, typer.Option("--shock", metavar="CHANGES", help="Such as BTC=-5%,USDE=-0.03.")],
    positions: Annotated[Path | None, typer.Option("--positions", metavar="FILE", help="csv or parquet.")] = None,
    collateral: Annotated[Path | None, typer.Option("--collateral", metavar="FILE", help="csv or parquet.")] = None,
    instruments: Annotated[Path | None, typer.Option("--instruments", metavar="FILE", help="toml.")] = None,
    depth: Annotated[Path | None, typer.Option("--depth", metavar="FILE", help="csv or parquet.")] = None,
    venue: VenueOption = None,
    at: Annotated[
        str | None, typer.Option("--at", metavar="TIME", help="As known then; default the lake's newest positions.")
    ] = None,
    profile: Annotated[
        str | None, typer.Option("--profile", metavar="NAME", help="A venue profile, shipped or a file; default none.")
    ] = None,
    path: Annotated[
        str | None, typer.Option("--path", metavar="KIND", help="Another liquidation path than the profile's.")
    ] = None,
    spill: Annotated[
        float | None, typer.Option("--spill", help="Share of an impact that a fully correlated symbol feels.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write a self-contained page too.")
    ] = None,
    config: ConfigOption = None,
    lake: LakeOption = None,
    as_json: JsonOption = False,
) -> None:
    """What if prices fell: who is liquidated, how far prices run, who pays; from files or from the lake."""
    from pipelines.pages import write_page
    from pipelines.stress import files_of, page, run_stress, sentence

    files = files_of(positions, instruments, depth, collateral)
    store = None if files is not None else open_lake(config, lake)[1]
    when = parse_time(at) if at is not None else None
    summary = run_stress(shock, files, lake=store, venue=venue, at=when, profile=profile, path=path, spill=spill)
    if html is not None:
        write_page(html, page(summary), "--html")
    emit(summary, as_json, sentence)


def graph(
    at: Annotated[
        str | None, typer.Option("--at", metavar="TIME", help="As known then; default the last positions.")
    ] = None,
    window: Annotated[float, typer.Option("--window", help="Size of the move, 0.02 is 2 %.")] = 0.02,
    spill: Annotated[
        float | None, typer.Option("--spill", help="Share of an impact that a fully correlated symbol feels.")
    ] = None,
    venue: VenueOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="The page; default a file in the lake.")
    ] = None,
    config: ConfigOption = None,
    lake: LakeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Draw who drags whom along: loop gains, rho, sources, victims, cliffs, triggers; HTML and JSON."""
    from pipelines.graph import graph_sentence, write_graph

    _, store = open_lake(config, lake)
    need_lake(store)
    moment = parse_time(at) if at is not None else None
    summary = write_graph(store, venue, moment, window=window, spill=spill, out=out)
    emit(summary, as_json, graph_sentence)
