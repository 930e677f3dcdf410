"""A user's own images and masks.

::

    root/images/train/a.jpg   root/masks/train/a.png      one folder per split, or
    root/images/a.jpg         root/masks/a.png            and train.txt, val.txt with one name a line, or
                                                          neither, and val_ratio=0.2

A mask holds class numbers (gray or palette PNG), colors (``mask_encoding=rgb`` with ``colors``), or it is one
black-and-white file per class (``mask_encoding=folders``: ``masks/[split/]<class name>/a.png``).
"""

import logging
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import UInt8

from emanet.common.errors import ConfigError, DatasetError
from emanet.common.seeding import mix
from emanet.data.datamodule import SegmentationDataModule
from emanet.data.datasets.class_names import read_classes
from emanet.data.datasets.encodings import ColorLabels, FolderLabels, pictures_by_name
from emanet.data.palettes import spread_palette
from emanet.data.pictures import IMAGE_SUFFIXES, read_index_png
from emanet.data.reading import (
    IGNORE,
    Labels,
    Sample,
    TableLabels,
    class_lut,
    histogram,
    make_lut,
    read_lines,
    some,
    spaced,
    visible,
)

log = logging.getLogger(__name__)

LOOKED_AT = 20
"""Masks of a split that are looked at in search of a split with one class only."""


