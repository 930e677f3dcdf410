"""Which checkpoint a run goes on from."""

import os
import shutil
from pathlib import Path

import pytest
import torch

from emanet.common.errors import ConfigError
from emanet.training.checkpoint_io import CheckpointError, SafeCheckpointIO
from emanet.training.resume import find_checkpoint, is_whole, newest_whole


@pytest.fixture(autouse=True)
def first_start(monkeypatch):
    """No scheduler has restarted this job."""
    for name in ("SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)


def write(path: Path, *, age: int = 0) -> Path:
    """A checkpoint written ``age`` seconds ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"weights": torch.arange(50_000.0)}, path)
    os.utime(path, (1e9 - age, 1e9 - age))
    return path


def damage(path: Path, how: str) -> None:
    """What a disk or a killed copy does to a file."""
    content = bytearray(path.read_bytes())
    match how:
        case "truncated":
            content = content[: len(content) // 2]
        case "empty":
            content = bytearray()
        case "bit":
            content[len(content) // 2] ^= 1
        case "zeros":
            content = bytearray(len(content))
    stat = path.stat()
    path.write_bytes(content)
    os.utime(path, (stat.st_mtime, stat.st_mtime))


@pytest.mark.parametrize("how", ["truncated", "empty", "bit", "zeros"])
def test_damage_of_any_kind_is_noticed(tmp_path, how):
    path = write(tmp_path / "last.ckpt")
    assert is_whole(path)
    damage(path, how)
    assert not is_whole(path)


def test_the_last_is_taken_if_it_is_whole_and_else_the_newest_other(tmp_path, caplog):
    last = write(tmp_path / "last.ckpt", age=5)
    previous = write(tmp_path / "previous.ckpt", age=9)
    best = write(tmp_path / "best.ckpt", age=2)
    assert newest_whole(tmp_path) == last
    damage(last, "truncated")
    assert newest_whole(tmp_path) == best
    assert f"{last} is damaged: going on from {best} instead" in caplog.text
    damage(best, "truncated")
    assert newest_whole(tmp_path) == previous
    damage(previous, "truncated")
    with pytest.raises(CheckpointError, match=r"every checkpoint in .* is damaged: last\.ckpt, best\.ckpt, previous"):
        newest_whole(tmp_path)


def test_a_damaged_file_that_was_named_is_refused_with_the_way_out(tmp_path):
    path = write(tmp_path / "run" / "checkpoints" / "last.ckpt")
    damage(path, "truncated")
    with pytest.raises(CheckpointError, match=rf"last\.ckpt is damaged; resume={tmp_path / 'run'} takes the newest"):
        find_checkpoint(str(path), tmp_path / "other")


def test_a_run_starts_goes_on_or_is_protected(tmp_path, monkeypatch):
    assert find_checkpoint(None, tmp_path) is None
    assert find_checkpoint("auto", tmp_path) is None
    last = write(tmp_path / "checkpoints" / "last.ckpt")
    assert find_checkpoint("auto", tmp_path) == find_checkpoint(str(tmp_path), tmp_path) == last
    with pytest.raises(ConfigError, match="holds the checkpoints of a run already: resume=auto goes on with it"):
        find_checkpoint(None, tmp_path)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert find_checkpoint(None, tmp_path) == last
    with pytest.raises(ConfigError, match="had not saved one yet: start it again"):
        find_checkpoint(str(tmp_path / "none"), tmp_path)
    assert find_checkpoint(str(tmp_path / "none"), tmp_path / "none") is None, "the run itself starts again"


def test_a_kill_while_writing_across_file_systems_leaves_the_checkpoint_whole(tmp_path, monkeypatch):
    """With TMPDIR on another disk Lightning's way ends in a copy onto the target; here the process dies half-way."""

    def other_file_system(source, target, **_):
        raise OSError(18, "Invalid cross-device link")

    def dying_copy(source, target, **_):
        content = Path(source).read_bytes()
        Path(target).write_bytes(content[: len(content) // 2])
        raise KeyboardInterrupt

    path = write(tmp_path / "last.ckpt")
    monkeypatch.setattr(os, "rename", other_file_system)
    monkeypatch.setattr(shutil, "copyfile", dying_copy)
    SafeCheckpointIO().save_checkpoint({"weights": torch.zeros(50_000)}, path)
    assert is_whole(path)
