"""Every published experiment: its full size counted by hand, two real steps of it scaled down to R-50 and 65x65."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

import fake_data
from composing import settled
from emanet.cli.jobs import train
from emanet.common.errors import WeightsError
from emanet.config.instantiate import build
from emanet.config.schema import CONF_DIR, last_checkpoint
from emanet.model.weights import read_checkpoint
from emanet.training.task import SegmentationTask
from fake_coco import write_coco


def write_voc(root: Path) -> None:
    """VOC with SBD."""
    fake_data.write_voc(root)
    fake_data.write_sbd(root)


class Case(NamedTuple):
    """What an experiment must be: backbone, channels, classes, output stride, and the writer of its fake data."""

    backbone: str
    channels: int
    classes: int
    stride: int
    write: Callable[[Path], object]


R101 = "resnet101s"
CASES = {
    "voc_r50_os16": Case("resnet50s", 512, 21, 16, write_voc),
    "voc_r101_512": Case(R101, 512, 21, 8, write_voc),
    "voc_r101_256": Case(R101, 256, 21, 8, write_voc),
    "context59_r101": Case(R101, 512, 59, 8, fake_data.write_pascal_context),
    "context60_r101": Case(R101, 512, 60, 8, fake_data.write_pascal_context),
    "coco_stuff_10k_r101": Case(R101, 512, 171, 8, fake_data.write_coco_stuff_10k),
    "coco_stuff_164k_r101": Case(R101, 512, 171, 8, fake_data.write_coco_stuff_164k),
    "cityscapes_r101_ohem": Case(R101, 512, 19, 8, fake_data.write_cityscapes),
    "ade20k_r101": Case(R101, 512, 150, 8, fake_data.write_ade20k),
}
STAGES = {"1_coco": write_coco, "2_trainaug": write_voc, "3_trainval": write_voc}
for depth in (101, 152):
    for stage, write in STAGES.items():
        CASES[f"voc_test_r{depth}_{stage}"] = Case(f"resnet{depth}s", 512, 21, 8, write)

# parameters of the deep-stem ResNets without classifier: R-50's sum, and that of one block more in stage 2 and 3
R50 = 23_631_808
STAGE2_BLOCK = 512 * 128 + 9 * 128 * 128 + 128 * 512 + 2 * (128 + 128 + 512)
STAGE3_BLOCK = 1024 * 256 + 9 * 256 * 256 + 256 * 1024 + 2 * (256 + 256 + 1024)
BACKBONES = {
    "resnet50s": R50,
    "resnet101s": R50 + 17 * STAGE3_BLOCK,
    "resnet152s": R50 + 4 * STAGE2_BLOCK + 30 * STAGE3_BLOCK,
}


def parameters(case: Case) -> int:
    """Backbone, fc0 with its norm, conv1, conv2 with its norm, fc1 with its norm, fc2."""
    c = case.channels
    head = 9 * 2048 * c + 2 * c + (c * c + c) + (c * c + 2 * c) + 9 * c * 256 + 2 * 256 + (256 + 1) * case.classes
    return BACKBONES[case.backbone] + head


def experiment(name: str, *overrides: str) -> dict:
    """The configuration of an experiment."""
    return settled(f"experiment={name}", *overrides)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a stage before, scaled down to R-50."""
    cfg = experiment("voc_test_r101_1_coco", "model.backbone=resnet50s", "model.pretrained=false")
    path = tmp_path_factory.mktemp("stage") / "last.ckpt"
    torch.save({"state_dict": build(cfg["model"], "model", num_classes=21).state_dict()}, path)
    return path


def test_every_file_is_a_case_and_the_published_totals_are_those_of_the_formula():
    files = {path.stem for path in (Path(CONF_DIR) / "experiment").glob("*.yaml")}
    assert set(CASES) == files - {"quickstart", "quickstart_short", "land_cover"}
    assert len(CASES) == 15
    assert parameters(CASES["voc_r50_os16"]) == pytest.approx(34.781e6, abs=500)
    assert parameters(CASES["voc_r101_512"]) == pytest.approx(53.774e6, abs=500)


@pytest.mark.parametrize("name", CASES)
def test_the_full_network_has_the_size_counted_by_hand(name: str):
    case = CASES[name]
    cfg = experiment(name, "model.pretrained=false")
    assert cfg["name"] == name
    data = build({key: value for key, value in cfg["dataset"].items() if key != "name"}, "dataset")
    with torch.device("meta"):
        net = build(cfg["model"], "model", num_classes=data.num_classes)
    assert (net.backbone.name, net.num_classes, net.output_stride) == (case.backbone, case.classes, case.stride)
    assert sum(parameter.numel() for parameter in net.parameters()) == parameters(case)


