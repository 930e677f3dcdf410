"""Pictures and masks to arrays, with every defect reported by file name and remedy.

EXIF orientation is ignored everywhere: the masks of all benchmarks are drawn over the pixels as stored.
"""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import simplejpeg
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError
from scipy.io.matlab import MatReadError

from emanet.common.errors import DatasetError

MOST_LABEL = 255  # that a mask may hold; it is ignored unless told otherwise

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")

MOST_PIXELS = 1 << 30
"""Of a picture, as OpenCV has it. Pillow takes a sixth of that: its limit is for files that strangers send."""

FETCH_AGAIN = "copy or download it again"
JPEGS = ("JPEG", "MPO")  # the latter from cameras, with a second picture behind the first
PNG_END = b"IEND\xaeB`\x82"
ORIENTATION = 274  # the tag of EXIF

log = logging.getLogger(__name__)
opening = threading.Lock()


@contextmanager
def legible(path: Path) -> Iterator[None]:
    """Turn what Pillow and SciPy raise for a missing or broken file into a DatasetError that names it."""
    try:
        yield
    except FileNotFoundError as error:
        raise DatasetError(f"{path}: no such file; {FETCH_AGAIN}, or check dataset.root.") from error
    except (OSError, SyntaxError, ValueError, TypeError, EOFError, NotImplementedError, MatReadError) as error:
        reason = "not an image" if isinstance(error, UnidentifiedImageError) else error
        size = path.stat().st_size
        raise DatasetError(
            f"{path}: cannot be read ({reason}; {size} bytes), probably truncated; {FETCH_AGAIN}."
        ) from error


@contextmanager
def opened(path: Path) -> Iterator[tuple[Image.Image, bytes]]:
    """Give a picture whose header is read, and the file's bytes.

    Raises:
        DatasetError: missing, unreadable, or of more than MOST_PIXELS.
    """
    with legible(path):
        data = path.read_bytes()
        with opening:
            limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            try:
                picture = Image.open(BytesIO(data))
            finally:
                Image.MAX_IMAGE_PIXELS = limit
        with picture:
            if picture.width * picture.height > MOST_PIXELS:
                raise DatasetError(
                    f"{path}: {picture.width} x {picture.height} pixels, {MOST_PIXELS} at most: cut it into tiles."
                )
            yield picture, data


def read_image(path: Path) -> UInt8[np.ndarray, "h w 3"]:
    """Read an image file as RGB, as stored (EXIF orientation ignored).

    Whole 8-bit gray or RGB JPEGs and PNGs take a fast path, the others Pillow. OpenCV fills what a truncated PNG lacks
    with gray without a word in some versions, so a file without its end marker goes to Pillow, which refuses it.

    Raises:
        DatasetError: missing, truncated, unreadable, or more than 8 bits per channel.
    """
    with opened(path) as (header, data):
        if "exif" in header.info and header.getexif().get(ORIENTATION, 1) != 1:
            say_turned(path.parent)
        plain = header.mode in ("RGB", "L")
        if plain and header.format in JPEGS:
            return decode_jpeg(data, path)
        if plain and header.format == "PNG" and data.rstrip(b"\0").endswith(PNG_END):
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
            if pixels is not None:
                return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, dst=pixels).astype(np.uint8, copy=False)
        if header.mode.startswith(("I", "F")):
            raise DatasetError(f"{path}: image mode {header.mode}, more than 8 bits per channel; convert it to 8-bit.")
        return np.array(header.convert("RGB"))


def decode_jpeg(data: bytes, path: Path) -> UInt8[np.ndarray, "h w 3"]:
    """Decode a JPEG; say once what libjpeg finds wrong in the middle of a whole one."""
    try:
        return simplejpeg.decode_jpeg(data, strict=True)
    except ValueError as error:
        if "Premature end of JPEG file" in str(error):  # the last bytes are missing
            raise
        say_damaged(path, str(error))
        return simplejpeg.decode_jpeg(data, strict=False)


@cache
def say_damaged(path: Path, reason: str) -> None:
    """Warn of a picture, once per process."""
    log.warning("%s: damaged (%s): parts of the picture may be wrong; %s", path, reason, FETCH_AGAIN)


@cache
def say_turned(folder: Path) -> None:
    """Warn of a folder, once per process."""
    log.warning(
        "%s holds pictures that are turned by their EXIF orientation. It is not applied: masks must be drawn over the "
        "pixels as stored. If yours are drawn over the upright pictures, store these upright",
        folder,
    )


@contextmanager
def opened_mask(path: Path) -> Iterator[Image.Image]:
    """Give a mask whose header is read.

    Raises:
        DatasetError: missing or truncated, a JPEG (its compression invents labels), or a color image.
    """
    with opened(path) as (mask, _):
        if mask.format in JPEGS:
            raise DatasetError(
                f"{path}: a mask stored as JPEG, whose compression changes labels at every edge; "
                "export the masks again as PNG."
            )
        if mask.mode not in ("P", "L", "1") and not mask.mode.startswith("I"):
            raise DatasetError(
                f"{path}: a mask with color channels or fractions (mode {mask.mode}) where label numbers are needed; "
                "save it as a palette or gray PNG of class numbers, or give a color table "
                "(dataset.mask_encoding=rgb with dataset.colors, for dataset=folder)."
            )
        yield mask


def read_index_png(path: Path) -> UInt8[np.ndarray, "h w"]:
    """Read a mask whose pixels are label numbers: a palette PNG gives its indices, a gray one its values.

    Raises:
        DatasetError: as :func:`opened_mask`, or for labels beyond 0..255.
    """
    with opened_mask(path) as mask:
        stored = str(getattr(mask, "tile", ""))
        labels = np.array(mask)
    if (least := int(labels.min())) < 0 or (most := int(labels.max())) > MOST_LABEL:
        raise DatasetError(
            f"{path}: label {least if least < 0 else most}; labels must lie in 0..{MOST_LABEL}. Write the mask again "
            f"with numbers in that range, {MOST_LABEL} for what is to be ignored."
        )
    for bits in (2, 4):
        if f"L;{bits}" in stored:  # Pillow spreads these over 0..255
            labels //= MOST_LABEL // (2**bits - 1)
    return labels.astype(np.uint8, copy=False)
