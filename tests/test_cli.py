"""The scripts from another working directory, on tiny data in the benchmarks' real layouts."""

import csv
import json
import re
from pathlib import Path

import pytest
import torch

from fake_data import write_coco_stuff_10k, write_folder, write_pascal_context, write_voc
from zygote import TINY

SHORT = [*TINY, "trainer.max_steps=2"]


def checkpoint(folder: Path, name: str = "last") -> dict:
    """A checkpoint of a run, read as a stranger's file is: without executing code."""
    return torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """The network's tensors at the end of a run."""
    return checkpoint(folder)["state_dict"]


@pytest.fixture(scope="module")
def voc_run(zygote, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four steps on VOC in its real layout, with its data beside it."""
    base = tmp_path_factory.mktemp("voc")
    write_voc(base / "data", n_train=6)
    steps = ["trainer.max_steps=4", "trainer.val_every_n_steps=2"]
    zygote.run(*TINY, *steps, f"dataset.root={base / 'data'}", f"hydra.run.dir={base / 'run'}", cwd=base)
    return base


def test_a_run_folder_holds_all_that_one_needs_to_judge_and_repeat_the_run(voc_run):
    folder = voc_run / "run"
    assert (folder / ".hydra" / "config.yaml").is_file()
    assert (folder / "config.yaml").read_text().count("${") == 0, "the resolved configuration has no interpolations"
    assert (folder / "checkpoints" / "best.ckpt").is_file()
    assert checkpoint(folder)["global_step"] == 4
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["status"] == "finished"
    assert summary["seed"] == 0
    assert summary["val/miou"] == pytest.approx(checkpoint(folder)["validation"]["val/miou"])
    assert summary["val/miou_best"] >= summary["val/miou"]
    assert len(summary["val/iou"]) == 21
    assert summary["parameters"]["total"] == sum(
        value.numel()
        for key, value in weights(folder).items()
        if not key.endswith(("running_mean", "running_var", "num_batches_tracked", "head.mu"))
    )
    rows = list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))
    assert [int(row["step"]) for row in rows if row["val/miou"]] == [1, 3]
    assert (folder / "predictions.png").stat().st_size > 1000


def test_evaluation_prints_the_miou_of_the_validation_that_wrote_the_checkpoint_to_the_digit(zygote, voc_run):
    for name in ("best", "last"):
        path = voc_run / "run" / "checkpoints" / f"{name}.ckpt"
        stored = checkpoint(voc_run / "run", name)["validation"]["val/miou"]
        output = zygote.run(f"checkpoint={path}", f"hydra.run.dir={voc_run / 'eval'}", cwd=voc_run, script="eval.py")
        printed = re.search(r"val/miou ([\d.e-]+) \(stored: ([\d.e-]+)\)", output)
        assert printed, output
        assert float(printed[1]) == float(printed[2]) == stored
        assert json.loads((voc_run / "eval" / "summary.json").read_text())["val/miou"] == pytest.approx(
            stored, abs=1e-7
        )


def test_k_and_the_three_momenta_reach_bases_optimizer_and_batch_norm(zygote, tmp_path):
    write_coco_stuff_10k(tmp_path / "data")
    places = ["dataset=coco_stuff", f"dataset.root={tmp_path / 'data'}", f"hydra.run.dir={tmp_path / 'run'}"]
    given = ["model.K=48", "model.momentum=1.0", "optimizer.momentum=0.25", "model.bn_momentum=0.0"]
    zygote.run(*SHORT, *places, *given, cwd=tmp_path)
    content = checkpoint(tmp_path / "run")
    mu = content["state_dict"]["net.head.mu"]
    assert mu.shape == (1, 8, 48)
    torch.testing.assert_close(mu.norm(dim=1), torch.ones(1, 48))  # all kept: still the normalized start
    assert {group["momentum"] for group in content["optimizer_states"][0]["param_groups"]} == {0.25}
    assert content["state_dict"]["net.fc0.bn.running_mean"].abs().max() == 0  # nothing new taken in
    assert content["state_dict"]["net.fc2.weight"].shape[0] == 171


def test_a_sweep_trains_each_combination_in_its_own_folder(zygote, tmp_path):
    write_pascal_context(tmp_path / "data")
    places = [f"dataset.root={tmp_path / 'data'}", f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    swept = ["dataset=pascal_context", "model.K=3,5", "model.T=1"]
    zygote.run("--multirun", *SHORT, *places, *swept, cwd=tmp_path)
    bases = {folder.name: weights(folder)["net.head.mu"] for folder in (tmp_path / "sweep").glob("[0-9]")}
    assert {name: mu.shape[2] for name, mu in bases.items()} == {"0": 3, "1": 5}


def test_a_run_started_from_other_weights_replaces_the_classifier_and_keeps_the_rest(zygote, voc_run, tmp_path):
    write_folder(tmp_path / "data")
    before = weights(voc_run / "run")
    zygote.run(
        *SHORT,
        "model.pretrained=true",  # nothing is fetched: the checkpoint holds the backbone's weights too
        "dataset=folder",
        "dataset.num_classes=5",
        f"dataset.root={tmp_path / 'data'}",
        f"init_from={voc_run / 'run' / 'checkpoints' / 'last.ckpt'}",
        "optimizer.lr=1e-12",
        "trainer.max_steps=1",
        f"hydra.run.dir={tmp_path / 'run'}",
        cwd=tmp_path,
    )
    after = weights(tmp_path / "run")
    assert after["net.fc2.weight"].shape[0] == 5
    torch.testing.assert_close(after["net.fc0.conv.weight"], before["net.fc0.conv.weight"])
    assert checkpoint(tmp_path / "run")["global_step"] == 1, "a fresh schedule"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model.K=0"], "model.K must be from 1 to 65536, got 0"),
        (["model.Q=1"], "model.Q"),
        (["dataset.root=/nowhere"], "not found: /nowhere"),
        (["model.pretrained=${package_file:no_such_package,x}"], "no file x in package 'no_such_package'"),
        (["resume=/nowhere"], "resume=/nowhere: no run there"),
        (["name=../../x"], "error: name must be the name of a folder"),
        (["hydra.run.dir=/dev/null"], "no folder can be made at hydra.run.dir=/dev/null: File exists"),
        (["dataset.batch_size=3", "trainer.accumulate_grad_batches=2"], "the nearest that fits is 4"),
    ],
)
def test_a_mistake_ends_with_its_message_and_no_stack(zygote, voc_run, tmp_path, arguments, message):
    common = [*SHORT, f"dataset.root={voc_run / 'data'}", f"hydra.run.dir={tmp_path / 'run'}"]
    output = zygote.run(*common, *arguments, cwd=tmp_path, code=1)
    assert message in output
    assert "Traceback" not in output


def test_an_evaluation_without_a_checkpoint_says_so(zygote, tmp_path):
    assert zygote.run(cwd=tmp_path, script="eval.py", code=1).startswith("error: checkpoint is missing: KEY=VALUE")
