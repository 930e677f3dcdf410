"""Corruptions of an 8-bit image, by how much it takes of each: noise, blur, contrast, brightness.

Each is a function of image, strength, name of the image and seed alone: every network sees the same images.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from emanet.common.errors import ConfigError
from emanet.common.seeding import mix
from emanet.data.transforms import blurred, relit

Pixels = UInt8[np.ndarray, "h w 3"]


@dataclass(frozen=True)
class Kind:
    """A kind of corruption.

    Args:
        unit: of the strength, in words.
        neutral: strength that changes nothing.
        least: smallest strength that makes sense.
        apply: (image, strength, generator) -> image.
    """

    unit: str
    neutral: float
    least: float
    apply: Callable[[Pixels, float, np.random.Generator], Pixels]


def noisy(image: Pixels, sigma: float, generator: np.random.Generator) -> Pixels:
    """Add Gaussian noise of ``sigma`` gray levels to every channel of every pixel, rounded to the nearest level.

    Not albumentations' ``GaussNoise``: it cuts fractions off towards 0, so that its 10 levels are 9.6.
    """
    noise = generator.standard_normal(image.shape, dtype=np.float32)
    return np.clip(np.rint(image + np.float32(sigma) * noise), 0, 255).astype(np.uint8)


KINDS = {
    "noise": Kind("standard deviation in gray levels", 0.0, 0.0, noisy),
    "blur": Kind("standard deviation in pixels", 0.0, 0.0, lambda image, sigma, _: blurred(image, sigma)),
    "contrast": Kind("factor", 1.0, 0.0, lambda image, factor, _: relit(image, contrast=factor)),
    "brightness": Kind("factor", 1.0, 0.0, lambda image, factor, _: relit(image, brightness=factor)),
}


@dataclass(frozen=True)
class Corruption:
    """One kind at one strength: ``corruption(image, name)``.

    Args:
        kind: one of :data:`KINDS`.
        strength: in the unit of the kind; its neutral one gives the image back as it is.
        seed: of what is random; the draws of an image are the same at every strength.

    Raises:
        ConfigError: for another kind, or a strength that makes no sense.
    """

    kind: str
    strength: float
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        if self.kind not in KINDS:
            raise ConfigError(f"corruptions are {', '.join(KINDS)}, got {self.kind!r}")
        least = KINDS[self.kind].least
        if not least <= self.strength < float("inf"):
            raise ConfigError(f"the strength of {self.kind} must be {least:g} or more, got {self.strength}")

    def __call__(self, image: Pixels, name: str) -> Pixels:
        """The corrupted image."""
        kind = KINDS[self.kind]
        if self.strength == kind.neutral:
            return image
        digest = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")
        return kind.apply(image, self.strength, np.random.default_rng(mix(self.seed, digest)))
