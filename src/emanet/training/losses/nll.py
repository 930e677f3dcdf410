"""The segmentation loss: per-pixel negative log-likelihood with an ignore label, averaged in one of two ways."""

from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from emanet.training.losses.upsampled import Upsample, pick, upsampled_cross_entropy, upsampled_losses

Reduction = Literal["all_pixels", "valid_pixels"]


class LossTerms(NamedTuple):
    """A loss as numerator and denominator, so that batches of any size can be averaged exactly."""

    total: Float[Tensor, ""]  #: sum of the pixels' losses (differentiable)
    denominator: Float[Tensor, ""]  #: what the sum is divided by


def loss_terms(
    logits: Float[Tensor, "b classes h w"],
    mask: Int[Tensor, "b h w"],
    *,
    reduction: Reduction = "all_pixels",
    ignore_index: int = 255,
    class_weights: Float[Tensor, " classes"] | None = None,
    ohem_threshold: float | None = None,
    ohem_min_kept: int = 100_000,
) -> LossTerms:
    """Sum of the pixel losses and the number to divide it by.

    Args:
        logits: scores at the size of the mask.
        mask: true classes, ``ignore_index`` where there is none.
        reduction: ``all_pixels`` divides by the number of all pixels, ignored and padded ones included, as the
            authors' code does (it changes the effective learning rate, FACTS section 1); ``valid_pixels`` divides by
            the (weighted) number of labeled pixels, as PyTorch's mean does.
        ignore_index: label without loss.
        class_weights: weight of each class, or ``None`` for 1.
        ohem_threshold: online hard example mining: keep only pixels whose true class has a probability below this,
            but at least ``ohem_min_kept`` of them; the sum is then divided by the number kept. ``None``: keep all.
        ohem_min_kept: least number of pixels that mining keeps in a batch.
    """
    if ohem_threshold is None:
        total = summed_loss(logits, mask, class_weights, ignore_index)
        return LossTerms(total, denominator(mask, reduction, ignore_index, class_weights, total.dtype))
    losses = F.cross_entropy(logits, mask, weight=class_weights, ignore_index=ignore_index, reduction="none")
    keep = hard_pixels(logits, mask, ignore_index=ignore_index, threshold=ohem_threshold, min_kept=ohem_min_kept)
    return LossTerms(losses.masked_fill(~keep, 0).sum(), keep.sum().to(losses.dtype))


def upsampled_loss_terms(
    logits_low: Float[Tensor, "b classes h w"],
    mask: Int[Tensor, "b height width"],
    *,
    align_corners: bool,
    upsample: Upsample = "auto",
    reduction: Reduction = "all_pixels",
    ignore_index: int = 255,
    class_weights: Float[Tensor, " classes"] | None = None,
    ohem_threshold: float | None = None,
    ohem_min_kept: int = 100_000,
) -> LossTerms:
    """:func:`loss_terms` of the bilinearly upsampled logits.

    Args:
        logits_low: scores at the resolution of the features.
        mask: true classes at the size of the image.
        align_corners: of the interpolation.
        upsample: ``full`` interpolates first and keeps logits of the mask's size; ``blocks`` never holds
            them and differs in rounding alone; ``auto``: see :func:`emanet.training.losses.upsampled.pick`.
        reduction, ignore_index, class_weights, ohem_threshold, ohem_min_kept: see :func:`loss_terms`.
    """
    method = pick(upsample, logits_low, mask)
    if method == "full":
        logits = F.interpolate(logits_low, size=mask.shape[-2:], mode="bilinear", align_corners=align_corners)
        return loss_terms(
            logits,
            mask,
            reduction=reduction,
            ignore_index=ignore_index,
            class_weights=class_weights,
            ohem_threshold=ohem_threshold,
            ohem_min_kept=ohem_min_kept,
        )
    options: dict[str, Any] = {"align_corners": align_corners, "ignore_index": ignore_index}
    if ohem_threshold is None:
        total = upsampled_cross_entropy(logits_low, mask, class_weights=class_weights, **options)
        return LossTerms(total, denominator(mask, reduction, ignore_index, class_weights, total.dtype))
    p_true = upsampled_losses(logits_low, mask, **options).neg_().exp_()
    keep = hardest(p_true, mask != ignore_index, threshold=ohem_threshold, min_kept=ohem_min_kept)
    kept = mask.masked_fill(~keep, ignore_index)
    total = upsampled_cross_entropy(logits_low, kept, class_weights=class_weights, **options)
    return LossTerms(total, keep.sum().to(total.dtype))


def denominator(
    mask: Tensor, reduction: Reduction, ignore_index: int, class_weights: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """What the sum of the losses is divided by, see :func:`loss_terms`."""
    if reduction == "all_pixels":
        return torch.full((), mask.numel(), dtype=dtype, device=mask.device)  # made there: a copy would wait
    valid = mask != ignore_index
    if class_weights is None:
        return valid.sum().to(dtype)
    return class_weights[mask.where(valid, 0)].masked_fill(~valid, 0).sum().to(dtype)  # mask[valid] would wait


def summed_loss(logits: Tensor, mask: Tensor, class_weights: Tensor | None, ignore_index: int) -> Tensor:
    """Sum of the pixel losses; in two steps in deterministic mode, which refuses CUDA's own sum as it is atomic."""
    reduction = "none" if torch.are_deterministic_algorithms_enabled() else "sum"
    return F.cross_entropy(logits, mask, weight=class_weights, ignore_index=ignore_index, reduction=reduction).sum()


@torch.no_grad()
def hard_pixels(
    logits: Float[Tensor, "b classes h w"],
    mask: Int[Tensor, "b h w"],
    *,
    ignore_index: int,
    threshold: float,
    min_kept: int,
) -> Tensor:
    """Boolean (b, h, w): labeled pixels whose true class is given a probability below the threshold.

    Where fewer than ``min_kept`` are that hard, the threshold rises to the probability of the ``min_kept``-th hardest.
    """
    valid = mask != ignore_index
    truth = torch.where(valid, mask, 0).unsqueeze(1)
    p_true = logits.float().log_softmax(1).gather(1, truth).squeeze(1).exp()
    return hardest(p_true, valid, threshold=threshold, min_kept=min_kept)


def hardest(p_true: Tensor, valid: Tensor, *, threshold: float, min_kept: int) -> Tensor:
    """Those of the valid pixels that are hard, by the probability of their true class."""
    p_true = p_true.masked_fill(~valid, torch.inf)
    kth = p_true.flatten().kthvalue(max(1, min(min_kept, p_true.numel()))).values
    return valid & (p_true <= torch.clamp(kth, min=threshold))


def segmentation_loss(
    logits: Float[Tensor, "b classes h w"],
    mask: Int[Tensor, "b h w"],
    *,
    reduction: Reduction = "all_pixels",
    ignore_index: int = 255,
    class_weights: Float[Tensor, " classes"] | None = None,
    ohem_threshold: float | None = None,
    ohem_min_kept: int = 100_000,
) -> Float[Tensor, ""]:
    """Mean pixel loss; arguments as in :func:`loss_terms`. A batch without any labeled pixel has loss 0, not NaN."""
    terms = loss_terms(
        logits,
        mask,
        reduction=reduction,
        ignore_index=ignore_index,
        class_weights=class_weights,
        ohem_threshold=ohem_threshold,
        ohem_min_kept=ohem_min_kept,
    )
    return terms.total / terms.denominator.clamp(min=torch.finfo(terms.denominator.dtype).tiny)
