"""A rival head through the scripts: trained, evaluated to the digit, predicted with; keys it does not know refused."""

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
    """Two steps with a non-local block; the experiment sets K in a file, which is nobody's request."""
    base = tmp_path_factory.mktemp("heads")
    write_voc(base / "data", n_train=4)
    zygote.run(
        *["experiment=quickstart", "dataset=voc", "model.head=nonlocal", f"dataset.root={base / 'data'}"],
        *COMMON,
        *["trainer.max_steps=2", "trainer.val_every_n_steps=2", f"hydra.run.dir={base / 'run'}"],
        cwd=base,
    )
    return base


def test_training_with_another_head_stores_it_and_evaluation_repeats_its_score(zygote: Zygote, run: Path):
    path = run / "run" / "checkpoints" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    assert content["hyper_parameters"]["model"]["head"] == "nonlocal"
    assert any(key.startswith("net.head.theta.") for key in content["state_dict"])
    assert not any("emau" in key for key in content["state_dict"])
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
    assert "attention maps need a network with bases (head=ema), got EMANet with another head" in output
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("script", "asked", "message"),
    [
        ("train.py", ["model.head=fcn", "model.K=8"], "model.head=fcn does not know the key K (ema, ham, external)"),
        ("train.py", ["model.head=ham", "++model.norm=layer"], "model.head=ham does not know the key norm (ema)"),
        ("eval.py", ["model.T_eval=5"], "model.head=nonlocal does not know the key T_eval (ema, ham)"),
        ("complexity.py", ["model.head=psp", "model.momentum=0.5"], "model.head=psp does not know the key momentum"),
    ],
)
def test_a_key_that_the_head_does_not_know_is_refused_on_the_command_line(
    zygote: Zygote, run: Path, tmp_path: Path, script: str, asked: list[str], message: str
):
    given = {
        "train.py": [*COMMON, f"hydra.run.dir={tmp_path / 'run'}"],
        "eval.py": [f"checkpoint={run / 'run' / 'checkpoints' / 'last.ckpt'}", f"hydra.run.dir={tmp_path / 'run'}"],
        "complexity.py": [],
    }
    output = zygote.run(*given[script], *asked, cwd=tmp_path, script=script, code=1)
    assert message in output
    assert "Traceback" not in output


def test_a_hamburger_is_evaluated_with_other_numbers_of_updates_as_the_papers_unit_is(
    zygote: Zygote, run: Path, tmp_path: Path
):
    steps = ["model.head=ham", "model.K=3", "T_evals=[1,3,8]", "trainer.max_steps=1"]
    place = [f"dataset.root={run / 'data'}", f"hydra.run.dir={tmp_path / 'run'}"]
    zygote.run(*COMMON, *steps, *place, cwd=tmp_path)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    scores = json.loads((tmp_path / "run" / "evaluations.json").read_text())["T_eval"]
    assert list(scores) == ["1", "3", "8"]
    assert scores["3"]["val/miou"] == pytest.approx(summary["val/miou"])  # T is 3


def test_in_a_sweep_over_heads_only_those_that_know_the_key_run(zygote: Zygote, run: Path, tmp_path: Path):
    """A sweep ends at its first mistake, as for any other."""
    sweep = ["--multirun", "model.head=external,fcn", "model.K=3", f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    given = [*COMMON, f"dataset.root={run / 'data'}", "trainer.max_steps=1"]
    output = zygote.run(*sweep, *given, cwd=tmp_path, code=1)
    assert "model.head=fcn does not know the key K (ema, ham, external)" in output
    state = torch.load(tmp_path / "sweep" / "0" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert state["net.head.keys.weight"].shape == (3, 8, 1, 1)
