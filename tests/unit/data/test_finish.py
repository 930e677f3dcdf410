"""Crops that travel as bytes become the same numbers on the device as in the worker."""

from pathlib import Path

import albumentations as A
import lightning as L
import pytest
import torch
from torch import Tensor

from emanet.data.datasets.folder import Folder
from emanet.data.finish import Finish
from emanet.data.items import collate
from emanet.data.transforms import PADDING, Normalize, TrainTransform
from fake_data import write_folder

MEAN, STD = (0.5, 0.25, 0.75), (0.25, 0.5, 0.125)


def folder(root: Path, normalize_on: str, **options) -> Folder:
    extra = [A.RandomBrightnessContrast(p=0.5), A.Rotate(limit=30, p=0.5)] if options.pop("extra", False) else []
    settings = {"num_classes": 3, "batch_size": 4, "crop_size": 65, "num_workers": 0, "mean": MEAN, "std": STD}
    return Folder(root=root, normalize_on=normalize_on, extra_transforms=extra, **settings | options)


@pytest.mark.parametrize("extra", [False, True])
def test_both_places_give_the_same_batches_to_the_last_bit(tmp_path: Path, extra: bool):
    write_folder(tmp_path, n_train=16)
    worker, device = (folder(tmp_path, place, extra=extra) for place in ("worker", "device"))
    batches = list(zip(worker.train_dataloader(), device.train_dataloader(), strict=True))
    assert len(batches) == 4
    for floats, travelling in batches:
        assert travelling["image"].dtype == travelling["mask"].dtype == torch.uint8
        assert 5 * sum(travelling[key].nbytes for key in ("image", "mask")) == sum(
            floats[key].nbytes for key in ("image", "mask")
        )
        assert (travelling["mask"] == PADDING).any()  # half of 60 x 80 does not fill the crop
        finished = device.on_after_batch_transfer(travelling, 0)
        assert finished["image"].is_contiguous()
        assert finished["name"] == floats["name"]
        for key in ("image", "mask"):
            assert finished[key].dtype == floats[key].dtype
            assert torch.equal(finished[key], floats[key])


def test_batches_that_are_finished_stay_as_they_are(tmp_path: Path):
    write_folder(tmp_path)
    data = folder(tmp_path, "device")
    batch = next(iter(data.val_dataloader()))
    assert batch["image"].dtype == torch.float32
    assert data.on_after_batch_transfer(batch, 0) is batch


class Watch(L.LightningModule):
    """Keeps what a training step is given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.seen: list[Tensor] = []

    def training_step(self, batch: dict, batch_idx: int) -> Tensor:
        self.seen += [batch["image"], batch["mask"]]
        return self.weight * batch["image"].mean()

    def validation_step(self, batch: dict, batch_idx: int) -> None:
        self.seen += [batch["image"], batch["mask"]]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize(("place", "expected"), [("worker", False), ("device", True), ("auto", True)])
def test_a_trainer_sees_finished_batches_and_auto_is_the_device(
    tmp_path: Path, place: str, expected: bool, monkeypatch: pytest.MonkeyPatch
):
    write_folder(tmp_path)
    calls, unfinished = [], TrainTransform.unfinished

    def counted(*args):
        calls.append(args)
        return unfinished(*args)

    monkeypatch.setattr(TrainTransform, "unfinished", counted)
    data, module = folder(tmp_path, place), Watch()
    quiet = {name: False for name in ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")}
    trainer = L.Trainer(max_steps=1, accelerator="cpu", limit_val_batches=0, use_distributed_sampler=False, **quiet)
    trainer.fit(module, data)
    assert bool(calls) is expected
    assert module.seen[0].dtype == torch.float32
    assert module.seen[1].dtype == torch.int64
    plain = next(iter(folder(tmp_path, "worker").train_dataloader()))
    assert torch.equal(module.seen[0], plain["image"])
    assert torch.equal(module.seen[1], plain["mask"])


@pytest.mark.parametrize("place", ["worker", "device"])
def test_a_trainer_in_float64_sees_float64(tmp_path: Path, place: str):
    write_folder(tmp_path)
    module = Watch()
    quiet = {name: False for name in ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")}
    options = {"max_steps": 1, "accelerator": "cpu", "limit_val_batches": 0, "use_distributed_sampler": False}
    L.Trainer(precision="64-true", **options, **quiet).fit(module, folder(tmp_path, place))
    assert module.seen[0].dtype == torch.float64


def test_crops_of_bytes_are_collated_as_others(tmp_path: Path):
    write_folder(tmp_path)
    dataset = folder(tmp_path, "device").train_dataloader().dataset
    batch = collate([dataset[0, index] for index in range(3)])
    assert batch["image"].shape == (3, 65, 65, 3)
    assert batch["mask"].shape == (3, 65, 65)


def test_auto_is_the_worker_without_a_trainer(tmp_path: Path):
    write_folder(tmp_path)
    assert next(iter(folder(tmp_path, "auto").train_dataloader()))["image"].dtype == torch.float32


def test_the_table_on_a_device_gives_the_numbers_of_a_cpu():
    finish = Finish(Normalize(MEAN, STD))
    pixels = torch.arange(256, dtype=torch.uint8).repeat(2 * 3).view(2, 16, 16, 3)
    batch = {"image": pixels, "mask": torch.zeros(2, 16, 16, dtype=torch.uint8)}
    assert torch.equal(finish.looked_up(pixels), finish(batch)["image"])
