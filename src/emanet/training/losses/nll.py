"""The paper's loss: per-pixel negative log-likelihood with an ignore label, averaged in one of two ways."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from emanet.common.checks import at_least_one, one_of, share
from emanet.training.losses.terms import LossTerms, upsampled
from emanet.training.losses.upsampled import Upsample, pick, upsampled_cross_entropy, upsampled_losses

Reduction = Literal["all_pixels", "valid_pixels"]


class NLL(nn.Module):
    """Negative log-likelihood of the true class, summed over the pixels.

    Args:
        reduction: what the sum is divided by. ``all_pixels``: the number of all pixels, ignored and padded ones
            included, as the authors' code does (it changes the effective learning rate, FACTS section 1);
            ``valid_pixels``: the (weighted) number of labeled pixels, as PyTorch's mean does.
        class_weights: weight of each class, or ``None`` for 1.
        upsample: ``full`` interpolates first and keeps logits of the mask's size; ``blocks`` never holds them and
            differs in rounding alone; ``auto``: see :func:`emanet.training.losses.upsampled.pick`.
        ignore_index: label without loss.
        num_classes: how many weights there must be.

    Raises:
        ValueError: for values out of range, or another number of weights.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        *,
        reduction: str = "all_pixels",
        class_weights: Sequence[float] | None = None,
        upsample: str = "auto",
        ignore_index: int = 255,
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        one_of(Reduction, reduction=reduction)
        one_of(Upsample, upsample=upsample)
        if class_weights is not None and not all(0 <= weight < float("inf") for weight in class_weights):
            raise ValueError(f"class_weights must be numbers of 0 or more, got {list(class_weights)}")
        if class_weights is not None and num_classes is not None and len(class_weights) != num_classes:
            raise ValueError(
                f"class_weights must hold one weight for each of {num_classes} classes, got {len(class_weights)}"
            )
        self.reduction: Any = reduction
        self.upsample: Any = upsample
        self.ignore_index = ignore_index
        weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(
        self,
        logits_low: Float[Tensor, "b classes h w"],
        mask: Int[Tensor, "b height width"],
        *,
        align_corners: bool = True,
    ) -> LossTerms:
        """Loss of the bilinearly upsampled logits."""
        if pick(self.upsample, logits_low, mask) == "full":
            total = self.summed(upsampled(logits_low, mask, align_corners), mask)
        else:
            total = upsampled_cross_entropy(
                logits_low,
                mask,
                align_corners=align_corners,
                ignore_index=self.ignore_index,
                class_weights=self.class_weights,
            )
        return LossTerms(total, self.denominator(mask, total.dtype))

    def summed(self, logits: Float[Tensor, "b classes h w"], mask: Int[Tensor, "b h w"]) -> Tensor:
        """Sum of the pixels' losses; in two steps in deterministic mode, which refuses CUDA's own, atomic sum."""
        reduction = "none" if torch.are_deterministic_algorithms_enabled() else "sum"
        options: Any = {"weight": self.class_weights, "ignore_index": self.ignore_index, "reduction": reduction}
        return F.cross_entropy(logits, mask, **options).sum()

    def denominator(self, mask: Int[Tensor, "b h w"], dtype: torch.dtype) -> Tensor:
        """What the sum of the losses is divided by."""
        if self.reduction == "all_pixels":
            return torch.full((), mask.numel(), dtype=dtype, device=mask.device)  # made there: a copy would wait
        valid = mask != self.ignore_index
        if self.class_weights is None:
            return valid.sum().to(dtype)
        return self.class_weights[mask.where(valid, 0)].masked_fill(~valid, 0).sum().to(dtype)  # mask[valid] would wait


class OHEM(NLL):
    """Online hard example mining: the loss of the hard pixels alone, divided by their number.

    Args:
        threshold: pixels are kept whose true class is given a probability below this.
        min_kept: but at least so many of a device's batch: then the hardest.
        class_weights, upsample, ignore_index, num_classes: see :class:`NLL`.

    Raises:
        ValueError: for values out of range.
    """

    def __init__(
        self,
        *,
        threshold: float = 0.7,
        min_kept: int = 100_000,
        class_weights: Sequence[float] | None = None,
        upsample: str = "auto",
        ignore_index: int = 255,
        num_classes: int | None = None,
    ) -> None:
        super().__init__(
            class_weights=class_weights, upsample=upsample, ignore_index=ignore_index, num_classes=num_classes
        )
        share(threshold=threshold)
        at_least_one(min_kept=min_kept)
        self.threshold, self.min_kept = threshold, min_kept

    def forward(
        self,
        logits_low: Float[Tensor, "b classes h w"],
        mask: Int[Tensor, "b height width"],
        *,
        align_corners: bool = True,
    ) -> LossTerms:
        """Loss of the hard pixels of the bilinearly upsampled logits."""
        keep = self.hard_pixels(logits_low.detach(), mask, align_corners)
        terms = super().forward(logits_low, mask.masked_fill(~keep, self.ignore_index), align_corners=align_corners)
        return LossTerms(terms.total, keep.sum().to(terms.total.dtype))

    @torch.no_grad()
    def hard_pixels(
        self, logits_low: Float[Tensor, "b classes h w"], mask: Int[Tensor, "b height width"], align_corners: bool
    ) -> Tensor:
        """Boolean (b, height, width): labeled pixels whose true class is given a probability below the threshold.

        Where fewer than ``min_kept`` are that hard, the threshold rises to the probability of the ``min_kept``-th.
        """
        valid = mask != self.ignore_index
        if pick(self.upsample, logits_low, mask) == "full":
            logits = upsampled(logits_low, mask, align_corners).float()
            p_true = logits.log_softmax(1).gather(1, mask.where(valid, 0).unsqueeze(1)).squeeze(1).exp()
        else:
            options: dict[str, Any] = {"align_corners": align_corners, "ignore_index": self.ignore_index}
            p_true = upsampled_losses(logits_low, mask, **options).neg_().exp_()
        p_true = p_true.masked_fill(~valid, torch.inf)
        kth = p_true.flatten().kthvalue(max(1, min(self.min_kept, p_true.numel()))).values
        return valid & (p_true <= torch.clamp(kth, min=self.threshold))


def segmentation_loss(
    logits: Float[Tensor, "b classes h w"], mask: Int[Tensor, "b h w"], **options: Any
) -> Float[Tensor, ""]:
    """Mean pixel loss of logits at the size of the mask; 0, not NaN, for a batch without any labeled pixel.

    Args:
        logits: scores of each class.
        mask: true classes, or the ignore label.
        options: see :class:`NLL`.
    """
    return NLL(**options)(logits, mask).mean()
