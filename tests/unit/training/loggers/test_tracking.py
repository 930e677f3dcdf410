"""Loggers: what they write is read back, and neither a missing key nor a dead server stops a run."""

import csv
import json
import os
import resource
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import wandb
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from emanet.common.errors import ConfigError
from emanet.inference.bases import SCALARS
from emanet.training.callbacks import BasesMonitor, LastCheckpoint, RunSummary, WandbMedia
from emanet.training.loggers import build_loggers
from emanet.training.loggers.csv import RunCSVLogger
from emanet.training.loggers.wandb import has_credentials, wandb_run
from emanet.training.task import SegmentationTask
from small_run import NAMES, ColorData, make_task, make_trainer
from tiny import tiny_net
from wandb_reader import OfflineRun, find_run, read_run

CONFIG = {"model": {"K": 2, "T": 3}, "optim": {"lr": 0.5}, "seed": 0, "tags": ["x"], "resume": None}


@pytest.fixture(autouse=True)
def no_account(tmp_path: Path, monkeypatch) -> Iterator[None]:
    """No key, no settings and no server; the run that a test starts is ended."""
    for name in [name for name in os.environ if name.startswith("WANDB_")] + ["NETRC"]:
        monkeypatch.delenv(name, raising=False)
    for name, value in {
        "HOME": str(tmp_path / "home"),
        "WANDB_BASE_URL": "http://127.0.0.1:9",  # nothing listens on the discard port
        "WANDB_CONFIG_DIR": str(tmp_path / "home"),
        "WANDB_SILENT": "true",
    }.items():
        monkeypatch.setenv(name, value)
    wandb.teardown()
    yield
    close_wandb()
    wandb.teardown()


TARGETS = {
    "tensorboard": "lightning.pytorch.loggers.TensorBoardLogger",
    "wandb": "emanet.training.loggers.wandb.wandb_run",
    "csv": "emanet.training.loggers.RunCSVLogger",
}


def close_wandb() -> None:
    """End the open run."""
    if wandb.run is not None:
        wandb.finish()


def build(run_dir: Path, **loggers) -> list:
    """The loggers of a run called trial."""
    nodes = {
        key: None if options is None else {"_target_": TARGETS.get(key, "nowhere.Logger"), **options}
        for key, options in loggers.items()
    }
    return build_loggers(
        nodes, run_dir=run_dir, config=CONFIG, name="trial", group="small", job_type="train", tags=["a", "b"]
    )


def finished(run_dir: Path) -> OfflineRun:
    """The offline W&B run of a folder, after it has ended and W&B's service has written all of it."""
    close_wandb()
    wandb.teardown()
    return read_run(find_run(run_dir))


def rows_of(run_dir: Path) -> list[dict[str, str]]:
    """The rows of metrics.csv."""
    with (run_dir / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


# --- CSV --------------------------------------------------------------------------------------------------------------


def test_metrics_csv_is_written_even_if_no_logger_is_chosen_and_an_absent_class_is_an_empty_cell(tmp_path: Path):
    loggers = build(tmp_path)
    trainer = make_trainer(tmp_path, [], logger=loggers)
    trainer.fit(make_task(), ColorData())
    rows = rows_of(tmp_path)
    training, validation = ([row for row in rows if row[key]] for key in ("train/loss", "val/miou"))
    assert [int(row["step"]) for row in training] == list(range(8))
    assert float(training[-1]["train/loss"]) == pytest.approx(trainer.callback_metrics["train/loss"].item())
    assert float(training[0]["train/loss"]) > 2 * float(training[-1]["train/loss"])
    assert [float(row["val/iou/red"]) for row in validation][-1] == 1.0
    assert [row["val/iou/never seen"] for row in validation] == ["", ""]
    assert next(iter(rows[0])) == "step"


def test_a_column_that_comes_later_leaves_the_earlier_rows_as_they_were(tmp_path: Path):
    logger = RunCSVLogger(tmp_path)
    for step, metrics in enumerate([{"a": 1.0}, {"b": 2.5}, {"a": 3.0, "b": float("nan")}]):
        logger.log_metrics(metrics, step)
        logger.save()
    assert rows_of(tmp_path) == [
        {"step": "0", "a": "1.0", "b": ""},
        {"step": "1", "a": "", "b": "2.5"},
        {"step": "2", "a": "3.0", "b": ""},
    ]


def test_a_second_logger_in_the_same_folder_goes_on_below(tmp_path: Path):
    for step in (0, 1):
        logger = RunCSVLogger(tmp_path)
        logger.log_metrics({"a": float(step)}, step)
        logger.finalize("success")
    assert [row["a"] for row in rows_of(tmp_path)] == ["0.0", "1.0"]


def test_rows_from_a_step_on_are_dropped_and_so_is_a_torn_last_line(tmp_path: Path):
    (tmp_path / "metrics.csv").write_text("step,a,b\n0,1,2\n5,1,2\n9,1,2\n10,1,2\n3,1")
    RunCSVLogger(tmp_path).drop_from(9)
    assert [row["step"] for row in rows_of(tmp_path)] == ["0", "5"]


def test_a_full_disk_leaves_no_half_row_and_the_rows_come_when_there_is_room(tmp_path: Path, caplog):
    logger = RunCSVLogger(tmp_path)
    for step in range(3):
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        if step == 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / "metrics.csv").stat().st_size + 3, limits[1]))
        logger.log_metrics({"a": 0.125}, step)
        logger.save()
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert [row["step"] for row in rows_of(tmp_path)] == [["0"], ["0"], ["0", "1", "2"]][step]
    assert "metrics.csv cannot be written, its rows are kept for later" in caplog.text


