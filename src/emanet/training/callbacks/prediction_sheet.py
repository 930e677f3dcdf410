"""A sheet of predictions to look at: image, truth, prediction and errors, with a legend."""

import logging
import math
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn
from PIL import Image

from emanet.common.visual import SheetRow, colorize, error_map, legend_of, sheet, sheet_width
from emanet.training.callbacks.samples import ImageListener, Sample

log = logging.getLogger(__name__)

COLUMNS = ("image", "truth", "prediction", "errors")


class PredictionSheet(ImageListener):
    """Write ``predictions.png`` from the last validation.

    Args:
        run_dir: folder of the run.
        n: number of images, evenly spread over the validation split.
        every_validation: also write ``predictions_step<k>.png`` at each validation.
        cell: longest side of a picture on the sheet, in pixels.
    """

    def __init__(self, run_dir: str | Path, *, n: int = 6, every_validation: bool = False, cell: int = 288) -> None:
        super().__init__(n, cell)
        self.run_dir = Path(run_dir)
        self.every_validation = every_validation
        self._score = math.nan
        self._step = 0

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Remember the score; write at once if asked to, or if this validation is the whole job."""
        if not trainer.is_global_zero or trainer.sanity_checking:
            return
        self._score = float(trainer.callback_metrics.get("val/miou", math.nan))
        self._step = trainer.global_step
        if self.every_validation:
            self._write(trainer, f"predictions_step{self._step}.png")
        if trainer.state.fn != TrainerFn.FITTING:
            self._write(trainer, "predictions.png")

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the sheet of the last validation."""
        if trainer.is_global_zero:
            self._write(trainer, "predictions.png")

    def _write(self, trainer: L.Trainer, file_name: str) -> None:
        """Draw and save; a picture that cannot be written does not end a run."""
        if not self.samples:
            return
        header = f"step {self._step}   mIoU {self._score:.4f}"
        picture = draw_samples(self.samples, trainer.datamodule, subtitle=header, cell=self.size)  # type: ignore[attr-defined]
        try:
            self.run_dir.mkdir(parents=True, exist_ok=True)
            picture.save(self.run_dir / file_name)
        except OSError as error:
            log.warning("the sheet of predictions was not written: %s", error)


def draw_samples(samples: list[Sample], datamodule: Any, *, subtitle: str, cell: int) -> Image.Image:
    """Draw one row per sample, and the legend of the classes that occur."""
    palette, ignore_index = datamodule.palette, datamodule.ignore_index
    rows = []
    for sample in samples:
        scored = "" if math.isnan(sample.pixel_accuracy) else f"    {sample.pixel_accuracy:.1%} of the pixels right"
        pictures = [
            sample.image,
            colorize(sample.truth, palette, ignore_index),
            colorize(sample.prediction, palette, ignore_index),
            error_map(sample.image, sample.truth, sample.prediction, ignore_index),
        ]
        rows.append(SheetRow(sample.name + scored, pictures))
    masks = [mask for sample in samples for mask in (sample.truth, sample.prediction)]
    width = sheet_width(len(COLUMNS), cell) - 40
    footer = legend_of(masks, datamodule.class_names, palette, ignore_index=ignore_index, width=width)
    return sheet(rows, COLUMNS, title=datamodule.name, subtitle=subtitle, footer=footer, cell=cell)
