"""Cityscapes fine annotations, 19 classes (Cordts et al., CVPR 2016)."""

from collections.abc import Mapping

import numpy as np

from emanet.data.datamodule import SegmentationDataModule
from emanet.data.reading import IGNORE, Labels, Sample, TableLabels, make_lut, visible

CLASSES = (
    *("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation"),
    *("terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"),
)
PALETTE = np.array(
    [
        *((128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153), (153, 153, 153)),
        *((250, 170, 30), (220, 220, 0), (107, 142, 35), (152, 251, 152), (70, 130, 180), (220, 20, 60), (255, 0, 0)),
        *((0, 0, 142), (0, 0, 70), (0, 60, 100), (0, 80, 100), (0, 0, 230), (119, 11, 32)),
    ],
    np.uint8,
)
LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""labelId of each class; the test server wants these back (cityscapesScripts, helpers/labels.py)."""

LUT = make_lut(dict.fromkeys((*range(34), 255), IGNORE) | {raw: label for label, raw in enumerate(LABEL_IDS)})
SPLIT_SIZES = {"train": 2975, "val": 500, "test": 1525}


class Cityscapes(SegmentationDataModule):
    """Cityscapes; ``root`` holds ``leftImg8bit/<split>/<city>`` and ``gtFine/<split>/<city>``; test without masks."""

    name, class_names, palette = "cityscapes", CLASSES, PALETTE
    splits = tuple(SPLIT_SIZES)
    split_sizes: Mapping[str, int] = SPLIT_SIZES

    def labels(self) -> Labels:
        """Read labelIds and map them to the 19 trainIds."""
        return TableLabels(LUT, len(CLASSES))

    def find(self, split: str) -> list[Sample]:
        """List a split by city and frame."""
        images = self.first_existing(self.root / "leftImg8bit" / split)
        masks = self.root / "gtFine" / split
        samples = []
        for path in visible(images.glob("*/*_leftImg8bit.png")):
            name = path.name.removesuffix("_leftImg8bit.png")
            mask = None if split == "test" else masks / path.parent.name / f"{name}_gtFine_labelIds.png"
            samples.append(Sample(name, path, mask))
        return samples
