"""Bilinear upsampling of logits in blocks, equal to the last bit to upsampling them at once.

PyTorch interpolates every class on its own, so a few classes at a time give the same logits as all of them; their
maximum is merged into a running one of a single value per pixel. It takes another kernel, which rounds in another way,
for channels-last logits: those are cut into rows in place of classes, where input rows fall onto output rows.
"""

from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from emanet.common.workers import in_parallel

MIN_CLASSES = 4  # in a block: PyTorch interpolates up to 3 with another kernel
MANY_CLASSES = 16  # in a block on an accelerator
SMALL_SIDES = 128  # height + width up to which, too, it takes another one
ROW_PARTS = 16  # of channels-last logits
SMALL = 2**23  # channels-last logits whose maximum at once is faster: up to 32 MiB in float32


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
    large = logits_low.shape[:2].numel() * size[0] * size[1] > SMALL
    if large and align_corners and rows_per_input_row(logits_low.shape[2], size[0]):
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
    """Take blocks of classes one after the other, several runs of which at once, and keep the largest logit so far."""
    blocks = class_blocks(logits_low, size)
    firsts = [0, *accumulate(block.shape[1] for block in blocks)]
    runs = min(torch.get_num_threads(), len(blocks))
    cuts = [len(blocks) * run // runs for run in range(runs + 1)]

    def best_of_run(run: tuple[int, int]) -> tuple[Tensor, Tensor]:
        # Class by class: a maximum along an axis that is not the last is slow on a CPU.
        classes = (values for k in range(*run) for values in upsampled(blocks[k], size, align_corners).unbind(1))
        best = next(classes).clone()
        arg = torch.full_like(best, firsts[run[0]], dtype=torch.int16)
        for label, values in enumerate(classes, start=firsts[run[0]] + 1):
            arg.masked_fill_(values > best, label)
            torch.maximum(best, values, out=best)
        return best, arg

    found = in_parallel(best_of_run, list(pairwise(cuts)), device=logits_low.device)
    best, arg = (torch.stack(parts) for parts in zip(*found, strict=True))
    if best.isnan().any():  # argmax takes NaN for the largest
        return upsampled(logits_low, size, align_corners).argmax(1)
    return arg.gather(0, best.argmax(0, keepdim=True))[0].long()


def argmax_by_rows(logits_low: Tensor, size: Sequence[int]) -> Tensor:
    """Interpolate some input rows at a time, with aligned corners."""
    (b, _, h, _), (height, width) = logits_low.shape, size
    stride = rows_per_input_row(h, height)
    arg = torch.empty(b, height, width, dtype=torch.int64, device=logits_low.device)
    step = -(-(h - 1) // ROW_PARTS)

    def decide(top: int) -> None:
        part = logits_low[:, :, top : top + step + 1].contiguous(memory_format=torch.channels_last)
        rows = (part.shape[2] - 1) * stride + 1
        found = upsampled(part, (rows, width), True).argmax(1)
        kept = rows if top + step >= h - 1 else rows - 1  # the last row is the next part's first
        arg[:, top * stride : top * stride + kept] = found[:, :kept]

    in_parallel(decide, range(0, h - 1, step), device=logits_low.device)
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
