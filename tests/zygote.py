"""Runs of the real scripts in seconds: forked from a server that has imported everything (multiprocessing's own)."""

import multiprocessing
import os
import runpy
import sys
import time
from multiprocessing import forkserver
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, NamedTuple

import pytest

SRC = Path(__file__).parents[1] / "src"
TINY = [
    "model.backbone=test_resnet",
    "model.pretrained=false",
    "model.output_stride=16",
    "model.channels=8",
    "model.K=3",
    "model.bn_momentum=0.1",
    "dataset.train_split=train",
    "dataset.crop_size=33",
    "dataset.batch_size=2",
    "dataset.num_workers=0",
    "trainer.accelerator=cpu",
    "trainer.deterministic=true",
    "trainer.log_every_n_steps=1",
]
LAUNCHERS = ("LOCAL_RANK", "RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "PL_GLOBAL_SEED", "SLURM_")


class Run(NamedTuple):
    """A run that is under way."""

    process: ForkServerProcess
    log: Path

    def wait(self, code: int | None = 0) -> str:
        """Wait for the end, with this exit code (minus a signal's number if killed) or any; return the output."""
        self.process.join()
        output = self.log.read_text()
        assert code in (None, self.process.exitcode), f"exit code {self.process.exitcode}\n{output[-6000:]}"
        return output


class Zygote:
    """Starts runs; their server has this process's environment, and imports what they need."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["emanet.training.callbacks", "emanet.cli.jobs"])
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("OMP_NUM_THREADS", "1")
            patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # where it finds what it imports beforehand
            forkserver.ensure_running()

    def start(self, *arguments: str, cwd: Path, script: str = "train.py", patch: str = "") -> Run:
        """Start ``script`` in ``cwd`` after executing ``patch``."""
        log = cwd / f"output_{time.monotonic_ns()}.txt"
        process = self._context.Process(target=become, args=([str(SRC / script), *arguments], cwd, log, patch))
        process.start()
        return Run(process, log)

    def run(self, *arguments: str, cwd: Path, code: int = 0, **options: Any) -> str:
        """Run ``script`` and return its output; its exit code must be ``code``."""
        return self.start(*arguments, cwd=cwd, **options).wait(code)


def become(argv: list[str], cwd: Path, log: Path, patch: str) -> None:
    """Turn this process into a run of a script; multiprocessing makes an exit code of how it ends."""
    for name in [name for name in os.environ if name.startswith((*LAUNCHERS, "PYTHONPATH"))]:
        del os.environ[name]
    multiprocessing.set_start_method("fork", force=True)  # as in a process that a user starts, for workers of loaders
    for stream in (1, 2):
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    os.chdir(cwd)
    sys.argv = argv
    exec(patch, {})
    runpy.run_path(argv[0], run_name="__main__")
