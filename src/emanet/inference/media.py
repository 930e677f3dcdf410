"""A user's pictures in and ours out: files of any kind to 8-bit RGB, and videos frame by frame.

Other than a benchmark's images (:mod:`emanet.data.pictures`), these are shown upright: EXIF orientation is applied.
"""

import glob
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from emanet.common.errors import ConfigError, EMANetError
from emanet.common.visual import Pixels
from emanet.data.pictures import IMAGE_SUFFIXES

MOST_PIXELS = 2**31  #: of a picture, 6 GB; a small file that claims more is no picture
VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm")


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

    Of files whose results would share a name (a.jpg, a.png; frames of v.mp4 and v/0.png), the names keep the endings.
    What is hidden in a folder is left out.

    Args:
        given: what the user typed.
        leave_out: a folder whose files are not taken: that of earlier results.

    Raises:
        ConfigError: if there are none.
    """
    path = Path(given).expanduser()
    root, suffixes = path, (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)
    if path.is_dir():
        inner = (file for file in path.rglob("*") if file.suffix.lower() in suffixes and file.is_file())
        files = sorted(file for file in inner if not any(part[0] == "." for part in file.relative_to(path).parts))
    else:
        found = [path] if path.is_file() else map(Path, glob.glob(str(path), recursive=True))
        files = sorted(file for file in found if file.is_file())
        root = Path(os.path.commonpath([file.parent for file in files])) if files else path
    if leave_out is not None:
        files = [file for file in files if not file.resolve().is_relative_to(leave_out.resolve())]
    if not files:
        raise ConfigError(f"input={given}: no picture or video there; give a file, a folder or a pattern in quotes")
    whole = {file: file.relative_to(root) for file in files}
    names = {file: name.with_suffix("") for file, name in whole.items()}
    while shared := [file for file in sharing(names) if names[file] != whole[file]]:
        names |= {file: whole[file] for file in shared}
    return [Source(file, str(name)) for file, name in names.items()]


def sharing(names: Mapping[Path, Path]) -> list[Path]:
    """Files whose name another one has, and videos with others below their name, where the frames go."""
    times = Counter(names.values())
    folders = {folder for name in names.values() for folder in name.parents}
    return [file for file, name in names.items() if times[name] > 1 or (Source(file, "").is_video and name in folders)]


def read_picture(path: Path) -> Pixels:
    """Read a picture as 8-bit RGB, upright: gray, palette, RGBA (laid on white), CMYK, 16 bits, floats of 0..1.

    Raises:
        MediaError: if it cannot be read whole.
    """
    try:
        with of_any_size(), Image.open(path) as picture:
            return to_rgb(ImageOps.exif_transpose(picture))
    except UnidentifiedImageError as error:
        pixels = cv2.imread(str(path), cv2.IMREAD_ANYDEPTH | cv2.IMREAD_COLOR)  # 16-bit color TIFF, for one
        if pixels is None:
            raise MediaError(f"{path}: not a picture") from error
        return cv2.cvtColor(to_eight_bits(pixels), cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise MediaError(f"{path}: cannot be read ({error})") from error


@contextmanager
def of_any_size() -> Iterator[None]:
    """Let Pillow open pictures up to :data:`MOST_PIXELS`: it takes those above 179 megapixels for an attack."""
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, MOST_PIXELS // 2  # it refuses twice as many
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


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
    """The frames of a video as RGB, one after the other.

    Raises:
        MediaError: if it cannot be opened, or, at its end, if there was not a single frame.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._capture = cv2.VideoCapture(str(path))
        if not self._capture.isOpened():
            raise MediaError(f"{path}: not a video that OpenCV can read")
        self.rate = self._capture.get(cv2.CAP_PROP_FPS) or 25.0
        self.frames = max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))  #: as its header says; 0 if it does not

    def __iter__(self) -> Iterator[Pixels]:
        """Read to the end."""
        there, frame = self._capture.read()
        if not there:
            raise MediaError(f"{self.path}: a video without frames, or broken")
        while there:
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)
            there, frame = self._capture.read()
        self._capture.release()


@contextmanager
def video_writer(path: Path, rate: float) -> Iterator[Callable[[Pixels], None]]:
    """Give what adds an RGB frame to an MP4 file, which appears when it is complete; without a frame there is none.

    All frames are of one size; odd sides lose their last pixel, as the format has colors for every second one only.
    """
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.mp4")  # OpenCV goes by the ending
    writers: list[cv2.VideoWriter] = []

    def write(frame: Pixels) -> None:
        height, width = (side - side % 2 for side in frame.shape[:2])
        if not writers:
            path.parent.mkdir(parents=True, exist_ok=True)
            codec = cv2.VideoWriter.fourcc(*"mp4v")
            writers.append(cv2.VideoWriter(str(temporary), codec, rate, (width, height)))
            if not writers[0].isOpened():
                raise MediaError(f"{path}: this OpenCV cannot write MP4 videos")
        writers[0].write(cv2.cvtColor(frame[:height, :width], cv2.COLOR_RGB2BGR))

    try:
        yield write
        for writer in writers:
            writer.release()
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def index_png(mask: UInt8[np.ndarray, "h w"], palette: UInt8[np.ndarray, "classes 3"]) -> Image.Image:
    """A palette image whose pixels are the class numbers."""
    picture = Image.fromarray(mask)
    picture.putpalette(palette.tobytes())
    return picture
