"""Crops travel as bytes and become the network's input on the device that holds them."""

from pathlib import Path

import albumentations as A
import lightning as L
import numpy as np
import pytest
import torch
from torch import Tensor

from emanet.data import Folder
from emanet.data.items import read_pair
from emanet.data.transforms import PADDING
from fake_data import write_folder

MEAN, STD = (0.5, 0.25, 0.75), (0.25, 0.5, 0.125)


def folder(root: Path, extra: bool = False) -> Folder:
    options = {"num_classes": 3, "batch_size": 4, "crop_size": 65, "num_workers": 0, "mean": MEAN, "std": STD}
    transforms = [A.RandomBrightnessContrast(p=0.5), A.Rotate(limit=30, p=0.5)] if extra else []
    return Folder(root=root, extra_transforms=transforms, **options)


class Watch(L.LightningModule):
    """Keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.seen: list[dict] = []

    def training_step(self, batch: dict, batch_idx: int) -> Tensor:
        self.seen.append(batch)
        return self.weight * batch["image"].mean()

    def validation_step(self, batch: dict, batch_idx: int) -> None: ...

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(data: Folder, **options) -> list[dict]:
    """The batches of an epoch as a training step sees them."""
    quiet = {name: False for name in ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")}
    module = Watch()
    options |= {"max_epochs": 1, "accelerator": "cpu", "use_distributed_sampler": False, "limit_val_batches": 0}
    L.Trainer(**options, **quiet).fit(module, data)
    return module.seen


@pytest.mark.parametrize("extra", [False, True])
def test_a_training_step_sees_the_normalized_crop_with_padding_exactly_0_and_ignored(tmp_path: Path, extra: bool):
    write_folder(tmp_path, n_train=16)
    data = folder(tmp_path, extra)
    travelling = [data.train_dataloader().dataset[0, index] for index in range(16)]
    assert {item[key].dtype for item in travelling for key in ("image", "mask")} == {torch.uint8}
    crops = {item["name"]: item for item in travelling}
    batches = fit(folder(tmp_path, extra))
    assert len(batches) == 4
    for batch in batches:
        assert (batch["image"].dtype, batch["mask"].dtype) == (torch.float32, torch.int64)
        for name, image, mask in zip(batch["name"], batch["image"], batch["mask"], strict=True):
            pixels, labels = (crops[name][key].numpy() for key in ("image", "mask"))
            expected = ((pixels / 255 - np.array(MEAN)) / np.array(STD)).astype(np.float32)  # in float64, then rounded
            expected[labels == PADDING] = 0
            assert np.array_equal(image.permute(1, 2, 0).numpy(), expected)
            assert np.array_equal(mask.numpy(), np.where(labels == PADDING, 255, labels))
    assert any((batch["mask"] == 255).any() for batch in batches)


def test_without_a_trainer_the_loader_itself_gives_the_same_batches(tmp_path: Path):
    write_folder(tmp_path, n_train=8)
    for alone, trained in zip(folder(tmp_path).train_dataloader(), fit(folder(tmp_path)), strict=True):
        assert alone["name"] == trained["name"]
        assert torch.equal(alone["image"], trained["image"])
        assert torch.equal(alone["mask"], trained["mask"])


def test_a_trainer_in_float64_sees_float64(tmp_path: Path):
    write_folder(tmp_path)
    assert {batch["image"].dtype for batch in fit(folder(tmp_path), precision="64-true")} == {torch.float64}


def test_whole_images_come_normalized_and_stay_as_they_are(tmp_path: Path):
    write_folder(tmp_path)
    data = folder(tmp_path)
    batch = next(iter(data.val_dataloader()))
    image, _ = read_pair(data.samples("val")[0], data.labels())
    expected = ((image / 255 - np.array(MEAN)) / np.array(STD)).astype(np.float32)
    assert np.array_equal(batch["image"][0].permute(1, 2, 0).numpy(), expected)
    assert data.on_after_batch_transfer(batch, 0) is batch
