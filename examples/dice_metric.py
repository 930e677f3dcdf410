"""A metric of one's own: a torchmetrics metric that is fed in validation.

    python src/train.py --config-dir examples/conf 'callbacks=[default,dice_metric]' callbacks.best.monitor=val/dice ...

``outputs`` of a validation step are the predicted classes (b, h, w).
"""

from typing import Any

import lightning as L
import torch
from torch import Tensor
from torchmetrics import Metric


class Dice(Metric):
    """Mean over the classes of 2 |A and B| / (|A| + |B|), from sums over the whole split.

    Args:
        num_classes: number of classes.
        ignore_index: label that does not count.
    """

    hits: Tensor
    sizes: Tensor

    def __init__(self, num_classes: int, ignore_index: int = 255) -> None:
        super().__init__()
        self.num_classes, self.ignore_index = num_classes, ignore_index
        for name in ("hits", "sizes"):
            self.add_state(name, torch.zeros(num_classes, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, mask: Tensor) -> None:
        """Count a batch."""
        prediction, mask = prediction[mask != self.ignore_index], mask[mask != self.ignore_index]
        count = self.num_classes
        self.hits += torch.bincount(mask[prediction == mask], minlength=count)
        self.sizes += torch.bincount(prediction, minlength=count) + torch.bincount(mask, minlength=count)

    def compute(self) -> Tensor:
        """The mean over the classes that occur."""
        return (2 * self.hits / self.sizes).nanmean()


class LogDice(L.Callback):
    """Log ``val/dice`` after each validation."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Make the metric for the task's classes."""
        self.dice = Dice(len(pl_module.class_names))  # type: ignore[arg-type]

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Count a batch."""
        self.dice.to(pl_module.device).update(outputs, batch["mask"])

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the score of the split, over all devices."""
        pl_module.log("val/dice", self.dice.compute())
        self.dice.reset()
