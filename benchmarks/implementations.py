"""Implementations of EMANet behind one interface, for peers.py: ours, and whether another computes the same.

Others: mmseg_peer.py and checkouts.py.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import measure  # noqa: F401  puts src/ on the path
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from emanet.common.errors import ConfigError
from emanet.inference.views import predict_classes
from emanet.model.emau import EMAU
from emanet.model.mmseg import MMSegEMANet, MMSegEMAU
from emanet.model.network import EMANet
from emanet.training.losses.nll import upsampled_loss_terms

CLASSES = 21
CHANNELS, K, T = 512, 64, 3  # the paper's
DEPTH = 50
TOLERANCE = 1e-9  # of results in float64, relative to the largest

Net = Any  # a module with whatever its implementation asks of it


@dataclass(frozen=True)
class Implementation:
    """What is compared. All are built on the CPU, in float32, in training mode."""

    name: str
    network: Callable[[], Net]
    logits: Callable[[Net, Tensor], Tensor]  #: of images, at their size
    loss: Callable[[Net, Tensor, Tensor], Tensor]  #: of images and masks
    predict: Callable[[Net, Tensor], Tensor] | None = None  #: classes of images, where not by the logits' maximum
    unit: Callable[[], nn.Module] | None = None  #: from features to features; some give more beside
    counterpart: "Implementation | None" = None  #: ours that computes the same; its weights were taken over
    origin: Callable[[], dict[str, Any]] = dict  #: version or commit

    def classes(self, net: Net, image: Tensor) -> Tensor:
        """Class of each pixel."""
        return self.predict(net, image) if self.predict else self.logits(net, image).argmax(1)


# --- ours -------------------------------------------------------------------------------------------------------------


def drawn(build: Callable[[], Net]) -> Net:
    """A module with the same random weights in every process, and with batch norms far from their start."""
    torch.manual_seed(0)
    module = build()
    norms: list[Any] = [part for part in module.modules() if isinstance(part, _BatchNorm)]
    with torch.no_grad():
        for norm in norms:
            norm.weight.uniform_(0.45, 1.1)
            norm.bias.uniform_(-0.2, 0.2)
            norm.running_mean.uniform_(-0.2, 0.2)
            norm.running_var.uniform_(0.5, 1.5)
    return module


def paper_net() -> EMANet:
    """Our network."""
    return drawn(lambda: EMANet(CLASSES, backbone=f"resnet{DEPTH}s"))


def port_net() -> MMSegEMANet:
    """Our network with mmsegmentation's options."""
    return drawn(lambda: MMSegEMANet(CLASSES, backbone=f"resnet{DEPTH}c"))


def our_loss(net: Net, image: Tensor, mask: Tensor) -> Tensor:
    """As our training task computes it."""
    low, _, *auxiliary = net(image, return_bases=True, low=True)
    loss = torch.zeros((), device=image.device)
    for weight, logits in zip((1.0, *getattr(net, "aux_weights", ())), (low, *auxiliary), strict=True):
        terms = upsampled_loss_terms(logits, mask, align_corners=net.align_corners)
        loss = loss + weight * terms.total / terms.denominator
    return loss


def ours(name: str, network: Callable[[], Net], unit: Callable[[], nn.Module]) -> Implementation:
    """One of our networks; it finds classes as our evaluation does."""

    def logits(net: Net, image: Tensor) -> Tensor:
        return net(image)

    return Implementation(name, network, logits, our_loss, predict_classes, unit=lambda: drawn(unit))


OURS = ours("ours", paper_net, lambda: EMAU(CHANNELS, K=K, T=T))
PORT = ours("ours, mmsegmentation's options", port_net, lambda: MMSegEMAU(CHANNELS, K=K, T=T))


def take_over(theirs: nn.Module, state: Mapping[str, Tensor], who: str) -> None:
    """Load weights of ours, already under their names."""
    try:
        theirs.load_state_dict(dict(state))
    except RuntimeError as error:
        raise ConfigError(
            f"{who} does not take the weights of our network, so nothing can be compared: {error}"
        ) from error


# --- same results -----------------------------------------------------------------------------------------------------


def compared(peer: Implementation) -> dict[str, Any]:
    """Largest relative differences of a peer from our counterpart with the same weights, and its parameters.

    Raises:
        ConfigError: where they differ by more than rounding.
    """
    own, net = peer.counterpart, peer.network()
    if own is None:
        return {"parameters": parameters(net), "results": "not compared: its weights are its own"}
    counterpart = own.network()
    counts = parameters(net), parameters(counterpart)
    if counts[0] != counts[1]:
        raise ConfigError(f"{peer.name} has {counts[0]} parameters, but {own.name} has {counts[1]}")
    theirs, ours = results_of(peer, net), results_of(own, counterpart)
    differences = {what: float((theirs[what] - ours[what]).abs().max() / ours[what].abs().max()) for what in ours}
    if wrong := {what: share for what, share in differences.items() if not share < TOLERANCE}:
        raise ConfigError(
            f"{peer.name} does not compute what {own.name} computes with the same weights, so times say nothing; "
            f"largest differences relative to the largest value: {wrong}"
        )
    return {"parameters": counts[0], "results": f"those of {own.name}", "largest_relative_differences": differences}


def parameters(net: nn.Module) -> int:
    """Number of parameters, trained or not."""
    return sum(parameter.numel() for parameter in net.parameters())


def results_of(implementation: Implementation, net: Net) -> dict[str, Tensor]:
    """Logits, loss and the unit's output in float64, without dropout."""
    net.double()
    for module in net.modules():
        if isinstance(module, nn.Dropout2d):
            module.p = 0.0
    image, mask = batch(2, 33)
    results = {}
    with torch.no_grad():
        large = batch(1, 137)[0]  # 18 features across: more than the largest dilation
        results["logits"] = implementation.logits(net.eval(), large.double())
        results["loss"] = implementation.loss(net.train(), image.double(), mask)
        if implementation.unit:
            results["unit"] = first(implementation.unit().double().eval()(features(2, 9).double()))
    return results


def batch(images: int, size: int) -> tuple[Tensor, Tensor]:
    """Images and masks of 16-pixel blocks with some ignored."""
    draw = torch.Generator().manual_seed(size)
    blocks = torch.randint(0, CLASSES + 1, (images, size // 16 + 1, size // 16 + 1), generator=draw)
    mask = blocks.where(blocks < CLASSES, 255).repeat_interleave(16, 1).repeat_interleave(16, 2)
    return torch.randn(images, 3, size, size, generator=draw), mask[:, :size, :size].clone()


def features(images: int, size: int) -> Tensor:
    """As a ReLU gives them."""
    return torch.randn(images, CHANNELS, size, size, generator=torch.Generator().manual_seed(size)).relu()


def first(output: Any) -> Tensor:
    """The features of a unit that may give its bases beside."""
    return output[0] if isinstance(output, tuple) else output
