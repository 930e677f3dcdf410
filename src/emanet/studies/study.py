"""A study: the runs of one file of conf/sweep/, which can be stopped and started again without repeating any."""

import re
import statistics
import sys
from collections.abc import Iterator, Mapping
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
from emanet.common.files import locked, read_json, write_json
from emanet.common.processes import own_rank

#: parts of a configuration that decide the result of a run; the others say where things lie and who is told
DECISIVE = ("seed", "init_from", "dataset", "model", "optim", "optimizer", "scheduler", "loss", "trainer", "T_evals")
#: but these only say how the work is done
INCIDENTAL = (
    "dataset.root",
    "dataset.num_workers",
    "dataset.persistent_workers",
    "dataset.pin_memory",
    "dataset.normalize_on",
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


def finished(run_dir: Path, cfg: Mapping[str, Any]) -> dict[str, Any] | None:
    """Summary of the run in this folder if it has finished, its evaluations included; ``None`` if there is work left.

    Raises:
        ConfigError: if the folder holds a run with other settings, finished or not.
    """
    (run_dir / FAILURE).unlink(missing_ok=True)
    if not (run_dir / CONFIG).is_file():
        return None
    before, now = flat(OmegaConf.load(run_dir / CONFIG)), flat(cfg)
    decisive = (key for key in sorted(before.keys() | now.keys()) if key.partition(".")[0] in DECISIVE)
    differing = [key for key in decisive if key not in INCIDENTAL and before.get(key) != now.get(key)]
    if differing:
        told = "".join(f"\n  {key}: {before.get(key)!r} there, {now.get(key)!r} now" for key in differing)
        raise ConfigError(
            f"{run_dir} holds a run of this study with other settings:{told}\n"
            "Give the study another place (name=NEW_NAME or hydra.sweep.dir=FOLDER), or delete that folder"
        )
    summary = read_json(run_dir / SUMMARY) or {}
    evaluated = (read_json(run_dir / EVALUATIONS) or {}).get("T_eval", {})
    complete = summary.get("status") == "finished" and {str(T) for T in cfg["T_evals"]} <= evaluated.keys()
    return summary if complete else None


def flat(cfg: Any) -> dict[str, Any]:
    """A configuration with its keys joined by dots; lists are values."""
    container: Any = OmegaConf.to_container(cfg, resolve=True) if OmegaConf.is_config(cfg) else cfg
    values: dict[str, Any] = {}
    for key, node in container.items():
        if isinstance(node, Mapping):
            values |= {f"{key}.{below}": value for below, value in flat(node).items()}
        else:
            values[str(key)] = node
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
        if print_study(Path(config.hydra.sweep.dir)):
            sys.exit(1)


def print_study(folder: Path) -> int:
    """A row for each setting: mean and standard deviation over seeds; then the runs without a result, and how many."""
    console = Console()
    cells: dict[str, list[float]] = {}
    table = Table("setting", "mIoU", "sd", "runs", box=box.SIMPLE_HEAD, pad_edge=False)
    failed = []
    found = {path.parent for name in (SUMMARY, FAILURE) for path in folder.glob(f"**/{name}")}
    for run in sorted(found, key=lambda path: natural(str(path))):
        setting, miou, reason = read_run(run)
        if reason is None and miou is not None:
            cells.setdefault(setting, []).append(miou)
        else:
            failed.append(f"no result: {run.relative_to(folder)}: {reason or 'it has no score'}")
    for setting, values in cells.items():
        spread = f"{statistics.stdev(values):.4f}" if len(values) > 1 else "-"
        table.add_row(escape(setting), f"{statistics.fmean(values):.4f}", spread, str(len(values)))
    console.print(table)
    for line in [*failed, f"study folder: {folder}"]:
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    return len(failed)


def read_run(folder: Path) -> tuple[str, float | None, str | None]:
    """Setting of a run without the seed, its mIoU, and why it has none."""
    values = flat(OmegaConf.load(folder / CONFIG)) if (folder / CONFIG).is_file() else {}
    swept = [key for key in values.get("swept", []) if key != "seed"]
    setting = " ".join(f"{key.rpartition('.')[2]}={values.get(key)}" for key in swept) or folder.name
    summary, failure = read_json(folder / SUMMARY) or {}, read_json(folder / FAILURE)
    reason = None
    if failure is not None:
        reason = str(failure.get("error"))
    elif summary.get("status") != "finished":
        reason = f"{summary.get('status')}: {summary.get('error') or 'it did not come to its end'}"
    return setting, summary.get("val/miou"), reason


def natural(text: str) -> list[tuple[int, str]]:
    """Sort key that takes digits as numbers."""
    parts = re.findall(r"\d+|\D+", text)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]
