"""What a run is called among others: by the values that it was started with."""

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
    values = {key: shown(select(cfg, key)) for key in cfg["swept"]}
    for choice in choices:
        key, _, value = choice.partition("=")
        values.setdefault(key.lstrip("+~"), value.strip("'\""))
    leaves = Counter(key.rpartition(".")[2] for key in values)
    parts = []
    for key, value in values.items():
        leaf = key.rpartition(".")[2]
        parts.append(f"{leaf if leaves[leaf] == 1 else key}={value}")  # three keys are called momentum
    return RunDescription(
        name=" ".join(parts)[:MOST_NAME] or folder_name(run_dir),
        group=cfg["name"] if cfg["study"] is None else f"{cfg['name']}/{cfg['study']}",
        job_type="train",
        tags=list(dict.fromkeys([*cfg["tags"], *([] if cfg["study"] is None else [cfg["study"]])])),
    )


def select(cfg: Mapping[str, Any], key: str) -> Any:
    """Value of a key that must be there."""
    node: Any = cfg
    for part in key.split("."):
        if not isinstance(node, Mapping) or part not in node:
            raise ConfigError(f"swept must name keys of the configuration, such as model.K, got {key!r}")
        node = node[part]
    return node


def shown(value: Any) -> str:
    """A value as the command line has it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value).replace(" ", "")


def folder_name(run_dir: Path) -> str:
    """Name of a run's folder, with the sweep's before the number of a job."""
    return f"{run_dir.parent.name}_{run_dir.name}" if run_dir.name.isdigit() else run_dir.name


def sweep_choices(run_dir: Path) -> list[str]:
    """Overrides of this job that the jobs of its sweep do not share; of a job that is no part of a sweep, none.

    Hydra's own sweeper leaves the command of the sweep beside its jobs. Under a sweeper that does not, all overrides.
    """
    if not HydraConfig.initialized():
        return []
    hydra = HydraConfig.get()
    overrides = list(hydra.overrides.task)
    varied = varied_keys(run_dir.parent / "multirun.yaml")
    if varied is None:
        return overrides if hydra.mode == RunMode.MULTIRUN else []
    return [item for item in overrides if item.partition("=")[0].lstrip("+~") in varied]


def varied_keys(path: Path) -> set[str] | None:
    """Keys with several values in the command of a sweep, as Hydra stores it; ``None`` if there is no such file."""
    if not path.is_file():
        return None
    stored = OmegaConf.load(path)
    params = OmegaConf.select(stored, "hydra.sweeper.params") or {}
    given = OmegaConf.select(stored, "hydra.overrides.task") or []
    parsed = OverridesParser.create().parse_overrides([*(f"{key}={value}" for key, value in params.items()), *given])
    return {str(override.key_or_group) for override in parsed if override.is_sweep_override()}
