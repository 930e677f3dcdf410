"""Cross-entropy of bilinearly upsampled logits, without the upsampled logits.

The loss of a pixel, and its gradient softmax - truth, need the pixel's own logits alone. So both are computed in blocks
of rows, and what is kept is the loss of each pixel and the gradient at the low resolution, through the transposed
interpolation. Sums run in a fixed order: a run repeats to the last bit.

The reference is ``F.cross_entropy(F.interpolate(logits_low, mode="bilinear", align_corners=...), mask)``. Positions and
weights are rounded as PyTorch rounds them; half precision is computed in float32 throughout, where PyTorch may round
the upsampled logits and their gradient.
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd import forward_ad

from emanet.training.losses.blocks import computing_type, in_blocks

Upsample = Literal["auto", "full", "blocks"]  # what is asked for; ``full`` interpolates first
#: Logits that PyTorch's own functions take as fast on a CPU: memory beyond 32 MiB is mapped afresh each time.
SMALL = 2**23


def upsampled_cross_entropy(
    logits_low: Float[Tensor, "b classes h w"],
    mask: Int[Tensor, "b height width"],
    *,
    align_corners: bool,
    ignore_index: int = 255,
    class_weights: Float[Tensor, " classes"] | None = None,
) -> Float[Tensor, ""]:
    """Sum of the pixels' losses at the size of the mask, with the gradient found along the way.

    Args:
        logits_low: scores at the resolution of the features.
        mask: true classes, ``ignore_index`` where there is none.
        align_corners: of the bilinear interpolation, as in ``F.interpolate``.
        ignore_index: label without loss.
        class_weights: weight of each class's loss, or ``None`` for 1.

    Raises:
        RuntimeError: for a label out of range.
    """
    arguments = (logits_low, mask, class_weights, align_corners, ignore_index)
    if forward_ad.unpack_dual(logits_low).tangent is not None:
        return written_out(*arguments)
    if logits_low.requires_grad and torch.is_grad_enabled():
        return Blocks.apply(*arguments)
    return in_blocks(*arguments, with_gradient=False)[0].sum()


def written_out(
    logits_low: Tensor, mask: Tensor, weights: Tensor | None, align_corners: bool, ignore_index: int
) -> Tensor:
    """The same sum through the upsampled logits, which can be differentiated in any way."""
    low = logits_low.to(computing_type(logits_low))
    logits = F.interpolate(low, size=mask.shape[-2:], mode="bilinear", align_corners=align_corners)
    return F.cross_entropy(logits, mask, weights, ignore_index=ignore_index, reduction="sum")


class Blocks(torch.autograd.Function):
    """The sum of the losses, whose gradient is found along the way; its own gradient, if asked for, is written out."""

    @staticmethod
    def forward(
        ctx: Any, logits_low: Tensor, mask: Tensor, weights: Tensor | None, align_corners: bool, ignore_index: int
    ) -> Tensor:
        """Sum the losses; keep the gradient."""
        losses, gradient = in_blocks(logits_low, mask, weights, align_corners, ignore_index, with_gradient=True)
        ctx.save_for_backward(gradient, logits_low, mask, weights)
        ctx.options = align_corners, ignore_index
        return losses.sum()

    @staticmethod
    def backward(ctx: Any, grad_total: Tensor) -> tuple[Tensor | None, ...]:
        """Scale the gradient by that of the sum."""
        gradient, low, *truth = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True
            (gradient,) = torch.autograd.grad(written_out(low, *truth, *ctx.options), low, create_graph=True)
        # In float32 at least: a float16 scale comes before the rounding.
        return (gradient * grad_total).to(low.dtype), None, None, None, None


@torch.no_grad()
def upsampled_losses(
    logits_low: Float[Tensor, "b classes h w"],
    mask: Int[Tensor, "b height width"],
    *,
    align_corners: bool,
    ignore_index: int = 255,
    class_weights: Float[Tensor, " classes"] | None = None,
) -> Float[Tensor, "b height width"]:
    """Loss of each pixel, 0 where it is ignored, without gradient; arguments as in :func:`upsampled_cross_entropy`."""
    return in_blocks(logits_low, mask, class_weights, align_corners, ignore_index, with_gradient=False)[0]


def pick(upsample: Upsample, logits_low: Tensor, mask: Tensor) -> Literal["full", "blocks"]:
    """What computes the loss of these logits.

    ``auto`` is the fastest that was measured: on a CPU blocks, or ``full`` for few logits; elsewhere ``full``.
    """
    if upsample != "auto":
        return upsample
    many = logits_low.shape[1] * mask.numel() > SMALL
    return "blocks" if many and logits_low.device.type == "cpu" else "full"
