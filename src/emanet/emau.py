"""Expectation-maximization attention: the E-step, the M-step, and the unit built from them.

Li, Zhong, Wu, Yang, Lin, Liu: *Expectation-Maximization Attention Networks for Semantic Segmentation*, ICCV 2019,
arXiv 1907.13426, section 3. Shapes: ``b`` images, ``c`` channels, ``n = h * w`` pixels, ``k`` bases.
"""

import math
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from emanet.kernels import (
    Backend,
    Kernel,
    expectation_maximization_over_tiles,
    iterate,
    iterate_in_place,
    pick,
    reconstruct,
    reconstruct_in_place,
)

Norm = Literal["l2", "layer", "none"]
Maintenance = Literal["moving_average", "backprop", "none"]
Gradient = Literal["none", "last", "full"]

__all__ = ["EMAU", "e_step", "expectation_maximization", "expectation_maximization_over_tiles", "m_step", "normalise"]

EPS = 1e-6  # added to the norms, as the authors' code does (not a lower bound)


def e_step(x: Float[Tensor, "b c n"], mu: Float[Tensor, "b c k"]) -> Float[Tensor, "b n k"]:
    """Assign pixels to bases, the paper's "responsibility estimation": ``z = softmax_k(x^T mu)``, rows sum to 1."""
    return torch.softmax(x.transpose(1, 2) @ mu, dim=2)


def m_step(x: Float[Tensor, "b c n"], z: Float[Tensor, "b n k"], norm: Norm = "l2") -> Float[Tensor, "b c k"]:
    """Re-estimate the bases, the paper's "likelihood maximization": means weighted by ``z``, then normalised."""
    weights = z / (EPS + z.sum(dim=1, keepdim=True))
    return normalise(x @ weights, norm)


