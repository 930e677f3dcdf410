"""Several processes through the real scripts: Lightning's own, those of a sweep, torchrun's."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from fake_data import write_voc
from zygote import LAUNCHERS, SRC, TINY

DDP = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "callbacks.prediction_sheet=null"]

# Draws other values in every process, as Optuna's does, without the need for Optuna.
SWEEPER = """
import os
from hydra.plugins.sweeper import Sweeper
from hydra.core.config_store import ConfigStore
ConfigStore.instance().store(
    group="hydra/sweeper", name="drawing", node={"_target_": "hydra_plugins.drawing.DrawingSweeper"}
)
class DrawingSweeper(Sweeper):
    def setup(self, *, hydra_context, task_function, config):
        from hydra.core.plugins import Plugins
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config)
    def sweep(self, arguments):
        for job in range(2):
            drawn = int.from_bytes(os.urandom(6), "big") / 2**48 * 1e-2
            [done] = self.launcher.launch([[*arguments, f"optimizer.lr={drawn}", f"model.K={3 + job}"]], job)
            print("OBJECTIVE", job, done.return_value, flush=True)
"""

# Batch norms as in evaluation: on a CPU there are none that are synchronized.
FREEZE = """
import lightning as L
from torch.nn.modules.batchnorm import _BatchNorm
class Freeze(L.Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        for module in pl_module.modules():
            if isinstance(module, _BatchNorm): module.eval()
"""

# Notes every file that a process opens for writing.
WATCH = """
import os, sys
def note(event, args):
    if event == "open" and isinstance(args[0], str) and isinstance(args[1], str) and set(args[1]) & set("wax+"):
        name = os.path.abspath(args[0])
        if name.startswith(os.environ["WATCHED"]):
            with os.fdopen(os.open(os.environ["NOTES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT), "w") as file:
                file.write(f"{os.environ.get('LOCAL_RANK', '0')} {name}\\n")
sys.addaudithook(note)
"""


def environment(**more: str) -> dict[str, str]:
    """This process's environment without a launcher's traces."""
    return {key: value for key, value in os.environ.items() if not key.startswith(LAUNCHERS)} | {
        "OMP_NUM_THREADS": "1",
        **more,
    }


def run(*arguments: str, cwd: Path, code: int = 0, launcher: tuple[str, ...] = (), **variables: str) -> str:
    """Run src/train.py as a user does; return what it printed."""
    done = subprocess.run(
        [sys.executable, *launcher, str(SRC / "train.py"), *arguments],
        cwd=cwd,
        env=environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=280,
    )
    assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout[-6000:]}"
    return done.stdout


def load(folder: Path, name: str = "last") -> dict[str, Any]:
    return torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)


def losses(folder: Path) -> list[dict[str, str]]:
    """The rows of metrics.csv with a loss."""
    rows = csv.DictReader((folder / "metrics.csv").read_text().splitlines())
    return [row for row in rows if row["train/loss"]]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("processes") / "data"
    write_voc(folder, n_train=6, n_val=5)
    return folder


def options(data: Path, *more: str) -> list[str]:
    return [*TINY, f"dataset.root={data}", "trainer.max_steps=3", "trainer.val_every_n_steps=2", *more]


def test_two_devices_end_like_one_and_only_the_first_writes(data, tmp_path):
    """One image per device and step, dropout off, batch norms fixed, float64: the same training on 1 and 2 devices."""
    (tmp_path / "watch").mkdir()
    (tmp_path / "watch" / "sitecustomize.py").write_text(WATCH)
    (tmp_path / "watch" / "freeze.py").write_text(FREEZE)
    precise = ["model.dropout=0", "trainer.precision=64-true", "loss.reduction=valid_pixels"]
    same = options(data, *precise, "+callbacks.freeze._target_=freeze.Freeze")
    python_path = str(tmp_path / "watch")
    output = run(
        *same,
        *DDP,
        "callbacks=[default,check_ranks]",
        "callbacks.check_ranks.every_n_steps=1",
        f"hydra.run.dir={tmp_path / 'two'}",
        cwd=tmp_path,
        PYTHONPATH=python_path,
        WATCHED=str(tmp_path / "two"),
        NOTES=str(tmp_path / "notes"),
    )
    notes = {tuple(line.split(maxsplit=1)) for line in (tmp_path / "notes").read_text().splitlines()}
    by_rank = {rank: {Path(name).name for _, name in filter(lambda note: note[0] == rank, notes)} for rank in "01"}
    assert {"metrics.csv", "config.yaml", "train.log"} <= by_rank["0"]
    assert by_rank["1"] == set(), "its own log comes with the first error"
    assert len(re.findall("validation at step 2", output)) == 1
    assert [row["step"] for row in losses(tmp_path / "two")] == ["0", "1", "2"]
    rows = csv.DictReader((tmp_path / "two" / "metrics.csv").read_text().splitlines())
    assert [float(row["bases/effective"]) > 1 for row in rows if row["val/miou"]] == [True, True], "seen by one alone"

    one_device = [*same, "callbacks.prediction_sheet=null", f"hydra.run.dir={tmp_path / 'one'}"]
    run(*one_device, cwd=tmp_path, PYTHONPATH=python_path, WATCHED="/nowhere", NOTES="/nowhere")
    one, two = load(tmp_path / "one"), load(tmp_path / "two")
    assert two["validation"] == pytest.approx(one["validation"], rel=0, abs=0, nan_ok=True)  # five images, each once
    assert one["state_dict"]["net.head.mu"].dtype == torch.float64
    for key, value in one["state_dict"].items():
        torch.testing.assert_close(two["state_dict"][key], value, rtol=1e-9, atol=1e-12)
    for ours, theirs in zip(losses(tmp_path / "two"), losses(tmp_path / "one"), strict=True):
        assert float(ours["train/loss"]) == pytest.approx(float(theirs["train/loss"]), rel=1e-6)  # logged in float32


def test_a_sweep_on_two_devices_has_one_folder_and_the_same_values_on_both(data, tmp_path):
    """The sweeper draws per process; each job must still train one setting, and hand back its objective."""
    plugins = tmp_path / "plugins" / "hydra_plugins"
    plugins.mkdir(parents=True)
    (plugins / "drawing.py").write_text(SWEEPER)
    output = run(
        "--multirun",
        *options(data, "trainer.max_steps=2"),
        *DDP,
        "callbacks=[default,check_ranks]",
        "callbacks.check_ranks.every_n_steps=1",
        "hydra/sweeper=drawing",
        f"paths.runs_dir={tmp_path / 'runs'}",
        cwd=tmp_path,
        PYTHONPATH=str(tmp_path / "plugins"),
    )
    [sweep] = (tmp_path / "runs" / "voc").iterdir()
    objectives = dict(re.findall(r"OBJECTIVE (\d) ([\d.e-]+)", output))
    drawn = set()
    for job in "01":
        content = load(sweep / job)
        assert content["state_dict"]["net.head.mu"].shape[2] == 3 + int(job)
        assert float(objectives[job]) == content["validation"]["val/miou"]
        assert json.loads((sweep / job / "result.json").read_text()) == content["validation"]["val/miou"]
        drawn.add(content["hyper_parameters"]["optimizer"]["lr"])
    assert len(drawn) == 2
    assert sorted(path.name for path in sweep.iterdir()) == ["0", "1"]


TORCHRUN = ("-m", "torch.distributed.run", "--nproc-per-node=2")


def test_torchrun_gives_both_processes_one_folder_and_a_restart_goes_on_in_it(data, tmp_path):
    """One process is killed after the first checkpoint; torchrun starts both again, and they go on from the last."""
    (tmp_path / "fatal").mkdir()
    (tmp_path / "fatal" / "sitecustomize.py").write_text(
        "import os, signal, threading, time\n"
        "def watch():\n"
        "    while not os.path.exists(os.environ['WATCHED']): time.sleep(0.02)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "if os.environ.get('RANK') == '1' and os.environ.get('TORCHELASTIC_RESTART_COUNT') == '0':\n"
        "    threading.Thread(target=watch, daemon=True).start()\n"
    )
    launcher = (*TORCHRUN, "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", "--rdzv-id=mine")
    output = run(
        *options(data, *DDP, "trainer.max_steps=60", "trainer.val_every_n_steps=30", "callbacks.last.every_n_steps=1"),
        f"paths.runs_dir={tmp_path / 'runs'}",
        cwd=tmp_path,
        launcher=(*launcher, "--max-restarts=2", "--monitor-interval=0.5"),
        PYTHONPATH=str(tmp_path / "fatal"),
        WATCHED=str(tmp_path / "runs" / "voc" / "torchrun_mine" / "checkpoints" / "last.ckpt"),
        TORCH_DISABLE_SHARE_RDZV_TCP_STORE="1",
    )
    [folder] = (tmp_path / "runs" / "voc").iterdir()
    assert folder.name == "torchrun_mine"
    assert load(folder)["global_step"] == 60
    assert len(re.findall("going on from ", output)) == 1
    steps = [row["step"] for row in losses(folder)]
    assert len(steps) == len(set(steps))
    assert {int(step) for step in steps[-30:]} == set(range(30, 60))


@pytest.mark.slow
def test_sigterm_to_the_first_of_two_processes_saves_and_ends_both(data, tmp_path):
    process = subprocess.Popen(
        [
            *(sys.executable, str(SRC / "train.py"), *options(data), *DDP, f"hydra.run.dir={tmp_path / 'run'}"),
            *("trainer.max_steps=100000", "trainer.val_every_n_steps=100000"),
            *("callbacks.save_on_signal.every_n_steps=2", "callbacks.last.every_n_steps=5"),
        ],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    while not (tmp_path / "run" / "checkpoints" / "last.ckpt").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 143, output[-3000:]
    step = load(tmp_path / "run")["global_step"]
    assert f"saved at step {step}" in output
    assert step % 2 == 0
