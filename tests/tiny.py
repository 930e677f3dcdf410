"""A network, a task and batches small enough for a laws-in-float64 test of training."""

from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader

from emanet.model.network import EMANet
from emanet.training.task import SegmentationTask

CLASSES = 4
SIZE = 33
NAMES = ["a", "b", "c", "d"]


def tiny_net(**options: Any) -> EMANet:
    """timm's test_resnet (0.4 M parameters) under a head of 8 channels, the same weights in every process."""
    torch.manual_seed(0)
    bases = {"K": 3} if options.get("head", "ema") == "ema" else {}
    small = {"backbone": "test_resnet", "output_stride": 16, "channels": 8, "dropout": 0.0}
    return EMANet(CLASSES, **{**small, **bases, **options})


def tiny_batch(
    images: int, *, seed: int = 0, ignored: float = 0.1, dtype: torch.dtype = torch.float64
) -> dict[str, Any]:
    """Random images and masks with a share of ignored pixels."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(images, 3, SIZE, SIZE, generator=generator, dtype=torch.float64).to(dtype)
    mask = torch.randint(0, CLASSES, (images, SIZE, SIZE), generator=generator)
    mask[torch.rand(mask.shape, generator=generator) < ignored] = 255
    return {"image": image, "mask": mask, "name": [f"{seed}-{i}" for i in range(images)]}


def joined(*batches: dict[str, Any]) -> dict[str, Any]:
    """One batch of all images."""
    return {
        "image": torch.cat([batch["image"] for batch in batches]),
        "mask": torch.cat([batch["mask"] for batch in batches]),
        "name": [name for batch in batches for name in batch["name"]],
    }


def loader(batches: list[dict[str, Any]]) -> DataLoader:
    """A loader that hands out ready batches in order."""
    return DataLoader(batches, batch_size=None)  # type: ignore[arg-type]


class RecordingTask(SegmentationTask):
    """The task in float64; keeps the loss and gradients of every optimizer step, and freezes batch norms if asked."""

    def __init__(self, net: EMANet, *, frozen_bn: bool = True, **options: Any) -> None:
        super().__init__(net, **{"class_names": NAMES, "max_steps": 10, "lr": 0.1, **options})
        self.frozen_bn = frozen_bn
        self.losses: list[float] = []
        self.gradients: list[dict[str, Tensor]] = []
        self.confusion: Tensor | None = None
        self.double()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_start(batch, batch_idx)
        for module in self.modules():
            if isinstance(module, _BatchNorm):
                module.train(not self.frozen_bn)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        super().on_before_optimizer_step(optimizer)
        self.gradients.append({name: p.grad.clone() for name, p in self.net.named_parameters() if p.grad is not None})

    def log(self, name: str, value: Any, *args: Any, **kwargs: Any) -> None:
        if name == "train/loss":
            self.losses.append(float(value))
        super().log(name, value, *args, **kwargs)

    def on_validation_epoch_end(self) -> None:
        with self.metrics.sync_context():
            self.confusion = self.metrics.confusion.clone()
        super().on_validation_epoch_end()

    def result(self) -> dict[str, Any]:
        """Everything that two ways of training on the same images must agree on."""
        return {
            "losses": torch.tensor(self.losses, dtype=torch.float64),
            "gradients": self.gradients,
            "state": {key: value.clone() for key, value in self.net.state_dict().items()},
            "confusion": self.confusion,
        }


def fit(task: SegmentationTask, batches: list[dict], *, val: list[dict] | None = None, **options: Any) -> L.Trainer:
    """One epoch over ready batches, without files, bars or loggers."""
    trainer = L.Trainer(
        **{
            "max_epochs": 1,
            "accelerator": "cpu",
            "devices": 1,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "use_distributed_sampler": False,
            "num_sanity_val_steps": 0,
            **options,
        }
    )
    trainer.fit(task, loader(batches), None if val is None else loader(val))
    return trainer


def assert_same(got: dict[str, Any], expected: dict[str, Any], *, rtol: float = 1e-9) -> None:
    """Loss, gradients and state of two results agree in float64."""
    torch.testing.assert_close(got["losses"], expected["losses"], rtol=rtol, atol=0)
    assert len(got["gradients"]) == len(expected["gradients"]) > 0
    for ours, theirs in zip(got["gradients"], expected["gradients"], strict=True):
        assert ours.keys() == theirs.keys()
        for name, gradient in ours.items():
            torch.testing.assert_close(gradient, theirs[name], rtol=rtol, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")
    for key, value in got["state"].items():
        torch.testing.assert_close(
            value, expected["state"][key], rtol=rtol, atol=1e-12, msg=lambda m, k=key: f"{k}: {m}"
        )
