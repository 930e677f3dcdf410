"""The unit under torch.compile, forward and backward: prints how far compiled and eager results differ."""

import json
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from emanet.emau import EMAU
from emanet.kernels import iterate, reconstruct


class Fast(nn.Module):
    """The unit through the operators, as it runs on CUDA."""

    def __init__(self, gradient: str) -> None:
        super().__init__()
        self.unit = EMAU(6, K=3, gradient=gradient)

    def forward(self, x: Tensor) -> Tensor:
        pixels = self.unit.conv1(x).flatten(2)
        start = self.unit.mu.expand(x.shape[0], -1, -1)
        before, mu = iterate(pixels, start, T=2, norm="l2", gradient=self.unit.gradient)
        return self.unit.conv2(reconstruct(pixels, before, mu, relu=True).view(x.shape))


class Plain(nn.Module):
    """The unit as it runs on a CPU."""

    def __init__(self, gradient: str) -> None:
        super().__init__()
        self.unit = EMAU(6, K=3, gradient=gradient)

    def forward(self, x: Tensor) -> Tensor:
        return self.unit(x)[0]


def results(net: nn.Module, x: Tensor, module: nn.Module) -> list[Tensor]:
    """Output, and the gradients of the unit's trained parameters."""
    y = net(x)
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return [y.detach(), *torch.autograd.grad((y * y.detach()).sum(), trained)]


def main() -> None:
    """Compile each, without a break in the graph, and print [largest value, differences...] by name."""
    torch.set_num_threads(1)
    found = {}
    for kind, build in (("operators", Fast), ("unit", Plain)):
        for gradient in ("none", "full"):
            torch.manual_seed(0)
            net, x = build(gradient).eval(), torch.randn(2, 6, 4, 5)
            expected = results(net, x, net)
            got = results(torch.compile(net, fullgraph=True, backend="aot_eager"), x, net)
            differences = [(a - b).abs().max().item() for a, b in zip(got, expected, strict=True)]
            found[f"{kind} {gradient}"] = [min(e.abs().max().item() for e in expected), *differences]
    print(json.dumps(found))


if __name__ == "__main__":
    main()
