"""How processes come about: jobs of a sweep on several devices, torchrun, Slurm. Imports no torch."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from emanet.common.errors import ConfigError, EMANetError
from emanet.common.processes import LAUNCHER_VARIABLES, forwarding, own_rank, quote

RESULT_FILE = "EMANET_RESULT_FILE"  #: environment variable: where a job leaves its result for the sweep
SHARED_STORE = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"


class JobError(EMANetError):
    """A job of a sweep that failed in its own process."""


# --- sweeps -----------------------------------------------------------------------------------------------------------


def needs_own_process(cfg: Mapping[str, Any]) -> bool:
    """Whether this is a job of a sweep on several devices.

    Lightning starts one process per device by repeating the command. Repeated with ``--multirun``, that is another
    sweep: with other values where a sweeper draws them, and with its own folder.
    """
    if HydraConfig.get().mode != RunMode.MULTIRUN or "trainer" not in cfg or "SUBMITIT_EXECUTOR" in os.environ:
        return False
    return cfg["trainer"]["num_nodes"] != 1 or cfg["trainer"]["devices"] not in (1, "1")


def run_alone() -> Any:
    """Run this job of a sweep as a plain run in a process of its own, in the folder that the sweep gave it.

    Raises:
        JobError: if it fails.
    """
    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    result = folder / "result.json"
    result.unlink(missing_ok=True)
    overrides = [item for item in hydra.overrides.hydra if item.startswith(("hydra.job.", "hydra/job_logging"))]
    script = str(Path(hydra.runtime.cwd, sys.argv[0]))
    place = [f"hydra.run.dir={quote(str(folder))}", "hydra.mode=RUN"]  # a file of conf/sweep/ would start its sweep
    command = [sys.executable, script, *hydra.overrides.task, *overrides, *place]
    environment = {key: value for key, value in os.environ.items() if key not in LAUNCHER_VARIABLES}
    process = subprocess.Popen(command, cwd=hydra.runtime.cwd, env=environment | {RESULT_FILE: str(result)})
    with forwarding(process):
        code = process.wait()
    if code in (128 + signal.SIGTERM, -signal.SIGTERM):
        sys.exit(128 + signal.SIGTERM)  # the sweep was told to end
    if code:
        raise JobError(f"job {hydra.job.num} of the sweep ended with exit code {code}; its folder: {folder}")
    return json.loads(result.read_text(encoding="utf-8"))


def write_result(value: Any) -> Any:
    """Leave a job's result where the sweep looks for it; returns it."""
    path = os.environ.get(RESULT_FILE)
    if path and own_rank() == 0:
        Path(path).write_text(json.dumps(value), encoding="utf-8")
    return value


# --- torchrun and Slurm -----------------------------------------------------------------------------------------------


def place_process(argv: Sequence[str]) -> list[str]:
    """Give the processes of one torchrun or ``srun`` job one run folder, which it keeps when it is restarted.

    The default folder is named after the time, which each process reads for itself. It is now named after the job
    (torchrun's ``--rdzv-id``, Slurm's job number), and a run that was begun there goes on. Only the first process
    writes Hydra's files.

    Raises:
        ConfigError: if the job has no name, sweeps, or could not be restarted.
    """
    argv = list(argv)
    job = job_name()
    if job is None or any(item in ("--help", "-h", "--cfg", "-c", "--info", "-i") for item in argv):
        return argv
    if {"--multirun", "-m"} & {*argv} or any(item.startswith("sweep=") for item in argv):
        raise ConfigError(
            f"{job.partition('_')[0]} starts every process with the whole sweep, so they would train different "
            "settings: start the sweep without it, with trainer=ddp on one machine or hydra/launcher=slurm on a cluster"
        )
    check_restartable()
    given = {item.partition("=")[0].lstrip("+") for item in argv[1:]}
    if "hydra.run.dir" not in given:
        if job == "torchrun_none":
            raise ConfigError(
                "torchrun was given no name for this job, so its processes cannot agree on a run folder: add "
                "--standalone on one machine, --rdzv-id=NAME on several, or hydra.run.dir=FOLDER"
            )
        argv.append(f"hydra.run.dir=${{paths.runs_dir}}/${{name}}/{job}")
        if "resume" not in given:
            argv.append("resume=auto")
    if (rank := own_rank()) > 0:
        argv += ["hydra.output_subdir=null", f"hydra.job.name=train_rank{rank}"]
    return argv


def job_name() -> str | None:
    """What tells this job from others, the same in all its processes; ``None`` without torchrun or ``srun``."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return f"torchrun_{os.environ['TORCHELASTIC_RUN_ID']}"
    interactive = os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive")  # Lightning's own exception
    step = os.environ.get("SLURM_STEP_ID", "")
    if not step.isdigit() or interactive or "SUBMITIT_EXECUTOR" in os.environ:
        return None
    return f"slurm_{os.environ['SLURM_JOB_ID']}" + (f"_{step}" if step != "0" else "")


def check_restartable() -> None:
    """Refuse a torchrun job whose restarts would fail.

    torchrun's workers share its rendezvous store by default; after a restart they find the addresses of the dead ones
    there (pytorch issue 135712). The agent reads the setting before this process exists, so it cannot be set here.
    """
    restarts = os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")
    if restarts.isdigit() and int(restarts) > 0 and os.environ.get(SHARED_STORE) != "1":
        raise ConfigError(f"torchrun --max-restarts={restarts} needs the environment variable {SHARED_STORE}=1")


def in_lightning_child() -> bool:
    """Whether Lightning started this process for one of its devices."""
    return int(os.environ.get("LOCAL_RANK") or 0) > 0 and job_name() is None and "SUBMITIT_EXECUTOR" not in os.environ
