"""The search, with a training that takes a tenth of a second: its score is known from its values."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

optuna = pytest.importorskip("optuna", reason="an optional dependency: pip install -e '.[search]'")

import emanet.studies.search as module  # noqa: E402
from emanet.cli.entry import prepare_search  # noqa: E402
from emanet.common.errors import ConfigError  # noqa: E402
from emanet.config.schema import CONF_DIR, register  # noqa: E402
from emanet.studies.search import draw, read_space, validations  # noqa: E402

SRC = Path(__file__).parents[3] / "src"

# Validates four times: mIoU = lr * validation / 4. Writes what a run writes, and ends as a run does on SIGTERM.
TRAINING = """
import json, signal, sys, time
from pathlib import Path
values = dict(item.partition("=")[::2] for item in sys.argv[1:])
folder = Path(values["hydra.run.dir"].strip("'"))
lr, wait = float(values["optim.lr"]), float(values.get("loss.ohem_threshold", 0.02))
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
if values.get("model.K") == "13":
    sys.exit("K was unlucky")
with (folder / "metrics.csv").open("w") as file:
    print("step,val/miou", file=file, flush=True)
    for n in range(1, 5):
        print(f"{10 * n - 1},{lr * n / 4}", file=file, flush=True)
        finished = len(list(folder.parent.glob("trial_*/summary.json")))
        time.sleep(60 if lr < 0.5 and finished >= 2 else wait)  # a hopeless one waits for its end
(folder / "summary.json").write_text(json.dumps({"val/miou": lr, "command": sys.argv[1:]}))
"""
# Runs the script with that training in place of src/train.py.
PATCHED = """
import sys; sys.path.insert(0, {src!r})
import emanet.studies.search as module
from pathlib import Path
module.TRAIN, module.POLL_SECONDS = Path({training!r}), 0.02
sys.argv[0] = {src!r} + "/search.py"
import runpy; runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture
def training(tmp_path, monkeypatch) -> Path:
    """That training in place of src/train.py."""
    path = tmp_path / "training.py"
    path.write_text(TRAINING)
    monkeypatch.setattr(module, "TRAIN", path)
    monkeypatch.setattr(module, "POLL_SECONDS", 0.02)
    return path


def arguments_of(folder: Path, *arguments: str) -> list[str]:
    """The command line of a search."""
    return ["search.py", f"output={folder / 'search'}", *arguments]


