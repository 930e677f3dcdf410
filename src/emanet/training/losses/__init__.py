"""Losses: ``loss(logits_low, mask, align_corners=...) -> LossTerms``."""

from emanet.training.losses.nll import NLL, OHEM, segmentation_loss
from emanet.training.losses.terms import BatchLoss, LossTerms, WeightedSum

__all__ = ["NLL", "OHEM", "BatchLoss", "LossTerms", "WeightedSum", "segmentation_loss"]
