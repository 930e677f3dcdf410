"""src/predict.py and src/eval.py on checkpoints of ours and of the authors: as processes, and as configured jobs."""

import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import Trainer
from PIL import Image

from composing import settled
from emanet import EMANet, Predictor
from emanet.checkpoints.reference import to_reference_state_dict
from emanet.checkpoints.restore import read_stored
from emanet.cli.arguments import prepare_eval, prepare_predict
from emanet.cli.jobs import evaluate, predict
from emanet.common.errors import ConfigError
from emanet.data.datasets.voc import CLASSES, PALETTE
from emanet.inference.submission import SubmissionError
from emanet.inference.views import Inference, predict_logits
from emanet.training.metrics import SegmentationMetrics
from emanet.training.task import SegmentationTask
from emanet.training.trainer import silence_known_warnings
from fake_data import write_voc

SRC = Path(__file__).parents[1] / "src"
OPTIONS = {"backbone": "resnet18", "channels": 8, "K": 5}
BASE = {"train_split": "train", "num_workers": 0, "batch_size": 2, "crop_size": 33}


@pytest.fixture(scope="module")
def voc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """VOC in its real layout, and beside it a checkpoint of a network that was trained on it (for no step)."""
    base = tmp_path_factory.mktemp("voc")
    write_voc(base / "data", n_train=2, n_val=2, n_test=2)
    torch.manual_seed(0)
    net = balanced(EMANet(21, **OPTIONS))
    overrides = [f"dataset.{key}={value}" for key, value in (BASE | {"root": base / "data"}).items()]
    overrides += [f"model.{key}={value}" for key, value in OPTIONS.items()]
    config = settled(*overrides, "trainer.accelerator=cpu")
    task = SegmentationTask(net, class_names=CLASSES, palette=PALETTE.tolist(), config=config)
    silence_known_warnings()
    trainer = Trainer(logger=False, accelerator="cpu", enable_checkpointing=False, barebones=True)
    trainer.strategy.connect(task)
    trainer.save_checkpoint(base / "last.ckpt")
    return base


def balanced(net: EMANet) -> EMANet:
    """Shift the classifier's bias, so that an untrained network predicts many classes."""
    logits = predict_logits(net.eval(), torch.randn(2, 3, 65, 65))
    with torch.no_grad():
        net.fc2.bias -= logits.mean((0, 2, 3))
    return net


def configured(script: str, checkpoint: Path, *overrides: str) -> dict[str, Any]:
    """What a job of a script is handed."""
    prepare = {"eval": prepare_eval, "predict": prepare_predict}[script]
    return settled(*prepare([script, f"checkpoint={checkpoint}", *overrides])[1:], name=script)


