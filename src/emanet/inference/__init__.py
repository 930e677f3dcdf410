"""From a network and a picture to a mask, and to whoever looks at it."""

from importlib import import_module
from typing import Any

HOMES = {"Inference": "views", "Predictor": "predictor", "pad_to_stride": "views", "predict": "predictor"}
__all__ = list(HOMES)


def __getattr__(name: str) -> Any:
    """Import a public name when it is asked for."""
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{HOMES[name]}"), name)
