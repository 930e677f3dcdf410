"""The network from its node, whose ``head`` is a name of ours or the dotted name of a user's class."""

from collections.abc import Mapping
from typing import Any

from emanet.config.instantiate import build, locate
from emanet.model.heads import check_head, options_of
from emanet.model.network import EMANet


def with_head(node: Mapping[str, Any]) -> dict[str, Any]:
    """The node with the class of a user's head in place of its name.

    Raises:
        ConfigError: for a class that cannot be found.
    """
    head = node.get("head", "ema")
    return dict(node) | ({"head": locate(head, "model.head")} if isinstance(head, str) and "." in head else {})


def build_network(node: Mapping[str, Any], num_classes: int) -> EMANet:
    """The network for a number of classes.

    Raises:
        ConfigError: for values that it refuses.
    """
    return build(with_head(node), "model", num_classes=num_classes)


def try_head(node: Mapping[str, Any]) -> None:
    """Build the head of a network alone, which costs nothing, to see whether it takes its options.

    Raises:
        ValueError: where it does not.
    """
    node = with_head(node)
    head = node.get("head", "ema")
    options = {key: node[key] for key in options_of(head) if key in node}
    check_head(head, options, output_stride=node.get("output_stride", 8))
