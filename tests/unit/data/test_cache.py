"""Decoded copies: the same samples to the last bit, never stale, never half-written, and clear about a full disk."""

import errno
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from emanet.common.errors import ConfigError, DatasetError
from emanet.data.cache import ABANDONED, DecodedCache
from emanet.data.datasets.encodings import FolderLabels
from emanet.data.datasets.folder import Folder
from emanet.data.items import read_pair
from emanet.data.reading import Sample, TableLabels, class_lut
from fake_data import save_image, save_palette_png, write_folder

LABELS = TableLabels(class_lut(9), 9)
RNG = np.random.default_rng(0)


@pytest.fixture
def sample(tmp_path: Path) -> Sample:
    """A 7 x 5 image and its mask."""
    sample = Sample("a", tmp_path / "a.png", tmp_path / "a_mask.png")
    save_image(sample.image, RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8))
    save_palette_png(tmp_path / "a_mask.png", RNG.integers(0, 9, (5, 7)))
    return sample


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def copies(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def same(pair: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]) -> bool:
    return all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(pair, other, strict=True))


def test_a_copy_holds_what_the_files_hold_and_is_used_instead_of_them(
    sample: Sample, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    expected = read_pair(sample, LABELS)
    assert same(DecodedCache(folder, LABELS)(sample), expected)
    assert len(copies(folder)) == 1
    monkeypatch.setattr("emanet.data.cache.read_pair", None)  # decoding again would fail
    assert same(DecodedCache(folder, LABELS)(sample), expected)


def fill_up(path: Path) -> None:
    """Make a file 1000 bytes long; readers of PNG stop before."""
    path.write_bytes(path.read_bytes().ljust(1000, b"\0"))


@pytest.mark.parametrize("changed", ["image", "mask"])
def test_a_changed_file_is_noticed_even_at_the_same_size(sample: Sample, folder: Path, changed: str):
    cache, path = DecodedCache(folder, LABELS), getattr(sample, changed)
    fill_up(path)
    before = cache(sample)
    if changed == "image":
        save_image(path, RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8))
    else:
        save_palette_png(path, RNG.integers(0, 9, (5, 7)))
    fill_up(path)
    assert not same(cache(sample), before)
    assert same(cache(sample), read_pair(sample, LABELS))


def test_a_mask_of_one_class_that_changes_or_joins_is_noticed(tmp_path: Path, folder: Path):
    def draw(kind: str, rows: slice) -> None:
        pixels = np.zeros((5, 7), np.uint8)
        pixels[rows] = 255
        save_image(tmp_path / "masks" / kind / "a.png", pixels)
        fill_up(tmp_path / "masks" / kind / "a.png")

    sample = Sample("a", tmp_path / "a.png", tmp_path / "masks")
    save_image(sample.image, np.zeros((5, 7, 3), np.uint8))
    for kind, rows in (("disc", slice(0, 2)), ("disc", slice(1, 4)), ("square", slice(3, 4))):
        draw(kind, rows)
        labels = FolderLabels(["ground", "disc", "square"], "")
        assert same(DecodedCache(folder, labels)(sample), read_pair(sample, labels))
    assert len(copies(folder)) == 3


def test_other_classes_are_other_copies(sample: Sample, folder: Path):
    shifted = TableLabels(np.roll(class_lut(9), 1), 9)
    DecodedCache(folder, LABELS)(sample)
    save_palette_png(sample.mask, np.full((5, 7), 3))
    assert (DecodedCache(folder, shifted)(sample)[1] == 2).all()
    assert (DecodedCache(folder, LABELS)(sample)[1] == 3).all()


def test_samples_that_share_a_file_of_labels_have_their_own_copies(sample: Sample, folder: Path):
    cache = DecodedCache(folder, LABELS)
    assert cache.place(sample) != cache.place(sample._replace(name="b"))


def test_a_copy_cannot_be_changed_by_who_reads_it(sample: Sample, folder: Path):
    cache = DecodedCache(folder, LABELS)
    cache(sample)
    image, mask = cache(sample)
    image += 1
    mask[:] = 0
    assert same(cache(sample), read_pair(sample, LABELS))


@pytest.mark.parametrize("length", [0, 20, 150])
def test_a_copy_that_was_cut_is_made_again(sample: Sample, folder: Path, length: int):
    cache = DecodedCache(folder, LABELS)
    cache(sample)
    os.truncate(cache.place(sample), length)
    assert same(cache(sample), read_pair(sample, LABELS))
    assert cache.place(sample).stat().st_size == 128 + 4 * 5 * 7  # header and bytes


def test_a_writer_killed_on_the_way_leaves_no_copy_and_its_rest_is_taken_away_later(
    sample: Sample, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    cache = DecodedCache(folder, LABELS)
    child = os.fork()
    if child == 0:
        monkeypatch.setattr(os, "fsync", lambda number: os._exit(9))  # the bytes are out, the name is not yet given
        cache(sample)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert not cache.place(sample).exists()
    (rest,) = copies(folder)
    DecodedCache(folder, LABELS)
    assert rest.exists()  # it might still be at work
    os.utime(rest, (0, time.time() - ABANDONED - 1))
    DecodedCache(folder, LABELS)
    assert copies(folder) == []
    assert same(cache(sample), read_pair(sample, LABELS))


def test_a_full_disk_is_named_with_the_ways_out_and_leaves_nothing(
    sample: Sample, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    cache = DecodedCache(folder, LABELS)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DatasetError, match=r"No space left on device.*make room.*dataset\.cache=null") as caught:
        cache(sample)
    assert str(folder) in str(caught.value)
    assert copies(folder) == []


def test_a_folder_that_cannot_be_made_is_an_error(sample: Sample):
    with pytest.raises(DatasetError, match=r"Not a directory"):
        DecodedCache(sample.image, LABELS)(sample)


def test_a_missing_image_is_named(sample: Sample, folder: Path):
    with pytest.raises(DatasetError, match=r"gone\.png: no such file"):
        DecodedCache(folder, LABELS)(sample._replace(image=Path("gone.png")))


def test_labels_that_cannot_be_pickled_are_refused(folder: Path):
    with pytest.raises(ConfigError, match=r"TableLabels cannot be pickled.*dataset\.cache=null"):
        DecodedCache(folder, TableLabels(class_lut(9), 9, read=lambda path: np.zeros((1, 1), np.uint8)))


def test_batches_are_equal_to_the_last_bit_with_and_without_a_cache_with_two_workers(tmp_path: Path, folder: Path):
    write_folder(tmp_path)
    options = {"root": tmp_path, "num_classes": 3, "batch_size": 2, "crop_size": 33, "persistent_workers": False}
    plain = Folder(**options, num_workers=0)
    for workers in (2, 0):  # the first writes the copies, the second reads them
        cached = Folder(**options, num_workers=workers, cache=folder)
        for name in ("train_dataloader", "val_dataloader"):
            pairs = list(zip(getattr(plain, name)(), getattr(cached, name)(), strict=True))
            assert pairs
            assert all(torch.equal(a[key], b[key]) for a, b in pairs for key in ("image", "mask"))
    assert len(copies(folder)) == len(plain.samples("train")) + len(plain.samples("val"))
