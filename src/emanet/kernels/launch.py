"""Start the Triton kernels: which blocks, how many programs, and the partial results between them.

Importing this module needs Triton. The plans are a fixed function of shape, type and layout, not tuned at run time: a
tuned choice may differ from run to run, and with it the order of the sums. A plan that needs more shared memory than
the GPU has is followed by a smaller one.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from triton.runtime.errors import OutOfResources

from emanet.kernels import triton_kernels as tk

#: Whether kernels run in Triton's interpreter (TRITON_INTERPRET=1 when Triton was imported).
INTERPRETED = not isinstance(tk.statistics_kernel, triton.JITFunction)
INTERPRETED_PROCESSORS = 8


class Plan(NamedTuple):
    """Blocks of one launch."""

    block_n: int  # pixels at a time
    block_c: int  # channels whose sums a program keeps
    block_k: int  # bases, padded
    chunk: int  # channels at a time where they are streamed
    num_warps: int
    num_stages: int = 2


#: The first plan that fitted, by kernel, plan candidates and device.
_fitting: dict[tuple[Any, ...], int] = {}


def plans_for_sums(x: Tensor, k: int, *, backward: bool = False) -> list[Plan]:
    """Plans for a kernel that keeps sums (channels, bases) in registers, the best first.

    128 registers a thread for the sums is what the forward kernel takes without spilling (compiled for sm_90 and
    sm_80); the backward one has two more products in flight, and float32 products need the registers for themselves.
    """
    half, block_k, cover = x.element_size() == 2, pad(k), pad(x.shape[1])
    area = (32768 if half else 8192) // (2 if backward else 1)
    block_c = max(16, min(cover, area // block_k))
    chunk = min(cover, 64 if half else 32)
    wide = half and is_channels_last(x) and not (backward and block_k > 128)
    blocks = [(64, block_c)] if wide else []
    while block_c >= 16:
        blocks.append((32, block_c))
        block_c //= 2
    blocks.append((16, 16))
    full = 8192 if half else 4096
    return [Plan(n, c, block_k, min(chunk, c), 8 if c * block_k >= full else 4) for n, c in blocks]


def plans_for_reconstruction(x: Tensor, k: int) -> list[Plan]:
    """Plans for the kernel that writes pixels, the best first."""
    half, block_k, cover = x.element_size() == 2, pad(k), pad(x.shape[1])
    chunk = min(cover, 64 if half else 32)
    first = 128 if half and block_k <= 64 else 64
    return [Plan(n, chunk, block_k, chunk, 8 if n >= 64 else 4) for n in (first, 32, 16)]


def statistics(x: Tensor, mu: Tensor, values: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """See :func:`emanet.kernels.reference.statistics`."""
    sums, weights = partial_statistics(x, as_bases(mu, x), values)
    return sums.sum(dim=1), weights.sum(dim=1)


def partial_statistics(x: Tensor, mu: Tensor, values: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Sums (b, splits, k, c) and weights (b, splits, k), one part per program."""
    (b, c, n), k = x.shape, mu.shape[1]
    own = x if values is None else values

    def launch(plan: Plan) -> tuple[Tensor, Tensor]:
        groups, splits, per_split = split_pixels(x, plan)
        sums = x.new_empty(b, splits, k, c, dtype=torch.float32)
        weights = x.new_empty(b, splits, k, dtype=torch.float32)
        if sums.numel():
            tk.statistics_kernel[groups, splits, b](
                x, own, mu, sums, weights, n, per_split, *strides(x), *strides(own),
                C=c, K=k, BLOCK_N=plan.block_n, BLOCK_K=plan.block_k, BLOCK_C=plan.block_c, CHUNK=plan.chunk,
                OWN=values is None, **switches(x, own), **warps(plan),
            )  # fmt: skip
        return sums, weights

    return first_that_fits("statistics", plans_for_sums(x, k), x.device, launch)


def iterations(x: Tensor, mu: Tensor, T: int, norm: str) -> tuple[Tensor, Tensor]:
    """See :func:`emanet.kernels.reference.iterations`; two launches an iteration."""
    (b, c, _), k = x.shape, mu.shape[1]
    before = bases = mu.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    low = as_bases(mu, x)
    for _ in range(T):
        sums, weights = partial_statistics(x, low)
        before, bases = bases, x.new_empty(b, k, c, dtype=torch.float32)
        low = torch.empty_like(bases, dtype=x.dtype)
        if bases.numel():
            tk.finish_kernel[k, b](
                sums, weights, bases, low, sums.shape[1], C=c, K=k, BLOCK_C=pad(c), NORM=norm, num_warps=4
            )
        del sums, weights  # so that the next iteration's take their place
    return bases, before


