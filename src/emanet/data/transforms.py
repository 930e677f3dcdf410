"""Augmentation and normalisation: the paper's recipe on albumentations' interface.

The only file that knows albumentations (2.0.8 is its last MIT release), so that it can be replaced here.
"""

import os

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else it asks the network for a newer version at import

import random
from collections.abc import Sequence
from typing import Any, TypeAlias

import albumentations as A
import cv2
import numpy as np
import torch
import torch.nn.functional as F
from albumentations.core.type_definitions import Targets
from jaxtyping import Float32, Int64, UInt8
from torch import Tensor

from emanet.data.reading import IGNORE

Transform: TypeAlias = A.BasicTransform | A.BaseCompose
"""Anything that can stand in ``extra_transforms``."""

PADDING = 254
"""Mask value of padded pixels until the end of the pipeline, where they become exactly 0 in the image, 255 in the mask.

It travels through any transform with the mask, so a flip or a rotation of the padding needs no bookkeeping.
"""


class ScaleCrop(A.DualTransform):
    """Scale by a factor drawn from ``scales``, pad right and bottom to ``size``, cut a random square of that side.

    The scaled side is floor(side * scale), as ``interpolate(scale_factor=...)`` has it. The image is interpolated
    bilinearly with corners aligned, the mask takes the label at ``floor(i * side / scaled)``, both as in
    ``torch.nn.functional.interpolate``. Little more than the window is computed. Each pixel is within one grey level
    of torch's float result (mean 0.27, of which rounding to 8 bits alone makes 0.23; OpenCV's affine warp is faster but
    up to 5 levels off, since it rounds positions to 1/32 pixel). Draws in the order scale, top, left.

    Arguments:
        size: side of the square window in pixels.
        scales: the factors, drawn with equal probability.
        fill: colour of the padding while the image has 8 bits (see PADDING).
        p: part of albumentations' interface; leave it at 1, crops of a batch must have one size.
    """

    _targets = (Targets.IMAGE, Targets.MASK)

    class InitSchema(A.DualTransform.InitSchema):
        """Argument types, as albumentations wants them."""

        size: int
        scales: tuple[float, ...]
        fill: tuple[int, int, int]

    def __init__(
        self, size: int, scales: Sequence[float], fill: tuple[int, int, int] = (124, 116, 104), p: float = 1.0
    ):
        super().__init__(p=p)
        self.size, self.scales, self.fill = size, tuple(scales), fill

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        """Draw ``scaled``, the size (h, w) of the scaled image, and ``corner``, the window's (top, left)."""
        scale = self.py_random.choice(self.scales)
        scaled = tuple(max(1, int(side * scale)) for side in params["shape"][:2])
        corner = tuple(self.py_random.randint(0, max(side - self.size, 0)) for side in scaled)
        return {"scaled": scaled, "corner": corner}

    def apply(self, img: np.ndarray, scaled: tuple[int, int], corner: tuple[int, int], **params: Any) -> np.ndarray:
        """Scale, crop and pad the image."""
        return self._pad(scaled_window(img, scaled, corner, self.size), self.fill)

    def apply_to_mask(
        self, mask: np.ndarray, scaled: tuple[int, int], corner: tuple[int, int], **params: Any
    ) -> np.ndarray:
        """Scale, crop and pad the mask."""
        rows, columns = (
            _nearest(side, out, start, self.size)
            for side, out, start in zip(mask.shape[:2], scaled, corner, strict=True)
        )
        return self._pad(mask.take(rows, axis=0).take(columns, axis=1), PADDING)

    def get_transform_init_args_names(self) -> tuple[str, ...]:
        """Names of the constructor's arguments, for albumentations' repr."""
        return ("size", "scales", "fill")

    def _pad(self, array: np.ndarray, value: Any) -> np.ndarray:
        bottom, right = (self.size - side for side in array.shape[:2])
        if bottom == right == 0:
            return array
        return cv2.copyMakeBorder(array, 0, bottom, 0, right, cv2.BORDER_CONSTANT, value=value)


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
    strip = np.empty((h, right - left, 3), np.uint8)  # its other rows reach no row of the window
    strip[first:last] = wide
    return _interpolate(strip, (scaled_h, right - left))[top:bottom]


def _interpolate(image: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "h2 w2 3"]:
    if image.shape[:2] == size:
        return image
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None]  # channels last in memory: the vectorised 8-bit kernel
    return F.interpolate(pixels, size=size, mode="bilinear", align_corners=True)[0].permute(1, 2, 0).numpy()


