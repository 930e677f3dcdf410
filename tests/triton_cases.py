"""Cases for the Triton kernels, and the process that runs them in Triton's interpreter or compiles them for a GPU.

``TRITON_INTERPRET=1 python tests/triton_cases.py FOLDER`` runs every case and leaves its results as FOLDER/NAME.pt; a
read out of bounds ends that process alone. ``python tests/triton_cases.py compile sm_90`` compiles the kernels without
a GPU and prints what they need.
"""

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

T = 3


class Case(NamedTuple):
    """One problem: its size and how its pixels lie in memory."""

    b: int
    c: int
    n: int
    k: int
    dtype: torch.dtype = torch.float32
    layout: str = "rows"  # the fast axis: rows (NCHW) or channels (channels_last); or slice: neither is dense
    norm: str = "l2"
    scale: float = 1.0  # of the pixels, and so of the logits
    blocks: tuple[int, int] | None = None  # pixels and channels of a block, in place of the plan
    wide: bool = False  # 64-bit offsets


CASES = {
    "smallest": Case(1, 1, 1, 1),
    "rows": Case(2, 8, 20, 3),
    "channels": Case(2, 8, 20, 3, layout="channels"),
    "one base": Case(1, 48, 37, 1, layout="channels"),
    "one pixel": Case(2, 16, 1, 4),
    "layer norm": Case(1, 48, 40, 5, norm="layer", layout="channels"),
    "no norm": Case(1, 20, 40, 5, norm="none"),
    "slice of a larger tensor": Case(2, 24, 21, 7, layout="slice"),
    "groups of channels, some part full": Case(1, 40, 50, 6, blocks=(16, 16), layout="channels"),
    "64-bit offsets": Case(1, 24, 40, 6, wide=True, blocks=(16, 16)),
    "many pixels per program": Case(2, 16, 150, 5, blocks=(16, 16)),
    "paper's width": Case(1, 512, 40, 64, layout="channels", blocks=(16, 512)),
    "large logits": Case(1, 16, 50, 8, scale=1e4),
    "float16": Case(2, 48, 50, 5, torch.float16, "channels"),
    "float16, rows": Case(1, 40, 35, 6, torch.float16, blocks=(16, 16)),
    "bfloat16": Case(2, 48, 50, 5, torch.bfloat16, "channels"),
    "bfloat16, layer norm": Case(1, 24, 35, 3, torch.bfloat16, norm="layer"),
}


def inputs(case: Case) -> dict[str, Tensor]:
    """Pixels (b, c, n), bases (b, k, c) and gradients of a case, drawn from its own seed."""
    draw = torch.Generator().manual_seed(case.c * 1000 + case.n * 10 + case.k)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw)

    b, c, n, k = case[:4]
    if case.layout == "channels":
        x, values = normal(b, n, c).transpose(1, 2), normal(b, n, c).transpose(1, 2)
    elif case.layout == "slice":
        x, values = normal(b, c + 3, n + 5)[:, 1 : c + 1, 2 : n + 2], normal(b, c, n)
    else:
        x, values = normal(b, c, n), normal(b, c, n)
    mu = torch.nn.functional.normalize(normal(b, k, c), dim=2)
    found = {"x": case.scale * x, "values": values, "mu": mu, "target": normal(b, k, c)}
    return {name: value.to(case.dtype) for name, value in found.items()} | {"grad_weights": normal(b, k)}


def run(case: Case) -> dict[str, Tensor]:
    """All operations of the kernels on a case."""
    from emanet.kernels import launch

    assert launch.INTERPRETED
    force(case)
    x, values, mu, target, grad_weights = inputs(case).values()
    sums, weights = launch.statistics(x, mu)
    last, before = launch.iterations(x, mu, T, case.norm)
    step = launch.assignment_backward(x, mu, x, target, grad_weights, True)
    rebuilt = launch.assignment_backward(x, mu, values, target, None, False)
    return {
        "sums": sums,
        "weights": weights,
        "value_sums": launch.statistics(x, mu, values)[0],
        "last": last,
        "before": before,
        "y": launch.reconstruct(x, mu, target, False),
        "relu": launch.reconstruct(x, mu, target, True),
        "step_grad_x": step[0],
        "step_grad_mu": step[1],
        "rebuilt_grad_x": rebuilt[0],
    }


def force(case: Case) -> None:
    """Have the kernels take the blocks and offsets of a case, whatever the plan would be."""
    from emanet.kernels import launch

    plans, reconstruction, switches = ORIGINAL.setdefault(
        "launch", (launch.plans_for_sums, launch.plans_for_reconstruction, launch.switches)
    )
    launch.plans_for_sums, launch.plans_for_reconstruction = plans, reconstruction
    if case.blocks is not None:
        n, c = case.blocks
        plan = launch.Plan(n, c, launch.pad(case.k), 16 if c < case.c else c, 4)
        launch.plans_for_sums = launch.plans_for_reconstruction = lambda *args, **kwargs: [plan]
    launch.switches = (lambda *x: switches(*x) | {"WIDE": True}) if case.wide else switches


ORIGINAL: dict[str, Any] = {}


