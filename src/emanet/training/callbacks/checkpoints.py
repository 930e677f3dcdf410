"""The checkpoint to go on from, and the one before it."""

import contextlib
import os
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint

from emanet.common.checks import at_least_one
from emanet.training.resume import COMMAND, keep_command

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"


class LastCheckpoint(Checkpoint):
    """Write ``last.ckpt`` every ``every_n_steps`` optimizer steps and at the end of training.

    The one before it stays as ``previous.ckpt``, should a disk damage the last. Counts optimizer steps, not batches,
    so a window of accumulated gradients is never cut in two. Where a validation follows the step, it comes first: a
    run that goes on from a checkpoint does not catch up on a validation.

    Args:
        run_dir: folder of the run; the checkpoints go to ``checkpoints/`` in it.
        every_n_steps: optimizer steps between two checkpoints.
    """

    def __init__(self, run_dir: str | Path, *, every_n_steps: int = 1000) -> None:
        at_least_one(every_n_steps=every_n_steps)
        self.path = Path(run_dir) / "checkpoints" / LAST
        self.every_n_steps = every_n_steps
        self._saved_step = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """What a resumed run starts from need not be saved again; the command that it goes on with is kept."""
        self._saved_step = trainer.global_step
        folder = self.path.parent.parent
        if trainer.is_global_zero and (folder / COMMAND).is_file():  # checkpoints may go elsewhere
            keep_command(folder)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save when the optimizer has just taken a step whose number is a multiple of ``every_n_steps``."""
        if self._is_due(trainer) and not validation_follows(trainer):
            self.save(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save what had to wait for the validation."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking and self._is_due(trainer):
            self.save(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the end, with what the other callbacks know by then."""
        self._save(trainer)

    def save(self, trainer: L.Trainer) -> None:
        """Write this step's checkpoint, unless it is there already; to be called on all devices at once."""
        if trainer.global_step != self._saved_step:
            self._save(trainer)

    def _is_due(self, trainer: L.Trainer) -> bool:
        return trainer.global_step != self._saved_step and trainer.global_step % self.every_n_steps == 0

    def _save(self, trainer: L.Trainer) -> None:
        """Write the checkpoint; called on all devices, as some strategies gather their state for it."""
        if trainer.is_global_zero and trainer.global_step != self._saved_step:
            keep_previous(self.path)
        trainer.save_checkpoint(self.path, weights_only=False)
        self._saved_step = trainer.global_step
        for logger in trainer.loggers:
            logger.after_save_checkpoint(self)  # type: ignore[arg-type]


def keep_previous(last: Path) -> None:
    """Let ``previous.ckpt`` name the file that ``last.ckpt`` names now; at no moment is either of them missing."""
    if not last.is_file():
        return
    link = last.with_name(f"{PREVIOUS}.{os.getpid()}.tmp")
    with contextlib.suppress(OSError):  # a file system without hard links keeps no previous one
        link.unlink(missing_ok=True)
        os.link(last, link)
        link.replace(last.with_name(PREVIOUS))


def validation_follows(trainer: L.Trainer) -> bool:
    """Whether Lightning validates before the next training batch (``val_check_interval`` counts batches here)."""
    if not trainer.enable_validation:
        return False
    if trainer.should_stop or trainer.global_step >= trainer.max_steps > 0:  # SegmentationTask validates at the end
        return True
    batches, interval = trainer.fit_loop.total_batch_idx + 1, trainer.val_check_batch
    return isinstance(interval, int) and batches % interval == 0
