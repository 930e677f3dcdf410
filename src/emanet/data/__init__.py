"""Data sets: one file each, on the common ``SegmentationDataModule``."""

from emanet.data.ade20k import ADE20K
from emanet.data.cityscapes import Cityscapes
from emanet.data.coco_stuff import COCOStuff10K, COCOStuff164K
from emanet.data.coco_voc import COCOVOC
from emanet.data.datamodule import SegmentationDataModule
from emanet.data.folder import Folder
from emanet.data.pascal_context import PascalContext
from emanet.data.voc import VOC

__all__ = [
    "ADE20K",
    "COCOVOC",
    "VOC",
    "COCOStuff10K",
    "COCOStuff164K",
    "Cityscapes",
    "Folder",
    "PascalContext",
    "SegmentationDataModule",
]
