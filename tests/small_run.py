"""A whole training run in a second: a 1x1 convolution learns classes that are colors."""

from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader

from emanet.training.optimizers import GroupedOptimizer
from emanet.training.schedulers import poly
from emanet.training.task import SegmentationTask

NAMES = ["red", "green", "blue", "never seen"]
HEIGHT, WIDTH, IGNORE = 12, 16, 255


class ColorNet(nn.Module):
    """Classifies each pixel from its color alone; 3 * 4 + 4 + 2 parameters."""

    output_stride = 1
    align_corners = True
    aux_weights = ()

    def __init__(self, classes: int = len(NAMES)) -> None:
        super().__init__()
        self.backbone = nn.Conv2d(3, classes, 1)
        self.scale = nn.Parameter(torch.ones(2), requires_grad=False)

    def forward(self, image: Tensor, return_bases: bool = False, low: bool = False) -> Any:
        logits = self.backbone(image)
        return (logits, image.new_zeros(len(image), 4, 2)) if return_bases else logits

    def update_bases(self, mu: Tensor) -> None:
        """Nothing: there are none."""


class ColorData(L.LightningDataModule):
    """Images whose color says the class; image i of the validation split is named ``val-i``."""

    name = "colors"
    class_names = NAMES
    palette = np.array([[200, 0, 0], [0, 200, 0], [0, 0, 200], [9, 9, 9]], np.uint8)
    mean, std, ignore_index = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), IGNORE

    def __init__(self, *, train: int = 8, val: int = 10, batch_size: int = 2) -> None:
        super().__init__()
        self.sizes = {"train": train, "val": val}
        self.batch_size = batch_size

    def train_dataloader(self) -> DataLoader:
        return self._loader("train")

    def val_dataloader(self) -> DataLoader:
        return self._loader("val")

    def _loader(self, split: str) -> DataLoader:
        items = [self.item(split, index) for index in range(self.sizes[split])]
        return DataLoader(items, batch_size=self.batch_size)  # type: ignore[arg-type]

    def item(self, split: str, index: int) -> dict[str, Any]:
        """A striped image: the classes red, green and blue in turn, ignored along the upper edge."""
        generator = torch.Generator().manual_seed(index + 1000 * (split == "val"))
        mask = (torch.arange(WIDTH) + index).div(4, rounding_mode="floor").remainder(3).expand(HEIGHT, -1).clone()
        noise = 0.3 * torch.randn(3, HEIGHT, WIDTH, generator=generator)
        image = 3.0 * nn.functional.one_hot(mask, 3).permute(2, 0, 1) - 1 + noise
        mask[0] = IGNORE
        return {"image": image, "mask": mask, "name": f"{split}-{index}"}


def make_task(**config: Any) -> SegmentationTask:
    """The task around a fresh network."""
    torch.manual_seed(0)
    settings = {"seed": 0, "name": "small", "model": {"K": 2}} | config
    sgd = GroupedOptimizer(partial(torch.optim.SGD, lr=0.5, momentum=0.9, weight_decay=1e-4))
    return SegmentationTask(
        ColorNet(), class_names=NAMES, optimizer=sgd, scheduler=partial(poly, max_steps=20, refresh=1), config=settings
    )


def make_trainer(run_dir: Path, callbacks: list[L.Callback], **options: Any) -> L.Trainer:
    """A CPU trainer of 8 optimizer steps with a validation after every 4."""
    return L.Trainer(
        **{
            "accelerator": "cpu",
            "devices": 1,
            "max_steps": 8,
            "max_epochs": -1,
            "val_check_interval": 4,
            "check_val_every_n_epoch": None,
            "num_sanity_val_steps": 0,
            "log_every_n_steps": 1,
            "enable_model_summary": False,
            "enable_checkpointing": any(isinstance(callback, Checkpoint) for callback in callbacks),
            "enable_progress_bar": False,
            "logger": False,
            "default_root_dir": run_dir,
            "callbacks": callbacks,
            **options,
        }
    )
