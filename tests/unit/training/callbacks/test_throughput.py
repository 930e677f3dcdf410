"""Throughput as a metric, on a clock that data and steps move by known amounts."""

import csv
from pathlib import Path
from types import SimpleNamespace

import pytest

from emanet.training.callbacks import LogThroughput, throughput
from emanet.training.loggers.csv import RunCSVLogger
from emanet.training.task import SegmentationTask
from small_run import ColorData, make_task, make_trainer


class Clock:
    """Stands still unless it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class SlowData(ColorData):
    """Each image takes 1.5 seconds to read."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock

    def _loader(self, split: str):
        loader = super()._loader(split)
        loader.collate_fn = self.slow(loader.collate_fn)
        return loader

    def slow(self, collate):
        def slowly(items):
            self.clock.now += 1.5 * len(items)
            return collate(items)

        return slowly


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of the callback; every training step takes a second, the first one a minute."""
    clock, real = Clock(), SegmentationTask.training_step
    monkeypatch.setattr(throughput, "time", SimpleNamespace(monotonic=clock))

    def step(self, batch, batch_idx):
        clock.now += 1 if self.global_step or batch_idx else 60
        return real(self, batch, batch_idx)

    monkeypatch.setattr(SegmentationTask, "training_step", step)
    return clock


def rows_of(run_dir: Path, key: str = "train/images_per_second") -> list[dict[str, str]]:
    """The rows of metrics.csv that have a value of the key."""
    with (run_dir / "metrics.csv").open(newline="") as file:
        return [row for row in csv.DictReader(file) if row.get(key)]


@pytest.mark.parametrize("accumulated", [1, 2])
def test_images_per_second_and_waiting_are_those_of_the_clock_without_first_step_and_validations(
    tmp_path: Path, clock: Clock, accumulated: int
):
    callbacks = [LogThroughput()]
    options = {"accumulate_grad_batches": accumulated, "val_check_interval": 2, "log_every_n_steps": 3}
    trainer = make_trainer(tmp_path, callbacks, logger=RunCSVLogger(tmp_path), **options)
    trainer.fit(make_task(), SlowData(clock))
    rows = rows_of(tmp_path)
    assert [int(row["step"]) for row in rows] == [2, 5, 7]  # Lightning logs the last step in any case
    assert all(row["train/loss"] for row in rows), "in the rows of the loss"
    for row in rows:  # a batch of 2 images: 3 seconds of reading, 1 of training
        assert float(row["train/images_per_second"]) == pytest.approx(2 / 4)
        assert float(row["train/wait"]) == pytest.approx(3 / 4)
