"""A search over configuration values with Optuna: each trial is a training in this process, and a bad one ends early.

The same command goes on with a search that was interrupted. Several processes, one for each device, may work on one:
they share the journal in its folder.
"""

import json
import logging
import os
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import lightning as L
import optuna
import pandas  # noqa: F401  (for Optuna's tables)
import yaml
from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import open_dict
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock, JournalStorage
from optuna.trial import TrialState

from emanet.common.errors import ConfigError, DatasetError, EMANetError
from emanet.common.files import locked, replacing
from emanet.common.interrupts import InterruptedRunError
from emanet.config.rules import settle
from emanet.studies.runs import flat

log = logging.getLogger(__name__)

Train = Callable[[Any, Path, Sequence[L.Callback]], float | None]  #: (configuration, run folder, callbacks) -> mIoU
SCORE = "val/miou"


class StoppedEarlyError(InterruptedRunError):
    """A trial that has fallen behind the others."""


class StopBehind(L.Callback):
    """Report each validation to Optuna, and end a trial that has fallen behind; the last validation is its result.

    optuna-integration's callback counts in epochs and keeps one score of each: here an epoch can have several.
    """

    def __init__(self, trial: optuna.Trial) -> None:
        self.trial = trial

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Go on, or not."""
        if trainer.sanity_checking:
            return
        score, step = float(trainer.callback_metrics[SCORE]), trainer.global_step
        if step not in self.trial.study.trials[self.trial.number].intermediate_values:  # as where a kill came after it
            self.trial.report(score, step)
        if not trainer.should_stop and self.trial.should_prune():
            raise StoppedEarlyError(f"mIoU {score:.4f} after step {step} is behind the others")


def search(cfg: Mapping[str, Any], train: Train) -> None:
    """Run trials until there are ``n_trials`` in all, and print the best.

    Raises:
        ConfigError: for a space, or a training, that makes no sense; before anything starts.
        EMANetError: where it cannot be recorded, as on a full disk.
    """
    overrides, space = list(cfg["train"]), dict(map(read_entry, cfg["space"]))
    if not 0 < len(space) == len(cfg["space"]):
        raise ConfigError(f"space must name keys, each once, got {[entry['key'] for entry in cfg['space']]}")
    for end in (0, -1):
        values = {key: (getattr(kind, "choices", None) or (kind.low, kind.high))[end] for key, kind in space.items()}
        training = compose_training([*overrides, *assignments(values)], Path())
    if training["study"] is not None:
        raise ConfigError(f"a search draws the values itself: leave sweep={training['study']} out")
    if training["trainer"]["devices"] not in (1, "1") or training["trainer"]["num_nodes"] != 1:
        raise ConfigError("a trial trains on one device: start the same command once for each, and they share the work")
    folder = Path(cfg["output"] or f"{training['paths']['runs_dir']}/{training['name']}/search").expanduser().resolve()
    swept = [key for key in space if key in flat(training)]  # a group such as head is no key of a run
    common = [*overrides, "study=search", f"swept=[{','.join(swept)}]", "resume=auto"]
    try:
        study, limit = open_study(cfg, folder), time.monotonic() + (cfg["timeout"] or float("inf"))
        for left in study.get_trials(states=(TrialState.RUNNING,)):  # cut short, or another process works on it
            run_trial(optuna.Trial(study, left.number), common, folder, train)  # of one study, numbers are identifiers
        while len(study.trials) < cfg["n_trials"] and time.monotonic() < limit:
            run_trial(study.ask(space), common, folder, train)
        conclude(study, overrides, folder)
    except OSError as error:
        raise EMANetError(f"the search stopped ({error}); the same command goes on with it") from error


def read_entry(entry: Mapping[str, Any]) -> tuple[str, Any]:
    """A key of the search space and what it is drawn from.

    Raises:
        ConfigError: for an entry that says nothing, or nonsense.
    """
    values = {name: value for name, value in entry.items() if name != "key"}
    whole = all(isinstance(values.get(name), int) for name in ("low", "high"))
    kind = "Categorical" if "choices" in values else "Int" if whole else "Float"
    try:
        return entry["key"], getattr(optuna.distributions, f"{kind}Distribution")(**values)
    except (KeyError, TypeError, ValueError) as error:
        form = "{key, choices: [...]} or {key, low: A, high: B}, with log: true or not"
        raise ConfigError(f"an entry of space must be {form}, got {dict(entry)} ({error})") from error


def compose_training(overrides: Sequence[str], run_dir: Path) -> dict[str, Any]:
    """The configuration of ``src/train.py`` under overrides, as in a run with its own folder.

    Raises:
        ConfigError: for an unknown key, or a senseless value.
    """
    try:
        training = compose("train", overrides=list(overrides), return_hydra_config=True)
    except HydraException as error:
        raise ConfigError(f"a trial's training cannot be composed: {error}") from error
    with open_dict(training):
        training.hydra.runtime.output_dir = str(run_dir)
        HydraConfig.instance().set_config(training)  # for ${hydra:...}; at the end Hydra puts back its own
        del training["hydra"]
    return settle(training)


def assignments(values: Mapping[str, Any]) -> list[str]:
    """Values as overrides."""
    return [f"{key}={json.dumps(value)}" for key, value in values.items()]


def open_study(cfg: Mapping[str, Any], folder: Path) -> optuna.Study:
    """The search in this folder, new or gone on with.

    Raises:
        ConfigError: if the folder holds a search of other trials.
    """
    folder.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    cut_torn_line(folder / "optuna.log")
    study = optuna.create_study(
        study_name="search",
        storage=JournalStorage(JournalFileBackend(str(folder / "optuna.log"))),
        direction="maximize",
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(n_startup_trials=cfg["startup_trials"], n_warmup_steps=cfg["warmup_steps"]),
    )
    seed = cfg["seed"] + len(study.trials)  # a search that goes on must not draw the first values again
    study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=cfg["startup_trials"])
    asked = {key: cfg[key] for key in ("space", "train")}
    if study.user_attrs.get("asked", asked) != asked:
        raise ConfigError(f"{folder} holds a search over other values or of another training: give output=FOLDER")
    study.set_user_attr("asked", asked)
    return study


def cut_torn_line(journal: Path) -> None:
    """Take off what a kill or a full disk left of the last entry: Optuna would write on behind it, and read no more."""
    if not journal.is_file():
        return
    lock = JournalFileSymlinkLock(str(journal))
    lock.acquire()
    try:
        content = journal.read_bytes()
        if not content.endswith(b"\n"):
            os.truncate(journal, content.rfind(b"\n") + 1)
    finally:
        lock.release()


def run_trial(trial: optuna.Trial, overrides: list[str], folder: Path, train: Train) -> None:
    """Train with drawn values, and tell Optuna what came of it; what interrupts it is raised.

    A trial that was interrupted goes on in its folder; one that another process works on is left to it.
    """
    run_dir = folder / f"trial_{trial.number}"
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(folder / f"{run_dir.name}.lock"))
        except BlockingIOError:
            log.info("trial %d runs in another process", trial.number)
            return
        if trial.study.trials[trial.number].state.is_finished():  # by another process, just now
            return
        state, score = TrialState.COMPLETE, None
        try:
            training = compose_training([*overrides, *assignments(trial.params)], run_dir)
            score = train(training, run_dir, [StopBehind(trial)])
            if score is None:
                raise EMANetError("it was not validated")
        except StoppedEarlyError as stopped:
            state = TrialState.PRUNED
            log.info("trial %d stopped early: %s", trial.number, stopped)
        except InterruptedRunError as error:
            raise InterruptedRunError(f"stopped in trial {trial.number}; the same command goes on with it") from error
        except (DatasetError, OSError):  # no fault of the values: every trial would fail
            raise
        except Exception as error:
            state = TrialState.FAIL
            trial.set_user_attr("reason", f"{type(error).__name__}: {error}")
            log.error("trial %d failed: %s", trial.number, error, exc_info=not isinstance(error, EMANetError))
        trial.study.tell(trial, score, state=state)
        log.info("trial %d: %s, mIoU %s, %s", trial.number, state.name.lower(), score, trial.params)


def conclude(study: optuna.Study, overrides: Sequence[str], folder: Path) -> None:
    """Print the trials from the best on, and the command of the best; ``trials.csv`` and ``best.yaml`` keep them."""
    trials = study.trials_dataframe(attrs=("number", "value", "state", "params", "user_attrs"))
    trials = trials.sort_values("value", ascending=False)
    trials.columns = [name.removeprefix("params_").removeprefix("user_attrs_") for name in trials.columns]
    with replacing(folder / "trials.csv") as temporary:
        trials.to_csv(temporary, index=False)
    print(trials.to_string(index=False, na_rep="-", float_format="{:.4g}".format))
    if "COMPLETE" in set(trials.state):
        values = study.best_params
        command = shlex.join(["python", "src/train.py", *overrides, *assignments(values)])
        best = {"trial": study.best_trial.number, SCORE: study.best_value, "values": values, "command": command}
        with replacing(folder / "best.yaml") as temporary:
            temporary.write_text(yaml.safe_dump(best, sort_keys=False, width=1000), encoding="utf-8")
        print(f"best: {command}")
    print(f"search folder: {folder}")
