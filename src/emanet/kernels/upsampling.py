"""Bilinear upsampling of logits in blocks, equal to the last bit to upsampling them at once.

PyTorch interpolates every class on its own, so a few classes at a time give the same logits as all of them; their
maximum is merged into a running one of a single value per pixel. It takes another kernel, which rounds in another way,
for channels-last logits: those are cut into rows in place of classes, where input rows fall onto output rows.
"""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

MIN_CLASSES = 4  # in a block: PyTorch interpolates up to 3 with another kernel
MANY_CLASSES = 16  # in a block on an accelerator
SMALL_SIDES = 128  # height + width up to which, too, it takes another one
ROW_PARTS = 16  # of channels-last logits


@torch.no_grad()
def upsampled_argmax(
    logits_low: Float[Tensor, "b classes h w"], size: Sequence[int], *, align_corners: bool
) -> Int[Tensor, "b height width"]:
    """Class with the largest upsampled logit, of equal ones the first: ``F.interpolate(...).argmax(1)``.

    Args:
        logits_low: scores at the resolution of the features.
        size: height and width of the result.
        align_corners: of the interpolation.
    """
    if not is_channels_last(logits_low):
        return argmax_by_classes(logits_low, size, align_corners)
    if align_corners and rows_per_input_row(logits_low.shape[2], size[0]):
        return argmax_by_rows(logits_low, size)
    return upsampled(logits_low, size, align_corners).argmax(1)


def class_blocks(logits_low: Tensor, *sizes: Sequence[int]) -> tuple[Tensor, ...]:
    """Blocks of classes that may be interpolated to these sizes one by one; all of them where that would round else."""
    small = any(height + width <= SMALL_SIDES for height, width in sizes)
    at_once = MIN_CLASSES if logits_low.device.type == "cpu" else MANY_CLASSES  # there a call costs more than memory
    blocks = 1 if small or is_channels_last(logits_low) else max(1, logits_low.shape[1] // at_once)
    return logits_low.tensor_split(blocks, dim=1)


def upsampled(logits: Tensor, size: Sequence[int], align_corners: bool) -> Tensor:
    """All logits at full size."""
    return F.interpolate(logits, size=list(size), mode="bilinear", align_corners=align_corners)


def argmax_by_classes(logits_low: Tensor, size: Sequence[int], align_corners: bool) -> Tensor:
    """Merge the maxima of blocks of classes."""
    best = torch.empty(0)
    arg: Tensor | None = None
    for values, index in maxima(logits_low, size, align_corners):
        if arg is None:
            best, arg = torch.full_like(values, -torch.inf), torch.zeros_like(values, dtype=torch.int16)
        better = values > best
        arg = arg.masked_fill_(better, index) if isinstance(index, int) else torch.where(better, index, arg)
        torch.maximum(best, values, out=best)
    if arg is None or best.isnan().any():  # argmax takes NaN for the largest
        return upsampled(logits_low, size, align_corners).argmax(1)
    return arg.long()


def maxima(logits_low: Tensor, size: Sequence[int], align_corners: bool) -> Iterator[tuple[Tensor, Tensor | int]]:
    """Largest logits (b, height, width) of some classes, and which class it is.

    On a CPU these are one class at a time, as a maximum along an axis that is not the last is slow there.
    """
    first = 0
    for block in class_blocks(logits_low, size):
        logits = upsampled(block, size, align_corners)
        if logits.device.type == "cpu":
            yield from ((values, first + i) for i, values in enumerate(logits.unbind(1)))
        else:
            values, index = logits.max(1)
            yield values, index + first
        first += block.shape[1]


def argmax_by_rows(logits_low: Tensor, size: Sequence[int]) -> Tensor:
    """Interpolate some input rows at a time, with aligned corners."""
    (b, _, h, _), (height, width) = logits_low.shape, size
    stride = rows_per_input_row(h, height)
    arg = torch.empty(b, height, width, dtype=torch.int64, device=logits_low.device)
    step = -(-(h - 1) // ROW_PARTS)
    for top in range(0, h - 1, step):
        part = logits_low[:, :, top : top + step + 1].contiguous(memory_format=torch.channels_last)
        rows = (part.shape[2] - 1) * stride + 1
        arg[:, top * stride : top * stride + rows] = upsampled(part, (rows, width), True).argmax(1)
    return arg


def rows_per_input_row(h: int, height: int) -> int:
    """Output rows from one input row to the next with aligned corners, if a power of two; else 0.

    Then the scale is exact, and a part of the rows is interpolated at the very positions of the whole.
    """
    stride, rest = divmod(height - 1, max(h - 1, 1))
    return stride if h > 1 and rest == 0 and stride & (stride - 1) == 0 else 0


def is_channels_last(logits: Tensor) -> bool:
    """Whether PyTorch takes its channels-last kernel."""
    return logits.is_contiguous(memory_format=torch.channels_last) and not logits.is_contiguous()
