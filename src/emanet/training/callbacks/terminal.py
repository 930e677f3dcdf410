"""Bars drawn on a terminal, with log lines passing above them."""

import contextlib
import logging
import sys
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

NARROW = 100  # columns of a terminal below which the numbers beside the bar move together


class Bars:
    """The bars on the terminal, with log lines passing above them."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._progress = Progress(
            BarColumn(bar_width=None if console.width >= NARROW else 6),
            MofNCompleteColumn(),
            TextColumn("{task.fields[text]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
            refresh_per_second=4,
            expand=True,
        )
        self._main: TaskID | None = None
        self._second: TaskID | None = None
        self._stack = contextlib.ExitStack()
        self._stack.enter_context(self._progress)
        self._stack.enter_context(logs_through_console())

    def stop(self) -> None:
        """Stop drawing; the bars stay as they are."""
        self.remove_second()
        self._stack.close()

    def add_main(self, *, total: int | None, completed: int) -> None:
        """Show the bar of the run."""
        self._main = self._progress.add_task("", total=total, completed=completed, text="", left="")

    def update_main(self, text: str, *, completed: int | None = None, left: str | None = None) -> None:
        """Set the numbers beside the bar of the run, and where it stands."""
        if self._main is not None:
            if self.console.width < NARROW:
                text = text.replace("  ", " ").replace(" img/s", "/s")
            extra: dict[str, Any] = {} if left is None else {"left": f"< {left}"}
            self._progress.update(self._main, completed=completed, text=text, **extra)

    def add_second(self, name: str, *, total: int | None) -> None:
        """Show a bar for a part of the run."""
        self._second = self._progress.add_task("", total=total, text=name, left="")

    def advance_second(self) -> None:
        """Move it."""
        if self._second is not None:
            self._progress.advance(self._second)

    def remove_second(self) -> None:
        """Take it away; a bar that stands alone stays."""
        if self._second is not None and self._main is not None:
            self._progress.remove_task(self._second)
        self._second = None


@contextlib.contextmanager
def logs_through_console() -> Iterator[None]:
    """Send log lines for the terminal through the stand-ins that rich puts in place of stdout and stderr.

    A log handler keeps the stream that it was made with, and would write through the bar.
    """
    stand_ins = {sys.__stdout__: sys.stdout, sys.__stderr__: sys.stderr}
    moved = []
    for handler in logging.getLogger().handlers:
        stream = getattr(handler, "stream", None)
        if isinstance(handler, logging.StreamHandler) and stream is not None and stream in stand_ins:
            moved.append((handler, stream))
            handler.setStream(stand_ins[stream])
    try:
        yield
    finally:
        for handler, stream in moved:
            handler.setStream(stream)
