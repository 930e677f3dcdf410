"""Expectation-maximization attention: the E-step, the M-step, and the unit built from them.

Li, Zhong, Wu, Yang, Lin, Liu: *Expectation-Maximization Attention Networks for Semantic Segmentation*, ICCV 2019,
arXiv 1907.13426, section 3. Shapes: ``b`` images, ``c`` channels, ``n = h * w`` pixels, ``k`` bases.
"""

import math
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from emanet.common.checks import at_least_one, one_of, share
from emanet.model.projection import Projection, weighted_sums

Norm = Literal["l2", "layer", "none"]
Maintenance = Literal["moving_average", "backprop", "none"]
Gradient = Literal["none", "last", "full"]

EPS = 1e-6  # added to the weights and the norms, as the authors' code does (not a lower bound)


def e_step(
    x: Float[Tensor, "b c n"], mu: Float[Tensor, "b c k"], projection: Projection | None = None
) -> Float[Tensor, "b n k"]:
    """Assign pixels to bases, the paper's "responsibility estimation": ``z = softmax_k(x^T mu)``, rows sum to 1."""
    similarity = projection.similarity(x, mu) if projection else x.transpose(1, 2) @ mu
    return torch.softmax(similarity, dim=2)


def m_step(
    x: Float[Tensor, "b c n"], z: Float[Tensor, "b n k"], norm: Norm = "l2", projection: Projection | None = None
) -> Float[Tensor, "b c k"]:
    """Re-estimate the bases, the paper's "likelihood maximization": means weighted by ``z``, then normalized."""
    weights = z / (EPS + z.sum(dim=1, keepdim=True))
    return normalize(weighted_sums(x, weights, projection), norm)


def reconstruct(z: Float[Tensor, "b n k"], mu: Float[Tensor, "b c k"]) -> Float[Tensor, "b c n"]:
    """Every pixel from the bases, the paper's "data re-estimation": ``mu z^T``, of rank at most K.

    Computed with the channels of a pixel side by side in memory, in which the convolution that follows is fastest.
    """
    return (z @ mu.transpose(1, 2)).transpose(1, 2)


def normalize(mu: Float[Tensor, "b c k"], norm: Norm = "l2") -> Float[Tensor, "b c k"]:
    """Normalize each base over its channels.

    ``l2`` divides by ``1e-6 + ||mu||`` (the paper's choice: a base of norm r ends with norm r / (r + 1e-6));
    ``layer`` is a layer norm without learned scale and shift; ``none`` leaves the bases as they are.
    """
    if norm == "l2":
        return mu / (EPS + torch.linalg.vector_norm(mu, dim=1, keepdim=True))
    if norm == "layer":
        return nn.functional.layer_norm(mu.transpose(1, 2), mu.shape[1:2]).transpose(1, 2)
    return mu


def expectation_maximization(
    x: Float[Tensor, "b c n"],
    mu: Float[Tensor, "b c k"],
    *,
    T: int = 3,
    norm: Norm = "l2",
    gradient: Gradient = "none",
    projection: Projection | None = None,
) -> tuple[Float[Tensor, "b n k"], Float[Tensor, "b c k"]]:
    """Run T rounds of E-step and M-step from the bases ``mu``; return the last ``z`` and the last ``mu``.

    The last ``z`` comes from the bases *before* the last M-step (FACTS 1.2). ``gradient`` says through which rounds
    autograd sees: ``none``, only the ``last`` one, or all of them (``full``). With a ``projection``, the pixels are
    ``W x + b``.
    """
    z = x.new_empty(0)
    for t in range(T):
        visible = gradient == "full" or (gradient == "last" and t == T - 1)
        with torch.set_grad_enabled(visible and torch.is_grad_enabled()):
            z = e_step(x, mu, projection)
            mu = m_step(x, z, norm, projection)
    return z, mu


