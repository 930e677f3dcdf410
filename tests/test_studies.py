"""Studies through the real script: what is finished is not repeated, what fails does not take the others along."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fake_data import write_voc
from zygote import SRC, TINY


@pytest.fixture(scope="module")
def study(zygote, tmp_path_factory):
    """A study over T with a seed whose job fails: its folder, the arguments, and the first output."""
    root = tmp_path_factory.mktemp("study")
    write_voc(root / "data")
    arguments = [
        *TINY,
        "sweep=T",
        "model.T=1,2",
        "seed=0",
        "T_evals=[1,2,5]",
        "dataset=voc",
        f"dataset.root={root / 'data'}",
        "trainer.max_steps=2",
        f"hydra.sweep.dir={root / 'sweep'}",
    ]
    place = [f"hydra.sweep.dir={root / 'broken'}", "hydra.sweep.subdir=m${model.momentum}"]
    failing = zygote.run(*arguments, *place, "model.T=1", "model.momentum=0.5,2.0", cwd=root, code=1)
    return root, arguments, zygote.run(*arguments, cwd=root), failing


def test_a_study_prints_its_settings_and_leaves_a_folder_for_each(study):
    root, _, output, _ = study
    assert {path.name for path in (root / "sweep").iterdir() if path.is_dir()} == {"T=1_seed=0", "T=2_seed=0"}
    for T in (1, 2):
        miou = json.loads((root / "sweep" / f"T={T}_seed=0" / "summary.json").read_text())["val/miou"]
        assert f" T={T}       {miou:.4f}" in output


def test_each_trained_network_is_evaluated_with_every_T_and_trained_once(study):
    root, *_ = study
    for T in (1, 2):
        folder = root / "sweep" / f"T={T}_seed=0"
        summary = json.loads((folder / "summary.json").read_text())
        found = json.loads((folder / "evaluations.json").read_text())["T_eval"]
        assert list(found) == ["1", "2", "5"]
        assert found[str(T)]["val/miou"] == summary["val/miou"], "the T of training is the run's own score"
        assert summary["steps"] == 2
        assert torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 2


def test_the_same_command_again_trains_nothing(study, zygote):
    root, arguments, *_ = study
    files = sorted((root / "sweep").glob("*/checkpoints/last.ckpt"))
    before = [path.stat().st_mtime_ns for path in files]
    output = zygote.run(*arguments, cwd=root)
    assert output.count("has finished already") == 2
    assert [path.stat().st_mtime_ns for path in files] == before != []


def test_a_larger_study_adds_only_what_is_missing(study, zygote):
    root, arguments, *_ = study
    output = zygote.run(*arguments, "model.T=1,3", cwd=root)
    assert output.count("has finished already") == 1
    assert (root / "sweep" / "T=3_seed=0" / "summary.json").is_file()


def test_other_settings_are_not_mixed_into_a_study(study, zygote):
    root, arguments, *_ = study
    summary = root / "sweep" / "T=1_seed=0" / "summary.json"
    before = summary.read_text()
    output = zygote.run(*arguments, "model.T=1", "optimizer.lr=0.5", cwd=root, code=1)
    assert "holds a run of this study with other settings" in output
    assert "optimizer.lr: 0.009 there, 0.5 now" in output
    assert "no result: T=1_seed=0: ConfigError" in output
    assert summary.read_text() == before, "the finished run stays"
    assert zygote.run(*arguments, "model.T=1", cwd=root).count("has finished already") == 1
    assert not (root / "sweep" / "T=1_seed=0" / "failure.json").exists()


def test_a_failed_job_is_named_with_its_reason_and_the_others_are_kept(study):
    root, _, _, output = study
    assert "no result: m2.0: ConfigError" in output
    assert "got momentum=2.0" in output
    assert "got momentum=2.0" in json.loads((root / "broken" / "m2.0" / "failure.json").read_text())["error"]
    assert json.loads((root / "broken" / "m0.5" / "summary.json").read_text())["status"] == "finished"


def test_a_run_of_a_study_can_be_taken_up_alone(study, zygote):
    root, *_ = study
    folder: Path = root / "sweep" / "T=2_seed=0"
    output = zygote.run(f"resume={folder}", "trainer.max_steps=3", "study=null", cwd=root)
    assert "going on from" in output
    assert json.loads((folder / "summary.json").read_text())["steps"] == 3


def test_a_study_started_twice_shares_the_work(study, zygote, tmp_path):
    _, arguments, *_ = study
    place = f"hydra.sweep.dir={tmp_path / 'sweep'}"
    one = zygote.start(*arguments, place, "seed=0,1", "T_evals=[]", cwd=tmp_path)
    two = zygote.start(*arguments, place, "seed=0,1", "T_evals=[]", cwd=tmp_path)
    outputs = [run.wait(None) for run in (one, two)]
    trained = [output.count("run folder:") for output in outputs]
    assert sum(trained) == 4, outputs
    assert all(
        json.loads((tmp_path / "sweep" / f"T={T}_seed={seed}" / "summary.json").read_text())["status"] == "finished"
        for T in (1, 2)
        for seed in (0, 1)
    )


@pytest.mark.slow
def test_a_study_under_joblib_trains_several_runs_at_a_time(study, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="an optional dependency: '.[joblib]'")
    _, arguments, *_ = study
    command = [*arguments, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    done = subprocess.run(
        [sys.executable, str(SRC / "train.py"), *command], cwd=tmp_path, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    alone, together = (
        [json.loads((folder / f"T={T}_seed=0" / "summary.json").read_text())["val/miou"] for T in (1, 2)]
        for folder in (Path(arguments[-1].partition("=")[2]), tmp_path / "sweep")
    )
    assert together == alone
