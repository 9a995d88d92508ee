"""What the pages share: the lake, the settings, who may ask, the clock; and what is read once for all of them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeAlias

import polars as pl

from pipelines.config import Config
from pipelines.lake import Lake
from pipelines.serving import breakers, overview, runs, standing, symbol
from pipelines.serving.access import Access
from pipelines.serving.reading import Batches, Reader

View: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Board:
    """What stands now, and what overview and breakers make of it: all of one reading."""

    standing: standing.Standing
    rows: list[View]
    verdict: View
    breakers: list[View]
    headings: list[str]


def board_of(lake: Lake, refractory_min: int, alerts: Batches) -> Board:
    found = standing.gather(lake, refractory_min, alerts)
    return Board(
        found,
        overview.overview_rows(found),
        overview.verdict(found),
        breakers.breaker_rows(found),
        breakers.headings(found),
    )


@dataclass(frozen=True)
class Desk:
    reader: Reader
    config: Config
    access: Access
    now: Callable[[], datetime]
    alerts: Batches = field(default_factory=standing.alerting)

    def board(self) -> Board:
        refractory_min = self.config.detector.refractory_min
        return self.reader.kept("board", standing.TABLES, lambda lake: board_of(lake, refractory_min, self.alerts))

    def symbols(self) -> dict[str, list[str]]:
        return self.reader.kept("symbols", ("scores", "limits", "bars"), symbol.symbols)

    def runs(self) -> pl.DataFrame:
        return self.reader.kept("runs", ("runs",), runs.run_rows)
