"""Cross-entropy of bilinearly upsampled logits, without the upsampled logits.

The loss of a pixel, and its gradient softmax - truth, need the pixel's own logits alone. So both are computed in blocks
of rows, and what is kept is the loss of each pixel and the gradient at the low resolution, through the transposed
interpolation. Sums run in a fixed order: a run repeats to the last bit.

The reference is ``F.cross_entropy(F.interpolate(logits_low, mode="bilinear", align_corners=...), mask)``. Positions and
weights are rounded as PyTorch rounds them; half precision is computed in float32 throughout, where PyTorch may round
the upsampled logits and their gradient.
"""

from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from emanet.kernels.upsampled_loss_blocks import computing_type, in_blocks

Method = Literal["auto", "triton", "blocks"]
PROVEN_ON_CUDA = False  #: whether ``auto`` takes the Triton kernels: not before they have run on a GPU

SMALL = 2**23  # logits that PyTorch's own functions take as fast: memory beyond 32 MiB is mapped afresh each time


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