def test_an_unknown_logger_or_option_is_refused_by_name(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"logger\.comet\._target_=nowhere\.Logger cannot be found"):
        build(tmp_path, comet={})
    with pytest.raises(ConfigError, match="projct"):
        build(tmp_path, wandb={"projct": "x"})
    with pytest.raises(ConfigError, match="online, offline, disabled, got mode='onlin'"):
        build(tmp_path, wandb={"mode": "onlin"})


# --- TensorBoard ------------------------------------------------------------------------------------------------------


def test_tensorboard_gets_the_same_scalars(tmp_path: Path):
    loggers = build(tmp_path, tensorboard={"name": "tensorboard", "version": ""})
    assert [type(logger) for logger in loggers] == [RunCSVLogger, TensorBoardLogger]
    make_trainer(tmp_path, [], logger=loggers).fit(make_task(), ColorData())
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    written = [(event.step, event.value) for event in events.Scalars("train/loss")]
    expected = [(int(row["step"]), float(row["train/loss"])) for row in rows_of(tmp_path) if row["train/loss"]]
    assert len(written) == 8
    assert [step for step, _ in written] == [step for step, _ in expected]
    assert [value for _, value in written] == pytest.approx([value for _, value in expected])


# --- W&B --------------------------------------------------------------------------------------------------------------


def test_an_offline_run_holds_config_group_scalars_table_and_images_with_masks(tmp_path: Path):
    loggers = build(tmp_path, wandb={"project": "p", "mode": "offline"})
    trainer = make_trainer(tmp_path, [WandbMedia(n_images=2, size=32), LastCheckpoint(tmp_path)], logger=loggers)
    trainer.fit(make_task(), ColorData())
    run = finished(tmp_path)

    assert (run.project, run.name, run.group, run.job_type) == ("p", "trial", "small", "train")
    assert run.tags == ["a", "b"]
    assert {key: run.config[key] for key in CONFIG} == CONFIG
    assert run.exit_code == 0
    assert not [key for row in run.history for key in row if key.startswith(("gradients", "parameters"))]
    assert not [name for name, *_ in run.artifacts if name.startswith("model")], "unless asked for"

    losses = [float(row["train/loss"]) for row in rows_of(tmp_path) if row["train/loss"]]
    assert run.series("train/loss") == pytest.approx(losses)
    assert run.series("val/iou/red")[-1] == run.summary["val/miou"] == 1.0

    media = tmp_path / "wandb" / "latest-run" / "files"
    for validation in (0, 1):
        assert run.series("val/predictions/captions")[validation] == ["val-2", "val-7"]
        images = run.series("val/predictions/filenames")[validation]
        masks = run.series("val/predictions/all_masks")[validation]
        assert [set(mask) for mask in masks] == [{"prediction", "ground_truth"}] * 2
        assert all((media / image).is_file() for image in images)
    truth = load_picture(media / masks[0]["ground_truth"]["path"])
    assert truth.shape == (24, 32)  # 12 x 16, scaled to 32
    assert (truth[::2, ::2] == ColorData().item("val", 2)["mask"].numpy()).all()

    (table,) = (media / "media" / "table" / "val").glob("iou_table*.json")
    assert read_table(table) == [["red", 1], ["green", 1], ["blue", 1], ["never seen", None]]


