"""How things stand now: the newest score and limit of every symbol, the decisions in force, open alert episodes."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property

import polars as pl

from pipelines.lake import SCHEMAS, Lake
from pipelines.reporting.episodes import SCHEMA as EPISODES
from pipelines.reporting.episodes import alert_episodes
from pipelines.reporting.risk import symbol_states
from pipelines.reporting.rules import LATCHED, in_force
from pipelines.serving.reading import Batches, ends
from pipelines.times import Interval

TABLES = ("scores", "limits", "decisions", "guard_state")
NEWEST = timedelta(hours=1)  # a symbol without a row for longer is listed no more
ALERTS_BACK = timedelta(hours=24)  # an episode that is older began at least then
DECISIONS_BACK = (timedelta(days=2), timedelta(days=30), None)  # as far as the states in force were decided
QUIET = ("closed", "clear", "off")  # states that hold nobody back
KEY = ("venue", "symbol")


@dataclass(frozen=True)
class Standing:
    """The newest rows, read once for overview and breakers; `pipelines.reporting.risk.Standing` for the report's words.

    `decisions`: of the last days; `force`: those in force, one per venue, entity and rule, with `since`; `state`: the
    verdict of every breaker in the newest minute that was guarded. `scored`, `guarded`: each venue's newest minute.
    """

    last_scores: pl.DataFrame
    last_limits: pl.DataFrame
    decisions: pl.DataFrame
    force: pl.DataFrame
    state: pl.DataFrame
    episodes: pl.DataFrame
    scored: dict[str, datetime]
    guarded: dict[str, datetime]

    @property
    def venues(self) -> list[str]:
        return sorted(self.scored.keys() | self.guarded.keys())

    @cached_property
    def states(self) -> pl.DataFrame:
        """As the report lists them: `pipelines.reporting.risk.symbol_states`."""
        return symbol_states(self, self.episodes)


def alerting() -> Batches:
    """Where the minutes that alerted are kept between two looks at the lake."""
    return Batches("scores", lambda rows: rows.filter("alert"))


def gather(lake: Lake, refractory_min: int, alerts: Batches) -> Standing:
    """Read the newest minutes of every venue: no table whole, but decisions as far back as those in force go."""
    scored, guarded = ends(lake, "scores"), ends(lake, "limits")
    state = _stacked("guard_state", [_newest_minute(lake, venue) for venue in guarded])
    decided = [_decided(lake, venue, end, state.filter(pl.col("venue") == venue)) for venue, end in guarded.items()]
    decisions = _stacked("decisions", decided)
    said = alerts.rows(lake, min(scored.values()) - ALERTS_BACK) if scored else _stacked("scores", [])
    episodes = [_episodes(said, venue, end, refractory_min) for venue, end in scored.items()]
    return Standing(
        last_scores=_stacked("scores", [_last_rows(lake, "scores", venue, end) for venue, end in scored.items()]),
        last_limits=_stacked("limits", [_last_rows(lake, "limits", venue, end) for venue, end in guarded.items()]),
        decisions=decisions,
        force=in_force(decisions),
        state=state,
        episodes=pl.concat([pl.DataFrame(schema=EPISODES), *episodes]),
        scored=scored,
        guarded=guarded,
    )


def _stacked(table: str, frames: list[pl.DataFrame]) -> pl.DataFrame:
    return pl.concat([pl.DataFrame(schema=SCHEMAS[table]), *frames])


def _last_rows(lake: Lake, table: str, venue: str, end: datetime) -> pl.DataFrame:
    rows = lake.scan(table, venue, end - NEWEST, end)
    return rows.sort("ts").group_by(KEY).last().select(SCHEMAS[table].names()).collect().sort(KEY)


def _newest_minute(lake: Lake, venue: str) -> pl.DataFrame:
    end = ends(lake, "guard_state").get(venue)
    if end is None:
        return pl.DataFrame(schema=SCHEMAS["guard_state"])
    return lake.scan("guard_state", venue, end - timedelta(minutes=1), end).filter(pl.col("ts") == end).collect()


def _decided(lake: Lake, venue: str, end: datetime, state: pl.DataFrame) -> pl.DataFrame:
    """The decisions of the last days, and of as many more as tell how what holds in `state` came to hold."""
    found = pl.DataFrame(schema=SCHEMAS["decisions"])
    for back in DECISIONS_BACK:
        start = datetime.min.replace(tzinfo=end.tzinfo) if back is None else end - back
        found = lake.scan("decisions", venue, start, end).collect()
        if _untold(state, in_force(found)).is_empty():
            break
    return found


def _untold(state: pl.DataFrame, force: pl.DataFrame) -> pl.DataFrame:
    """The breakers that hold without a decision in `force`; breached ones without the breach too."""
    holding = state.filter(~pl.col("state").is_in(QUIET)).select("state", "rule", entity="symbol")
    found = holding.join(
        force.select("entity", "rule", "since", known=pl.lit(value=True)), on=["entity", "rule"], how="left"
    )
    breached = pl.col("state").is_in(LATCHED)
    return found.filter(pl.col("known").is_null() | (breached & pl.col("since").is_null()))


def _episodes(said: pl.DataFrame, venue: str, end: datetime, refractory_min: int) -> pl.DataFrame:
    """The alert episodes of one venue, of the minutes that alerted (`said`)."""
    own = said.filter(pl.col("venue") == venue, pl.col("ts") > end - ALERTS_BACK, pl.col("ts") <= end)
    return alert_episodes(own.sort(*KEY, "ts"), Interval(end - ALERTS_BACK, end), refractory_min)
