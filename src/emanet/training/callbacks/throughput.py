"""Training speed as a metric."""

import time
from typing import Any

import lightning as L
import torch


class LogThroughput(L.Callback):
    """Log ``train/images_per_second`` over all devices and ``train/wait``, the share of the time between two batches.

    Both since they were last logged, or since a validation or the first step, which are left out. The time between
    batches is that of waiting for data, and for what other callbacks do there, such as writing a checkpoint. It is the
    host's time: a GPU that is busy with earlier steps hides some of it.
    """

    def __init__(self) -> None:
        self._images, self._waited, self._since = 0, 0.0, 0.0
        self._ended: float | None = None  # time.monotonic() from which the next batch is waited for

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forget an earlier training."""
        self._ended = None

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """End of waiting."""
        if self._ended is not None:
            self._waited += time.monotonic() - self._ended

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count; log at the trainer's interval."""
        if self._ended is None:  # the first step chooses kernels and starts workers
            self._restart()
            return
        self._ended = time.monotonic()
        self._images += len(batch["image"]) * trainer.world_size
        seconds = max(self._ended - self._since, 1e-9)
        for name, value in (("images_per_second", self._images), ("wait", self._waited)):
            pl_module.log(f"train/{name}", torch.tensor(value / seconds))  # a number would be sent to the device
        complete = (trainer.fit_loop.total_batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if complete and trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self._restart()  # Lightning hands this value to the loggers, and drops the others

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Count anew; a validation is no waiting."""
        if self._ended is not None:
            self._restart()

    def _restart(self) -> None:
        self._images, self._waited = 0, 0.0
        self._since = self._ended = time.monotonic()