def _nearest(side: int, scaled: int, start: int, size: int) -> np.ndarray:
    """Source positions of the window's pixels along one axis, in float32 as torch computes them."""
    position = np.arange(start, start + min(scaled, size), dtype=np.float32) * (np.float32(side) / np.float32(scaled))
    return np.minimum(position.astype(np.intp), side - 1)


def mark_invented(transforms: Sequence[Transform]) -> None:
    """Let geometric transforms, nested ones too, fill the mask with PADDING, in place.

    albumentations fills it with 0, which is a class here. ``None`` stays: such transforms cover a part of the image, of
    which the mask keeps the label.
    """
    for transform in transforms:
        if isinstance(transform, A.BaseCompose):
            mark_invented(transform.transforms)
        elif getattr(transform, "fill_mask", None) == 0:
            transform.fill_mask = PADDING


class Normalize:
    """8-bit RGB to float channels: ``(x / 255 - mean) / std``, from a table of the 256 values of each channel."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        levels = np.arange(256)[:, None] / 255
        self.table = ((levels - np.asarray(mean)) / np.asarray(std)).astype(np.float32).T.copy()

    def __call__(self, image: UInt8[np.ndarray, "h w 3"]) -> Float32[np.ndarray, "3 h w"]:
        """Normalise one image."""
        out = np.empty((3, *image.shape[:2]), np.float32)
        for channel, plane in enumerate(cv2.split(image)):
            cv2.LUT(plane, self.table[channel], dst=out[channel])
        return out


class TrainTransform:
    """Scale, pad, crop, flip, extras, normalise; padding ends as exact 0 in the image and 255 in the mask.

    Every draw comes from one generator per call that ``seed`` starts: the result is a function of image and seed
    only, in any process. (Compose.set_random_seed would start *each* transform with the same seed and so couple
    their draws, a flip to a scale.)

    Arguments:
        crop_size: side of the crop in pixels.
        scales: factors to draw from.
        flip: probability of a horizontal flip.
        extra_transforms: built albumentations transforms, applied to the 8-bit crop after the flip. Pixels that
            they invent count as padding, unless ``fill_mask`` names a class above 0; see :func:`mark_invented`.
        mean, std: of the normalised input, in units of 0..1, RGB.
    """

    def __init__(
        self,
        *,
        crop_size: int,
        scales: Sequence[float],
        flip: float,
        mean: Sequence[float],
        std: Sequence[float],
        extra_transforms: Sequence[Transform] = (),
    ):
        red, green, blue = (round(255 * value) for value in mean)
        mark_invented(extra_transforms)
        steps = [ScaleCrop(crop_size, tuple(scales), (red, green, blue)), A.HorizontalFlip(p=flip), *extra_transforms]
        self.compose = A.Compose(steps, is_check_shapes=False)
        self.normalize = Normalize(mean, std)

    def __call__(
        self, image: UInt8[np.ndarray, "h w 3"], mask: UInt8[np.ndarray, "h w"], seed: int
    ) -> tuple[Float32[Tensor, "3 s s"], Int64[Tensor, "s s"]]:
        """Augment one image and its mask."""
        self.compose.set_random_state(np.random.default_rng(seed), random.Random(seed))
        out = self.compose(image=image, mask=mask)
        pixels, labels = self.normalize(out["image"]), out["mask"]
        padded = labels == PADDING
        if padded.any():
            np.copyto(pixels, 0, where=padded)
            labels = np.where(padded, np.uint8(IGNORE), labels)
        return torch.from_numpy(pixels), torch.from_numpy(labels).long()


class EvalTransform:
    """Normalise the whole image at its own size; nothing is resized or padded (inference pads to the stride)."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        self.normalize = Normalize(mean, std)

    def __call__(self, image: UInt8[np.ndarray, "h w 3"]) -> Float32[Tensor, "3 h w"]:
        """Normalise one image."""
        return torch.from_numpy(self.normalize(image))


def blurred(image: UInt8[np.ndarray, "h w 3"], sigma: float) -> UInt8[np.ndarray, "h w 3"]:
    """The image under a Gaussian of ``sigma`` pixels, cut off at 3.5 of them."""
    return A.GaussianBlur(sigma_limit=(sigma, sigma), blur_limit=0, p=1)(image=image)["image"]


def relit(
    image: UInt8[np.ndarray, "h w 3"], *, brightness: float = 1.0, contrast: float = 1.0
) -> UInt8[np.ndarray, "h w 3"]:
    """Grey levels times ``brightness``, or their distances from the image's mean grey times ``contrast``."""
    factors = {"brightness": (brightness,) * 2, "contrast": (contrast,) * 2, "saturation": (1.0, 1.0)}
    return A.ColorJitter(**factors, hue=(0.0, 0.0), p=1)(image=image)["image"]