class EMAU(nn.Module):
    r"""Expectation-Maximization Attention Unit (paper section 3).

    .. math::
        (z, \mu) = \mathrm{EM}_T(W_1 x + b_1), \quad
        y = \mathrm{ReLU}(x + \mathrm{BN}(W_2\,\mathrm{ReLU}(\mu z^T)))

    Every default is what the authors' code computes (FACTS section 1). ``forward`` changes no state: the stored bases
    ``self.mu`` of shape (1, c, k) move only through :meth:`update_bases`.

    Args:
        channels: channels c of the input and of the output.
        K: number of bases.
        T: EM iterations in training.
        T_eval: EM iterations in evaluation; ``None`` means ``T``.
        momentum: share of the old bases that an update keeps, 0..1.
        norm: normalization of the bases after each M-step: ``l2``, ``layer`` or ``none``.
        maintenance: how the initial bases evolve over training. ``moving_average``: towards the mean of each batch's
            final bases; ``backprop``: they are a parameter, trained by gradient; ``none``: they stay as drawn.
        gradient: EM iterations that autograd sees: ``none`` (the authors': the attention branch sends no gradient to
            ``conv1`` or to the input, which is reached through the residual alone), ``last`` or ``full``.

    Raises:
        ValueError: for values out of range, and for ``maintenance="backprop"`` where no gradient reaches the bases.
    """

    def __init__(
        self,
        channels: int = 512,
        *,
        K: int = 64,
        T: int = 3,
        T_eval: int | None = None,
        momentum: float = 0.9,
        norm: str = "l2",
        maintenance: str = "moving_average",
        gradient: str = "none",
    ) -> None:
        super().__init__()
        at_least_one(channels=channels, K=K, T=T, T_eval=T if T_eval is None else T_eval)
        share(momentum=momentum)
        one_of(Norm, norm=norm)
        one_of(Maintenance, maintenance=maintenance)
        one_of(Gradient, gradient=gradient)
        if maintenance == "backprop" and not (gradient == "full" or (gradient == "last" and T == 1)):
            raise ValueError(
                f"maintenance=backprop trains the bases by gradient, but with gradient={gradient} and T={T} none "
                "reaches them: set gradient=full, or gradient=last with T=1"
            )
        self.K, self.T, self.T_eval = K, T, T_eval
        self.momentum = momentum
        self.norm: Any = norm
        self.maintenance = maintenance
        self.gradient: Any = gradient

        self.conv1 = nn.Conv2d(channels, channels, 1)
        self.conv2 = nn.Sequential(nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels))
        mu = normalize(torch.randn(1, channels, K) * math.sqrt(2 / K), "l2")
        if maintenance == "backprop":
            self.mu = nn.Parameter(mu)
        else:
            self.register_buffer("mu", mu)
        self._init_weights()

    def _init_weights(self) -> None:
        """Draw both 1x1 convolutions from normal(0, sqrt(2 / c)); conv1's bias keeps PyTorch's default (FACTS 1.4)."""
        for weight in (self.conv1.weight, self.conv2.get_parameter("0.weight")):
            nn.init.normal_(weight, 0.0, math.sqrt(2 / weight.shape[0]))  # kernel 1x1: fan-out is c
        if self.gradient == "none":
            # No gradient can reach conv1: it keeps its start for good and so sets the temperature of the E-step.
            # Frozen openly, since DDP refuses parameters that silently take no part in the loss.
            self.conv1.requires_grad_(False)

    @property
    def iterations(self) -> int:
        """EM iterations that the next forward runs: ``T`` in training, ``T_eval`` in evaluation if it is set."""
        return self.T if self.training or self.T_eval is None else self.T_eval

    def attend(self, x: Float[Tensor, "b c h w"]) -> tuple[Float[Tensor, "b n k"], Float[Tensor, "b c k"]]:
        """Responsibilities ``z`` and final bases ``mu`` for the input ``x``: conv1, then EM from the stored bases.

        Folding conv1 replaces c * c multiplications for each pixel by as many for each base, twice an iteration.
        """
        with torch.set_grad_enabled(self.gradient != "none" and torch.is_grad_enabled()):
            if torch.compiler.is_compiling() or x.shape[2:].numel() > 2 * self.iterations * self.K:
                projection = Projection(self.conv1.weight.flatten(1), self.conv1.get_parameter("bias")[:, None])
                return self.run_em(x.flatten(2), projection)
            return self.run_em(self.conv1(x).flatten(2))

    def run_em(
        self, x: Float[Tensor, "b c n"], projection: Projection | None = None
    ) -> tuple[Float[Tensor, "b n k"], Float[Tensor, "b c k"]]:
        """EM from the stored bases over the pixels ``x``, or over what the ``projection`` maps them to."""
        mu = self.mu.expand(len(x), -1, -1)
        settings: Any = {"T": self.iterations, "norm": self.norm, "gradient": self.gradient}
        return expectation_maximization(x, mu, projection=projection, **settings)

    def forward(self, x: Float[Tensor, "b c h w"]) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b c k"]]:
        """Return the attended features and each image's final bases; the stored bases stay as they are."""
        z, mu = self.attend(x)
        with torch.set_grad_enabled(self.gradient != "none" and torch.is_grad_enabled()):
            y = torch.relu_(reconstruct(z, mu)).unflatten(2, x.shape[2:])
        return torch.relu_(self.conv2(y) + x), mu

    @torch.no_grad()
    def update_bases(self, mu: Float[Tensor, "b c k"]) -> None:
        """Move the stored bases towards the mean of ``mu`` over the batch, once per optimizer step.

        The paper's "bases maintenance". In place, because a re-assigned buffer is neither synchronized by DDP nor seen
        by an exported graph. Bases that are a parameter (``backprop``) or fixed (``none``) do not move.
        """
        if self.maintenance == "moving_average":
            mean = mu.mean(dim=0, keepdim=True).to(self.mu.dtype)
            self.mu.mul_(self.momentum).add_(mean, alpha=1 - self.momentum)

    def extra_repr(self) -> str:
        """Show the unit's settings in ``print(net)``."""
        names = ("K", "T", "T_eval", "momentum", "norm", "maintenance", "gradient")
        return ", ".join(f"{name}={getattr(self, name)}" for name in names)
