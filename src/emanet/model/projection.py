"""A linear map of every pixel ahead of EM, folded into the bases: exact, and cheaper than mapping the pixels."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class Projection(NamedTuple):
    """The map ``W x + b`` of every pixel ahead of EM (the unit's conv1), folded into the bases instead of computed.

    EM reads it through products alone: ``(W x + b)^T mu = x^T (W^T mu) + b^T mu``, and a weighted sum of the mapped
    pixels is ``W`` times that of the pixels plus ``b`` times the sum of the weights.
    """

    weight: Float[Tensor, "c c"]
    bias: Float[Tensor, "c 1"]

    def similarity(self, x: Float[Tensor, "b c n"], mu: Float[Tensor, "b c k"]) -> Float[Tensor, "b n k"]:
        """``(W x + b)^T mu``."""
        return torch.baddbmm(self.bias.T @ mu, x.transpose(1, 2), self.weight.T @ mu)

    def sums(self, x: Float[Tensor, "b c n"], weights: Float[Tensor, "b n k"]) -> Float[Tensor, "b c k"]:
        """``(W x + b) weights``."""
        return self.weight @ (x @ weights) + self.bias * weights.sum(dim=1, keepdim=True)


def weighted_sums(
    x: Float[Tensor, "b c n"], weights: Float[Tensor, "b n k"], projection: Projection | None = None
) -> Float[Tensor, "b c k"]:
    """Sum the pixels, or what the ``projection`` maps them to, weighted for each base."""
    return projection.sums(x, weights) if projection else x @ weights