@pytest.mark.parametrize("name", CASES)
def test_the_papers_recipe_holds_wherever_nothing_else_is_published(name: str):
    cfg = experiment(name)
    model, data = cfg["model"], cfg["dataset"]
    assert (cfg["optimizer"]["lr"], cfg["optimizer"]["weight_decay"], cfg["scheduler"]["power"]) == (9e-3, 1e-4, 0.9)
    assert [model[key] for key in ("head", "K", "T", "momentum", "bn_momentum")] == ["ema", 64, 3, 0.9, 3e-4]
    if name.startswith("cityscapes"):
        assert cfg["loss"]["_target_"] == "emanet.training.losses.OHEM"
        return
    assert (cfg["loss"]["_target_"], cfg["loss"]["reduction"]) == ("emanet.training.losses.NLL", "all_pixels")
    assert (data["crop_size"], data["batch_size"], cfg["trainer"]["max_steps"]) == (513, 16, 30_000)


@pytest.mark.parametrize("name", CASES)
def test_the_header_says_commands_figure_and_state(name: str):
    text = (Path(CONF_DIR) / "experiment" / f"{name}.yaml").read_text()
    header = text[: text.index("defaults:")]
    assert len(re.findall(rf"python src/train\.py experiment={name}\b", header)) == 3
    wanted = ["1 GPU:", "trainer=ddp trainer.devices=4", "trainer=ddp trainer.devices=8", "Published", "Not run."]
    wanted += ["none published by the authors (port:"] if name.startswith(("ade20k", "coco_stuff_164k")) else []
    wanted += ["not stated"] if name.startswith("context") else []
    assert [words for words in wanted if words not in header] == []


@pytest.mark.parametrize("name", CASES)
def test_two_steps_scaled_down_train_every_part(
    name: str, tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
):
    CASES[name].write(tmp_path / "data")
    small = ["model.backbone=resnet50s", "model.pretrained=false", "dataset.crop_size=65", "dataset.batch_size=2"]
    small += ["dataset.num_workers=0", f"dataset.root={tmp_path / 'data'}", "trainer.max_steps=2", "logger=csv"]
    small += ["trainer.accelerator=cpu", "trainer.limit_val_batches=0", "callbacks=none"]
    small += ["loss.min_kept=100"] if name.startswith("cityscapes") else []
    later = name.endswith(("2_trainaug", "3_trainval"))
    small += ["dataset.drop_last=false", *([f"init_from={weights}"] if later else [])]
    kept: dict[str, dict[str, torch.Tensor]] = {}
    for moment in ("on_fit_start", "on_fit_end"):

        def keep(task: SegmentationTask, moment: str = moment) -> None:
            kept[moment] = {key: value.clone() for key, value in task.net.state_dict().items()}

        monkeypatch.setattr(SegmentationTask, moment, keep)
    train(experiment(name, *small, f"paths.runs_dir={tmp_path}"), tmp_path / "run")
    before, after = kept.values()
    # kernels and bases; a batch norm's scale of 1 may move by less than float32 can tell
    still = {key for key, value in after.items() if value.ndim > 1 and torch.equal(value, before[key])}
    assert still == {"head.conv1.weight"}
    assert len(after) > 300
    assert all(torch.isfinite(value).all() for value in after.values())
    if later:
        start = read_checkpoint(weights)["state_dict"]
        assert torch.equal(before["fc2.weight"], start["fc2.weight"])


def test_a_stage_starts_from_the_newest_run_of_the_one_before_or_says_what_it_looked_for(tmp_path: Path):
    missing = experiment("voc_test_r152_3_trainval", f"paths.runs_dir={tmp_path}")["init_from"]
    assert missing == str(tmp_path / "voc_test_r152_2_trainaug" / "*" / "checkpoints" / "last.ckpt")
    with pytest.raises(WeightsError, match=r"no weights at .*voc_test_r152_2_trainaug"):
        read_checkpoint(missing)
    for age, day in enumerate(("2026-01-02", "2026-01-01")):  # the newest by time of writing
        path = tmp_path / "voc_test_r152_2_trainaug" / day / "checkpoints" / "last.ckpt"
        path.parent.mkdir(parents=True)
        path.write_bytes(b"")
        os.utime(path, (age, age))
    assert last_checkpoint(str(tmp_path), "voc_test_r152_2_trainaug") == str(path)
