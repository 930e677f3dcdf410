"""The terminal: the progress bar of everything that takes a while, and log lines that pass above it."""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

Tick = Callable[[int, int | None], None]
"""Told of progress: what is done, and how much there is in all (None: unknown)."""


def silent(_done: int, _total: int | None) -> None:
    """Report nothing."""


@contextmanager
def progress_bar(console: Console, text: str, *, unit: str = "bytes") -> Iterator[Tick]:
    """Show a bar that counts bytes and their speed, or another ``unit``, and the time left."""
    counted: list[ProgressColumn] = [DownloadColumn(), TransferSpeedColumn()]
    if unit != "bytes":
        counted = [MofNCompleteColumn()]
    columns = (TextColumn("{task.description}"), BarColumn(), *counted, TimeRemainingColumn())
    with Progress(*columns, console=console, disable=console.quiet) as progress:
        task = progress.add_task(text, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


class ScreenHandler(logging.StreamHandler):
    """Writes log lines to what standard output is at that moment: above a bar, which puts a stand-in there."""

    @property
    def stream(self) -> Any:
        """Standard output."""
        return sys.stdout

    @stream.setter
    def stream(self, _stream: Any) -> None:
        """Nothing: the stream is not the handler's own."""
