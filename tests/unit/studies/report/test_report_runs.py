"""Runs are read in whatever state they are, and nothing of the machine that they come from goes with them."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import wandb
from omegaconf import OmegaConf

from emanet.common.errors import ConfigError
from emanet.config.schema import PROJECT_ROOT
from emanet.studies.portable import portable, portable_text
from emanet.studies.report import wandb_runs
from emanet.studies.report.default import default_of
from emanet.studies.report.facts import commands, facts, warnings
from emanet.studies.report.study import group
from emanet.studies.report.tables import finding, runs_frame, scores_table, to_csv
from emanet.studies.report.wandb_runs import read_project
from emanet.studies.runs import Run, gather, read_lines, run_line
from fake_runs import COMMAND, invented_config, invented_summary, write_run, write_sweep


def only(place: Path) -> Run:
    """The one run at a place."""
    (run,) = gather([place])
    return run


# --- states ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("miou", "changes", "reason"),
    [
        (0.4, {}, None),
        (None, {}, "no summary: it ended before its first step, or has not come to it"),
        (0.4, {"status": "running", "steps": 70}, "step 70 of 100: it is running, or was killed"),
        (0.4, {"status": "failed", "error": "ValueError: loss is NaN"}, "failed: ValueError: loss is NaN"),
        (0.4, {"status": "stopped", "error": None}, "stopped: it did not say why"),
        (None, {"status": "finished"}, "it was not validated"),
    ],
)
def test_a_run_says_why_it_has_no_result(tmp_path, miou, changes, reason):
    assert only(write_run(tmp_path / "a", miou, **changes)).reason == reason


def test_a_job_that_failed_before_its_run_began_belongs_to_its_study_and_nothing_is_resolved(tmp_path, monkeypatch):
    monkeypatch.setenv("EMANET_TEST_SECRET", "hidden")
    failed = tmp_path / "K=0_seed=0"
    (failed / ".hydra").mkdir(parents=True)
    (failed / "failure.json").write_text('{"error": "ConfigError: K=0"}')
    model = {"K": 0, "norm": "${oc.env:EMANET_TEST_SECRET}", "head": "${no_such_resolver:x}"}
    stored = {"name": "${dataset.name}", "study": "K", "swept": ["model.K", "seed"], "seed": 0, "model": model}
    (failed / ".hydra" / "config.yaml").write_text(json.dumps(stored | {"dataset": {"name": "voc"}}))
    run = only(tmp_path)
    assert (run.experiment, run.study, run.keys, run.reason) == ("voc", "K", ("model.K",), "ConfigError: K=0")
    assert (run.config["model.K"], run.config["model.norm"]) == (0, "${oc.env:EMANET_TEST_SECRET}")
    assert "hidden" not in run_line(run)


def test_damaged_files_count_as_missing_and_evaluations_are_no_training_runs(tmp_path):
    (tmp_path / "killed").mkdir()
    (tmp_path / "killed" / "config.yaml").write_text("model: {K: [")  # while it was written
    write_run(tmp_path / "evaluated", 0.6, checkpoint="x.ckpt")
    assert only(tmp_path) == Run("killed")


def test_a_folder_that_is_named_twice_is_read_once(tmp_path):
    write_sweep(tmp_path / "sweep", "model.K", {8: (0.1, 0.2)})
    assert len(gather([tmp_path, tmp_path / "sweep", tmp_path / "sweep" / "K=8_seed=0"])) == 2


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.json", "{}", "no such folder, or runs.jsonl"),
        ("runs.jsonl", run_line(Run("a")) + '\n{"nome": 3}\n', r"runs\.jsonl, line 2: no run"),
        ("empty/x", "", "no runs there"),
    ],
)
def test_a_place_without_runs_is_refused(tmp_path, name, content, message):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        gather([path.parent if path.parent.name == "empty" else path])


SUMMARIES = [
    {"val/miou": float("nan"), "seconds_total": float("inf"), "images_per_second": 10**400},
    {"val/miou": [1], "seconds_total": "x", "val/iou": [1, 2], "parameters": [1], "steps": {}},
    {"git": "abc", "hardware": ["x"], "versions": "1", "command": [1], "dataset": ["a"]},
    {"name": "\ud800", "command": "python 'train.py \ud800", "parameters": {"head": "many"}},
    {"status": ["finished"], "error": {"a": 1}, "parameters": None, "git": None},
]
CONFIGS = [
    b"swept: model.K\nstudy: K",
    b"swept: [[1], {a: 2}, null]\nstudy: 7",
    b"study: [a]\nname: [1]\nseed: [1, 2]",
    b"model: {K: !!binary aGVsbG8=, norm: .nan, T: 1e999, head: '${'}",
    b'model: {K: !!python/object/apply:pathlib.PosixPath [/etc], norm: "\\ud800\\0"}',
    b"a: " + 3000 * b"[" + 3000 * b"]",
    "name: \u00e9".encode("utf-16"),
]
EVALUATIONS = [[1], {"T_eval": [1]}, {"T_eval": {"1": 3, "x": {"val/miou": "high"}}}]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *(("summary.json", json.dumps(invented_summary(0.5, 0, **changes)).encode()) for changes in SUMMARIES),
        *(("config.yaml", content) for content in CONFIGS),
        *(("evaluations.json", json.dumps(content).encode()) for content in EVALUATIONS),
        ("failure.json", b"[1]"),
        ("summary.json", 100_000 * b"[" + 100_000 * b"]"),
    ],
)
def test_files_that_hold_nonsense_end_no_report_and_the_other_runs_are_in_it(tmp_path, name, content):
    for seed in (0, 1):
        write_run(tmp_path / f"good{seed}", 0.5, study=None, seed=seed)
    (write_run(tmp_path / "odd", 0.5, study=None, seed=2) / name).write_bytes(content)
    runs = gather([tmp_path])
    (tmp_path / "again.jsonl").write_text("".join(run_line(run) + "\n" for run in runs), encoding="utf-8")
    assert read_lines(tmp_path / "again.jsonl") == runs
    assert "good1" in to_csv(runs_frame(runs))
    told = [
        (facts(study), warnings(study), commands(study), scores_table(study), finding(study)) for study in group(runs)
    ]
    assert any("50.00" in cell for *_, table, _ in told for row in table.rows for cell in row)


# --- what stays on the machine --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("/home/someone/data/voc", "voc"),
        ("~/runs/a b/last.ckpt", "last.ckpt"),
        ("C:\\Users\\someone\\net.pth", "net.pth"),
        ("voc: not found: /mnt/disk 1/voc; set dataset.root", "voc: not found: disk 1/voc; set dataset.root"),
        ("python /home/x/repo/src/train.py init_from=/a/b/c.ckpt", "python src/train.py init_from=c.ckpt"),
        ("python src/train.py sweep=K", "python src/train.py sweep=K"),
        ("https://example.org/a/b/c and 3 images/s, runs/K=3/best.ckpt", None),
        ("albumentations.ColorJitter", None),
    ],
)
def test_of_an_absolute_path_the_last_part_stays_and_other_text_is_left_alone(text, left):
    assert portable_text(text) == (text if left is None else left)


def test_names_of_machines_and_people_go_but_classes_of_that_name_stay():
    content = {"hostname": "n1", "a": [{"user": "me", "b": "/x/y/z"}], "dataset.root": "/d", "val/iou": {"root": 1}}
    assert portable(content) == {"a": [{"b": "z"}], "val/iou": {"root": 1}}


# --- defaults -------------------------------------------------------------------------------------------------------


def test_the_default_is_what_the_command_gives_without_the_sweep(tmp_path):
    write_run(tmp_path / "a", 0.5, values={"model.T": 1}, command=f"{COMMAND} sweep=T seed=0,1 optimizer.lr=0.1")
    write_run(
        tmp_path / "b",
        0.5,
        values={"model.K": 8, "model.head": "fcn"},
        command=f"{COMMAND} model.K=8,16 head=ema,fcn sweep=x",
    )
    write_run(tmp_path / "c", 0.5, values={"model.T": 1}, command="python elsewhere.py")
    write_run(tmp_path / "d", 0.5, values={"model.T": 1}, command="python src/train.py experiment=removed_since")
    write_run(tmp_path / "e", 0.5, values={"model.T": 1}, command=f"{COMMAND} 'model.K=${{oc.env:HOME}}'")
    write_run(tmp_path / "f", 0.5, values={"model.gradient": "full"}, command=COMMAND)
    write_run(tmp_path / "g", 0.5, values={"model.gradient": "full"}, command=f"{COMMAND} head=ham")
    found = [default_of(run) for run in gather([tmp_path])]
    assert found[:2] == [{"model.T": 3}, {"model.K": 64, "model.head": "ema"}]
    assert found[2:5] == [None] * 3
    assert found[5:] == [{"model.gradient": "none"}, {"model.gradient": "last"}]


# --- Weights & Biases -----------------------------------------------------------------------------------------------


def wandb_run(**changes: Any) -> Any:
    """A run as W&B's public API shows it."""
    logged = {"val/miou": 0.5, "val/pixel_accuracy": 0.7, "val/iou/a": 0.4, "val/iou/b": "NaN", "_runtime": 60.0}
    metadata = {"program": "/home/someone/repo/src/train.py", "args": ["sweep=K"], "git": {"commit": "abc"}}
    metadata |= {"host": "secret-machine", "gpu": "Invented GPU", "gpu_count": 2, "python": "3.11.7"}
    entries = {"name": "K=8_seed=1", "state": "finished", "summary": logged, "metadata": metadata}
    config = OmegaConf.to_container(invented_config("K", {"model.K": 8}, 1))
    return SimpleNamespace(**(entries | {"config": config} | changes))


