"""What one debugs an attention unit by: which bases are used, how alike they are, whether the EM has come to rest.

Shapes as in :mod:`emanet.model.emau`: ``n`` pixels, ``k`` bases, ``c`` channels; ``z`` responsibilities, ``mu`` bases.
"""

import copy
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from emanet.inference.views import as_tested
from emanet.model.emau import EMAU

#: what :func:`measure` gives, as ``bases/<name>``
SCALARS = {
    "entropy": "entropy of a pixel's responsibilities, 0 (one base) to 1 (all alike)",
    "effective": "bases in use, 1 to K",
    "dead": "bases with less than a tenth of an equal share",
    "similarity": "mean |cosine| between stored bases",
    "similarity_max": "greatest |cosine| between stored bases",
    "rank": "directions that the stored bases span, 1 to K",
    "change": "turn of the bases in the last EM round, 0 to 2",
    "z_change": "responsibility that one more E-step would move, 0 to 1",
    "norm": "mean norm of the stored bases",
    "drift": "way of the stored bases since the last validation",
}
DEAD_SHARE = 0.1  #: a base is dead if it has less than this part of the responsibility that all have in equal use


class Look(NamedTuple):
    """The EM on one image, in float64 on the host."""

    z: Float[Tensor, "n k"]  #: responsibilities that the network attends with: those of the last E-step
    z_next: Float[Tensor, "n k"]  #: those that another E-step would give, from the final bases
    mu: Float[Tensor, "c k"]  #: final bases
    mu_before: Float[Tensor, "c k"]  #: bases before the last M-step
    size: tuple[int, int]  #: rows and columns of the features, n in all

    @property
    def maps(self) -> Float[Tensor, "k h w"]:
        """The responsibilities as pictures."""
        return self.z.T.unflatten(1, self.size)


def has_bases(net: Any) -> bool:
    """Whether a network has an attention unit to look at."""
    return isinstance(getattr(net, "head", None), EMAU)


@torch.no_grad()
def look(net: Any, image: Float[Tensor, "1 3 h w"]) -> Look:
    """Run a network in evaluation up to its attention unit, and the EM of the unit; changes nothing in it."""
    features = net.fc0(net.backbone(as_tested(net, image)))
    unit = copy.copy(net.head)  # shares weights and bases; only its number of iterations is another
    T, seen = unit.iterations, {0: (net.head.mu, net.head.mu)}
    for unit.T in range(max(1, T - 1), T + 2):
        unit.T_eval = unit.T
        seen[unit.T] = unit.attend(features)
    tensors = (*seen[T], seen[T + 1][0], seen[T - 1][1])
    z, mu, z_next, before = (tensor[0].detach().cpu().double() for tensor in tensors)
    return Look(z, z_next, mu, before, (features.shape[-2], features.shape[-1]))


def relative_entropy(z: Float[Tensor, "n k"]) -> float:
    """Mean entropy of the pixels' responsibilities, in units of log k: 0 if every pixel has one base, 1 if all."""
    k = z.shape[1]
    return float(torch.special.entr(z).sum(dim=1).mean() / math.log(k)) if k > 1 else 0.0


def effective_bases(shares: Float[Tensor, " k"]) -> float:
    """Number of bases in use: the exponential of the entropy of their shares, k if all are equal, 1 if one has all."""
    return float(torch.special.entr(shares).sum().exp())


def dead_bases(shares: Float[Tensor, " k"]) -> int:
    """Number of bases whose share is below a tenth of ``1 / k``; a share that is no number counts as dead."""
    return int((~(shares >= DEAD_SHARE / len(shares))).sum())


def cosines(mu: Float[Tensor, "c k"]) -> Float[Tensor, "k k"]:
    """Cosine between each two bases."""
    directions = F.normalize(mu, dim=0)
    return directions.T @ directions


def similarity(mu: Float[Tensor, "c k"]) -> tuple[float, float]:
    """Mean and greatest absolute cosine between different bases; 0 for a single base."""
    k = mu.shape[1]
    if k < 2:
        return 0.0, 0.0
    others = cosines(mu).abs()[~torch.eye(k, dtype=torch.bool)]
    return float(others.mean()), float(others.max())


def effective_rank(mu: Float[Tensor, "c k"]) -> float:
    """Number of directions that the bases span: the exponential of the entropy of the squared singular values' shares.

    1 if all bases are parallel, k if they are orthogonal. Each base counts alike, whatever its norm.
    """
    if not mu.isfinite().all():  # which the decomposition refuses
        return math.nan
    energies = torch.linalg.svdvals(F.normalize(mu, dim=0)).square()
    return float(torch.special.entr(energies / energies.sum()).sum().exp())


def turn(mu: Float[Tensor, "c k"], before: Float[Tensor, "c k"]) -> float:
    """Mean distance between the directions of the bases now and before: 0 if none has turned, 2 if all are reversed."""
    return float(torch.linalg.vector_norm(F.normalize(mu, dim=0) - F.normalize(before, dim=0), dim=0).mean())


def measure(
    looks: Sequence[Look], stored: Float[Tensor, "c k"], previous: Float[Tensor, "c k"] | None = None
) -> dict[str, float]:
    """The scalars of :data:`SCALARS` from a few images, the stored bases, and the stored bases of the last time.

    ``change`` and ``z_change`` say how far the EM is from rest: what its last round did to the directions of the bases,
    and the share of a pixel's responsibility that one more E-step would move.
    """
    z = torch.cat([one.z for one in looks])
    shares = z.mean(dim=0)
    mean, greatest = similarity(stored)
    scalars = {
        "entropy": relative_entropy(z),
        "effective": effective_bases(shares),
        "dead": float(dead_bases(shares)),
        "similarity": mean,
        "similarity_max": greatest,
        "rank": effective_rank(stored),
        "change": sum(turn(one.mu, one.mu_before) for one in looks) / len(looks),
        "z_change": float(torch.cat([one.z_next - one.z for one in looks]).abs().sum(dim=1).mean() / 2),
        "norm": float(torch.linalg.vector_norm(stored, dim=0).mean()),
    }
    if previous is not None:
        scalars["drift"] = float(torch.linalg.vector_norm(stored - previous, dim=0).mean())
    return {f"bases/{name}": value for name, value in scalars.items()}
