"""Cases for the loss of upsampled logits."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Case(NamedTuple):
    """One problem: sizes of logits and mask, and what is special about it."""

    classes: int
    low: tuple[int, int]
    size: tuple[int, int]
    align_corners: bool = True
    b: int = 2
    weighted: bool = False
    ignored: float = 0.3
    dtype: torch.dtype = torch.float32
    channels_last: bool = False
    scale: float = 3.0  # of the logits


CASES = {
    "aligned": Case(3, (2, 3), (9, 17)),
    "half pixels": Case(3, (2, 3), (8, 13), align_corners=False),
    "no whole stride, weights": Case(3, (3, 4), (8, 11), weighted=True),
    "half pixels, weights, channels last": Case(
        4, (3, 2), (7, 9), align_corners=False, weighted=True, channels_last=True
    ),
    "more classes than a block": Case(18, (2, 2), (5, 5), b=1),
    "wider than a block": Case(2, (1, 34), (2, 133), b=1),
    "an image at a time": Case(3, (2, 2), (5, 5), b=3),
    "smaller than the logits": Case(2, (7, 6), (3, 4), b=1, align_corners=False),
    "same size": Case(2, (4, 5), (4, 5), b=1),
    "one position": Case(2, (1, 1), (4, 5), b=1),
    "all ignored": Case(2, (2, 2), (5, 5), b=1, ignored=1.0),
    "one class": Case(1, (2, 2), (5, 5), b=1),
    "large logits": Case(3, (2, 2), (5, 5), b=1, scale=1e4),
    "float16": Case(3, (2, 3), (9, 9), dtype=torch.float16),
    "bfloat16": Case(3, (2, 3), (9, 9), align_corners=False, dtype=torch.bfloat16),
}


def inputs(case: Case) -> tuple[Tensor, Tensor, Tensor | None]:
    """Logits, mask and class weights of a case, drawn from its own seed."""
    draw = torch.Generator().manual_seed(case.classes * 100 + case.size[1])
    low = torch.randn(case.b, case.classes, *case.low, generator=draw) * case.scale
    mask = torch.randint(0, case.classes, (case.b, *case.size), generator=draw)
    mask[torch.rand(mask.shape, generator=draw) < case.ignored] = 255
    weights = torch.rand(case.classes, generator=draw) + 0.5 if case.weighted else None
    layout = torch.channels_last if case.channels_last else torch.contiguous_format
    return low.to(case.dtype).contiguous(memory_format=layout), mask, weights


def reference(
    low: Tensor, mask: Tensor, weights: Tensor | None, align_corners: bool, dtype: torch.dtype = torch.float64
) -> dict[str, Tensor]:
    """Loss of each pixel, their sum and its gradient, by interpolating first."""
    leaf = low.detach().to(dtype).requires_grad_()
    logits = F.interpolate(leaf, size=mask.shape[-2:], mode="bilinear", align_corners=align_corners)
    weight = None if weights is None else weights.to(dtype)
    losses = F.cross_entropy(logits, mask, weight=weight, ignore_index=255, reduction="none")
    (gradient,) = torch.autograd.grad(losses.sum(), leaf)
    return {"losses": losses.detach(), "total": losses.sum().detach(), "gradient": gradient}


def run(case: Case) -> dict[str, Tensor]:
    """The same, without interpolating first."""
    from emanet.training.losses.upsampled import upsampled_cross_entropy, upsampled_losses

    low, mask, weights = inputs(case)
    leaf = low.requires_grad_()
    options = {"align_corners": case.align_corners, "class_weights": weights}
    total = upsampled_cross_entropy(leaf, mask, **options)
    (gradient,) = torch.autograd.grad(total, leaf)
    losses = upsampled_losses(leaf, mask, **options)
    return {"losses": losses, "total": total.detach(), "gradient": gradient}
