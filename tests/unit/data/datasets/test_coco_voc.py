"""COCO's instances as VOC classes: read from COCO's own layout, compared with masks drawn by hand."""

from pathlib import Path

import numpy as np
import pytest

from emanet.common.errors import DatasetError
from emanet.data.datasets.coco_voc import COCO_NAMES, COCOVOC, inside, read_instances
from emanet.data.datasets.voc import CLASSES
from emanet.data.items import read_pair
from fake_coco import CATEGORIES, H, W, write_coco


@pytest.fixture
def data(tmp_path: Path) -> COCOVOC:
    write_coco(tmp_path)
    data = COCOVOC(root=tmp_path, batch_size=1, crop_size=33, num_workers=0)
    data.setup("fit")
    return data


def test_every_voc_class_has_a_coco_name():
    assert len(CLASSES) == 21
    names = {COCO_NAMES.get(name, name) for name in CLASSES[1:]}
    assert names == set(CATEGORIES.values()) - {"truck"}


def test_instances_are_painted_by_name_small_over_large_and_crowds_are_ignored(data: COCOVOC):
    (sample,) = data.samples("train")  # those with no object, or crowds alone, are left out
    image, mask = read_pair(sample, data.labels())
    expected = np.zeros((H, W), np.uint8)
    expected[0:6, 30:60] = 255
    expected[10:30, 10:30] = CLASSES.index("sofa")
    expected[20:24, 20:24] = CLASSES.index("tvmonitor")
    expected[30:36, 5:9] = CLASSES.index("pottedplant")
    expected[32:36, 40:44] = expected[32:36, 50:54] = CLASSES.index("aeroplane")
    assert image.shape == (H, W, 3)
    assert np.array_equal(mask, expected)


def test_a_polygon_covers_the_pixels_whose_centers_it_holds():
    triangle = np.array([[0, 0], [4, 0], [0, 4]], np.float32)
    assert inside(triangle, (4, 4)).astype(int).tolist() == [[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    outside = np.array([[-5, -5], [9, -5], [9, 9], [-5, 9]], np.float32)
    assert inside(outside, (3, 2)).all()
    assert not inside(outside + 20, (3, 2)).any()


def test_batches_come_in_both_splits(data: COCOVOC):
    train, val = next(iter(data.train_dataloader())), next(iter(data.val_dataloader()))
    assert train["mask"].shape == (1, 33, 33)
    assert set(np.unique(val["mask"])) == {0, 1, 16, 18, 20, 255}


def test_a_file_that_is_cut_short_is_named(data: COCOVOC, tmp_path: Path):
    path = tmp_path / "annotations" / "instances_val2017.json"
    path.write_text(path.read_text()[:-40])
    read_instances.cache_clear()
    with pytest.raises(DatasetError, match=r"instances_val2017\.json: not the instances of COCO 2017"):
        read_instances(path)


def test_what_is_missing_is_said_with_the_archives(tmp_path: Path):
    with pytest.raises(DatasetError, match=r"annotations_trainval2017\.zip"):
        COCOVOC(root=tmp_path / "no").setup("fit")
