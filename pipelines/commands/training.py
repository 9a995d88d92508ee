"""Commands that train models."""

from pipelines.commands.shared import (
    ConfigOption,
    FromOption,
    JsonOption,
    LakeOption,
    ToOption,
    VenueOption,
    each_venue,
    emit_venues,
)
from pipelines.progress import progress


def train(
    start: FromOption = None,
    end: ToOption = None,
    venue: VenueOption = None,
    config: ConfigOption = None,
    lake: LakeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train the early-warning model walk-forward, calibrate, track and register it."""
    from pipelines.training import train_venue

    with progress("train") as say:
        summaries = [
            train_venue(store, name, span, settings, say)
            for store, name, span, settings in each_venue(config, lake, venue, start, end)
        ]
    emit_venues(summaries, as_json, lambda s: s.sentence())
