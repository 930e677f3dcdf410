"""metrics.csv: what a run logs, in a file that needs nothing to be read."""

import csv
import logging
import math
import os
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from emanet.common.files import replacing

log = logging.getLogger(__name__)


class RunCSVLogger(Logger):
    """Write ``metrics.csv``: one row per logging event, empty where a value is missing or NaN.

    A resumed run keeps the rows of the time before it (Lightning's own logger deletes them).
    """

    def __init__(self, run_dir: str | Path) -> None:
        super().__init__()
        self.path = Path(run_dir) / "metrics.csv"
        self._columns = self._read_columns()
        self._rows: list[dict[str, Any]] = []

    @property
    def name(self) -> str:
        """Kind of logger."""
        return "csv"

    @property
    def version(self) -> str:
        """The folder is the version."""
        return ""

    @property
    def save_dir(self) -> str:
        """Folder of the run."""
        return str(self.path.parent)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: the run folder holds the configuration already."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Take a row."""
        values = {key: "" if math.isnan(value) else value for key, value in metrics.items()}
        self._rows.append({"step": "" if step is None else step} | values)

    @rank_zero_only
    def save(self) -> None:
        """Append the rows taken since the last time; Lightning calls this after each of them."""
        if not self._rows:
            return
        size = self.path.stat().st_size if self.path.is_file() else 0
        try:
            self._append(self._rows)
        except OSError as error:
            if size:
                os.truncate(self.path, size)  # no half row
            log.warning("%s cannot be written, its rows are kept for later: %s", self.path, error)
        else:
            self._rows = []

    def _append(self, rows: list[dict[str, Any]]) -> None:
        """Add rows, and columns where they bring new ones."""
        names = {name for row in rows for name in row}
        if names <= set(self._columns):
            with self.path.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self._columns).writerows(rows)
            return
        old = self._read_rows()
        columns = ["step", *sorted((names | set(self._columns)) - {"step"})]
        self._rewrite(old + rows, columns)
        self._columns = columns

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write what is left."""
        self.save()

    @rank_zero_only
    def drop_from(self, step: int) -> None:
        """Forget the rows from ``step`` on: a run resumed there takes these steps again."""
        rows = self._read_rows()
        kept = [row for row in rows if row.get("step") and int(row["step"]) < step]
        if len(kept) < len(rows):
            self._rewrite(kept, self._columns)

    def _read_columns(self) -> list[str]:
        """Header of the file, if there is one."""
        if not self.path.is_file():
            return []
        with self.path.open(newline="", encoding="utf-8") as file:
            return next(csv.reader(file), [])

    def _read_rows(self) -> list[dict[str, Any]]:
        """All rows; a last one that a killed run left half-written has fewer values and is dropped."""
        if not self._columns or not self.path.is_file():
            return []
        with self.path.open(newline="", encoding="utf-8") as file:
            return [row for row in csv.DictReader(file) if None not in row and None not in row.values()]

    def _rewrite(self, rows: list[dict[str, Any]], columns: list[str]) -> None:
        """Replace the whole file at once."""
        with replacing(self.path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)
