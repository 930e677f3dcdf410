"""A data set of one's own, generated: patches whose class shows only in the mean over all patches of their kind.

A patch shows its kind by its hue, beyond doubt. The state of its kind in this image, ``dim`` or ``bright``, shifts the
brightness of each of its patches by a little, one and the same draw for all pixels of a patch, and noise shifts it by
more. So one patch tells little, and no pixel of it more than another; the mean over the patches of the kind tells
nearly all. Patches stand further apart than a small backbone with a plain head can see.
"""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from emanet.data import IGNORE, Labels, Sample, SegmentationDataModule, TableLabels, class_lut

COLORS = {  # kind: its color at brightness 0; each sums to 384, so that brightness tells nothing of the kind
    "rose": (153, 103, 128),
    "olive": (143, 143, 98),
    "green": (103, 153, 128),
    "blue": (113, 113, 158),
}
STATES = {"dim": 0.6, "bright": 1.5}  # state: brightness of its color in the pictures
CLASSES = (*(f"{kind} {state}" for kind in COLORS for state in STATES), "empty")  # 2 * kind + state, 8
EMPTY = len(CLASSES) - 1
PALETTE = np.array([np.multiply(color, factor) for color in COLORS.values() for factor in STATES.values()] + [3 * [40]])
PALETTE = PALETTE.astype(np.uint8)

SHIFT = 15  # s, in gray levels: what a state adds to (bright) or takes from (dim) the brightness of its patches
NOISE = 25  # sigma, in gray levels, of the normal noise on a patch's brightness
MOST = 96  # gray levels: brightness stays within, 3.2 sigma from its mean, so no color leaves 0..255
PATCHES = 8  # m: of each kind in every image

GRAY = 128  # background
SIDE = 6  # cells along each side of the image; most hold a patch, the others are the empty places
CELL = 64  # pixels
PATCH = 16  # pixels: covers two features along each side at stride 8, wherever it lies
JITTER = 4  # pixels of play within the cell, along each axis
MARGIN = (CELL - PATCH - JITTER) // 2  # pixels at least from a cell's edge to its patch
SIZE = SIDE * CELL + 1  # pixels: 385, 1 modulo 8, 16 and 32

SEED = 0  # of all images; not that of a run
SPLIT_SIZES = {"train": 600, "val": 200}


class DistantHints(SegmentationDataModule):
    """Four kinds in two states each, and empty places: 600 training and 200 validation images.

    A data set needs no more than this: names and colors of the classes, where the files lie, and how to read a mask.
    This one also writes its files to ``root`` at first use.
    """

    name, class_names, palette = "distant_hints", CLASSES, PALETTE
    splits, split_sizes = tuple(SPLIT_SIZES), SPLIT_SIZES

    def prepare_data(self) -> None:
        """Write the images unless they are there; Lightning calls it on one process of each machine."""
        if not (self.root / "classes.txt").is_file():
            write(self.root)

    def find(self, split: str) -> list[Sample]:
        """List a split by number."""
        images, masks = self.root / "images" / split, self.root / "masks" / split
        return [Sample(path.stem, path, masks / path.name) for path in sorted(images.glob("*.png"))]

    def labels(self) -> Labels:
        """Read masks whose values are the classes, and 255 outside the places."""
        return TableLabels(class_lut(len(CLASSES)), len(CLASSES))


class Scene(NamedTuple):
    """What an image shows: ``p`` patches at the first of its ``q`` places, nothing at the others."""

    states: np.ndarray  #: (kinds): 0 dim, 1 bright
    kind: np.ndarray  #: (p)
    brightness: np.ndarray  #: (p): gray levels above that of the color, the same in all pixels and channels
    corner: np.ndarray  #: (q, 2): row and column of a place's upper left pixel


def best_accuracy(patches: int = 1) -> float:
    """Share of patches whose state is told right, at best, from the mean brightness of so many of their kind.

    ``Phi(sqrt(m) s / sigma)``: the states are equally likely and the kinds independent, so the mean is all that the
    patches tell. 0.726 from a patch alone, 0.955 from all eight.
    """
    return 0.5 * (1 + math.erf(math.sqrt(patches) * SHIFT / NOISE / math.sqrt(2)))


def draw_scene(split: str, index: int) -> Scene:
    """Draw what one image of a split shows: always the same."""
    rng = np.random.default_rng([SEED, list(SPLIT_SIZES).index(split), index])
    states = rng.integers(0, 2, len(COLORS))
    kind = np.repeat(np.arange(len(COLORS)), PATCHES)
    noise = NOISE * rng.standard_normal(len(kind))
    brightness = np.rint((2 * states[kind] - 1) * SHIFT + noise).clip(-MOST, MOST).astype(np.int64)
    cells = rng.permutation(SIDE**2)
    jitter = rng.integers(0, JITTER + 1, (len(cells), 2))
    corner = CELL * np.stack([cells // SIDE, cells % SIDE], axis=1) + MARGIN + jitter
    return Scene(states, kind, brightness, corner)


def paint(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Image (h, w, 3) and mask (h, w) of a scene; what lies between the places is ignored."""
    image = np.full((SIZE, SIZE, 3), GRAY, np.uint8)
    mask = np.full((SIZE, SIZE), IGNORE, np.uint8)
    colors = np.array(list(COLORS.values()))
    for place, (row, column) in enumerate(scene.corner):
        window = np.s_[row : row + PATCH, column : column + PATCH]
        mask[window] = EMPTY
        if place < len(scene.kind):
            kind = scene.kind[place]
            image[window] = colors[kind] + scene.brightness[place]
            mask[window] = 2 * kind + scene.states[kind]
    return image, mask


def write(root: Path) -> None:
    """Write images and masks to ``root/{images,masks}/{train,val}``, and last of all ``classes.txt``."""
    for split, count in SPLIT_SIZES.items():
        for kind in ("images", "masks"):
            (root / kind / split).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            for kind, pixels in zip(("images", "masks"), paint(draw_scene(split, index)), strict=True):
                Image.fromarray(pixels).save(root / kind / split / f"{index:04d}.png", compress_level=3)
    (root / "classes.txt").write_text("\n".join(CLASSES) + "\n", encoding="utf-8")
