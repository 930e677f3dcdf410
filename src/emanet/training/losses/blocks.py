"""Cross-entropy of upsampled logits in plain PyTorch, in blocks of rows that a processor's cache holds.

Columns are interpolated first, which gives little; then each block of output rows is made from the two input rows
around it, used for loss and gradient, and forgotten. The semantics stand in :mod:`emanet.training.losses.upsampled`.
"""

from bisect import bisect_left
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from emanet.common.workers import in_parallel

BLOCK = 2**19  # logits in a block: 2 MB in float32
BLOCK_ELSEWHERE = 2**25  # on an accelerator, where a call costs more than memory
PART = 4  # input rows of a part, whose blocks one thread computes; not of the machine, so that it changes no bit


def in_blocks(
    logits_low: Tensor,
    mask: Tensor,
    class_weights: Tensor | None,
    align_corners: bool,
    ignore_index: int,
    with_gradient: bool,
) -> tuple[Tensor, Tensor]:
    """Loss of each pixel (b, height, width), and the gradient of their sum (empty if not asked for)."""
    dtype, low = computing_type(logits_low), logits_low.detach()
    losses = low.new_empty(mask.shape, dtype=dtype)
    gradient = low.new_zeros(low.shape if with_gradient else (0,), dtype=dtype)
    weights = None if class_weights is None else class_weights.detach().to(dtype)
    above, shares = taps(low.shape[2], mask.shape[1], align_corners, dtype)
    shares = shares.to(low.device, non_blocking=True)  # for nothing here is worth waiting for the device
    problem = Problem(low, mask, weights, align_corners, ignore_index, above.tolist(), shares, losses)
    parts = problem.parts()

    def solve(part: Part) -> Tensor | None:
        return problem.solve(part, with_gradient)

    for part, found in zip(parts, in_parallel(solve, parts, device=low.device), strict=True):
        if found is not None:
            gradient[part.images, :, part.first : part.last + 1] += found
    return losses, gradient


class Part(NamedTuple):
    """Some images' output rows, and the input rows that they come from."""

    images: slice
    start: int  #: output rows start..stop-1
    stop: int
    first: int  #: input rows first..last
    last: int


class Rows(NamedTuple):
    """Output rows between the same two input rows."""

    start: int
    stop: int
    above: int  #: input row at or above them
    below: int  #: the one below; the same at the border


class Problem(NamedTuple):
    """Logits and truth of a batch, and where each pixel's loss goes."""

    low: Tensor  #: (b, classes, h, w)
    mask: Tensor  #: (b, height, width)
    class_weights: Tensor | None
    align_corners: bool
    ignore_index: int
    above: list[int]  #: input row at or above each output row
    shares: Tensor  #: (height,) of the input row below
    losses: Tensor  #: (b, height, width)

    @property
    def block(self) -> int:
        """Most logits in a block."""
        return BLOCK if self.low.device.type == "cpu" else BLOCK_ELSEWHERE

    def parts(self) -> list[Part]:
        """Parts that cover every output row of every image once."""
        (b, classes, h, _), (height, width) = self.low.shape, self.mask.shape[-2:]
        at_once = max(1, self.block * h // (classes * height * width))  # images: a block is the rows of one input row
        found = []
        for first in range(0, h, PART):
            start, stop = (bisect_left(self.above, row) for row in (first, first + PART))
            if start < stop:
                last = min(first + PART, h - 1)
                found += [Part(slice(n, n + at_once), start, stop, first, last) for n in range(0, b, at_once)]
        return found

    def solve(self, part: Part, with_gradient: bool) -> Tensor | None:
        """Write a part's losses; return the gradient by its input rows."""
        images, start, stop, first, last = part
        mask = self.mask[images, start:stop]
        ignored = mask == self.ignore_index
        labels = mask.masked_fill(ignored, 0)
        weights = self.weights_of(labels, ignored)
        losses = self.losses[images, start:stop]
        low = self.low[images, :, first : last + 1].contiguous().to(losses.dtype)
        wide_size = [low.shape[2], mask.shape[-1]]
        wide = F.interpolate(low, size=wide_size, mode="bilinear", align_corners=self.align_corners)
        wide_gradient = torch.zeros_like(wide) if with_gradient else None
        limit = max(1, self.block // wide[:, :, 0].numel())
        for rows in row_blocks([i - first for i in self.above[start:stop]], last - first, limit=limit):
            here = slice(rows.start, rows.stop)
            share = self.shares[start:stop][here, None]
            log_p = interpolated_rows(wide, rows, share).log_softmax(1)
            truth = labels[:, None, here]
            score = log_p.gather(1, truth)
            losses[:, here] = score.squeeze(1)
            if wide_gradient is not None:
                add_gradient(
                    wide_gradient, rows, share, softmax_minus_truth(log_p, score, truth, weights[:, None, here])
                )
        losses.neg_().mul_(weights).masked_fill_(ignored, 0)  # NaN too
        if wide_gradient is None:
            return None
        return torch.ops.aten.upsample_bilinear2d_backward(wide_gradient, wide_size, low.shape, self.align_corners)

    def weights_of(self, labels: Tensor, ignored: Tensor) -> Tensor:
        """Weight of each pixel's loss, 0 where ignored."""
        if self.class_weights is None:
            return (~ignored).to(self.losses.dtype)
        return self.class_weights[labels].masked_fill_(ignored, 0)


def interpolated_rows(wide: Tensor, rows: Rows, share: Tensor) -> Tensor:
    """Logits (b, classes, rows, width) between two input rows."""
    return (wide[:, :, rows.above, None] * (1 - share)).addcmul_(wide[:, :, rows.below, None], share)


def softmax_minus_truth(log_p: Tensor, score: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Gradient of the pixels' losses by their logits, ``score`` being the true class's; overwrites both scores."""
    return log_p.exp_().scatter_(1, labels, score.expm1_()).mul_(weights)


def add_gradient(wide_gradient: Tensor, rows: Rows, share: Tensor, gradient: Tensor) -> None:
    """Add a block's gradient to those of the two input rows around it; overwrites the block's."""
    total = gradient.sum(2)
    below = gradient.mul_(share).sum(2)
    wide_gradient[:, :, rows.above] += total.sub_(below)
    wide_gradient[:, :, rows.below] += below


def row_blocks(above: list[int], last: int, *, limit: int) -> list[Rows]:
    """Cut the output rows into runs between the same two of the input rows 0..last, of at most ``limit`` rows."""
    blocks, start = [], 0
    for stop in range(1, len(above) + 1):
        if stop == len(above) or above[stop] != above[start] or stop - start == limit:
            blocks.append(Rows(start, stop, above[start], min(above[start] + 1, last)))
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
        scale = torch.tensor(size_in - 1, dtype=dtype) / max(size_out - 1, 1)
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
