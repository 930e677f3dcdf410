"""The wheel alone, in an empty environment and another directory: the command, its configuration, two steps."""

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
import torch

from zygote import LAUNCHERS, SRC

ROOT = SRC.parent
QUICK = ["experiment=quickstart_short", "trainer.max_steps=2", "trainer.val_every_n_steps=2", "callbacks.bases=null"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command ``emanet`` of an environment that holds the wheel and nothing else of ours.

    The packages that it depends on are those of this environment: lent by path, so that its editable install, which a
    path file makes, stays out.
    """
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "env", with_pip=False)
    place = ["--no-deps", "--no-index", "--prefix", str(folder / "env"), "--ignore-installed", str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *place], check=True)
    return folder / "env"


def run(env: Path, *arguments: str, cwd: Path) -> str:
    """Run ``emanet`` and return what it printed."""
    variables = {key: value for key, value in os.environ.items() if not key.startswith(LAUNCHERS)}
    own = next((env / "lib").glob("python*/site-packages"))
    variables |= {"PYTHONPATH": os.pathsep.join([str(own), sysconfig.get_paths()["purelib"]]), "OMP_NUM_THREADS": "1"}
    command = [str(env / "bin" / "python"), str(env / "bin" / "emanet"), *arguments]
    done = subprocess.run(command, cwd=cwd, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_the_command_lists_its_jobs_and_finds_the_configuration_that_came_along(installed: Path, tmp_path: Path):
    listed = run(installed, cwd=tmp_path)
    for job in ("train", "eval", "predict", "prepare", "inspect", "report", "search"):
        assert f"emanet {job}" in listed
    shown = run(installed, "train", "--cfg", "job", "model.K=7", cwd=tmp_path)
    assert "K: 7" in shown


def test_two_steps_train_in_another_directory_and_are_evaluated_to_the_digit(installed: Path, tmp_path: Path):
    run(installed, "train", *QUICK, f"hydra.run.dir={tmp_path / 'run'}", cwd=tmp_path)
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    stored = torch.load(path, weights_only=True)["validation"]["val/miou"]
    place = f"hydra.run.dir={tmp_path / 'eval'}"
    output = run(installed, "eval", f"checkpoint={path}", place, cwd=tmp_path)
    assert f"val/miou {stored!r} (stored: {stored!r})" in output
    assert (tmp_path / "data" / "blue_marble").is_dir(), "data lie below the working directory"
