"""PASCAL Context, 59 or 60 classes over the images of VOC 2010 (Mottaghi et al., CVPR 2014).

Two sources of labels, whose masks differ a little (open-mmlab/mmsegmentation#474):

- ``mat``: the authors' ``trainval/*.mat``, 459 labels, matched by the names of ``labels.txt``; 4998 / 5105 images.
- ``json``: ``trainval_merged.json`` of PASCAL in Detail; 4996 / 5104 images. See detail.py.

With 60 classes 0 is background, with 59 background is ignored; never compare figures of the two.
"""

from collections.abc import Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import UInt8

from emanet.common.errors import ConfigError, DatasetError
from emanet.data.datamodule import SegmentationDataModule
from emanet.data.datasets.detail import AnnotatedImage, RunLengthLabels, read_annotations
from emanet.data.palettes import spread_palette
from emanet.data.reading import IGNORE, UNMAPPED, Labels, Sample, TableLabels, make_lut, read_lines, read_mat

CLASSES = (
    *("aeroplane", "bag", "bed", "bedclothes", "bench", "bicycle", "bird", "boat", "book", "bottle", "building"),
    *("bus", "cabinet", "car", "cat", "ceiling", "chair", "cloth", "computer", "cow", "cup", "curtain", "dog"),
    *("door", "fence", "floor", "flower", "food", "grass", "ground", "horse", "keyboard", "light", "motorbike"),
    *("mountain", "mouse", "person", "plate", "platform", "pottedplant", "road", "rock", "sheep", "shelves"),
    *("sidewalk", "sign", "sky", "snow", "sofa", "table", "track", "train", "tree", "truck", "tvmonitor", "wall"),
    *("water", "window", "wood"),
)
"""The 59 classes in alphabetical order, which is also the order of their category ids."""

CATEGORY_IDS = (
    *(0, 2, 9, 18, 19, 22, 23, 25, 31, 33, 34, 44, 45, 46, 59, 65, 68, 72, 80, 85, 98, 104, 105, 113, 115, 144),
    *(158, 159, 162, 187, 189, 207, 220, 232, 258, 259, 260, 284, 295, 296, 308, 324, 326, 347, 349, 354, 355),
    *(360, 366, 368, 397, 415, 416, 420, 424, 427, 440, 445, 454, 458),
)
"""Sorted ids of the json: the class is the rank, 0 the background (as PyTorch-Encoding and mmsegmentation have it)."""

OTHER_NAMES = {"table": "diningtable", "bedclothes": "bedcloth", "cloth": "clothes"}
"""Three classes are spelt otherwise in one of ``labels.txt`` and ``59_labels.txt``."""

LABELS = 459
SPLIT_SIZES = {"mat": {"train": 4998, "val": 5105}, "json": {"train": 4996, "val": 5104}}


