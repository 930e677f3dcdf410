"""A real Slurm: sweeps through submitit, two tasks that train together, requeueing. Run with make test-slurm."""

import csv
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from fake_data import write_voc
from test_processes import environment
from zygote import SRC, TINY

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(shutil.which("sbatch") is None, reason="tests/slurm/start.sh installs and starts Slurm"),
    pytest.mark.timeout(400),
]
TWO = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "callbacks.check_ranks.every_n_steps=1"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slurm") / "data"
    write_voc(folder, n_train=6)
    return folder


def options(data: Path, *more: str) -> list[str]:
    common = [*TINY, f"dataset.root={data}", "callbacks.prediction_sheet=null", "trainer.val_every_n_steps=100000"]
    return [*common, *more]


def load(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


def steps(folder: Path) -> list[int]:
    """The steps with a loss in metrics.csv, in the order of the file."""
    rows = csv.DictReader((folder / "metrics.csv").read_text().splitlines())
    return [int(row["step"]) for row in rows if row["train/loss"]]


def shown(job: str) -> str:
    return subprocess.run(["scontrol", "-o", "show", "job", job], capture_output=True, text=True).stdout


def wait_until(condition: Any, what: str, seconds: float = 150) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what} did not come"
        time.sleep(0.2)
    return value


def submit(folder: Path, data: Path, *arguments: str, tasks: int = 2) -> tuple[str, Path]:
    """Submit a job script as docs/cluster.md shows it; return the job's number and its run folder."""
    command = " ".join([sys.executable, str(SRC / "train.py"), *options(data, *arguments)])
    (folder / "job.sh").write_text(
        f"#!/bin/bash\n#SBATCH --ntasks-per-node={tasks} --nodes=1 --requeue --open-mode=append --signal=USR1@30\n"
        f"#SBATCH --output={folder}/output.txt --time=10\n"
        f"srun {command} paths.runs_dir={folder}/runs\n"
    )
    done = subprocess.run(
        ["sbatch", "--parsable", folder / "job.sh"],
        cwd=folder,
        env=environment(PYTHONPATH=str(folder)),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    job = done.stdout.strip()
    return job, folder / "runs" / "voc" / f"slurm_{job}"


def wait_for_end(job: str, folder: Path) -> None:
    done = wait_until(lambda: re.search(r"JobState=(COMPLETED|FAILED|CANCELLED|TIMEOUT)", shown(job)), "the end", 200)
    assert done[1] == "COMPLETED", (folder / "output.txt").read_text()[-5000:]


def sweep(folder: Path, data: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(SRC / "train.py"), "--multirun", *options(data, *arguments)]
    command += ["hydra/launcher=slurm", "hydra.launcher.cpus_per_task=1", "hydra.launcher.timeout_min=10"]
    command += [f"paths.runs_dir={folder / 'runs'}"]
    log = (folder / "sweep.txt").open("w")
    try:
        return subprocess.Popen(command, cwd=folder, env=environment(), stdout=log, stderr=subprocess.STDOUT, text=True)
    finally:
        log.close()


def test_a_sweep_runs_as_jobs_of_two_tasks_each_with_one_folder_per_job(data, tmp_path):
    process = sweep(tmp_path, data, *TWO, "trainer.max_steps=3", "hydra.launcher.tasks_per_node=2", "model.K=3,5")
    assert process.wait(300) == 0, (tmp_path / "sweep.txt").read_text()[-5000:]
    [folder] = (tmp_path / "runs" / "voc").iterdir()
    assert {job: load(folder / job)["state_dict"]["net.head.mu"].shape[2] for job in "01"} == {"0": 3, "1": 5}
    assert steps(folder / "0") == [0, 1, 2]


def test_a_job_of_two_tasks_trains_in_one_folder_named_after_it(data, tmp_path):
    job, folder = submit(tmp_path, data, *TWO, "trainer.max_steps=3")
    wait_for_end(job, tmp_path)
    assert [path.name for path in folder.parent.iterdir()] == [f"slurm_{job}"]
    assert load(folder)["global_step"] == 3
    assert steps(folder) == [0, 1, 2]
    output = (tmp_path / "output.txt").read_text()
    assert len(re.findall("validation at step 3", output)) == 1, "one task speaks for both"


def test_a_job_that_is_signalled_is_requeued_and_goes_on_even_if_one_task_is_slow(data, tmp_path):
    """Lightning's own requeueing, which saves in the signal handler, waits for ever in three of four such jobs."""
    (tmp_path / "slow.py").write_text(
        "import time, lightning as L\n"
        "class Slow(L.Callback):\n"
        "    def on_train_batch_start(self, trainer, *_):\n"
        "        if trainer.global_rank == 0: time.sleep(0.2)\n"
    )
    slow = ["+callbacks.slow._target_=slow.Slow", "trainer.max_steps=120", "callbacks.last.every_n_steps=20"]
    job, folder = submit(tmp_path, data, *TWO, *slow, "callbacks.save_on_signal.every_n_steps=1")
    try:
        wait_until((folder / "checkpoints" / "last.ckpt").exists, "a checkpoint")
        subprocess.run(["scancel", "--signal=USR1", job], check=True)
        wait_until(lambda: "Restarts=1" in shown(job), "the requeueing")
        wait_for_end(job, tmp_path)
    finally:
        subprocess.run(["scancel", job])
    output = (tmp_path / "output.txt").read_text()
    assert f"Slurm requeues job {job}" in output
    assert "going on from" in output
    assert load(folder)["global_step"] == 120
    assert steps(folder) == list(range(120))


def test_a_job_of_a_sweep_is_requeued_and_the_sweep_ends_well(data, tmp_path):
    process = sweep(tmp_path, data, "trainer.max_steps=400", "callbacks.last.every_n_steps=20", "model.K=3")
    try:
        last = wait_until(lambda: list((tmp_path / "runs").rglob("last.ckpt")), "a checkpoint")[0]
        [job] = {path.name.partition("_")[0] for path in (tmp_path / "runs").rglob(".submitit/*") if path.is_dir()}
        subprocess.run(["scancel", "--signal=USR2", job], check=True)
        wait_until(lambda: "Restarts=1" in shown(job), "the requeueing")
        assert process.wait(300) == 0, (tmp_path / "sweep.txt").read_text()[-5000:]
    finally:
        process.kill()
        process.wait()
    folder = last.parents[1]
    assert load(folder)["global_step"] == 400
    assert steps(folder) == list(range(400))
