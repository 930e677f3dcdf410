"""Masks of own data that are not class numbers: colors, or one file per class."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import UInt8

from emanet.common.errors import ConfigError, DatasetError
from emanet.data.reading import IGNORE, Sample, read_image, read_index_png, require_mask, some


class ColorLabels:
    """Labels from colors: each class one, every other color an error."""

    def __init__(self, colors: Mapping[str, Sequence[int]], class_names: Sequence[str]):
        classes = {_pack(colors[name]): label for label, name in enumerate(class_names)}
        if "ignore" in colors:
            classes[_pack(colors["ignore"])] = IGNORE
        self.keys = np.array(sorted(classes), np.int64)
        self.values = np.array([classes[key] for key in sorted(classes)], np.uint8)

    def __call__(self, sample: Sample) -> UInt8[np.ndarray, "h w"]:
        """Read one mask."""
        path = require_mask(sample)
        if path.suffix.lower() in (".jpg", ".jpeg"):
            raise DatasetError(f"{path}: a mask stored as JPEG, whose compression changes colors; export it as PNG.")
        packed = read_image(path).astype(np.int64) @ np.array([65536, 256, 1])
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

    def __call__(self, sample: Sample) -> UInt8[np.ndarray, "h w"]:
        """Read the masks of one image."""
        folder = require_mask(sample)
        present = {
            label: path
            for label, name in enumerate(self.class_names)
            if (path := folder / name / f"{sample.name}{self.suffix}.png").is_file()
        }
        if not present:
            raise DatasetError(
                f"{sample.image}: no mask in any of {some([str(folder / name) for name in self.class_names])}."
            )
        layers = {label: read_index_png(path) > 0 for label, path in present.items()}
        if len({layer.shape for layer in layers.values()}) > 1:
            raise DatasetError(f"{folder}: the masks of {sample.name} differ in size from class to class.")
        ground = IGNORE if (folder / self.class_names[0]).is_dir() else 0
        classes = np.full(next(iter(layers.values())).shape, ground, np.uint8)
        for label, layer in layers.items():
            classes[layer] = label
        return classes


def _pack(color: Sequence[int]) -> int:
    if len(color) != 3 or not all(0 <= value <= 255 for value in color):
        raise ConfigError(f"a color is three numbers 0..255, got {list(color)}.")
    return (color[0] << 16) + (color[1] << 8) + color[2]
