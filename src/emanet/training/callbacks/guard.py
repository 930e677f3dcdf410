"""A guard against NaN and exploding losses."""

import logging
import math
from typing import Any, NamedTuple

import lightning as L
import torch
import torch.distributed as dist
from torch import Tensor, nn

from emanet.common.checks import at_least_one, one_of
from emanet.common.errors import EMANetError

log = logging.getLogger(__name__)

ACTIONS = ("stop", "skip")


class BadStepError(EMANetError):
    """A training step whose loss, bases or gradients are NaN, infinite or too large."""


class Part(NamedTuple):
    """One device's batch within an optimizer step."""

    names: list[str]
    loss: Tensor  #: in units of one image


class Step(NamedTuple):
    """An optimizer step on this device, with the verdict that holds on all of them."""

    number: int
    bad: Tensor
    loss: Tensor  #: of the whole step
    parts: list[Part]


class Guard(L.Callback):
    """Stop at, or skip, an optimizer step with a NaN, infinite or exploding loss, and say which images it was.

    The verdict is computed on the device from the global loss, bases and gradients, so all devices agree without
    asking. ``stop`` on a GPU fetches it every ``every_n_steps`` steps and before each checkpoint: no step waits for the
    host, and no bad step is ever saved. ``skip`` must know before the optimizer moves, and fetches it each step;
    weights, optimizer, bases and running statistics then stay as they were, while the schedule goes on.

    Args:
        action: ``stop`` or ``skip``.
        max_loss: largest loss that counts as sound; null: any finite one.
        every_n_steps: steps between two looks where ``action`` is ``stop``; on a CPU every step is looked at.
        max_skips: skipped steps in a row after which ``skip`` stops as well.
    """

    def __init__(
        self, *, action: str = "stop", max_loss: float | None = 100.0, every_n_steps: int = 10, max_skips: int = 10
    ) -> None:
        one_of(ACTIONS, action=action)
        if max_loss is not None and not max_loss > 0:
            raise ValueError(f"max_loss must be null or a positive number, got {max_loss}")
        at_least_one(every_n_steps=every_n_steps, max_skips=max_skips)
        self.action, self.max_loss = action, math.inf if max_loss is None else max_loss
        self.every_n_steps, self.max_skips = every_n_steps, max_skips
        self.skipped = 0
        self._in_a_row = 0
        self._pending: list[Step] = []
        self._names: list[list[str]] = []
        self._losses: list[Tensor] = []
        self._buffers: list[Tensor] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Have the task ask before each optimizer step."""
        scaled = trainer.precision == "16-mixed"  # infinite gradients are its daily business: the scaler skips them

        def judge(loss: Tensor, mu: Tensor) -> bool:
            return self._judge(trainer, pl_module, loss, finite(mu, [] if scaled else gradients(pl_module)))

        pl_module.judge = judge  # type: ignore[assignment]

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note the images; if steps may be skipped, also what their forward pass will change."""
        if self.action == "skip" and not self._names:
            self._buffers = [buffer.clone() for buffer in pl_module.buffers()]
        self._names.append(list(batch.get("name", [])))

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor) -> None:
        """Note this device's own loss."""
        self._losses.append(loss.detach() * trainer.accumulate_grad_batches)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Let no bad step into a checkpoint."""
        self._look(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look at the last steps."""
        self._look(trainer)
        if self.skipped:
            log.warning("%d steps were skipped for their loss", self.skipped)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Stop being asked."""
        pl_module.judge = None  # type: ignore[assignment]

    def _judge(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor, sound: Tensor) -> bool:
        """Take note of a step; whether the optimizer may take it. Its number is that of the step to be."""
        parts = [Part(names, value) for names, value in zip(self._names, self._losses, strict=True)]
        bad = ~(sound & (loss.abs() <= self.max_loss))  # a comparison with NaN is false
        self._pending.append(Step(trainer.global_step + 1, bad, loss, parts))
        self._names, self._losses = [], []
        if self.action == "skip":
            return self._keep_or_undo(trainer, pl_module)
        if loss.device.type == "cpu" or len(self._pending) >= self.every_n_steps:
            self._look(trainer)
        return True

    def _look(self, trainer: L.Trainer) -> None:
        """Fetch the verdicts that are still on the device; stop at the first bad step."""
        steps, self._pending = self._pending, []
        if steps:
            verdicts = torch.stack([step.bad for step in steps]).tolist()
            if any(verdicts):
                raise BadStepError(
                    describe(steps[verdicts.index(True)], trainer.world_size)
                    + ". Look at these images and masks, or lower optimizer.lr; callbacks.guard.action=skip leaves "
                    "such steps out"
                )

    def _keep_or_undo(self, trainer: L.Trainer, pl_module: L.LightningModule) -> bool:
        """Fetch one verdict; undo what the forward pass of a bad step changed."""
        step = self._pending.pop()
        if not bool(step.bad):
            self._in_a_row = 0
            return True
        with torch.no_grad():
            for buffer, before in zip(pl_module.buffers(), self._buffers, strict=True):
                buffer.copy_(before)
        self.skipped += 1
        self._in_a_row += 1
        message = describe(step, trainer.world_size)
        if self._in_a_row >= self.max_skips:
            raise BadStepError(f"{message}; {self._in_a_row} steps in a row were skipped, so it is not the images")
        log.warning("%s: skipped", message)
        return False


def gradients(module: nn.Module) -> list[Tensor]:
    """The gradients that the optimizer is about to use."""
    return [parameter.grad for parameter in module.parameters() if parameter.grad is not None]


def finite(mu: Tensor, grads: list[Tensor]) -> Tensor:
    """Whether bases and gradients hold only numbers; one value on the device."""
    result = mu.isfinite().all()
    if grads and grads[0].device.type == "cpu":  # there the norms take 15 times as long
        return result & torch.stack([value for grad in grads for value in grad.aminmax()]).isfinite().all()
    if grads:
        result = result & torch.stack(torch._foreach_norm(grads, float("inf"))).isfinite().all()
    return result


def describe(step: Step, world: int) -> str:
    """Say what is wrong with a step, and which images it was made of; to be called on all ranks."""
    own = [(part.names, float(part.loss)) for part in step.parts]
    ranks: list[list[tuple[list[str], float]]] = [own]
    if world > 1:
        ranks = [[] for _ in range(world)]
        dist.all_gather_object(ranks, own)
    parts = [(rank, names, loss) for rank, of_rank in enumerate(ranks) for names, loss in of_rank]
    guilty = [part for part in parts if not math.isfinite(part[2])] or parts
    images = "; ".join(f"rank {rank}: {', '.join(names)} (loss {loss:.4g})" for rank, names, loss in guilty)
    return f"step {step.number}: loss {float(step.loss):.4g}, or gradients, out of bounds; images of {images}"
