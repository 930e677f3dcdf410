"""Which implementation runs: Triton where it can, PyTorch elsewhere, and never another than was asked for."""

from typing import Any, Literal

import torch
from torch import Tensor

Kernel = Literal["auto", "torch", "triton"]  # what is asked for
Backend = Literal["torch", "in_place", "triton"]  # what runs

TYPES = (torch.float32, torch.bfloat16, torch.float16)
MOST_CHANNELS = 1024
MOST_BASES = 256
#: Whether ``auto`` takes the Triton kernels: not before tests/unit/kernels/test_em_cuda.py has passed on a GPU.
PROVEN_ON_CUDA = False

_launchers: list[Any] = []  # filled on first use: Triton takes a while to import, and is on Linux alone


def launcher() -> Any:
    """The module that starts the Triton kernels; ``None`` where Triton is not installed."""
    if not _launchers:
        try:
            from emanet.kernels import launch
        except ImportError:
            _launchers.append(None)
        else:
            _launchers.append(launch)
    return _launchers[0]


def obstacle(x: Tensor, k: int) -> str | None:
    """Why the Triton kernels cannot take pixels (b, c, n) with ``k`` bases; ``None`` where they can."""
    if x.dtype not in TYPES:
        return f"it computes in float32, bfloat16 or float16, got {x.dtype}"
    if x.shape[1] > MOST_CHANNELS or k > MOST_BASES:
        return f"it takes up to {MOST_CHANNELS} channels and {MOST_BASES} bases, got channels={x.shape[1]}, K={k}"
    if launcher() is None:
        return "it needs the package triton, which is not installed"
    if not (x.is_cuda or launcher().INTERPRETED):
        return f"it needs a CUDA device, got a tensor on {x.device.type}"
    return None


def pick(kernel: Kernel, x: Tensor, k: int) -> Backend:
    """What computes pixels (b, c, n) with ``k`` bases.

    ``auto`` is the fastest that is exact up to the rounding of the pixels' type: Triton for 16-bit pixels on CUDA
    once ``PROVEN_ON_CUDA`` (of float32 pixels cuBLAS is the better reader), and no temporaries on a CPU where no
    gradient is asked for. In an exported program it is plain PyTorch, since the operators run only where this package
    is imported: ask for ``triton`` to export them all the same.

    Raises:
        ValueError: for ``kernel="triton"`` where the kernels cannot run.
    """
    if kernel == "triton":
        reason = obstacle(x, k)
        if reason is not None:
            raise ValueError(f"kernel=triton cannot run here: {reason}; set kernel=auto or kernel=torch")
        return "triton"
    if kernel == "torch" or torch.jit.is_tracing() or is_exporting():
        return "torch"
    if PROVEN_ON_CUDA and x.is_cuda and x.element_size() == 2 and obstacle(x, k) is None:
        return "triton"
    eager = not (torch.compiler.is_compiling() or torch.is_grad_enabled())
    return "in_place" if eager and x.device.type == "cpu" else "torch"


def is_exporting() -> bool:
    """Whether ``torch.export`` is tracing; before torch 2.7 it cannot be told from ``torch.compile``."""
    return getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)()
