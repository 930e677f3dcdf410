"""Processes: which one this is, and how others are started. Imports no torch."""

import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

PARENT = "EMANET_PARENT"  #: environment variable: number of the process that starts the others
GRACE = 5.0  #: seconds that a process has to end by itself when its parent has
#: what an earlier job of a sweep left in the environment, and Lightning would take for a launcher's word
LAUNCHER_VARIABLES = ("LOCAL_RANK", "RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "PL_GLOBAL_SEED")


def quote(text: str) -> str:
    """A string as Hydra's command line takes it: quotes escaped, and backslashes where a quote follows them."""
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", text)
    return "'" + re.sub(r"(\\+)$", r"\1\1", escaped) + "'"


@contextmanager
def forwarding(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Hand SIGTERM on to a job's process meanwhile, so that it saves and ends."""
    before = signal.signal(signal.SIGTERM, lambda number, frame: process.terminate())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        if process.poll() is None:
            process.terminate()


def own_rank() -> int:
    """Number of this process among those of the job, before any process group exists."""
    for variable in ("RANK", "SLURM_PROCID"):
        if os.environ.get(variable, "").isdigit():
            return int(os.environ[variable])
    return int(os.environ.get("LOCAL_RANK") or 0) or int(os.environ.get("NODE_RANK") or 0)  # Lightning's own


def end_with_parent() -> None:
    """End this process soon after the one that started it, which may be killed without a word.

    Lightning's and torchrun's processes would otherwise wait for the first one for ever. The first process leaves its
    number for those that it starts: they may come to life after its death.
    """
    parent = os.getppid()
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        parent = int(os.environ.get(PARENT) or parent)
        if not int(os.environ.get("LOCAL_RANK") or 0):
            os.environ[PARENT] = str(os.getpid())
            return
    if os.name == "posix":
        threading.Thread(target=watch, args=(parent,), daemon=True).start()


def watch(parent: int) -> None:
    """Wait until this process has another parent, then end it."""
    while os.getppid() == parent:
        time.sleep(1.0)
    time.sleep(GRACE)  # at the end of a run the first process may be the first to leave
    os.write(2, f"process {os.getpid()} ends: the one that started it is gone\n".encode())
    os._exit(1)
