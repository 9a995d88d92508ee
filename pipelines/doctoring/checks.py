"""Every check of the doctor, in the order of the README: from what was refused to what only a comparison shows."""

from collections.abc import Callable
from typing import TypeAlias

import polars as pl

from pipelines.doctoring.candles import empty_candles
from pipelines.doctoring.crossed import anchored_books, crossed_messages, crossed_quotes
from pipelines.doctoring.evidence import Evidence
from pipelines.doctoring.findings import ranked
from pipelines.doctoring.frozen import frozen_feeds
from pipelines.doctoring.funding_units import funding_interval, funding_units
from pipelines.doctoring.grid import off_grid
from pipelines.doctoring.latency import latencies
from pipelines.doctoring.liquidations import merged, one_sided, repeated, throttled
from pipelines.doctoring.lopsided import lopsided_depth
from pipelines.doctoring.notional import notional_off
from pipelines.doctoring.oi_falls import changes_over_gaps
from pipelines.doctoring.refused import refused_rows
from pipelines.doctoring.repeats import repeated_events
from pipelines.doctoring.sequences import sequence_gaps
from pipelines.doctoring.silence import ends_apart, silences
from pipelines.doctoring.strays import stray_rows
from pipelines.doctoring.trade_ids import lost_trades
from pipelines.doctoring.volume_units import size_units

Check: TypeAlias = Callable[[Evidence], pl.DataFrame]
CHECKS: tuple[Check, ...] = (
    refused_rows,
    silences,
    ends_apart,
    stray_rows,
    off_grid,
    latencies,
    lost_trades,
    sequence_gaps,
    crossed_quotes,
    crossed_messages,
    anchored_books,
    frozen_feeds,
    lopsided_depth,
    empty_candles,
    repeated_events,
    repeated,
    one_sided,
    throttled,
    merged,
    changes_over_gaps,
    notional_off,
    size_units,
    funding_units,
    funding_interval,
)


def examined(evidence: Evidence) -> pl.DataFrame:
    """The findings of every check, the worst first."""
    return ranked(pl.concat([check(evidence) for check in CHECKS]))
