"""Cross-entropy of bilinearly upsampled logits, without the upsampled logits.

The loss of a pixel, and its gradient softmax - truth, need the pixel's own logits alone. So both are computed in blocks
of rows, and what is kept is the loss of each pixel and the gradient at the low resolution, through the transposed
interpolation. Sums run in a fixed order: a run repeats to the last bit.

The reference is ``F.cross_entropy(F.interpolate(logits_low, mode="bilinear", align_corners=...), mask)``. Positions and
weights are rounded as PyTorch rounds them; half precision is computed in float32 throughout, where PyTorch may round
the upsampled logits and their gradient.
"""

from typing import Any, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

Method = Literal["auto", "triton", "blocks"]
PROVEN_ON_CUDA = False  #: whether ``auto`` takes the Triton kernels: not before they have run on a GPU

BLOCK = 2**19  # logits in a block: 2 MB in float32
SMALL = 2**20  # logits that are interpolated all at once


def upsampled_cross_entropy(
    logits_low: Float[Tensor, "b classes h w"],
    mask: Int[Tensor, "b height width"],
    *,
    align_corners: bool,
    ignore_index: int = 255,
    class_weights: Float[Tensor, " classes"] | None = None,
    method: str = "auto",
) -> Float[Tensor, ""]:
    """Sum of the pixels' losses at the size of the mask, with the gradient found along the way.

    Args:
        logits_low: scores at the resolution of the features.
        mask: true classes, ``ignore_index`` where there is none.
        align_corners: of the bilinear interpolation, as in ``F.interpolate``.
        ignore_index: label without loss.
        class_weights: weight of each class's loss, or ``None`` for 1.
        method: ``triton`` (CUDA, up to float32), ``blocks`` (PyTorch, any device), or ``auto``: blocks, until Triton
            has been proven on a GPU.

    Raises:
        ValueError: for another method, or ``triton`` where it cannot run.
        IndexError, RuntimeError: for a label out of range; with Triton the loss is NaN, as nobody waits there.
    """
    method = pick_method(method, logits_low)
    if method == "blocks" and is_small(logits_low, mask):
        return losses_at_once(logits_low, mask, class_weights, align_corners, ignore_index).sum()
    with_gradient = logits_low.requires_grad and torch.is_grad_enabled()
    return upsampled_loss_op(logits_low, mask, class_weights, align_corners, ignore_index, method, with_gradient)[0]


@torch.no_grad()
def upsampled_losses(
    logits_low: Float[Tensor, "b classes h w"],
    mask: Int[Tensor, "b height width"],
    *,
    align_corners: bool,
    ignore_index: int = 255,
    class_weights: Float[Tensor, " classes"] | None = None,
    method: str = "auto",
) -> Float[Tensor, "b height width"]:
    """Loss of each pixel, 0 where it is ignored, without gradient; arguments as in :func:`upsampled_cross_entropy`."""
    method = pick_method(method, logits_low)
    if method == "blocks" and is_small(logits_low, mask):
        return losses_at_once(logits_low, mask, class_weights, align_corners, ignore_index)
    return upsampled_loss_op(logits_low, mask, class_weights, align_corners, ignore_index, method, False)[1]


def is_small(logits_low: Tensor, mask: Tensor) -> bool:
    """Whether the upsampled logits are so few that further calls would cost more than passes through memory."""
    return logits_low.shape[1] * mask.numel() <= SMALL


def losses_at_once(
    logits_low: Tensor, mask: Tensor, class_weights: Tensor | None, align_corners: bool, ignore_index: int
) -> Tensor:
    """Loss of each pixel by PyTorch's own functions, which keep the upsampled logits: the reference."""
    low = logits_low.to(computing_type(logits_low))
    weights = None if class_weights is None else class_weights.to(low.dtype)
    logits = F.interpolate(low, size=mask.shape[-2:], mode="bilinear", align_corners=align_corners)
    return F.cross_entropy(logits, mask.long(), weight=weights, ignore_index=ignore_index, reduction="none")


