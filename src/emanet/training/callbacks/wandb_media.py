"""Pictures and tables for Weights & Biases."""

import logging
import math
from collections.abc import Callable
from typing import Any

import lightning as L
import numpy as np
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.trainer.states import TrainerFn

from emanet.training.callbacks.samples import Sample, SampleListener

log = logging.getLogger(__name__)


class WandbMedia(SampleListener):
    """Log validation images with overlaid masks, and at the end a table of per-class IoU; without W&B, do nothing.

    The same images at every validation, so that W&B's slider shows how the prediction grows.

    Args:
        n_images: number of images, evenly spread over the validation split.
        size: longest side of a logged image, in pixels.
        every_n_validations: log the images of every n-th validation.
    """

    def __init__(self, *, n_images: int = 6, size: int = 512, every_n_validations: int = 1) -> None:
        if every_n_validations < 1:
            raise ValueError(f"every_n_validations must be at least 1, got {every_n_validations}")
        super().__init__(n_images, size)
        self.every_n_validations = every_n_validations
        self._validations = 0
        self._table: list[list[str | float | None]] = []
        self._attempt = Attempt("W&B media could not be logged")

    def listens(self, trainer: L.Trainer, pl_module: L.LightningModule) -> bool:
        """If there is anyone to show the images to."""
        return wandb_logger(trainer) is not None and self._validations % self.every_n_validations == 0

    def look(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: dict[str, Any], item: int
    ) -> None:
        """Keep an image."""
        keep = super().look
        self._attempt(lambda: keep(trainer, pl_module, outputs, batch, item))

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the images; keep the scores for the table."""
        scores = pl_module.metrics.compute()  # type: ignore[operator, union-attr]
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        self._validations += 1
        names: list[str] = pl_module.class_names  # type: ignore[assignment]
        self._table = [
            [name, None if math.isnan(iou) else iou] for name, iou in zip(names, scores.iou.tolist(), strict=True)
        ]
        if self.listening:
            self._attempt(lambda: self._log_images(trainer, names))
        if trainer.state.fn != TrainerFn.FITTING:
            self._attempt(lambda: self._log_table(trainer))

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the per-class table of the last validation."""
        if trainer.is_global_zero and self._table:
            self._attempt(lambda: self._log_table(trainer))

    def _log_images(self, trainer: L.Trainer, names: list[str]) -> None:
        """Images with the masks ``prediction`` and ``ground_truth``, to be switched on and off in W&B."""
        logger = wandb_logger(trainer)
        if logger is None or not self.samples:
            return
        ignore_index = trainer.datamodule.ignore_index  # type: ignore[attr-defined]
        labels = dict(enumerate(names)) | {ignore_index: "(ignored)"}
        images = [masked_image(sample, labels) for sample in self.samples]
        logger.log_metrics({"val/predictions": images}, step=trainer.global_step)  # type: ignore[dict-item]

    def _log_table(self, trainer: L.Trainer) -> None:
        """One row per class; a class that occurs nowhere has no IoU."""
        logger = wandb_logger(trainer)
        if logger is not None:
            import wandb  # only where it is chosen

            table = wandb.Table(columns=["class", "IoU"], data=self._table)
            logger.log_metrics({"val/iou_table": table}, step=trainer.global_step)  # type: ignore[dict-item]


class Attempt:
    """Runs actions whose failure must not end a training run; says so once.

    Args:
        trouble: what the failure of an action means.
    """

    def __init__(self, trouble: str) -> None:
        self.trouble = trouble
        self._warned = False

    def __call__(self, action: Callable[[], None]) -> None:
        """Run an action."""
        try:
            action()
        except Exception as error:
            if not self._warned:
                log.warning("%s, training goes on: %s: %s", self.trouble, type(error).__name__, error)
            self._warned = True


def wandb_logger(trainer: L.Trainer) -> WandbLogger | None:
    """The W&B logger of a trainer, if it has one."""
    return next((logger for logger in trainer.loggers if isinstance(logger, WandbLogger)), None)


def masked_image(sample: Sample, labels: dict[int, str]) -> Any:
    """A W&B image with a mask for the prediction and one for the truth."""
    import wandb  # only where it is chosen

    masks = {"prediction": sample.prediction, "ground_truth": sample.truth}
    return wandb.Image(
        sample.image,
        caption=sample.name,
        masks={key: {"mask_data": mask.astype(np.uint8), "class_labels": labels} for key, mask in masks.items()},
    )