def load_picture(path: Path) -> np.ndarray:
    """A picture as W&B stores it; a mask is a PNG whose pixel values are class ids."""
    with Image.open(path) as picture:
        return np.asarray(picture)


def read_table(path: Path) -> list:
    """Rows of a W&B table."""
    content = json.loads(path.read_text())
    assert content["columns"] == ["class", "IoU"]
    return content["data"]


def test_an_offline_run_of_an_emanet_shows_its_bases_and_on_request_gradients_and_checkpoints(tmp_path: Path):
    loggers = build(tmp_path, wandb={"mode": "offline", "watch": "all", "watch_every_n_batches": 4, "log_model": True})
    files = tmp_path / "checkpoints"
    best = ModelCheckpoint(files, "best", monitor="val/miou", mode="max", enable_version_counter=False)
    last = LastCheckpoint(tmp_path, every_n_steps=4)
    callbacks = [BasesMonitor(n_images=2, cell=64), RunSummary(tmp_path), best, last]
    trainer = make_trainer(tmp_path, callbacks, logger=loggers)
    task = SegmentationTask(tiny_net(), class_names=NAMES, config={"name": "small"})
    trainer.fit(task, ColorData())
    run = finished(tmp_path)

    for name in SCALARS:
        logged = [float(row[f"bases/{name}"]) for row in rows_of(tmp_path) if row[f"bases/{name}"]]
        assert run.series(f"bases/{name}") == pytest.approx(logged), name
        assert len(logged) == 2
    media = tmp_path / "wandb" / "latest-run" / "files"
    for validation, step in enumerate([4, 8]):
        assert run.series("bases/attention/captions")[validation] == ["val-2", "val-7"]
        sheets = [load_picture(media / path) for path in run.series("bases/attention/filenames")[validation]]
        matrices = [load_picture(media / path) for path in run.series("bases/cosines/filenames")[validation]]
        assert (len(sheets), len(matrices)) == (2, 1)
        assert all(picture.shape[2] == 3 and picture.std() > 10 for picture in sheets + matrices)
        rows = [row for row in run.history if "bases/cosines/filenames" in row]
        assert rows[validation]["trainer/global_step"] == step

    watched = {key.split("/")[0] for row in run.history for key in row if key.endswith("/bins")}
    assert watched == {"gradients", "parameters"}
    gradients = {key.split("/")[1] for row in run.history for key in row if key.startswith("gradients/")}
    assert gradients == {name for name, parameter in task.net.named_parameters() if parameter.requires_grad}
    model = f"model-{find_run(tmp_path).stem.removeprefix('run-')}"
    kept = sorted((name, min({*aliases} - {"latest"}), contents) for name, aliases, contents in run.artifacts)
    assert kept == [(model, stem, [str(files / f"{stem}.ckpt")]) for stem in ("best", "last")]
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert run.summary["val/miou_best"] == summary["val/miou_best"]
    assert run.summary["parameters"] == summary["parameters"]["total"]


def test_a_checkpoint_that_is_gone_is_no_reason_to_fail_at_the_end(tmp_path: Path, caplog):
    logger = wandb_run(tmp_path, mode="offline", log_model=True)
    assert logger is not None
    logger.finalize("success")
    assert f"{tmp_path / 'checkpoints' / 'last.ckpt'} was not taken as an artifact: ValueError" in caplog.text


def test_something_else_to_watch_is_refused_with_what_there_is(tmp_path: Path):
    with pytest.raises(ConfigError, match="watch must be one of None, gradients, all, got watch='weights'"):
        build(tmp_path, wandb={"watch": "weights"})
    with pytest.raises(ConfigError, match="watch_every_n_batches must be at least 1, got watch_every_n_batches=0"):
        build(tmp_path, wandb={"watch_every_n_batches": 0})


def test_without_a_key_an_online_run_goes_offline_at_once_and_says_so(tmp_path: Path, caplog):
    started = time.monotonic()
    loggers = build(tmp_path, wandb={"mode": "online"})
    assert "no API key was found" in caplog.text
    assert "wandb sync" in caplog.text
    assert time.monotonic() - started < 20
    make_trainer(tmp_path, [], logger=loggers).fit(make_task(), ColorData())
    assert len(finished(tmp_path).series("train/loss")) == 8


