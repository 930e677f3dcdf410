"""One bar for the whole run on a terminal, a plain line now and then elsewhere."""

import logging
import math
import time
from datetime import timedelta
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.trainer.states import TrainerFn
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from emanet.common.checks import at_least_one

log = logging.getLogger(__name__)

NARROW = 100  # columns of a terminal below which the numbers beside the bar move together


class RunProgress(ProgressBar):
    """Show step, loss, learning rate, mIoU, images per second, time spent and time left.

    The loss stays on the device: it is fetched every ``refresh_every`` steps, so that the bar does not make a GPU wait.

    Args:
        refresh_every: steps between two looks at the loss.
        log_every: steps between two lines where the output is no terminal.
        console: where to draw; by default standard output.
    """

    def __init__(self, *, refresh_every: int = 10, log_every: int = 50, console: Console | None = None) -> None:
        super().__init__()
        at_least_one(refresh_every=refresh_every, log_every=log_every)
        self.refresh_every, self.log_every = refresh_every, log_every
        self._console = console
        self._enabled = True
        self._bar: Progress | None = None
        self._shown = {"loss": "-", "lr": "-", "miou": "-", "speed": "-"}
        self._first_step = self._last_step = 0
        self._started = 0.0
        self._images, self._since = 0, 0.0  # images since a time: the speed

    def enable(self) -> None:
        """Show progress."""
        self._enabled = True

    def disable(self) -> None:
        """Show nothing; Lightning calls it on all devices but the first."""
        self._enabled = False

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print above the bar."""
        (self._bar.console if self._bar else Console()).print(*args, **kwargs)

    # --- training ---------------------------------------------------------------------------------------------------

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the bar, of a resumed run where it stopped."""
        self._images, self._since = 0, time.monotonic()
        self._started = self._since
        self._first_step = self._last_step = trainer.global_step
        self._open(total_steps(trainer), completed=trainer.global_step)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move on; look at the loss now and then."""
        if not self._enabled:
            return
        self._images += len(batch["image"]) * trainer.world_size
        step = trainer.global_step
        if step == self._last_step:  # gradients are being accumulated
            return
        self._last_step = step
        logs = self._bar is None and step % self.log_every == 0
        if step % self.refresh_every == 0 or step == self._first_step + 1 or logs:
            self._refresh(trainer)
        self._update(trainer)
        if logs:
            log.info("step %d/%s  %s  %s", step, total_steps(trainer) or "?", self._numbers(), self._times(trainer))

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leave the bar as it stands."""
        if self._bar:
            self._refresh(trainer)
        self._update(trainer)
        self._close()

    def _refresh(self, trainer: L.Trainer) -> None:
        """Fetch the loss from the device; everything else is on the host."""
        loss = trainer.callback_metrics.get("train/loss")
        if loss is not None:
            self._shown["loss"] = f"{float(loss):.4f}"
        if trainer.optimizers:
            self._shown["lr"] = f"{trainer.optimizers[0].param_groups[0]['lr']:.1e}"
        now = time.monotonic()
        if self._images and now > self._since:
            self._shown["speed"] = f"{self._images / (now - self._since):.1f}"
            self._images, self._since = 0, now

    def _update(self, trainer: L.Trainer, validated: str = "") -> None:
        """Move the bar; ``validated`` says how far a validation has come."""
        if self._bar:
            text = f"{validated or self._numbers()}  {self._times(trainer)}"
            if self._bar.console.width < NARROW:
                text = text.replace("  ", " ").replace(" img/s", "/s").replace(" spent, ", "<").replace(" left", "")
            self._bar.update(self._bar.task_ids[0], completed=trainer.global_step, text=text)

    def _numbers(self) -> str:
        """The numbers beside the bar."""
        return "loss {loss}  lr {lr}  mIoU {miou}  {speed} img/s".format(**self._shown)

    def _times(self, trainer: L.Trainer) -> str:
        """Time spent, and left at the pace of this run so far, validations included."""
        total, done, spent = (
            total_steps(trainer),
            trainer.global_step - self._first_step,
            time.monotonic() - self._started,
        )
        left = "-" if total is None or done < 1 else clock(spent / done * (total - trainer.global_step))
        return f"{clock(spent)} spent, {left} left"

    # --- validation -------------------------------------------------------------------------------------------------

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Show a bar, if there is no training that has one."""
        if trainer.state.fn != TrainerFn.FITTING:
            self._open(sum(trainer.num_val_batches))

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        """Move on."""
        if self._bar and trainer.state.fn != TrainerFn.FITTING:
            self._bar.advance(self._bar.task_ids[0])
        else:
            self._update(trainer, f"validation {batch_idx + 1}/{sum(trainer.num_val_batches)}")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say the scores; the speed of the training is counted anew."""
        self._images, self._since = 0, time.monotonic()
        if trainer.sanity_checking or not self._enabled:
            return
        scores = trainer.callback_metrics
        miou, accuracy = (float(scores.get(f"val/{name}", math.nan)) for name in ("miou", "pixel_accuracy"))
        self._shown["miou"] = f"{miou:.4f}"
        if trainer.state.fn == TrainerFn.FITTING:
            self._update(trainer)
            log.info("validation at step %d: mIoU %.4f, pixel accuracy %.4f", trainer.global_step, miou, accuracy)
        else:
            self._close()
            log.info("validation: mIoU %.4f, pixel accuracy %.4f", miou, accuracy)

    # --- the terminal -----------------------------------------------------------------------------------------------

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Give the terminal back."""
        self._close()

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Give the terminal back."""
        self._close()

    def _open(self, total: int | float | None, completed: int = 0) -> None:
        """Start drawing, on a terminal alone."""
        console = self._console or Console()
        if self._enabled and console.is_terminal:
            bar = BarColumn(bar_width=None if console.width >= NARROW else 6)
            columns = (bar, MofNCompleteColumn(), TextColumn("{task.fields[text]}"))
            self._bar = Progress(*columns, console=console, refresh_per_second=4, expand=True)
            self._bar.add_task("", total=total, completed=completed, text="")
            self._bar.start()

    def _close(self) -> None:
        """Stop drawing; the bar stays as it is."""
        if self._bar:
            self._bar.stop()
        self._bar = None


def total_steps(trainer: L.Trainer) -> int | None:
    """Length of the run in optimizer steps; ``None`` if it is not known."""
    total = trainer.max_steps if trainer.max_steps > 0 else trainer.estimated_stepping_batches
    return None if math.isinf(total) else int(total)


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss, with days where there are any."""
    return str(timedelta(seconds=round(seconds)))
