"""Checkpoints are complete or not there."""

import resource
from pathlib import Path

import pytest
import torch

from emanet.training.checkpoint_io import CheckpointError, SafeCheckpointIO


def test_what_is_saved_is_what_is_loaded_and_nothing_else_stays_in_the_folder(tmp_path: Path):
    path = tmp_path / "new" / "last.ckpt"
    state = {"weights": torch.arange(5.0), "step": 3}
    SafeCheckpointIO().save_checkpoint(state, path)
    loaded = SafeCheckpointIO().load_checkpoint(path)
    assert loaded["step"] == 3
    assert torch.equal(loaded["weights"], state["weights"])
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"]


def test_a_disk_without_room_leaves_the_old_checkpoint_and_no_fragment(tmp_path: Path):
    path = tmp_path / "last.ckpt"
    io = SafeCheckpointIO()
    io.save_checkpoint({"step": 1}, path)
    old = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))  # a real write error after 100 kB
    try:
        with pytest.raises(CheckpointError, match=r"last\.ckpt could not be written .*disk.*resume="):
            io.save_checkpoint({"weights": torch.zeros(1_000_000)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == old
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize(
    ("cause", "message"),
    [
        ("PytorchStreamWriter failed writing file", "PytorchStreamWriter failed writing file.*Is the disk full"),
        ("DataLoader worker (pid 7) is killed by signal: Killed.", "^DataLoader worker .*want of memory.*num_workers"),
    ],
)
def test_a_failure_while_saving_is_told_by_its_cause(tmp_path: Path, monkeypatch, cause: str, message: str):
    def fail(checkpoint, file):
        file.write(b"half")
        raise RuntimeError(f"{cause}\nand a stack of internals")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(CheckpointError, match=message) as caught:
        SafeCheckpointIO().save_checkpoint({}, tmp_path / "last.ckpt")
    assert "internals" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_run_left_is_swept_before_the_first_checkpoint_and_only_that(tmp_path: Path):
    for name in ("last.ckpt.123.tmp", "best.ckpt", "notes.tmp"):
        (tmp_path / name).write_text("old")
    SafeCheckpointIO().save_checkpoint({}, tmp_path / "last.ckpt")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["best.ckpt", "last.ckpt", "notes.tmp"]


class Evil:
    """Runs code when it is unpickled without care."""

    def __reduce__(self):
        return (Path.touch, (Path("touched-by-a-checkpoint"),))


def test_code_inside_a_checkpoint_is_not_run(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"x": Evil()}, tmp_path / "evil.ckpt")
    with pytest.raises(Exception, match=r"[Ww]eights.only"):
        SafeCheckpointIO().load_checkpoint(tmp_path / "evil.ckpt")
    assert not (tmp_path / "touched-by-a-checkpoint").exists()
