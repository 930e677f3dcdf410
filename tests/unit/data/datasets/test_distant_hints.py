"""Distant hints: what the files hold, what can be told from them at best, and how far a plain head sees."""

import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from PIL import Image
from scipy import ndimage
from scipy.stats import binom, norm
from torch import Tensor, nn

from emanet.common.errors import ConfigError, DatasetError
from emanet.config.instantiate import build_network
from emanet.config.schema import CONF_DIR, register
from emanet.data.datasets import distant_hints, generated
from emanet.data.datasets.distant_hints import (
    CLASSES,
    COLOURS,
    EMPTY,
    GAP,
    GREY,
    MOST,
    NOISE,
    PATCH,
    PATCHES,
    SHIFT,
    SIDE,
    SIZE,
    DistantHints,
    best_accuracy,
    draw_scene,
    paint,
    prepare,
)
from emanet.data.preparing.recipes import recipe_of
from emanet.training.build import build_datamodule

KINDS = len(COLOURS)
VAL = 200
FEW = {"train": 3, "val": 2}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The validation split in its full size, and a few training images."""
    folder = tmp_path_factory.mktemp("data") / "distant_hints"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distant_hints, "SPLIT_SIZES", {"train": 3, "val": VAL})
        prepare(folder)
    return folder


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a few images are written, to save time."""
    monkeypatch.setattr(distant_hints, "SPLIT_SIZES", FEW)


class Seen:
    """The places of one image as its files show them, found without knowing how they were made."""

    def __init__(self, image: np.ndarray, mask: np.ndarray) -> None:
        regions, self.count = ndimage.label(mask != 255)
        self.windows = ndimage.find_objects(regions)
        self.sizes = [tuple(axis.stop - axis.start for axis in window) for window in self.windows]
        self.pixels = [image[window].reshape(-1, 3).astype(int) for window in self.windows]
        self.classes = [set(mask[window].ravel().tolist()) for window in self.windows]
        patches = [i for i, labels in enumerate(self.classes) if labels != {EMPTY}]
        self.brightness = np.array([self.pixels[i][0].mean() - GREY for i in patches])
        self.hue = np.array([self.pixels[i][0] for i in patches]) - self.brightness[:, None]
        label = np.array([min(self.classes[i]) for i in patches])
        self.kind, self.state = label // 2, label % 2


def read(root: Path, split: str = "val") -> list[Seen]:
    """Every image of a split with its mask."""
    paths = sorted((root / "images" / split).glob("*.png"))
    assert paths
    masks = [root / "masks" / split / path.name for path in paths]
    return [Seen(np.asarray(Image.open(i)), np.asarray(Image.open(m))) for i, m in zip(paths, masks, strict=True)]


@pytest.fixture(scope="module")
def seen(root: Path) -> list[Seen]:
    return read(root)


# --- files ----------------------------------------------------------------------------------------------------------


def test_the_files_lie_in_the_layout_of_all_generated_data(root: Path) -> None:
    assert {path.name for path in root.iterdir()} == {"images", "masks", "README.md", "classes.txt"}
    assert (root / "classes.txt").read_text().splitlines() == list(CLASSES)
    assert (CLASSES[0], CLASSES[7], CLASSES[EMPTY]) == ("rose dim", "blue bright", "empty")
    for split, count in {"train": 3, "val": VAL}.items():
        for kind in ("images", "masks"):
            names = sorted(path.name for path in (root / kind / split).iterdir())
            assert names == [f"{index:04d}.png" for index in range(count)]
    assert DistantHints.split_sizes == {"train": 600, "val": 200}


