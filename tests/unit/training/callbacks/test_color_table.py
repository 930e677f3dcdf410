"""The rivals without a network, beside a run's scores."""

from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import lightning as L
import numpy as np
import pytest

from emanet.common.errors import ConfigError
from emanet.data import Folder
from emanet.data.items import read_pair
from emanet.training.callbacks import ColorTable
from emanet.training.callbacks.summary import found_by
from fake_data import write_folder

MODULE = MagicMock(spec=L.LightningModule)


@pytest.fixture
def trainer(tmp_path: Path) -> Any:
    """On a folder of four training and two validation images."""
    write_folder(tmp_path)
    data = Folder(root=tmp_path, num_classes=3, num_workers=0)
    trainer = MagicMock(spec=L.Trainer, is_global_zero=True, callbacks=[ColorTable()])
    trainer.datamodule = data
    return trainer


def test_the_summary_gets_what_they_score_and_the_screen_a_line_each(trainer: Any, capsys: pytest.CaptureFixture[str]):
    (callback,), data = trainer.callbacks, trainer.datamodule
    callback.on_fit_start(trainer, MODULE)
    facts = found_by(trainer)
    masks = {
        split: [read_pair(sample, data.labels())[1] for sample in data.samples(split)] for split in ("train", "val")
    }
    counts = np.bincount(np.concatenate([mask.ravel() for mask in masks["train"]]), minlength=256)[:3]
    seen = np.concatenate([mask.ravel() for mask in masks["val"]])
    right = (seen == counts.argmax()).sum() / (seen < 3).sum()
    assert facts["baseline/constant_pixel_accuracy"] == pytest.approx(right)
    assert facts["baseline/constant_miou"] == pytest.approx(right / 3)  # the other two classes have IoU 0
    assert len(facts) == 6
    callback.on_fit_end(trainer, MODULE)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert f"mIoU {facts['baseline/balanced_color_table_miou']:.4f}" in lines[1]


def test_the_other_devices_measure_nothing(trainer: Any):
    trainer.is_global_zero = False
    trainer.callbacks[0].on_fit_start(trainer, MODULE)
    assert found_by(trainer) == {}


def test_a_large_training_split_is_refused(trainer: Any):
    with pytest.raises(ConfigError, match="reads all training images, and folder has 4: leave it out"):
        ColorTable(most_images=3).on_fit_start(trainer, MODULE)
