"""Inference: whole images as the authors test, several scales, flip, sliding window. One code for all who predict.

Of a network it needs ``net(image, low=True)``, the logits before they are upsampled, ``net.align_corners`` of that
bilinear upsampling, and ``net.output_stride``, input pixels per feature; ``net(image)`` is at the image's size.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from emanet.inference.upsampling import class_blocks, upsampled, upsampled_argmax


def pad_to_stride(image: Float[Tensor, "b 3 h w"], stride: int) -> Float[Tensor, "b 3 H W"]:
    """Pad right and bottom with 0 (the mean color) to the next size that is 1 modulo ``stride``: 375 -> 377 at 8.

    At such sizes the corners of the image and of its features coincide (FACTS section 3).
    """
    height, width = image.shape[-2:]
    return F.pad(image, (0, (1 - width) % stride, 0, (1 - height) % stride))


def as_tested(net: Any, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 H W"]:
    """Images as a network is handed them: padded where its corners are aligned, else as they are.

    So do the authors and mmsegmentation (FACTS section 7): without aligned corners, padding would shift every position.
    """
    return pad_to_stride(image, net.output_stride) if net.align_corners else image


@torch.no_grad()
def predict_logits(net: Any, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b classes h w"]:
    """Logits of whole images at their own size, never resized; images of one size only, since padding enters the EM."""
    height, width = image.shape[-2:]
    return net(as_tested(net, image))[..., :height, :width]


@torch.no_grad()
def predict_classes(net: Any, image: Float[Tensor, "b 3 h w"]) -> Int[Tensor, "b h w"]:
    """``predict_logits(net, image).argmax(1)``, without logits of all classes at the images' size."""
    height, width = image.shape[-2:]
    padded = as_tested(net, image)
    classes = upsampled_argmax(net(padded, low=True), padded.shape[-2:], align_corners=net.align_corners)
    return classes[..., :height, :width]


@torch.no_grad()
def predict_resized(net: Any, image: Float[Tensor, "b 3 h w"], size: Sequence[int]) -> Float[Tensor, "b classes H W"]:
    """:func:`predict_logits`, resized, in float32 at least; a few classes at a time at the images' size."""
    height, width = image.shape[-2:]
    padded = as_tested(net, image)
    logits_low, inner = net(padded, low=True), padded.shape[-2:]

    def resized(block: Tensor) -> Tensor:
        return resize(at_least_float32(upsampled(block, inner, net.align_corners)[..., :height, :width]), size)

    blocks = class_blocks(logits_low, inner, size)
    if len(blocks) == 1:
        return resized(logits_low)
    logits = at_least_float32(logits_low.new_empty(*logits_low.shape[:2], *size))
    for part, block in zip(logits.tensor_split(len(blocks), dim=1), blocks, strict=True):
        part.copy_(resized(block))
    return logits


