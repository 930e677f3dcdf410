"""The progress bar of everything that reads or writes many files."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Tick = Callable[[int, int | None], None]
"""Told of progress: what is done, and how much there is in all (None: unknown)."""


def silent(_done: int, _total: int | None) -> None:
    """Report nothing."""


@contextmanager
def progress_bar(console: Console, text: str, *, unit: str = "bytes") -> Iterator[Tick]:
    """Show a bar that counts bytes, or another ``unit``, and the time left."""
    counted = DownloadColumn() if unit == "bytes" else MofNCompleteColumn()
    columns = (TextColumn("{task.description}"), BarColumn(), counted, TimeRemainingColumn())
    with Progress(*columns, console=console, disable=console.quiet) as progress:
        task = progress.add_task(text, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
