"""From archives to a trained network: the scripts as processes, and every benchmark trained for two steps."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

from emanet.cli.jobs import train
from emanet.config.schema import CONF_DIR, register
from emanet.data.preparing.prepare import Preparation
from emanet.data.preparing.recipes import RECIPES
from fake_archives import ARCHIVES, tiny_recipe, write_archives
from loopback import serving

TESTS, SRC = Path(__file__).parent, Path(__file__).parents[1] / "src"
TINY = [
    *("model.backbone=resnet18", "model.pretrained=false", "model.channels=8", "model.K=4", "model.bn_momentum=0.1"),
    *("dataset.crop_size=65", "dataset.batch_size=2", "dataset.num_workers=0"),
    *("trainer.accelerator=cpu", "trainer.max_steps=2", "trainer.val_every_n_steps=2"),
]
WITH_TINY_RECIPES = """
import runpy, sys
from pathlib import Path
script, shelf, *arguments = sys.argv[1:]
sys.path[:0] = [str(Path(script).parent), {tests!r}]
from emanet.data.preparing.recipes import RECIPES
from fake_archives import tiny_recipe
for folder in Path(shelf).iterdir():
    RECIPES[folder.name] = tiny_recipe(folder.name, folder / "www")
sys.argv = [script, *arguments]
runpy.run_path(script, run_name="__main__")
"""


def run(script: str, *arguments: str, cwd: Path, shelf: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a script as a user does; with ``shelf``, knowing the checksums of the archives there."""
    command = [sys.executable, str(SRC / script), *arguments]
    if shelf is not None:
        program = WITH_TINY_RECIPES.format(tests=str(TESTS))
        command = [sys.executable, "-c", program, str(SRC / script), str(shelf), *arguments]
    environment = {key: value for key, value in os.environ.items() if key not in ("LOCAL_RANK", "WORLD_SIZE")}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=200)


def test_the_scripts_prepare_inspect_and_train_a_benchmark(tmp_path: Path):
    data, archives = tmp_path / "data", write_archives("ade20k", tmp_path / "shelf" / "ade20k")
    with serving(archives) as server:
        options = ["dataset=ade20k", f"paths.data_dir={data}", f"source={server.url}"]
        dry = run("prepare.py", *options, "dry_run=true", cwd=tmp_path, shelf=tmp_path / "shelf")
        assert f"{server.url}/ADEChallengeData2016.zip" in dry.stdout, dry.stderr
        assert not data.exists()
        strict = run("prepare.py", *options, cwd=tmp_path, shelf=tmp_path / "shelf")
        assert strict.returncode == 1
        assert re.search(r"ade20k in .* is not whole: train 3 of 20210, val 2 of 2000", strict.stdout)
        assert "Traceback" not in strict.stdout + strict.stderr
        done = run("prepare.py", *options, "strict_counts=false", cwd=tmp_path, shelf=tmp_path / "shelf")
        assert done.returncode == 0, done.stdout + done.stderr
        assert re.search(r"ade20k is ready in .*\n  train +3 images, 20210 published", done.stdout)
        assert len(server.requests) == 2 + 1, "the size twice, the archive once"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "shelf"], "no run folder for preparing"

    seen = run(
        "inspect_data.py",
        "dataset=ade20k",
        f"paths.data_dir={data}",
        f"hydra.run.dir={tmp_path / 'seen'}",
        cwd=tmp_path,
    )
    assert seen.returncode == 0, seen.stdout + seen.stderr
    assert (tmp_path / "seen" / "sheet.png").stat().st_size > 10_000

    folder = tmp_path / "run"
    trained = run(
        "train.py", *TINY, "dataset=ade20k", f"paths.data_dir={data}", f"hydra.run.dir={folder}", cwd=tmp_path
    )
    assert trained.returncode == 0, trained.stdout + trained.stderr
    assert torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 2


def composed(overrides: list[str], run_dir: Path) -> DictConfig:
    """The configuration that train.py would get."""
    register()
    with initialize_config_dir(CONF_DIR, version_base="1.3"):
        overrides = [*overrides, f"hydra.runtime.output_dir={run_dir}"]
        cfg = compose("train", overrides, return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    with open_dict(cfg):
        del cfg.hydra
    OmegaConf.resolve(cfg)
    return cfg


@pytest.fixture
def no_hydra() -> Iterator[None]:
    """Leave no configuration behind for other tests."""
    yield
    GlobalHydra.instance().clear()
    HydraConfig.instance().cfg = None


@pytest.mark.usefixtures("no_hydra")
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("voc", ["dataset.train_split=trainaug"]),
        ("pascal_context", ["dataset.label_source=mat"]),
        ("pascal_context", ["dataset.label_source=json", "dataset.num_classes=60"]),
        ("coco_stuff", []),
        ("coco_stuff_164k", []),
        ("cityscapes", []),
        ("ade20k", []),
    ],
)
def test_a_prepared_benchmark_trains_two_steps(
    tmp_path: Path, name: str, options: list[str], monkeypatch: pytest.MonkeyPatch
):
    archives = write_archives(name, tmp_path)
    monkeypatch.setitem(RECIPES, name, tiny_recipe(name, archives))
    with serving(archives) as server:
        Preparation(name, tmp_path / "data", source=server.url, strict_counts=False).run()
    cfg = composed([f"dataset={name}", f"dataset.root={tmp_path / 'data'}", *TINY, *options], tmp_path / "run")
    (tmp_path / "run").mkdir()
    miou = train(cfg, tmp_path / "run")
    assert miou is not None
    assert 0 <= miou <= 1
    content = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert content["global_step"] == 2
    classes = {"voc": 21, "cityscapes": 19, "ade20k": 150, "pascal_context": 60 if len(options) == 2 else 59}
    assert content["state_dict"]["net.fc2.weight"].shape[0] == classes.get(name, 171)


def test_every_benchmark_is_among_those_trained():
    (cases,) = (mark.args[1] for mark in test_a_prepared_benchmark_trains_two_steps.pytestmark if len(mark.args) == 2)
    trained = {name for name, _ in cases}
    assert trained == set(RECIPES) == set(ARCHIVES)
