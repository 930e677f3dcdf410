"""Runs of the real scripts in seconds: forked from a server that has imported everything (multiprocessing's own)."""

import multiprocessing
import os
import runpy
import signal
import sys
import time
import traceback
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, NamedTuple

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


class Done(NamedTuple):
    """A run that has ended."""

    code: int  #: exit code; minus the signal's number for one killed by a signal
    output: str


class Run:
    """A run that is under way."""

    def __init__(self, process: ForkServerProcess, log: Path) -> None:
        self.process, self.log = process, log

    @property
    def pid(self) -> int:
        """Number of its process."""
        assert self.process.pid is not None
        return self.process.pid

    def wait_for(self, path: Path, seconds: float = 120) -> None:
        """Wait until the run has written a file."""
        deadline = time.monotonic() + seconds
        while not path.exists():
            assert time.monotonic() < deadline, f"no {path.name} came\n{self.log.read_text()[-3000:]}"
            time.sleep(0.05)

    def wait(self) -> Done:
        """Wait for the end."""
        self.process.join()
        assert self.process.exitcode is not None
        return Done(self.process.exitcode, self.log.read_text())


class Zygote:
    """Starts runs; the server starts with the first of them, with this process's environment but for a launcher's."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["emanet.training.callbacks", "emanet.cli.jobs"])
        self._started = False

    def start(self, *arguments: str, cwd: Path, script: str = "train.py", patch: str = "") -> Run:
        """Start ``script`` in ``cwd`` after executing ``patch``."""
        log = cwd / f"output_{time.monotonic_ns()}.txt"
        argv = [str(SRC / script), *arguments]
        process = self._context.Process(target=become, args=(argv, str(cwd), str(log), patch))
        before = dict(os.environ)
        if not self._started:
            for key in [key for key in os.environ if key.startswith(LAUNCHERS)]:
                del os.environ[key]
            os.environ.update(OMP_NUM_THREADS="1", WANDB_MODE="offline", NO_ALBUMENTATIONS_UPDATE="1")
            os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)  # where the server finds what it imports beforehand
            self._started = True
        try:
            process.start()
        finally:
            os.environ.clear()
            os.environ.update(before)
        return Run(process, log)

    def run(self, *arguments: str, cwd: Path, code: int = 0, **options: Any) -> str:
        """Run ``script`` and return its output; its exit code must be ``code``."""
        done = self.start(*arguments, cwd=cwd, **options).wait()
        assert done.code == code, f"exit code {done.code}\n{done.output[-6000:]}"
        return done.output


def become(argv: list[str], cwd: str, output: str, patch: str) -> None:
    """Turn this process into a run of a script."""
    os.environ.pop("PYTHONPATH", None)
    multiprocessing.set_start_method("fork", force=True)  # as in a process that a user starts, for workers of loaders
    log = os.open(output, os.O_WRONLY | os.O_CREAT)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    sys.stdin, sys.stdout, sys.stderr = (os.fdopen(number, mode) for number, mode in enumerate("rww"))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(cwd)
    sys.argv = argv
    code: Any = 0
    try:
        exec(patch, {})
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as error:
        code = error.code
        if isinstance(code, str):
            print(code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))
