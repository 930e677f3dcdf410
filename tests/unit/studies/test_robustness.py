"""Corruptions are what their units say, and the evaluation under them starts from eval.py's own score."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning import Trainer
from omegaconf import OmegaConf

from emanet import EMANet
from emanet.common.errors import ConfigError
from emanet.data.datasets.voc import CLASSES, PALETTE
from emanet.inference.views import predict_logits
from emanet.studies.robustness import KINDS, configured, corrupted, find_checkpoints, planned
from emanet.training.task import SegmentationTask
from fake_data import write_voc
from fake_runs import invented_config


def gray(*rows: list[int]) -> np.ndarray:
    """A gray image with the given levels."""
    return np.repeat(np.array(rows, np.uint8)[..., None], 3, axis=2)


def spread(sigma: float) -> np.ndarray:
    """A white point in the middle of 15 pixels under a Gaussian, cut off at 3.5 of its deviations."""
    ticks = np.arange(-7, 8)
    profile = np.where(abs(ticks) <= int(3.5 * sigma), np.exp(-0.5 * (ticks / sigma) ** 2), 0)
    return gray(*(255 * np.outer(profile, profile) / profile.sum() ** 2).round())


POINT = gray(*(255 * (np.arange(15)[:, None] == 7) * (np.arange(15) == 7)))
RED = np.array([[[200, 0, 0], [0, 0, 0]]], np.uint8)  # luma 0.299 * 200 = 60, so the mean gray is 30


@pytest.mark.parametrize(
    ("kind", "strength", "image", "expected"),
    [
        ("contrast", 0.5, gray([0, 100], [200, 100]), gray([50, 100], [150, 100])),
        ("contrast", 2.0, gray([0, 100], [200, 100]), gray([0, 100], [255, 100])),
        ("contrast", 0.5, RED, np.array([[[115, 15, 15], [15, 15, 15]]])),
        ("brightness", 1.5, gray([0, 100, 200]), gray([0, 150, 255])),
        ("brightness", 0.5, gray([0, 100, 200]), gray([0, 50, 100])),
        ("blur", 1.5, POINT, spread(1.5)),
    ],
)
def test_a_corruption_is_what_its_unit_says_and_leaves_the_image_alone(kind, strength, image, expected):
    before = image.copy()
    changed = corrupted(image, "x", kind=kind, strength=strength)
    assert changed.dtype == np.uint8
    assert np.abs(changed.astype(int) - expected).max() <= (kind == "blur"), "a blur rounds twice"
    assert (image == before).all()


@pytest.mark.parametrize("sigma", [2.0, 10.0])
def test_noise_has_the_standard_deviation_in_gray_levels_no_bias_and_is_cut_at_black(sigma):
    noise = corrupted(np.full((200, 200, 3), 128, np.uint8), "x", kind="noise", strength=sigma).astype(float) - 128
    rounded = np.sqrt(sigma**2 + 1 / 12)  # rounding adds the variance of a uniform distribution
    assert noise.std() == pytest.approx(rounded, rel=0.01)  # of 120000 draws: 5 standard errors
    assert abs(noise.mean()) < 5 * rounded / np.sqrt(noise.size)
    assert (noise.std(axis=2) > 0).mean() > 0.5, "each channel has its own"
    black = corrupted(np.zeros((50, 50, 3), np.uint8), "x", kind="noise", strength=sigma)
    assert black.max() < 6 * sigma, "it does not wrap around"


def test_noise_is_the_same_for_every_network_and_another_for_every_image_and_seed():
    noise = partial(corrupted, np.full((8, 8, 3), 128, np.uint8), kind="noise", strength=10.0)
    assert (noise("a") == noise("a")).all()
    assert (noise("a") != noise("b")).any()
    assert (noise("a") != noise("a", seed=1)).any()
    twice = noise("a", strength=20.0).astype(float) - 128
    assert np.abs(twice - 2 * (noise("a").astype(float) - 128)).max() <= 1.5  # the same draws, rounded


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"fog": [1]}, r"for noise, blur, contrast, brightness; got fog: \[1\]"),
        ({"noise": ["loud"]}, r"got noise: \['loud'\]"),
        ({"noise": 5}, r"corruptions hold lists of strengths of 0 or more .* got noise: 5"),
        ({"blur": [-1]}, r"got blur: \[-1\]"),
        ({"blur": [float("nan")]}, r"got blur: \[nan\]"),
        ({kind: [neutral] for kind, (_, neutral) in KINDS.items()}, "no strength that changes anything"),
    ],
)
def test_corruptions_that_make_no_sense_are_refused(asked, message):
    with pytest.raises(ConfigError, match=message):
        planned(asked)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """VOC in its real layout, and checkpoints of two networks that see many classes."""
    folder = tmp_path_factory.mktemp("robustness")
    write_voc(folder / "data", n_train=1, n_val=3, n_test=1)
    for K in (3, 5):
        torch.manual_seed(K)
        net = EMANet(21, backbone="test_resnet", output_stride=16, channels=8, K=K)
        with torch.no_grad():  # an untrained network sees one class everywhere, whose mIoU nothing changes
            net.fc2.weight *= 30
            net.fc2.bias -= predict_logits(net.eval(), torch.randn(2, 3, 65, 65)).mean((0, 2, 3))
        changes = {"dataset.root": str(folder / "data"), "dataset.num_workers": 0, "trainer.accelerator": "cpu"}
        config = OmegaConf.to_container(invented_config(None, {"model.K": K, **changes}, seed=0), resolve=True)
        task = SegmentationTask(net, class_names=CLASSES, palette=PALETTE.tolist(), config=config)
        trainer = Trainer(logger=False, accelerator="cpu", enable_checkpointing=False, barebones=True)
        trainer.strategy.connect(task)
        trainer.save_checkpoint(folder / f"K={K}" / "last.ckpt")
    return folder


def test_each_network_is_evaluated_clean_as_by_eval_and_under_each_corruption(base, zygote):
    arguments = [f"checkpoints={base}/K=*/last.ckpt", "label=model.K", f"hydra.run.dir={base}"]
    corruptions = "corruptions={noise:[0,60],contrast:[0.1],blur:[],brightness:[]}"
    output = zygote.run(*arguments, corruptions, cwd=base, script="robustness.py")
    content = json.loads((base / "robustness.json").read_text())
    assert content["status"] == "finished"
    assert {(score["seed"], score["split"]) for score in content["scores"]} == {(0, "val")}
    for K in "35":
        scores = [score for score in content["scores"] if score["label"] == K]
        found = {(score["corruption"], score["strength"]): score["val/miou"] for score in scores}
        assert list(found) == [(None, None), ("noise", 60.0), ("contrast", 0.1)]  # noise of 0 is the clean image
        assert len({*found.values()}) == 3, "each changes something"
        place = f"hydra.run.dir={base / 'eval'}"
        zygote.run(f"checkpoint={base}/K={K}/last.ckpt", place, cwd=base, script="eval.py")
        assert found[None, None] == json.loads((base / "eval" / "summary.json").read_text())["val/miou"]
        assert f"{100 * found['noise', 60.0]:.2f}" in output


def test_a_label_that_no_checkpoint_has_is_refused_before_anything_is_evaluated(base, tmp_path, zygote):
    arguments = [f"checkpoints={base}/K=3/last.ckpt", "label=model.Q", f"hydra.run.dir={tmp_path}"]
    assert "label=model.Q" in zygote.run(*arguments, cwd=tmp_path, script="robustness.py", code=1)
    assert not (tmp_path / "robustness.json").exists()


def test_what_a_foreign_checkpoint_says_is_not_resolved(base, tmp_path, monkeypatch):
    monkeypatch.setenv("EMANET_TEST_SECRET", "hidden")
    content = torch.load(base / "K=3" / "last.ckpt", weights_only=True)
    content["hyper_parameters"]["name"] = "${oc.env:EMANET_TEST_SECRET}"
    torch.save(content, tmp_path / "x.ckpt")
    asked = dict.fromkeys(["root", "split", "accelerator", "label"]) | {"name": "robustness"}
    _, told = configured(tmp_path / "x.ckpt", asked)
    assert told["label"] == "${oc.env:EMANET_TEST_SECRET}"


def test_checkpoints_are_files_lists_or_patterns_each_once(base):
    first, second = (base / f"K={K}" / "last.ckpt" for K in (3, 5))
    assert find_checkpoints(str(first)) == [first]
    assert find_checkpoints([str(second), f"{base}/K=*/*.ckpt"]) == [second, first]
    for nothing, message in ((f"{base}/*/none.ckpt", "nothing there"), (None, "say which networks")):
        with pytest.raises(ConfigError, match=message):
            find_checkpoints(nothing)