@pytest.mark.parametrize("server", ["refuses", "hangs"])
def test_a_server_that_does_not_answer_costs_init_timeout_and_turns_the_run_offline(
    tmp_path: Path, monkeypatch, caplog, server: str
):
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and never answers
        port = silent.getsockname()[1] if server == "hangs" else 9
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        wandb.teardown()
        started = time.monotonic()
        loggers = build(tmp_path, wandb={"mode": "online", "init_timeout": 2.0})
        assert time.monotonic() - started < 20
        assert "W&B cannot be reached, so this run is tracked offline" in caplog.text
        assert loggers[-1].experiment.settings.mode == "offline"
        assert_trains_as_without_wandb(tmp_path, loggers)


def assert_trains_as_without_wandb(run_dir: Path, loggers: list) -> None:
    """Training comes to its end, about as fast, and all metrics are there, in the file and in the offline run."""
    seconds = {}
    for folder, chosen in ((run_dir / "plain", build(run_dir / "plain")), (run_dir, loggers)):
        started = time.monotonic()
        make_trainer(folder, [], logger=chosen).fit(make_task(), ColorData())
        seconds[folder] = time.monotonic() - started
    assert rows_of(run_dir) == rows_of(run_dir / "plain")
    assert len(rows_of(run_dir)) == 10
    assert seconds[run_dir] < seconds[run_dir / "plain"] + 5
    run = finished(run_dir)
    assert len(run.series("train/loss")) == 8
    assert len(run.series("val/miou")) == 2


def test_if_wandb_does_not_work_at_all_training_goes_on_without_it(tmp_path: Path, monkeypatch, caplog):
    def broken(**kwargs):
        raise OSError("no service could be started")

    monkeypatch.setattr(wandb, "init", broken)
    loggers = build(tmp_path, wandb={"mode": "offline"})
    assert [type(logger) for logger in loggers] == [RunCSVLogger]
    assert "training goes on without it: OSError: no service" in caplog.text


def test_disabled_means_no_wandb_logger_and_null_removes_one(tmp_path: Path):
    for options in ({"mode": "disabled"}, None):
        assert [type(logger) for logger in build(tmp_path, wandb=options)] == [RunCSVLogger]
    assert not (tmp_path / "wandb").exists()


def test_each_job_of_a_sweep_in_one_process_gets_a_run_of_its_own(tmp_path: Path):
    for job in ("0", "1"):
        build(tmp_path / job, wandb={"mode": "offline"})[-1].log_metrics({"job": float(job)}, step=0)
    assert [finished(tmp_path / job).series("job") for job in ("0", "1")] == [[0], [1]]


def test_a_key_is_found_in_the_environment_or_in_netrc_for_this_host_alone(tmp_path: Path, monkeypatch):
    assert not has_credentials()
    path = tmp_path / "netrc"
    monkeypatch.setenv("NETRC", str(path))
    path.write_text("machine example.org login user password secret\n")
    path.chmod(0o600)
    assert not has_credentials()
    path.write_text("machine 127.0.0.1:9 login user password secret\n")
    assert has_credentials()
    path.unlink()
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert has_credentials()


def test_a_resumed_online_run_goes_on_under_its_own_id(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    asked = []

    def pretend(**kwargs):
        asked.append((kwargs["id"], kwargs["resume"]))
        return type("Run", (), {"id": "abc123", "name": "trial"})()

    monkeypatch.setattr(wandb, "init", pretend)
    for _ in range(2):
        build(tmp_path, wandb={"mode": "online"})
    assert asked == [(None, "allow"), ("abc123", "allow")]


# --- media ------------------------------------------------------------------------------------------------------------


def test_media_that_cannot_be_logged_warn_and_training_ends_well(tmp_path: Path, monkeypatch, caplog):
    def broken(*args, **kwargs):
        raise ValueError("no picture today")

    loggers = build(tmp_path, wandb={"mode": "offline"})
    monkeypatch.setattr(wandb, "Image", broken)
    monkeypatch.setattr(wandb, "Table", broken)
    trainer = make_trainer(tmp_path, [WandbMedia(n_images=2)], logger=loggers)
    trainer.fit(make_task(), ColorData())
    assert trainer.global_step == 8
    assert "images could not be logged, training goes on: ValueError: no picture today" in caplog.text
    assert "the table of classes could not be logged" in caplog.text


def test_without_wandb_the_media_callback_collects_nothing(tmp_path: Path):
    media = WandbMedia(n_images=2)
    make_trainer(tmp_path, [media]).fit(make_task(), ColorData())
    assert media.samples == []
