"""What tests give to workers that are going to die; imported there, so it imports little."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.lake import Lake
from pipelines.pools import Day


@dataclass(frozen=True)
class Stopping:
    """`work`; the first to reach the second commit of a day's features says who it is in `told`, and waits there."""

    work: Callable[[Lake, Day], Any]
    told: Path

    def __call__(self, lake: Lake, day: Day) -> Any:
        replace = lake.replace

        def waits(table: str, *arguments: Any) -> None:
            if table == "feature_health" and not self.told.exists():
                beside = self.told.with_suffix(f".{os.getpid()}")
                beside.write_text(str(os.getpid()))
                beside.rename(self.told)
                time.sleep(120)
            replace(table, *arguments)

        lake.replace = waits  # type: ignore[method-assign, assignment]
        return self.work(lake, day)
