"""What a run is called in W&B: from the configuration, from the overrides of a sweep, else from its folder."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf

from emanet.common.errors import ConfigError
from emanet.config.schema import CONF_DIR, register
from emanet.training.naming import describe_run, sweep_choices

RUN = Path("/runs/voc/2026-01-31_12-00-00")


def config(**values) -> dict[str, Any]:
    base = {"name": "voc", "study": None, "swept": [], "tags": [], "seed": 0, "init_from": None}
    model = {"K": 64, "momentum": 0.9, "pretrained": False, "multi_grid": [1, 2, 4]}
    return base | {"model": model, "optimizer": {"momentum": 0.5}} | values


def stored_sweep(folder: Path, *overrides: str, **params: str) -> Path:
    """The file that Hydra's own sweeper leaves beside its jobs."""
    path = folder / "multirun.yaml"
    hydra = {"hydra": {"overrides": {"task": list(overrides)}, "sweeper": {"params": params}}, "other": "${hydra:x}"}
    OmegaConf.save(OmegaConf.create(hydra), path)
    return path


def test_a_run_that_is_no_part_of_a_study_is_named_by_its_folder_and_grouped_by_its_experiment():
    described = describe_run(config(tags=["a", "b"]), RUN)
    assert described == ("2026-01-31_12-00-00", "voc", "train", ["a", "b"])
    assert describe_run(config(), Path("/runs/voc/sweep_1/3")).name == "sweep_1_3"


def test_a_run_of_a_study_is_named_by_its_swept_values_and_grouped_and_tagged_by_the_study():
    described = describe_run(config(study="K", swept=["model.K", "seed"], tags=["a"]), RUN)
    assert described == ("K=64 seed=0", "voc/K", "train", ["a", "K"])


@pytest.mark.parametrize(
    ("swept", "choices", "name"),
    [
        # keys that end alike are written out
        (["model.momentum", "optimizer.momentum", "model.K"], [], "model.momentum=0.9 optimizer.momentum=0.5 K=64"),
        # values as on the command line
        (
            ["model.pretrained", "init_from", "model.multi_grid"],
            [],
            "pretrained=false init_from=null multi_grid=[1,2,4]",
        ),
        # overrides of a sweep follow what the study names, and repeat nothing
        (["model.K"], ["model.K=64", "seed=0", "dataset=voc", "+optimizer.lr='0.1'"], "K=64 seed=0 dataset=voc lr=0.1"),
    ],
)
def test_a_run_of_a_sweep_is_named_by_what_varies(swept: list[str], choices: list[str], name: str):
    assert describe_run(config(swept=swept), RUN, choices).name == name


def test_a_name_is_no_longer_than_wandb_takes_it():
    assert len(describe_run(config(), RUN, [f"dataset.root=/{'x' * 300}"]).name) == 128


@pytest.mark.parametrize("key", ["model.Q", "nothing.K", "model.K.x"])
def test_a_swept_key_that_does_not_exist_is_refused_by_name(key):
    with pytest.raises(ConfigError, match=rf"swept must name keys of the configuration, such as model\.K, got '{key}'"):
        describe_run(config(swept=[key]), RUN)


@pytest.fixture
def job() -> Iterator[Callable[..., None]]:
    """Makes this process a job of Hydra with the given overrides."""

    def start(mode: RunMode, *overrides: str) -> None:
        register()
        with initialize_config_dir(CONF_DIR, version_base="1.3"):
            cfg = compose("train", overrides=[*overrides, f"hydra.mode={mode.name}"], return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)

    yield start
    HydraConfig.instance().cfg = None


def test_a_job_of_a_sweep_is_told_apart_by_what_varies_also_alone_and_when_it_is_resumed(tmp_path, job):
    stored_sweep(
        tmp_path, "model.K=8,16", "dataset=voc", "+optimizer.fused=true,false", "optimizer.lr=0.1", seed="3", T="1,2"
    )
    for mode in (RunMode.MULTIRUN, RunMode.RUN):
        job(mode, "model.K=8", "dataset=voc", "+optimizer.fused=true", "optimizer.lr=0.1")
        assert sweep_choices(tmp_path / "0") == ["model.K=8", "+optimizer.fused=true"]


def test_under_a_sweeper_that_leaves_no_command_a_job_is_named_by_all_its_overrides(tmp_path, job):
    for mode, expected in ((RunMode.MULTIRUN, ["model.K=8", "optimizer.lr=0.1"]), (RunMode.RUN, [])):
        job(mode, "model.K=8", "optimizer.lr=0.1")
        assert sweep_choices(tmp_path / "0") == expected


def test_outside_of_hydra_there_are_no_choices(tmp_path: Path):
    stored_sweep(tmp_path, "model.K=8,16")
    assert sweep_choices(tmp_path / "0") == []
