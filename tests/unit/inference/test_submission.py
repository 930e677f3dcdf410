import tarfile
import zipfile
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from emanet.common.errors import ConfigError
from emanet.data.datasets.cityscapes import LABEL_IDS
from emanet.inference.media import Source
from emanet.inference.submission import (
    FORMATS,
    SubmissionError,
    SubmissionWriter,
    image_sizes,
    submission_format,
)
from emanet.training.metrics import SegmentationMetrics
from fake_data import blocks, save_gray_png

SIZES = {"2009_000001": (30, 40), "2009_000002": (20, 50)}
VOC_FOLDER = "results/VOC2012/Segmentation/comp6_test_cls"


def mask(size: tuple[int, int], classes: int = 21) -> np.ndarray:
    return np.random.default_rng(0).integers(0, classes, size, dtype=np.uint8)


@pytest.mark.parametrize(
    ("name", "archive", "folder", "mode", "expected"),
    [
        ("voc", "voc2012_comp6.tar.gz", f"{VOC_FOLDER}/", "P", range(21)),
        ("cityscapes", "cityscapes_labelids.zip", "", "L", LABEL_IDS),
        ("ade20k", "ade20k.zip", "", "L", range(1, 151)),
    ],
)
def test_a_submission_holds_the_servers_numbers_under_the_servers_names(
    tmp_path, name, archive, folder, mode, expected
):
    classes = len(expected)
    masks = {image: mask(size, classes) for image, size in SIZES.items()}
    writer = SubmissionWriter(tmp_path, submission_format(name, classes), SIZES)
    for image, values in masks.items():
        writer.add(image, values)
    path = writer.finish()
    assert path == tmp_path / archive
    assert list(tmp_path.iterdir()) == [path], "nothing else stays"
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as zipped:
            files = {item: zipped.read(item) for item in zipped.namelist()}
    else:
        with tarfile.open(path) as tarred:
            files = {item.name: tarred.extractfile(item).read() for item in tarred}
    assert set(files) == {f"{folder}{image}.png" for image in masks}
    for image, values in masks.items():
        with Image.open(BytesIO(files[f"{folder}{image}.png"])) as picture:
            assert (picture.format, picture.mode) == ("PNG", mode)
            np.testing.assert_array_equal(np.array(picture), np.array(expected)[values])


def test_the_voc_pictures_have_vocs_colors(tmp_path):
    picture = FORMATS["voc"].picture(np.array([[0, 15, 20]], np.uint8))
    assert np.array(picture.convert("RGB")).tolist() == [[[0, 0, 0], [192, 128, 128], [0, 64, 128]]]


def test_an_incomplete_submission_leaves_the_earlier_one_untouched(tmp_path):
    form = FORMATS["voc"]
    (tmp_path / form.archive).write_bytes(b"of yesterday")
    writer = SubmissionWriter(tmp_path, form, SIZES)
    writer.add("2009_000001", mask((30, 40)))
    for name, size in (("2009_000001", (30, 40)), ("2009_000002", (50, 20)), ("2009_000003", (30, 40))):
        with pytest.raises(SubmissionError, match=rf"{name}\.png of {size[1]}x{size[0]} pixels is there twice, or not"):
            writer.add(name, mask(size))
    with pytest.raises(SubmissionError, match=r"1 missing, 2009_000002\.png"):
        writer.finish()
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [(form.archive, b"of yesterday")]


def test_a_network_with_other_classes_or_an_unknown_server_is_refused():
    with pytest.raises(ConfigError, match="submission=voc needs a network of 21 classes, got 19"):
        submission_format("voc", 19)
    with pytest.raises(ConfigError, match="submission=kitti: the servers known are voc, cityscapes, ade20k"):
        submission_format("kitti", 19)


def test_the_expected_sizes_are_those_of_the_pictures_and_names_must_differ(tmp_path):
    save_gray_png(tmp_path / "a" / "x.png", np.zeros((7, 9)))
    save_gray_png(tmp_path / "b" / "x.png", np.zeros((7, 9)))
    first, second = Source(tmp_path / "a" / "x.png", "a/x"), Source(tmp_path / "b" / "x.png", "b/x")
    assert image_sizes([first]) == {"x": (7, 9)}
    with pytest.raises(ConfigError, match="two pictures are called x"):
        image_sizes([first, second])


def test_cityscapes_own_script_scores_our_submission_as_we_do(tmp_path):
    """The whole way: labelId truth in the real layout, predictions written, packed, unpacked, scored by both."""
    script = pytest.importorskip(
        "cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling",
        reason="pip install --no-deps cityscapesscripts==2.3.0 pyquaternion (its own list pulls in plotting packages)",
    )
    rng = np.random.default_rng(3)
    names = [f"aachen_{i:06}_000019" for i in range(3)]
    size = (60, 80)
    metrics = SegmentationMetrics(19)
    writer = SubmissionWriter(tmp_path, FORMATS["cityscapes"], dict.fromkeys(names, size))
    to_train = {label: train for train, label in enumerate(LABEL_IDS)}
    for name in names:
        truth = blocks(rng, [0, 3, *LABEL_IDS[:12]], size)  # 0 and 3: not evaluated
        prediction = rng.integers(0, 14, size, dtype=np.uint8)
        right = rng.random(size) < 0.6
        classes = np.vectorize(lambda label: to_train.get(label, 255))(truth)
        prediction[right & (classes != 255)] = classes[right & (classes != 255)]
        save_gray_png(tmp_path / "gtFine" / "val" / "aachen" / f"{name}_gtFine_labelIds.png", truth)
        writer.add(name, prediction)
        metrics.update(torch.from_numpy(prediction).long()[None], torch.from_numpy(classes).long()[None])
    with zipfile.ZipFile(writer.finish()) as zipped:
        zipped.extractall(tmp_path / "results")
    truths = sorted((tmp_path / "gtFine" / "val").rglob("*_labelIds.png"))
    assert len(truths) == 3
    script.args.predictionPath, script.args.predictionWalk = str(tmp_path / "results"), None
    script.args.evalInstLevelScore, script.args.JSONOutput, script.args.quiet = False, False, True
    predictions = [script.getPrediction(script.args, str(path)) for path in truths]
    theirs = script.evaluateImgLists(predictions, [str(path) for path in truths], script.args)
    ours = metrics.compute()
    assert ours.miou.item() == pytest.approx(theirs["averageScoreClasses"], abs=1e-12)
    assert 0.2 < ours.miou.item() < 0.8
    of_class = theirs["classScores"]
    assert of_class["road"] == pytest.approx(ours.iou[0].item(), abs=1e-12)
    assert of_class["bicycle"] != of_class["bicycle"], "NaN: in neither truth nor prediction, as in ours"
    assert ours.iou[18].isnan()
