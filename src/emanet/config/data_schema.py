"""Schema of the scripts that look after data: type and meaning of every key of conf/prepare.yaml, inspect_data.yaml."""

from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from emanet.config.schema import PathsConfig


@dataclass
class PrepareConfig:
    """Root of conf/prepare.yaml."""

    dataset: Any = MISSING  # a benchmark, of which name and root count, or all: every one below paths.data_dir
    source: str | None = None  # folder or address that holds the archives; null: their own addresses
    parts: list[str] | None = None  # archives to take; null: all
    dry_run: bool = False  # only say what would be done, and what disk it needs
    strict_counts: bool = True  # a split of another size than published is an error
    keep_archives: bool = False  # keep fetched archives once all is unpacked and checked
    paths: PathsConfig = MISSING


@dataclass
class InspectConfig:
    """Root of conf/inspect_data.yaml."""

    name: str = MISSING  # of the run: names its folder
    dataset: Any = MISSING
    split: str | None = None  # null: the split that training uses
    limit: int | None = None  # masks that are read for the figures, evenly spaced; null: all
    pictures: int = MISSING  # images on the contact sheet
    seed: int = 0  # of the choice of pictures
    paths: PathsConfig = MISSING


def register_data_schemas(argv: list[str]) -> list[str]:
    """Make both known to Hydra; leaves the command line as it is."""
    store = ConfigStore.instance()
    store.store(name="prepare_schema", node=PrepareConfig)
    store.store(group="dataset", name="all", node={"name": "all", "root": None})
    store.store(name="inspect_schema", node=InspectConfig)
    return argv
