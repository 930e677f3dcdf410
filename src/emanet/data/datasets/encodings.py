"""Masks of own data that are not class numbers: colors, or one file per class."""

import logging
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from emanet.common.errors import ConfigError, DatasetError
from emanet.data.pictures import IMAGE_SUFFIXES, opened_mask, read_image
from emanet.data.reading import IGNORE, Sample, require_mask, some, visible

log = logging.getLogger(__name__)


class ColorLabels:
    """Labels from colors: each class one, every other color an error."""

    def __init__(self, colors: Mapping[str, Sequence[int]], class_names: Sequence[str]):
        packed = {name: _pack(colors[name]) for name in (*class_names, *({"ignore"} & colors.keys()))}
        if shared := [name for name, color in packed.items() if [*packed.values()].count(color) > 1]:
            raise ConfigError(f"dataset.colors: {some(shared)} share a color; give each its own.")
        labels = {name: label for label, name in enumerate(class_names)}
        classes = {color: labels.get(name, IGNORE) for name, color in packed.items()}
        self.keys = np.array(sorted(classes), np.int64)
        self.values = np.array([classes[key] for key in sorted(classes)], np.uint8)

    def __call__(self, sample: Sample) -> UInt8[np.ndarray, "h w"]:
        """Read one mask."""
        path = require_mask(sample)
        if path.suffix.lower() in (".jpg", ".jpeg"):
            raise DatasetError(f"{path}: a mask stored as JPEG, whose compression changes colors; export it as PNG.")
        image = read_image(path)
        # some rows at a time, since a pixel takes 60 bytes on the way
        return np.concatenate([self._classes(part, path) for part in np.array_split(image, 1 + (image.size >> 24))])

    def _classes(self, image: UInt8[np.ndarray, "h w 3"], path: Path) -> UInt8[np.ndarray, "h w"]:
        packed = image.astype(np.int64) @ np.array([65536, 256, 1])
        place = np.minimum(np.searchsorted(self.keys, packed), len(self.keys) - 1)
        if (unknown := self.keys[place] != packed).any():
            shown = [
                ((key >> 16).item(), (key >> 8 & 255).item(), (key & 255).item()) for key in np.unique(packed[unknown])
            ]
            raise DatasetError(
                f"{path}: colors without a class: {some(shown)}; add them to dataset.colors (the name 'ignore' for "
                "pixels that do not count)."
            )
        return self.values[place]


class FolderLabels:
    """Labels from one black-and-white file per class; later classes on top.

    Pixels of no class are class 0 if it has no folder of its own (a background), else ignored.
    """

    def __init__(self, class_names: Sequence[str], suffix: str):
        self.class_names, self.suffix = class_names, suffix
        self._listed: dict[Path, list[dict[str, Path] | None]] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        """Leave out what was listed: each process lists the folders for itself."""
        return type(self), (self.class_names, self.suffix)

    def listed(self, folder: Path) -> list[dict[str, Path] | None]:
        """Files of each class by their names without endings; None for a class without a folder."""
        if folder not in self._listed:
            folders = visible(path for path in folder.iterdir() if path.is_dir())
            places = [folder_of(name, folders, self.class_names) for name in self.class_names]
            if unknown := [path.name for path in folders if path not in places]:
                _say_unread(folder, some(unknown))
            self._listed[folder] = [None if place is None else pictures_by_name(place) for place in places]
        return self._listed[folder]

    def files(self, sample: Sample) -> dict[int, Path]:
        """Files of the sample's masks, by class.

        Raises:
            DatasetError: if there is none.
        """
        folder = require_mask(sample)
        by_class = [files or {} for files in self.listed(folder)]
        name = sample.name + self.suffix
        present = {label: files[name] for label, files in enumerate(by_class) if name in files}
        if not present:
            places = [str(folder / kind) for kind in self.class_names]
            raise DatasetError(f"{sample.image}: no mask in any of {some(places)}.")
        return present

    def __call__(self, sample: Sample) -> UInt8[np.ndarray, "h w"]:
        """Read the masks of one image."""
        folder, layers = require_mask(sample), {label: read_layer(path) for label, path in self.files(sample).items()}
        if len({layer.shape for layer in layers.values()}) > 1:
            raise DatasetError(f"{folder}: the masks of {sample.name} differ in size from class to class.")
        ground = 0 if self.listed(folder)[0] is None else IGNORE
        classes = np.full(next(iter(layers.values())).shape, ground, np.uint8)
        for label, layer in layers.items():
            classes[layer] = label
        return classes


def folder_of(name: str, folders: Sequence[Path], class_names: Sequence[str]) -> Path | None:
    """Folder of a class: the one of its name, or the one that differs in case alone and is no other class's.

    Raises:
        DatasetError: if two could be meant.
    """
    same = [path for path in folders if path.name == name] or [
        path for path in folders if path.name.casefold() == name.casefold() and path.name not in class_names
    ]
    if len(same) > 1:
        raise DatasetError(f"{same[0]} and {same[1].name}: two folders of one class; put their masks into one.")
    return same[0] if same else None


def pictures_by_name(folder: Path) -> dict[str, Path]:
    """Pictures of a folder by their names without endings.

    Raises:
        DatasetError: for two of one name.
    """
    files: dict[str, Path] = {}
    for path in visible(folder.iterdir()):
        if path.suffix.lower() in IMAGE_SUFFIXES:
            if path.stem in files:
                raise DatasetError(f"{path} and {files[path.stem].name}: two files of one name; remove one.")
            files[path.stem] = path
    return files


def read_layer(path: Path) -> Bool[np.ndarray, "h w"]:
    """Pixels of a black-and-white mask that are not black, by the colors of its palette where it has one."""
    with opened_mask(path) as mask:
        if mask.mode == "P":
            return np.array(mask.convert("RGB")).max(-1).astype(bool)
        return np.array(mask).astype(bool)


@cache
def _say_unread(folder: Path, names: str) -> None:
    log.warning("%s: no class is called like the folders %s; they are not read", folder, names)


def _pack(color: Sequence[int]) -> int:
    if len(color) != 3 or not all(0 <= value <= 255 for value in color):
        raise ConfigError(f"a color is three numbers 0..255, got {list(color)}.")
    return (color[0] << 16) + (color[1] << 8) + color[2]
