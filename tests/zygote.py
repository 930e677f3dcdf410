"""Runs of the real scripts in seconds: a process that has imported everything forks one process per run."""

import json
import os
import runpy
import signal
import subprocess
import sys
import time
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

    def __init__(self, zygote: "Zygote", pid: int, log: Path) -> None:
        self.zygote, self.pid, self.log = zygote, pid, log

    def wait_for(self, path: Path, seconds: float = 120) -> None:
        """Wait until the run has written a file."""
        deadline = time.monotonic() + seconds
        while not path.exists():
            assert time.monotonic() < deadline, f"no {path.name} came\n{self.log.read_text()[-3000:]}"
            time.sleep(0.05)

    def wait(self) -> Done:
        """Wait for the end."""
        code = os.waitstatus_to_exitcode(self.zygote.ask(wait=self.pid))
        return Done(code, self.log.read_text())


class Zygote:
    """The process that forks; a context manager."""

    def __enter__(self) -> "Zygote":
        environment = {key: value for key, value in os.environ.items() if not key.startswith(LAUNCHERS)}
        environment |= {"OMP_NUM_THREADS": "1", "WANDB_MODE": "offline", "NO_ALBUMENTATIONS_UPDATE": "1"}
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(timeout=60)

    def ask(self, **request: Any) -> int:
        """Send a request; returns its answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(request), file=self._process.stdin, flush=True)
        return int(self._process.stdout.readline())

    def start(self, *arguments: str, cwd: Path, script: str = "train.py", patch: str = "") -> Run:
        """Start ``script`` in ``cwd`` after executing ``patch``."""
        log = cwd / f"output_{time.monotonic_ns()}.txt"
        argv = [str(SRC / script), *arguments]
        return Run(self, self.ask(argv=argv, cwd=str(cwd), log=str(log), patch=patch), log)

    def run(self, *arguments: str, cwd: Path, code: int = 0, **options: Any) -> str:
        """Run ``script`` and return its output; its exit code must be ``code``."""
        done = self.start(*arguments, cwd=cwd, **options).wait()
        assert done.code == code, f"exit code {done.code}\n{done.output[-6000:]}"
        return done.output


def serve() -> None:
    """The forking process: one request per line."""
    sys.path.insert(0, str(SRC))
    import torch

    torch.set_num_threads(1)
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            answer = os.waitpid(request["wait"], 0)[1]
        else:
            answer = os.fork()
            if answer == 0:
                become(request)
        print(answer, flush=True)


def become(request: dict[str, Any]) -> None:
    """Turn this process into a run of a script."""
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(request["cwd"])
    sys.argv = request["argv"]
    code: Any = 0
    try:
        exec(request["patch"], {})
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as error:
        code = error.code
        if isinstance(code, str):
            print(code, file=sys.stderr)
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    serve()
