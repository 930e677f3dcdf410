"""summary.json: what a run gave, read back from disk."""

import csv
import json
import subprocess
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from rich.console import Console

from emanet.common.provenance import git_state
from emanet.training.callbacks import LastCheckpoint, RunSummary
from emanet.training.callbacks import summary as summary_module
from emanet.training.callbacks.summary import print_scores
from emanet.training.loggers.csv import RunCSVLogger
from emanet.training.metrics import scores_from_confusion
from small_run import ColorData, make_task, make_trainer


def summary_of(run_dir: Path) -> dict:
    """The summary of a run; refuses NaN, which is no JSON."""

    def refuse(text: str) -> None:
        raise AssertionError(f"{text} is no JSON")

    return json.loads((run_dir / "summary.json").read_text(), parse_constant=refuse)


def test_a_finished_run_says_what_it_gave_and_from_what(tmp_path: Path, capsys):
    task = make_task(seed=0, name="trial")
    trainer = make_trainer(tmp_path, [RunSummary(tmp_path)])
    trainer.fit(task, ColorData())
    summary = summary_of(tmp_path)
    assert summary["status"] == "finished"
    assert summary["error"] is None
    assert summary["val/miou"] == summary["val/iou"]["red"] == trainer.callback_metrics["val/miou"].item() == 1.0
    assert summary["val/iou"] == {"red": 1.0, "green": 1.0, "blue": 1.0, "never seen": None}
    assert summary["val/classes_averaged"] == 3
    assert (summary["steps"], summary["seed"], summary["name"], summary["dataset"]) == (8, 0, "trial", "colors")
    assert summary["parameters"] == {"total": 18, "trainable": 16, "backbone": 16, "head": 2}
    assert summary["versions"]["torch"] == torch.__version__
    assert None not in summary["versions"].values()
    assert summary["hardware"]["gpus"] == []
    assert 0 < summary["seconds"] < summary["seconds_total"]
    assert summary["images_per_second"] == pytest.approx(16 / summary["seconds"], rel=0.05)  # 8 steps of 2 images
    printed = capsys.readouterr().out
    assert "mIoU            1.0000  over 3 of 4 classes" in printed
    assert f"run folder: {tmp_path}" in printed
    assert list(tmp_path.glob("*.tmp")) == []


def test_the_final_and_the_best_validation_are_kept_apart(tmp_path: Path):
    task = make_task()
    summary = RunSummary(tmp_path)
    trainer = make_trainer(tmp_path, [summary])
    original = task.validation_step
    # the second validation sees nothing but the first class
    task.validation_step = lambda batch, batch_idx: (
        original(batch, batch_idx) if trainer.global_step < 8 else all_red(task, batch)
    )
    trainer.fit(task, ColorData())
    content = summary_of(tmp_path)
    assert content["val/miou_best_step"] == 4
    assert content["val/miou_best"] > content["val/miou"]
    assert content["val/miou"] == pytest.approx(content["val/pixel_accuracy"] / 3)  # IoU of red is its share of pixels


def all_red(task, batch):
    """Predict the first class everywhere."""
    prediction = torch.zeros_like(batch["mask"])
    task.metrics.update(prediction, batch["mask"])
    return prediction


def test_a_run_without_validation_gets_a_summary_all_the_same(tmp_path: Path):
    make_trainer(tmp_path, [RunSummary(tmp_path)], limit_val_batches=0).fit(make_task(), ColorData())
    summary = summary_of(tmp_path)
    assert summary["status"] == "finished"
    assert summary["steps"] == 8
    assert summary["val/miou"] is summary["val/miou_best"] is None


def test_a_run_that_fails_says_why(tmp_path: Path):
    class Failing(RunSummary):
        def on_train_batch_end(self, trainer, *args):
            super().on_train_batch_end(trainer, *args)
            if trainer.global_step == 6:
                raise RuntimeError("the dog ate the batch")

    with pytest.raises(RuntimeError, match="the dog"):
        make_trainer(tmp_path, [Failing(tmp_path)]).fit(make_task(), ColorData())
    summary = summary_of(tmp_path)
    assert (summary["status"], summary["error"]) == ("failed", "RuntimeError: the dog ate the batch")
    assert summary["val/miou"] is not None  # of the validation before


def test_a_run_that_fails_on_a_full_disk_is_not_said_to_be_running(tmp_path: Path, monkeypatch):
    class Full(RunSummary):
        def on_train_batch_end(self, trainer, *args):
            def write(path, content):
                raise OSError(28, "No space left on device")

            monkeypatch.setattr(summary_module, "write_json", write)
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        make_trainer(tmp_path, [Full(tmp_path)]).fit(make_task(), ColorData())
    assert summary_of(tmp_path)["status"] == "failed"


