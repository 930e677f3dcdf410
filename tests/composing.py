"""Configurations as command lines give them."""

from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

from emanet.config.rules import settle
from emanet.config.schema import CONF_DIR, register


def composed(*overrides: str, name: str = "train", run_dir: str = "run") -> DictConfig:
    """The configuration that a command line gives, Hydra's own part included."""
    register()
    with initialize_config_dir(CONF_DIR, version_base="1.3"):
        place = f"++hydra.runtime.output_dir={run_dir}"
        return compose(name, overrides=[*overrides, place], return_hydra_config=True)


def settled(*overrides: str, name: str = "train", run_dir: str = "run") -> dict[str, Any]:
    """The same as a job is handed it: checked, resolved, plain."""
    cfg = composed(*overrides, name=name, run_dir=run_dir)
    HydraConfig.instance().set_config(cfg)
    with open_dict(cfg):
        del cfg["hydra"]
    assert OmegaConf.is_dict(cfg)
    return settle(cfg)


def files(group: str) -> list[str]:
    """Names of a group's files."""
    return sorted(path.stem for path in (Path(CONF_DIR) / group).glob("*.yaml"))
