"""Progress on standard error: a bar on a terminal, nothing when nobody watches; and how long the rest will take."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

Say = Callable[[str], None]


def silent(_: str) -> None:
    """Say nothing."""


@contextmanager
def progress(title: str, total: int | None = None) -> Iterator[Say]:
    """Yield a function that names the unit of work being started; every call counts as one unit."""
    console = Console(stderr=True)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=total)

        def say(text: str) -> None:
            bar.update(task, description=f"{title}: {text}", advance=1)

        yield say


@dataclass
class Eta:
    """Time left, from the seconds a row took in the partitions done by now; unknown before the first is done.

    >>> eta = Eta(total=1000)
    >>> eta.left_s() is None
    True
    >>> eta.done(rows=250, seconds=30.0)
    >>> eta.left_s(), eta.sentence()
    (90.0, 'about 2 min left')
    """

    total: int
    rows: int = 0
    seconds: float = 0.0

    def done(self, rows: int, seconds: float) -> None:
        self.rows, self.seconds = self.rows + rows, self.seconds + seconds

    def left_s(self) -> float | None:
        return self.seconds / self.rows * max(self.total - self.rows, 0) if self.rows else None

    def sentence(self) -> str:
        left = self.left_s()
        if left is None:
            return "time left not known yet"
        return f"about {max(1, round(left / 60 + 0.01))} min left" if left >= 60 else f"about {left:.0f} s left"
