"""Runs and their folders: one owner, a command that survives, an epoch that is finished, ranks that do not stay."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from fake_data import write_voc
from zygote import SRC, TINY

CONSTANT = ["scheduler=constant", "dataset.num_workers=0", "model.dropout=0.1"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the data: three steps an epoch."""
    folder = tmp_path_factory.mktemp("runs")
    write_voc(folder / "data", n_train=6)
    return folder


def command(root: str | Path, run: str | Path, *more: str) -> list[str]:
    """A run that saves at its end alone."""
    quiet = ["callbacks.prediction_sheet=null", "callbacks.bases=null"]
    return [*TINY, *CONSTANT, *quiet, f"dataset.root={root}", f"hydra.run.dir={run}", *more]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def steps(run: Path) -> list[int]:
    rows = csv.DictReader((run / "metrics.csv").read_text().splitlines())
    return [int(row["step"]) for row in rows if row["train/loss"]]


def test_a_run_that_ended_within_an_epoch_shows_its_other_images_when_it_is_made_longer(zygote, base, tmp_path):
    zygote.run(*command(base / "data", "whole", "trainer.max_steps=7"), cwd=tmp_path)
    zygote.run(*command(base / "data", "cut", "trainer.max_steps=5"), cwd=tmp_path)  # two of three steps of an epoch
    keys = json.loads((tmp_path / "cut" / "summary.json").read_text()).keys()
    zygote.run(f"resume={tmp_path / 'cut'}", cwd=tmp_path)  # at its end already
    again = json.loads((tmp_path / "cut" / "summary.json").read_text())
    assert (again.keys(), again["status"], again["seed"]) == (keys, "finished", 0)
    output = zygote.run(f"resume={tmp_path / 'cut'}", "trainer.max_steps=7", cwd=tmp_path)
    assert "going on with other settings: trainer.max_steps: 5 -> 7" in output
    whole, cut = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(cut[key], value) for key, value in whole.items())
    assert steps(tmp_path / "cut") == list(range(7))
    for change in ("dataset.batch_size=3", "trainer.accumulate_grad_batches=2"):
        output = zygote.run(f"resume={tmp_path / 'cut'}", "trainer.max_steps=9", change, cwd=tmp_path, code=1)
        assert f"cannot go on with another {change.partition('=')[0]}: " in output
        assert "Traceback" not in output


def test_a_run_goes_on_from_another_directory_without_hydras_files_and_starts_if_it_never_saved(zygote, base, tmp_path):
    (tmp_path / "else").mkdir()
    died = "import os\nfrom emanet.training.task import SegmentationTask as T\nT.training_step = lambda *_: os._exit(9)"
    relative = os.path.relpath(base / "data", tmp_path)
    zygote.run(*command(relative, "run", "trainer.max_steps=2"), cwd=tmp_path, patch=died, code=9)
    (tmp_path / "run" / ".hydra" / "overrides.yaml").write_text("- trainer.max")  # as a kill leaves it
    output = zygote.run(f"resume={tmp_path / 'run'}", cwd=tmp_path / "else")
    assert "had not saved a checkpoint yet: starting from the beginning" in output
    stored = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["hyper_parameters"]
    assert Path(stored["dataset"]["root"]).resolve() == base / "data"
    assert stored["trainer"]["max_steps"] == 2


def test_a_second_process_in_the_folder_of_a_run_is_refused_and_changes_nothing(zygote, base, tmp_path):
    run = tmp_path / "run"
    long = command(base / "data", run, "trainer.max_steps=100000", "trainer.val_every_n_steps=100000")
    first = zygote.start(
        *long, "callbacks.last.every_n_steps=1", "callbacks.save_on_signal.every_n_steps=1", cwd=tmp_path
    )
    while not (run / "checkpoints" / "last.ckpt").is_file():
        assert first.process.is_alive(), first.wait(code=None)
        time.sleep(0.05)
    kept = (run / "command.json").read_bytes()
    for again in ([f"resume={run}"], command(base / "data", run, "seed=5", "trainer.max_steps=2")):
        output = zygote.run(*again, cwd=tmp_path, code=1)
        assert f"{run} is at work: process {first.process.pid} on " in output
        assert "hydra.run.dir=FOLDER" in output
        assert "Traceback" not in output
    assert (run / "command.json").read_bytes() == kept
    os.kill(first.process.pid, signal.SIGHUP)  # a terminal that is closed
    assert "go on with: python src/train.py resume=" in first.wait(code=143)
    taken = steps(run)
    assert taken == list(range(len(taken)))


def test_ctrl_c_says_how_to_go_on(zygote, base, tmp_path):
    pressed = (
        "import os, signal\nfrom emanet.training.task import SegmentationTask as T\n"
        "T.training_step = lambda *_: os.kill(os.getpid(), signal.SIGINT)"
    )
    output = zygote.run(*command(base / "data", "run", "trainer.max_steps=2"), cwd=tmp_path, patch=pressed, code=1)
    assert "stopped at step 0; go on with: python src/train.py resume=" in output
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "stopped"


RANK = """
import os, sys, time
sys.path.insert(0, {src!r})
from emanet.common import processes
processes.GRACE = 0.1
processes.end_with_parent()
print(os.getpid(), flush=True)
if "LOCAL_RANK" not in os.environ:
    import subprocess
    subprocess.Popen([sys.executable, __file__], env=dict(os.environ, LOCAL_RANK="1"))
time.sleep(60)
"""


def test_a_rank_whose_first_process_was_killed_ends_by_itself(tmp_path):
    script = tmp_path / "rank.py"
    script.write_text(RANK.format(src=str(SRC)))
    environment = {key: value for key, value in os.environ.items() if key not in ("LOCAL_RANK", "EMANET_PARENT")}
    process = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    int(process.stdout.readline())
    rank = int(process.stdout.readline())
    process.kill()
    process.wait()
    deadline = time.monotonic() + 20
    while Path(f"/proc/{rank}/stat").exists() and Path(f"/proc/{rank}/stat").read_text().split()[2] != "Z":
        assert time.monotonic() < deadline, "it stays"
        time.sleep(0.05)
    process.stdout.close()


@pytest.mark.parametrize("output", ["closed", "a reader that has gone", "a full disk", "letters it lacks"])
def test_printing_never_fails_a_process(output: str, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "from rich.console import Console\nimport logging, sys\n"
        "from emanet.common.console import ScreenHandler, print_patiently\n"
        "print_patiently()\nlogging.basicConfig(handlers=[ScreenHandler()], level='INFO')\n"
        "for _ in range(3000): print('Straße 地面'); logging.info('✓')\n"
        "Console().print('Bäume ✓')\nopen('done', 'w').write('done')\n"
    )
    shell = {
        "closed": "{} >&-",
        "a reader that has gone": "set -o pipefail; {} | head -1",
        "a full disk": "{} > /dev/full",
        "letters it lacks": "{} | cat",
    }[output]
    environment = os.environ | {"PYTHONPATH": str(SRC), "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        ["bash", "-c", shell.format(f"{sys.executable} {program}")],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "done").read_text() == "done"
    assert output != "letters it lacks" or "Stra\\xdfe" in done.stdout
