"""Rival heads, behind the interface of the paper's: ``model.head=NAME``.

A head stands between the backbone and fc1. Units take the place of the paper's, behind fc0: (b, c, h, w) to the same.
Contexts take fc0's as well: the backbone's features (b, d, h, w) to (b, c, h, w). Backbone, fc1, classifier, data, loss
and schedule stay, so that heads are compared in one harness. ``ema``, the paper's, is in :class:`emanet.EMANet` itself.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import nn

from emanet.common.errors import ConfigError
from emanet.model.heads.a2 import DoubleAttention
from emanet.model.heads.deeplabv3 import ASPP
from emanet.model.heads.external import ExternalAttention
from emanet.model.heads.ham import Hamburger
from emanet.model.heads.layers import check_counts, conv_bn_relu
from emanet.model.heads.nonlocal_ import NonLocal
from emanet.model.heads.psp import PyramidPooling

EMA = "ema"
EMA_KEYS = ("K", "T", "T_eval", "momentum", "norm", "maintenance", "gradient")


class Rival(NamedTuple):
    """How a head is built, and which of the network's options it takes beside the channels."""

    build: Callable[..., nn.Module]
    takes: tuple[str, ...] = ()


UNITS = {
    "fcn": Rival(nn.Identity),  # fc0 and nothing behind it
    "nonlocal": Rival(NonLocal),
    "a2": Rival(DoubleAttention),
    "ham": Rival(Hamburger, ("K", "T", "T_eval", "gradient")),
    "external": Rival(ExternalAttention, ("K",)),
}
CONTEXTS = {"psp": Rival(PyramidPooling), "deeplabv3": Rival(ASPP, ("output_stride",))}
HEADS = UNITS | CONTEXTS
NAMES = (EMA, *HEADS)


class Parts(NamedTuple):
    """A built head."""

    fc0: nn.Module  #: the paper's, or the identity in front of a context
    head: nn.Module
    channels: int  #: of the result


def build_head(name: str, in_channels: int, channels: int, **options: Any) -> Parts:
    """Build a rival head, and fc0 in front of it.

    Args:
        name: a key of ``HEADS``.
        in_channels: of the backbone's features.
        channels: width of the head.
        options: any of the network's; those that the head does not take are left out, and ``None`` means its default.

    Raises:
        ValueError: for an unknown name, or values that the head refuses.
    """
    if name not in HEADS:
        raise ValueError(f"head must be one of {', '.join(NAMES)}, got head={name!r}")
    check_counts(channels=channels)
    build, takes = HEADS[name]
    taken = {key: options[key] for key in takes if options.get(key) is not None}
    if name in UNITS:
        return Parts(conv_bn_relu(in_channels, channels), build(channels, **taken), channels)
    context: Any = build(in_channels, channels=channels, **taken)
    return Parts(nn.Identity(), context, context.out_channels)


def check_head(name: str, channels: int, **options: Any) -> None:
    """Refuse what :func:`build_head` would, at no cost and without drawing a random number."""
    with torch.device("meta"):
        build_head(name, 1, channels, **options)


def check_asked(name: str, asked: Iterable[str]) -> None:
    """Refuse keys that somebody asked for and the head does not know: they would change nothing, silently.

    Args:
        name: of the head; an unknown one is left to others.
        asked: keys of the model, such as ``K``.

    Raises:
        ConfigError: names the keys and the heads that know them.
    """
    known = {EMA: EMA_KEYS} | {rival: HEADS[rival].takes for rival in HEADS}
    if name not in known:
        return
    unknown = [key for key in EMA_KEYS if key in set(asked) - set(known[name])]
    if unknown:
        owners = [f"{key} ({', '.join(head for head in NAMES if key in known[head])})" for key in unknown]
        raise ConfigError(
            f"model.head={name} does not know the key {' and '.join(owners)}: leave it out, or choose a head that "
            "knows it, named in brackets"
        )
