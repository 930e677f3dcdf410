"""Augmentation and normalization: the paper's recipe, any transforms of albumentations after it, and padding.

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
from jaxtyping import Float32, UInt8
from torch import Tensor

from emanet.data.crop import ScaleCrop
from emanet.data.reading import IGNORE

Transform: TypeAlias = A.BasicTransform | A.BaseCompose
"""Anything that can stand in ``extra_transforms``."""

PADDING = 254
"""Mask value of padded pixels until the end of the pipeline, where they become exactly 0 in the image, 255 in the mask.

It travels through any transform with the mask, so a flip or a rotation of the padding needs no bookkeeping.
"""


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
        """Normalize one image."""
        out = np.empty((3, *image.shape[:2]), np.float32)
        for channel, plane in enumerate(cv2.split(image)):
            cv2.LUT(plane, self.table[channel], dst=out[channel])
        return out


class TrainTransform:
    """Scale, crop, flip, pad, extras: an 8-bit crop and its mask, which :class:`Finish` normalizes.

    Every draw comes from one generator per call that ``seed`` starts: the result is a function of image and seed
    only, in any process. (Compose.set_random_seed would start *each* transform with the same seed and so couple
    their draws.)

    Args:
        crop_size: side of the crop in pixels.
        scales: factors to draw from.
        flip: probability of a horizontal flip.
        mean: of the normalized input, in units of 0..1, RGB; the color of the padding that extra transforms see.
        extra_transforms: built albumentations transforms, applied to the 8-bit crop after the flip. Pixels that
            they invent count as padding, unless ``fill_mask`` names a class above 0; see :func:`mark_invented`.
    """

    def __init__(
        self,
        *,
        crop_size: int,
        scales: Sequence[float],
        flip: float,
        mean: Sequence[float],
        extra_transforms: Sequence[Transform] = (),
    ):
        mark_invented(extra_transforms)
        self.crop, self.fill = ScaleCrop(crop_size, scales, flip), tuple(round(255 * value) for value in mean)
        self.extras = A.Compose([*extra_transforms], is_check_shapes=False)

    def __call__(
        self, image: UInt8[np.ndarray, "h w 3"], mask: UInt8[np.ndarray, "h w"], seed: int
    ) -> tuple[UInt8[Tensor, "s s 3"], UInt8[Tensor, "s s"]]:
        """Augment one image and its mask, in which PADDING marks the padding."""
        rng = random.Random(seed)
        window = self.crop.draw(image.shape, rng)
        h, w = (min(side, self.crop.size) for side in window.scaled)
        bottom, side = self.crop.size - h, self.crop.size - w
        border = (0, bottom, side, 0) if window.flip else (0, bottom, 0, side)  # mirrored, as the image is
        out = {
            "image": cv2.copyMakeBorder(self.crop.pixels(image, window), *border, cv2.BORDER_CONSTANT, value=self.fill),
            "mask": cv2.copyMakeBorder(self.crop.labels(mask, window), *border, cv2.BORDER_CONSTANT, value=PADDING),
        }
        if self.extras.transforms:
            self.extras.set_random_state(np.random.default_rng(seed), rng)
            out = self.extras(force_apply=True, **out)  # forced: it draws nothing for itself
        return torch.from_numpy(out["image"]), torch.from_numpy(out["mask"])


class Finish:
    """8-bit crops to the network's input: normalized, padding exactly 0 in the image and 255 in the mask.

    On the way to the device that does this a pixel takes 4 bytes instead of 20.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        self.table = torch.from_numpy(Normalize(mean, std).table)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Finish ``image`` (b,h,w,3) and ``mask`` (b,h,w) of bytes; a batch of floats is returned as it is."""
        pixels, labels = batch["image"], batch.get("mask")
        if pixels.dtype != torch.uint8 or labels is None:
            return batch
        self.table = self.table.to(pixels.device)
        channels = zip(self.table, pixels.unbind(-1), strict=True)
        image = torch.stack([levels[channel.int()] for levels, channel in channels], dim=1)
        padded = labels == PADDING
        image.masked_fill_(padded[:, None], 0)
        return batch | {"image": image, "mask": labels.long().masked_fill_(padded, IGNORE)}


def blurred(image: UInt8[np.ndarray, "h w 3"], sigma: float) -> UInt8[np.ndarray, "h w 3"]:
    """The image under a Gaussian of ``sigma`` pixels, cut off at 3.5 of them."""
    return A.GaussianBlur(sigma_limit=(sigma, sigma), blur_limit=0, p=1)(image=image)["image"]


def relit(
    image: UInt8[np.ndarray, "h w 3"], *, brightness: float = 1.0, contrast: float = 1.0
) -> UInt8[np.ndarray, "h w 3"]:
    """Gray levels times ``brightness``, or their distances from the image's mean gray times ``contrast``."""
    factors = {"brightness": (brightness,) * 2, "contrast": (contrast,) * 2, "saturation": (1.0, 1.0)}
    return A.ColorJitter(**factors, hue=(0.0, 0.0), p=1)(image=image)["image"]
