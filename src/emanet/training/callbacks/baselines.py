"""The cheapest rivals of a network, measured on the same pixels."""

from typing import Any

import lightning as L
import torch
from rich.console import Console

from emanet.common.errors import ConfigError
from emanet.data.baselines import measure_baselines
from emanet.data.items import read_pair
from emanet.training.metrics import scores_from_confusion


class ColorTable(L.Callback):
    """Say what a table of colors, and the most frequent class alone, would score: ``baseline/...`` in summary.json.

    It reads all training and validation images once, so it is for small data sets.

    Args:
        most_images: a larger training split is refused.

    Raises:
        ConfigError: at the start, for a training split of more images.
    """

    def __init__(self, most_images: int = 5000) -> None:
        self.most_images = most_images
        self.facts: dict[str, Any] = {}  #: what the run's summary takes over

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measure, on the first device alone."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        train, evaluated = (data.samples(data.stage_splits[stage]) for stage in ("fit", "validate"))
        if len(train) > self.most_images:
            raise ConfigError(
                f"callbacks.color_table reads all training images, and {data.name} has {len(train)}: leave it out, or "
                "raise callbacks.color_table.most_images"
            )
        if not trainer.is_global_zero:
            return
        labels = data.labels()
        learned, asked = ((read_pair(sample, labels) for sample in split) for split in (train, evaluated))
        for name, counts in measure_baselines(learned, asked, data.num_classes)._asdict().items():
            scores = scores_from_confusion(torch.from_numpy(counts))
            self.facts[f"baseline/{name}_miou"] = float(scores.miou)
            self.facts[f"baseline/{name}_pixel_accuracy"] = float(scores.pixel_accuracy)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print them below the scores of the network."""
        titles = {
            "color_table": "by color alone",
            "balanced_color_table": "by color, balanced",
            "constant": "one class",
        }
        for name, title in titles.items() if self.facts else ():
            miou, accuracy = (self.facts[f"baseline/{name}_{score}"] for score in ("miou", "pixel_accuracy"))
            text = f"without a network, {title:<19}  mIoU {miou:.4f}, pixel accuracy {accuracy:.4f}"
            Console().print(text, highlight=False, soft_wrap=True)