def searched(folder: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a search in this process; returns what it prints."""
    register()
    with initialize_config_dir(CONF_DIR, version_base="1.3"):
        module.search(compose("search", overrides=prepare_search(arguments_of(folder, *arguments))[1:]))
    return capsys.readouterr().out


def trials(folder: Path) -> list[optuna.trial.FrozenTrial]:
    """What Optuna has on record."""
    backend = optuna.storages.journal.JournalFileBackend(str(folder / "search" / "optuna.log"))
    return optuna.load_study(study_name="search", storage=optuna.storages.JournalStorage(backend)).trials


def test_the_best_trial_is_named_and_hopeless_ones_end_early(tmp_path, training, capsys):
    output = searched(
        tmp_path,
        capsys,
        "n_trials=5",
        "startup_trials=2",
        "seed=1",  # draws 0.9, 0.9, 0.9, 0.1, 0.9
        "space=[{key: optim.lr, choices: [0.1, 0.9]}]",
        "--",
        "experiment=quickstart_short",
        "trainer.val_every_n_steps=10",
    )
    found = trials(tmp_path)
    assert [trial.params["optim.lr"] for trial in found] == [0.9, 0.9, 0.9, 0.1, 0.9]
    assert [trial.state.name for trial in found] == ["COMPLETE", "COMPLETE", "COMPLETE", "PRUNED", "COMPLETE"]
    assert found[0].intermediate_values == pytest.approx({10: 0.225, 20: 0.45, 30: 0.675, 40: 0.9})
    assert found[0].value == 0.9
    assert found[3].intermediate_values == {10: 0.025}
    assert not (tmp_path / "search" / "trial_3" / "summary.json").exists()
    assert "best: python src/train.py experiment=quickstart_short trainer.val_every_n_steps=10 optim.lr=0.9" in output
    given = json.loads((tmp_path / "search" / "trial_0" / "summary.json").read_text())["command"]
    assert given[:2] == ["experiment=quickstart_short", "trainer.val_every_n_steps=10"]
    assert "study=search" in given


def test_a_failed_trial_does_not_end_the_search(tmp_path, training, capsys, caplog):
    searched(
        tmp_path,
        capsys,
        "n_trials=4",
        "space=[{key: model.K, choices: [13, 14]}, {key: optim.lr, choices: [0.9]}]",
        "seed=1",
    )
    states = {(trial.params["model.K"], trial.state.name) for trial in trials(tmp_path)}
    assert states == {(13, "FAIL"), (14, "COMPLETE")}
    assert "K was unlucky" in caplog.text
    assert len(trials(tmp_path)) == 4


def test_an_interrupted_search_tries_the_values_that_were_cut_short_and_stops_at_its_number(
    tmp_path, training, capsys, caplog
):
    caplog.set_level("INFO")
    arguments = ["n_trials=2", "space=[{key: optim.lr, low: 0.6, high: 0.9}]", "--", "loss.ohem_threshold=1.0"]
    patched = PATCHED.format(src=str(SRC), training=str(training))
    process = subprocess.Popen([sys.executable, "-c", patched, *arguments_of(tmp_path, *arguments)[1:]], cwd=tmp_path)
    metrics = tmp_path / "search" / "trial_0" / "metrics.csv"
    deadline = time.monotonic() + 120
    while not metrics.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(timeout=60) == 143
    [cut] = trials(tmp_path)
    assert cut.state.name == "RUNNING"
    arguments[-1] = "loss.ohem_threshold=0.01"
    searched(tmp_path, capsys, *arguments)
    first, second, third = trials(tmp_path)
    assert (first.state.name, second.state.name, third.state.name) == ("FAIL", "COMPLETE", "COMPLETE")
    assert second.params == cut.params
    assert "its values are tried again" in caplog.text
    searched(tmp_path, capsys, *arguments)
    assert len(trials(tmp_path)) == 3, "enough trials: nothing more is run"


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ([], "space holds no key"),
        ([{"key": "model.K", "low": 8}], "got {'key': 'model.K', 'low': 8}"),
        ([{"key": "model.K", "low": 8, "high": 4}], "A < B"),
        ([{"key": "model.K", "choices": []}], "got {'key': 'model.K', 'choices': \\[\\]}"),
        ([{"choices": [1]}], "got {'choices': \\[1\\]}"),
        ([{"key": "optim.lr", "low": 0, "high": 1.0, "log": True}], "starts above 0, got low=0 for optim.lr"),
        ([{"key": "seed", "choices": [1]}] * 2, "names seed twice"),
    ],
)
def test_a_space_that_makes_no_sense_is_refused(space, message):
    with pytest.raises(ConfigError, match=message):
        read_space(space)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["space=[{key: model.Q, choices: [1]}]"], "model.Q"),
        (["space=[{key: model.momentum, low: 0.5, high: 1.5}]"], "got momentum=1.5"),
        (["--", "sweep=K"], "leave sweep=K out"),
        (["n_trials=0"], "n_trials must be at least 1, got 0"),
    ],
)
def test_a_search_that_could_not_train_is_refused_before_its_first_trial(tmp_path, capsys, arguments, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        searched(tmp_path, capsys, *arguments)
    assert not (tmp_path / "search").exists()


def test_values_are_drawn_from_the_space():
    space = {"a": {"choices": ["x"]}, "b": {"low": 2, "high": 3}, "c": {"low": 0.5, "high": 2.0, "log": True}}
    study = optuna.create_study()
    for _ in range(20):
        values = draw(study.ask(), space)
        assert (values["a"], values["b"] in (2, 3), 0.5 <= values["c"] <= 2.0) == ("x", True, True)
        assert (type(values["b"]), type(values["c"])) == (int, float)


def test_what_stands_after_the_dashes_goes_to_the_training():
    assert prepare_search(["search.py", "n_trials=3", "--", "a=1", "b='x y'"]) == [
        "search.py",
        "n_trials=3",
        r"train=['a=1','b=\'x y\'']",
    ]
    assert prepare_search(["search.py", "seed=1"]) == ["search.py", "seed=1"]


def test_a_metrics_file_that_is_not_there_yet_has_no_validations(tmp_path):
    assert list(validations(tmp_path / "metrics.csv")) == []
