"""Bilinear upsampling of logits in blocks, equal to the last bit to upsampling them at once.

PyTorch interpolates every class on its own, so a few classes at a time give the same logits as all of them; their
maximum is merged into a running one of a single value per pixel. It takes another kernel, which rounds in another way,
for channels-last logits: few of those are upsampled at once, many are brought into the order of classes first.
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
    if is_channels_last(logits_low) and logits_low.shape[:2].numel() * size[0] * size[1] <= SMALL:
        return upsampled(logits_low, size, align_corners).argmax(1)
    return argmax_by_classes(logits_low.contiguous(), size, align_corners)


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


def is_channels_last(logits: Tensor) -> bool:
    """Whether PyTorch takes its channels-last kernel."""
    return logits.is_contiguous(memory_format=torch.channels_last) and not logits.is_contiguous()
