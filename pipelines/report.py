"""Step `report`: scores, limits and decisions of the lake -> one self-contained HTML page."""

from dataclasses import dataclass
from pathlib import Path

from pipelines.config import Config
from pipelines.lake import Lake
from pipelines.pages import write_page
from pipelines.reporting.gather import gather
from pipelines.reporting.page import render
from pipelines.times import Interval


@dataclass(frozen=True)
class ReportSummary:
    report: str
    venues: tuple[str, ...]
    interval: str
    symbols_at_risk: int  # at the end of the interval
    alerts: int  # episodes, symbols and venues together
    decisions: int
    bytes: int


def default_path(lake: Lake, interval: Interval) -> Path:
    """`<lake>/reports/cascadeguard-<from>-<to>.html`, times without colons.

    >>> from pipelines.times import parse_interval
    >>> default_path(Lake(Path("lake")), parse_interval("2025-10-10", "2025-10-11")).name
    'cascadeguard-20251010T0000Z-20251011T0000Z.html'
    """
    start, end = (moment.strftime("%Y%m%dT%H%MZ") for moment in (interval.start, interval.end))
    return lake.root / "reports" / f"cascadeguard-{start}-{end}.html"


def write_report(
    lake: Lake, config: Config, venue: str | None, interval: Interval | None, out: Path | None
) -> ReportSummary:
    """Write the page of `venue` (None: every venue) over `interval` (None: all that is scored) to `out`.

    Needs scores or limits, reads no clock: the same lake and settings give the same bytes.
    Raises InputError where there is nothing to report or the file cannot be written.
    """
    material = gather(lake, venue, interval)

    page = render(material, config)

    path = default_path(lake, material.interval) if out is None else out
    size = write_page(path, page.text)
    return ReportSummary(
        report=str(path),
        venues=material.venues,
        interval=str(material.interval),
        symbols_at_risk=page.symbols_at_risk,
        alerts=page.alerts,
        decisions=page.decisions,
        bytes=size,
    )
