"""A user's pictures in and ours out: files of any kind to 8-bit RGB, videos frame by frame, atomic writing.

Other than a benchmark's images (:mod:`emanet.data.reading`), these are shown upright: EXIF orientation is applied.
"""

import glob
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple, Self

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from emanet.common.errors import ConfigError, EMANetError
from emanet.data.reading import IMAGE_SUFFIXES

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm")
Pixels = UInt8[np.ndarray, "h w 3"]


class MediaError(EMANetError):
    """A picture or video that cannot be read or written."""


class Source(NamedTuple):
    """One file to predict, and the name of its results: its path below the folder given, without the ending."""

    path: Path
    name: str

    @property
    def is_video(self) -> bool:
        """Whether the file holds frames."""
        return self.path.suffix.lower() in VIDEO_SUFFIXES


def find_sources(given: str, *, leave_out: Path | None = None) -> list[Source]:
    """The files that a path, a folder (with its subfolders) or a pattern such as ``photos/**/*.jpg`` stands for.

    Args:
        given: what the user typed.
        leave_out: a folder whose files are not taken: that of earlier results.

    Raises:
        ConfigError: if there are none.
    """
    path = Path(given).expanduser()
    if path.is_dir():
        root, suffixes = path, (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in suffixes and file.is_file())
    elif path.is_file():
        root, files = path.parent, [path]
    else:
        files = sorted(Path(name) for name in glob.glob(str(path), recursive=True) if Path(name).is_file())
        root = Path(os.path.commonpath([file.parent for file in files])) if files else path
    if leave_out is not None:
        files = [file for file in files if not file.resolve().is_relative_to(leave_out.resolve())]
    if not files:
        raise ConfigError(f"input={given}: no picture or video there; give a file, a folder or a pattern in quotes")
    return name_sources(files, root)


def name_sources(files: list[Path], root: Path) -> list[Source]:
    """Name files by their paths without ending; those that would share a name (a.jpg, a.png) keep their endings."""
    relative = [file.relative_to(root) for file in files]
    stems = [str(path.with_suffix("")) for path in relative]
    return [
        Source(file, stem if stems.count(stem) == 1 else str(path))
        for file, path, stem in zip(files, relative, stems, strict=True)
    ]


def read_picture(path: Path) -> Pixels:
    """Read a picture as 8-bit RGB, upright: gray, palette, RGBA (laid on white), CMYK, 16 bits, floats of 0..1.

    Raises:
        MediaError: if it cannot be read whole.
    """
    try:
        with Image.open(path) as picture:
            return to_rgb(ImageOps.exif_transpose(picture))
    except UnidentifiedImageError as error:
        pixels = cv2.imread(str(path), cv2.IMREAD_ANYDEPTH | cv2.IMREAD_COLOR)  # 16-bit color TIFF, for one
        if pixels is None:
            raise MediaError(f"{path}: not a picture") from error
        return cv2.cvtColor(to_eight_bits(pixels), cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise MediaError(f"{path}: cannot be read ({error})") from error


def to_rgb(picture: Image.Image) -> Pixels:
    """A Pillow image of any mode as 8-bit RGB; what is transparent shows white."""
    if picture.mode.startswith(("I", "F")):
        return np.asarray(Image.fromarray(to_eight_bits(np.asarray(picture))).convert("RGB"))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return np.asarray(picture.convert("RGB"))


def to_eight_bits(values: np.ndarray) -> np.ndarray:
    """Bring 16-bit integers (0..65535) and floats (0..1) to 0..255.

    Raises:
        ValueError: for values outside these ranges.
    """
    if values.dtype == np.uint8:
        return values
    full = 1 if np.issubdtype(values.dtype, np.floating) else 65535
    if values.size and not 0 <= values.min() <= values.max() <= full:
        raise ValueError(f"values from {values.min()} to {values.max()}, expected 0 to {full}")
    return np.rint(values * (255 / full)).astype(np.uint8)


class Video:
    """The frames of a video as RGB, one after the other."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._capture = cv2.VideoCapture(str(path))
        if not self._capture.isOpened():
            raise MediaError(f"{path}: not a video that OpenCV can read")
        self.rate = self._capture.get(cv2.CAP_PROP_FPS) or 25.0
        self.frames = max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))  #: as its header says; 0 if it does not

    def __iter__(self) -> Iterator[Pixels]:
        """Read to the end.

        Raises:
            MediaError: if there is not a single frame.
        """
        count = 0
        while True:
            there, frame = self._capture.read()
            if not there:
                break
            count += 1
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)
        self._capture.release()
        if not count:
            raise MediaError(f"{self.path}: a video without frames, or broken")


class VideoWriter:
    """Write RGB frames of one size to an MP4 file, which appears when it is complete."""

    def __init__(self, path: Path, rate: float) -> None:
        self.path, self.rate = path, rate
        self._temporary = path.with_name(f".{path.stem}.{os.getpid()}.mp4")
        self._writer: cv2.VideoWriter | None = None

    def write(self, frame: Pixels) -> None:
        """Add a frame; odd sides lose their last pixel, as the format has colors for every second one only."""
        height, width = (side - side % 2 for side in frame.shape[:2])
        if self._writer is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            codec = cv2.VideoWriter.fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(str(self._temporary), codec, self.rate, (width, height))
            if not self._writer.isOpened():
                raise MediaError(f"{self.path}: this OpenCV cannot write MP4 videos")
        self._writer.write(cv2.cvtColor(frame[:height, :width], cv2.COLOR_RGB2BGR))

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: Any, trace: TracebackType | None) -> None:
        """Complete the file, or remove what there is of it."""
        if self._writer is not None:
            self._writer.release()
            if kind is None:
                self._temporary.replace(self.path)
        self._temporary.unlink(missing_ok=True)


def write_atomically(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Let ``write`` fill a file that appears under its name only when it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            write(file)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def index_png(mask: UInt8[np.ndarray, "h w"], palette: UInt8[np.ndarray, "classes 3"]) -> Image.Image:
    """A palette image whose pixels are the class numbers."""
    picture = Image.fromarray(mask)
    picture.putpalette(palette.tobytes())
    return picture
