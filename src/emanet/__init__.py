"""EMANet: expectation-maximization attention for semantic segmentation (Li et al., ICCV 2019)."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from emanet.checkpoints.mmseg import load_mmseg_checkpoint
    from emanet.checkpoints.reference import load_reference_checkpoint
    from emanet.inference.predictor import Predictor, predict
    from emanet.model.emau import EMAU, e_step, m_step
    from emanet.model.network import EMANet
    from emanet.training.losses.nll import segmentation_loss

#: where each public name is; imported when it is asked for, so that ``import emanet`` is quick
HOMES = {
    "EMAU": "model.emau",
    "EMANet": "model.network",
    "Predictor": "inference.predictor",
    "e_step": "model.emau",
    "load_mmseg_checkpoint": "checkpoints.mmseg",
    "load_reference_checkpoint": "checkpoints.reference",
    "m_step": "model.emau",
    "predict": "inference.predictor",
    "segmentation_loss": "training.losses.nll",
}
__all__ = [
    "EMAU",
    "EMANet",
    "Predictor",
    "__version__",
    "e_step",
    "load_mmseg_checkpoint",
    "load_reference_checkpoint",
    "m_step",
    "predict",
    "segmentation_loss",
]


def __getattr__(name: str) -> Any:
    """Import a public name."""
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{HOMES[name]}"), name)
