"""Runs of a Weights & Biases project, as a report sees them."""

import shlex
from typing import Any

import wandb

from emanet.common.errors import ConfigError
from emanet.studies.portable import CLASSES, number
from emanet.studies.runs import Run, checked, flat
from emanet.training.loggers.wandb import has_credentials

#: W&B's words for how a run goes, and ours; any other is a failure
STATES = {"finished": "finished", "running": "running", "pending": "running", "killed": "stopped"}


def read_project(project: str) -> list[Run]:
    """The runs of a project, ``entity/project``.

    W&B keeps no scores under other EM iterations: for those, report from the run folders.

    Raises:
        ConfigError: without a key, without a connection, or for a project that cannot be read.
    """
    if project.count("/") != 1 or not all(project.split("/")):
        raise ConfigError(f"wandb must be entity/project, got {project!r}")
    if not has_credentials():
        raise ConfigError(f"wandb={project}: no API key was found; set WANDB_API_KEY, or log in with  wandb login")
    try:
        found = list(wandb.Api(timeout=30).runs(project, order="+created_at", lazy=False))
        runs = [convert(run) for run in found]
    except Exception as error:  # its own, requests' or of a GraphQL client, depending on version and cause
        cause = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise ConfigError(f"wandb={project}: cannot be read ({cause}); check name, key and connection") from error
    if not runs:
        raise ConfigError(f"wandb={project}: this project holds no runs")
    return runs


def convert(run: Any) -> Run:
    """A run of W&B's public API, with a summary as ``summary.json`` has it, as far as W&B knows it."""
    config, logged, metadata = flat(run.config), dict(run.summary), run.metadata or {}
    status = STATES.get(run.state, "failed")
    command = ["python", str(metadata.get("program")), *map(str, metadata.get("args") or [])]
    gpus = [metadata["gpu"]] * int(metadata.get("gpu_count") or 1) if metadata.get("gpu") else []
    summary: dict[str, Any] = {
        "status": status,
        "error": f"W&B says {run.state}" if status in ("failed", "stopped") else None,
        "dataset": config.get("dataset.name"),
        "command": shlex.join(command) if metadata.get("program") else None,
        "hardware": {"gpus": gpus, "cores": metadata.get("cpu_count"), "system": metadata.get("os")} if gpus else None,
        "git": {"commit": metadata["git"].get("commit")} if metadata.get("git") else None,
        "steps": number(logged.get("trainer/global_step")),
        "seconds_total": number(logged.get("_runtime")),
    }
    for score in ("val/miou", "val/pixel_accuracy", "val/mean_accuracy", "val/classes_averaged"):
        summary[score] = number(logged.get(score))
    classes = {key: number(value) for key, value in logged.items() if key.startswith(f"{CLASSES}/")}
    summary = {key: value for key, value in summary.items() if value is not None}
    summary[CLASSES] = {key.removeprefix(f"{CLASSES}/"): value for key, value in classes.items()}
    return checked(str(run.name), config, summary)
