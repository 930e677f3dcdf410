"""Saving before a job ends: on SIGTERM, and on the signal that announces a cluster's time limit."""

import logging
import os
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint

from emanet.common.checks import at_least_one
from emanet.common.interrupts import InterruptedRunError, Interrupts, Request
from emanet.training.callbacks.checkpoints import LastCheckpoint, validation_follows
from emanet.training.loggers import close_loggers

log = logging.getLogger(__name__)

SECONDS_TO_END = 120.0  # that Slurm has for ending a job that it requeues


class SaveOnSignal(Checkpoint):  # as such Lightning calls it last, when the others know of a validation
    """On SIGTERM or SIGHUP save and exit; on SIGUSR1 or SIGUSR2 save and have Slurm requeue the job.

    The devices agree on it between two optimizer steps, and after a validation that is under way. Then ``last.ckpt`` is
    written, the step's metrics are logged, and the job ends. The requeued job goes on by itself.

    Args:
        run_dir: folder of the run, for the message.
        every_n_steps: optimizer steps between two agreements of several devices; one device acts at once.
    """

    def __init__(self, run_dir: str | Path, *, every_n_steps: int = 10) -> None:
        at_least_one(every_n_steps=every_n_steps)
        self._command = f"python src/train.py resume={run_dir}"
        self.every_n_steps = every_n_steps
        self.interrupts = Interrupts()
        self._agreed = Request.NONE
        self._seen_step = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the signals over, from Lightning and submitit as well."""
        self._seen_step = trainer.global_step
        self._agreed = Request.NONE
        self.interrupts.listen()
        # Of several devices, Lightning asks at every batch whether one got SIGTERM, and waits for them all to answer.
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """After an optimizer step, look whether a signal came."""
        step = trainer.global_step
        if step == self._seen_step:  # gradients are being accumulated
            return
        self._seen_step = step
        if not validation_follows(trainer) and (trainer.world_size == 1 or step % self.every_n_steps == 0):
            self._save_if_asked(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """After a validation, look whether a signal came."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._save_if_asked(trainer)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """End the job, now that the saved step's metrics are logged."""
        if self._agreed == Request.REQUEUE and "SLURM_JOB_ID" in os.environ:
            self._requeue(trainer)
        if self._agreed != Request.NONE:
            raise InterruptedRunError(
                f"stopped by a signal and saved at step {trainer.global_step}; go on with: {self._command}"
            )

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Say how a run goes on that Ctrl-C has ended."""
        if isinstance(exception, KeyboardInterrupt) and trainer.is_global_zero:
            log.warning("stopped at step %d; go on with: %s", trainer.global_step, self._command)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Give the signals back."""
        self.interrupts.release()
        vars(trainer.fit_loop.epoch_loop).pop("_broadcast_sigterm_tensor", None)

    def _save_if_asked(self, trainer: L.Trainer) -> None:
        """Agree on the most urgent request that came on any device; save if there is one."""
        self._agreed = self.interrupts.request
        if trainer.world_size > 1:
            request = torch.tensor(int(self._agreed), device=trainer.strategy.root_device)
            torch.distributed.all_reduce(request, torch.distributed.ReduceOp.MAX)
            self._agreed = Request(int(request))
        if self._agreed == Request.NONE:
            return
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, LastCheckpoint):
                callback.save(trainer)

    def _requeue(self, trainer: L.Trainer) -> None:
        """Hand the job back to Slurm and wait for the end; return if Slurm does not take it."""
        log.info("saved at step %d for Slurm to requeue", trainer.global_step)
        for logger in trainer.loggers:
            logger.finalize("finished")
        close_loggers(trainer.loggers)
        refused = trainer.is_global_zero and not requeue_job()
        if trainer.strategy.reduce_boolean_decision(refused, all=False):
            return
        # No return to the caller: submitit would store a result, and take the job for finished.
        deadline = time.monotonic() + SECONDS_TO_END
        while not self.interrupts.terminated and time.monotonic() < deadline:
            time.sleep(0.1)
        logging.shutdown()
        os._exit(0)


def requeue_job() -> bool:
    """Ask Slurm to start this job again from its beginning; whether it will."""
    job = os.environ["SLURM_JOB_ID"]
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    assert re.fullmatch(r"\d+(_\d+)?", job), job
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        log.error("Slurm does not requeue job %s: %s", job, getattr(error, "stderr", None) or error)
        return False
    log.info("Slurm requeues job %s", job)
    return True