def run_unit(gradient: str) -> dict[str, Tensor]:
    """The whole unit with kernel=triton: forward and backward, the bases' gradient included where there is one."""
    x, unit, upstream = unit_and_input(gradient, kernel="triton")
    y, mu = unit(x)
    ((y * upstream).sum() + (mu * mu.detach()).sum() * (gradient != "none")).backward()
    gradients = {name: p.grad for name, p in unit.named_parameters() if p.grad is not None}
    return {"y": y.detach(), "mu": mu.detach(), "x": x.grad, "z": unit.attend(x)[0].detach(), **gradients}


def unit_and_input(gradient: str, kernel: str, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Any, Tensor]:
    """Pixels, a unit with drawn weights, and the gradient of its output."""
    from emanet.emau import EMAU

    torch.manual_seed(0)
    maintenance: Any = "backprop" if gradient == "full" else "moving_average"
    unit = EMAU(20, K=5, gradient=gradient, maintenance=maintenance, kernel=kernel)
    x, upstream = torch.randn(2, 20, 5, 7), torch.randn(2, 20, 5, 7)
    return x.to(dtype).requires_grad_(), unit.to(dtype), upstream.to(dtype)


def refusals() -> dict[str, Any]:
    """What happens to pixels that the kernels do not take, to no pixels, and to plans that do not fit."""
    from triton.runtime.errors import OutOfResources

    from emanet.kernels import launch, pick

    said = {}
    for name, x, k in (
        ("float64", torch.zeros(1, 4, 3, dtype=torch.float64), 2),
        ("channels", torch.zeros(1, 1025, 1), 2),
        ("bases", torch.zeros(1, 4, 1), 257),
    ):
        try:
            pick("triton", x, k)
        except ValueError as error:
            said[name] = str(error)
    tried = []

    def start(plan: Any) -> str:
        tried.append(plan.block_n)
        if plan.block_n > 16:
            raise OutOfResources(plan.block_n, 16, "shared memory")
        return "done"

    plans = launch.plans_for_sums(torch.zeros(1, 64, 100), 8)
    results = [launch.first_that_fits("try", plans, torch.device("cpu"), start) for _ in range(2)]
    empty = torch.zeros(2, 8, 0), torch.ones(2, 3, 8)
    none = [*launch.statistics(*empty), launch.reconstruct(*empty, empty[1], True)]
    return {"said": said, "results": results, "tried": tried, "none": none, "start": pick("triton", plans_x(), 2)}


def plans_x() -> Tensor:
    """Pixels that the kernels take, in the interpreter."""
    return torch.zeros(1, 4, 3)


def compile_for(target: str) -> list[dict[str, Any]]:
    """Compile the kernels for a GPU of the given kind, at the paper's size, with the plan that runs there first."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from emanet.kernels import launch
    from emanet.kernels import triton_kernels as tk

    c, k = 512, 64
    x = torch.empty(1, 4225, c, dtype=torch.bfloat16, device="meta").transpose(1, 2)
    forward, backward = (launch.plans_for_sums(x, k, backward=way)[0] for way in (False, True))
    rebuild = launch.plans_for_reconstruction(x, k)[0]
    found = []
    for kernel, plan in (
        (tk.statistics_kernel, forward),
        (tk.finish_kernel, forward),
        (tk.reconstruct_kernel, rebuild),
        (tk.assignment_backward_kernel, backward),
    ):
        constants: dict[str, Any] = dict(
            C=c, K=k, BLOCK_N=plan.block_n, BLOCK_K=plan.block_k, BLOCK_C=plan.block_c, CHUNK=plan.chunk, OWN=True,
            RELU=True, STEP=True, BASES=True, NORM="l2", WIDE=False, UPCAST=False, PRECISION="ieee",
            x_c=1, v_c=1, y_c=1, u_c=1, g_c=1,
        )  # fmt: skip
        constants = {name: value for name, value in constants.items() if name in kernel.arg_names}
        signature = {name: signature_of(name, constants, kernel is tk.finish_kernel) for name in kernel.arg_names}
        aligned = [
            (index,)
            for index, (name, kind) in enumerate(signature.items())
            if kind.startswith("*") or name == "per_split" or name.endswith(("_b", "_n"))
        ]
        built = triton.compile(
            ASTSource(kernel, signature, constants, {index: [["tt.divisibility", 16]] for index in aligned}),
            target=GPUTarget("cuda", int(target.removeprefix("sm_")), 32),
            options={"num_warps": plan.num_warps, "num_stages": plan.num_stages},
        )
        ptx = built.asm["ptx"]
        products = ptx.count("wgmma.mma_async") + ptx.count("mma.sync")
        found.append({"kernel": kernel.__name__, "shared": built.metadata.shared, "products": products})
    return found


def signature_of(name: str, constants: dict[str, Any], finishing: bool) -> str:
    """Triton's type of a kernel's argument."""
    if name in constants:
        return "constexpr"
    if name in ("sums", "weights", "grad_weights", "grad_mu") or (finishing and name == "mu"):
        return "*fp32"
    pointers = ("x", "values", "mu", "before", "y", "up", "target", "grad_x", "mu_low")
    return "*bf16" if name in pointers else "i32"


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))
    if sys.argv[1] == "compile":
        print(json.dumps(compile_for(sys.argv[2])))
    else:
        out = Path(sys.argv[1])
        for name, case in CASES.items():
            torch.save(run(case), out / f"{name}.pt")
        force(Case(1, 1, 1, 1))
        for gradient in ("none", "last", "full"):
            torch.save(run_unit(gradient), out / f"unit {gradient}.pt")
        torch.save(refusals(), out / "refusals.pt")
