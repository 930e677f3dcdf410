"""The operations of the EM unit in plain PyTorch: what the Triton kernels are tested against, and what runs elsewhere.

Pixels are ``x`` (b, c, n), bases ``mu`` (b, k, c): a base's channels lie next to each other, as the kernels read them.
Half-precision input is computed in float32; sums come out in float32, or float64 for float64 input.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

EPS = 1e-6  # added to weights and norms, as in emanet.emau


def accumulation_type(dtype: torch.dtype) -> torch.dtype:
    """The type in which statistics of pixels of a type are summed."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def widen(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors in the accumulation type of the first one."""
    return tuple(tensor.to(accumulation_type(tensors[0].dtype)) for tensor in tensors)


def responsibilities(x: Tensor, mu: Tensor) -> Tensor:
    """E-step: z (b, n, k)."""
    return torch.softmax(x.transpose(1, 2) @ mu.transpose(1, 2), dim=2)


def statistics(x: Tensor, mu: Tensor, values: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Sums over pixels of ``z * value`` (b, k, c) and of ``z`` (b, k); the value is the pixel itself by default."""
    x, mu, values = widen(x, mu, x if values is None else values)
    z = responsibilities(x, mu)
    return z.transpose(1, 2) @ values.transpose(1, 2), z.sum(dim=1)


def finish(sums: Tensor, weights: Tensor, norm: str) -> Tensor:
    """The M-step's end: bases (b, k, c) from the statistics; differentiable."""
    mu = sums / (EPS + weights[..., None])
    if norm == "l2":
        return mu / (EPS + torch.linalg.vector_norm(mu, dim=2, keepdim=True))
    return F.layer_norm(mu, mu.shape[2:]) if norm == "layer" else mu


def iterations(x: Tensor, mu: Tensor, T: int, norm: str) -> tuple[Tensor, Tensor]:
    """T rounds from the bases ``mu``: the last bases and the ones before them."""
    before = mu = mu.to(accumulation_type(x.dtype), copy=True, memory_format=torch.contiguous_format)
    for _ in range(T):
        # Every E-step sees the bases in the type of the pixels, which is what the matrix units multiply.
        before, mu = mu, finish(*statistics(x, mu.to(x.dtype)), norm).contiguous()
    return mu, before


def reconstruct(x: Tensor, before: Tensor, mu: Tensor, relu: bool) -> Tensor:
    """Every pixel from the bases ``mu``, by the responsibilities under ``before``; in the layout of ``x``."""
    wide, before, mu = widen(x, before, mu)
    y = mu.transpose(1, 2) @ responsibilities(wide, before).transpose(1, 2)
    return torch.empty_like(x).copy_(torch.relu(y) if relu else y)


def assignment_backward(
    x: Tensor, mu: Tensor, up: Tensor, target: Tensor, grad_weights: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Backward through the responsibilities: gradients of the pixels (b, c, n) and of the bases (b, k, c).

    See :func:`emanet.kernels.triton_kernels.assignment_backward_kernel`; ``grad_weights`` is given for the statistics.
    """
    wide, mu, up, target = widen(x, mu, up, target)
    z = responsibilities(wide, mu)
    grad_z = up.transpose(1, 2) @ target.transpose(1, 2)
    if grad_weights is not None:
        grad_z = grad_z + grad_weights[:, None]
    h = z * (grad_z - (z * grad_z).sum(dim=2, keepdim=True))
    grad_x = h @ mu
    if grad_weights is not None:
        grad_x = grad_x + z @ target
    return torch.empty_like(x).copy_(grad_x.transpose(1, 2)), h.transpose(1, 2) @ wide.transpose(1, 2)
