"""The example of a data set of one's own: what its files hold, what can be told from them, how far a head sees."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from scipy import ndimage
from scipy.stats import norm

from emanet import EMANet

EXAMPLE = Path(__file__).parents[1] / "examples" / "distant_hints"
sys.path.append(str(EXAMPLE))

import figure  # noqa: E402
from distant_hints import CLASSES, EMPTY, GRAY, PATCH, DistantHints, best_accuracy, draw_scene, paint  # noqa: E402


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DistantHints:
    """The validation split in its full size and a few training images, by the options of its configuration."""
    node = yaml.safe_load((EXAMPLE / "conf" / "dataset" / "distant_hints.yaml").read_text())
    assert (node.pop("_target_"), node.pop("defaults")) == ("distant_hints.DistantHints", ["base", "_self_"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("distant_hints.SPLIT_SIZES", {"train": 3, "val": 200})
        data = DistantHints(**node | {"root": tmp_path_factory.mktemp("hints"), "batch_size": 2})
        data.prepare_data()
    return data


def test_its_configuration_gives_batches_as_those_of_every_data_set(data: DistantHints):
    assert (data.num_classes, data.palette.shape) == (9, (9, 3))
    assert (data.root / "classes.txt").read_text().splitlines() == list(CLASSES)
    batch = next(iter(data.val_dataloader()))
    assert (batch["image"].shape, batch["mask"].shape) == ((8, 3, 385, 385), (8, 385, 385))
    assert next(iter(data.train_dataloader()))["mask"].unique().tolist()[-2:] == [EMPTY, 255]


def test_an_oracle_on_the_files_finds_both_bounds(data: DistantHints):
    alone, pooled = [], []
    for sample in data.samples("val"):
        image, mask = np.asarray(Image.open(sample.image)).astype(int), np.asarray(Image.open(sample.mask))
        assert (image[(mask == 255) | (mask == EMPTY)] == GRAY).all()
        windows = ndimage.find_objects(ndimage.label(mask != 255)[0])
        assert all((image[window] == image[window][0, 0]).all() for window in windows)
        corners = np.array([(rows.start, columns.start) for rows, columns in windows])
        labels = mask[tuple(corners.T)]
        assert np.bincount(labels, minlength=9)[:EMPTY].reshape(4, 2).max(1).tolist() == [8] * 4
        brightness, kind = image[tuple(corners.T)].mean(1) - GRAY, labels // 2
        for k in range(4):
            bright = labels[kind == k] % 2 == 1
            alone += ((brightness[kind == k] > 0) == bright).tolist()
            pooled.append((brightness[kind == k].mean() > 0) == bright[0])
    assert (best_accuracy(), best_accuracy(8)) == pytest.approx((norm.cdf(0.6), norm.cdf(0.6 * 8**0.5)), abs=1e-12)
    assert (len(alone), len(pooled)) == (6400, 800)
    sd = 0.5 / 800**0.5  # at most: patches of a kind share their state
    assert np.mean(alone) == pytest.approx(best_accuracy(), abs=sd)
    assert np.mean(pooled) == pytest.approx(best_accuracy(8), abs=1.5 * sd)


@pytest.mark.parametrize(("options", "sees"), [({"head": "fcn"}, False), ({"gradient": "full", "K": 32}, True)])
def test_the_plain_head_sees_no_other_patch_and_the_unit_sees_them_all(options: dict, sees: bool):
    net, scene = EMANet(9, backbone="efficientvit_b0", channels=64, **options).eval(), draw_scene("val", 0)
    image = (torch.from_numpy(paint(scene)[0]).permute(2, 0, 1)[None] / 255).requires_grad_()
    first, *others = [np.s_[..., row : row + PATCH, column : column + PATCH] for row, column in scene.corner]
    (gradient,) = torch.autograd.grad(net(image)[0][first].square().sum(), image)
    reached = [float(gradient[window].abs().max()) for window in others]
    assert float(gradient[first].abs().max()) > 0
    assert min(reached) > 0 if sees else max(reached) == 0


def test_the_table_of_the_readme_is_that_of_the_kept_runs():
    kept = {name: sorted((EXAMPLE / "runs").glob(f"{name}_*.json")) for name in figure.VARIANTS}
    table = figure.table({name: [json.loads(path.read_text()) for path in paths] for name, paths in kept.items()})
    assert table in (EXAMPLE / "README.md").read_text(encoding="utf-8")