class PascalContext(SegmentationDataModule):
    """PASCAL Context; splits train and val.

    ``root`` holds ``VOCdevkit/VOC2010`` (or is that folder) with the images and lists, and in either of the two the
    folder ``trainval`` with ``labels.txt`` in or beside it, or ``trainval_merged.json``.

    Args:
        num_classes: 59 (background ignored) or 60 (background is class 0).
        label_source: mat, json, or auto = mat where the folder ``trainval`` exists, else json.
    """

    name = "pascal_context"

    def __init__(
        self,
        *,
        num_classes: Literal[59, 60] = 59,
        label_source: Literal["auto", "mat", "json"] = "auto",
        **options: Any,
    ):
        if num_classes not in (59, 60):
            raise ConfigError(f"pascal_context has 59 classes, or 60 with background; got num_classes={num_classes}.")
        super().__init__(**options)
        self.class_names = CLASSES if num_classes == len(CLASSES) else ("background", *CLASSES)
        self.palette = spread_palette(len(CLASSES))
        if num_classes > len(CLASSES):
            self.palette = np.concatenate([np.zeros((1, 3), np.uint8), self.palette])
        self._label_source = label_source

    @cached_property
    def label_source(self) -> str:
        """Where the labels come from, mat or json; found on disk for auto."""
        if self._label_source != "auto":
            return self._label_source
        found = self.first_existing(*self._places("trainval"), *self._places("trainval_merged.json"))
        return "json" if found.suffix == ".json" else "mat"

    @property
    def split_sizes(self) -> Mapping[str, int]:  # type: ignore[override]
        """Published sizes, which differ by two images between the label sources."""
        return SPLIT_SIZES[self.label_source]

    def labels(self) -> Labels:
        """Read masks of 59 or 60 classes from the source of labels."""
        if self.label_source == "json":
            lut = make_lut({number: rank for rank, number in enumerate(CATEGORY_IDS)}, size=CATEGORY_IDS[-1] + 1)
            return RunLengthLabels(self._annotations, self._fold(lut), self.num_classes)
        folder = self.first_existing(*self._places("trainval"))
        names = self.first_existing(folder / "labels.txt", folder.parent / "labels.txt", *self._places("labels.txt"))
        return TableLabels(self._fold(lut_by_name(names)), self.num_classes, partial(read_mat, variable="LabelMap"))

    def find(self, split: str) -> list[Sample]:
        """List a split: by the json's phase, else by VOC 2010's list of that name."""
        images = self._devkit / "JPEGImages"
        if self.label_source == "json":
            path = self.first_existing(*self._places("trainval_merged.json"))
            chosen = sorted(image.name for image in self._annotations.values() if image.phase == split)
            return [Sample(name, images / f"{name}.jpg", path) for name in chosen]
        masks = self.first_existing(*self._places("trainval"))
        kinds = ("SegmentationContext", "Main")  # a list of its own where a converter made one
        listed = self.first_existing(*(self._devkit / "ImageSets" / kind / f"{split}.txt" for kind in kinds))
        return [Sample(name, images / f"{name}.jpg", masks / f"{name}.mat") for name in read_lines(listed)]

    @property
    def _devkit(self) -> Path:
        return self.holding("JPEGImages", "VOCdevkit/VOC2010", "VOC2010", ".")

    def _places(self, name: str) -> tuple[Path, ...]:
        return tuple(self.root / place / name for place in (".", "VOCdevkit/VOC2010", "VOCdevkit"))

    def _fold(self, lut: UInt8[np.ndarray, " n"]) -> UInt8[np.ndarray, " n"]:
        """Turn a table to 0..59 into one to the chosen classes: with 59, background -> 255 and n -> n - 1."""
        if self.num_classes > len(CLASSES):
            return lut
        return np.where(lut == 0, IGNORE, np.where(lut == UNMAPPED, UNMAPPED, lut - 1)).astype(np.uint8)

    @cached_property
    def _annotations(self) -> dict[str, AnnotatedImage]:
        """Parse the json, once for all splits."""
        return read_annotations(self.first_existing(*self._places("trainval_merged.json")))


def lut_by_name(labels_txt: Path) -> UInt8[np.ndarray, " n"]:
    """Build the table 459 labels -> 0..59 from the names of ``labels.txt`` (lines "12: name"), the rest background.

    Raises:
        DatasetError: if the file lacks a class.
    """
    pairs = (line.partition(":") for line in read_lines(labels_txt))
    ids = {name.strip(): int(number) for number, _, name in pairs if number.strip().isdigit()}
    lut = np.zeros(max(LABELS, *ids.values(), 0) + 1, np.uint8)
    for label, name in enumerate(CLASSES, start=1):
        known = name if name in ids else OTHER_NAMES.get(name, name)
        if known not in ids:
            raise DatasetError(f"{labels_txt}: no line for the class '{name}'; take labels.txt from the same archive.")
        lut[ids[known]] = label
    return lut
