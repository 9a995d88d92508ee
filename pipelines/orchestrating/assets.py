"""The four assets of a venue, partitioned by hours: chosen hours are one call of `backfill_venue`."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import dagster as dg

from pipelines.config import Config
from pipelines.errors import InputError
from pipelines.lake import Lake
from pipelines.observing.logs import configure_logs, environment_secrets
from pipelines.operating.backfill import BackfillSummary, backfill_venue, judged_until
from pipelines.operating.lease import BusyError, LeaseLostError
from pipelines.orchestrating.hours import hours_of, key_of, with_what_follows
from pipelines.orchestrating.told import STEPS, Facts, facts_of, listed
from pipelines.times import Interval

LAKE_POOL = "cascadeguard_backfill"  # one run at a time: the next waits in the queue instead of meeting the lease
SAYS = {
    "bars": "one row per symbol and minute, made of the venue's events",
    "features": "every feature of every bar, with the health of what it read",
    "scores": "anomalies and probabilities, by the detector of the day and the champion",
    "decisions": "limits, breakers and caps; decisions that no longer follow are amended",
}


def name_of(venue: str) -> str:
    """The venue as Dagster takes names; no two venues share one, for a name of a venue has no capitals.

    >>> name_of("binance-usdm"), name_of("binance_usdm")
    ('binance_usdm', 'binance_U_usdm')
    """
    return re.sub(r"\W", "_", venue.replace("_", "_U_"))


def asset_key(venue: str, step: str) -> dg.AssetKey:
    return dg.AssetKey([venue, step])


@contextmanager
def told_in_one_line() -> Iterator[None]:
    """What a user can cause fails a run with its one line; what is our fault keeps its trace."""
    try:
        yield
    except BusyError as error:
        raise dg.Failure(f"{error}; wait for it, it goes on by itself", allow_retries=False) from None
    except (InputError, LeaseLostError) as error:
        raise dg.Failure(str(error), allow_retries=False) from None


def specs_of(venue: str) -> list[dg.AssetSpec]:
    """The assets in the order of data, each made of the one before."""
    before = [None, *STEPS[:-1]]
    return [
        dg.AssetSpec(
            asset_key(venue, step),
            deps=[] if upstream is None else [asset_key(venue, upstream)],
            group_name=name_of(venue),
            description=f"{venue}: {SAYS[step]}",
            kinds={"polars", "deltalake"},
        )
        for step, upstream in zip(STEPS, before, strict=True)
    ]


def assets_of(venue: str, config: Config, hours: dg.PartitionsDefinition[str]) -> dg.AssetsDefinition:
    """The assets of one venue of the lake that `config` names."""

    @dg.multi_asset(
        name=f"backfill_{name_of(venue)}",
        specs=specs_of(venue),
        partitions_def=hours,
        backfill_policy=dg.BackfillPolicy.single_run(),
        pool=LAKE_POOL,
    )
    def backfilled(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult[None]]:
        window = context.partition_time_window
        chosen = Interval(window.start.astimezone(UTC), window.end.astimezone(UTC))
        configure_logs(config.observe.log_format, environment_secrets(config))
        with told_in_one_line():
            yield from _backfill(context, venue, config, chosen)

    return backfilled


def _backfill(
    context: dg.AssetExecutionContext, venue: str, config: Config, chosen: Interval
) -> Iterator[dg.MaterializeResult[None]]:
    """The chosen hours and what follows from them; the hours behind are shown as materialized too."""
    lake, wall = Lake(config.lake), datetime.now(UTC)
    span = with_what_follows(chosen, judged_until(lake, venue), config.schedule, wall)
    context.log.info(f"{venue} {span}" + ("" if span == chosen else f": {chosen}, and what was judged from its state"))
    summary = backfill_venue(
        lake.root, venue, span, config, wall=wall, clock=lambda: datetime.now(UTC), say=context.log.info
    )
    context.log.info(summary.sentence())
    facts, whole = facts_of(lake, venue, span), shared_facts(summary)
    for step in STEPS:
        for hour in hours_of(span):
            key, told = key_of(hour.start), metadata({**facts[step].get(hour.start, {"rows": 0}), **whole})
            if hour.end <= chosen.end:
                context.add_asset_metadata(told, asset_key=asset_key(venue, step), partition_key=key)
            else:
                context.log_event(dg.AssetMaterialization(asset_key(venue, step), partition=key, metadata=told))
        yield dg.MaterializeResult(asset_key=asset_key(venue, step))


def shared_facts(summary: BackfillSummary) -> Facts:
    """What is the same for all hours of a run."""
    return {
        "backfill": summary.interval,
        "seconds": summary.seconds,
        "days done before": summary.days_skipped,
        "decisions amended": summary.amended,
        "notes": listed(list(summary.notes)),
    }


def metadata(facts: Facts) -> dict[str, dg.MetadataValue]:
    """Lists as markdown, all else as what it is."""
    return {name: _shown(value) for name, value in facts.items()}


def _shown(value: float | str) -> dg.MetadataValue:
    if isinstance(value, str):
        return dg.MetadataValue.md(value) if value.startswith("- ") else dg.MetadataValue.text(value)
    return dg.MetadataValue.int(value) if isinstance(value, int) else dg.MetadataValue.float(value)
