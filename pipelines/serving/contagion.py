"""The contagion graph of the newest positions; made once for them, however many look."""

from dataclasses import asdict
from datetime import datetime
from typing import Any

from pipelines.errors import InputError
from pipelines.graph import graph_of
from pipelines.lake import Lake
from pipelines.reporting.graph_page import view
from pipelines.serving.reading import ends
from pipelines.worlds import world_from_lake

TABLES = ("positions", "instruments")  # books and marks change every minute; the graph is of the newest positions


def positions_at(lake: Lake) -> dict[str, datetime]:
    """When the newest positions of each venue were held: what the graph of a venue depends on."""
    return ends(lake, "positions")


def graph_view(lake: Lake, venue: str) -> dict[str, Any]:
    """What `cascadeguard graph` draws, or `why` it cannot: in words, never an error."""
    try:
        return {"why": "", **view(asdict(graph_of(world_from_lake(lake, venue))))}
    except InputError as error:
        return {"why": str(error)}