@pytest.fixture
def project(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A stub of W&B's server: the runs in this list; reading what is no run fails."""
    content: list[Any] = []
    api = SimpleNamespace(runs=lambda path, **_: content if path == "me/emanet" else pytest.fail(path))
    monkeypatch.setattr(wandb, "Api", lambda timeout: api)
    monkeypatch.setattr(wandb_runs, "has_credentials", lambda: True)
    return content


def test_a_run_of_a_project_is_read_as_one_of_a_folder(project):
    project += [wandb_run(), wandb_run(state="crashed"), wandb_run(state="killed"), wandb_run(state="running")]
    run, *others = read_project("me/emanet")
    assert (run.name, run.study, run.keys, run.seed) == ("K=8_seed=1", "K", ("model.K",), 1)
    assert (run.miou, run.reason) == (0.5, None)
    assert run.summary["val/iou"] == {"a": 0.4, "b": None}
    assert run.summary["hardware"]["gpus"] == ["Invented GPU"] * 2
    assert run.summary["command"] == "python src/train.py sweep=K"
    assert "secret-machine" not in run_line(run)
    assert [other.reason for other in others] == [
        "failed: W&B says crashed",
        "stopped: W&B says killed",
        "step None of 100: it is running, or was killed",
    ]


def test_a_project_that_cannot_be_read_is_one_clear_error(project, monkeypatch):
    with pytest.raises(ConfigError, match="wandb=me/emanet: this project holds no runs"):
        read_project("me/emanet")
    project.append("no run")
    with pytest.raises(ConfigError, match=r"cannot be read \('str' object has no attribute .*\); check name, key"):
        read_project("me/emanet")
    with pytest.raises(ConfigError, match="wandb must be entity/project, got 'emanet'"):
        read_project("emanet")
    monkeypatch.setattr(wandb_runs, "has_credentials", lambda: False)
    with pytest.raises(ConfigError, match="no API key was found; set WANDB_API_KEY"):
        read_project("me/emanet")


def test_the_invented_summary_has_the_keys_of_a_real_one():
    real = json.loads((PROJECT_ROOT / "docs" / "runs" / "quickstart_seed0.ss.json").read_text())
    assert invented_summary(0.5, 0).keys() <= real.keys()
