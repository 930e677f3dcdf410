"""Predictions in the form that a benchmark's evaluation server takes, and the check that it would take them.

VOC 2012 (development kit): a .tar.gz with ``results/VOC2012/Segmentation/comp6_test_cls/<id>.png``, palette images of
0..20. Cityscapes (cityscapesScripts, evalPixelLevelSemanticLabeling.py): a .zip with one ``<city>_<n>_<n>*.png`` of
labelIds per image. ADE20K (SceneParsing 150): a .zip with ``<image>.png``, gray values 1..150.
"""

import io
import os
import tarfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from emanet.common.errors import ConfigError, EMANetError
from emanet.data.datasets import ade20k, cityscapes, voc
from emanet.inference.media import Source, index_png

MOST = 20  #: complaints that a message shows


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
    """Packs predictions into an archive, which appears under its name when it is complete and checked.

    Args:
        folder: where the archive goes.
        form: what the server takes.
        sizes: height and width of every image that the server expects, by name.
    """

    def __init__(self, folder: Path, form: Format, sizes: Mapping[str, tuple[int, int]]) -> None:
        self.form, self.sizes = form, dict(sizes)
        self.path = folder / form.archive
        self._temporary = folder / f".{os.getpid()}.{form.archive}"  # the ending says how it is packed

    @cached_property
    def _archive(self) -> Any:
        """The archive, begun when it is first needed."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return zipfile.ZipFile(self._temporary, "w") if self.form.is_zip else tarfile.open(self._temporary, "w:gz")

    def add(self, name: str, mask: UInt8[np.ndarray, "h w"]) -> None:
        """Take the prediction of one image."""
        buffer = io.BytesIO()
        self.form.picture(mask).save(buffer, "PNG")
        member = tarfile.TarInfo(str(PurePosixPath(self.form.folder, f"{name}.png")))
        member.size = buffer.tell()
        if self.form.is_zip:
            self._archive.writestr(member.name, buffer.getvalue())  # PNGs are compressed already
        else:
            self._archive.addfile(member, io.BytesIO(buffer.getvalue()))

    def finish(self) -> Path:
        """Check the archive, and give it its name.

        Raises:
            SubmissionError: if the server would refuse it; nothing appears then, and what was there stays.
        """
        try:
            self._archive.close()
            check_submission(self._temporary, self.form, self.sizes)
            self._temporary.replace(self.path)
        finally:
            self.discard()
        return self.path

    def discard(self) -> None:
        """Remove what is not finished."""
        if self._temporary.exists():
            self._archive.close()
            self._temporary.unlink()


def check_submission(archive: Path, form: Format, sizes: Mapping[str, tuple[int, int]]) -> None:
    """Read an archive back and refuse what the server would refuse.

    Args:
        archive: the .tar.gz or .zip.
        form: what the server takes.
        sizes: height and width of every image that it expects, by name.

    Raises:
        SubmissionError: with every complaint: names missing, unexpected or doubled, wrong places, sizes, modes, values.
    """
    complaints: list[str] = []
    seen: set[str] = set()
    for member, data in members(archive):
        path = PurePosixPath(member)
        if path.suffix != ".png" or path.stem not in sizes:
            complaints.append(f"{member}: not expected")
        elif path.parent != PurePosixPath(form.folder):
            complaints.append(f"{member}: expected in {form.folder or 'the top folder'}")
        elif path.stem in seen:
            complaints.append(f"{member}: there twice")
        else:
            complaints.extend(f"{member}: {reason}" for reason in check_picture(data, form, sizes[path.stem]))
        seen.add(path.stem)
    complaints.extend(f"{name}.png: missing" for name in sorted(sizes.keys() - seen))
    if complaints:
        more = [f"and {len(complaints) - MOST} more"] if len(complaints) > MOST else []
        raise SubmissionError("\n  ".join([f"the server would refuse {archive.name}:", *complaints[:MOST], *more]))


def members(archive: Path) -> Iterator[tuple[str, bytes]]:
    """Name and content of every file in an archive, one at a time.

    Raises:
        SubmissionError: for an archive that cannot be read.
    """
    try:
        if archive.suffix == ".zip":
            with zipfile.ZipFile(archive) as zipped:
                yield from ((info.filename, zipped.read(info)) for info in zipped.infolist() if not info.is_dir())
            return
        with tarfile.open(archive, "r:gz") as tar:
            for entry in tar:
                if not entry.isdir():
                    yield entry.name, (tar.extractfile(entry) or io.BytesIO()).read()
    except (OSError, EOFError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise SubmissionError(f"{archive.name} cannot be read: {error}") from error


def check_picture(data: bytes, form: Format, size: tuple[int, int]) -> list[str]:
    """What is wrong with one picture of a submission."""
    try:
        with Image.open(io.BytesIO(data)) as picture:
            kind, mode, values = picture.format, picture.mode, np.array(picture)
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        return [f"cannot be read ({error})"]
    if kind != "PNG" or mode != form.mode:
        return [f"a {kind} of mode {mode}, expected a PNG of mode {form.mode}"]
    complaints = []
    if values.shape != tuple(size):
        complaints.append(f"{values.shape[1]}x{values.shape[0]} pixels, the image has {size[1]}x{size[0]}")
    if strange := sorted(set(np.unique(values).tolist()) - set(form.values)):
        complaints.append(f"values {', '.join(map(str, strange[:5]))}, allowed are those of the classes")
    return complaints
