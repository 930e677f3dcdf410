"""The command line before Hydra reads it: what is quoted, and which stored commands are repeated."""

from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from emanet.cli.arguments import argument, expand_resume, quoted
from emanet.common.errors import ConfigError

EXAMPLES = Path(__file__).parents[3] / "examples" / "conf"


def test_the_last_value_of_an_argument_counts_and_quotes_are_dropped():
    argv = ["eval.py", "checkpoint=a", "split=val", "checkpoint='b c'"]
    assert argument("checkpoint", argv) == "b c"
    assert argument("resume", argv) is None


def read(item: str) -> Any:
    """The value of an argument as Hydra reads it."""
    return OverridesParser.create().parse_override(item).value()


TEXTS = ["/home/jörg/daten", "/数据", "K=64_seed=0/last.ckpt", "a#b", "x(1)", "x/[1]", "it's", "{a}", "C:\\x\\", "a b"]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("key", ["dataset.root", "init_from", "model.pretrained", "dataset.train_split", "study"])
def test_texts_reach_hydra_as_the_shell_gives_them(key: str, text: str):
    assert read(quoted(f"{key}={text}")) == text


@pytest.mark.parametrize("text", ["2024", "1e3", "true", "a,b", "glob(*)"])
def test_a_path_is_a_text_also_where_hydra_would_read_something_else(text: str):
    assert read(quoted(f"dataset.root={text}")) == text


def test_lists_and_sweeps_of_texts_are_quoted_one_by_one():
    assert quoted("runs=[/a/K=1,/b c(1)]") == "runs=['/a/K=1','/b c(1)']"
    assert quoted("init_from=/a/K=1,/b", swept=True) == "init_from='/a/K=1','/b'"


def test_what_hydra_reads_is_left_to_it():
    for item in ("dataset.root=${oc.env:HOME}/x", "init_from=null", "runs=[a b,c]", "model.K=64", "seed=1,2", "-m"):
        assert quoted(item) == item


# --- resume=RUN -------------------------------------------------------------------------------------------------------


def run_of(folder: Path, *overrides: str) -> Path:
    """A run folder that holds a command."""
    (folder / ".hydra").mkdir(parents=True)
    OmegaConf.save(OmegaConf.create([*overrides]), folder / ".hydra" / "overrides.yaml")
    return folder


OURS = ["experiment=quickstart_short", "head=ham", "model.K=8", "+model.R=4", "callbacks=[default,early_stopping]"]
OURS += ["dataset.root='/data/jörg (1)'", "loss=nll_dice", "~callbacks.summary", "sweep=K", "name=${dataset.name}"]
OURS += ["optimizer._target_=torch.optim.AdamW", "'+optimizer.groups.stem={name: \"backbone.*\", freeze: true}'"[1:-1]]


def test_the_command_of_a_run_comes_first_then_what_is_given_now(tmp_path: Path):
    folder = run_of(tmp_path / "run=1", *OURS, "resume=null")
    command = expand_resume(["train.py", f"resume={folder}/checkpoints/last.ckpt", "model.K=16"])
    place = [f"resume='{folder}/checkpoints/last.ckpt'", f"hydra.run.dir='{folder}'", "hydra.mode=RUN"]
    assert command == ["train.py", *(item for item in OURS if item != "model.K=8"), "model.K=16", *place]


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("+callbacks.x._target_=os.system", "names what is none of ours"),
        ("+callbacks.x={_target_: os.system, command: 'touch MARK'}", "names what is none of ours"),
        ("+dataset.extra_transforms=[{_target_: os.abort}]", "names what is none of ours"),
        ("optimizer._target_=torch.hub.load", "names what is none of ours"),
        ("model.head=antigravity.Head", "names a head that is none of ours"),
        ("+model={head: antigravity.Head}", "names a head that is none of ours"),
        ("dataset=../../tmp/hostile", "chooses a file that is not in conf/dataset/"),
        ("callbacks=[default,/tmp/hostile]", "chooses a file that is not in conf/callbacks/"),
        ("head@model=/tmp/hostile", "chooses a file that is not in conf/head/"),
        ("hydra.searchpath=[file:///tmp/hostile]", "is for Hydra itself"),
        ("+hydra.callbacks.x._target_=os.system", "is for Hydra itself"),
        ("hydra/launcher=hostile", "is for Hydra itself"),
        ("--config-dir=/tmp/hostile", "is not KEY=VALUE"),
        ("--experimental-rerun=/tmp/hostile.pickle", "is not KEY=VALUE"),
        ("tags=['${oc.env:SECRET}']", "would be resolved"),
        (r"name=$\{oc.env:SECRET\}", "would be resolved"),
        ("model.K=choice(1,2)", "is no plain value"),
        ("model.K=glob(*)", "is no plain value"),
    ],
)
def test_a_command_that_does_more_than_set_values_is_refused_by_name(tmp_path: Path, override: str, reason: str):
    folder = run_of(tmp_path, *OURS, override)
    with pytest.raises(ConfigError) as caught:
        expand_resume(["train.py", f"resume={folder}"])
    told, remedy = str(caught.value).splitlines()
    assert told == f"{folder} was started with {override!r}, which {reason}: nothing of it was done"
    assert remedy.startswith(f"if this run is yours: resume={folder} trust=true")
    assert override in expand_resume(["train.py", f"resume={folder}", "trust=true"])


def test_files_of_ones_own_are_taken_from_a_folder_that_is_named_again(tmp_path: Path):
    own = ["head=gated", "loss=smoothed", "callbacks=[default,gradient_norm]"]
    folder = run_of(tmp_path, *own)
    with pytest.raises(ConfigError, match="'head=gated', which chooses a file that is not in conf/head/"):
        expand_resume(["train.py", f"resume={folder}"])
    command = expand_resume(["train.py", f"resume={folder}", "--config-dir", str(EXAMPLES)])
    assert command[1:4] == own
