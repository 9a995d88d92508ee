"""tardis.dev downloadable CSV files: what an exchange said, and the moment it was captured.

Every file starts with the columns of `identity.IDENTITY`; what follows depends on the kind.
"""

from pipelines.adapters.adapter import Adapter
from pipelines.adapters.tardis.book_changes import BOOK_CHANGES
from pipelines.adapters.tardis.book_snapshots import BOOK_SNAPSHOTS_5, BOOK_SNAPSHOTS_25
from pipelines.adapters.tardis.derivative_ticker import DERIVATIVE_TICKER
from pipelines.adapters.tardis.liquidations import LIQUIDATIONS
from pipelines.adapters.tardis.trades import TRADES

ADAPTER = Adapter(
    name="tardis",
    kinds=(TRADES, LIQUIDATIONS, BOOK_CHANGES, BOOK_SNAPSHOTS_25, BOOK_SNAPSHOTS_5, DERIVATIVE_TICKER),
)

__all__ = ["ADAPTER"]
