"""Data sets: one file each, on the common ``SegmentationDataModule``."""

from emanet.data.datamodule import SegmentationDataModule
from emanet.data.datasets.ade20k import ADE20K
from emanet.data.datasets.blue_marble import BlueMarble
from emanet.data.datasets.cityscapes import Cityscapes
from emanet.data.datasets.coco_stuff import COCOStuff10K, COCOStuff164K
from emanet.data.datasets.coco_voc import COCOVOC
from emanet.data.datasets.distant_hints import DistantHints
from emanet.data.datasets.folder import Folder
from emanet.data.datasets.pascal_context import PascalContext
from emanet.data.datasets.voc import VOC

__all__ = [
    "ADE20K",
    "COCOVOC",
    "VOC",
    "BlueMarble",
    "COCOStuff10K",
    "COCOStuff164K",
    "Cityscapes",
    "DistantHints",
    "Folder",
    "PascalContext",
    "SegmentationDataModule",
]
