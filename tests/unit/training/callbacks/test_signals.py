"""Signals: what they ask for, and what a handler does (nothing but remember)."""

import os
import signal
import subprocess
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop

from emanet.common.interrupts import InterruptedRunError, Interrupts, Request
from emanet.training.callbacks import LastCheckpoint, SaveOnSignal
from emanet.training.callbacks import signals as module
from small_run import ColorData, make_task, make_trainer

SLURM = ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID")


@pytest.fixture(autouse=True)
def no_slurm(monkeypatch):
    for name in SLURM:
        monkeypatch.delenv(name, raising=False)


class Signaller(SaveOnSignal):
    """Sends a signal to this process at a step."""

    def __init__(self, run_dir: Path, number: signal.Signals, step: int) -> None:
        super().__init__(run_dir)
        self.number, self.step = number, step

    def on_before_zero_grad(self, trainer, *_):
        if trainer.global_step == self.step:
            os.kill(os.getpid(), self.number)


def interrupted(tmp_path: Path, number: signal.Signals, step: int, **options):
    callbacks = [LastCheckpoint(tmp_path), Signaller(tmp_path, number, step)]
    make_trainer(tmp_path, callbacks, **options).fit(make_task(), ColorData())


def saved_step(folder: Path) -> int:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_in_a_step_saves_after_it_and_says_how_to_go_on(tmp_path, number):
    before = signal.getsignal(number)
    with pytest.raises(InterruptedRunError, match=rf"saved at step 3; go on with: .* resume={tmp_path}"):
        interrupted(tmp_path, number, 2)
    assert saved_step(tmp_path) == 3
    assert signal.getsignal(number) == before, "the handlers are given back"


def test_where_a_validation_follows_it_comes_first_so_that_none_is_lost(tmp_path):
    with pytest.raises(InterruptedRunError, match="saved at step 4"):
        interrupted(tmp_path, signal.SIGTERM, 3)  # a validation follows step 4
    assert torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["validation"]["step"] == 4


def test_a_signal_in_the_last_step_lets_the_run_end_well(tmp_path):
    interrupted(tmp_path, signal.SIGTERM, 7)
    assert saved_step(tmp_path) == 8


def test_lightnings_own_question_to_all_devices_at_each_batch_is_not_asked_meanwhile(tmp_path, monkeypatch):
    asked: list[int] = []
    monkeypatch.setattr(_TrainingEpochLoop, "_broadcast_sigterm_tensor", lambda loop: asked.append(1))

    class SeveralDevices(Callback):
        def on_train_batch_end(self, trainer, *_):
            trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor()  # what Lightning calls where there are several

    for callbacks, times in (([], 8), ([SaveOnSignal(tmp_path), LastCheckpoint(tmp_path)], 0)):
        asked.clear()
        trainer = make_trainer(tmp_path, [*callbacks, SeveralDevices()])
        trainer.fit(make_task(), ColorData())
        assert len(asked) == times
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor()
        assert len(asked) == times + 1, "it is given back"


def test_of_several_signals_the_most_urgent_counts():
    interrupts = Interrupts()
    interrupts.listen()
    try:
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupts.request == Request.REQUEUE
        assert interrupts.terminated
    finally:
        interrupts.release()
    assert interrupts.request == Request.NONE


def test_under_nohup_a_closed_terminal_is_no_reason_to_stop():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    interrupts = Interrupts()
    try:
        interrupts.listen()
        os.kill(os.getpid(), signal.SIGHUP)
        assert interrupts.request == Request.NONE
    finally:
        interrupts.release()
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    ("variables", "job"),
    [
        ({"SLURM_JOB_ID": "12"}, "12"),
        ({"SLURM_JOB_ID": "14", "SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "2"}, "12_2"),
    ],
)
def test_slurm_is_asked_for_the_job_or_the_one_job_of_an_array(monkeypatch, variables, job):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    asked = []
    monkeypatch.setattr(module.subprocess, "run", lambda command, **_: asked.append(command))
    assert module.requeue_job()
    assert asked == [["scontrol", "requeue", job]]


def test_a_refusal_of_slurm_ends_the_run_with_the_way_to_go_on(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("SLURM_JOB_ID", "12")

    def refuse(command, **_):
        raise subprocess.CalledProcessError(1, command, stderr="Requested operation is presently disabled")

    monkeypatch.setattr(module.subprocess, "run", refuse)
    with pytest.raises(InterruptedRunError, match="saved at step 3"):
        interrupted(tmp_path, signal.SIGUSR1, 2)
    assert "Slurm does not requeue job 12: Requested operation is presently disabled" in caplog.text
    assert saved_step(tmp_path) == 3
