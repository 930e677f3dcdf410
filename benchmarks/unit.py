"""The attention unit alone, beside the paper's equations written out, a non-local block and double attention.

    python benchmarks/unit.py [--device cpu|cuda]

512 channels, K=64, T=3, float32 on features as a ReLU gives them: 2 images on a CPU, 16 on CUDA, in evaluation and to
the gradients of input and weights. "floor": the operations that are left when conv1 is folded into the bases, at the
speed of a large matrix product in the same run. Peers' units: peers.py.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from measure import Call, Variant, main, parse, peak_gflops
from torch import Tensor, nn

from emanet import EMAU
from emanet.model.heads.a2 import DoubleAttention
from emanet.model.heads.nonlocal_ import NonLocal

CHANNELS, K, T = 512, 64, 3  # the paper's
LAYOUTS = {"": torch.contiguous_format, "; channels last": torch.channels_last}


class Equations(nn.Module):
    """The unit written down from the paper's section 3, an operation for each of its steps; weights as in EMAU."""

    def __init__(self, channels: int = CHANNELS, *, K: int = K, T: int = T) -> None:
        super().__init__()
        self.T = T
        self.conv1 = nn.Conv2d(channels, channels, 1).requires_grad_(False)  # no gradient reaches it
        self.conv2 = nn.Sequential(nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels))
        self.register_buffer("mu", nn.functional.normalize(torch.randn(1, channels, K), dim=1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The attended features and each image's bases."""
        with torch.no_grad():
            pixels = self.conv1(x).flatten(2)
            mu = self.get_buffer("mu").expand(len(x), -1, -1)
            for _ in range(self.T):
                z = torch.softmax(pixels.transpose(1, 2) @ mu, dim=2)
                mu = pixels @ (z / (1e-6 + z.sum(dim=1, keepdim=True)))
                mu = mu / (1e-6 + mu.norm(dim=1, keepdim=True))
            y = torch.relu(mu @ z.transpose(1, 2)).view(x.shape)
        return torch.relu(self.conv2(y) + x), mu


UNITS: dict[str, Any] = {"ours": partial(EMAU, CHANNELS, K=K, T=T), "equations": Equations}
RIVALS = {"double attention": partial(DoubleAttention, CHANNELS), "non-local": partial(NonLocal, CHANNELS)}


def features(images: int, side: int) -> Tensor:
    """Random features without negative values."""
    return torch.randn(images, CHANNELS, side, side, generator=torch.Generator().manual_seed(side)).relu_()


def first(output: Any) -> Tensor:
    """The features of a unit that may give its bases beside."""
    return output[0] if isinstance(output, tuple) else output


def unit_call(build: Callable[[], nn.Module], images: int, side: int, *, device: str, layout: Any, train: bool) -> Call:
    """A unit in evaluation, or in training to the gradients of its input and weights."""
    torch.manual_seed(0)
    unit = build().to(device).to(memory_format=layout).train(train)
    x = features(images, side).to(device, memory_format=layout).requires_grad_(train)
    wanted = [x, *(parameter for parameter in unit.parameters() if parameter.requires_grad)]
    upstream = torch.ones_like(x)

    def call() -> object:
        with torch.set_grad_enabled(train):
            y = first(unit(x))
        return torch.autograd.grad(y, wanted, upstream, allow_unused=True) if train else y

    return call


def folded_gflop(images: int, side: int) -> float:
    """Billions of operations: products with the bases, conv2, and per iteration two products of bases and conv1."""
    pixels = images * side**2
    with_bases = (4 * T + 2) * pixels * CHANNELS * K
    return 1e-9 * (with_bases + 2 * pixels * CHANNELS**2 + images * T * 4 * K * CHANNELS**2)


def unit_variants(
    units: Mapping[str, Callable[[], nn.Module]], sides: Sequence[int], images: int, device: str
) -> Iterator[Variant]:
    """Units in both layouts, in evaluation and training; rivals in one, and not where training them takes a minute."""
    for train in (False, True):
        for side in sides:
            task = "unit, training step" if train else "unit, forward"
            case = {"task": task, "side": side, "images": images}
            for name, build in units.items():
                for suffix, layout in LAYOUTS.items():
                    if name not in RIVALS or not (suffix or (train and side > 100)):
                        make = partial(unit_call, build, images, side, device=device, layout=layout, train=train)
                        yield Variant(case, name + suffix, make, memory=side == 65 and not suffix)


if __name__ == "__main__":
    options = parse(__doc__)
    number, sides = 16 if options.device == "cuda" else 2, (33, 65, 129)  # 65: of a 513x513 image at stride 8
    speed = peak_gflops(options.device)
    floors = [
        {"task": "unit, forward", "side": side, "images": number, "variant": "floor"}
        | {"ms": round(1e3 * folded_gflop(number, side) / speed, 2)}
        for side in sides[1:]
    ]
    main([*unit_variants(UNITS | RIVALS, sides, number, options.device)], options, also=floors, peak_gflops=speed)
