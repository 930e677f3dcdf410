"""Pictures and tables for Weights & Biases."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L
import numpy as np
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.trainer.states import TrainerFn

from emanet.training.callbacks.samples import ImageListener, Sample

log = logging.getLogger(__name__)


class WandbMedia(ImageListener):
    """Log validation images with overlaid masks, and at the end a table of per-class IoU; without W&B, do nothing.

    The same images at every validation, so that W&B's slider shows how the prediction grows.

    Args:
        n_images: number of images, evenly spread over the validation split.
        size: longest side of a logged image, in pixels.
    """

    def __init__(self, *, n_images: int = 6, size: int = 512) -> None:
        super().__init__(n_images, size)

    def listens(self, trainer: L.Trainer, pl_module: L.LightningModule) -> bool:
        """If there is anyone to show the images to."""
        return wandb_logger(trainer) is not None

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the images with the masks ``prediction`` and ``ground_truth``, to be switched on and off in W&B."""
        if self.samples and not trainer.sanity_checking:
            names: Any = pl_module.class_names
            labels = dict(enumerate(names)) | {trainer.datamodule.ignore_index: "(ignored)"}  # type: ignore[attr-defined]
            with showing(trainer, "images") as log_media:
                log_media({"val/predictions": [masked_image(sample, labels) for sample in self.samples]})
        if trainer.state.fn != TrainerFn.FITTING:
            self.on_train_end(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the IoU of each class in the last validation; a class that occurs nowhere has none."""
        task: Any = pl_module
        if not trainer.is_global_zero or not task.validation or wandb_logger(trainer) is None:
            return
        import wandb  # only where it is chosen

        ious = [(name, task.validation[f"val/iou/{name}"]) for name in task.class_names]
        with showing(trainer, "the table of classes") as log_media:
            rows = [[name, None if np.isnan(iou) else iou] for name, iou in ious]
            log_media({"val/iou_table": wandb.Table(columns=["class", "IoU"], data=rows)})


@contextmanager
def showing(trainer: L.Trainer, what: str) -> Iterator[Any]:
    """Give what logs media to W&B at this step; a failure must not end a training."""
    logger: Any = wandb_logger(trainer)
    try:
        yield lambda media: logger.log_metrics(media, step=trainer.global_step)
    except Exception as error:
        log.warning("W&B: %s could not be logged, training goes on: %s: %s", what, type(error).__name__, error)


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
