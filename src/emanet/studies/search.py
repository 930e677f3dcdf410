"""A search over configuration values that stops bad trials early.

Hydra's Optuna sweeper reports final values alone, so it cannot. Here each trial is a run of ``src/train.py`` in a
process of its own; this process reads the scores of its validations as they appear in ``metrics.csv``, asks Optuna, and
ends a hopeless one with SIGTERM, on which it saves and exits like any other.
"""

import csv
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from emanet.common.errors import ConfigError, EMANetError
from emanet.common.files import read_json
from emanet.common.interrupts import InterruptedRunError
from emanet.common.processes import LAUNCHER_VARIABLES, forwarding, quote
from emanet.config.rules import check
from emanet.config.schema import PROJECT_ROOT
from emanet.studies.study import SUMMARY

try:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend
    from optuna.trial import TrialState
except ImportError as error:
    raise EMANetError("src/search.py needs Optuna: pip install -e '.[search]'") from error

log = logging.getLogger(__name__)

SCORE = "val/miou"
POLL_SECONDS = 0.5
JOURNAL, REASON = "optuna.log", "reason"
TRAIN = PROJECT_ROOT / "src" / "train.py"


class TrialError(EMANetError):
    """A trial whose training failed."""


def search(cfg: DictConfig) -> None:
    """Run trials until there are ``cfg.n_trials``, and print the best.

    Raises:
        ConfigError: for a space, or a training, that makes no sense; before anything starts.
    """
    check(cfg)
    space = read_space(OmegaConf.to_container(cfg.space, resolve=True))  # type: ignore[arg-type]
    overrides = list(cfg.train)
    training = check_training(space, overrides)
    folder = Path(cfg.output or f"{training.paths.runs_dir}/{training.name}/search").expanduser().resolve()
    folder.mkdir(parents=True, exist_ok=True)
    study = open_study(cfg, folder)
    limit = time.monotonic() + cfg.timeout if cfg.timeout else float("inf")
    while count_done(study) < cfg.n_trials and time.monotonic() < limit:
        trial = study.ask()
        try:
            score = run_trial(trial, space, overrides, folder / f"trial_{trial.number}")
        except optuna.TrialPruned as stopped:
            study.tell(trial, state=TrialState.PRUNED)
            log.info("trial %d stopped early: %s, %s", trial.number, stopped, trial.params)
        except TrialError as error:
            trial.set_user_attr(REASON, str(error))
            study.tell(trial, state=TrialState.FAIL)
            log.error("trial %d failed: %s", trial.number, error)
        else:
            study.tell(trial, score)
            log.info("trial %d: mIoU %.4f, %s", trial.number, score, trial.params)
    print_trials(study, overrides, folder)


def read_space(entries: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The search space by key; refuses one that says nothing, or nonsense.

    Raises:
        ConfigError: with the entry that was got and what it must be.
    """
    space: dict[str, dict[str, Any]] = {}
    for entry in entries:
        names = set(entry)
        listed = names == {"key", "choices"} and isinstance(entry["choices"], list) and len(entry["choices"]) > 0
        ranged = {"key", "low", "high"} <= names <= {"key", "low", "high", "log"} and entry["low"] < entry["high"]
        if not (listed or ranged):
            raise ConfigError(
                "an entry of space must be {key, choices: [...]} or {key, low: A, high: B} with A < B and log: true or "
                f"not, got {entry}"
            )
        if entry.get("log") and entry["low"] <= 0:
            raise ConfigError(f"a logarithmic range starts above 0, got low={entry['low']} for {entry['key']}")
        if entry["key"] in space:
            raise ConfigError(f"space names {entry['key']} twice")
        space[entry["key"]] = {name: value for name, value in entry.items() if name != "key"}
    if not space:
        raise ConfigError("space holds no key to search over")
    return space


def check_training(space: Mapping[str, Mapping[str, Any]], overrides: list[str]) -> DictConfig:
    """The training's configuration at both ends of the space; refuses one that makes no sense.

    Raises:
        ConfigError: for an unknown key, or a senseless value.
    """
    for end in (0, -1):
        values = {key: (choice.get("choices") or [choice["low"], choice["high"]])[end] for key, choice in space.items()}
        try:
            training = compose("train", overrides=[*overrides, *assignments(values)])
        except HydraException as error:
            raise ConfigError(f"a trial's training cannot be composed: {error}") from error
        check(training)
    if training.study is not None:
        raise ConfigError(f"a search draws the values itself: leave sweep={training.study} out")
    steps = training.trainer
    if steps.val_every_n_steps >= steps.max_steps:
        log.warning(
            "trials validate only at their end (trainer.val_every_n_steps=%d, trainer.max_steps=%d), so none can be "
            "stopped early",
            steps.val_every_n_steps,
            steps.max_steps,
        )
    return training


def assignments(values: Mapping[str, Any]) -> list[str]:
    """Values as overrides."""
    return [f"{key}={json.dumps(value)}" for key, value in values.items()]


def open_study(cfg: DictConfig, folder: Path) -> optuna.Study:
    """The search in this folder, new or gone on with; values that an interruption cut short are tried again."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    before = optuna.storages.JournalStorage(JournalFileBackend(str(folder / JOURNAL)))
    done = 0
    if optuna.study.get_all_study_names(before):
        done = len(optuna.load_study(study_name="search", storage=before).trials)
    study = optuna.create_study(
        study_name="search",
        storage=JournalStorage(JournalFileBackend(str(folder / JOURNAL))),
        direction="maximize",
        load_if_exists=True,
        # a resumed search must not draw the first one's values again
        sampler=optuna.samplers.TPESampler(seed=cfg.seed + done, n_startup_trials=cfg.startup_trials),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=cfg.startup_trials, n_warmup_steps=cfg.warmup_steps),
    )
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
        study.enqueue_trial(trial.params)
        log.info("trial %d was interrupted: its values are tried again", trial.number)
    return study