def run(script: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a script of src/ as a user does."""
    environment = {**os.environ, "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, str(SRC / script), *arguments],
        cwd=cwd, env=environment, capture_output=True, text=True, timeout=200,
    )  # fmt: skip


def test_the_script_predicts_a_folder_and_tells_by_its_exit_code_that_a_file_failed(voc):
    photos = voc / "my (own) photos, 100%=all"
    photos.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 61, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(photos / "a.png")
    (photos / "b.jpg").write_text("no picture")
    arguments = ["checkpoint=last.ckpt", f"input={photos.name}", "output=it's {here}", "save=[mask,overlay,attention]"]
    done = run("predict.py", *arguments, cwd=voc)
    assert done.returncode == 1, done.stderr
    assert "b.jpg: not a picture" in done.stdout
    assert "1 of 2 files predicted" in done.stdout
    written = sorted(str(path.relative_to(voc / "it's {here}")) for path in (voc / "it's {here}").rglob("*.*"))
    assert written == ["attention/a.jpg", "masks/a.png", "overlays/a.jpg"]
    with Image.open(voc / "it's {here}" / "masks" / "a.png") as mask:
        expected = Predictor.from_checkpoint(voc / "last.ckpt", device="cpu")(pixels).mask
        np.testing.assert_array_equal(np.array(mask), expected)
    (photos / "b.jpg").unlink()
    assert run("predict.py", *arguments, cwd=voc).returncode == 0


def test_what_is_missing_from_the_command_line_is_said():
    with pytest.raises(ConfigError, match=r"output, input \(a picture, video, folder or pattern\) is missing"):
        prepare_predict(["predict.py", "checkpoint=last.ckpt"])


@pytest.mark.parametrize("text", ["plain", "it's", "a b,c=d", "{x}[1](2)", "back\\slash", "end\\", "$5 %", "ü"])
def test_paths_reach_the_job_as_the_shell_gave_them(voc, text):
    assert configured("predict", voc / "last.ckpt", "input=x", f"output={text}")["output"] == text


def test_a_split_becomes_a_submission_that_was_checked(voc, tmp_path):
    overrides = ["split=test", "submission=voc", "save=[]", f"output={tmp_path}", "device=cpu", "inference.flip=true"]
    predict(configured("predict", voc / "last.ckpt", *overrides))
    predictor = Predictor.from_checkpoint(voc / "last.ckpt", inference=Inference(flip=True), device="cpu")
    with tarfile.open(tmp_path / "voc2012_comp6.tar.gz") as archive:
        names = archive.getnames()
        assert names == [f"results/VOC2012/Segmentation/comp6_test_cls/2009_00000{i}.png" for i in range(2)]
        for name in names:
            image = voc / "data/VOCdevkit/VOC2012/JPEGImages" / f"{Path(name).stem}.jpg"
            with Image.open(archive.extractfile(name)) as mask:
                np.testing.assert_array_equal(np.array(mask), predictor(image).mask)


def test_a_failed_file_leaves_no_submission(voc, tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(tmp_path / "x.png")
    (tmp_path / "y.png").write_bytes((tmp_path / "x.png").read_bytes()[:900])  # header whole, pixels not
    overrides = [f"input={tmp_path}", "submission=voc", f"output={tmp_path / 'out'}", "device=cpu", "save=[]"]
    with pytest.raises(SubmissionError, match=r"1 missing, y\.png"):
        predict(configured("predict", voc / "last.ckpt", *overrides))
    assert not list((tmp_path / "out").rglob("*.*"))


def test_evaluation_uses_the_same_inference_as_prediction(voc, tmp_path, capsys):
    """eval.py's mIoU with scales, flip and another T is that of the predictor's masks, counted here."""
    scores = evaluate(
        configured("eval", voc / "last.ckpt", "model.T_eval=5", "inference.flip=true", "inference.scales=[0.5,1.0]"),
        tmp_path,
    )
    predictor = Predictor.from_checkpoint(
        voc / "last.ckpt", inference=Inference(scales=(0.5, 1.0), flip=True), model={"T_eval": 5}, device="cpu"
    )
    metrics = SegmentationMetrics(21)
    devkit = voc / "data" / "VOCdevkit" / "VOC2012"
    for path in sorted((devkit / "SegmentationClass").glob("2008_*.png")):
        mask = predictor(devkit / "JPEGImages" / f"{path.stem}.jpg").mask
        with Image.open(path) as truth:
            metrics.update(torch.from_numpy(mask).long()[None], torch.from_numpy(np.array(truth)).long()[None])
    assert scores["val/miou"] == pytest.approx(metrics.compute().miou.item(), abs=1e-12)
    plain = evaluate(configured("eval", voc / "last.ckpt"), tmp_path)
    assert plain["val/miou"] != scores["val/miou"], "the options have an effect"
    printed = capsys.readouterr().out
    assert "aeroplane" in printed, "the table of classes"


@pytest.mark.parametrize(
    ("stored", "overrides", "warned"),
    [
        (0.75, [], True),
        (None, [], False),  # as it is: read from the first evaluation
        (0.75, ["inference.flip=true"], False),
        (0.75, ["model.T_eval=5"], False),
        (0.75, ["split=train"], False),
    ],
)
def test_another_score_of_the_stored_split_than_stored_is_said(voc, tmp_path, caplog, stored, overrides, warned):
    content = torch.load(voc / "last.ckpt", weights_only=True)
    found = evaluate(configured("eval", voc / "last.ckpt"), tmp_path)["val/miou"] if stored is None else stored
    content |= {"validation": {"val/miou": found, "step": 3.0}, "global_step": 3}
    torch.save(content, tmp_path / "x.ckpt")
    evaluate(configured("eval", tmp_path / "x.ckpt", *overrides), tmp_path)
    assert ("scored 0.7500 when it was stored, and scores" in caplog.text) == warned
    content["global_step"] = 4  # the weights are newer than the score
    torch.save(content, tmp_path / "x.ckpt")
    assert read_stored(tmp_path / "x.ckpt").validation == {"step": 4}


def test_senseless_inference_is_refused_before_anything_is_read(voc, tmp_path):
    with pytest.raises(ConfigError, match=r"inference: stride must lie in 1..window=5"):
        evaluate(configured("eval", voc / "last.ckpt", "inference.window=5", "inference.stride=6"), tmp_path)


def test_weights_in_the_authors_layout_are_evaluated_with_a_data_set_named_and_other_iterations(voc, tmp_path):
    torch.manual_seed(0)
    theirs = balanced(EMANet(21, backbone="resnet50s", channels=8, K=4))
    torch.save({"net": to_reference_state_dict(theirs)}, tmp_path / "final.pth")
    overrides = ["dataset=voc", f"dataset.root={voc / 'data'}", "dataset.num_workers=0", "trainer.accelerator=cpu"]
    with_three = evaluate(configured("eval", tmp_path / "final.pth", *overrides), tmp_path)
    cfg = configured("eval", tmp_path / "final.pth", *overrides, "model.T_eval=1", "model.output_stride=16")
    assert cfg["model"]["backbone"] == "resnet50s"
    assert evaluate(cfg, tmp_path)["val/pixel_accuracy"] != with_three["val/pixel_accuracy"]
    with pytest.raises(ConfigError, match="does not say what it was trained on: add dataset=NAME"):
        evaluate(configured("eval", tmp_path / "final.pth"), tmp_path)
