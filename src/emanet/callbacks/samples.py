"""A few evenly spread images of the validation split, kept with truth and prediction."""

import math
from typing import Any, NamedTuple

import lightning as L
import numpy as np
from jaxtyping import Int
from torch import Tensor

from emanet.visual import Labels, Pixels, denormalise, fit_size, resize, resize_labels


class Sample(NamedTuple):
    """One validation image with its truth and its prediction, all of one size."""

    name: str
    image: Pixels
    truth: Labels
    prediction: Labels
    pixel_accuracy: float  #: at full size, over the labelled pixels; NaN if there are none


class ValidationSamples:
    """Collects ``n`` evenly spread images of each validation, scaled down to at most ``size`` pixels a side.

    Only the batches that hold a chosen image are brought to the host.
    """

    def __init__(self, n: int, size: int) -> None:
        if n < 1:
            raise ValueError(f"the number of images must be at least 1, got {n}")
        self.n = n
        self.size = size
        self.samples: list[Sample] = []
        self._wanted: dict[int, list[float]] = {}

    def start(self, trainer: L.Trainer) -> None:
        """Choose the images of the validation that begins, on this device."""
        batches = trainer.num_val_batches
        total = batches[0] if isinstance(batches, list) else batches
        self.samples = []
        self._wanted = spread(self.n, total)

    def collect(self, outputs: Any, batch: dict[str, Any], batch_idx: int, trainer: L.Trainer) -> None:
        """Keep the chosen images of a batch; ``outputs`` are the predicted classes (b, h, w)."""
        shares = self._wanted.get(batch_idx)
        if not shares or not isinstance(outputs, Tensor):
            return
        count = len(batch["image"])
        for item in sorted({int(share * count) for share in shares}):
            self.samples.append(self._sample(batch, outputs, item, trainer.datamodule))  # type: ignore[attr-defined]

    def _sample(self, batch: dict[str, Any], prediction: Int[Tensor, "b h w"], item: int, datamodule: Any) -> Sample:
        """Bring one image of a batch to the host and to its size in pictures."""
        image = denormalise(batch["image"][item].float().cpu().numpy(), tuple(datamodule.mean), tuple(datamodule.std))
        truth = batch["mask"][item].cpu().numpy()
        predicted = prediction[item].cpu().numpy()
        labelled = truth != datamodule.ignore_index
        accuracy = float((truth == predicted)[labelled].mean()) if labelled.any() else math.nan
        height, width = fit_size(truth.shape[0], truth.shape[1], self.size)
        return Sample(
            name=str(batch["name"][item]),
            image=resize(image, height, width),
            truth=resize_labels(truth, height, width),
            prediction=resize_labels(predicted, height, width),
            pixel_accuracy=accuracy,
        )


def spread(n: int, batches: int | float) -> dict[int, list[float]]:
    """Positions of ``n`` evenly spread images: batch number -> shares (0..1) of the way through that batch.

    The i-th image lies at the middle of the i-th of n equal parts of the split, whatever the batch size; of a split
    without a known length, the first n batches give one image each.
    """
    if math.isinf(batches):
        return {batch: [0.0] for batch in range(n)}
    wanted: dict[int, list[float]] = {}
    for position in (np.arange(n) + 0.5) / n * batches:
        wanted.setdefault(int(position), []).append(float(position % 1))
    return wanted