def count_done(study: optuna.Study) -> int:
    """Trials that ended with a score, early, or by failing; an interrupted one is tried again and does not count."""
    ended = (TrialState.COMPLETE, TrialState.PRUNED)
    return sum(trial.state in ended or REASON in trial.user_attrs for trial in study.trials)


def draw(trial: optuna.Trial, space: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """A value for each key."""
    values: dict[str, Any] = {}
    for key, choice in space.items():
        if "choices" in choice:
            values[key] = trial.suggest_categorical(key, choice["choices"])
            continue
        low, high, logarithmic = choice["low"], choice["high"], bool(choice.get("log"))
        whole = isinstance(low, int) and isinstance(high, int)
        suggest: Any = trial.suggest_int if whole else trial.suggest_float
        values[key] = suggest(key, low, high, log=logarithmic)
    return values


def run_trial(trial: optuna.Trial, space: Mapping[str, Mapping[str, Any]], overrides: list[str], folder: Path) -> float:
    """Train with drawn values; returns the final mIoU.

    Raises:
        optuna.TrialPruned: if it fell behind and was stopped.
        TrialError: if the training failed.
    """
    values = draw(trial, space)
    own = ["study=search", f"swept=[{','.join(space)}]", "resume=auto", f"hydra.run.dir={quote(str(folder))}"]
    command = [sys.executable, str(TRAIN), *overrides, *assignments(values), *own]
    environment = {key: value for key, value in os.environ.items() if key not in LAUNCHER_VARIABLES}
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "output.txt").open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
        with forwarding(process):
            watch(trial, process, folder)
            code = process.wait()
    if code in (128 + signal.SIGTERM, -signal.SIGTERM):  # not ours: that one has raised
        raise InterruptedRunError(f"told to end in trial {trial.number}; the same command goes on")
    summary = read_json(folder / SUMMARY) or {}
    if code or summary.get(SCORE) is None:
        reason = summary.get("error") or last_line(folder / "output.txt")
        raise TrialError(f"exit code {code}: {reason} ({folder / 'output.txt'})")
    return float(summary[SCORE])


def watch(trial: optuna.Trial, process: "subprocess.Popen[bytes]", folder: Path) -> None:
    """Report each validation of a running trial, and end it if it is hopeless.

    Raises:
        optuna.TrialPruned: once it has ended.
    """
    reported: set[int] = set()
    while process.poll() is None:
        time.sleep(POLL_SECONDS)
        for step, score in validations(folder / "metrics.csv"):
            if step in reported:
                continue
            reported.add(step)
            trial.report(score, step)
            if trial.should_prune() and process.poll() is None:
                process.terminate()
                process.wait()
                raise optuna.TrialPruned(f"mIoU {score:.4f} after step {step}")


def validations(path: Path) -> Iterator[tuple[int, float]]:
    """(step, mIoU) of the validations in a metrics file that may be growing."""
    if path.is_file():
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                if row.get(SCORE) and row.get("step"):
                    yield int(row["step"]) + 1, float(row[SCORE])  # Lightning counts them from 0


def last_line(path: Path) -> str:
    """What a process said last."""
    lines = [line.strip() for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "no output"


def print_trials(study: optuna.Study, overrides: list[str], folder: Path) -> None:
    """The trials from the best on, and the command of the best."""
    console = Console()
    done = [trial for trial in study.trials if trial.params]
    scored = sorted(done, key=lambda t: (t.state != TrialState.COMPLETE, -(t.value or 0.0), t.number))
    table = Table("trial", "mIoU", "state", *(done[0].params if done else ()), box=box.SIMPLE_HEAD, pad_edge=False)
    for trial in scored:
        score = "-" if trial.state != TrialState.COMPLETE or trial.value is None else f"{trial.value:.4f}"
        shown = [f"{value:.4g}" if isinstance(value, float) else str(value) for value in trial.params.values()]
        table.add_row(str(trial.number), score, trial.state.name.lower(), *map(escape, shown))
    console.print(table)
    if scored and scored[0].state == TrialState.COMPLETE:
        command = " ".join(["python src/train.py", *overrides, *assignments(scored[0].params)])
        console.print(f"best: {command}", soft_wrap=True, highlight=False, markup=False)
    console.print(f"search folder: {folder}", soft_wrap=True, highlight=False, markup=False)
