"""A rival head through the scripts: trained, evaluated to the digit, predicted with; others' options refused."""

import json
import re
from pathlib import Path

import pytest
import torch

from fake_data import write_voc
from zygote import TINY, Zygote

COMMON = [item for item in TINY if not item.startswith("model.K=")]  # which a non-local block does not know


@pytest.fixture(scope="module")
def run(zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two steps with a non-local block, in an experiment whose own file for the paper's head sets K."""
    base = tmp_path_factory.mktemp("heads")
    write_voc(base / "data", n_train=4)
    zygote.run(
        *["experiment=quickstart", "head=nonlocal", "dataset=voc", f"dataset.root={base / 'data'}"],
        *COMMON,
        *["trainer.max_steps=2", "trainer.val_every_n_steps=2", f"hydra.run.dir={base / 'run'}"],
        cwd=base,
    )
    return base


def test_training_with_another_head_stores_it_and_evaluation_repeats_its_score(zygote: Zygote, run: Path):
    path = run / "run" / "checkpoints" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    assert content["hyper_parameters"]["model"]["head"] == "nonlocal"
    assert "K" not in content["hyper_parameters"]["model"]
    assert any(key.startswith("net.head.theta.") for key in content["state_dict"])
    output = zygote.run(f"checkpoint={path}", f"hydra.run.dir={run / 'eval'}", cwd=run, script="eval.py")
    printed = re.search(r"val/miou ([\d.e-]+) \(stored: ([\d.e-]+)\)", output)
    assert printed, output
    assert float(printed[1]) == float(printed[2]) == content["validation"]["val/miou"]


def test_a_picture_is_predicted_and_maps_of_bases_are_refused(zygote: Zygote, run: Path):
    given = [f"checkpoint={run / 'run' / 'checkpoints' / 'last.ckpt'}", f"output={run / 'out'}", "device=cpu"]
    picture = next((run / "data").rglob("*.jpg"))
    zygote.run(*given, f"input={picture}", cwd=run, script="predict.py")
    assert (run / "out" / "masks" / f"{picture.stem}.png").is_file()
    output = zygote.run(*given, f"input={picture}", "save=[attention]", cwd=run, script="predict.py", code=1)
    assert "bases" in output
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("script", "asked", "words"),
    [
        ("train.py", ["head=fcn", "model.K=8"], ["model.K"]),
        ("train.py", ["head=ham", "+model.norm=layer"], ["norm", "head=ham"]),
        ("train.py", ["head=fnc"], ["fnc", "ham"]),
        ("eval.py", ["model.T_eval=5"], ["T_eval"]),
        ("complexity.py", ["head=psp", "model.momentum=0.5"], ["model.momentum"]),
    ],
)
def test_an_option_that_the_head_does_not_have_is_refused_on_the_command_line(
    zygote: Zygote, run: Path, tmp_path: Path, script: str, asked: list[str], words: list[str]
):
    given = {
        "train.py": [*COMMON, f"hydra.run.dir={tmp_path / 'run'}"],
        "eval.py": [f"checkpoint={run / 'run' / 'checkpoints' / 'last.ckpt'}", f"hydra.run.dir={tmp_path / 'run'}"],
        "complexity.py": [],
    }
    output = zygote.run(*given[script], *asked, cwd=tmp_path, script=script, code=1)
    assert all(word in output for word in words), output
    assert "Traceback" not in output


def test_a_hamburger_is_evaluated_with_other_numbers_of_updates_as_the_papers_unit_is(
    zygote: Zygote, run: Path, tmp_path: Path
):
    steps = ["head=ham", "model.K=3", "T_evals=[1,6,8]", "trainer.max_steps=1"]
    place = [f"dataset.root={run / 'data'}", f"hydra.run.dir={tmp_path / 'run'}"]
    zygote.run(*COMMON, *steps, *place, cwd=tmp_path)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    scores = json.loads((tmp_path / "run" / "evaluations.json").read_text())["T_eval"]
    assert list(scores) == ["1", "6", "8"]
    assert scores["6"]["val/miou"] == pytest.approx(summary["val/miou"])  # T is 6
