"""EMANet: expectation-maximization attention for semantic segmentation (Li et al., ICCV 2019)."""

from emanet.emau import EMAU, e_step, m_step
from emanet.network import EMANet

__version__ = "0.1.0"
__all__ = ["EMAU", "EMANet", "__version__", "e_step", "m_step"]
