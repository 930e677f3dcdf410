"""Augmentation and normalization: the paper's recipe as a step of albumentations, and any others after it.

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
from albumentations.core.type_definitions import Targets
from jaxtyping import Float32, Int64, UInt8
from torch import Tensor

from emanet.data.crop import ScaleCrop, Window
from emanet.data.reading import IGNORE

Transform: TypeAlias = A.BasicTransform | A.BaseCompose
"""Anything that can stand in ``extra_transforms``."""

PADDING = 254
"""Mask value of padded pixels until the end of the pipeline, where they become exactly 0 in the image, 255 in the mask.

It travels through any transform with the mask, so a flip or a rotation of the padding needs no bookkeeping.
"""


class RecipeCrop(A.DualTransform):
    """:class:`emanet.data.crop.ScaleCrop` as a transform of albumentations; pads to the whole square.

    Args:
        size, scales, flip: see there.
        fill: color of the padding while the image has 8 bits; in the mask it is PADDING.
        p: part of albumentations' interface; leave it at 1, crops of a batch must have one size.
    """

    _targets = (Targets.IMAGE, Targets.MASK)

    class InitSchema(A.DualTransform.InitSchema):
        """Argument types, as albumentations wants them."""

        size: int
        scales: tuple[float, ...]
        flip: float
        fill: tuple[int, int, int]

    def __init__(
        self,
        size: int,
        scales: tuple[float, ...],
        flip: float = 0.5,
        fill: tuple[int, int, int] = (124, 116, 104),
        p: float = 1.0,
    ):
        super().__init__(p=p)
        self.size, self.scales, self.flip, self.fill = size, scales, flip, fill
        self.crop = ScaleCrop(size, scales, flip)

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        """Draw the window."""
        return {"window": self.crop.draw(params["shape"], self.py_random)}

    def apply(self, img: np.ndarray, window: Window, **params: Any) -> np.ndarray:
        """Scale, crop, flip and pad the image."""
        return self._padded(self.crop.pixels(img, window), window, self.fill)

    def apply_to_mask(self, mask: np.ndarray, window: Window, **params: Any) -> np.ndarray:
        """Scale, crop, flip and pad the mask."""
        return self._padded(self.crop.labels(mask, window), window, PADDING)

    def get_transform_init_args_names(self) -> tuple[str, ...]:
        """Names of the constructor's arguments, for albumentations' repr."""
        return ("size", "scales", "flip", "fill")

    def _padded(self, array: np.ndarray, window: Window, value: Any) -> np.ndarray:
        """Pad at the bottom and at the right, which a flip has made the left."""
        bottom, side = (self.size - length for length in array.shape[:2])
        if bottom == side == 0:
            return array
        left, right = (side, 0) if window.flip else (0, side)
        return cv2.copyMakeBorder(array, 0, bottom, left, right, cv2.BORDER_CONSTANT, value=value)


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

    def __call__(
        self, image: UInt8[np.ndarray, "h w 3"], out: Float32[np.ndarray, "3 h w"] | None = None
    ) -> Float32[np.ndarray, "3 h w"]:
        """Normalize one image, into ``out`` if given: any part of an array whose rows are contiguous."""
        if out is None:
            out = np.empty((3, *image.shape[:2]), np.float32)
        for channel, plane in enumerate(cv2.split(image)):
            cv2.LUT(plane, self.table[channel], dst=out[channel])
        return out


class TrainTransform:
    """Scale, crop, flip, pad, extras, normalize; padding ends as exact 0 in the image and 255 in the mask.

    Every draw comes from one generator per call that ``seed`` starts: the result is a function of image and seed
    only, in any process. (Compose.set_random_seed would start *each* transform with the same seed and so couple
    their draws.)

    Args:
        crop_size: side of the crop in pixels.
        scales: factors to draw from.
        flip: probability of a horizontal flip.
        extra_transforms: built albumentations transforms, applied to the 8-bit crop after the flip. Pixels that
            they invent count as padding, unless ``fill_mask`` names a class above 0; see :func:`mark_invented`.
        mean, std: of the normalized input, in units of 0..1, RGB.
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
        crop = RecipeCrop(crop_size, tuple(scales), flip, (red, green, blue))
        self.compose = A.Compose([crop, *extra_transforms], is_check_shapes=False)
        self.normalize = Normalize(mean, std)

    def __call__(
        self, image: UInt8[np.ndarray, "h w 3"], mask: UInt8[np.ndarray, "h w"], seed: int
    ) -> tuple[Float32[Tensor, "3 s s"], Int64[Tensor, "s s"]]:
        """Augment one image and its mask."""
        crop, labels = self._augmented(image, mask, seed)
        pixels, padded = self.normalize(crop), labels == PADDING
        if padded.any():
            np.copyto(pixels, 0, where=padded)
            labels = np.where(padded, np.uint8(IGNORE), labels)
        return torch.from_numpy(pixels), torch.from_numpy(labels).long()

    def unfinished(
        self, image: UInt8[np.ndarray, "h w 3"], mask: UInt8[np.ndarray, "h w"], seed: int
    ) -> tuple[UInt8[Tensor, "s s 3"], UInt8[Tensor, "s s"]]:
        """Augment alone: the same crop, of which :class:`emanet.data.finish.Finish` makes the same numbers."""
        pixels, labels = self._augmented(image, mask, seed)
        return torch.from_numpy(pixels), torch.from_numpy(labels)

    def _augmented(
        self, image: UInt8[np.ndarray, "h w 3"], mask: UInt8[np.ndarray, "h w"], seed: int
    ) -> tuple[UInt8[np.ndarray, "s s 3"], UInt8[np.ndarray, "s s"]]:
        """The whole crop, its padding marked in the mask."""
        self.compose.set_random_state(np.random.default_rng(seed), random.Random(seed))
        out = self.compose(force_apply=True, image=image, mask=mask)  # forced: it draws nothing for itself
        return out["image"], out["mask"]


class EvalTransform:
    """Normalize the whole image at its own size; nothing is resized or padded (inference pads to the stride)."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        self.normalize = Normalize(mean, std)

    def __call__(self, image: UInt8[np.ndarray, "h w 3"]) -> Float32[Tensor, "3 h w"]:
        """Normalize one image."""
        return torch.from_numpy(self.normalize(image))


def blurred(image: UInt8[np.ndarray, "h w 3"], sigma: float) -> UInt8[np.ndarray, "h w 3"]:
    """The image under a Gaussian of ``sigma`` pixels, cut off at 3.5 of them."""
    return A.GaussianBlur(sigma_limit=(sigma, sigma), blur_limit=0, p=1)(image=image)["image"]


def relit(
    image: UInt8[np.ndarray, "h w 3"], *, brightness: float = 1.0, contrast: float = 1.0
) -> UInt8[np.ndarray, "h w 3"]:
    """Gray levels times ``brightness``, or their distances from the image's mean gray times ``contrast``."""
    factors = {"brightness": (brightness,) * 2, "contrast": (contrast,) * 2, "saturation": (1.0, 1.0)}
    return A.ColorJitter(**factors, hue=(0.0, 0.0), p=1)(image=image)["image"]