def reconstruct(x: Tensor, before: Tensor, mu: Tensor, relu: bool) -> Tensor:
    """See :func:`emanet.kernels.reference.reconstruct`."""
    (b, c, n), k = x.shape, mu.shape[1]
    y = torch.empty_like(x)
    before, mu = as_bases(before, x), as_bases(mu, x)

    def launch(plan: Plan) -> Tensor:
        if y.numel():
            tk.reconstruct_kernel[triton.cdiv(n, plan.block_n), b](
                x, before, mu, y, n, *strides(x), *strides(y),
                C=c, K=k, BLOCK_N=plan.block_n, BLOCK_K=plan.block_k, CHUNK=plan.chunk,
                RELU=relu, **switches(x, y), **warps(plan),
            )  # fmt: skip
        return y

    return first_that_fits("reconstruct", plans_for_reconstruction(x, k), x.device, launch)


def assignment_backward(
    x: Tensor, mu: Tensor, up: Tensor, target: Tensor, grad_weights: Tensor | None, bases: bool
) -> tuple[Tensor, Tensor]:
    """See :func:`emanet.kernels.reference.assignment_backward`; without ``bases`` their gradient is zero-sized."""
    (b, c, n), k = x.shape, mu.shape[1]
    grad_x = torch.empty_like(x)
    mu, target = as_bases(mu, x), as_bases(target, x)
    step = grad_weights is not None
    weights = x.new_empty(0, dtype=torch.float32) if grad_weights is None else grad_weights.float().contiguous()

    def launch(plan: Plan) -> Tensor:
        groups, splits, per_split = split_pixels(x, plan)
        grad_mu = x.new_empty(b, splits if bases else 0, k, c, dtype=torch.float32)
        if splits * b:
            tk.assignment_backward_kernel[groups, splits, b](
                x, mu, up, target, weights, grad_x, grad_mu, n, per_split, *strides(x), *strides(up), *strides(grad_x),
                C=c, K=k, BLOCK_N=plan.block_n, BLOCK_K=plan.block_k, BLOCK_C=plan.block_c, CHUNK=plan.chunk,
                STEP=step, BASES=bases, **switches(x, up, grad_x), **warps(plan),
            )  # fmt: skip
        return grad_mu

    grad_mu = first_that_fits("backward", plans_for_sums(x, k, backward=True), x.device, launch)
    return grad_x, grad_mu.sum(dim=1) if bases else grad_mu.new_empty(0)


def first_that_fits(name: str, plans: list[Plan], device: torch.device, launch: Callable[[Plan], Any]) -> Any:
    """Launch by the first plan whose shared memory the GPU has; which one that was is remembered.

    Raises:
        OutOfResources: if none fits.
    """
    key = (name, tuple(plans), device)
    for index in range(_fitting.get(key, 0), len(plans)):
        try:
            result = launch(plans[index])
        except OutOfResources:
            if index == len(plans) - 1:
                raise
            continue
        _fitting[key] = index
        return result
    raise AssertionError("no plans")


def split_pixels(x: Tensor, plan: Plan) -> tuple[int, int, int]:
    """Groups of channels, splits of the pixels, and pixels per split: about one program for each processor."""
    b, c, n = x.shape
    groups, blocks = triton.cdiv(c, plan.block_c), triton.cdiv(n, plan.block_n)
    wanted = max(1, processors(x.device) // max(1, b * groups))
    per_split = triton.cdiv(blocks, wanted) * plan.block_n
    return groups, triton.cdiv(n, per_split) if n else 0, per_split


def processors(device: torch.device) -> int:
    """Multiprocessors of the GPU."""
    if INTERPRETED:
        return INTERPRETED_PROCESSORS
    return torch.cuda.get_device_properties(device).multi_processor_count


def as_bases(mu: Tensor, x: Tensor) -> Tensor:
    """Bases (b, k, c) as the kernels read them: dense, in the type of the pixels."""
    return mu.to(x.dtype).contiguous()


def strides(x: Tensor) -> Iterator[int]:
    """Strides of pixels (b, c, n) in the order of the kernels' arguments: image, pixel, channel."""
    return iter((x.stride(0), x.stride(2), x.stride(1)))


def switches(*tensors: Tensor) -> dict[str, Any]:
    """What the kernels must know of types and sizes."""
    reach = max(sum((size - 1) * step for size, step in zip(t.shape[1:], t.stride()[1:], strict=True)) for t in tensors)
    exact = torch.get_float32_matmul_precision() == "highest"
    return {
        "WIDE": reach >= 2**31,
        "UPCAST": INTERPRETED and tensors[0].dtype == torch.bfloat16,
        "PRECISION": "ieee" if exact else "tf32",
    }


def warps(plan: Plan) -> dict[str, int]:
    """The launch options of a plan."""
    return {"num_warps": plan.num_warps, "num_stages": plan.num_stages}


def is_channels_last(x: Tensor) -> bool:
    """Whether a pixel's channels lie next to each other."""
    return x.stride(1) == 1


def pad(size: int) -> int:
    """The power of two that covers a size, and at least what a matrix product takes."""
    return max(16, triton.next_power_of_2(size))
