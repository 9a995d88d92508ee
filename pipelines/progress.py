"""Progress on standard error: a bar on a terminal, nothing when nobody watches."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

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
