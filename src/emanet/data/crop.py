"""The random crop of the recipe: where it lies, and its pixels and labels, of which little more is computed."""

import random
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import UInt8


class Window(NamedTuple):
    """A crop: sides (h, w) of the scaled image, (top, left) of the crop in it, and whether it is mirrored."""

    scaled: tuple[int, int]
    corner: tuple[int, int]
    flip: bool


class ScaleCrop:
    """Scale by a factor drawn from ``scales``, cut a random square of side ``size``, mirror it or not.

    The scaled side is floor(side * scale), as ``interpolate(scale_factor=...)`` has it; where it is less than ``size``
    the crop ends there. The image is interpolated bilinearly with corners aligned, the mask takes the label at
    ``floor(i * side / scaled)``, both as in ``torch.nn.functional.interpolate``. Little more than the window is
    computed. Each pixel is within one gray level of torch's float result (mean 0.27, of which rounding to 8 bits alone
    makes 0.23; OpenCV's affine warp is up to 5 levels off, since it rounds positions to 1/32 pixel).

    Args:
        size: side of the square window in pixels.
        scales: the factors, drawn with equal probability.
        flip: probability of a horizontal flip.
    """

    def __init__(self, size: int, scales: Sequence[float], flip: float = 0.0):
        self.size, self.scales, self.flip = size, tuple(scales), flip

    def draw(self, shape: Sequence[int], rng: random.Random) -> Window:
        """Draw scale, top, left and flip, in this order, for an image of ``shape`` (h, w, ...)."""
        rng.random()  # decides nothing; crops of a seed stay those of earlier versions, which drew it
        scale = rng.choice(self.scales)
        height, width = (max(1, int(side * scale)) for side in shape[:2])
        top, left = (rng.randint(0, max(side - self.size, 0)) for side in (height, width))
        flip = self.flip > 0 and (self.flip >= 1 or rng.random() < self.flip)
        return Window((height, width), (top, left), flip)

    def pixels(self, image: UInt8[np.ndarray, "h w 3"], window: Window) -> UInt8[np.ndarray, "h2 w2 3"]:
        """Cut the window out of the image."""
        part = scaled_window(image, window.scaled, window.corner, self.size)
        return cv2.flip(part, 1) if window.flip else part

    def labels(self, mask: UInt8[np.ndarray, "h w"], window: Window) -> UInt8[np.ndarray, "h2 w2"]:
        """Cut the window out of the mask."""
        rows, columns = (
            _nearest(side, out, start, self.size)
            for side, out, start in zip(mask.shape, window.scaled, window.corner, strict=True)
        )
        part = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        rows, columns = rows - rows[0], columns - columns[0]
        if window.flip:
            columns = columns[::-1]
        # Whole rows are gathered far faster than single columns, so the columns are made rows for a while.
        return cv2.transpose(cv2.transpose(part).take(columns, axis=0)).take(rows, axis=0)


def scaled_window(
    image: UInt8[np.ndarray, "h w 3"], scaled: tuple[int, int], corner: tuple[int, int], size: int
) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Compute the window of at most ``size`` pixels a side at ``corner`` of the image scaled to ``scaled``.

    torch scales an 8-bit image along one axis after the other; here the crop comes as soon as an axis is done.
    """
    h, (scaled_h, scaled_w), (top, left) = image.shape[0], scaled, corner
    bottom, right = min(top + size, scaled_h), min(left + size, scaled_w)
    # Aligned corners: row i of the scaled image lies at i * (h - 1) / (scaled_h - 1) of the source.
    step = (h - 1) / max(scaled_h - 1, 1)
    first, last = max(int(top * step) - 1, 0), min(int((bottom - 1) * step) + 3, h)  # a row to spare for rounding
    wide = _interpolate(image[first:last], (last - first, scaled_w))[:, left:right]
    if scaled_h == h:
        return wide[top - first : bottom - first]
    strip = np.empty((h, right - left, 3), np.uint8)  # its other rows reach no row of the window
    strip[first:last] = wide
    return _interpolate(strip, (scaled_h, right - left))[top:bottom]


def _interpolate(image: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "h2 w2 3"]:
    if image.shape[:2] == size:
        return image
    # Channels last in memory, for the vectorized 8-bit kernel. Permuted after [None]: a batch axis of any other stride
    # is taken for channels first, and the result comes channel by channel, at twice the time.
    pixels = torch.from_numpy(image)[None].permute(0, 3, 1, 2)
    return F.interpolate(pixels, size=size, mode="bilinear", align_corners=True)[0].permute(1, 2, 0).numpy()


def _nearest(side: int, scaled: int, start: int, size: int) -> np.ndarray:
    """Source positions of the window's pixels along one axis, in float32 as torch computes them."""
    position = np.arange(start, min(scaled, start + size), dtype=np.float32) * (np.float32(side) / np.float32(scaled))
    return np.minimum(position.astype(np.intp), side - 1)
