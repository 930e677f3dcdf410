"""The search: with a training whose score is known from its values, and once with the real one."""

import errno
import json
import re
import shlex
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig

optuna = pytest.importorskip("optuna", reason="an optional dependency: pip install 'emanet[search]'")

from emanet.cli.arguments import prepare_search  # noqa: E402
from emanet.common.errors import ConfigError, EMANetError  # noqa: E402
from emanet.common.interrupts import InterruptedRunError  # noqa: E402
from emanet.config.rules import settle  # noqa: E402
from emanet.config.schema import CONF_DIR, register  # noqa: E402
from emanet.studies.search import search  # noqa: E402
from fake_data import write_voc  # noqa: E402
from small_run import ColorData, make_task, make_trainer  # noqa: E402
from zygote import TINY  # noqa: E402

LR = "space=[{key: optimizer.lr, choices: [0.1, 0.9]}]"


class Training:
    """In place of a training: eight real steps of a tiny network, and two validations whose mIoU is lr / 2, then lr."""

    def __init__(self) -> None:
        self.configs: list[Any] = []
        self.fail: Callable[[Any], None] = lambda cfg: None

    def __call__(self, cfg: Any, run_dir: Path, callbacks: Sequence[L.Callback]) -> float:
        self.configs.append(cfg)
        task = make_task()
        task.on_validation_epoch_end = lambda: task.log("val/miou", cfg["optimizer"]["lr"] * task.global_step / 8)
        self.fail(cfg)
        trainer = make_trainer(run_dir, list(callbacks))
        trainer.fit(task, ColorData())
        return float(trainer.callback_metrics["val/miou"])


@pytest.fixture
def training() -> Iterator[Training]:
    before = HydraConfig.instance().cfg
    yield Training()
    HydraConfig.instance().cfg = before


def searched(folder: Path, train: Any, *arguments: str) -> list[optuna.trial.FrozenTrial]:
    """Search as the script does; returns what Optuna has on record."""
    register()
    with initialize_config_dir(CONF_DIR, version_base="1.3"):
        work(folder, train, *arguments)
    return trials(folder)


def work(folder: Path, train: Any, *arguments: str) -> None:
    overrides = prepare_search(["search.py", f"output={folder / 'search'}", *arguments])[1:]
    search(settle(compose("search", overrides=overrides)), train)


def trials(folder: Path) -> list[optuna.trial.FrozenTrial]:
    backend = optuna.storages.journal.JournalFileBackend(str(folder / "search" / "optuna.log"))
    return optuna.load_study(study_name="search", storage=optuna.storages.JournalStorage(backend)).trials


def test_hopeless_trials_end_early_and_the_best_is_named(tmp_path, training, capsys):
    given = ["experiment=quickstart_short", "trainer.val_every_n_steps=10"]
    found = searched(tmp_path, training, "n_trials=5", "startup_trials=2", "seed=1", LR, "--", *given)
    assert [trial.params["optimizer.lr"] for trial in found] == [0.9, 0.9, 0.9, 0.1, 0.9]
    assert [trial.state.name for trial in found] == ["COMPLETE", "COMPLETE", "COMPLETE", "PRUNED", "COMPLETE"]
    assert found[0].intermediate_values == pytest.approx({4: 0.45, 8: 0.9})
    assert found[3].intermediate_values == pytest.approx({4: 0.05}), "it ended at its first validation"
    command = "python src/train.py experiment=quickstart_short trainer.val_every_n_steps=10 optimizer.lr=0.9"
    assert f"best: {command}" in capsys.readouterr().out
    best = yaml.safe_load((tmp_path / "search" / "best.yaml").read_text())
    assert best == {"trial": 0, "val/miou": pytest.approx(0.9), "values": {"optimizer.lr": 0.9}, "command": command}
    assert len((tmp_path / "search" / "trials.csv").read_text().splitlines()) == 6
    cfg = training.configs[2]
    assert (cfg["study"], cfg["swept"], cfg["resume"]) == ("search", ["optimizer.lr"], "auto")
    assert cfg["callbacks"]["best"]["dirpath"] == str(tmp_path / "search" / "trial_2" / "checkpoints")
    assert cfg["name"] == "quickstart_short"


def test_a_trial_that_fails_or_is_refused_is_recorded_and_does_not_end_the_search(tmp_path, training, caplog):
    def unlucky(cfg: Any) -> None:
        if cfg["model"]["K"] == 13:
            raise RuntimeError("out of memory")

    training.fail = unlucky
    space = "space=[{key: model.K, choices: [13, 14]}, {key: model.momentum, choices: [0.9, 1.5, 0.5]}]"
    found = searched(tmp_path, training, "n_trials=8", space, "seed=1")
    reasons = {trial.user_attrs.get("reason", "").partition(":")[0] for trial in found}
    assert reasons == {"", "RuntimeError", "ConfigError"}
    assert {trial.state.name for trial in found if trial.user_attrs.get("reason")} == {"FAIL"}
    assert len(found) == 8
    assert "out of memory" in caplog.text


