"""Runs of a Weights & Biases project, as a report sees them."""

import math
import shlex
from collections.abc import Mapping
from typing import Any

import wandb

from emanet.common.errors import ConfigError
from emanet.studies.report.portable import CLASSES, portable
from emanet.studies.report.runs import Run, kept
from emanet.studies.study import flat
from emanet.training.loggers.wandb import has_credentials

#: W&B's words for how a run ended, and ours
STATES = {
    "finished": "finished",
    "running": "running",
    "pending": "running",
    "killed": "stopped",
    "preempted": "stopped",
}
SCORES = ("val/miou", "val/pixel_accuracy", "val/mean_accuracy", "val/classes_averaged")


def read_project(project: str) -> list[Run]:
    """The runs of a project, ``entity/project``.

    W&B keeps no commit of a changed source tree, and no scores under other EM iterations: for those, report from the
    run folders.

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
    """A run of W&B's public API."""
    config, logged = flat(dict(run.config)), dict(run.summary)
    return Run(name=str(run.name), config=kept(config), summary=portable(summary_of(run, config, logged)))


def summary_of(run: Any, config: Mapping[str, Any], logged: Mapping[str, Any]) -> dict[str, Any]:
    """What ``summary.json`` would say, as far as W&B knows it."""
    status = STATES.get(run.state, "failed")
    metadata = run.metadata or {}
    gpus = [metadata["gpu"]] * int(metadata.get("gpu_count") or 1) if metadata.get("gpu") else []
    cores = metadata.get("cpu_count")
    summary: dict[str, Any] = {
        "status": status,
        "error": f"W&B says {run.state}" if status in ("failed", "stopped") else None,
        "name": config.get("name"),
        "dataset": config.get("dataset.name"),
        "seed": config.get("seed"),
        "command": command_of(metadata),
        "precision": config.get("trainer.precision"),
        "steps": number(logged.get("trainer/global_step")),
        "seconds_total": number(logged.get("_runtime")),
        "hardware": {"gpus": gpus, "cores": cores, "system": metadata.get("os")} if metadata else None,
        "versions": {"python": metadata.get("python")} if metadata.get("python") else None,
        "git": {"commit": metadata["git"].get("commit"), "dirty": None} if metadata.get("git") else None,
    }
    summary |= {name: score(logged.get(name)) for name in SCORES}
    prefix = f"{CLASSES}/"
    classes = {key.removeprefix(prefix): score(value) for key, value in logged.items() if key.startswith(prefix)}
    return {key: value for key, value in summary.items() if value is not None} | {CLASSES: classes}


def command_of(metadata: Mapping[str, Any]) -> str | None:
    """The command that started the run."""
    if not metadata.get("program"):
        return None
    return shlex.join(["python", str(metadata["program"]), *map(str, metadata.get("args") or [])])


def score(value: Any) -> float | None:
    """A finite number; W&B keeps a whole one as an integer."""
    return None if number(value) is None else float(value)


def number(value: Any) -> float | int | None:
    """A finite number; W&B writes others as text."""
    ok = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return value if ok else None
