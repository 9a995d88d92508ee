"""Commands that explain and defend: policy, audit log, decisions."""

from pathlib import Path
from typing import Annotated

import typer

from pipelines.commands.shared import ConfigOption, JsonOption, LakeOption, emit, need_lake, open_lake
from pipelines.errors import InputError


def policy(
    file: Annotated[Path | None, typer.Argument(help="A policy file; default the one in force.")] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Validate a guardrail policy whole and print its version and hash."""
    from pipelines.guard import policy_summary, read_policy

    settings, _ = open_lake(config, None)
    chosen = read_policy(settings if file is None else settings.model_copy(update={"policy": file}))
    emit(policy_summary(chosen), as_json, lambda s: f"policy {s['version']} is valid, sha256 {s['sha256']}")


def replay(
    verify: Annotated[bool, typer.Option("--verify", help="Check the audit log's hash chain.")] = False,
    config: ConfigOption = None,
    lake: LakeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Verify the audit log: every entry, in order, unchanged."""
    from pipelines.guard import verify_audit

    if not verify:
        raise InputError("say what to replay", mend="use `cascadeguard replay --verify`")
    _, store = open_lake(config, lake)
    need_lake(store)
    emit(verify_audit(store), as_json, lambda s: f"audit log intact: {s['entries']:,} entries")


def explain(
    decision_id: Annotated[str, typer.Argument(help="From the report, or `guard --json`.")],
    config: ConfigOption = None,
    lake: LakeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tell one decision in a minute: what was seen, the limit, what is allowed, why, what would clear it."""
    from pipelines.guard import explain_decision, explain_sentence

    _, store = open_lake(config, lake)
    need_lake(store)
    emit(explain_decision(store, decision_id), as_json, explain_sentence)
