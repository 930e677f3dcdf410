"""The loss in blocks, without logits at full size, beside interpolating first: time and memory.

    python benchmarks/loss.py [--device cpu|cuda]

Two masks of 513x513, logits at an eighth of that, float32; forward, and backward to the logits' gradient.
"""

from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F
from measure import Call, Variant, main, parse
from torch import Tensor

from emanet.training.losses.upsampled import upsampled_cross_entropy

SIZE, STRIDE = 513, 8
CLASSES = (21, 59, 150, 171)  # of VOC, PASCAL Context, ADE20K, COCO-Stuff


def blocky_mask(images: int, height: int, width: int, classes: int) -> Tensor:
    """Masks (b, h, w) of 64-pixel blocks of one class each, with borders to be ignored."""
    draw = torch.Generator().manual_seed(classes)
    coarse = torch.randint(0, classes, (images, height // 64 + 1, width // 64 + 1), generator=draw)
    mask = coarse.repeat_interleave(64, 1).repeat_interleave(64, 2)[:, :height, :width].clone()
    mask[:, ::64] = mask[:, :, ::64] = 255
    return mask


def summed_loss(low: Tensor, mask: Tensor, align_corners: bool = True) -> Tensor:
    """The loss by PyTorch's own functions, which keep all logits."""
    logits = F.interpolate(low, size=tuple(mask.shape[1:]), mode="bilinear", align_corners=align_corners)
    return F.cross_entropy(logits, mask, ignore_index=255, reduction="sum")


LOSSES = {"full": summed_loss, "blocks": partial(upsampled_cross_entropy, align_corners=True)}


def loss_call(name: str, classes: int, device: str) -> Call:
    """From logits to their gradient."""
    side = (SIZE - 1) // STRIDE + 1
    low = torch.randn(2, classes, side, side, generator=torch.Generator().manual_seed(classes)) * 3
    low, mask = low.to(device).requires_grad_(), blocky_mask(2, SIZE, SIZE, classes).to(device)
    return lambda: torch.autograd.grad(LOSSES[name](low, mask), low)[0]


def variants(device: str) -> Iterator[Variant]:
    """Both ways at each number of classes."""
    for classes in CLASSES:
        for name in LOSSES:
            case = {"task": "loss and gradient", "classes": classes}
            yield Variant(case, name, partial(loss_call, name, classes, device), memory=True)


if __name__ == "__main__":
    options = parse(__doc__)
    main([*variants(options.device)], options)
