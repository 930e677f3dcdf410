"""A task, its parts, and the trainer around it."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from emanet.training.task import SegmentationTask
    from emanet.training.trainer import TrainerSetup

HOMES = {"SegmentationTask": "task", "TrainerSetup": "trainer"}
__all__ = ["SegmentationTask", "TrainerSetup"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is asked for."""
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{HOMES[name]}"), name)