def test_while_it_runs_the_summary_says_so(tmp_path: Path):
    seen = []

    class Peeking(RunSummary):
        def on_validation_end(self, trainer, pl_module):
            seen.append(summary_of(tmp_path)["status"])
            super().on_validation_end(trainer, pl_module)
            seen.append(summary_of(tmp_path)["val/miou"] is not None)

    make_trainer(tmp_path, [Peeking(tmp_path)]).fit(make_task(), ColorData())
    assert seen == ["running", True, "running", True]


def test_a_resumed_run_adds_up_and_keeps_the_best(tmp_path: Path):
    make_trainer(tmp_path, [RunSummary(tmp_path), LastCheckpoint(tmp_path)]).fit(make_task(), ColorData())
    first = summary_of(tmp_path)
    trainer = make_trainer(tmp_path, [RunSummary(tmp_path)], max_steps=12)
    trainer.fit(make_task(), ColorData(), ckpt_path=tmp_path / "checkpoints" / "last.ckpt")
    second = summary_of(tmp_path)
    assert second["steps"] == 12
    assert second["seconds"] > first["seconds"]
    assert second["images_per_second"] == pytest.approx(24 / second["seconds"], rel=0.05)
    assert second["val/miou_best_step"] == first["val/miou_best_step"]


def test_a_resumed_run_takes_the_steps_beyond_its_checkpoint_again_and_logs_each_step_once(tmp_path: Path):
    class Crash(Callback):
        def on_train_batch_end(self, trainer, *args):
            if trainer.global_step == 6:
                raise RuntimeError("power cut")

    def steps() -> list[int]:
        with (tmp_path / "metrics.csv").open(newline="") as file:
            return [int(row["step"]) for row in csv.DictReader(file) if row["train/loss"]]

    def trainer(*more: Callback):
        callbacks = [RunSummary(tmp_path), LastCheckpoint(tmp_path, every_n_steps=4), *more]
        return make_trainer(tmp_path, callbacks, logger=RunCSVLogger(tmp_path))

    with pytest.raises(RuntimeError, match="power cut"):
        trainer(Crash()).fit(make_task(), ColorData())
    assert steps() == [0, 1, 2, 3, 4]
    trainer().fit(make_task(), ColorData(), ckpt_path=tmp_path / "checkpoints" / "last.ckpt")  # of step 4
    assert steps() == list(range(8))
    assert summary_of(tmp_path)["status"] == "finished"


def test_an_evaluation_leaves_the_summary_of_the_training_alone(tmp_path: Path):
    make_trainer(tmp_path, [RunSummary(tmp_path)]).fit(make_task(), ColorData())
    before = (tmp_path / "summary.json").read_bytes()
    make_trainer(tmp_path, [RunSummary(tmp_path)]).validate(make_task(), ColorData(), verbose=False)
    assert (tmp_path / "summary.json").read_bytes() == before


@pytest.mark.parametrize(("width", "columns"), [(100, 4), (20, 1)])
def test_all_classes_are_printed_in_as_many_columns_as_fit_with_a_dash_for_the_absent(width: int, columns: int):
    console = Console(width=width)
    confusion = torch.diag(torch.arange(21))  # class 0 occurs nowhere, the others are all right
    with console.capture() as capture:
        print_scores(scores_from_confusion(confusion), [f"[class] {i}" for i in range(21)], console)
    text = capture.get()
    assert text.count("[class]") == 21
    assert text.count("1.0000") == 20 + 3  # each class, and three means
    assert text.splitlines()[1].count("[class]") == columns
    assert "over 20 of 21 classes" in " ".join(text.split())


def test_means_are_printed_as_they_were_computed():
    console = Console(width=100)
    scores = scores_from_confusion(torch.tensor([[3, 1], [0, 4]]))
    with console.capture() as capture:
        print_scores(scores, ["a", "b"], console)
    assert scores.miou.item() == pytest.approx((3 / 4 + 4 / 5) / 2)
    assert "mIoU            0.7750" in capture.get()
    assert "pixel accuracy  0.8750" in capture.get()


def git(folder: Path, *arguments: str) -> str:
    """Run git as nobody in particular."""
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_the_commit_is_that_of_the_source_tree_and_a_change_makes_it_dirty(tmp_path: Path):
    package = tmp_path / "src" / "emanet"
    package.mkdir(parents=True)
    assert git_state(package) is None  # no repository
    (package / "code.py").write_text("1")
    git(tmp_path, "init", "--quiet")
    assert git_state(package) is None  # no commit
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "-m", "first")
    assert git_state(package) == {"commit": git(tmp_path, "rev-parse", "HEAD"), "dirty": False}
    (package / "code.py").write_text("2")
    assert git_state(package) == {"commit": git(tmp_path, "rev-parse", "HEAD"), "dirty": True}


def test_a_package_installed_inside_another_repository_has_no_commit(tmp_path: Path):
    package = tmp_path / ".venv" / "lib" / "emanet"
    package.mkdir(parents=True)
    (package / "code.py").write_text("1")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "-m", "first")
    assert git_state(package) is None
