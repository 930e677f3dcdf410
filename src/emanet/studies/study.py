"""A study: the runs of one file of conf/sweep/, which can be stopped and started again without repeating any."""

import re
import statistics
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from emanet.common.errors import ConfigError
from emanet.common.files import locked, read_json, write_json
from emanet.common.processes import own_rank

#: parts of a configuration that decide the result of a run; the others say where things lie and who is told
DECISIVE = ("seed", "init_from", "dataset", "model", "optim", "loss", "trainer", "T_evals")
#: but these only say how the work is done
INCIDENTAL = (
    "dataset.root",
    "dataset.num_workers",
    "dataset.persistent_workers",
    "dataset.pin_memory",
    "dataset.cache",
)

SUMMARY, CONFIG, EVALUATIONS, FAILURE = "summary.json", "config.yaml", "evaluations.json", "failure.json"


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


def finished(run_dir: Path, cfg: DictConfig) -> dict[str, Any] | None:
    """Summary of the run in this folder if it has finished, its evaluations included; ``None`` if there is work left.

    Raises:
        ConfigError: if the folder holds a run with other settings, finished or not.
    """
    (run_dir / FAILURE).unlink(missing_ok=True)
    if not (run_dir / CONFIG).is_file():
        return None
    differences = list(differing(OmegaConf.load(run_dir / CONFIG), cfg))
    if differences:
        told = "".join(f"\n  {key}: {before!r} there, {now!r} now" for key, before, now in differences)
        raise ConfigError(
            f"{run_dir} holds a run of this study with other settings:{told}\n"
            "Give the study another place (name=NEW_NAME or hydra.sweep.dir=FOLDER), or delete that folder"
        )
    summary = read_json(run_dir / SUMMARY) or {}
    evaluated = (read_json(run_dir / EVALUATIONS) or {}).get("T_eval", {})
    complete = summary.get("status") == "finished" and {str(T) for T in cfg.T_evals} <= evaluated.keys()
    return summary if complete else None


def differing(before: Any, now: DictConfig) -> Iterable[tuple[str, Any, Any]]:
    """Decisive keys whose values are not the same in two configurations: (key, before, now)."""
    flat_before, flat_now = (flat(cfg) for cfg in (before, now))
    for key in sorted(flat_before.keys() | flat_now.keys()):
        if key.partition(".")[0] in DECISIVE and key not in INCIDENTAL:
            old, new = flat_before.get(key), flat_now.get(key)
            if old != new:
                yield key, old, new


def flat(cfg: Any) -> dict[str, Any]:
    """A configuration with its keys joined by dots; lists are values."""
    container = OmegaConf.to_container(cfg, resolve=True) if OmegaConf.is_config(cfg) else cfg
    values: dict[str, Any] = {}
    pending: list[tuple[str, Any]] = [("", container)]
    while pending:
        prefix, node = pending.pop()
        if isinstance(node, Mapping):
            pending += [(f"{prefix}.{key}" if prefix else str(key), value) for key, value in node.items()]
        else:
            values[prefix] = node
    return values


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
        runs = read_study(folder)
        print_study(runs, folder)
        if any(run.reason for run in runs):
            sys.exit(1)


@dataclass(frozen=True)
class StudyRun:
    """One run of a study: its folder's name, its setting without the seed, its mIoU, or why it has none."""

    name: str
    setting: str
    miou: float | None
    reason: str | None


def read_study(folder: Path) -> list[StudyRun]:
    """The runs below a sweep's folder, in the order of their names."""
    found = {path.parent for name in (SUMMARY, FAILURE) for path in folder.glob(f"**/{name}")}
    return [
        read_run(path, str(path.relative_to(folder))) for path in sorted(found, key=lambda path: natural(str(path)))
    ]


def read_run(folder: Path, name: str) -> StudyRun:
    """One of them."""
    values = flat(OmegaConf.load(folder / CONFIG)) if (folder / CONFIG).is_file() else {}
    swept = [key for key in values.get("swept", []) if key != "seed"]
    setting = " ".join(f"{key.rpartition('.')[2]}={values.get(key)}" for key in swept) or name
    summary = read_json(folder / SUMMARY) or {}
    failure = read_json(folder / FAILURE)
    miou = summary.get("val/miou")
    reason = None
    if failure is not None:
        reason = str(failure.get("error"))
    elif summary.get("status") != "finished":
        reason = f"{summary.get('status')}: {summary.get('error') or 'it did not come to its end'}"
    elif miou is None:
        reason = "it has no score"
    return StudyRun(name, setting, miou, reason)


def natural(text: str) -> list[tuple[int, str]]:
    """Sort key that takes digits as numbers."""
    parts = re.findall(r"\d+|\D+", text)
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def print_study(runs: Sequence[StudyRun], folder: Path) -> None:
    """A row for each setting: mean and standard deviation over seeds; then the runs without a result."""
    console = Console()
    cells: dict[str, list[float]] = {}
    for run in runs:
        if run.reason is None and run.miou is not None:
            cells.setdefault(run.setting, []).append(run.miou)
    table = Table("setting", "mIoU", "sd", "runs", box=box.SIMPLE_HEAD, pad_edge=False)
    for setting, values in cells.items():
        spread = f"{statistics.stdev(values):.4f}" if len(values) > 1 else "-"
        table.add_row(escape(setting), f"{statistics.fmean(values):.4f}", spread, str(len(values)))
    console.print(table)
    for run in runs:
        if run.reason is not None:
            console.print(f"no result: {escape(run.name)}: {escape(run.reason)}", soft_wrap=True, highlight=False)
    console.print(f"study folder: {folder}", soft_wrap=True, highlight=False, markup=False)
