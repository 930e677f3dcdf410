"""Loggers: any of Lightning's by a node; metrics.csv always. None of them can stop a run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger

from emanet.config.instantiate import build
from emanet.training.loggers.csv import RunCSVLogger

__all__ = ["RunCSVLogger", "build_loggers", "close_loggers"]


def build_loggers(
    nodes: Mapping[str, Any], *, run_dir: str | Path, config: Mapping[str, Any], **run: Any
) -> list[Logger]:
    """Build the loggers of a run; all their files lie in ``run_dir``.

    Args:
        nodes: a node for each, by name; one that is ``None`` is left out, but the CSV file is always written.
        run_dir: folder of the run, handed to constructors that name ``run_dir`` or ``save_dir``.
        config: the configuration, for those that name it.
        run: name, group, job_type and tags of the run, for those that name them.

    Raises:
        ConfigError: for a package that is missing, or values that a logger refuses.
    """
    run_dir = Path(run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    context = {"run_dir": run_dir, "save_dir": run_dir, "config": config, **run}
    built = [build(node, f"logger.{key}", **context) for key, node in nodes.items() if node is not None]
    loggers = [logger for logger in built if logger is not None]  # one that was switched off
    if not any(isinstance(logger, RunCSVLogger) for logger in loggers):
        loggers.insert(0, RunCSVLogger(run_dir))
    return loggers


def close_loggers(loggers: list[Logger], exit_code: int = 0) -> None:
    """End what a logger keeps open, so that the next job of a sweep in this process starts anew."""
    for logger in loggers:
        if callable(close := getattr(logger, "close", None)):
            close(exit_code)
