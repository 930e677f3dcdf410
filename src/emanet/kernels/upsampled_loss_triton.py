"""Cross-entropy of upsampled logits as Triton kernels; the semantics stand in :mod:`emanet.kernels.upsampled_loss`.

1. ``pixel_losses``: a program per stretch of an output row goes through the classes once, with a running maximum and
   sum, and leaves each pixel's log-sum-exp and loss.
2. ``row_gradients``: a program per stretch of the output rows between two input rows, and block of classes, keeps both
   rows' logits in registers, forms softmax - truth of each output row and adds it up for the row above and the row
   below: two sums of the output's width per input row.
3. ``column_gradients``: each input position gathers its share of those sums.

Nothing is added atomically, so a run repeats to the last bit. Logits are read in their own type and computed in float32
(Triton's interpreter would multiply the bit patterns of bfloat16).
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from emanet.kernels.upsampled_loss_blocks import taps

BLOCK_CLASSES = 16
BLOCK_WIDTH = 128  # output columns of a program
BLOCK_PLANES, BLOCK_COLUMNS = 8, 32  # (image, class) pairs and input columns of a program of the last kernel
BUFFER = 2**25  # most elements of the row sums: 128 MB
MOST_PROGRAMS = 65535  # in a grid's last dimension


@triton.jit
def load_tap(low, row, columns, cs, C, w, here):
    """Logits (classes, columns) of one input row, in float32."""
    offsets = cs[:, None] * C + row * w + columns[None, :]
    return tl.load(low + offsets, mask=here, other=0.0).to(tl.float32)


@triton.jit
def stretched_row(low, row, left, right, share, cs, plane, w, here):
    """An input row (classes, width) at the output's width."""
    a = load_tap(low, row, left, cs, plane, w, here)
    b = load_tap(low, row, right, cs, plane, w, here)
    return a * (1 - share)[None, :] + b * share[None, :]


@triton.jit
def pixel_losses(
    low,
    mask,
    class_weights,
    losses,
    lse,
    tops,
    row_shares,
    lefts,
    column_shares,
    ignore_index,
    C,
    h,
    w,
    H,
    W,
    WEIGHTED: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_W: tl.constexpr,
):
    """Loss and log-sum-exp of a stretch of one output row; grid (stretches, H, images)."""
    x = tl.program_id(0) * BLOCK_W + tl.arange(0, BLOCK_W)
    y = tl.program_id(1)
    image = tl.program_id(2).to(tl.int64)
    inside = x < W
    top = tl.load(tops + y)
    bottom = tl.minimum(top + 1, h - 1)
    down = tl.load(row_shares + y)
    left = tl.load(lefts + x, mask=inside, other=0)
    right = tl.minimum(left + 1, w - 1)
    share = tl.load(column_shares + x, mask=inside, other=0.0)
    pixel = (image * H + y) * W + x
    truth = tl.load(mask + pixel, mask=inside, other=ignore_index).to(tl.int32)
    low += image * C * h * w
    highest = tl.full((BLOCK_W,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_W,), tl.float32)
    score = tl.zeros((BLOCK_W,), tl.float32)  # of the true class
    for first in range(0, C, BLOCK_C):
        cs = first + tl.arange(0, BLOCK_C)
        here = (cs < C)[:, None] & inside[None, :]
        above = stretched_row(low, top, left, right, share, cs, h * w, w, here)
        below = stretched_row(low, bottom, left, right, share, cs, h * w, w, here)
        logits = above * (1 - down) + below * down
        score += tl.sum(tl.where(cs[:, None] == truth[None, :], logits, 0.0), 0)
        logits = tl.where((cs < C)[:, None], logits, float("-inf"))
        new = tl.maximum(highest, tl.max(logits, 0))
        base = tl.where(new == float("-inf"), 0.0, new)  # only classes of probability 0 so far
        total = total * tl.exp(highest - base) + tl.sum(tl.exp(logits - base[None, :]), 0)
        highest = new
    log_sum = highest + tl.log(total)
    loss = log_sum - score
    known = (truth >= 0) & (truth < C)
    if WEIGHTED:
        loss *= tl.load(class_weights + truth, mask=known, other=0.0)
    loss = tl.where(known, loss, float("nan"))  # a label out of range: nothing here can raise
    tl.store(losses + pixel, tl.where(truth == ignore_index, 0.0, loss), mask=inside)
    tl.store(lse + pixel, log_sum, mask=inside)