def pick_method(name: str, logits: Tensor) -> str:
    """``triton`` or ``blocks`` for a name of :data:`Method`.

    Raises:
        ValueError: for another name, or ``triton`` where it cannot run.
    """
    if name not in get_args(Method):
        raise ValueError(f"the upsampled loss takes one of {', '.join(get_args(Method))}, got {name!r}")
    reason = obstacle(logits) if name == "triton" or logits.is_cuda else "it needs a CUDA device"
    if name == "triton" and reason is not None:
        raise ValueError(f"upsample=triton cannot run here: {reason}; set upsample=auto or upsample=blocks")
    if name == "auto" and not PROVEN_ON_CUDA:
        return "blocks"
    return "blocks" if name == "blocks" or reason is not None else "triton"


def obstacle(logits: Tensor) -> str | None:
    """Why the Triton kernels cannot take these logits; ``None`` where they can."""
    if logits.dtype == torch.float64:
        return "it computes in float32, got float64 logits"
    if launcher() is None:
        return "it needs the package triton, which is not installed"
    if not (logits.is_cuda or launcher().INTERPRETED):
        return f"it needs a CUDA device, got logits on {logits.device.type}"
    return None


_launchers: list[Any] = []  # filled on first use: Triton takes a while to import, and is on Linux alone


def launcher() -> Any:
    """The module that starts the Triton kernels; ``None`` where Triton is not installed."""
    if not _launchers:
        try:
            from emanet.kernels import upsampled_loss_triton
        except ImportError:
            _launchers.append(None)
        else:
            _launchers.append(upsampled_loss_triton)
    return _launchers[0]


# --- the operator: opaque to torch.compile, which would unroll its loops ----------------------------------------------


