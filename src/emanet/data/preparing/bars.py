"""Progress bars of the scripts that look after data."""

import contextlib
from collections.abc import Iterator

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

from emanet.data.preparing.download import Tick


class Bars:
    """Progress bars on a console: bytes, speed and time left."""

    def __init__(self, console: Console):
        self.console = console

    @contextlib.contextmanager
    def __call__(self, text: str, unit: str) -> Iterator[Tick]:
        """Open a bar."""
        counted: tuple[ProgressColumn, ...] = (MofNCompleteColumn(),)
        if unit == "bytes":
            counted = (DownloadColumn(), TransferSpeedColumn())
        columns = (TextColumn("{task.description}"), BarColumn(), *counted, TimeRemainingColumn())
        with Progress(*columns, console=self.console) as progress:
            task = progress.add_task(text, total=None)

            def tick(done: int, total: int | None) -> None:
                progress.update(task, completed=done, total=total)

            yield tick
