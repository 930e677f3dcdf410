"""Hamburger: the attention unit as a non-negative matrix factorization, solved anew for every image."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from emanet.common.checks import at_least_one
from emanet.model.emau import EPS, Gradient, e_step, normalize
from emanet.model.heads.layers import conv_bn


def update(
    x: Float[Tensor, "b c n"], bases: Float[Tensor, "b c k"], codes: Float[Tensor, "b n k"]
) -> tuple[Float[Tensor, "b c k"], Float[Tensor, "b n k"]]:
    """One multiplicative update of the codes, then of the bases, of ``x = bases codes^T``; no factor turns negative.

    Lee and Seung's rule: ``|x - bases codes^T|`` does not grow.
    """
    codes = codes * (x.transpose(1, 2) @ bases) / (codes @ (bases.transpose(1, 2) @ bases) + EPS)
    bases = bases * (x @ codes) / (bases @ (codes.transpose(1, 2) @ codes) + EPS)
    return bases, codes


def factorize(
    x: Float[Tensor, "b c n"], bases: Float[Tensor, "b c k"], *, T: int, gradient: Gradient = "last"
) -> tuple[Float[Tensor, "b c k"], Float[Tensor, "b n k"]]:
    """T updates from the given bases and their responsibilities; ``gradient``: those that autograd sees."""
    enabled = torch.is_grad_enabled()
    with torch.set_grad_enabled(enabled and gradient == "full"):
        codes = e_step(x, bases)
    for t in range(T):
        visible = gradient == "full" or (gradient == "last" and t == T - 1)
        with torch.set_grad_enabled(enabled and visible):
            bases, codes = update(x, bases, codes)
    return bases, codes


class Hamburger(nn.Module):
    r"""Hamburger with NMF (Geng, Guo, Chen, Li, Wei, Lin 2021, arXiv 2109.04553): bread, ham, bread.

    .. math::
        (D, C) = \mathrm{NMF}_T(\mathrm{ReLU}(W_l x + b_l)), \quad y = \mathrm{ReLU}(x + \mathrm{BN}(W_u D C^T))

    The bases start from uniform random numbers, L2-normalized, for every forward: in training from torch's generator
    (which the task seeds by step and rank), in evaluation always from the same ones, so that a score can be repeated.
    The factorization runs in float32 at least: sums over all pixels overflow float16.

    Args:
        channels: channels c of the input and of the output.
        K: rank, the number of bases.
        T: updates in training; the paper's 6.
        T_eval: updates in evaluation; ``None`` means ``T``.
        gradient: updates that autograd sees: the ``last`` one alone (the paper's one-step gradient) or all (``full``).

    Raises:
        ValueError: for values out of range.
    """

    bases: Tensor

    def __init__(
        self, channels: int = 512, *, K: int = 64, T: int = 6, T_eval: int | None = None, gradient: Gradient = "last"
    ) -> None:
        super().__init__()
        at_least_one(channels=channels, K=K, T=T, T_eval=T if T_eval is None else T_eval)
        if gradient not in ("last", "full"):
            raise ValueError(
                "a Hamburger learns its lower bread through the factorization, so gradient must be last or full, got "
                f"gradient={gradient!r}"
            )
        self.K, self.T, self.T_eval = K, T, T_eval
        self.gradient: Gradient = gradient
        self.lower = nn.Conv2d(channels, channels, 1)
        self.upper = conv_bn(channels, channels)
        fixed = torch.rand(1, channels, K, generator=torch.Generator().manual_seed(0), device="cpu")
        self.register_buffer("bases", fixed.to(self.lower.weight.device), persistent=False)

    @property
    def iterations(self) -> int:
        """Updates that the next forward runs."""
        return self.T if self.training or self.T_eval is None else self.T_eval

    def forward(self, x: Float[Tensor, "b c h w"]) -> tuple[Float[Tensor, "b c h w"], None]:
        """The input and its approximation of rank K."""
        pixels = torch.relu(self.lower(x)).flatten(2)
        kind = "cpu" if x.is_meta else x.device.type  # autocast knows no meta device
        with torch.autocast(kind, enabled=False):
            pixels = pixels.to(torch.promote_types(pixels.dtype, torch.float32))
            start = torch.rand_like(self.bases) if self.training else self.bases
            start = normalize(start.to(pixels.dtype)).expand(len(pixels), -1, -1)
            bases, codes = factorize(pixels, start, T=self.iterations, gradient=self.gradient)
            y = bases @ codes.transpose(1, 2)
        return torch.relu(x + self.upper(y.view(x.shape))), None

    def extra_repr(self) -> str:
        """Show the unit's settings in ``print(net)``."""
        return f"K={self.K}, T={self.T}, T_eval={self.T_eval}, gradient={self.gradient}"
