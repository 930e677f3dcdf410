"""COCO-Stuff, 171 classes (Caesar, Uijlings, Ferrari; CVPR 2018): 10K v1.1 (``.mat``) and 164K (PNG).

Of the label numbers 1..182, eleven never occur; the 171 others in rising order are classes 0..170 in both editions.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from emanet.data.datamodule import SegmentationDataModule
from emanet.data.palettes import spread_palette
from emanet.data.reading import IGNORE, Labels, Sample, TableLabels, make_lut, read_lines, read_mat, visible

ABSENT = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)
"""Label numbers (counted from 1) that are in no annotation."""

LABELS = tuple(label for label in range(1, 183) if label not in ABSENT)

# nightrome/cocostuff, labels.txt, without the absent ones
CLASSES = (
    *("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light"),
    *("fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow"),
    *("elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee"),
    *("skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard"),
    *("tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple"),
    *("sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch"),
    *("potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone"),
    *("microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors", "teddy bear"),
    *("hair drier", "toothbrush", "banner", "blanket", "branch", "bridge", "building-other", "bush", "cabinet"),
    *("cage", "cardboard", "carpet", "ceiling-other", "ceiling-tile", "cloth", "clothes", "clouds", "counter"),
    *("cupboard", "curtain", "desk-stuff", "dirt", "door-stuff", "fence", "floor-marble", "floor-other"),
    *("floor-stone", "floor-tile", "floor-wood", "flower", "fog", "food-other", "fruit", "furniture-other"),
    *("grass", "gravel", "ground-other", "hill", "house", "leaves", "light", "mat", "metal", "mirror-stuff"),
    *("moss", "mountain", "mud", "napkin", "net", "paper", "pavement", "pillow", "plant-other", "plastic"),
    *("platform", "playingfield", "railing", "railroad", "river", "road", "rock", "roof", "rug", "salad", "sand"),
    *("sea", "shelf", "sky-other", "skyscraper", "snow", "solid-other", "stairs", "stone", "straw"),
    *("structural-other", "table", "tent", "textile-other", "towel", "tree", "vegetable", "wall-brick"),
    *("wall-concrete", "wall-other", "wall-panel", "wall-stone", "wall-tile", "wall-wood", "water-other"),
    *("waterdrops", "window-blind", "window-other", "wood"),
)
PALETTE = spread_palette(len(CLASSES))

LUT_10K = make_lut({0: IGNORE} | {label: index for index, label in enumerate(LABELS)})
"""Variable S of the 10K files: 0 unlabeled, 1..182."""

LUT_164K = make_lut({255: IGNORE} | {label - 1: index for index, label in enumerate(LABELS)})
"""Pixels of the 164K maps: 0..181, 255 unlabeled."""


class COCOStuff10K(SegmentationDataModule):
    """COCO-Stuff 10K v1.1; ``root`` holds ``images``, ``annotations``, ``imageLists``; splits train, test, all."""

    name, class_names, palette = "coco_stuff", CLASSES, PALETTE
    splits = ("train", "test", "all")
    split_sizes: Mapping[str, int] = {"train": 9000, "test": 1000, "all": 10000}

    def __init__(
        self, *, val_split: str = "test", test_split: str = "test", predict_split: str = "test", **options: Any
    ):
        super().__init__(val_split=val_split, test_split=test_split, predict_split=predict_split, **options)

    def labels(self) -> Labels:
        """Read S of 0..182."""
        return TableLabels(LUT_10K, len(CLASSES), partial(read_mat, variable="S"))

    def find(self, split: str) -> list[Sample]:
        """List a split."""
        names = read_lines(self.first_existing(self.root / "imageLists" / f"{split}.txt"))
        images, masks = self.root / "images", self.root / "annotations"
        return [Sample(name, images / f"{name}.jpg", masks / f"{name}.mat") for name in names]


class COCOStuff164K(SegmentationDataModule):
    """COCO-Stuff 164K: the images of COCO 2017 with the PNGs of ``stuffthingmaps_trainval2017``.

    ``root`` holds ``train2017`` and ``val2017`` (or ``images/...``) and the maps under
    ``stuffthingmaps_trainval2017``, ``stuffthingmaps``, ``annotations``, or unpacked beside the images.
    """

    name, class_names, palette = "coco_stuff_164k", CLASSES, PALETTE
    split_sizes: Mapping[str, int] = {"train": 118287, "val": 5000}

    def labels(self) -> Labels:
        """Read maps of 0..181 with 255 = unlabeled."""
        return TableLabels(LUT_164K, len(CLASSES))

    def find(self, split: str) -> list[Sample]:
        """List a split: every image of the folder."""
        part = f"{split}2017"
        images = self.first_existing(self.root / "images" / part, self.root / part)
        parents = ("stuffthingmaps_trainval2017", "stuffthingmaps", "annotations", ".")
        masks = self.first_existing(*(self.root / parent / part for parent in parents))
        return [Sample(path.stem, path, masks / f"{path.stem}.png") for path in visible(images.glob("*.jpg"))]
