"""Loss and evaluation without full-size logits, beside interpolating first: time and memory.

    python benchmarks/loss.py [--device auto] [--batch 2] [--size 513] [--classes 21 59 150 171]

Loss: forward and backward from logits at an eighth of the resolution to their gradient. Classes: those predicted for
one image. Counts: its confusion matrix. Floor: logits, masks, gradients and classes pass through memory once.
Writes benchmarks/results/loss_DEVICE.json.
"""

from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F
from measure import Call, Variant, arguments, main, parse
from torch import Tensor

from emanet.inference.upsampling import upsampled_argmax
from emanet.training.losses.upsampled import launcher, upsampled_cross_entropy
from emanet.training.metrics import confusion_matrix

STRIDE = 8
Draw = tuple[int, int, int, str]  # classes, images, size, device


def problem(classes: int, batch: int, size: int, device: str) -> tuple[Tensor, Tensor]:
    """Logits at the stride, and a mask of 64-pixel blocks with void borders."""
    draw = torch.Generator().manual_seed(classes)
    side = (size - 1) // STRIDE + 1
    low = torch.randn(batch, classes, side, side, generator=draw) * 3
    coarse = torch.randint(0, classes, (batch, size // 64 + 1, size // 64 + 1), generator=draw)
    mask = coarse.repeat_interleave(64, 1).repeat_interleave(64, 2)[:, :size, :size].clone()
    mask[:, ::64] = mask[:, :, ::64] = 255
    return low.to(device), mask.to(device)


def interpolate(low: Tensor, size: int) -> Tensor:
    """Logits at full size."""
    return F.interpolate(low, size=(size, size), mode="bilinear", align_corners=True)


def loss_at_once(low: Tensor, mask: Tensor) -> Tensor:
    """Loss by PyTorch's interpolation and cross-entropy."""
    return F.cross_entropy(interpolate(low, mask.shape[-1]), mask, ignore_index=255, reduction="sum")


def gradient(draw: Draw, method: str) -> Call:
    """From logits to their gradient."""
    low, mask = problem(*draw)
    low.requires_grad_()
    ways = {"full": loss_at_once} | {
        name: partial(upsampled_cross_entropy, align_corners=True, method=name) for name in ("blocks", "triton")
    }
    return lambda: torch.autograd.grad(ways[method](low, mask), low)


def predicted(draw: Draw, blocks: bool, channels_last: bool) -> Call:
    """From logits to the classes of each pixel."""
    low, size = problem(*draw)[0], draw[2]
    low = low.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    if blocks:
        return lambda: upsampled_argmax(low, (size, size), align_corners=True)
    return lambda: interpolate(low, size).argmax(1)


def select_then_count(prediction: Tensor, mask: Tensor, classes: int) -> Tensor:
    """A confusion matrix as the authors count it: select the labeled pixels of both, make them int32, count."""
    labeled = (mask >= 0) & (mask < classes)
    cells = mask[labeled].int() * classes + prediction[labeled].int()
    return torch.bincount(cells, minlength=classes**2).view(classes, classes)


def counted(draw: Draw, ours: bool) -> Call:
    """From classes to their confusion matrix."""
    low, mask = problem(*draw)
    prediction = interpolate(low, draw[2]).argmax(1)
    return partial(confusion_matrix if ours else select_then_count, prediction, mask, draw[0])


def variants(classes: int, batch: int, size: int, device: str) -> Iterator[Variant]:
    """All variants at a number of classes."""
    low, pixels = 4 * classes * ((size - 1) // STRIDE + 1) ** 2, 8 * size**2
    case = {"task": "loss", "classes": classes, "images": batch}
    methods = ["full", "blocks", *(["triton"] if device == "cuda" and launcher() else [])]
    for method in methods:
        call = partial(gradient, (classes, batch, size, device), method)
        yield Variant(case, method, call, bytes=batch * (2 * low + pixels), per_call=batch)
    draw = (classes, 1, size, device)
    for layout in ("channels first", "channels last"):
        case = {"task": "classes", "classes": classes, "images": 1, "layout": layout}
        for name in ("full", "blocks"):
            call = partial(predicted, draw, name == "blocks", layout == "channels last")
            yield Variant(case, name, call, bytes=low + pixels)
    case = {"task": "counts", "classes": classes, "images": 1}
    for name in ("authors", "ours"):
        yield Variant(case, name, partial(counted, draw, name == "ours"), bytes=2 * pixels)


if __name__ == "__main__":
    parser = arguments(__doc__)
    parser.add_argument("--batch", type=int, default=2, help="images of the loss")
    parser.add_argument("--size", type=int, default=513)
    parser.add_argument("--classes", type=int, nargs="+", default=(6, 21, 59, 150, 171))
    options = parse(parser)
    found = [
        variant
        for classes in options.classes
        for variant in variants(classes, options.batch, options.size, options.device)
    ]
    main(f"float32, {options.size}x{options.size}, logits at an eighth of the size", found, options, size=options.size)
