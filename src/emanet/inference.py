"""Inference as the authors test: the whole image, padded to a size that the stride fits, logits cropped back."""

from typing import Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def pad_to_stride(image: Float[Tensor, "b 3 h w"], stride: int) -> Float[Tensor, "b 3 H W"]:
    """Pad right and bottom with 0 (the mean colour) to the next size that is 1 modulo ``stride``: 375 -> 377 at 8.

    At such sizes the corners of the image and of its features coincide (FACTS section 3).
    """
    height, width = image.shape[-2:]
    return F.pad(image, (0, (1 - width) % stride, 0, (1 - height) % stride))


class SegmentationNet(Protocol):
    """What inference needs of a network."""

    @property
    def output_stride(self) -> int:
        """Input pixels per feature."""

    def __call__(self, image: Tensor, /) -> Tensor:
        """Logits at the size of the image."""


@torch.no_grad()
def predict_logits(net: SegmentationNet, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b classes h w"]:
    """Logits of whole images at their own size, never resized; images of one size only, since padding enters the EM."""
    height, width = image.shape[-2:]
    return net(pad_to_stride(image, net.output_stride))[..., :height, :width]
