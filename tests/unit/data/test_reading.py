"""Labels and lists: true values, and each defect as an error that names file and remedy."""

from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from emanet.common.errors import DatasetError
from emanet.data.reading import (
    Sample,
    apply_lut,
    check_same_size,
    class_lut,
    histogram,
    make_lut,
    read_lines,
    read_mat,
)
from fake_data import blocks


def test_a_histogram_of_many_pixels_counts_each_once():
    counts = histogram(np.concatenate([np.full((4000, 5000), 7, np.uint8), np.zeros((1, 5000), np.uint8)]))
    assert (len(counts), counts[7], counts[0], counts.sum()) == (256, 20_000_000, 5000, 20_005_000)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_lists_are_read_in_every_encoding_that_a_mark_tells(tmp_path: Path, encoding: str):
    (tmp_path / "a.txt").write_bytes("Straße\r\n\r\n数据 \n".encode(encoding))
    assert read_lines(tmp_path / "a.txt") == ["Straße", "数据"]


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16-le"])
def test_lists_in_another_encoding_are_refused_by_name(tmp_path: Path, encoding: str):
    (tmp_path / "a.txt").write_bytes("Straße\n".encode(encoding))
    with pytest.raises(DatasetError, match=r"a\.txt: its encoding is not UTF-8; save it again as UTF-8"):
        read_lines(tmp_path / "a.txt")


def test_a_mat_file_is_read_by_its_keys_and_a_wrong_one_is_named(tmp_path: Path):
    mask = blocks(np.random.default_rng(0), [0, 300]).astype(np.uint16)
    savemat(tmp_path / "a.mat", {"LabelMap": mask, "GTcls": {"Segmentation": mask}})
    assert np.array_equal(read_mat(tmp_path / "a.mat", "LabelMap"), mask)
    assert np.array_equal(read_mat(tmp_path / "a.mat", "GTcls.Segmentation"), mask)
    with pytest.raises(DatasetError, match=r"a\.mat: no variable S in this MATLAB file"):
        read_mat(tmp_path / "a.mat", "S")
    (tmp_path / "b.mat").write_bytes((tmp_path / "a.mat").read_bytes()[:150])
    with pytest.raises(DatasetError, match=r"b\.mat: "):
        read_mat(tmp_path / "b.mat", "LabelMap")


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int32])
def test_a_label_without_class_is_an_error_with_file_values_and_remedy(kind: type):
    labels = np.array([[0, 20, 21], [255, 37, 37]], kind)
    with pytest.raises(DatasetError, match=r"x\.png: label 21, 37 in 3 pixels .* 21 classes .*dataset\.class_map"):
        apply_lut(labels, class_lut(21), Path("x.png"), 21)


@pytest.mark.parametrize("value", [-1, 256, 70000])
def test_labels_outside_the_table_are_errors_too_not_wrapped(value: int):
    with pytest.raises(DatasetError, match=f"label {value} in 1 pixels"):
        apply_lut(np.array([[value, 0]], np.int32), class_lut(21), Path("x"), 21)


def test_a_table_maps_values_to_classes():
    lut = make_lut({0: 255, 7: 0, 300: 1}, size=301)
    assert apply_lut(np.array([[0, 7, 300]], np.uint16), lut, Path("x"), 2).tolist() == [[255, 0, 1]]


def test_a_mask_of_another_size_is_refused_and_swapped_sides_are_explained():
    sample = Sample("a", Path("a.jpg"), Path("a.png"))
    image = np.zeros((60, 80, 3), np.uint8)
    with pytest.raises(DatasetError, match=r"a\.png: mask is 80x61, its image a\.jpg is 80x60"):
        check_same_size(image, np.zeros((61, 80), np.uint8), sample)
    with pytest.raises(DatasetError, match="the sides are swapped, probably an EXIF orientation"):
        check_same_size(image, np.zeros((80, 60), np.uint8), sample)