def test_an_interrupted_search_tries_what_was_cut_short_in_its_folder_and_stops_at_its_number(tmp_path, training):
    def told_to_end(cfg: Any) -> None:
        if len(training.configs) == 2:
            raise InterruptedRunError("saved")

    training.fail = told_to_end
    arguments = ["n_trials=3", "space=[{key: optimizer.lr, low: 0.6, high: 0.9}]"]
    with pytest.raises(InterruptedRunError, match="stopped in trial 1; the same command goes on"):
        searched(tmp_path, training, *arguments)
    first, cut = trials(tmp_path)
    assert (first.state.name, cut.state.name) == ("COMPLETE", "RUNNING")
    found = searched(tmp_path, training, *arguments)
    assert [trial.state.name for trial in found] == ["COMPLETE"] * 3
    assert found[1].params == cut.params
    assert len({trial.params["optimizer.lr"] for trial in found}) == 3, "nothing else is drawn twice"
    places = [Path(cfg["callbacks"]["best"]["dirpath"]).parent.name for cfg in training.configs]
    assert places == ["trial_0", "trial_1", "trial_1", "trial_2"]
    assert len(searched(tmp_path, training, *arguments)) == 3, "enough trials: nothing more is run"
    with pytest.raises(ConfigError, match="holds a search over other values"):
        searched(tmp_path, training, *arguments, "--", "model.K=3")


def test_a_trial_that_another_process_works_on_is_left_to_it(tmp_path, training):
    def second_worker(cfg: Any) -> None:
        training.fail = lambda cfg: None
        work(tmp_path, training, "n_trials=3", LR)

    training.fail = second_worker
    assert [trial.state.name for trial in searched(tmp_path, training, "n_trials=3", LR)] == ["COMPLETE"] * 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["space=[]"], "space must name keys, each once, got []"),
        (["space=[{key: seed, choices: [1]}, {key: seed, choices: [1]}]"], "each once, got ['seed', 'seed']"),
        (["space=[{key: model.K, low: 8}]"], "got {'key': 'model.K', 'low': 8}"),
        (["space=[{key: model.K, low: 8, high: 4}]"], "got {'key': 'model.K', 'low': 8, 'high': 4}"),
        (["space=[{key: model.K, choices: []}]"], "got {'key': 'model.K', 'choices': []}"),
        (["space=[{choices: [1]}]"], "got {'choices': [1]}"),
        (["space=[{key: optimizer.lr, low: 0, high: 1.0, log: true}]"], "'low': 0, 'high': 1.0, 'log': True} ("),
        (["space=[{key: model.Q, choices: [1]}]"], "model.Q"),
        (["space=[{key: model.momentum, low: 0.5, high: 1.5}]"], "got momentum=1.5"),
        (["--", "sweep=K"], "leave sweep=K out"),
        (["--", "trainer.devices=2"], "a trial trains on one device"),
    ],
)
def test_a_search_that_could_not_train_is_refused_before_its_first_trial(tmp_path, training, arguments, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        searched(tmp_path, training, *arguments)
    assert not (tmp_path / "search").exists()


def test_what_stands_after_the_dashes_goes_to_the_training():
    given = prepare_search(["search.py", "n_trials=3", "--", "a=1", "b='x y'"])
    assert given == ["search.py", "n_trials=3", r"train=['a=1','b=\'x y\'']"]
    assert prepare_search(["search.py", "seed=1"]) == ["search.py", "seed=1"]


KILL = """
import os, signal, optuna
report = optuna.trial.Trial.report
def dying(self, score, step):
    if step == 2: os.kill(os.getpid(), signal.SIGKILL)
    report(self, score, step)
optuna.trial.Trial.report = dying
"""


def test_a_search_that_is_killed_goes_on_and_its_trial_is_the_run_that_its_command_gives(zygote, tmp_path):
    write_voc(tmp_path / "data", n_train=4, n_val=2)
    given = [*TINY, f"dataset.root={tmp_path / 'data'}", "trainer.max_steps=3", "trainer.val_every_n_steps=1"]
    space = "space=[{key: loss, choices: [nll, ohem]}, {key: optimizer.lr, low: 0.01, high: 0.1}]"
    arguments = ["n_trials=1", space, f"output={tmp_path / 's'}", "--", *given]
    zygote.run(*arguments, cwd=tmp_path, script="search.py", patch=KILL, code=-signal.SIGKILL)
    assert not (tmp_path / "s" / "best.yaml").exists()
    output = zygote.run(*arguments, cwd=tmp_path, script="search.py")
    assert "going on from" in output
    best = yaml.safe_load((tmp_path / "s" / "best.yaml").read_text())
    command = shlex.split(next(line for line in output.splitlines() if line.startswith("best: ")))[3:]
    zygote.run(*command, f"hydra.run.dir={tmp_path / 'again'}", cwd=tmp_path)
    again, trial = (
        json.loads((folder / "summary.json").read_text()) for folder in (tmp_path / "again", tmp_path / "s" / "trial_0")
    )
    assert again["val/miou"] == trial["val/miou"] == best["val/miou"]
    assert (trial["status"], trial["steps"]) == ("finished", 3)


def test_an_entry_that_a_kill_cut_short_does_not_end_a_search(tmp_path, training):
    assert len(searched(tmp_path, training, "n_trials=1", LR)) == 1
    with (tmp_path / "search" / "optuna.log").open("ab") as file:
        file.write(b'{"op_code":5,"worker_id":"')
    assert len(searched(tmp_path, training, "n_trials=3", LR)) == 3


def test_a_search_that_cannot_be_written_says_so_and_goes_on_later(tmp_path, training):
    def full(cfg: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    training.fail = full
    with pytest.raises(EMANetError, match=r"the search stopped \(.*No space left.*\); the same command goes on"):
        searched(tmp_path, training, "n_trials=1", LR)
    training.fail = lambda cfg: None
    assert [trial.state.name for trial in searched(tmp_path, training, "n_trials=1", LR)] == ["COMPLETE"]
