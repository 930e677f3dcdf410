"""What a run gave: summary.json in the run folder, tables on the screen."""

import logging
import math
import time
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn
from rich.cells import cell_len, set_cell_size
from rich.columns import Columns
from rich.console import Console
from rich.text import Text
from torch import nn

from emanet.common.files import write_json
from emanet.common.interrupts import InterruptedRunError
from emanet.common.provenance import command_line, git_state, hardware, versions
from emanet.training.loggers.csv import RunCSVLogger
from emanet.training.metrics import SegmentationScores

log = logging.getLogger(__name__)


class RunSummary(L.Callback):
    """Keep ``summary.json`` up to date from the start of training to its end, and print the scores at the end.

    A resumed run goes on counting: seconds and images add up, the best validation is kept.

    Args:
        run_dir: folder of the run.
    """

    def __init__(self, run_dir: str | Path) -> None:
        self.path = Path(run_dir) / "summary.json"
        self._totals = {"seconds": 0.0, "seconds_total": 0.0, "images": 0}
        self._best: dict[str, Any] = {"val/miou_best": None, "val/miou_best_step": None}
        self._last: dict[str, Any] = no_scores()
        self._facts: dict[str, Any] = {}
        self._since = time.monotonic()  # from which the totals are still to be added to
        self._training = False  # whether that time counts as training

    # --- time, images and scores ------------------------------------------------------------------------------------

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Start the clock."""
        self._since = time.monotonic()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say that the run is under way; of a resumed run, drop the metrics beyond its checkpoint."""
        self._settle(training=True)
        for logger in trainer.loggers:
            if isinstance(logger, RunCSVLogger):
                logger.drop_from(trainer.global_step)
        self._write(trainer, pl_module, "running")

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the images of all devices."""
        self._totals["images"] += len(batch["image"]) * trainer.world_size

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop the clock of the training."""
        self._settle(training=False)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take over the scores of this validation."""
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        scores: SegmentationScores = pl_module.metrics.compute()  # type: ignore[operator, union-attr]
        self._last = named_scores(scores, pl_module.class_names)  # type: ignore[arg-type]
        miou, best = self._last["val/miou"], self._best["val/miou_best"]
        if miou is not None and (best is None or miou > best):
            self._best = {"val/miou_best": miou, "val/miou_best_step": trainer.global_step}
        self._settle(training=True)
        self._write(trainer, pl_module, "running")

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop the clock of the training, before the last checkpoint is written."""
        self._settle(training=False)

    def _settle(self, training: bool | None = None) -> None:
        """Add the time since the last call to the totals; from now on it may count as training, or not."""
        passed, self._since = time.monotonic() - self._since, time.monotonic()
        self._totals["seconds_total"] += passed
        self._totals["seconds"] += passed if self._training else 0.0
        self._training = self._training if training is None else training

    # --- the end ----------------------------------------------------------------------------------------------------

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the end of the run, and print it."""
        self._write(trainer, pl_module, "finished")
        if not trainer.is_global_zero:
            return
        facts = {"parameters": self._facts["parameters"]["total"], "images_per_second": self._images_per_second()}
        facts |= found_by(trainer)
        for logger in trainer.loggers:
            if callable(summarize := getattr(logger, "summarize", None)):
                summarize(self._best | facts)
        console, metrics = Console(), pl_module.metrics
        if metrics.update_called:  # type: ignore[union-attr]  # not in a resumed run that was at its end already
            print_scores(metrics.compute(), pl_module.class_names, console)  # type: ignore[arg-type, operator, union-attr]
        seconds = self._totals["seconds_total"]
        steps = f"{trainer.global_step} steps in {seconds:.0f} s, {self._images_per_second():.1f} images/s"
        console.print(f"{steps}\nrun folder: {self.path.parent}", highlight=False, soft_wrap=True, markup=False)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Write why the run ended early."""
        status = "stopped" if isinstance(exception, (InterruptedRunError, KeyboardInterrupt)) else "failed"
        self._write(trainer, pl_module, status, error=f"{type(exception).__name__}: {exception}")

    def _images_per_second(self) -> float:
        """Training throughput over all devices, validations left out."""
        return self._totals["images"] / max(self._totals["seconds"], 1e-9)

    def _write(self, trainer: L.Trainer, task: L.LightningModule, status: str, error: str | None = None) -> None:
        """Write the summary; on the first device alone."""
        if not trainer.is_global_zero:
            return
        self._settle()
        self._facts = self._facts or run_facts(trainer, task)
        progress = {
            "steps": trainer.global_step,
            "epochs": trainer.current_epoch,
            "seconds": round(self._totals["seconds"], 3),
            "seconds_total": round(self._totals["seconds_total"], 3),
            "images_per_second": round(self._images_per_second(), 3),
        }
        scores = self._last | self._best | found_by(trainer)
        content = {"status": status, "error": error} | scores | progress | self._facts
        try:
            write_json(self.path, content)
        except OSError as problem:  # a full disk has room where the old status stands
            log.warning("%s cannot be written: %s", self.path, problem)
            if self.path.is_file() and status != "running":
                text = self.path.read_text(encoding="utf-8")
                with self.path.open("r+", encoding="utf-8") as file:
                    file.write(text.replace('"running",', f'"{status}",'.ljust(10), 1))

    # --- resuming ---------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run goes on from."""
        self._settle()
        return {"totals": dict(self._totals), "best": dict(self._best), "last": dict(self._last)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self._totals = dict(state_dict["totals"])
        self._best = dict(state_dict["best"])
        self._last = dict(state_dict["last"])


def found_by(trainer: L.Trainer) -> dict[str, Any]:
    """What other callbacks found out about the run: their ``facts``."""
    return {key: value for callback in trainer.callbacks for key, value in getattr(callback, "facts", {}).items()}  # type: ignore[attr-defined]


def no_scores() -> dict[str, Any]:
    """Scores of a run without validation."""
    names = [f"val/{name}" for name in SegmentationScores._fields if name != "iou"]
    return dict.fromkeys(names) | {"val/iou": {}}


def named_scores(scores: SegmentationScores, class_names: list[str]) -> dict[str, Any]:
    """Scores as JSON takes them: a class that occurs nowhere has ``null``, since JSON knows no NaN."""
    values = {f"val/{name}": finite(value.item()) for name, value in scores._asdict().items() if name != "iou"}
    return values | {"val/iou": dict(zip(class_names, map(finite, scores.iou.tolist()), strict=True))}


def finite(value: float | int) -> float | int | None:
    """The number, or ``None`` for NaN and infinities."""
    return value if math.isfinite(value) else None


def run_facts(trainer: L.Trainer, task: L.LightningModule) -> dict[str, Any]:
    """What does not change during a run: its name, seed and command, its parameters, software and hardware."""
    settings: dict[str, Any] = dict(task.hparams)
    return {
        "name": settings.get("name"),
        "dataset": getattr(trainer.datamodule, "name", None),  # type: ignore[attr-defined]
        "seed": settings.get("seed"),
        "command": command_line(),
        "parameters": count_parameters(task.net),  # type: ignore[arg-type]
        "precision": str(trainer.precision),
        "versions": versions(),
        "hardware": hardware(trainer.strategy.root_device.type, trainer.world_size),
        "git": git_state(),
    }


def write_evaluation(path: Path, trainer: L.Trainer, task: Any, asked: dict[str, Any], *, steps: float | None) -> None:
    """Write the ``summary.json`` of an evaluation: its scores, what was asked for, and the circumstances."""
    if trainer.is_global_zero:
        scores = named_scores(task.metrics.compute(), task.class_names)
        write_json(path, {"status": "finished", "steps": steps} | scores | run_facts(trainer, task) | asked)


def count_parameters(net: nn.Module) -> dict[str, int | None]:
    """Parameters in all, those that are trained, and how they divide into backbone and head."""
    total = sum(parameter.numel() for parameter in net.parameters())
    trainable = sum(parameter.numel() for parameter in net.parameters() if parameter.requires_grad)
    backbone = getattr(net, "backbone", None)
    inside = sum(parameter.numel() for parameter in backbone.parameters()) if isinstance(backbone, nn.Module) else None
    head = None if inside is None else total - inside
    return {"total": total, "trainable": trainable, "backbone": inside, "head": head}


def print_scores(scores: SegmentationScores, class_names: list[str], console: Console | None = None) -> None:
    """Print the scores of a split: the means, then each class's IoU; a class that occurs nowhere has a dash."""
    console = console or Console()
    width = min(24, max(map(cell_len, class_names)))
    ious = ("-" if math.isnan(iou) else f"{iou:.4f}" for iou in scores.iou.tolist())
    cells = [Text(f"{set_cell_size(name, width)} {iou:>6}") for name, iou in zip(class_names, ious, strict=True)]
    console.print(Columns(cells, column_first=True, padding=(0, 4), title="IoU"))
    averaged = f"over {int(scores.classes_averaged)} of {len(class_names)} classes"
    console.print(f"[bold]mIoU            {scores.miou:.4f}[/bold]  {averaged}", highlight=False)
    console.print(f"pixel accuracy  {scores.pixel_accuracy:.4f}", highlight=False)
    console.print(f"mean accuracy   {scores.mean_accuracy:.4f}", highlight=False)
