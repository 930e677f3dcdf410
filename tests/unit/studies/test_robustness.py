"""Corruptions are what their units say, and the evaluation under them starts from eval.py's own score."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from emanet.config.report_schema import register_report_schemas
from hydra import compose, initialize_config_dir
from lightning import Trainer
from omegaconf import DictConfig, OmegaConf

from emanet import EMANet
from emanet.cli.entry import register_checkpoint
from emanet.cli.jobs import evaluate
from emanet.common.errors import ConfigError
from emanet.config.instantiate import resolved
from emanet.config.schema import CONF_DIR, register
from emanet.data.corruptions import KINDS, Corruption
from emanet.data.datasets.voc import CLASSES, PALETTE
from emanet.inference.views import predict_logits
from emanet.studies.robustness import evaluate_robustness, find_checkpoints, robustness_table
from emanet.training.build import silence_known_warnings
from emanet.training.task import SegmentationTask
from fake_data import write_voc


def gray(*rows: list[int]) -> np.ndarray:
    """A gray image with the given levels."""
    return np.repeat(np.array(rows, np.uint8)[..., None], 3, axis=2)


# --- corruptions ----------------------------------------------------------------------------------------------------


def test_contrast_scales_the_distances_from_the_mean_gray():
    image = gray([0, 100], [200, 100])  # mean 100
    assert Corruption("contrast", 0.5)(image, "x")[..., 0].tolist() == [[50, 100], [150, 100]]
    assert Corruption("contrast", 2.0)(image, "x")[..., 0].tolist() == [[0, 100], [255, 100]]  # -100 and 300 are cut
    assert Corruption("contrast", 0.0)(image, "x").tolist() == gray([100, 100], [100, 100]).tolist()


def test_the_mean_gray_weighs_colors_as_eyes_do():
    image = np.zeros((1, 2, 3), np.uint8)
    image[0, 0] = (200, 0, 0)  # luma 0.299 * 200 = 60; the mean over both pixels is 30
    assert Corruption("contrast", 0.5)(image, "x").tolist() == [[[115, 15, 15], [15, 15, 15]]]


def test_brightness_scales_the_levels():
    image = gray([0, 100, 200])
    assert Corruption("brightness", 1.5)(image, "x")[..., 0].tolist() == [[0, 150, 255]]
    assert Corruption("brightness", 0.5)(image, "x")[..., 0].tolist() == [[0, 50, 100]]


def test_blur_spreads_a_point_to_a_gaussian_of_so_many_pixels():
    image = np.zeros((15, 15, 3), np.uint8)
    image[7, 7] = 255
    sigma = 1.5
    ticks = np.arange(-7, 8)
    profile = np.where(abs(ticks) <= int(3.5 * sigma), np.exp(-0.5 * (ticks / sigma) ** 2), 0)
    profile /= profile.sum()
    expected = 255 * np.outer(profile, profile)
    blurred = Corruption("blur", sigma)(image, "x")
    assert np.abs(blurred.astype(float) - expected[..., None]).max() <= 1  # two roundings to 8 bits
    assert blurred.max() == round(expected.max())


@pytest.mark.parametrize("sigma", [2.0, 10.0])
def test_noise_has_the_standard_deviation_in_gray_levels_and_no_bias(sigma):
    image = np.full((200, 200, 3), 128, np.uint8)
    noise = Corruption("noise", sigma)(image, "x").astype(float) - 128
    rounded = np.sqrt(sigma**2 + 1 / 12)  # rounding adds the variance of a uniform distribution
    assert noise.std() == pytest.approx(rounded, rel=0.01)  # of 120000 draws: 5 standard errors
    assert abs(noise.mean()) < 5 * rounded / np.sqrt(noise.size)
    assert len(np.unique(noise[0, 0])) > 1 or len(np.unique(noise[0, 1])) > 1  # each channel its own


def test_noise_is_the_same_for_every_network_and_another_for_every_image_and_seed():
    image = np.full((8, 8, 3), 128, np.uint8)
    once = Corruption("noise", 10.0)(image, "a")
    assert (once == Corruption("noise", 10.0)(image, "a")).all()
    assert (once != Corruption("noise", 10.0)(image, "b")).any()
    assert (once != Corruption("noise", 10.0, seed=1)(image, "a")).any()
    twice = Corruption("noise", 20.0)(image, "a").astype(float) - 128
    assert np.abs(twice - 2 * (once.astype(float) - 128)).max() <= 1.5  # the same draws, rounded


def test_noise_is_cut_at_black_and_white_and_does_not_wrap_around():
    black = Corruption("noise", 40.0)(np.zeros((50, 50, 3), np.uint8), "x")
    white = Corruption("noise", 40.0)(np.full((50, 50, 3), 255, np.uint8), "x")
    assert (black == 0).mean() == pytest.approx(0.5, abs=0.03)
    assert (white == 255).mean() == pytest.approx(0.5, abs=0.03)
    assert black.max() < 200
    assert white.min() > 55


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_neutral_strength_gives_the_image_back_and_another_leaves_it_alone(kind):
    image = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    before = image.copy()
    assert Corruption(kind, KINDS[kind].neutral)(image, "x") is image
    changed = Corruption(kind, 0.5)(image, "x")
    assert (image == before).all()
    assert (changed != before).any()
    assert (changed.dtype, changed.shape) == (np.uint8, image.shape)


@pytest.mark.parametrize(
    ("kind", "strength", "message"),
    [
        ("fog", 1.0, "corruptions are noise, blur, contrast, brightness, got 'fog'"),
        ("noise", -1.0, "the strength of noise must be 0 or more, got -1.0"),
        ("blur", float("nan"), "the strength of blur must be 0 or more, got nan"),
        ("contrast", float("inf"), "got inf"),
    ],
)
def test_a_corruption_that_makes_no_sense_is_refused(kind, strength, message):
    with pytest.raises(ConfigError, match=message):
        Corruption(kind, strength)


# --- evaluation -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """VOC in its real layout, and checkpoints of two networks with K=3 and K=5 that see many classes."""
    folder = tmp_path_factory.mktemp("robustness")
    write_voc(folder / "data", n_train=1, n_val=3, n_test=1)
    silence_known_warnings()
    for K in (3, 5):
        path = folder / f"K={K}_seed=0" / "checkpoints" / "last.ckpt"
        write_checkpoint(path, folder / "data", K)
    return folder


def write_checkpoint(path: Path, data: Path, K: int) -> None:
    """A checkpoint of a run that has taken no step."""
    torch.manual_seed(K)
    net = EMANet(21, backbone="test_resnet", output_stride=16, channels=8, K=K)
    with torch.no_grad():  # an untrained network sees one class everywhere, whose mIoU nothing changes
        net.fc2.weight *= 30
        net.fc2.bias -= predict_logits(net.eval(), torch.randn(2, 3, 65, 65)).mean((0, 2, 3))
    with initialize_config_dir(CONF_DIR, version_base="1.3"):
        register()
        cfg = compose(
            "train",
            [
                f"name=net{K}",
                f"dataset.root={data}",
                "dataset.train_split=train",
                "dataset.num_workers=0",
                "model.backbone=test_resnet",
                "model.output_stride=16",
                "model.channels=8",
                f"model.K={K}",
                "trainer.accelerator=cpu",
            ],
        )
    config = {key: resolved(cfg[key]) for key in ("model", "dataset", "trainer")} | {"name": cfg.name, "seed": 0}
    task = SegmentationTask(net, class_names=CLASSES, max_steps=1, palette=PALETTE.tolist(), config=config)
    trainer = Trainer(logger=False, accelerator="cpu", enable_checkpointing=False, barebones=True)
    trainer.strategy.connect(task)
    trainer.save_checkpoint(path)


def configured(*overrides: str) -> DictConfig:
    """The configuration that a command line gives."""
    register()
    arguments = register_report_schemas(["robustness.py", *overrides])[1:]
    with initialize_config_dir(CONF_DIR, version_base="1.3"):
        return compose("robustness", arguments)


def score(content: dict, network: int, kind: str | None, strength: float | None = None) -> float:
    """mIoU of one evaluation."""
    (found,) = [
        entry["val/miou"]
        for entry in content["networks"][network]["scores"]
        if (entry["corruption"], entry.get("strength")) == (kind, strength)
    ]
    return found


@pytest.fixture(scope="module")
def results(base: Path) -> dict:
    """Both networks under three corruptions."""
    corruptions = "corruptions={noise:[0,60],contrast:[0.1],blur:[],brightness:[]}"
    cfg = configured(f"checkpoints={base}/K=*/checkpoints/last.ckpt", "label=model.K", corruptions)
    content = evaluate_robustness(cfg, base)
    assert json.loads((base / "robustness.json").read_text()) == content
    return content


def test_the_clean_score_is_that_of_eval_to_the_digit(base, results, tmp_path):
    for number, K in enumerate((3, 5)):
        path = base / f"K={K}_seed=0" / "checkpoints" / "last.ckpt"
        register_checkpoint(["eval.py", f"checkpoint={path}"])
        with initialize_config_dir(CONF_DIR, version_base="1.3"):
            evaluate(compose("eval", [f"checkpoint='{path}'"]), tmp_path)
        expected = json.loads((tmp_path / "summary.json").read_text())
        assert score(results, number, None) == expected["val/miou"]
        assert results["networks"][number]["scores"][0]["val/iou"] == expected["val/iou"]
    assert score(results, 0, None) != score(results, 1, None)


def test_each_network_is_evaluated_clean_and_under_each_corruption(base, results):
    assert [(n["label"], n["name"], n["seed"], n["images"], n["split"]) for n in results["networks"]] == [
        ("3", "net3", 0, 3, "val"),
        ("5", "net5", 0, 3, "val"),
    ]
    asked = [(None, None), ("noise", 60.0), ("contrast", 0.1)]  # noise of 0 is the clean image
    for number in (0, 1):
        assert [(s["corruption"], s.get("strength")) for s in results["networks"][number]["scores"]] == asked
        assert len({score(results, number, *corruption) for corruption in asked}) == 3, "each changes something"
    assert results["status"] == "finished"
    assert results["networks"][0]["checkpoint"].endswith("K=3_seed=0/checkpoints/last.ckpt")
    assert not results["networks"][0]["checkpoint"].startswith("/")


def test_what_was_evaluated_before_a_crash_stands_in_the_file(base, tmp_path, monkeypatch):
    import emanet.studies.robustness as module

    real, calls = module.restore_network, []

    def failing(*arguments, **options):
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("power cut")
        return real(*arguments, **options)

    monkeypatch.setattr(module, "restore_network", failing)
    cfg = configured(
        f"checkpoints={base}/K=*/checkpoints/last.ckpt", "corruptions={noise:[],contrast:[0.5],blur:[],brightness:[]}"
    )
    with pytest.raises(RuntimeError, match="power cut"):
        evaluate_robustness(cfg, tmp_path)
    content = json.loads((tmp_path / "robustness.json").read_text())
    assert (content["status"], len(content["networks"])) == ("running", 1)


def test_a_label_that_no_checkpoint_has_is_refused_before_anything_is_evaluated(base, tmp_path):
    cfg = configured(f"checkpoints={base}/K=3_seed=0/checkpoints/last.ckpt", "label=model.Q")
    with pytest.raises(ConfigError, match=r"label=model\.Q: .* has no such key"):
        evaluate_robustness(cfg, tmp_path)
    assert not (tmp_path / "robustness.json").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("checkpoints=null", "say which networks"),
        ("corruptions.noise=[loud]", r"corruptions\.noise must be a list of numbers, got \['loud'\]"),
        ("corruptions.noise=5", r"corruptions\.noise must be a list of numbers, got 5"),
        ("corruptions={noise:[0],contrast:[1],blur:[],brightness:null}", "no strength that changes anything"),
        ("+corruptions.fog=[1]", "got 'fog'"),
    ],
)
def test_an_evaluation_that_makes_no_sense_is_refused(tmp_path, override, message):
    with pytest.raises(ConfigError, match=message):
        evaluate_robustness(configured("checkpoints=x.ckpt", override), tmp_path)


def test_checkpoints_are_files_lists_or_patterns_each_once(base):
    first, second = (base / f"K={K}_seed=0" / "checkpoints" / "last.ckpt" for K in (3, 5))
    assert find_checkpoints(str(first)) == [first]
    assert find_checkpoints([str(second), f"{base}/K=*/checkpoints/*.ckpt"]) == [second, first]
    assert find_checkpoints(OmegaConf.create([str(first)])) == [first]
    with pytest.raises(ConfigError, match=r"checkpoints=.*nothing there"):
        find_checkpoints(f"{base}/*/none.ckpt")


def test_paths_with_equals_signs_reach_the_configuration():
    cfg = configured("checkpoints=[a/K=3 x/last.ckpt, b/K=5/last.ckpt]")
    assert list(cfg.checkpoints) == ["a/K=3 x/last.ckpt", "b/K=5/last.ckpt"]
    assert configured("checkpoints=a/K=3/*.ckpt").checkpoints == "a/K=3/*.ckpt"


# --- table ----------------------------------------------------------------------------------------------------------


def test_the_table_shows_means_deviations_and_what_is_left_of_the_clean_score():
    def network(label: str, clean: float, noisy: float) -> dict:
        scores = [{"corruption": None, "val/miou": clean}, {"corruption": "noise", "strength": 5.0, "val/miou": noisy}]
        return {"label": label, "scores": scores}

    table = robustness_table({"networks": [network("b", 0.5, 0.45), network("b", 0.4, 0.2), network("a", 0.3, 0.3)]})
    assert list(table.index) == [("b", "clean"), ("b", "noise 5"), ("a", "clean"), ("a", "noise 5")]
    # standard deviation of two values: their distance over the root of 2; kept: the mean of 90 and 50 %
    assert table.loc[("b", "clean")].tolist() == pytest.approx([45, 7.07, 2, 100])
    assert table.loc[("b", "noise 5")].tolist() == pytest.approx([32.5, 17.68, 2, 70])
    assert table.loc[("a", "noise 5"), "sd"] != table.loc[("a", "noise 5"), "sd"], "one network has no deviation"
