"""Locks end with their process, whatever it has started."""

import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from emanet.common import files
from emanet.common.files import locked


def hold(path: Path, held: multiprocessing.SimpleQueue) -> None:
    """Lock, fork a worker that stays, and wait."""
    with locked(path):
        worker = os.fork()
        if worker == 0:
            signal.pause()
        held.put(worker)
        signal.pause()


def test_a_lock_is_refused_with_its_holder_and_free_when_that_is_killed_although_its_worker_lives(tmp_path: Path):
    context = multiprocessing.get_context("fork")
    held = context.SimpleQueue()
    process = context.Process(target=hold, args=(tmp_path / "lock", held))
    process.start()
    worker = held.get()
    try:
        with pytest.raises(BlockingIOError, match=f"process {process.pid} on "), locked(tmp_path / "lock"):
            pass
        process.kill()
        process.join()
        os.kill(worker, 0)  # it is there
        with locked(tmp_path / "lock"):
            assert f"process {os.getpid()} on " in (tmp_path / "lock").read_text()
    finally:
        os.kill(worker, signal.SIGKILL)


@pytest.mark.parametrize("error", [ImportError("no fcntl"), OSError(37, "No locks available")])
def test_where_there_are_no_locks_the_log_says_so(tmp_path: Path, monkeypatch, caplog, error: Exception):
    def lock(number: int) -> None:
        raise error

    monkeypatch.setattr(files, "file_lock", lambda: lock)
    with locked(tmp_path / "lock"):
        assert "cannot be locked" in caplog.text
