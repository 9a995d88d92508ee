"""Which venues a schedule has to run: by the logs of the tables, without opening a file of events."""

import polars as pl

from pipelines.bars import READ
from pipelines.lake import Lake


def venues_at_work(lake: Lake) -> list[str]:
    """Venues that have a derivative among their instruments and rows in a table that bars read, in order of name."""
    listed = pl.concat([lake.files(table).select("venue") for table in READ]).unique()
    known = lake.scan("instruments").filter(pl.col("settlement") != "spot").select("venue").unique().collect()
    return known.join(listed, on="venue", how="semi")["venue"].sort().to_list()
