"""A few evenly spread images of the validation split, kept with truth and prediction."""

import math
from typing import Any, NamedTuple

import lightning as L
import numpy as np
from jaxtyping import Int
from torch import Tensor

from emanet.common.checks import at_least_one
from emanet.common.visual import Labels, Pixels, denormalize, fit_size, resize, resize_labels


class Sample(NamedTuple):
    """One validation image with its truth and its prediction, all of one size."""

    name: str
    image: Pixels
    truth: Labels
    prediction: Labels
    pixel_accuracy: float  #: at full size, over the labeled pixels; NaN if there are none


class ImageListener(L.Callback):
    """Keeps ``n`` evenly spread images of every validation, the same each time, on the first device alone.

    They are scaled down to at most ``size`` pixels a side; only the batches that hold one are brought to the host. A
    subclass says in :meth:`listens` whether it wants any this time, and may do something else with an image.
    """

    def __init__(self, n: int, size: int) -> None:
        at_least_one(number_of_images=n)
        self.n, self.size = n, size
        self.samples: list[Sample] = []  #: of the last validation that was looked at
        self._wanted: dict[int, list[float]] = {}

    def listens(self, trainer: L.Trainer, pl_module: L.LightningModule) -> bool:
        """Whether the validation that begins is looked at."""
        return True

    def look(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: dict[str, Any], item: int
    ) -> None:
        """Keep image number ``item`` of a batch; ``outputs`` are the batch's predicted classes (b, h, w)."""
        if isinstance(outputs, Tensor):
            self.samples.append(self._sample(batch, outputs, item, trainer.datamodule))  # type: ignore[attr-defined]

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Choose the images, forget the earlier ones."""
        self._wanted = {}
        if trainer.is_global_zero and not trainer.sanity_checking and self.listens(trainer, pl_module):
            batches = trainer.num_val_batches
            self._wanted = spread(self.n, batches[0] if isinstance(batches, list) else batches)
            self.samples = []

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Look at those of this batch."""
        shares = self._wanted.get(batch_idx, [])
        for item in sorted({int(share * len(batch["image"])) for share in shares}):
            self.look(trainer, pl_module, outputs, batch, item)

    def _sample(self, batch: dict[str, Any], prediction: Int[Tensor, "b h w"], item: int, datamodule: Any) -> Sample:
        """Bring one image of a batch to the host and to its size in pictures."""
        truth, predicted = batch["mask"][item].cpu().numpy(), prediction[item].cpu().numpy()
        labeled = truth != datamodule.ignore_index
        height, width = fit_size(truth.shape[0], truth.shape[1], self.size)
        return Sample(
            name=str(batch["name"][item]),
            image=resize(pixels_of(batch, item, datamodule), height, width),
            truth=resize_labels(truth, height, width),
            prediction=resize_labels(predicted, height, width),
            pixel_accuracy=float((truth == predicted)[labeled].mean()) if labeled.any() else math.nan,
        )


def pixels_of(batch: dict[str, Any], item: int, datamodule: Any) -> Pixels:
    """An image of a batch as it was before it was normalized."""
    return denormalize(batch["image"][item].float().cpu().numpy(), tuple(datamodule.mean), tuple(datamodule.std))


def spread(n: int, batches: int | float) -> dict[int, list[float]]:
    """Positions of ``n`` evenly spread images: batch number -> shares (0..1) of the way through that batch.

    The i-th image lies at the middle of the i-th of n equal parts of the split, whatever the batch size.
    """
    wanted: dict[int, list[float]] = {}
    for position in (np.arange(n) + 0.5) / n * batches:
        wanted.setdefault(int(position), []).append(float(position % 1))
    return wanted
