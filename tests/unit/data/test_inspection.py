"""Figures of a data set against hand-counted ones, and the sheet that people look at."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from emanet.data.datasets.folder import Folder
from emanet.data.datasets.voc import VOC
from emanet.data.inspection import contact_sheet, inspect, report, write_weights
from emanet.data.reading import spaced
from fake_data import save_gray_png, save_image, write_voc


@pytest.fixture
def three(tmp_path: Path) -> Folder:
    """Two masks of 10x10: one of class 0 and 1, one of class 0, 2 and ignored pixels; class 3 nowhere."""
    first, second = np.zeros((10, 10)), np.zeros((10, 10))
    first[:2] = 1  # 80 of class 0, 20 of class 1
    second[:1], second[1:3] = 2, 255  # 70 of class 0, 10 of class 2, 20 ignored
    for name, mask in {"a": first, "b": second}.items():
        save_image(tmp_path / "images" / "train" / f"{name}.png", np.full((10, 10, 3), 90, np.uint8))
        save_gray_png(tmp_path / "masks" / "train" / f"{name}.png", mask)
    return Folder(
        root=tmp_path, class_names=["ground", "disc", "square", "ghost"], val_split="train", test_split="train"
    )


def test_figures_are_those_counted_by_hand(three: Folder):
    found = inspect(three, "train")
    assert found.images == found.read == 2
    assert found.pixels.tolist() == [150, 20, 10, 0]
    assert found.shown_in.tolist() == [2, 1, 1, 0]
    assert found.ignored == 20
    assert found.labeled == 180
    assert found.absent == ["ghost"]
    assert found.sizes == {(10, 10): 2}
    np.testing.assert_allclose(found.frequencies, [150 / 180, 20 / 180, 10 / 180, 0])


def test_weights_balance_by_the_median_frequency_among_the_images_that_show_a_class(three: Folder, tmp_path: Path):
    # 150/180, 20/100 and 10/80 of the labeled pixels of the images that show it: the median is 0.2
    write_weights(inspect(three, "train"), tmp_path / "weights.yaml")
    text = (tmp_path / "weights.yaml").read_text()
    content = yaml.safe_load(text)
    assert content["class_weights"] == [0.24, 1.0, 1.6, 1.0]
    assert content["classes"]["square"] == {"weight": 1.6, "share": 0.05556, "images": 1}
    assert "'loss.class_weights=[0.24,1,1.6,1]'" in text


def test_the_report_names_sizes_shares_and_absent_classes(three: Folder):
    text = report(inspect(three, "train"))
    assert "2 images, 2 masks read" in text
    assert "all 10x10" in text
    assert "ignored    10.00% of the pixels" in text
    assert "4, of which 1 occur in no mask read" in text
    assert text.index("ground") < text.index("disc") < text.index("square")
    assert text.endswith("in no mask read: ghost")


def test_a_limit_reads_evenly_spaced_masks(tmp_path: Path):
    write_voc(tmp_path, n_train=9)
    samples = VOC(root=tmp_path, train_split="train").samples("train")
    assert [sample.name[-1] for sample in spaced(samples, 3)] == ["0", "3", "6"]
    assert spaced(samples, 100) == samples
    found = inspect(VOC(root=tmp_path), "train", limit=3)
    assert (found.images, found.read) == (9, 3)


def test_a_split_without_masks_is_shown_too(tmp_path: Path):
    write_voc(tmp_path, n_test=3)
    datamodule = VOC(root=tmp_path)
    found = inspect(datamodule, "test")
    assert (found.images, found.read) == (3, 0)
    assert report(found).endswith("this split has no masks")
    assert contact_sheet(datamodule, "test").width > 0


def test_the_sheet_shows_images_overlays_masks_and_the_legend(three: Folder):
    picture = contact_sheet(three, "train", pictures=2)
    colors = {tuple(color) for color in np.unique(np.asarray(picture).reshape(-1, 3), axis=0).tolist()}
    for label in (0, 1, 2):
        assert tuple(three.palette[label].tolist()) in colors, "the mask itself"
    overlaid = np.rint(0.4 * 90 + 0.6 * three.palette[1].astype(float)).astype(int)
    assert tuple(overlaid.tolist()) in colors
    assert (90, 90, 90) in colors, "the image"
    assert tuple(three.palette[3].tolist()) not in colors, "a class that does not occur is not in the legend"


def test_the_sheet_is_the_same_each_time_and_another_for_another_seed(tmp_path: Path):
    write_voc(tmp_path, n_train=8)
    datamodule = VOC(root=tmp_path)
    draw = [np.asarray(contact_sheet(datamodule, "train", pictures=2, seed=seed)) for seed in (0, 0, 1)]
    assert np.array_equal(draw[0], draw[1])
    assert draw[0].shape != draw[2].shape or not np.array_equal(draw[0], draw[2])
    assert isinstance(contact_sheet(datamodule, "train", pictures=100), Image.Image)