class Folder(SegmentationDataModule):
    """Own data under ``root``; see the module's text for the layout. Any split names.

    Args:
        class_names: names in the order of the class numbers, or
        class_file: a text file with one name a line, a YAML list, or YAML pairs ``name: [r, g, b]`` that stand for
            ``colors`` too, or
        num_classes: only their number.
        ignore_label: raw mask value that counts in no loss and no metric.
        class_map: raw mask value -> class number (255 = ignore), for every value that occurs, where the masks do not
            hold 0..classes-1 already.
        mask_encoding: index, rgb or folders.
        colors: class name -> (r, g, b), for rgb; the key "ignore" names a color to ignore.
        mask_suffix: what a mask's name adds to its image's, such as "_mask".
        val_ratio: share of the images, below 1, that becomes the split val where neither folders nor lists say it;
            above 0 it is at least one image, and leaves one to train on.
    """

    name = "folder"
    splits = ()

    def __init__(
        self,
        *,
        class_names: Sequence[str] = (),
        class_file: str | Path | None = None,
        num_classes: int | None = None,
        ignore_label: int = IGNORE,
        class_map: Mapping[int, int] | None = None,
        mask_encoding: Literal["index", "rgb", "folders"] = "index",
        colors: Mapping[str, Sequence[int]] | None = None,
        mask_suffix: str = "",
        val_ratio: float = 0.0,
        **options: Any,
    ):
        if not 0 <= val_ratio < 1:
            raise ConfigError(f"dataset.val_ratio must be at least 0 and below 1, got {val_ratio}.")
        super().__init__(**options)
        file = None if class_file is None else Path(class_file).expanduser()
        self.class_names, table = read_classes(class_names, file, num_classes)
        self.mask_encoding, self.mask_suffix, self.val_ratio = mask_encoding, mask_suffix, val_ratio
        self.colors = {name: tuple(color) for name, color in (table | dict(colors or {})).items()}
        self.lut = self._table(ignore_label, class_map or {})
        self.plain = mask_encoding == "index" and not class_map and ignore_label == IGNORE
        self.palette = spread_palette(self.num_classes)
        if mask_encoding == "rgb":
            if lacking := [name for name in self.class_names if name not in self.colors]:
                raise ConfigError(
                    f"mask_encoding=rgb needs a color for each class in dataset.colors, not for {lacking}."
                )
            self.palette = np.array([self.colors[name] for name in self.class_names], np.uint8)

    def labels(self) -> Labels:
        """Read masks in the chosen encoding."""
        if self.mask_encoding == "rgb":
            return ColorLabels(self.colors, self.class_names)
        if self.mask_encoding == "folders":
            return FolderLabels(self.class_names, self.mask_suffix)
        return TableLabels(self.lut, self.num_classes, read_index_png)

    def remedy(self) -> str:
        """Say what is expected of a folder."""
        return (
            "set dataset.root=... to a folder with images/ and masks/, and say the splits by subfolders "
            "(images/train, masks/train, ...), by lists (train.txt, val.txt) or by dataset.val_ratio=0.2."
        )

    def find(self, split: str) -> list[Sample]:
        """List a split by folder, list or ratio; images without masks are an error where masks are needed."""
        images = self.first_existing(self.root / "images")
        masks = self.root / "masks"
        by_folder = (images / split).is_dir()
        if by_folder:
            images, masks = images / split, masks / split
        files = pictures_by_name(images)
        _warn_of_deeper(images)
        if by_folder:
            names = sorted(files)
        elif (self.root / f"{split}.txt").is_file():
            names = [_stem(line) for line in read_lines(self.root / f"{split}.txt")]
            if unknown := [name for name in names if name not in files]:
                raise DatasetError(f"{self.root / split}.txt names {len(unknown)} unknown images: {some(unknown)}.")
        elif self.val_ratio > 0 and split in ("train", "val"):
            names = self._share(sorted(files), split)
        else:
            raise self.missing(images / split, self.root / f"{split}.txt")
        samples = [Sample(name, files[name], None) for name in names]
        return self._with_masks(samples, masks, split)

    def samples(self, split: str) -> list[Sample]:
        """Return the samples of a split; warn once of masks of one class, and of images both trained and scored on."""
        if split not in self._samples:
            samples = super().samples(split)
            if samples[0].mask is not None:
                self._warn_if_constant(split, samples)
            self._warn_if_shared(split)
        return self._samples[split]

    def _share(self, names: Sequence[str], split: str) -> list[str]:
        """Choose by a hash of the name, so that the same images stay in validation when others join."""
        shuffled = sorted(names, key=lambda name: mix(*name.encode()))
        number = min(max(round(len(names) * self.val_ratio), 1), len(names) - 1)
        held_out = set(shuffled[:number])
        return [name for name in names if (name in held_out) == (split == "val")]

    def _with_masks(self, samples: list[Sample], masks: Path, split: str) -> list[Sample]:
        optional = split not in {self.stage_splits[stage] for stage in ("fit", "validate", "test")}
        if optional and not masks.is_dir():
            return samples
        self.first_existing(masks)
        if self.mask_encoding == "folders":
            listed = FolderLabels(self.class_names, self.mask_suffix).listed(masks)
            found = {name: masks for files in listed for name in files or ()}
        else:
            found = pictures_by_name(masks)
        if lost := [sample.image.name for sample in samples if sample.name + self.mask_suffix not in found]:
            raise DatasetError(
                f"{len(lost)} images of split '{split}' have no mask in {masks}: {some(lost)}; a mask has its image's "
                f"name (with dataset.mask_suffix='{self.mask_suffix}') and the ending .png."
            )
        return [sample._replace(mask=found[sample.name + self.mask_suffix]) for sample in samples]

    def _warn_if_shared(self, split: str) -> None:
        """Compare the training split with those that are scored, once both are known."""
        train = self.stage_splits["fit"]
        for scored in {self.stage_splits["validate"], self.stage_splits["test"]} - {train}:
            if split in (train, scored) and {train, scored} <= self._samples.keys():
                trained = {sample.image for sample in self._samples[train]}
                if shared := [sample.name for sample in self._samples[scored] if sample.image in trained]:
                    log.warning(
                        "%d images are in split '%s' and in split '%s': %s; their scores say nothing about new images",
                        *(len(shared), train, scored, some(shared)),
                    )

    def _warn_if_constant(self, split: str, samples: Sequence[Sample]) -> None:
        """Look at some masks; at all of them where some could be 0 and 255 for two classes.

        Raises:
            DatasetError: if all are: 255 would be ignored, and whoever answers 0 everywhere would be right.
        """
        read, chosen, seen = self.labels(), spaced(samples, LOOKED_AT), set[int]()
        for number, sample in enumerate([*chosen, *samples]):
            if number == len(chosen) and not (self.plain and seen == {0, IGNORE}):
                break
            seen.update(np.flatnonzero(histogram(read(sample))).tolist())
            if len(seen - {IGNORE}) > 1:
                return
        if self.plain and seen == {0, IGNORE} and self.num_classes > 1:
            raise DatasetError(
                f"{self.name}: the masks of split '{split}' hold only 0 and 255, and 255 is ignored. Say what it means "
                "with 'dataset.class_map={0: 0, 255: 1}', or {0: 0, 255: 255} if it is to be ignored."
            )
        only = ", ".join(self.class_names[label] for label in seen - {IGNORE}) or "no class"
        log.warning("split '%s': the masks looked at hold only %s (and perhaps ignored pixels)", split, only)

    def _table(self, ignore_label: int, class_map: Mapping[int, int]) -> UInt8[np.ndarray, " n"]:
        values = (ignore_label, *class_map)
        if bad := [raw for raw in values if not 0 <= raw <= 255]:
            raise ConfigError(f"dataset.ignore_label and class_map speak of mask values 0..255, got {bad}.")
        if bad := [label for label in class_map.values() if not (0 <= label < self.num_classes or label == IGNORE)]:
            raise ConfigError(f"dataset.class_map leads to classes 0..{self.num_classes - 1} or 255, got {bad}.")
        if class_map:
            return make_lut({ignore_label: IGNORE} | dict(class_map))
        return class_lut(self.num_classes, ignore_label)


@cache
def _warn_of_deeper(images: Path) -> None:
    """Say which pictures are left out since they lie in folders below."""
    below = (path for folder in visible(images.iterdir()) if folder.is_dir() for path in folder.rglob("*"))
    if deeper := [path for path in visible(below) if path.suffix.lower() in IMAGE_SUFFIXES]:
        shown = some([path.relative_to(images) for path in deeper])
        log.warning("%d pictures in folders below %s are left out: %s", len(deeper), images, shown)


def _stem(line: str) -> str:
    return Path(line).stem if line.lower().endswith(IMAGE_SUFFIXES) else Path(line).name