def normalise(mu: Float[Tensor, "b c k"], norm: Norm = "l2") -> Float[Tensor, "b c k"]:
    """Normalise each base over its channels.

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
) -> tuple[Float[Tensor, "b n k"], Float[Tensor, "b c k"]]:
    """Run T rounds of E-step and M-step from the bases ``mu``; return the last ``z`` and the last ``mu``.

    The last ``z`` comes from the bases *before* the last M-step (FACTS 1.2). ``gradient`` says through which rounds
    autograd sees: ``none``, only the ``last`` one, or all of them (``full``).
    """
    z = x.new_empty(0)
    for t in range(T):
        visible = gradient == "full" or (gradient == "last" and t == T - 1)
        with torch.set_grad_enabled(visible and torch.is_grad_enabled()):
            z = e_step(x, mu)
            mu = m_step(x, z, norm)
    return z, mu


def as_image(y: Float[Tensor, "b c n"], like: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Pixels as an image of the size of another, without a copy.

    One whose channels lie next to each other also says so: of a plain view of a single image, its strides do not.
    """
    if y.stride(1) == 1:
        return y.transpose(1, 2).unflatten(1, like.shape[2:]).permute(0, 3, 1, 2)
    return y.unflatten(2, like.shape[2:])


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
        norm: normalisation of the bases after each M-step: ``l2``, ``layer`` or ``none``.
        maintenance: how the initial bases evolve over training. ``moving_average``: towards the mean of each batch's
            final bases; ``backprop``: they are a parameter, trained by gradient; ``none``: they stay as drawn.
        gradient: EM iterations that autograd sees: ``none`` (the authors': the attention branch sends no gradient to
            ``conv1`` or to the input, which is reached through the residual alone), ``last`` or ``full``.
        renormalise: apply ``norm`` again after each moving-average update (the authors do not, so their stored bases
            have norms below 1).
        kernel: what computes the iterations. ``auto``: on a CPU, where no gradient is
            asked for, plain PyTorch without temporaries, equal to the last bit; else plain PyTorch. ``torch``: plain
            PyTorch. ``triton``: the kernels, refused where they cannot run; they differ in rounding alone (sums, and
            the bases between iterations, are float32).

    Raises:
        ValueError: for values out of range, for ``maintenance="backprop"`` where no gradient reaches the bases, and in
            ``forward`` for ``kernel="triton"`` where it cannot run.
    """

    def __init__(
        self,
        channels: int,
        *,
        K: int = 64,
        T: int = 3,
        T_eval: int | None = None,
        momentum: float = 0.9,
        norm: Norm = "l2",
        maintenance: Maintenance = "moving_average",
        gradient: Gradient = "none",
        renormalise: bool = False,
        kernel: Kernel = "auto",
    ) -> None:
        super().__init__()
        check_options(
            channels=channels,
            K=K,
            T=T,
            T_eval=T_eval,
            momentum=momentum,
            norm=norm,
            maintenance=maintenance,
            gradient=gradient,
            renormalise=renormalise,
            kernel=kernel,
        )
        self.T = T
        self.T_eval = T_eval
        self.momentum = momentum
        self.norm: Norm = norm
        self.maintenance: Maintenance = maintenance
        self.gradient: Gradient = gradient
        self.renormalise = renormalise
        self.kernel: Kernel = kernel

        self.conv1 = nn.Conv2d(channels, channels, 1)
        self.conv2 = nn.Sequential(nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels))
        mu = normalise(torch.randn(1, channels, K) * math.sqrt(2 / K), "l2")
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
    def K(self) -> int:
        """Number of bases."""
        return self.mu.shape[2]

    @property
    def iterations(self) -> int:
        """EM iterations that the next forward runs: ``T`` in training, ``T_eval`` in evaluation if it is set."""
        return self.T if self.training or self.T_eval is None else self.T_eval

    def attend(self, x: Float[Tensor, "b c h w"]) -> tuple[Float[Tensor, "b n k"], Float[Tensor, "b c k"]]:
        """Responsibilities ``z`` and final bases ``mu`` for the input ``x``: conv1, then EM from the stored bases."""
        with self._grad_mode():
            return self.run_em(self.conv1(x).flatten(2))

    def forward(self, x: Float[Tensor, "b c h w"]) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b c k"]]:
        """Return the attended features and each image's final bases; the stored bases stay as they are."""
        with self._grad_mode():
            y, mu = self.reestimate(self.conv1(x).flatten(2))
        conv, norm = self.conv2  # one by one: a call of both would hold the convolution's input until the norm is done
        y = conv(as_image(y, like=x))
        y = norm(y)
        y = y.add_(x) if y.dtype == x.dtype else y + x
        return torch.relu_(y), mu

    def run_em(self, pixels: Float[Tensor, "b c n"]) -> tuple[Float[Tensor, "b n k"], Float[Tensor, "b c k"]]:
        """EM from the stored bases."""
        backend = self.backend(pixels)
        if backend == "triton":
            before, mu = self._iterate_fast(pixels)
            return e_step(pixels, before.to(pixels.dtype)), mu
        mu = self.mu.expand(pixels.shape[0], -1, -1)
        if backend == "in_place":
            return iterate_in_place(pixels, mu, T=self.iterations, normalise=lambda mu: normalise(mu, self.norm))
        return expectation_maximization(pixels, mu, T=self.iterations, norm=self.norm, gradient=self.gradient)

    def reestimate(self, pixels: Float[Tensor, "b c n"]) -> tuple[Float[Tensor, "b c n"], Float[Tensor, "b c k"]]:
        """The paper's "data re-estimation", ReLU on top, and the final bases; may write over ``pixels``."""
        backend = self.backend(pixels)
        if backend == "triton":
            before, mu = self._iterate_fast(pixels)
            return reconstruct(pixels, before, mu, relu=True), mu
        z, mu = self.run_em(pixels)
        # (b, c, n): every pixel from the bases, so of rank at most K
        if backend == "in_place" and type(self.conv1) is nn.Conv2d and not self.conv1._forward_hooks:
            y = reconstruct_in_place(z, mu, pixels)  # conv1's output: new, and nobody else's
        else:
            y = mu @ z.transpose(1, 2)
        return torch.relu_(y), mu

    def backend(self, pixels: Float[Tensor, "b c n"]) -> Backend:
        """What computes these pixels; a ValueError where ``kernel="triton"`` cannot."""
        return pick(self.kernel, pixels, self.K)

    def _iterate_fast(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        mu = self.mu.expand(pixels.shape[0], -1, -1)
        return iterate(pixels, mu, T=self.iterations, norm=self.norm, gradient=self.gradient)

    def _grad_mode(self) -> torch.set_grad_enabled:
        return torch.set_grad_enabled(self.gradient != "none" and torch.is_grad_enabled())

    @torch.no_grad()
    def update_bases(self, mu: Float[Tensor, "b c k"]) -> None:
        """Move the stored bases towards the mean of ``mu`` over the batch, once per optimiser step.

        The paper's "bases maintenance". In place, because a re-assigned buffer is neither synchronised by DDP nor seen
        by an exported graph. Bases that are a parameter (``backprop``) or fixed (``none``) do not move.
        """
        if self.maintenance != "moving_average":
            return
        mean = mu.mean(dim=0, keepdim=True).to(self.mu.dtype)
        self.mu.mul_(self.momentum).add_(mean, alpha=1 - self.momentum)
        if self.renormalise:
            self.mu.copy_(normalise(self.mu, self.norm))

    def extra_repr(self) -> str:
        """Show the unit's settings in ``print(net)``."""
        return (
            f"K={self.K}, T={self.T}, T_eval={self.T_eval}, momentum={self.momentum}, norm={self.norm}, "
            f"maintenance={self.maintenance}, gradient={self.gradient}, renormalise={self.renormalise}, "
            f"kernel={self.kernel}"
        )


def check_options(
    *,
    channels: int,
    K: int,
    T: int,
    T_eval: int | None,
    momentum: float,
    norm: str,
    maintenance: str,
    gradient: str,
    renormalise: bool,
    kernel: str = "auto",
) -> None:
    """Refuse settings of an :class:`EMAU` that make no sense, alone or together.

    Raises:
        ValueError: with what was got and what is allowed.
    """
    if K < 1 or T < 1:
        raise ValueError(f"K and T must be at least 1, got K={K}, T={T}")
    if T_eval is not None and T_eval < 1:
        raise ValueError(f"T_eval must be at least 1, or null for the T of training, got T_eval={T_eval}")
    if channels < 1:
        raise ValueError(f"channels must be at least 1, got channels={channels}")
    if not 0 <= momentum <= 1:
        raise ValueError(f"momentum is the share of the old bases that is kept, 0..1, got momentum={momentum}")
    for name, value, kind in (
        ("norm", norm, Norm),
        ("maintenance", maintenance, Maintenance),
        ("gradient", gradient, Gradient),
        ("kernel", kernel, Kernel),
    ):
        if value not in get_args(kind):
            raise ValueError(f"{name} must be one of {', '.join(get_args(kind))}, got {name}={value!r}")
    if maintenance == "backprop" and not (gradient == "full" or (gradient == "last" and T == 1)):
        raise ValueError(
            f"maintenance=backprop trains the bases by gradient, but with gradient={gradient} and T={T} none reaches "
            "them: set gradient=full, or gradient=last with T=1"
        )
    if renormalise and (norm == "none" or maintenance != "moving_average"):
        raise ValueError(
            "renormalise=true normalises the bases after each moving-average update, so it needs "
            f"maintenance=moving_average and norm=l2 or layer, got maintenance={maintenance} and norm={norm}"
        )
