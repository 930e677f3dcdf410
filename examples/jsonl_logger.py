"""A logger of one's own: one line of JSON per logging event.

    python src/train.py --config-dir examples/conf logger=jsonl ...

``run_dir``, ``name``, ``group``, ``tags`` and ``config`` are handed to a constructor that names them. metrics.csv is
written whatever else is chosen.
"""

import json
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only


class JSONLinesLogger(Logger):
    """Append to ``<run_dir>/<file>``.

    Args:
        run_dir: folder of the run.
        file: name of the file.
    """

    def __init__(self, run_dir: str | Path, *, file: str = "metrics.jsonl") -> None:
        super().__init__()
        self.path = Path(run_dir) / file

    @property
    def name(self) -> str:
        """Kind of logger."""
        return "jsonl"

    @property
    def version(self) -> str:
        """The folder is the version."""
        return ""

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: config.yaml holds them."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Append a line."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **metrics}) + "\n")
