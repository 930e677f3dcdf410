"""EMANet: expectation-maximization attention for semantic segmentation (Li et al., ICCV 2019)."""

from typing import TYPE_CHECKING, Any

from emanet.emau import EMAU, e_step, m_step
from emanet.network import EMANet

__version__ = "0.1.0"
__all__ = ["EMAU", "EMANet", "Predictor", "__version__", "e_step", "m_step", "predict"]

if TYPE_CHECKING:
    from emanet.prediction.predictor import Predictor, predict


def __getattr__(name: str) -> Any:
    """Import what needs Lightning and the data sets only when it is asked for."""
    if name not in ("Predictor", "predict"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from emanet.prediction import predictor

    return getattr(predictor, name)
