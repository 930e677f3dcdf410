"""One bar for the whole run on a terminal, a plain line now and then elsewhere."""

import logging
import math
import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.trainer.states import TrainerFn
from rich.console import Console

from emanet.training.callbacks.terminal import Bars

log = logging.getLogger(__name__)


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
        for name, value in (("refresh_every", refresh_every), ("log_every", log_every)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.refresh_every = refresh_every
        self.log_every = log_every
        self._console = console
        self._enabled = True
        self._bars: Bars | None = None
        self._shown = {"loss": "-", "lr": "-", "miou": "-", "speed": "-"}
        self._first_step = 0
        self._last_step = 0
        self._started = 0.0
        self._meter = Throughput()

    def enable(self) -> None:
        """Show progress."""
        self._enabled = True

    def disable(self) -> None:
        """Show nothing; Lightning calls it on all devices but the first."""
        self._enabled = False

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print above the bar."""
        (self._bars.console if self._bars else Console()).print(*args, **kwargs)

    # --- training ---------------------------------------------------------------------------------------------------

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the bar, of a resumed run where it stopped."""
        self._started = time.monotonic()
        self._first_step = self._last_step = trainer.global_step
        self._meter.start()
        self._open()
        if self._bars:
            self._bars.add_main(total=total_steps(trainer), completed=trainer.global_step)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move on; look at the loss now and then."""
        if not self._enabled:
            return
        self._meter.images += len(batch["image"]) * trainer.world_size
        step = trainer.global_step
        if step == self._last_step:  # gradients are being accumulated
            return
        self._last_step = step
        logs = self._bars is None and step % self.log_every == 0
        if step % self.refresh_every == 0 or step == self._first_step + 1 or logs:
            self._refresh(trainer)
        if self._bars:
            self._bars.update_main(self._numbers(), completed=step, left=self._left(trainer))
        elif logs:
            log.info("step %s", self._line(trainer))

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leave the bar as it stands."""
        if self._bars:
            self._refresh(trainer)
            self._bars.update_main(self._numbers(), completed=trainer.global_step, left="0:00:00")
        self._close()

    def _refresh(self, trainer: L.Trainer) -> None:
        """Fetch the loss from the device; everything else is on the host."""
        loss = trainer.callback_metrics.get("train/loss")
        if loss is not None:
            self._shown["loss"] = f"{float(loss):.4f}"
        if trainer.optimizers:
            self._shown["lr"] = f"{trainer.optimizers[0].param_groups[0]['lr']:.1e}"
        if self._meter.images:
            self._shown["speed"] = self._meter.read()

    def _line(self, trainer: L.Trainer) -> str:
        """The state of the run in a line of text."""
        total = total_steps(trainer)
        spent = clock(time.monotonic() - self._started)
        return f"{trainer.global_step}/{total or '?'}  {self._numbers()}  {spent} spent, {self._left(trainer)} left"

    def _numbers(self) -> str:
        """The numbers beside the bar."""
        return "loss {loss}  lr {lr}  mIoU {miou}  {speed} img/s".format(**self._shown)

    def _left(self, trainer: L.Trainer) -> str:
        """Time left at the pace of this run so far, validations included."""
        total, done = total_steps(trainer), trainer.global_step - self._first_step
        if total is None or done < 1:
            return "-"
        return clock((time.monotonic() - self._started) / done * (total - trainer.global_step))

    # --- validation -------------------------------------------------------------------------------------------------

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Show a second bar; the clock of the training throughput stops."""
        self._meter.pause()
        if trainer.sanity_checking:
            return
        self._open()
        if self._bars:
            batches = trainer.num_val_batches
            total = sum(batches) if isinstance(batches, list) else batches
            self._bars.add_second("validation", total=None if math.isinf(total) else int(total))

    def on_validation_batch_end(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        """Move the second bar."""
        if self._bars:
            self._bars.advance_second()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say the scores, and take the second bar away."""
        self._meter.resume()
        if trainer.sanity_checking or not self._enabled:
            return
        if self._bars:
            self._bars.remove_second()
        scores = trainer.callback_metrics
        miou, accuracy = (float(scores.get(f"val/{name}", math.nan)) for name in ("miou", "pixel_accuracy"))
        self._shown["miou"] = f"{miou:.4f}"
        if trainer.state.fn == TrainerFn.FITTING:
            if self._bars:
                self._bars.update_main(self._numbers())
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

    def _open(self) -> None:
        """Start drawing, on a terminal alone."""
        console = self._console or Console()
        if self._enabled and self._bars is None and console.is_terminal:
            self._bars = Bars(console)

    def _close(self) -> None:
        """Stop drawing."""
        if self._bars:
            self._bars.stop()
        self._bars = None


class Throughput:
    """Images per second since the last reading, validations left out."""

    def __init__(self) -> None:
        self.images = 0
        self._since = 0.0
        self._paused_at: float | None = None

    @property
    def seconds(self) -> float:
        """Time since the start of this count."""
        return time.monotonic() - self._since

    def start(self) -> None:
        """Start counting."""
        self.images, self._since, self._paused_at = 0, time.monotonic(), None

    def pause(self) -> None:
        """Stop the clock."""
        self._paused_at = time.monotonic()

    def resume(self) -> None:
        """Let the clock go on."""
        if self._paused_at is not None:
            self._since += time.monotonic() - self._paused_at
        self._paused_at = None

    def read(self) -> str:
        """Images per second since the last reading, as text; starts a new count."""
        seconds = self.seconds
        text = f"{self.images / seconds:.1f}" if seconds > 0 else "-"
        self.start()
        return text


def total_steps(trainer: L.Trainer) -> int | None:
    """Length of the run in optimizer steps; ``None`` if it is not known."""
    total = trainer.max_steps if trainer.max_steps > 0 else trainer.estimated_stepping_batches
    return None if math.isinf(total) else int(total)


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
