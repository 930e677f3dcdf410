"""The paper: attention unit, backbone, network, rival heads. A public name is imported when it is asked for."""

from importlib import import_module
from typing import Any

HOMES = {
    "EMAU": "emau",
    "EMANet": "network",
    "HEADS": "heads",
    "Backbone": "backbone",
    "MMSegEMANet": "mmseg",
    "e_step": "emau",
    "m_step": "emau",
}
__all__ = list(HOMES)


def __getattr__(name: str) -> Any:
    """Import a public name."""
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{HOMES[name]}"), name)
