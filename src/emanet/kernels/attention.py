"""The fast EM unit, put together from the operators; bases come and go as (b, c, k), as in :mod:`emanet.emau`."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from emanet.kernels.ops import em_iterations, em_reconstruct, em_statistics
from emanet.kernels.reference import EPS, finish


def iterate(
    x: Float[Tensor, "b c n"], mu: Float[Tensor, "b c k"], *, T: int, norm: str, gradient: str
) -> tuple[Float[Tensor, "b c k"], Float[Tensor, "b c k"]]:
    """T iterations from the bases ``mu``: the bases of the last E-step, and the last ones.

    The meaning is that of :func:`emanet.emau.expectation_maximization`; the difference is in rounding alone. Between
    iterations the bases are float32, whatever the type of ``x``; the last ones come back in the type of ``mu``.
    """
    hidden = {"none": T, "last": T - 1, "full": 0}[gradient] if torch.is_grad_enabled() else T
    bases = before = mu.transpose(1, 2)
    if hidden:
        with torch.no_grad():
            bases, before = em_iterations(x, bases, hidden, norm)
    for _ in range(T - hidden):
        before = bases
        sums, weights = em_statistics(x, bases, None)
        bases = finish(sums, weights, norm)
    return before.transpose(1, 2), bases.to(mu.dtype).transpose(1, 2)


def reconstruct(
    x: Float[Tensor, "b c n"], before: Float[Tensor, "b c k"], mu: Float[Tensor, "b c k"], *, relu: bool
) -> Float[Tensor, "b c n"]:
    """Every pixel from the bases ``mu`` by its responsibilities under ``before``, which never reach memory."""
    return em_reconstruct(x, before.transpose(1, 2), mu.transpose(1, 2), relu)


def iterate_in_place(
    x: Float[Tensor, "b c n"], mu: Float[Tensor, "b c k"], *, T: int, normalise: Callable[[Tensor], Tensor]
) -> tuple[Float[Tensor, "b n k"], Float[Tensor, "b c k"]]:
    """T iterations of plain PyTorch in two buffers of (n, k): the last responsibilities and bases, without gradient.

    Bit for bit what the plain steps give: the same operations, none of whose results takes new memory. On a CPU new
    memory of this size costs more than the arithmetic on it.
    """
    mu = mu.to(x.dtype)
    z = x.new_empty(x.shape[0], x.shape[2], mu.shape[2])
    weights = torch.empty_like(z)
    for _ in range(T):
        torch.bmm(x.transpose(1, 2), mu, out=z)
        torch.softmax(z, 2, out=z)
        torch.div(z, EPS + z.sum(dim=1, keepdim=True), out=weights)
        mu = normalise(torch.bmm(x, weights)).to(x.dtype)
    return z, mu


def reconstruct_in_place(
    z: Float[Tensor, "b n k"], mu: Float[Tensor, "b c k"], pixels: Float[Tensor, "b c n"]
) -> Float[Tensor, "b c n"]:
    """Every pixel from the bases, ``mu z^T``, written over ``pixels`` where those lie in memory without gaps."""
    if pixels.is_contiguous():
        return torch.bmm(mu, z.transpose(1, 2), out=pixels)
    if pixels.transpose(1, 2).is_contiguous():  # a product into strided memory may take 1000 times as long
        return torch.bmm(z, mu.transpose(1, 2), out=pixels.transpose(1, 2)).transpose(1, 2)
    return mu @ z.transpose(1, 2)
