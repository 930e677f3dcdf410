"""Processes: which one this is, and how others are started. Imports no torch."""

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

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
    for variable in ("RANK", "SLURM_PROCID", "LOCAL_RANK"):
        if os.environ.get(variable, "").isdigit():
            return int(os.environ[variable])
    return 0
