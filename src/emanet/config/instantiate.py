"""Objects from configuration nodes: the constructors get plain values, never a node."""

from collections.abc import Callable
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf

from emanet.common.errors import ConfigError, EMANetError
from emanet.model.network import EMANet


def call_target(node: DictConfig, **values: Any) -> Any:
    """Build the object that ``_target_`` names from the node's plain values.

    Raises:
        ConfigError: for a target that cannot be imported, or values that its constructor refuses.
    """
    options = OmegaConf.to_container(node, resolve=True)
    assert isinstance(options, dict)
    target = options.pop("_target_")
    try:
        constructor: Callable[..., Any] = get_object(target)
    except Exception as error:
        raise ConfigError(f"_target_={target} cannot be imported: {error}") from error
    try:
        return constructor(**{str(key): value for key, value in options.items()} | values)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{target.rpartition('.')[2]}: {error}") from error


def build_network(model: DictConfig, num_classes: int) -> EMANet:
    """The network for a number of classes."""
    return call_target(model, num_classes=num_classes)


def instantiate_all(nodes: Any) -> Any:
    """Build one ``_target_`` node, or every one of a dictionary of them; ``null`` entries are left out."""
    try:
        if "_target_" in nodes:
            return instantiate(nodes)
        return [instantiate(node) for node in nodes.values() if node is not None]
    except InstantiationException as error:
        cause = error.__cause__
        raise cause if isinstance(cause, EMANetError) else ConfigError(str(error)) from error


def resolved(cfg: DictConfig) -> dict[str, Any]:
    """The configuration as plain containers, interpolations resolved (an OmegaConf node in a checkpoint blocks it)."""
    container = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}