@dataclass(frozen=True)
class Inference:
    """How images are looked at: ``Inference()`` once and whole, as training validates.

    Every view (a scale, upright or mirrored) gives logits; those are resized to the image's size, and the views'
    softmax probabilities are averaged. At most one view is held beside the running sum, however many there are.

    Args:
        scales: factors of the image's sides; 0.5, 0.75, 1, 1.25, 1.5, 1.75 in the public evaluations (FACTS section 3).
        flip: look at the mirrored image as well, at every scale.
        window: side in pixels, at each scale, of square windows that slide over images larger than that; the logits of
            overlapping windows are averaged. ``None``: the whole image at once. Each window is an EM of its own.
        stride: pixels from one window to the next; ``None``: two thirds of the window.

    Raises:
        ValueError: for values that make no sense.
    """

    scales: Sequence[float] = (1.0,)
    flip: bool = False
    window: int | None = None
    stride: int | None = None

    def __post_init__(self) -> None:
        """Refuse senseless values."""
        if not self.scales or not all(0 < scale < float("inf") for scale in self.scales):
            raise ValueError(f"scales must be one or more positive numbers, got {list(self.scales)}")
        if self.window is not None and self.window < 1:
            raise ValueError(f"window must be at least 1 pixel, or null for whole images, got {self.window}")
        if self.stride is not None and (self.window is None or not 1 <= self.stride <= self.window):
            raise ValueError(f"stride must lie in 1..window={self.window} (more would skip pixels), got {self.stride}")

    @property
    def is_plain(self) -> bool:
        """Whether there is one view, at the image's own size, so that nothing is averaged over views."""
        return tuple(self.scales) == (1.0,) and not self.flip

    def predict(self, net: Any, image: Float[Tensor, "b 3 h w"]) -> Int[Tensor, "b h w"]:
        """Most probable class of each pixel."""
        if not self.is_plain:
            return self.probabilities(net, image).argmax(1)
        # A single look is compared by its logits: rounding in the softmax may turn a near tie.
        return self.windowed(net, image).argmax(1) if self.slides(image) else predict_classes(net, image)

    @torch.no_grad()
    def probabilities(self, net: Any, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b classes h w"]:
        """Class probabilities, averaged over scales and flip; in float32 at least."""
        if self.is_plain:
            return self.view(net, image, 1.0)
        total: Any = 0
        for scale in self.scales:
            view = self.view(net, image, scale)
            if self.flip:  # summed in pairs: a mirrored image then gives the mirrored result to the last bit
                view += self.view(net, image.flip(-1), scale).flip(-1)
            total += view
            del view  # before the next one is made
        return total.div_(len(self.scales) * (1 + self.flip))

    def view(self, net: Any, image: Float[Tensor, "b 3 h w"], scale: float) -> Float[Tensor, "b classes h w"]:
        """Probabilities at the image's size from a look at one scale."""
        size = image.shape[-2:]
        scaled = resize(image, [max(1, int(side * scale)) for side in size])  # rounded down, as in training
        if self.slides(scaled):
            return resize(self.windowed(net, scaled), size).softmax(1)
        return predict_resized(net, scaled, size).softmax(1)

    def slides(self, image: Tensor) -> bool:
        """Whether the image is larger than a window."""
        return self.window is not None and max(image.shape[-2:]) > self.window

    @torch.no_grad()
    def windowed(self, net: Any, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b classes h w"]:
        """Mean logits of the windows that see a pixel, in float32 at least."""
        height, width = image.shape[-2:]
        total: Any = None
        count = image.new_zeros(height, width)
        for rows, columns in self.windows(height, width):
            logits = predict_logits(net, image[..., rows, columns])
            total = logits.new_zeros(*logits.shape[:2], height, width) if total is None else total
            total[..., rows, columns] += logits
            count[rows, columns] += 1
        return at_least_float32(total.div_(count))

    def windows(self, height: int, width: int) -> Iterator[tuple[slice, slice]]:
        """Rows and columns of each window; the last ones end at the border instead of reaching over it."""
        window = self.window or max(height, width)
        stride = self.stride or max(1, window * 2 // 3)
        for top in window_starts(height, window, stride):
            for left in window_starts(width, window, stride):
                yield slice(top, min(top + window, height)), slice(left, min(left + window, width))


def window_starts(side: int, window: int, stride: int) -> list[int]:
    """First pixels of windows that cover a side: 0, stride, ..., and the last flush with the end."""
    last = max(side - window, 0)
    return [*range(0, last, stride), last]


def resize(values: Float[Tensor, "b c h w"], size: Sequence[int]) -> Float[Tensor, "b c H W"]:
    """Bilinear with aligned corners, as in training (FACTS section 3); untouched where the size is right already."""
    if values.shape[-2:] == tuple(size):
        return values
    return F.interpolate(values, size=tuple(size), mode="bilinear", align_corners=True)


def at_least_float32(logits: Tensor) -> Tensor:
    """Logits in a precision in which they may be interpolated again and summed."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


PLAIN = Inference()  #: one look at the whole image
