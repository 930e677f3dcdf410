"""The files of conf/sweep/: Hydra does not look at a sweep's keys when it composes, so every job is composed here."""

import itertools

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from composing import composed, files, settled

SWEEPS = files("sweep")
GROUPS = {"head": "model.head"}  # keys of a sweep that choose a file, and the key that says which


def params(cfg: DictConfig) -> dict[str, list[str]]:
    """The values of each key that a sweep goes through."""
    given = [f"{key}={value}" for key, value in cfg.hydra.sweeper.params.items()]
    found = OverridesParser.create().parse_overrides(given)
    return {item.key_or_group: [str(value) for value in item.sweep_string_iterator()] for item in found}


def test_the_sweeps_of_the_paper_and_beyond_are_there():
    assert {*"KT", "momentum", "maintenance_norm", "gradient", "output_stride", "channels", "seed", "head"} == {*SWEEPS}


@pytest.mark.parametrize("sweep", SWEEPS)
def test_every_value_of_a_sweep_reaches_its_key_makes_sense_and_has_a_folder_of_its_own(sweep):
    found, folders = params(composed(f"sweep={sweep}")), set()
    jobs = list(itertools.product(*({"seed": [values[0]]}.get(key, values) for key, values in found.items())))
    for job in jobs:
        given = dict(zip(found, job, strict=True))
        cfg = composed("experiment=quickstart_short", f"sweep={sweep}", *(f"{key}={given[key]}" for key in given))
        assert [str(OmegaConf.select(cfg, GROUPS.get(key, key))) for key in given] == [*job]
        settled("experiment=quickstart_short", f"sweep={sweep}", *(f"{key}={given[key]}" for key in given))
        folders.add(cfg.hydra.sweep.subdir)
    assert len(folders) == len(jobs)
    assert cfg.hydra.sweep.subdir.endswith(f"seed={found['seed'][0]}")


@pytest.mark.parametrize("sweep", SWEEPS)
def test_a_sweep_names_what_it_goes_through_takes_several_seeds_and_changes_nothing_else_of_an_experiment(sweep):
    cfg, plain = composed("experiment=voc_r50_os16", f"sweep={sweep}"), composed("experiment=voc_r50_os16")
    found = params(cfg)
    assert list(cfg.swept) == [GROUPS.get(key, key) for key in found]
    assert len(found["seed"]) >= 3
    assert cfg.hydra.sweep.dir.endswith(f"voc_r50_os16/sweep_{sweep}")
    assert (cfg.study, cfg.hydra.mode.name, cfg.resume) == (sweep, "MULTIRUN", "auto")
    own = {"hydra", "study", "swept", "resume", "T_evals", "callbacks"}  # the last holds the folder of the run
    assert {key: cfg[key] for key in cfg if key not in own} == {key: plain[key] for key in plain if key not in own}


def test_bases_trained_by_gradient_get_one_and_the_others_train_as_published():
    kinds = {"none": "none", "backprop": "full", "moving_average": "none"}
    assert {
        kind: composed("sweep=maintenance_norm", f"model.maintenance={kind}").model.gradient for kind in kinds
    } == kinds
