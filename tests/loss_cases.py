"""Cases for the loss of upsampled logits, and the process that runs them in Triton's interpreter.

``TRITON_INTERPRET=1 python tests/loss_cases.py FOLDER`` leaves each case's results as FOLDER/NAME.pt; a read out of
bounds ends that process alone. ``python tests/loss_cases.py compile sm_90`` compiles the kernels without a GPU and
prints which.
"""

import json
import sys
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Case(NamedTuple):
    """One problem: sizes of logits and mask, and what is special about it."""

    classes: int
    low: tuple[int, int]
    size: tuple[int, int]
    align_corners: bool = True
    b: int = 2
    weighted: bool = False
    ignored: float = 0.3
    dtype: torch.dtype = torch.float32
    channels_last: bool = False
    scale: float = 3.0  # of the logits
    buffer: int | None = None  # elements of the row sums at once


CASES = {
    "aligned": Case(3, (2, 3), (9, 17)),
    "half pixels": Case(3, (2, 3), (8, 13), align_corners=False),
    "no whole stride, weights": Case(3, (3, 4), (8, 11), weighted=True),
    "half pixels, weights, channels last": Case(
        4, (3, 2), (7, 9), align_corners=False, weighted=True, channels_last=True
    ),
    "more classes than a block": Case(18, (2, 2), (5, 5), b=1),
    "wider than a block": Case(2, (1, 34), (2, 133), b=1),
    "an image at a time": Case(3, (2, 2), (5, 5), b=3, buffer=1),
    "smaller than the logits": Case(2, (7, 6), (3, 4), b=1, align_corners=False),
    "same size": Case(2, (4, 5), (4, 5), b=1),
    "one position": Case(2, (1, 1), (4, 5), b=1),
    "all ignored": Case(2, (2, 2), (5, 5), b=1, ignored=1.0),
    "one class": Case(1, (2, 2), (5, 5), b=1),
    "large logits": Case(3, (2, 2), (5, 5), b=1, scale=1e4),
    "float16": Case(3, (2, 3), (9, 9), dtype=torch.float16),
    "bfloat16": Case(3, (2, 3), (9, 9), align_corners=False, dtype=torch.bfloat16),
}


def inputs(case: Case) -> tuple[Tensor, Tensor, Tensor | None]:
    """Logits, mask and class weights of a case, drawn from its own seed."""
    draw = torch.Generator().manual_seed(case.classes * 100 + case.size[1])
    low = torch.randn(case.b, case.classes, *case.low, generator=draw) * case.scale
    mask = torch.randint(0, case.classes, (case.b, *case.size), generator=draw)
    mask[torch.rand(mask.shape, generator=draw) < case.ignored] = 255
    weights = torch.rand(case.classes, generator=draw) + 0.5 if case.weighted else None
    layout = torch.channels_last if case.channels_last else torch.contiguous_format
    return low.to(case.dtype).contiguous(memory_format=layout), mask, weights


def reference(
    low: Tensor, mask: Tensor, weights: Tensor | None, align_corners: bool, dtype: torch.dtype = torch.float64
) -> dict[str, Tensor]:
    """Loss of each pixel, their sum and its gradient, by interpolating first."""
    leaf = low.detach().to(dtype).requires_grad_()
    logits = F.interpolate(leaf, size=mask.shape[-2:], mode="bilinear", align_corners=align_corners)
    weight = None if weights is None else weights.to(dtype)
    losses = F.cross_entropy(logits, mask, weight=weight, ignore_index=255, reduction="none")
    (gradient,) = torch.autograd.grad(losses.sum(), leaf)
    return {"losses": losses.detach(), "total": losses.sum().detach(), "gradient": gradient}


def run(case: Case, method: str, device: str = "cpu") -> dict[str, Tensor]:
    """The same, without interpolating first."""
    from emanet.kernels.upsampled_loss import upsampled_cross_entropy, upsampled_losses

    low, mask, weights = (None if value is None else value.to(device) for value in inputs(case))
    assert low is not None
    assert mask is not None
    leaf = low.requires_grad_()
    options = {"align_corners": case.align_corners, "class_weights": weights, "method": method}
    total = upsampled_cross_entropy(leaf, mask, **options)
    (gradient,) = torch.autograd.grad(total, leaf)
    losses = upsampled_losses(leaf, mask, **options)
    return {"losses": losses.cpu(), "total": total.detach().cpu(), "gradient": gradient.cpu()}


def run_all(folder: Path) -> None:
    """Every case; then a label out of range."""
    from emanet.kernels import upsampled_loss_triton

    buffer = upsampled_loss_triton.BUFFER
    for name, case in CASES.items():
        upsampled_loss_triton.BUFFER = case.buffer or buffer
        torch.save(run(case, "triton"), folder / f"{name}.pt")
    from emanet.kernels.upsampled_loss import upsampled_losses

    losses = upsampled_losses(
        torch.zeros(1, 2, 2, 2), torch.tensor([[[0, 2], [-1, 255]]]), align_corners=True, method="triton"
    )
    torch.save(losses, folder / "out of range.pt")


def compile_all(capability: int) -> list[str]:
    """Compile the kernels for a GPU's architecture, 90 for sm_90, for logits of each type; needs no GPU."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from emanet.kernels import upsampled_loss_triton as ut

    constants = {
        "WEIGHTED": True,
        "BLOCK_C": ut.BLOCK_CLASSES,
        "BLOCK_W": ut.BLOCK_WIDTH,
        "BLOCK_P": ut.BLOCK_PLANES,
        "BLOCK_J": ut.BLOCK_COLUMNS,
    }
    kinds = {name: "constexpr" for name in constants} | {"mask": "*i64"}
    kinds |= {name: "i32" for name in ("ignore_index", "C", "h", "w", "H", "W", "reach", "planes")}
    kinds |= {name: "*i32" for name in ("tops", "lefts", "row_starts", "column_starts")}
    compiled = []
    for kernel in (ut.pixel_losses, ut.row_gradients, ut.column_gradients):
        for low in ("*fp32", "*bf16") if "low" in kernel.arg_names else ("*fp32",):
            names = list(kernel.arg_names)
            source = ASTSource(
                fn=kernel,
                signature={name: low if name == "low" else kinds.get(name, "*fp32") for name in names},
                constexprs={(names.index(name),): value for name, value in constants.items() if name in names},
            )
            target = GPUTarget("cuda", capability, 32)
            assert triton.compile(source, target=target, options={"num_warps": 4}).asm["cubin"]
            compiled.append(f"{kernel.__name__} {low[1:]}")
    return compiled


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))
    torch.set_num_threads(1)
    if sys.argv[1] == "compile":
        print(json.dumps(compile_all(int(sys.argv[2].removeprefix("sm_")))))
    else:
        run_all(Path(sys.argv[1]))
