"""What a loss gives, losses from elsewhere, and sums of losses.

A loss is ``loss(logits_low, mask, align_corners=...) -> LossTerms``. Training sums numerators and denominators over all
devices and accumulated batches of an optimizer step, and divides once: so a sum over pixels gives the gradient of one
batch made of all images, however they are spread.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn


class LossTerms(NamedTuple):
    """A loss as numerator and denominator, so that batches of any size can be averaged exactly."""

    total: Float[Tensor, ""]  #: sum of the pixels' losses (differentiable)
    denominator: Float[Tensor, ""]  #: what the sum is divided by

    def mean(self) -> Float[Tensor, ""]:
        """The batch's own mean; 0 where the denominator is."""
        return self.total / self.denominator.clamp(min=torch.finfo(self.denominator.dtype).tiny)


def upsampled(
    logits_low: Float[Tensor, "b classes h w"], mask: Int[Tensor, "b height width"], align_corners: bool
) -> Float[Tensor, "b classes height width"]:
    """Logits at the size of the mask."""
    return F.interpolate(logits_low, size=mask.shape[-2:], mode="bilinear", align_corners=align_corners)


class BatchLoss(nn.Module):
    """A loss that is a number for a batch and no sum over pixels: Dice, Lovasz, any of a library.

    Such a loss cannot be put together from parts. Over several devices and accumulated batches its value and gradient
    are the mean over the parts, weighted by their pixels, and not the loss of all images together.

    Args:
        loss: ``loss(logits, mask) -> number`` with logits (b, classes, height, width) at the size of the mask.
    """

    def __init__(self, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.loss = loss

    def forward(
        self,
        logits_low: Float[Tensor, "b classes h w"],
        mask: Int[Tensor, "b height width"],
        *,
        align_corners: bool = True,
    ) -> LossTerms:
        """The number, times the pixels of the batch."""
        value = self.loss(upsampled(logits_low, mask, align_corners).float(), mask)
        pixels = value.new_full((), mask.numel())
        return LossTerms(value * pixels, pixels)


class WeightedSum(nn.Module):
    """Several losses at once.

    The denominator is the first loss's. Every other one enters with its own mean over a device's batch, times its
    weight: exact for losses whose denominators are all the number of pixels (``all_pixels``), and the mean over the
    parts, weighted by the first one's denominators, for any other.

    Args:
        weights: of each loss, by its name.
        losses: the losses by name.

    Raises:
        ValueError: where the names are not the same, or a weight is negative.
    """

    def __init__(self, weights: Mapping[str, float], **losses: Callable[..., LossTerms]) -> None:
        super().__init__()
        if not losses or weights.keys() != losses.keys():
            raise ValueError(
                f"weights must name each loss, got weights for {', '.join(weights) or 'none'} and the losses "
                f"{', '.join(losses) or 'none'}"
            )
        if any(weight < 0 for weight in weights.values()):
            raise ValueError(f"weights must be 0 or more, got {dict(weights)}")
        self.weights = dict(weights)
        self.losses = nn.ModuleDict(losses)  # type: ignore[arg-type]

    def forward(
        self,
        logits_low: Float[Tensor, "b classes h w"],
        mask: Int[Tensor, "b height width"],
        *,
        align_corners: bool = True,
    ) -> LossTerms:
        """The weighted sum."""
        found = {name: loss(logits_low, mask, align_corners=align_corners) for name, loss in self.losses.items()}
        denominator = next(iter(found.values())).denominator
        parts = [self.weights[name] * terms.mean() * denominator for name, terms in found.items()]
        return LossTerms(torch.stack(parts).sum(), denominator)
