"""Samples and their labels: ``.mat`` files, tables from raw values to classes, lists; every defect named with its file.

Pictures: :mod:`emanet.data.pictures`.
"""

import codecs
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import cv2
import numpy as np
from jaxtyping import Int64, Integer, UInt8
from scipy.io import loadmat

from emanet.common.errors import DatasetError
from emanet.data.pictures import FETCH_AGAIN, legible, read_index_png

IGNORE = 255
"""Label of pixels that count in no loss and no metric."""

UNMAPPED = 254
"""Entry of a label table that stands for "no such label"; therefore 254 classes at most."""

MAX_CLASSES = UNMAPPED


class Sample(NamedTuple):
    """One image of a split; ``mask`` is the file that holds its labels, None where there are none."""

    name: str
    image: Path
    mask: Path | None


def read_mat(path: Path, variable: str) -> Integer[np.ndarray, "h w"]:
    """Read a label map from a MATLAB file; dots lead through structures, as in SBD's ``GTcls.Segmentation``."""
    first, *fields = variable.split(".")
    with legible(path):
        value: Any = loadmat(str(path), variable_names=[first], squeeze_me=True, struct_as_record=False).get(first)
    for field in fields:
        value = getattr(value, field, None)
    labels = np.asarray(value)
    if value is None:
        raise DatasetError(f"{path}: no variable {variable} in this MATLAB file; {FETCH_AGAIN}.")
    if labels.ndim != 2 or not np.issubdtype(labels.dtype, np.number):
        raise DatasetError(f"{path}: {variable} is {labels.dtype} of shape {labels.shape}, not a label map.")
    return labels if np.issubdtype(labels.dtype, np.integer) else labels.astype(np.int64)


def make_lut(mapping: Mapping[int, int], *, size: int = 256) -> UInt8[np.ndarray, " n"]:
    """Build a label table: raw value -> class; every value that the mapping lacks is UNMAPPED."""
    lut = np.full(size, UNMAPPED, np.uint8)
    for raw, label in mapping.items():
        lut[raw] = label
    return lut


def class_lut(num_classes: int, ignore: int = IGNORE) -> UInt8[np.ndarray, " n"]:
    """Build the table of masks that already hold classes: 0..num_classes-1 stay, the value ``ignore`` becomes 255."""
    return make_lut({label: label for label in range(num_classes)} | {ignore: IGNORE})


def apply_lut(
    labels: Integer[np.ndarray, "h w"], lut: UInt8[np.ndarray, " n"], path: Path, num_classes: int
) -> UInt8[np.ndarray, "h w"]:
    """Map raw labels to classes by table; a label without a class is an error here, not a crash on the GPU.

    Raises:
        DatasetError: naming the file, the values and what to do.
    """
    if labels.dtype == np.uint8 and len(lut) == 256:
        classes = cv2.LUT(labels, lut).astype(np.uint8, copy=False)
    else:
        known = (labels >= 0) & (labels < len(lut))
        classes = np.where(known, lut[np.where(known, labels, 0)], np.uint8(UNMAPPED))
    if (bad := classes == UNMAPPED).any():
        values = np.unique(labels[bad]).tolist()
        raise DatasetError(
            f"{path}: label {some(values)} in {int(bad.sum())} pixels belongs to none of the {num_classes} classes "
            "and is not ignored. Check that dataset.root holds the original labels and that the number of classes is "
            "right; for your own data, dataset.class_map says what a value means, dataset.ignore_label what is ignored."
        )
    return classes


Labels: TypeAlias = Callable[[Sample], UInt8[np.ndarray, "h w"]]
"""Reads the classes of one sample, 255 where a pixel is to be ignored; small, because worker processes may copy it."""


class TableLabels:
    """Labels from a file per image: ``read`` gives raw values, ``lut`` their classes."""

    def __init__(
        self,
        lut: UInt8[np.ndarray, " n"],
        num_classes: int,
        read: Callable[[Path], Integer[np.ndarray, "h w"]] = read_index_png,
    ):
        self.lut, self.num_classes, self.read = lut, num_classes, read

    def __call__(self, sample: Sample) -> UInt8[np.ndarray, "h w"]:
        """Read and map the mask of one sample."""
        path = require_mask(sample)
        return apply_lut(self.read(path), self.lut, path, self.num_classes)


def require_mask(sample: Sample) -> Path:
    """Return the sample's label file.

    Raises:
        DatasetError: if it has none.
    """
    if sample.mask is None:
        raise DatasetError(f"{sample.image}: this image has no mask to train on or evaluate against.")
    return sample.mask


def check_same_size(image: UInt8[np.ndarray, "h w 3"], mask: UInt8[np.ndarray, "h2 w2"], sample: Sample) -> None:
    """Raise a DatasetError if image and mask differ in size."""
    (h, w), (mask_h, mask_w) = image.shape[:2], mask.shape
    if (h, w) == (mask_h, mask_w):
        return
    hint = "make the mask from the image at its own size"
    if (h, w) == (mask_w, mask_h):
        hint = "the sides are swapped, probably an EXIF orientation, which is not applied: store the image upright"
    raise DatasetError(f"{sample.mask}: mask is {mask_w}x{mask_h}, its image {sample.image} is {w}x{h}; {hint}.")


def lost_files(samples: Iterable[Sample]) -> list[Path]:
    """Files of the samples that do not exist, from one listing per folder: a stat each is slow on a network disk."""
    wanted = {path for sample in samples for path in (sample.image, sample.mask) if path is not None}
    folders = {path.parent for path in wanted}
    return sorted(wanted.difference(*(folder.iterdir() for folder in folders if folder.is_dir())))


def spaced(samples: Sequence[Sample], limit: int | None) -> list[Sample]:
    """Take ``limit`` samples, evenly spaced; None: all."""
    if limit is None or limit >= len(samples):
        return list(samples)
    return [samples[i * len(samples) // limit] for i in range(limit)]


def some(things: Sequence[Any]) -> str:
    """Write the first three of a list."""
    return ", ".join(map(str, things[:3])) + (", ..." if len(things) > 3 else "")


def read_text(path: Path) -> str:
    """Read a text file in UTF-8, or in UTF-16 where a byte-order mark says so.

    Raises:
        DatasetError: missing, or in another encoding.
    """
    with legible(path):
        data = path.read_bytes()
    encoding = "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    with suppress(UnicodeDecodeError):
        if "\0" not in (text := data.decode(encoding)):
            return text
    raise DatasetError(f"{path}: its encoding is not UTF-8; save it again as UTF-8.")


def read_lines(path: Path) -> list[str]:
    """Read a list file: one entry a line, blank lines dropped."""
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]


def visible(paths: Iterable[Path]) -> list[Path]:
    """Sort paths, without hidden files such as the ``._a.jpg`` that macOS leaves beside a.jpg."""
    return sorted(path for path in paths if not path.name.startswith("."))


def histogram(mask: UInt8[np.ndarray, "h w"]) -> Int64[np.ndarray, " 256"]:
    """Count the pixels of each value, some rows at a time: NumPy takes 8 bytes per pixel for it."""
    parts = np.array_split(mask, 1 + (mask.size >> 24))
    return np.sum([np.bincount(part.ravel(), minlength=256) for part in parts], axis=0)
