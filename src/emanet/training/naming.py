"""What a run is called among others: by the values that it was started with."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import OmegaConf

from emanet.common.errors import ConfigError

MOST_NAME = 128  # characters that W&B takes


class RunDescription(NamedTuple):
    """How a run appears in W&B."""

    name: str
    group: str
    job_type: str
    tags: list[str]


def describe_run(cfg: Mapping[str, Any], run_dir: Path, choices: Sequence[str] = ()) -> RunDescription:
    """Name a run by the values of ``swept`` and by ``choices``, else by its folder; group it by its study.

    Args:
        cfg: of the run.
        run_dir: its folder.
        choices: overrides such as ``model.K=8`` that tell it apart from the other jobs of its sweep.

    Raises:
        ConfigError: for a key in ``swept`` that the configuration does not have.
    """
    values = {key: select(cfg, key) for key in cfg["swept"]}
    for choice in choices:
        key, _, value = choice.partition("=")
        values.setdefault(key.lstrip("+~"), value.strip("'\""))
    leaves = Counter(key.rpartition(".")[2] for key in values)
    # three keys are called momentum
    shown = {(leaf if leaves[leaf := key.rpartition(".")[2]] == 1 else key): value for key, value in values.items()}
    folder = (
        f"{run_dir.parent.name}_{run_dir.name}" if run_dir.name.isdigit() else run_dir.name
    )  # of a sweep: 0, 1, ...
    study = [] if cfg["study"] is None else [cfg["study"]]
    return RunDescription(
        name=" ".join(f"{key}={value}" for key, value in shown.items())[:MOST_NAME] or folder,
        group="/".join([cfg["name"], *study]),
        job_type="train",
        tags=list(dict.fromkeys([*cfg["tags"], *study])),
    )


def select(cfg: Any, key: str) -> str:
    """Value of a key, as the command line has it."""
    for part in key.split("."):
        if not isinstance(cfg, Mapping) or part not in cfg:
            raise ConfigError(f"swept must name keys of the configuration, such as model.K, got {key!r}")
        cfg = cfg[part]
    return cfg if isinstance(cfg, str) else json.dumps(cfg, separators=(",", ":"))


def sweep_choices(run_dir: Path) -> list[str]:
    """Overrides of this job that the jobs of its sweep do not share; of a job that is no part of a sweep, none.

    Hydra's own sweeper leaves the command of the sweep beside its jobs. Under a sweeper that does not, all overrides.
    """
    if not HydraConfig.initialized():
        return []
    hydra, path = HydraConfig.get(), run_dir.parent / "multirun.yaml"
    overrides = list(hydra.overrides.task)
    if not path.is_file():
        return overrides if hydra.mode == RunMode.MULTIRUN else []
    sweep = OmegaConf.load(path).hydra
    params = (f"{key}={value}" for key, value in (sweep.sweeper.params or {}).items())
    parsed = OverridesParser.create().parse_overrides([*params, *sweep.overrides.task])
    varied = {str(override.key_or_group) for override in parsed if override.is_sweep_override()}
    return [item for item in overrides if item.partition("=")[0].lstrip("+~") in varied]