@triton.jit
def row_gradients(
    low,
    mask,
    class_weights,
    lse,
    own_sums,
    next_sums,
    row_starts,
    row_shares,
    lefts,
    column_shares,
    ignore_index,
    C,
    h,
    w,
    H,
    W,
    WEIGHTED: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_W: tl.constexpr,
):
    """Sums of the gradient over the output rows below an input row, for it and the next; grid (stretches, h, n * c)."""
    x = tl.program_id(0) * BLOCK_W + tl.arange(0, BLOCK_W)
    top = tl.program_id(1)
    blocks = tl.cdiv(C, BLOCK_C)
    image = (tl.program_id(2) // blocks).to(tl.int64)
    cs = tl.program_id(2) % blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    inside = x < W
    here = (cs < C)[:, None] & inside[None, :]
    left = tl.load(lefts + x, mask=inside, other=0)
    right = tl.minimum(left + 1, w - 1)
    share = tl.load(column_shares + x, mask=inside, other=0.0)
    low += image * C * h * w
    above = stretched_row(low, top, left, right, share, cs, h * w, w, here)
    below = stretched_row(low, tl.minimum(top + 1, h - 1), left, right, share, cs, h * w, w, here)
    upper = tl.zeros((BLOCK_C, BLOCK_W), tl.float32)
    lower = tl.zeros((BLOCK_C, BLOCK_W), tl.float32)
    for y in range(tl.load(row_starts + top), tl.load(row_starts + top + 1)):
        down = tl.load(row_shares + y)
        pixel = (image * H + y) * W + x
        truth = tl.load(mask + pixel, mask=inside, other=ignore_index).to(tl.int32)
        log_sum = tl.load(lse + pixel, mask=inside, other=0.0)
        gradient = tl.exp(above * (1 - down) + below * down - log_sum[None, :])
        gradient -= tl.where(cs[:, None] == truth[None, :], 1.0, 0.0)
        if WEIGHTED:
            known = (truth >= 0) & (truth < C)
            gradient *= tl.load(class_weights + truth, mask=known, other=0.0)[None, :]
        gradient = tl.where((truth == ignore_index)[None, :], 0.0, gradient)
        upper += gradient * (1 - down)
        lower += gradient * down
    offsets = ((image * C + cs[:, None]) * h + top) * W + x[None, :]
    tl.store(own_sums + offsets, upper, mask=here)
    tl.store(next_sums + offsets, lower, mask=here)


@triton.jit
def column_gradients(
    own_sums,
    next_sums,
    gradient,
    lefts,
    column_shares,
    column_starts,
    reach,
    planes,
    h,
    w,
    W,
    BLOCK_P: tl.constexpr,
    BLOCK_J: tl.constexpr,
):
    """Gradient of a stretch of an input row, in some planes (image, class); grid (stretches, h, blocks of planes)."""
    j = tl.program_id(0) * BLOCK_J + tl.arange(0, BLOCK_J)
    i = tl.program_id(1)
    plane = tl.program_id(2) * BLOCK_P + tl.arange(0, BLOCK_P)
    inside = j < w
    start = tl.load(column_starts + j, mask=inside, other=0)  # the first output column right of the input column before
    stop = tl.load(column_starts + j + 2, mask=inside, other=0)
    row = (plane.to(tl.int64) * h + i)[:, None]
    own = own_sums + row * W  # of the output rows below this one
    before = next_sums + (row - 1) * W  # of those above
    border = next_sums + row * W  # the last row is its own next one
    total = tl.zeros((BLOCK_P, BLOCK_J), tl.float32)
    for step in range(0, reach):
        x = start + step
        near = inside & (x < stop)
        left = tl.load(lefts + x, mask=near, other=-2)
        share = tl.load(column_shares + x, mask=near, other=0.0)
        right = tl.minimum(left + 1, w - 1)
        weight = tl.where(left == j, 1 - share, 0.0) + tl.where(right == j, share, 0.0)
        here = (plane < planes)[:, None] & near[None, :]
        value = tl.load(own + x[None, :], mask=here, other=0.0)
        value += tl.load(before + x[None, :], mask=here & (i > 0), other=0.0)
        value += tl.load(border + x[None, :], mask=here & (i == h - 1), other=0.0)
        total += weight[None, :] * value
    tl.store(gradient + row * w + j[None, :], total, mask=(plane < planes)[:, None] & inside[None, :])


#: Whether kernels run in Triton's interpreter (TRITON_INTERPRET=1 when Triton was imported).
INTERPRETED = not isinstance(pixel_losses, triton.JITFunction)


class Axis(NamedTuple):
    """Interpolation along one side, on the device."""

    first: Tensor  #: (out,) int32, input position at or before each output position
    share: Tensor  #: (out,) float32, of the next input position
    starts: Tensor  #: (in + 2,) int32; those between inputs k and k + 1 are starts[k + 1]..starts[k + 2]
    reach: int  #: most output positions around an input position


_axes: dict[tuple[Any, ...], Axis] = {}  # a copy to the device would wait for it at every step


def axis(size_in: int, size_out: int, align_corners: bool, device: torch.device) -> Axis:
    """The interpolation of one side, remembered."""
    key = (size_in, size_out, align_corners, device)
    if key not in _axes:
        first, share = taps(size_in, size_out, align_corners, torch.float32)
        starts = torch.searchsorted(first, torch.arange(-1, size_in + 1))
        reach = int((starts[2:] - starts[:-2]).max())
        _axes[key] = Axis(first.int().to(device), share.to(device), starts.int().to(device), reach)
    return _axes[key]


def launch(
    logits_low: Tensor,
    mask: Tensor,
    class_weights: Tensor | None,
    align_corners: bool,
    ignore_index: int,
    with_gradient: bool,
) -> tuple[Tensor, Tensor]:
    """Loss of each pixel (b, height, width), and the gradient of their sum (empty if not asked for), in float32."""
    (b, classes, h, w), (height, width) = logits_low.shape, mask.shape[-2:]
    low, mask, device = logits_low.contiguous(), mask.contiguous(), logits_low.device
    rows, columns = (axis(*sides, align_corners, device) for sides in ((h, height), (w, width)))
    losses = torch.empty(mask.shape, device=device)
    lse = torch.empty_like(losses)
    weights = None if class_weights is None else class_weights.to(device, torch.float32).contiguous()
    sizes = (classes, h, w, height, width, weights is not None, BLOCK_CLASSES, BLOCK_WIDTH)
    stretches = triton.cdiv(width, BLOCK_WIDTH)
    with torch.cuda.device_of(low):
        pixel_losses[(stretches, height, b)](
            low, mask, weights, losses, lse, rows.first, rows.share, columns.first, columns.share, ignore_index, *sizes
        )
        gradient = torch.empty(low.shape if with_gradient else (0,), device=device)
        images = max(1, min(BUFFER // (2 * classes * h * width), MOST_PROGRAMS * BLOCK_PLANES // classes))
        for group in (slice(start, start + images) for start in range(0, b if with_gradient else 0, images)):
            n = len(low[group])
            own_sums, next_sums = torch.empty(2, n, classes, h, width, device=device)
            row_gradients[(stretches, h, n * triton.cdiv(classes, BLOCK_CLASSES))](
                low[group],
                mask[group],
                weights,
                lse[group],
                own_sums,
                next_sums,
                rows.starts[1:],
                rows.share,
                columns.first,
                columns.share,
                ignore_index,
                *sizes,
            )
            column_gradients[(triton.cdiv(w, BLOCK_COLUMNS), h, triton.cdiv(n * classes, BLOCK_PLANES))](
                own_sums,
                next_sums,
                gradient[group],
                columns.first,
                columns.share,
                columns.starts,
                columns.reach,
                n * classes,
                h,
                w,
                width,
                BLOCK_PLANES,
                BLOCK_COLUMNS,
            )
    return losses, gradient
