"""The checkpoint to go on from."""

from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint


class LastCheckpoint(Checkpoint):
    """Write ``last.ckpt`` every ``every_n_steps`` optimiser steps and at the end of training.

    Counts optimiser steps, not batches, so a window of accumulated gradients is never cut in two.

    Args:
        dirpath: folder of the checkpoints.
        every_n_steps: optimiser steps between two checkpoints.
    """

    def __init__(self, dirpath: str | Path, *, every_n_steps: int = 1000) -> None:
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps must be at least 1, got {every_n_steps}")
        self.path = Path(dirpath) / "last.ckpt"
        self.every_n_steps = every_n_steps
        self._saved_step = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """What a resumed run starts from need not be saved again."""
        self._saved_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save when the optimiser has just taken a step whose number is a multiple of ``every_n_steps``."""
        step = trainer.global_step
        if step != self._saved_step and step % self.every_n_steps == 0:
            self._save(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the end, with what the other callbacks know by then."""
        self._save(trainer)

    def _save(self, trainer: L.Trainer) -> None:
        """Write the checkpoint; called on all devices, as some strategies gather their state for it."""
        trainer.save_checkpoint(self.path, weights_only=False)
        self._saved_step = trainer.global_step
