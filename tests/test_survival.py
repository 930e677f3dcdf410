"""Nothing is lost: runs that are killed, told to end, or meet a damaged file or a full disk."""

import csv
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from fake_data import write_voc
from zygote import TINY, Zygote

STEPS = 7
PLAIN = ["dataset.num_workers=1"]
ACCUMULATED = ["trainer.accumulate_grad_batches=2", "dataset.batch_size=4", "dataset.num_workers=1"]

KILL = """
import os, signal
def kill(): os.kill(os.getpid(), signal.SIGKILL)
"""
IN_A_STEP = """
from emanet.training.task import SegmentationTask as Task
real, calls = Task.training_step, []
def training_step(self, batch, index):
    calls.append(index)
    if len(calls) == {call}: kill()
    return real(self, batch, index)
Task.training_step = training_step
"""
IN_VALIDATION = """
from emanet.training.task import SegmentationTask as Task
real = Task.validation_step
def validation_step(self, batch, index):
    if self.trainer.global_step == 6 and index == 1: kill()
    return real(self, batch, index)
Task.validation_step = validation_step
"""
WHILE_WRITING = """
import torch
real = torch.save
def save(content, file, *rest):
    if content["global_step"] == 4:
        file.write(b"PK" * 50_000); file.flush(); kill()
    real(content, file, *rest)
torch.save = save
"""
BETWEEN_THE_FILES = """
import emanet.training.callbacks.checkpoints as module
real, calls = module.keep_previous, []
def keep_previous(path):
    real(path); calls.append(path)
    if len(calls) == 2: kill()
module.keep_previous = keep_previous
"""
DEATHS = {
    "in a step": (PLAIN, IN_A_STEP.format(call=4), 2),
    "in validation": (PLAIN, IN_VALIDATION, 4),
    "while a checkpoint is written": (PLAIN, WHILE_WRITING, 2),
    "between last and previous": (PLAIN, BETWEEN_THE_FILES, 2),
    "before the first checkpoint": (PLAIN, IN_A_STEP.format(call=2), None),
    "in the middle of accumulation": (ACCUMULATED, IN_A_STEP.format(call=6), 2),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the data."""
    folder = tmp_path_factory.mktemp("survival")
    write_voc(folder / "data", n_train=6)
    return folder


def command(base: Path, run: Path, *more: str) -> list[str]:
    """A run of seven steps, three an epoch, with checkpoints at 2, 4 and 6 and validations at 3 and 6."""
    return [
        *TINY,
        f"dataset.root={base / 'data'}",
        f"trainer.max_steps={STEPS}",
        "trainer.val_every_n_steps=3",
        "callbacks.last.every_n_steps=2",
        "callbacks.prediction_sheet=null",
        f"hydra.run.dir={run}",
        *more,
    ]


@pytest.fixture(scope="module")
def whole(zygote: Zygote, base: Path) -> dict[str, Path]:
    """Uninterrupted runs, one per set of options."""
    runs = {}
    for options in (PLAIN, ACCUMULATED):
        runs[str(options)] = base / f"whole{len(runs)}"
        zygote.run(*command(base, runs[str(options)], *options), cwd=base)
    return runs


def load(run: Path, name: str = "last") -> dict[str, Any]:
    return torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)


def rows(run: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((run / "metrics.csv").read_text().splitlines()))


def assert_same_end(got: Path, expected: Path) -> None:
    """Weights, optimizer, best validation and every logged row are the same to the last bit."""
    ours, theirs = load(got), load(expected)
    assert ours["global_step"] == theirs["global_step"] == STEPS
    assert all(torch.equal(value, ours["state_dict"][key]) for key, value in theirs["state_dict"].items())
    moments, others = (content["optimizer_states"][0]["state"] for content in (ours, theirs))
    assert moments.keys() == others.keys()
    assert all(torch.equal(moments[key]["momentum_buffer"], others[key]["momentum_buffer"]) for key in moments)
    assert ours["validation"] == pytest.approx(theirs["validation"], rel=0, abs=0, nan_ok=True)
    best, other = load(got, "best"), load(expected, "best")
    assert best["global_step"] == other["global_step"]
    assert best["validation"] == pytest.approx(other["validation"], rel=0, abs=0, nan_ok=True)
    assert rows(got) == rows(expected)


@pytest.mark.parametrize("death", DEATHS)
def test_a_run_that_is_killed_ends_as_if_it_had_not_been(zygote, base, whole, tmp_path, death):
    options, patch, saved = DEATHS[death]
    run = tmp_path / "run"
    zygote.run(*command(base, run, *options), cwd=tmp_path, patch=KILL + patch, code=-signal.SIGKILL)
    if saved is None:
        assert not (run / "checkpoints").exists()
    else:
        assert load(run)["global_step"] == saved
    zygote.run(f"resume={run}", cwd=tmp_path)
    assert_same_end(run, whole[str(options)])
    assert not list((run / "checkpoints").glob("*.tmp"))


def test_a_truncated_last_checkpoint_is_noticed_and_the_one_before_it_used(zygote, base, whole, tmp_path):
    run = tmp_path / "run"
    patch = KILL + IN_A_STEP.format(call=6)
    zygote.run(*command(base, run, *PLAIN), cwd=tmp_path, patch=patch, code=-signal.SIGKILL)
    last = run / "checkpoints" / "last.ckpt"
    assert (load(run)["global_step"], load(run, "previous")["global_step"]) == (4, 2)
    with last.open("r+b") as file:
        file.truncate(last.stat().st_size // 2)
    output = zygote.run(f"resume={run}", cwd=tmp_path)
    assert f"{last} is damaged: going on from {run / 'checkpoints'}" in output
    assert_same_end(run, whole[str(PLAIN)])


@pytest.mark.parametrize("options", [PLAIN, ACCUMULATED], ids=["plain", "accumulated"])
def test_sigterm_saves_and_exits_and_the_run_goes_on_as_if_nothing_had_been(zygote, base, whole, tmp_path, options):
    run = tmp_path / "run"
    patch = KILL.replace("SIGKILL", "SIGTERM") + IN_A_STEP.format(call=5)
    output = zygote.run(*command(base, run, *options), cwd=tmp_path, patch=patch, code=143)
    step = load(run)["global_step"]
    assert step == (5 if options is PLAIN else 3)  # the step under way was finished, and the validation after step 3
    assert f"stopped by a signal and saved at step {step}; go on with: python src/train.py resume={run}" in output
    assert "Traceback" not in output
    zygote.run(f"resume={run}", cwd=tmp_path)
    assert_same_end(run, whole[str(options)])


def test_a_full_disk_ends_the_run_with_a_clear_error_and_whole_checkpoints(zygote, base, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = shutil.which("mount") and os.geteuid() == 0
    if not mounted or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=9m", "tmpfs", disk]).returncode:
        pytest.skip("needs the right to mount a small disk; tests/unit/test_checkpoint_io.py limits the file instead")
    try:
        options = [f"+callbacks.last.run_dir={disk}", "callbacks.best=null", "callbacks.last.every_n_steps=1"]
        output = zygote.run(*command(base, tmp_path / "run", *options), cwd=tmp_path, code=1)
        assert "last.ckpt could not be written" in output
        assert "Is the disk full" in output
        assert "Traceback" not in output
        files = sorted(path for path in disk.rglob("*") if path.is_file())
        assert [file.name for file in files][:1] == ["last.ckpt"]
        for file in files:
            assert file.suffix == ".ckpt", f"{file} is a fragment"
            assert torch.load(file, weights_only=True)["global_step"] >= 1
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_run_folder_that_holds_a_run_is_not_overwritten(zygote, base, whole):
    run = whole[str(PLAIN)]
    before = (run / "checkpoints" / "last.ckpt").read_bytes()
    output = zygote.run(*command(base, run, *PLAIN), cwd=base, code=1)
    assert "holds the checkpoints of a run already: resume=auto goes on with it" in output
    assert (run / "checkpoints" / "last.ckpt").read_bytes() == before