@pytest.mark.usefixtures("few")
def test_the_same_images_are_written_every_time_and_each_is_another(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        prepare(tmp_path / folder)
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.png"))
    assert len(files) == 2 * sum(FEW.values())
    contents = [(tmp_path / "a" / file).read_bytes() for file in files]
    assert contents == [(tmp_path / "b" / file).read_bytes() for file in files]
    assert len(set(contents)) == len(contents)


def test_an_image_holds_eight_patches_of_each_kind_and_four_empty_places(seen: list[Seen]) -> None:
    for one in seen:
        assert one.sizes == [(PATCH, PATCH)] * SIDE**2
        assert np.bincount(one.kind).tolist() == [PATCHES] * KINDS
        assert sum(labels == {EMPTY} for labels in one.classes) == SIDE**2 - KINDS * PATCHES == 4


def test_no_pixel_of_a_patch_tells_more_than_another(seen: list[Seen]) -> None:
    for one in seen:
        for pixels, labels in zip(one.pixels, one.classes, strict=True):
            assert len(labels) == 1
            assert (pixels == pixels[0]).all()
            if labels == {EMPTY}:
                assert (pixels == GREY).all()


def test_the_hue_says_the_kind_exactly_and_all_patches_of_a_kind_have_one_state(seen: list[Seen]) -> None:
    hues = np.array(list(COLOURS.values())) - GREY
    assert (hues.sum(1) == 0).all()
    for one in seen:
        np.testing.assert_array_equal(one.hue - GREY, hues[one.kind])
        assert all(len(set(one.state[one.kind == kind])) == 1 for kind in range(KINDS))


def test_between_the_places_there_is_nothing(root: Path) -> None:
    image, mask = (np.asarray(Image.open(root / kind / "val" / "0000.png")) for kind in ("images", "masks"))
    assert image.shape == (SIZE, SIZE, 3)
    assert (image[mask == 255] == GREY).all()


def test_no_brightness_that_can_be_drawn_leaves_8_bits() -> None:
    colors = np.array(list(COLOURS.values()))
    assert colors.min() >= MOST
    assert colors.max() <= 255 - MOST
    scene = draw_scene("train", 0)._replace(brightness=np.tile([-MOST, MOST], KINDS * PATCHES // 2))
    image, _ = paint(scene)
    row, column = scene.corner[0]
    assert image[row, column].tolist() == (colors[0] - MOST).tolist()


# --- what can be told -----------------------------------------------------------------------------------------------


def states_drawn(images: int) -> np.ndarray:
    """States (images, kinds) of the training split and beyond."""
    return np.array([draw_scene("train", index).states for index in range(images)])


def test_states_are_fair_coins_independent_between_kinds() -> None:
    signs = 2 * states_drawn(2000) - 1
    np.testing.assert_allclose(signs.mean(0), 0, atol=4 / math.sqrt(2000))
    np.testing.assert_allclose(signs.T @ signs / 2000, np.eye(KINDS), atol=4 / math.sqrt(2000))


def test_the_best_accuracies_are_those_of_the_normal_table() -> None:
    assert (SHIFT / NOISE, PATCHES) == (0.6, 8)
    assert best_accuracy() == pytest.approx(0.72575, abs=1e-5)  # Phi(0.6)
    assert best_accuracy(PATCHES) == pytest.approx(norm.cdf(0.6 * math.sqrt(8)), abs=1e-12)
    assert best_accuracy(PATCHES) == pytest.approx(0.9552, abs=1e-4)


@pytest.mark.parametrize("patches", [1, PATCHES])
def test_rounding_and_clipping_to_gray_levels_leave_the_bounds(patches: int) -> None:
    levels = np.arange(-MOST, MOST + 1)
    edges = np.concatenate([[-np.inf], levels[:-1] + 0.5, [np.inf]])
    one = np.diff(norm.cdf(edges, SHIFT, NOISE))  # of a bright patch's gray levels
    total = one
    for _ in range(patches - 1):
        total = np.convolve(total, one)
    middle = len(total) // 2
    right = total[middle + 1 :].sum() + total[middle] / 2
    assert right == pytest.approx(best_accuracy(patches), abs=1e-3)


def blind_evidence(rest: np.ndarray, state: int) -> np.ndarray:
    """Likelihood of the sum over all other patches, of unknown kinds, given the state of one patch."""
    others = np.arange(KINDS)  # how many of the other kinds are bright
    mean = SHIFT * ((PATCHES - 1) * (2 * state - 1) + PATCHES * (2 * others - (KINDS - 1)))
    density = norm.pdf(rest[..., None], mean, NOISE * math.sqrt(KINDS * PATCHES - 1))
    return density @ binom.pmf(others, KINDS - 1, 0.5)


def blind_threshold(rest: np.ndarray) -> np.ndarray:
    """Brightness from which a patch is more likely bright than dim, given the sum over all others."""
    return NOISE**2 / (2 * SHIFT) * np.log(blind_evidence(rest, 0) / blind_evidence(rest, 1))


def blind_bound() -> float:
    """Best accuracy from a patch and the mean over all patches of the image, whatever their kind."""
    rest = np.arange(-2500.0, 2501.0)
    return float((blind_evidence(rest, 1) * norm.sf(blind_threshold(rest), SHIFT, NOISE)).sum())


def test_an_oracle_on_the_files_finds_the_bounds(seen: list[Seen]) -> None:
    alone, pooled, blind = [], [], []
    for one in seen:
        means = np.array([one.brightness[one.kind == kind].mean() for kind in range(KINDS)])
        alone.append((one.brightness > 0) == one.state)
        pooled.append((means[one.kind] > 0) == one.state)
        blind.append((one.brightness > blind_threshold(one.brightness.sum() - one.brightness)) == one.state)
    sd = 0.5 / math.sqrt(VAL * KINDS)  # at most: patches of a kind share their state
    assert np.mean(alone) == pytest.approx(best_accuracy(), abs=sd)  # 6400 draws
    assert np.mean(pooled) == pytest.approx(best_accuracy(PATCHES), abs=1.5 * sd)  # 800 draws
    assert np.mean(blind) == pytest.approx(blind_bound(), abs=1.5 * sd)


def test_pooling_over_all_patches_whatever_their_kind_is_little_better_than_a_patch_alone() -> None:
    assert blind_bound() == pytest.approx(0.767, abs=5e-4)
    assert blind_bound() - best_accuracy() < 0.2 * (best_accuracy(PATCHES) - best_accuracy())


# --- how far a plain head sees --------------------------------------------------------------------------------------


def composed(*overrides: str) -> DictConfig:
    """The experiment's configuration."""
    register()
    with initialize_config_dir(CONF_DIR, version_base="1.3"):
        return compose("train", overrides=["experiment=distant_hints", *overrides])


def network(*overrides: str) -> nn.Module:
    """The experiment's network with random weights, none of them 0, in evaluation."""
    net = build_network(composed(*overrides).model, len(CLASSES)).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, 0.0, 0.5)
    return net


def sensitivity(net: nn.Module, image: Tensor, window: tuple[slice, slice]) -> Tensor:
    """How much the logits in a window depend on each pixel (h, w)."""
    image = image.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(net(image)[0][:, *window].square().sum(), image)
    return gradient.abs().sum((0, 1))


def test_patches_lie_further_apart_than_the_plain_head_reaches() -> None:
    net, image = network("model.head=fcn"), torch.rand(1, 3, 161, 161)
    reach = 0
    for pixel in range(80, 88):  # each position relative to the features
        rows, columns = torch.nonzero(sensitivity(net, image, (slice(pixel, pixel + 1),) * 2), as_tuple=True)
        reach = max(reach, *(int((axis - pixel).abs().max()) for axis in (rows, columns)))
    assert reach == 21 + 2 * 8 + 7  # the backbone's, two 3x3 convolutions at stride 8, the upsampling between features
    assert reach < GAP
    for index in range(100):
        corner = draw_scene("val", index).corner
        between = np.abs(corner[:, None] - corner[None]).max(-1) - (PATCH - 1)  # nearest pixels of two places
        assert between[~np.eye(len(corner), dtype=bool)].min() >= GAP


@pytest.mark.parametrize(("overrides", "sees"), [(["model.head=fcn"], False), (["model.gradient=full"], True)])
def test_the_plain_head_sees_no_other_patch_and_the_unit_sees_them_all(overrides: list[str], sees: bool) -> None:
    net, scene = network(*overrides), draw_scene("val", 0)
    image = torch.from_numpy(paint(scene)[0]).permute(2, 0, 1)[None] / 255
    windows = [np.s_[row : row + PATCH, column : column + PATCH] for row, column in scene.corner]
    for place in range(0, KINDS * PATCHES, PATCHES):
        gradient = sensitivity(net, image, windows[place])
        assert gradient[windows[place]].max() > 0
        others = [float(gradient[window].max()) for window in windows[:place] + windows[place + 1 :]]
        assert min(others) > 0 if sees else max(others) == 0


# --- the data module ------------------------------------------------------------------------------------------------


def test_a_training_image_is_whole_at_its_own_scale_and_at_most_mirrored(tmp_path: Path, few: None) -> None:
    data = build_datamodule(composed(f"dataset.root={tmp_path / 'new'}", "dataset.batch_size=3"))
    data.prepare_data()
    data.setup("fit")
    assert (data.num_classes, data.palette.shape) == (9, (9, 3))
    masks = [torch.from_numpy(paint(draw_scene("train", index))[1]).long() for index in range(FEW["train"])]
    loader, mirrored = data.train_dataloader(), []
    for epoch in range(4):
        loader.batch_sampler.set_epoch(epoch)
        (batch,) = loader
        for name, mask in zip(batch["name"], batch["mask"], strict=True):
            assert torch.equal(mask, masks[int(name)]) or torch.equal(mask.flip(1), masks[int(name)])
            mirrored.append(torch.equal(mask.flip(1), masks[int(name)]))
    assert set(mirrored) == {True, False}
    (whole,) = data.val_dataloader()
    assert whole["image"].shape == (2, 3, SIZE, SIZE)


@pytest.mark.parametrize(("module", "killed_in"), [(distant_hints, "write_images"), (generated, "move")])
def test_a_killed_build_is_not_taken_for_whole_and_the_next_one_completes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few: None, module: ModuleType, killed_in: str
) -> None:
    real: Callable[..., None] = getattr(module, killed_in)

    def killed(*args: object) -> None:
        real(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, killed_in, killed)
    with pytest.raises(KeyboardInterrupt):
        prepare(tmp_path)
    monkeypatch.setattr(module, killed_in, real)
    assert not (tmp_path / "classes.txt").exists()
    prepare(tmp_path)
    assert {split: len(read(tmp_path, split)) for split in FEW} == FEW
    assert {path.name for path in tmp_path.iterdir()} == {"images", "masks", "README.md", "classes.txt"}


@pytest.mark.usefixtures("few")
def test_whole_data_are_not_written_again_and_a_folder_in_the_way_is_named(tmp_path: Path) -> None:
    prepare(tmp_path / "new")
    (tmp_path / "new" / "images" / "val" / "0000.png").unlink()
    prepare(tmp_path / "new")
    assert not (tmp_path / "new" / "images" / "val" / "0000.png").exists()
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DatasetError, match=r"distant_hints: cannot write to .*set dataset\.root"):
        prepare(tmp_path / "file" / "distant_hints")


@pytest.mark.parametrize(("name", "how"), [("distant_hints", "generated"), ("blue_marble", "two pip packages")])
def test_data_written_at_first_use_need_no_preparing(name: str, how: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} needs no preparing: it is .*{how} at first use"):
        recipe_of(name)
