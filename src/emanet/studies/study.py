"""A study: the runs of one file of conf/sweep/, which can be stopped and started again without repeating any."""

import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from emanet.common.errors import ConfigError
from emanet.common.files import locked, write_json
from emanet.common.processes import own_rank
from emanet.studies.runs import (
    CONFIG,
    FAILURE,
    Run,
    comparable,
    ordered,
    read_config,
    read_place,
    read_run,
    setting_text,
)


@contextmanager
def claimed(run_dir: Path) -> Iterator[bool]:
    """Whether this process may work in the folder: not while another process of the same study does.

    So the command of a study, started twice, shares the work.
    """
    with ExitStack() as stack:
        try:
            if own_rank() == 0:  # the others belong to a process that has asked
                stack.enter_context(locked(run_dir / ".lock"))
        except BlockingIOError:
            yield False
        else:
            yield True


def finished(run_dir: Path, cfg: Mapping[str, Any]) -> dict[str, Any] | None:
    """Summary of the run in this folder if it has finished, its evaluations included; ``None`` if there is work left.

    Raises:
        ConfigError: if the folder holds a run with other settings, finished or not.
    """
    (run_dir / FAILURE).unlink(missing_ok=True)
    before, now = comparable(read_config(run_dir, [CONFIG])), comparable(cfg)
    if not before:
        return None
    if differing := [key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]:
        told = "".join(f"\n  {key}: {before.get(key)!r} there, {now.get(key)!r} now" for key in differing)
        raise ConfigError(
            f"{run_dir} holds a run of this study with other settings:{told}\n"
            "Give the study another place (name=NEW_NAME or hydra.sweep.dir=FOLDER), or delete that folder"
        )
    run = read_run(run_dir, run_dir.name)
    complete = run.summary.get("status") == "finished" and {str(T) for T in cfg["T_evals"]} <= run.evaluated.keys()
    return run.summary if complete else None


def record_failure(run_dir: Path, error: BaseException) -> None:
    """Leave in the folder of a run that its job failed, and why; the next attempt removes it."""
    write_json(run_dir / FAILURE, {"error": f"{type(error).__name__}: {error}"})


class StudySummary(Callback):
    """At the end of a study print its runs, averaged over seeds, and name those that failed: exit code 1 if any did."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Hydra calls it in the process that was started."""
        if OmegaConf.select(config, "study") is None:
            return
        folder = Path(config.hydra.sweep.dir)
        runs = ordered(read_place(folder).values())
        print_study(runs, folder)
        if any(run.reason for run in runs):
            sys.exit(1)


def print_study(runs: Sequence[Run], folder: Path) -> None:
    """A row for each setting: mean and standard deviation over seeds; then the runs without a result."""
    console = Console()
    cells: dict[str, list[float]] = {}
    for run in runs:
        if run.reason is None and run.miou is not None:
            setting = setting_text(run.keys, [run.config.get(key) for key in run.keys])
            cells.setdefault(setting or run.name, []).append(run.miou)
    table = Table("setting", "mIoU", "sd", "runs", box=box.SIMPLE_HEAD, pad_edge=False)
    for setting, values in cells.items():
        spread = f"{statistics.stdev(values):.4f}" if len(values) > 1 else "-"
        table.add_row(escape(setting), f"{statistics.fmean(values):.4f}", spread, str(len(values)))
    console.print(table)
    for run in runs:
        if run.reason is not None:
            console.print(f"no result: {escape(run.name)}: {escape(run.reason)}", soft_wrap=True, highlight=False)
    console.print(f"study folder: {folder}", soft_wrap=True, highlight=False, markup=False)
