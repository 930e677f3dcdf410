"""The files of conf/sweep/: Hydra does not look at a sweep's keys when it composes, so every job is composed here."""

import itertools
import re
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from emanet.config.rules import check
from emanet.config.schema import CONF_DIR, register

SWEEPS = sorted(path.stem for path in (Path(CONF_DIR) / "sweep").glob("*.yaml"))


def composed(*overrides: str) -> DictConfig:
    """The configuration of a command line, Hydra's own part included."""
    register()
    with initialize_config_dir(CONF_DIR, version_base="1.3"):
        return compose("train", overrides=list(overrides), return_hydra_config=True)


def params(sweep: str) -> dict[str, list[str]]:
    """The values of each key that a sweep goes through."""
    node = OmegaConf.to_container(composed(f"sweep={sweep}").hydra.sweeper.params)
    overrides = OverridesParser.create().parse_overrides([f"{key}={value}" for key, value in node.items()])
    return {item.key_or_group: [str(value) for value in values(item)] for item in overrides}


def values(item: Any) -> list[Any]:
    """The values of one override of a sweep."""
    return list(item.sweep_string_iterator()) if item.is_sweep_override() else [item.get_value_element_as_str()]


def jobs(sweep: str) -> list[list[str]]:
    """The overrides of each job of a sweep."""
    found = params(sweep)
    return [
        [f"{key}={value}" for key, value in zip(found, cell, strict=True)]
        for cell in itertools.product(*found.values())
    ]


def test_the_sweeps_of_the_paper_and_beyond_are_there():
    assert {
        "K", "T", "momentum", "maintenance_norm", "gradient", "output_stride", "channels", "seed", "head"
    } <= set(SWEEPS)  # fmt: skip


@pytest.mark.parametrize("sweep", SWEEPS)
def test_every_job_of_a_sweep_makes_sense_and_has_a_folder_of_its_own(sweep):
    folders = set()
    found = jobs(sweep)
    ends = [found[0], found[-1]] if len(found) > 30 else found
    for overrides in ends:
        cfg = composed("experiment=quickstart_short", f"sweep={sweep}", *overrides)
        folders.add(cfg.hydra.sweep.subdir)
        check(cfg)
        for override in overrides:
            key, _, value = override.partition("=")
            assert str(OmegaConf.select(cfg, key)) == value
    assert len(folders) == len(ends)


@pytest.mark.parametrize("sweep", SWEEPS)
def test_a_sweep_names_what_it_goes_through_and_takes_several_seeds(sweep):
    cfg, found = composed(f"sweep={sweep}"), params(sweep)
    assert cfg.study == sweep
    assert list(cfg.swept) == list(found)
    assert len(found["seed"]) >= 3
    assert re.fullmatch(r".*sweep_" + sweep, cfg.hydra.sweep.dir)
    assert (cfg.hydra.mode.name, cfg.resume) == ("MULTIRUN", "auto")


@pytest.mark.parametrize("sweep", SWEEPS)
def test_a_sweep_goes_with_any_experiment_and_changes_nothing_else_of_it(sweep):
    one = composed("experiment=voc_r50_os16", f"sweep={sweep}")
    other = composed("experiment=voc_r50_os16")
    for group in ("dataset", "optim", "loss", "trainer"):
        assert one[group] == other[group]
    assert one.hydra.sweep.dir.endswith(f"voc_r50_os16/sweep_{sweep}")


def test_a_mistyped_key_would_be_noticed_by_these_tests():
    with pytest.raises(HydraException, match="modell"):
        composed("sweep=K", "modell.K=3")


def test_bases_trained_by_gradient_get_one_and_the_others_train_as_published():
    gradients = {
        kind: composed("sweep=maintenance_norm", f"model.maintenance={kind}").model.gradient
        for kind in ("none", "backprop", "moving_average")
    }
    assert gradients == {"none": "none", "backprop": "full", "moving_average": "none"}
