"""Data sets: one file each, on the common ``SegmentationDataModule``; and what a data set of one's own needs."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

# ruff: noqa: F401
if TYPE_CHECKING:
    from emanet.data.datamodule import SegmentationDataModule
    from emanet.data.datasets.ade20k import ADE20K
    from emanet.data.datasets.blue_marble import BlueMarble
    from emanet.data.datasets.cityscapes import Cityscapes
    from emanet.data.datasets.coco_stuff import COCOStuff10K, COCOStuff164K
    from emanet.data.datasets.coco_voc import COCOVOC
    from emanet.data.datasets.folder import Folder
    from emanet.data.datasets.land_cover import LandCover
    from emanet.data.datasets.pascal_context import PascalContext
    from emanet.data.datasets.voc import VOC
    from emanet.data.palettes import spread_palette
    from emanet.data.pictures import read_image
    from emanet.data.reading import IGNORE, Labels, Sample, TableLabels, class_lut, make_lut

#: where the public names are; imported when one is asked for, so that ``import emanet.data`` is quick
HOMES = {
    "datamodule": ("SegmentationDataModule",),
    "datasets.ade20k": ("ADE20K",),
    "datasets.blue_marble": ("BlueMarble",),
    "datasets.cityscapes": ("Cityscapes",),
    "datasets.coco_stuff": ("COCOStuff10K", "COCOStuff164K"),
    "datasets.coco_voc": ("COCOVOC",),
    "datasets.folder": ("Folder",),
    "datasets.land_cover": ("LandCover",),
    "datasets.pascal_context": ("PascalContext",),
    "datasets.voc": ("VOC",),
    "palettes": ("spread_palette",),
    "pictures": ("read_image",),
    "reading": ("IGNORE", "Labels", "Sample", "TableLabels", "class_lut", "make_lut"),
}
__all__ = [name for names in HOMES.values() for name in names]


def __getattr__(name: str) -> Any:
    """Import a public name."""
    for home, names in HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
