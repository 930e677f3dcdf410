"""The monitor of the bases: its scalars stand beside the scores, and training does not notice it."""

import csv
from contextlib import nullcontext
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch

from emanet.inference.bases import SCALARS, look, measure
from emanet.training.callbacks import BasesMonitor, LastCheckpoint
from emanet.training.loggers.csv import RunCSVLogger
from emanet.training.task import SegmentationTask
from small_run import NAMES, ColorData, make_task, make_trainer
from tiny import tiny_net


def ema_task(**options) -> SegmentationTask:
    """A small EMANet on the colored images."""
    return SegmentationTask(tiny_net(**options), class_names=NAMES, config={"name": "small"})


def rows_of(run_dir: Path) -> list[dict[str, str]]:
    """The rows of metrics.csv that belong to a validation."""
    with (run_dir / "metrics.csv").open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["val/miou"]]


def test_every_validation_has_all_scalars_in_the_row_of_its_scores(tmp_path: Path):
    trainer = make_trainer(tmp_path, [BasesMonitor(n_images=2)], logger=RunCSVLogger(tmp_path))
    task = ema_task()
    start = task.net.head.mu[0].double().clone()
    trainer.fit(task, ColorData())
    rows = rows_of(tmp_path)
    assert [int(row["step"]) for row in rows] == [3, 7]
    for row in rows:
        assert all(np.isfinite(float(row[f"bases/{name}"])) for name in SCALARS)
    task.net.eval()
    images = [ColorData().item("val", index)["image"][None] for index in (2, 7)]  # a quarter and three quarters in
    expected = measure([look(task.net, image) for image in images], task.net.head.mu[0].double())
    for name, value in expected.items():
        assert float(rows[-1][name]) == pytest.approx(value, rel=1e-5, abs=1e-6), name
    moved = torch.linalg.vector_norm(task.net.head.mu[0].double() - start, dim=0).mean()
    drifts = [float(row["bases/drift"]) for row in rows]
    assert sum(drifts) >= float(moved) - 1e-6  # the way over two validations is no shorter than the straight one
    assert min(drifts) > 1e-3


class Watcher(L.Callback):
    """Notes the random states around every validation; not Python's, which the checks of shapes draw from in tests."""

    def __init__(self) -> None:
        self.states: list[tuple] = []

    def note(self) -> None:
        self.states.append((torch.get_rng_state().tolist(), str(np.random.get_state())))

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.note()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.note()


def test_weights_buffers_scores_and_random_states_are_the_same_to_the_bit_with_and_without_it(tmp_path: Path):
    ends = []
    for callbacks in ([], [BasesMonitor(n_images=4)]):
        L.seed_everything(7, verbose=False)
        watcher, task = Watcher(), ema_task(dropout=0.5)
        trainer = make_trainer(tmp_path, [*callbacks, watcher])
        trainer.fit(task, ColorData())
        ends.append((task, trainer, watcher.states))
    (plain, trainer, states), (watched, watched_trainer, watched_states) = ends
    assert len(states) == 4
    assert states == watched_states
    for key, value in plain.state_dict().items():
        assert torch.equal(value, watched.state_dict()[key]), key
    assert torch.equal(plain.metrics.confusion, watched.metrics.confusion)
    metrics = watched_trainer.callback_metrics
    assert {key: value.item() for key, value in trainer.callback_metrics.items()} == pytest.approx(
        {key: value.item() for key, value in metrics.items() if not key.startswith("bases/")}, rel=0, abs=0, nan_ok=True
    )
    assert {f"bases/{name}" for name in SCALARS} < metrics.keys()


@pytest.mark.parametrize("task", [make_task, lambda: ema_task(head="fcn")])
def test_a_network_without_bases_is_left_alone(tmp_path: Path, task):
    trainer = make_trainer(tmp_path, [BasesMonitor()], logger=RunCSVLogger(tmp_path))
    trainer.fit(task(), ColorData())
    rows = rows_of(tmp_path)
    assert len(rows) == 2
    assert not [key for key in rows[0] if key.startswith("bases/")]


class Death(L.Callback):
    """Ends a run before its seventh step."""

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch, batch_idx: int) -> None:
        if trainer.global_step == 6:
            raise RuntimeError("killed")


def test_a_run_resumed_between_two_validations_measures_the_drift_from_the_one_before(tmp_path: Path):
    rows = {}
    for name in ("whole", "cut"):
        folder = tmp_path / name
        folder.mkdir()
        for deaths in ([Death()], []) if name == "cut" else ([],):
            callbacks = [BasesMonitor(n_images=1), LastCheckpoint(folder, every_n_steps=1), *deaths]
            trainer = make_trainer(folder, callbacks, logger=RunCSVLogger(folder))
            last = folder / "checkpoints" / "last.ckpt"
            path = last if last.exists() else None
            with pytest.raises(RuntimeError, match="killed") if deaths else nullcontext():
                trainer.fit(ema_task(), ColorData(train=2), ckpt_path=path, weights_only=True)
        rows[name] = [row["bases/drift"] for row in rows_of(folder)]
    assert len(rows["whole"]) == 2
    assert rows["cut"] == rows["whole"]
