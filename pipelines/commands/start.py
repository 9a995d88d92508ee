"""Commands to start with."""

from pathlib import Path

from pipelines.commands.shared import ConfigOption, JsonOption, LakeOption, emit, open_lake
from pipelines.progress import progress


def demo(config: ConfigOption = None, lake: LakeOption = None, as_json: JsonOption = False) -> None:
    """Simulate a venue, train on its past, score, guard and report its last days."""
    from pipelines.demo import demo_sentence, run_demo

    chosen = lake if lake is not None or config is not None else Path("demo-lake")
    settings, store = open_lake(config, chosen)
    with progress("demo") as say:
        summary = run_demo(store, settings, say)
    emit(summary, as_json, demo_sentence)
