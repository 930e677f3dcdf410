"""The sheet of predictions: which images it shows, when it is written, and that it shows what the network said."""

from pathlib import Path

import numpy as np
from PIL import Image

from emanet.common.visual import WRONG_COLOUR
from emanet.training.callbacks import PredictionSheet
from emanet.training.callbacks.samples import spread
from small_run import ColorData, make_task, make_trainer


def area(path: Path, color: tuple[int, ...]) -> int:
    """Pixels of a color in a picture."""
    return int((np.asarray(Image.open(path)) == color).all(axis=2).sum())


def test_images_are_spread_evenly_whatever_the_batch_size():
    assert spread(2, 10) == {2: [0.5], 7: [0.5]}
    assert spread(4, 1) == {0: [0.125, 0.375, 0.625, 0.875]}
    for batches, size in [(100, 1), (25, 4), (5, 20)]:  # 100 images each time
        chosen = [batch * size + int(share * size) for batch, shares in spread(5, batches).items() for share in shares]
        assert chosen == [10, 30, 50, 70, 90]


def test_the_sheet_shows_chosen_images_with_their_true_and_predicted_classes(tmp_path: Path):
    pictures = PredictionSheet(tmp_path, n=5, cell=96)
    make_trainer(tmp_path, [pictures]).fit(make_task(), ColorData(val=10, batch_size=2))
    assert [sample.name for sample in pictures.samples] == [f"val-{i}" for i in (1, 3, 5, 7, 9)]
    for index, sample in zip((1, 3, 5, 7, 9), pictures.samples, strict=True):
        assert sample.truth.shape == (72, 96)  # 12 x 16 scaled to the cell
        np.testing.assert_array_equal(sample.truth[::6, ::6], ColorData().item("val", index)["mask"])
        assert sample.pixel_accuracy == 1  # the task is learned within these steps
    assert [file.name for file in tmp_path.glob("*.png")] == ["predictions.png"]
    # five rows of truth and prediction, 16 / 3 stripes of 4 columns each; the unseen class nowhere
    assert all(area(tmp_path / "predictions.png", tuple(color)) > 10_000 for color in ColorData.palette[:3])
    assert area(tmp_path / "predictions.png", tuple(ColorData.palette[3])) == 0
    assert area(tmp_path / "predictions.png", WRONG_COLOUR) == 0


def test_an_untrained_network_leaves_red_errors_on_the_sheet_of_a_bare_validation(tmp_path: Path):
    make_trainer(tmp_path, [PredictionSheet(tmp_path, n=2)]).validate(make_task(), ColorData(), verbose=False)
    assert area(tmp_path / "predictions.png", WRONG_COLOUR) > 1000


def test_on_request_there_is_a_sheet_for_every_validation(tmp_path: Path):
    sheets = PredictionSheet(tmp_path, n=2, every_validation=True)
    make_trainer(tmp_path, [sheets]).fit(make_task(), ColorData())
    names = ["predictions.png", "predictions_step4.png", "predictions_step8.png"]
    assert sorted(file.name for file in tmp_path.glob("*.png")) == names


def test_more_images_than_the_split_has_are_shown_once_each(tmp_path: Path):
    sheets = PredictionSheet(tmp_path, n=50, cell=32)
    make_trainer(tmp_path, [sheets], max_steps=4).fit(make_task(), ColorData(val=3, batch_size=2))
    assert [sample.name for sample in sheets.samples] == ["val-0", "val-1", "val-2"]


def test_a_folder_that_cannot_be_written_warns_and_training_ends_well(tmp_path: Path, caplog):
    (tmp_path / "file").write_text("in the way")
    trainer = make_trainer(tmp_path, [PredictionSheet(tmp_path / "file" / "run")])
    trainer.fit(make_task(), ColorData())
    assert trainer.global_step == 8
    assert "sheet of predictions was not written" in caplog.text
