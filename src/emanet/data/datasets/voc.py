"""PASCAL VOC 2012 segmentation, and trainaug with the SBD masks (Hariharan et al., ICCV 2011).

trainaug = (VOC train + SBD train + SBD val) - VOC val = 10582 images, of which 1464 keep their VOC masks.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Integer

from emanet.data.datamodule import SegmentationDataModule
from emanet.data.palettes import voc_palette
from emanet.data.pictures import read_index_png
from emanet.data.reading import Labels, Sample, TableLabels, class_lut, read_lines, read_mat

CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
PALETTE = voc_palette(len(CLASSES))
SPLIT_SIZES = {"train": 1464, "trainaug": 10582, "trainval": 2913, "val": 1449, "test": 1456}


def read_voc_mask(path: Path) -> Integer[np.ndarray, "h w"]:
    """Read a VOC palette PNG or an SBD ``.mat`` file."""
    return read_mat(path, "GTcls.Segmentation") if path.suffix == ".mat" else read_index_png(path)


class VOC(SegmentationDataModule):
    """PASCAL VOC 2012, 21 classes; splits train, trainaug, trainval, val, test (test without masks).

    ``root`` holds ``VOCdevkit/VOC2012`` (or is that folder) and, for trainaug, either ``benchmark_RELEASE/dataset``
    of SBD or a ready-made ``SegmentationClassAug`` with a ``trainaug.txt``.
    """

    name, class_names, palette = "voc", CLASSES, PALETTE
    splits = tuple(SPLIT_SIZES)
    split_sizes: Mapping[str, int] = SPLIT_SIZES

    def labels(self) -> Labels:
        """Read masks of 0..20 with 255 = void."""
        return TableLabels(class_lut(len(CLASSES)), len(CLASSES), read_voc_mask)

    def find(self, split: str) -> list[Sample]:
        """List a split."""
        if split == "trainaug":
            return self._trainaug()
        masked = split != "test"
        return [self._sample(name, masked) for name in read_lines(self._list(split))]

    @property
    def _devkit(self) -> Path:
        return self.holding("JPEGImages", "VOCdevkit/VOC2012", "VOC2012", ".")

    def _list(self, split: str) -> Path:
        return self.first_existing(self._devkit / "ImageSets" / "Segmentation" / f"{split}.txt")

    def _sample(self, name: str, masked: bool = True) -> Sample:
        mask = self._devkit / "SegmentationClass" / f"{name}.png" if masked else None
        return Sample(name, self._devkit / "JPEGImages" / f"{name}.jpg", mask)

    def _trainaug(self) -> list[Sample]:
        """Take a ready-made list, or compose it from SBD; VOC's own masks wherever VOC has one for training."""
        devkit = self._devkit
        own = read_lines(self._list("train"))
        lists = (devkit / "ImageSets" / "Segmentation", devkit / "SegmentationClassAug", devkit, self.root)
        ready = next((place / "trainaug.txt" for place in lists if (place / "trainaug.txt").is_file()), None)
        folder, suffix = self._augmented_masks()
        if ready is not None:
            names = [Path(line.split()[0]).stem for line in read_lines(ready)]
        else:
            sbd = self._sbd()
            listed = [name for part in ("train", "val") for name in read_lines(sbd / f"{part}.txt")]
            names = sorted({*own, *listed} - set(read_lines(self._list("val"))))
        from_voc = set(own)
        return [
            self._sample(name)
            if name in from_voc
            else Sample(name, devkit / "JPEGImages" / f"{name}.jpg", folder / f"{name}{suffix}")
            for name in names
        ]

    def _augmented_masks(self) -> tuple[Path, str]:
        for place in (self._devkit / "SegmentationClassAug", self.root / "SegmentationClassAug"):
            if place.is_dir():
                return place, ".png"
        return self._sbd() / "cls", ".mat"

    def _sbd(self) -> Path:
        return self.holding("cls", "benchmark_RELEASE/dataset", "SBD/dataset", "dataset")