@torch.library.custom_op("emanet::upsampled_cross_entropy", mutates_args=())
def upsampled_loss_op(
    logits_low: Tensor,
    mask: Tensor,
    class_weights: Tensor | None,
    align_corners: bool,
    ignore_index: int,
    method: str,
    with_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Sum of the losses, loss of each pixel, and the sum's gradient (empty if not asked for)."""
    find = in_blocks if method == "blocks" else launcher().launch
    losses, gradient = find(logits_low, mask, class_weights, align_corners, ignore_index, with_gradient)
    return losses.sum(), losses, gradient


@upsampled_loss_op.register_fake
def _(
    logits_low: Tensor,
    mask: Tensor,
    class_weights: Tensor | None,
    align_corners: bool,
    ignore_index: int,
    method: str,
    with_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    dtype = computing_type(logits_low)
    gradient = logits_low.new_empty(logits_low.shape if with_gradient else (0,), dtype=dtype)
    return logits_low.new_empty((), dtype=dtype), logits_low.new_empty(mask.shape, dtype=dtype), gradient


def keep_gradient(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    """Keep the gradient that the forward pass found."""
    ctx.save_for_backward(output[2])
    ctx.dtype = inputs[0].dtype
    ctx.set_materialize_grads(False)


def loss_backward(ctx: Any, grad_total: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    """Scale the gradient by that of the sum."""
    (gradient,) = ctx.saved_tensors  # in float32 at least: a float16 scale comes before the rounding
    return (None if grad_total is None else (gradient * grad_total).to(ctx.dtype), *[None] * 6)


upsampled_loss_op.register_autograd(loss_backward, setup_context=keep_gradient)


# --- PyTorch in blocks of rows ----------------------------------------------------------------------------------------


class Rows(NamedTuple):
    """Output rows between the same two input rows."""

    start: int
    stop: int
    above: int  #: input row at or above them
    below: int  #: the one below; the same at the border


def in_blocks(
    logits_low: Tensor,
    mask: Tensor,
    class_weights: Tensor | None,
    align_corners: bool,
    ignore_index: int,
    with_gradient: bool,
) -> tuple[Tensor, Tensor]:
    """Loss of each pixel (b, height, width), and the gradient of their sum (empty if not asked for)."""
    dtype = computing_type(logits_low)
    (b, classes, h, _), (height, width) = logits_low.shape, mask.shape[-2:]
    images = max(1, BLOCK * h // (classes * height * width))  # at once: the output rows of one input row of each
    losses = logits_low.new_empty(mask.shape, dtype=dtype)
    gradient = logits_low.new_empty(logits_low.shape if with_gradient else (0,), dtype=dtype)
    weights = None if class_weights is None else class_weights.to(dtype)
    for group in (slice(first, first + images) for first in range(0, b, images)):
        truth = Truth.of(mask[group], weights, ignore_index, dtype)
        low = logits_low[group].contiguous().to(dtype)
        found = by_rows(low, truth, losses[group], align_corners, with_gradient)
        losses[group].neg_().mul_(truth.weights.squeeze(1)).masked_fill_(truth.ignored, 0)  # NaN too
        if found is not None:
            gradient[group] = found
    return losses, gradient


class Truth(NamedTuple):
    """What the masks of some images say."""

    labels: Tensor  #: (b, 1, height, width), 0 where ignored
    weights: Tensor  #: (b, 1, height, width) of the losses, 0 where ignored
    ignored: Tensor  #: (b, height, width)

    @classmethod
    def of(cls, mask: Tensor, class_weights: Tensor | None, ignore_index: int, dtype: torch.dtype) -> "Truth":
        ignored = mask == ignore_index
        labels = mask.masked_fill(ignored, 0)
        weights = (~ignored).to(dtype) if class_weights is None else class_weights[labels].masked_fill_(ignored, 0)
        return cls(labels.unsqueeze(1), weights.unsqueeze(1), ignored)

    def rows(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Labels and weights of some rows."""
        return self.labels[:, :, start:stop], self.weights[:, :, start:stop]


def by_rows(low: Tensor, truth: Truth, log_p_true: Tensor, align_corners: bool, with_gradient: bool) -> Tensor | None:
    """Write the log-probability of each pixel's true class; return the gradient of the loss."""
    (b, classes, h, _), (height, width) = low.shape, log_p_true.shape[-2:]
    above, shares = taps(h, height, align_corners, low.dtype)
    shares = shares.to(low.device).unsqueeze(1)
    wide = F.interpolate(low, size=(h, width), mode="bilinear", align_corners=align_corners)
    wide_gradient = torch.zeros_like(wide) if with_gradient else None
    for start, stop, i, j in row_blocks(above.tolist(), h, limit=max(1, BLOCK // (b * classes * width))):
        share = shares[start:stop]
        logits = wide[:, :, i, None] * (1 - share)
        log_p = logits.addcmul_(wide[:, :, j, None], share).log_softmax(1)
        labels, weights = truth.rows(start, stop)
        score = log_p.gather(1, labels)
        log_p_true[:, start:stop] = score.squeeze(1)
        if wide_gradient is not None:
            gradient = softmax_minus_truth(log_p, score, labels, weights)
            total = gradient.sum(2)
            below = gradient.mul_(share).sum(2)
            wide_gradient[:, :, i] += total.sub_(below)
            wide_gradient[:, :, j] += below
    if wide_gradient is None:
        return None
    return torch.ops.aten.upsample_bilinear2d_backward(wide_gradient, [h, width], low.shape, align_corners)


def softmax_minus_truth(log_p: Tensor, score: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Gradient of the pixels' losses by their logits, ``score`` being the true class's; overwrites both scores."""
    return log_p.exp_().scatter_(1, labels, score.expm1_()).mul_(weights)


def row_blocks(above: list[int], h: int, *, limit: int) -> list[Rows]:
    """Cut the output rows into runs between the same two input rows, of at most ``limit`` rows."""
    blocks, start = [], 0
    for stop in range(1, len(above) + 1):
        if stop == len(above) or above[stop] != above[start] or stop - start == limit:
            blocks.append(Rows(start, stop, above[start], min(above[start] + 1, h - 1)))
            start = stop
    return blocks


def taps(size_in: int, size_out: int, align_corners: bool, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """For each output position the input position at or before it, and the share (0..1) of the next one.

    Rounded as ``F.interpolate`` rounds: scale and position in ``dtype``. On the CPU; the caller moves them.
    """
    out = torch.arange(size_out, dtype=torch.float64)
    if size_in == size_out:
        position = out
    elif align_corners:
        scale = torch.tensor(size_in - 1, dtype=dtype) / max(size_out - 1, 1) if size_out > 1 else torch.zeros(())
        position = out * scale.double()
    else:
        scale = torch.tensor(size_in, dtype=dtype) / size_out
        position = ((out + 0.5) * scale.double() - 0.5).clamp(min=0)
    position = position.to(dtype)
    first = position.floor().clamp(max=size_in - 1)
    return first.long(), (position - first).clamp(0, 1)


def computing_type(logits: Tensor) -> torch.dtype:
    """Float32, or float64 for float64."""
    return torch.promote_types(logits.dtype, torch.float32)
