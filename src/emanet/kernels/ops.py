"""The operations of the unit as PyTorch operators, which ``torch.compile`` and ``torch.export`` take as they are.

Where the Triton kernels can run, they do; elsewhere plain PyTorch (:mod:`emanet.kernels.reference`). Every operator has
a rule for shapes alone. Statistics and reconstruction have a gradient, for which nothing of size (n, k) is kept: the
responsibilities are found anew from the pixels and the bases.

Pixels are ``x`` (b, c, n) in any layout, bases ``mu`` (b, k, c).
"""

from typing import Any

import torch
from torch import Tensor

from emanet.kernels import reference
from emanet.kernels.choice import launcher, obstacle
from emanet.kernels.reference import accumulation_type


@torch.library.custom_op("emanet::em_statistics", mutates_args=())
def em_statistics(x: Tensor, mu: Tensor, values: Tensor | None) -> tuple[Tensor, Tensor]:
    """Sums over pixels of z times the value (b, k, c) and of z (b, k); the pixels themselves are the default values."""
    if obstacle(x, mu.shape[1]) is None:
        return launcher().statistics(x, mu, values)
    with torch.autocast(x.device.type, enabled=False):
        return reference.statistics(x, mu, values)


@em_statistics.register_fake
def _(x: Tensor, mu: Tensor, values: Tensor | None) -> tuple[Tensor, Tensor]:
    dtype = accumulation_type(x.dtype)
    return x.new_empty(mu.shape, dtype=dtype), x.new_empty(mu.shape[:2], dtype=dtype)


@torch.library.custom_op("emanet::em_iterations", mutates_args=())
def em_iterations(x: Tensor, mu: Tensor, T: int, norm: str) -> tuple[Tensor, Tensor]:
    """T iterations without gradient: the last bases and the ones before them, in the type of the sums."""
    if obstacle(x, mu.shape[1]) is None:
        return launcher().iterations(x, mu, T, norm)
    with torch.autocast(x.device.type, enabled=False):
        return reference.iterations(x, mu, T, norm)


@em_iterations.register_fake
def _(x: Tensor, mu: Tensor, T: int, norm: str) -> tuple[Tensor, Tensor]:
    dtype = accumulation_type(x.dtype)
    return x.new_empty(mu.shape, dtype=dtype), x.new_empty(mu.shape, dtype=dtype)


@torch.library.custom_op("emanet::em_reconstruct", mutates_args=())
def em_reconstruct(x: Tensor, before: Tensor, mu: Tensor, relu: bool) -> Tensor:
    """Pixels from the bases ``mu``, by the responsibilities under ``before``, ReLU on request; in the layout of x."""
    if obstacle(x, mu.shape[1]) is None:
        return launcher().reconstruct(x, before, mu, relu)
    with torch.autocast(x.device.type, enabled=False):
        return reference.reconstruct(x, before, mu, relu)


@em_reconstruct.register_fake
def _(x: Tensor, before: Tensor, mu: Tensor, relu: bool) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("emanet::em_assignment_backward", mutates_args=())
def em_assignment_backward(
    x: Tensor, mu: Tensor, up: Tensor, target: Tensor, grad_weights: Tensor | None, bases: bool
) -> tuple[Tensor, Tensor]:
    """Gradients of pixels and bases through the responsibilities; without ``bases`` theirs holds no element."""
    if obstacle(x, mu.shape[1]) is None:
        return launcher().assignment_backward(x, mu, up, target, grad_weights, bases)
    with torch.autocast(x.device.type, enabled=False):
        grad_x, grad_mu = reference.assignment_backward(x, mu, up, target, grad_weights)
    return grad_x, grad_mu if bases else grad_mu.new_empty(0)


@em_assignment_backward.register_fake
def _(
    x: Tensor, mu: Tensor, up: Tensor, target: Tensor, grad_weights: Tensor | None, bases: bool
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), x.new_empty(mu.shape if bases else (0,), dtype=accumulation_type(x.dtype))


def keep_statistics(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    """Keep what the gradient of the statistics needs."""
    x, mu, values = inputs
    if values is not None and (x.requires_grad or mu.requires_grad or values.requires_grad):
        raise NotImplementedError("em_statistics has a gradient for the sums of the pixels alone, not of other values")
    ctx.save_for_backward(x, mu)


def statistics_backward(ctx: Any, grad_sums: Tensor, grad_weights: Tensor) -> tuple[Any, ...]:
    """Gradients of the pixels and the bases from those of the sums and the weights."""
    x, mu = ctx.saved_tensors
    bases = ctx.needs_input_grad[1]
    grad_x, grad_mu = em_assignment_backward(x, mu, x, grad_sums, grad_weights, bases)
    return grad_x, grad_mu.to(mu.dtype) if bases else None, None


def keep_reconstruction(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    """Keep what the gradient of the reconstruction needs: the output too, for its sign."""
    x, before, mu, relu = inputs
    ctx.relu = relu
    ctx.save_for_backward(x, before, mu, *([output] if relu else []))


def reconstruction_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    """Gradients of the pixels and of both sets of bases from that of the reconstruction."""
    x, before, mu, *output = ctx.saved_tensors
    if ctx.relu:
        grad = grad * (output[0] > 0)
    needs_x, needs_before, needs_mu, _ = ctx.needs_input_grad
    grad_x = grad_before = grad_mu = None
    if needs_mu:
        grad_mu = em_statistics(x, before, grad)[0].to(mu.dtype)
    if needs_x or needs_before:
        grad_x, grad_before = em_assignment_backward(x, before, grad, mu, None, needs_before)
        grad_before = grad_before.to(before.dtype) if needs_before else None
    return grad_x, grad_before, grad_mu, None


em_statistics.register_autograd(statistics_backward, setup_context=keep_statistics)
em_reconstruct.register_autograd(reconstruction_backward, setup_context=keep_reconstruction)
