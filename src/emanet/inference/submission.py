"""Predictions in the form that a benchmark's evaluation server takes, and nothing that it would refuse.

VOC 2012 (development kit): a .tar.gz with ``results/VOC2012/Segmentation/comp6_test_cls/<id>.png``, palette images of
0..20. Cityscapes (cityscapesScripts, evalPixelLevelSemanticLabeling.py): a .zip with one ``<city>_<n>_<n>*.png`` of
labelIds per image. ADE20K (SceneParsing 150): a .zip with ``<image>.png``, gray values 1..150.
"""

import io
import os
import tarfile
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from emanet.common.errors import ConfigError, EMANetError
from emanet.data.datasets import ade20k, cityscapes, voc
from emanet.inference.media import Source, index_png

MOST = 20  #: names that a message shows


class SubmissionError(EMANetError):
    """An archive that the server would refuse."""


@dataclass(frozen=True)
class Format:
    """What one server takes."""

    archive: str  #: file name of the archive
    folder: str  #: inside it
    mode: str  #: Pillow's mode of the pictures: P with a palette, L gray
    values: tuple[int, ...]  #: pixel value of each class
    palette: UInt8[np.ndarray, "classes 3"] | None = None

    @property
    def is_zip(self) -> bool:
        """Whether the archive is a .zip; else it is a .tar.gz."""
        return self.archive.endswith(".zip")

    def picture(self, mask: UInt8[np.ndarray, "h w"]) -> Image.Image:
        """A mask of classes as the server reads it."""
        raw = np.array(self.values, np.uint8)[mask]
        return Image.fromarray(raw) if self.palette is None else index_png(raw, self.palette)


FORMATS = {
    "voc": Format(
        "voc2012_comp6.tar.gz", "results/VOC2012/Segmentation/comp6_test_cls", "P", tuple(range(21)), voc.PALETTE
    ),
    "cityscapes": Format("cityscapes_labelids.zip", "", "L", cityscapes.LABEL_IDS),
    "ade20k": Format("ade20k.zip", "", "L", tuple(range(1, len(ade20k.CLASSES) + 1))),
}


def submission_format(name: str, num_classes: int) -> Format:
    """The format of that name.

    Raises:
        ConfigError: if there is none, or the network has another number of classes.
    """
    if name not in FORMATS:
        raise ConfigError(f"submission={name}: the servers known are {', '.join(FORMATS)}")
    expected = len(FORMATS[name].values)
    if num_classes != expected:
        raise ConfigError(f"submission={name} needs a network of {expected} classes, got {num_classes}")
    return FORMATS[name]


def image_sizes(sources: Iterable[Source]) -> dict[str, tuple[int, int]]:
    """Height and width of each picture by its bare name, read from the files' headers.

    Raises:
        ConfigError: for two pictures of one name, or a file that is none.
    """
    sizes: dict[str, tuple[int, int]] = {}
    for path, name in sources:
        bare = Path(name).name
        if bare in sizes:
            raise ConfigError(f"two pictures are called {bare}: a submission has one folder for all")
        try:
            with Image.open(path) as picture:
                sizes[bare] = (picture.height, picture.width)
        except OSError as error:
            raise ConfigError(f"{path}: not a picture ({error})") from error
    return sizes


class SubmissionWriter:
    """Packs predictions into an archive, which appears under its name when it holds all that the server expects.

    Args:
        folder: where the archive goes.
        form: what the server takes.
        sizes: height and width of every image that the server expects, by name.
    """

    def __init__(self, folder: Path, form: Format, sizes: Mapping[str, tuple[int, int]]) -> None:
        self.form, self.sizes = form, dict(sizes)
        self.path = folder / form.archive
        self._temporary = folder / f".{os.getpid()}.{form.archive}"  # the ending says how it is packed
        self._packed: set[str] = set()

    @cached_property
    def _archive(self) -> Any:
        """The archive, begun when it is first needed."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return zipfile.ZipFile(self._temporary, "w") if self.form.is_zip else tarfile.open(self._temporary, "w:gz")

    def add(self, name: str, mask: UInt8[np.ndarray, "h w"]) -> None:
        """Take the prediction of one image.

        Raises:
            SubmissionError: for an image that the server does not expect, or not of this size, or that is there.
        """
        if name in self._packed or self.sizes.get(name) != mask.shape:
            raise SubmissionError(
                f"{name}.png of {mask.shape[1]}x{mask.shape[0]} pixels is there twice, or not what the server expects"
            )
        buffer = io.BytesIO()
        self.form.picture(mask).save(buffer, "PNG")
        member = tarfile.TarInfo(str(PurePosixPath(self.form.folder, f"{name}.png")))
        member.size = buffer.tell()
        if self.form.is_zip:
            self._archive.writestr(member.name, buffer.getvalue())  # PNGs are compressed already
        else:
            self._archive.addfile(member, io.BytesIO(buffer.getvalue()))
        self._packed.add(name)

    def finish(self) -> Path:
        """Give the archive its name.

        Raises:
            SubmissionError: if images are missing; nothing appears then, and what was there stays.
        """
        try:
            self._archive.close()
            if missing := sorted(self.sizes.keys() - self._packed):
                listed = ", ".join(f"{name}.png" for name in missing[:MOST])
                raise SubmissionError(f"the server would refuse {self.path.name}: {len(missing)} missing, {listed}")
            self._temporary.replace(self.path)
        finally:
            self.discard()
        return self.path

    def discard(self) -> None:
        """Remove what is not finished."""
        if self._temporary.exists():
            self._archive.close()
            self._temporary.unlink()
