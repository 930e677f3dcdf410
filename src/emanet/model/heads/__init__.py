"""Heads: what stands between the backbone and the classifier, the paper's attention unit like every rival.

A head is ``head(x) -> (y, mu)``: features (b, c, h, w) and each image's final bases (b, c, k), or ``None`` where there
are none. A *unit* works behind the paper's fc0, on ``channels`` channels, which it keeps. A head whose constructor
names ``in_channels`` takes fc0's place as well: it reads the backbone's features (b, d, h, w), and its ``out_channels``
says what it gives. ``output_stride`` is handed to constructors that name it. Every other argument of the constructor is
an option that the configuration can set. A head that keeps state over training has ``update_bases(mu)``.
"""

import inspect
import pkgutil
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from emanet.common.checks import one_of
from emanet.model.emau import EMAU
from emanet.model.heads.a2 import DoubleAttention
from emanet.model.heads.deeplabv3 import ASPP
from emanet.model.heads.ema_mmseg import MMSegEMAU
from emanet.model.heads.external import ExternalAttention
from emanet.model.heads.fcn import Plain
from emanet.model.heads.ham import Hamburger
from emanet.model.heads.nonlocal_ import NonLocal
from emanet.model.heads.psp import PyramidPooling

HEADS: dict[str, type[nn.Module]] = {
    "ema": EMAU,
    "fcn": Plain,
    "nonlocal": NonLocal,
    "a2": DoubleAttention,
    "psp": PyramidPooling,
    "deeplabv3": ASPP,
    "ham": Hamburger,
    "external": ExternalAttention,
    "ema_mmseg": MMSegEMAU,
}
GIVEN = ("in_channels", "output_stride")  #: by the network


def find_head(head: str | type[nn.Module]) -> type[nn.Module]:
    """The class of a head: of ours by its name, of a user's the class itself or ``module.Class``, which is imported.

    Raises:
        ValueError: for a name that is none of ours, and for what cannot be imported.
    """
    if isinstance(head, str) and "." in head:
        try:
            return pkgutil.resolve_name(head)
        except (ImportError, AttributeError, ValueError) as error:
            raise ValueError(f"head={head} cannot be imported: {error}") from error
    if isinstance(head, str):
        one_of(HEADS, head=head)
        return HEADS[head]
    return head


def options_of(head: str | type[nn.Module]) -> dict[str, inspect.Parameter]:
    """What a head can be told, by the name of the option."""
    parameters = list(inspect.signature(find_head(head)).parameters.values())
    return {p.name: p for p in parameters if p.name not in GIVEN and p.kind is not p.VAR_KEYWORD}


def reads_backbone(head: type[nn.Module]) -> bool:
    """Whether a head takes fc0's place as well."""
    return "in_channels" in inspect.signature(head).parameters


def build_head(
    head: str | type[nn.Module], *, in_channels: int, output_stride: int, options: Mapping[str, Any]
) -> nn.Module:
    """Build a head.

    Args:
        head: see :func:`find_head`.
        in_channels: of the backbone's features.
        output_stride: input pixels per feature.
        options: see :func:`options_of`.

    Raises:
        ValueError: for a name or an option that is unknown, and for values that the head refuses.
    """
    kind, known = find_head(head), options_of(head)
    if unknown := [name for name in options if name not in known]:
        called = head if isinstance(head, str) else kind.__name__
        owners = [name for name in HEADS if set(unknown) <= options_of(name).keys()]
        raise ValueError(
            f"head={called} has no option {' and '.join(unknown)}: it takes {', '.join(known)}"
            + (f"; {' and '.join(unknown)} belongs to head={', '.join(owners)}" if owners else "")
        )
    given = {"in_channels": in_channels, "output_stride": output_stride}
    named = inspect.signature(kind).parameters
    return kind(**{name: value for name, value in given.items() if name in named}, **options)


def check_head(head: str | type[nn.Module], options: Mapping[str, Any], *, output_stride: int = 8) -> None:
    """Refuse what :func:`build_head` would, at no cost and without drawing a random number."""
    with torch.device("meta"):
        build_head(head, in_channels=8, output_stride=output_stride, options=options)
