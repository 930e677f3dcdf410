"""The terminal: a bar for everything that takes a while, log lines above it, and printing that cannot fail."""

import io
import logging
import os
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


class PatientFile(io.FileIO):
    """An output that takes everything: what a reader that has gone, or a full disk, no longer takes is lost."""

    before: Any = None

    def write(self, data: Any) -> int:
        """Write, or pretend to."""
        try:
            return super().write(data) or 0
        except OSError:
            return len(data)


def print_patiently() -> None:
    """Let no print or log line of this process fail: not for a closed output, nor for letters that it cannot encode."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        before = getattr(sys, name)
        if before is None:  # closed: else a file of ours would get its number, and what others print there
            os.dup2(os.open(os.devnull, os.O_WRONLY), number)
        else:
            before.flush()
        file = PatientFile(number, "w", closefd=False)
        file.before = before  # which would close the number if nobody had it any more
        encoding = before.encoding if before else "utf-8"
        stream = io.TextIOWrapper(io.BufferedWriter(file), encoding, "backslashreplace", line_buffering=True)
        setattr(sys, name, stream)
