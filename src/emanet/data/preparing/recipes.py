"""Where each benchmark comes from and what makes it whole, as ``recipes.yaml`` beside this file says."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from emanet import data
from emanet.common.errors import ConfigError
from emanet.data.datamodule import SegmentationDataModule


@dataclass(frozen=True, kw_only=True)
class Archive:
    """A file to fetch; one that is no zip or tar is used as it is."""

    key: str  #: what ``parts=[...]`` calls it
    file: str
    host: str | None = None  #: address of its folder; None: only by hand, after a login
    page: str | None = None  #: where people find it, if not at ``host``
    size: int | None = None  #: bytes, as published: about
    checksum: str | None = None  #: ``algorithm:hexdigest``
    into: str = "."  #: folder below the root that it unpacks into
    wanted: Sequence[str] = ()  #: beginnings of the paths that are needed; none: all
    provides: Sequence[str]  #: paths below the root that are there once it is unpacked
    optional: bool = False  #: taken only where the file lies ready, or on request


@dataclass(frozen=True, kw_only=True)
class Check:
    """Splits that must have their published size, read by the data set's own reader."""

    needs: Sequence[str]  #: keys of archives
    splits: Sequence[str]
    options: Mapping[str, Any] = field(default_factory=dict)  #: of the reader


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All of a benchmark."""

    reader: Callable[..., SegmentationDataModule]
    archives: Sequence[Archive]
    checks: Sequence[Check]


def read_recipes(path: Path) -> dict[str, Recipe]:
    """Read a table of recipes, by name of the benchmark."""
    recipes = {}
    for name, fields in yaml.safe_load(path.read_text(encoding="utf-8")).items():
        archives = [Archive(**archive) for archive in fields.pop("archives")]
        checks = [Check(**check) for check in fields.pop("checks")]
        recipes[name] = Recipe(archives=archives, checks=checks, **fields | {"reader": getattr(data, fields["reader"])})
    return recipes


RECIPES = read_recipes(Path(__file__).with_name("recipes.yaml"))


def recipe_of(name: str) -> Recipe:
    """Look up a benchmark.

    Raises:
        ConfigError: if it has no recipe.
    """
    if name in ("blue_marble", "land_cover"):
        raise ConfigError(f"{name} needs no preparing: it is written from two pip packages at first use.")
    if name not in RECIPES:
        raise ConfigError(
            f"dataset={name} cannot be prepared; there are {', '.join(RECIPES)}, all. Your own data needs no "
            "preparing: see docs/own_data.md"
        )
    return RECIPES[name]
