"""MLflow: runs are tracked, models registered, and found again by alias. Nothing else of the project touches it.

Without an address the store is a SQLite file inside the lake; MLflow takes seconds to import, so it is imported by the
first call that needs it. Models are stored as text (trees and numbers in JSON) behind a small script: no pickle.
"""

from pipelines.tracking.environment import prepare_environment
from pipelines.tracking.errors import RegistryError, UnusableModelError
from pipelines.tracking.records import Dataset, Metric, Record, RunRecord
from pipelines.tracking.registry import CHALLENGER, CHAMPION, Registry
from pipelines.tracking.wire import from_wire, to_wire

__all__ = [
    "CHALLENGER",
    "CHAMPION",
    "Dataset",
    "Metric",
    "Record",
    "Registry",
    "RegistryError",
    "RunRecord",
    "UnusableModelError",
    "from_wire",
    "prepare_environment",
    "to_wire",
]
