"""Progress: one bar on a terminal, plain lines elsewhere, and no waiting for the device in every step."""

import io
import logging
import re
import sys
from pathlib import Path

from rich.console import Console

from emanet.common.console import ScreenHandler
from emanet.training.callbacks import RunProgress
from small_run import ColorData, make_task, make_trainer


def terminal() -> tuple[Console, io.StringIO]:
    """A console that believes it is a wide terminal, and what is written to it."""
    screen = io.StringIO()
    return Console(file=screen, force_terminal=True, width=140, color_system=None), screen


def run(tmp_path: Path, progress: RunProgress, **options):
    """A fit with this progress callback."""
    trainer = make_trainer(tmp_path, [progress], enable_progress_bar=True, **options)
    trainer.fit(make_task(), ColorData())
    return trainer


def test_without_a_terminal_a_line_says_step_loss_rate_score_speed_and_time(tmp_path: Path, caplog):
    caplog.set_level(logging.INFO)
    run(tmp_path, RunProgress(log_every=3))
    lines = [record.getMessage() for record in caplog.records if record.name == "emanet.training.callbacks.progress"]
    number = r"\d+\.\d+"
    first, validation, second, final = lines
    pattern = rf"step 3/8  loss {number}  lr \d\.\de[-+]\d\d  mIoU -  {number} img/s  0:00:\d\d spent, 0:\d\d:\d\d left"
    assert re.fullmatch(pattern, first)
    assert re.fullmatch(rf"validation at step 4: mIoU {number}, pixel accuracy {number}", validation)
    assert second.startswith("step 6/8")
    assert re.search(r"mIoU (\S+)", second)[1] == re.search(r"mIoU ([^,]+)", validation)[1]
    assert final.startswith("validation at step 8")


def test_on_a_terminal_one_bar_counts_all_steps_and_ends_full(tmp_path: Path):
    console, screen = terminal()
    run(tmp_path, RunProgress(console=console))
    final = [line for line in screen.getvalue().splitlines() if "8/8" in line][-1]
    assert re.search(r"loss 0\.\d{4}  lr \d\.\de-\d\d  mIoU 1\.0000  \d+\.\d img/s", final)
    assert "validation" not in final


def test_a_bar_never_draws_on_a_device_that_is_not_the_first(tmp_path: Path, caplog):
    caplog.set_level(logging.INFO)
    console, screen = terminal()
    progress = RunProgress(console=console, log_every=1)
    progress.disable()
    run(tmp_path, progress)
    assert screen.getvalue() == ""
    assert "emanet.training.callbacks.progress" not in {record.name for record in caplog.records}


def test_the_loss_is_fetched_every_refresh_every_steps_and_not_in_between(tmp_path: Path, monkeypatch):
    fetched = []
    monkeypatch.setattr(RunProgress, "_refresh", lambda self, trainer: fetched.append(trainer.global_step))
    run(tmp_path, RunProgress(refresh_every=4, log_every=100))
    assert fetched == [1, 4, 8]


def test_it_works_for_a_validation_alone(tmp_path: Path, caplog):
    caplog.set_level(logging.INFO)
    console, screen = terminal()
    progress = RunProgress(console=console)
    trainer = make_trainer(tmp_path, [progress], enable_progress_bar=True)
    trainer.validate(make_task(), ColorData(val=10, batch_size=2), verbose=False)
    assert "5/5" in screen.getvalue()
    assert re.search(r"validation: mIoU \d\.\d{4}, pixel accuracy", caplog.text)


def test_a_resumed_run_goes_on_counting_and_estimates_from_its_own_pace(tmp_path: Path, caplog):
    trainer = run(tmp_path, RunProgress())
    trainer.save_checkpoint(tmp_path / "at8.ckpt")
    caplog.set_level(logging.INFO)
    again = make_trainer(tmp_path, [RunProgress(log_every=10)], enable_progress_bar=True, max_steps=12)
    again.fit(make_task(), ColorData(), ckpt_path=tmp_path / "at8.ckpt")
    assert any(record.getMessage().startswith("step 10/12") for record in caplog.records)


def test_log_lines_pass_above_the_bar(tmp_path: Path, monkeypatch):
    console, screen = terminal()
    plain = io.StringIO()
    monkeypatch.setattr(sys, "stdout", plain)
    handler = ScreenHandler()
    logger = logging.getLogger("emanet.training.callbacks.progress")
    logger.addHandler(handler)
    monkeypatch.setattr(logger, "level", logging.INFO)
    try:
        run(tmp_path, RunProgress(console=console))
        logger.info("afterwards")
    finally:
        logger.removeHandler(handler)
    assert "validation at step 4" in screen.getvalue()
    assert plain.getvalue() == "afterwards\n"
