"""COCO's instances as VOC classes: read from COCO's own layout, compared with masks drawn by hand."""

import sys
from pathlib import Path

import numpy as np
import pytest

from emanet.common.errors import DatasetError
from emanet.data.datasets.coco_voc import COCO_NAMES, COCOVOC, outline_runs, read_instances
from emanet.data.datasets.detail import decode
from emanet.data.datasets.voc import CLASSES
from emanet.data.items import read_pair
from fake_coco import CATEGORIES, H, W, box, write_coco
from fake_data import compress_runs


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


def test_polygons_cover_the_pixels_whose_centers_one_of_them_holds():
    def inside(size: tuple[int, int], *polygons: list[float]) -> list[list[int]]:
        runs = outline_runs(list(polygons), size)
        return decode(runs, size, Path()).astype(int).tolist()

    triangle = inside((4, 4), [0, 0, 4, 0, 0, 4])
    assert triangle == [[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    assert inside((2, 3), box(0, 0, 2, 1), box(1, 0, 2, 2)) == [[1, 1, 0], [0, 1, 0]]
    assert inside((3, 2), [-5, -5, 9, -5, 9, 9, -5, 9]) == [[1, 1]] * 3
    assert inside((3, 2), box(15, 15, 29, 29)) == [[0, 0]] * 3


def test_run_lengths_go_down_the_columns_and_must_cover_the_image():
    mask = np.random.default_rng(0).random((17, 23)) < 0.3
    assert np.array_equal(decode(compress_runs(mask), (17, 23), Path()), mask)
    assert decode([1, 2, 3], (2, 3), Path()).tolist() == [[False, True, False], [True, False, False]]
    for counts in ([1, 2, 2], [1, 2, 4], compress_runs(mask)):
        with pytest.raises(DatasetError, match=r"some/0001: its run lengths do not cover 2 x 3 pixels"):
            decode(counts, (2, 3), Path("some/0001"))


def test_what_is_not_installed_is_said_with_its_pip_line(data: COCOVOC, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "pycocotools.mask", None)
    with pytest.raises(DatasetError, match=r"need pycocotools:  pip install -e '\.\[coco\]'"):
        data.labels()


def test_a_file_that_is_cut_short_is_named(data: COCOVOC, tmp_path: Path):
    path = tmp_path / "annotations" / "instances_val2017.json"
    path.write_text(path.read_text()[:-40])
    read_instances.cache_clear()
    with pytest.raises(DatasetError, match=r"instances_val2017\.json: not the instances of COCO 2017"):
        read_instances(path)


def test_what_is_missing_is_said_with_the_archives(tmp_path: Path):
    with pytest.raises(DatasetError, match=r"annotations_trainval2017\.zip"):
        COCOVOC(root=tmp_path / "no").setup("fit")
