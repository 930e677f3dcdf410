import logging
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from lightning import Trainer
from PIL import Image

import emanet
from emanet import EMANet
from emanet.checkpoints.restore import read_stored, restore
from emanet.common.errors import ConfigError
from emanet.data.palettes import voc_palette
from emanet.data.transforms import Normalize
from emanet.inference.attention import attention_sheet, base_maps, stretch
from emanet.inference.files import Results, overlay_with_legend, predict_sources, same_size
from emanet.inference.media import MediaError, Source, Video, find_sources, read_picture
from emanet.inference.predictor import Predictor, pick_device
from emanet.inference.views import Inference, predict_logits
from emanet.training.task import SegmentationTask
from emanet.training.trainer import silence_known_warnings
from reference import numpy_e_step, numpy_m_step

NAMES = ("sky", "grass", "cow", "road")
PALETTE = voc_palette(4)
OPTIONS = {"backbone": "resnet18", "multi_grid": None, "channels": 8, "K": 5}
STATISTICS = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


@pytest.fixture(scope="module")
def net() -> EMANet:
    torch.manual_seed(1)
    return EMANet(len(NAMES), **OPTIONS).eval()


@pytest.fixture(scope="module")
def predictor(net) -> Predictor:
    return Predictor(net, class_names=NAMES, palette=PALETTE, **STATISTICS, device="cpu")


@pytest.fixture(scope="module")
def checkpoint(net, tmp_path_factory) -> Path:
    """A checkpoint as training writes it, of a data set that is nowhere on this disk."""
    dataset = {
        "_target_": "emanet.data.Folder",
        "name": "mine",
        "root": "/nowhere",
        "class_names": list(NAMES),
    }
    config = {"model": {"_target_": "emanet.EMANet", "pretrained": True, **OPTIONS}, "dataset": dataset}
    task = SegmentationTask(net, class_names=NAMES, palette=PALETTE.tolist(), config=config)
    silence_known_warnings()
    trainer = Trainer(logger=False, accelerator="cpu", enable_checkpointing=False, barebones=True)
    trainer.strategy.connect(task)
    path = tmp_path_factory.mktemp("checkpoint") / "last.ckpt"
    trainer.save_checkpoint(path)
    return path


def photo(height: int = 30, width: int = 44, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


# --- checkpoints ------------------------------------------------------------------------------------------------------


def test_a_saved_folder_predicts_as_the_checkpoint_does(checkpoint, net, tmp_path):
    restored = restore(checkpoint).net
    restored.description = read_stored(checkpoint).description
    restored.save_pretrained(tmp_path / "saved")
    image = photo()
    first, second = (
        emanet.predict(path, image, probabilities=True, device="cpu") for path in (checkpoint, tmp_path / "saved")
    )
    np.testing.assert_array_equal(first.probabilities, second.probabilities)
    assert restore(tmp_path / "saved").names == NAMES


# --- predictions ------------------------------------------------------------------------------------------------------


def test_a_prediction_is_the_networks_argmax_on_the_normalized_image(predictor, net):
    image = photo()
    scaled = (image / 255 - STATISTICS["mean"]) / STATISTICS["std"]
    logits = predict_logits(net, torch.from_numpy(scaled.transpose(2, 0, 1)[None].astype(np.float32)))
    got = predictor(image, probabilities=True)
    np.testing.assert_array_equal(got.mask, logits.argmax(1)[0].numpy())
    np.testing.assert_allclose(got.probabilities, logits.softmax(1)[0].numpy(), atol=1e-5)
    assert got.mask.dtype == np.uint8
    assert got.attention is None
    assert predictor(image).probabilities is None
    np.testing.assert_array_equal(predictor(image).mask, predictor(Image.fromarray(image)).mask)


def test_a_batch_predicts_what_single_images_do(predictor):
    images = [photo(seed=seed) for seed in range(3)]
    together = predictor.batch(images, probabilities=True, attention=True)
    for image, one in zip(images, together, strict=True):
        alone = predictor(image, probabilities=True, attention=True)
        np.testing.assert_allclose(one.probabilities, alone.probabilities, atol=1e-5)
        np.testing.assert_allclose(one.attention, alone.attention, atol=1e-5)


def test_the_predictor_looks_as_its_inference_says(net):
    inference = Inference(scales=(0.5, 1.0), flip=True)
    options = {"class_names": NAMES, "palette": PALETTE, **STATISTICS, "device": "cpu"}
    image = photo()
    got = Predictor(net, inference=inference, **options)(image, probabilities=True).probabilities
    batch = torch.from_numpy(Normalize(STATISTICS["mean"], STATISTICS["std"])(image))[None]
    np.testing.assert_array_equal(got, inference.probabilities(net, batch)[0].numpy())


def test_an_absent_device_is_refused():
    with pytest.raises(ConfigError, match="device=nonsense cannot be used"):
        pick_device("nonsense")


# --- attention maps ---------------------------------------------------------------------------------------------------


def test_base_maps_are_the_responsibilities_of_the_last_e_step(net):
    """Against the float64 reference of the unit, from the network's own features."""
    double = EMANet(len(NAMES), **OPTIONS).double().eval()
    double.load_state_dict(net.state_dict())
    image = torch.randn(1, 3, 30, 44, dtype=torch.float64)
    padded = torch.zeros(1, 3, 33, 49, dtype=torch.float64)
    padded[..., :30, :44] = image
    with torch.no_grad():
        x = double.head.conv1(double.fc0(double.backbone(padded)))[0].flatten(1).numpy()
    mu = double.head.mu[0].numpy()
    for _ in range(3):
        z = numpy_e_step(x, mu)
        mu = numpy_m_step(x, z)
    maps = base_maps(double, image)
    assert maps.shape == (1, 5, 5, 7)
    np.testing.assert_allclose(maps[0].flatten(1).T.numpy(), z, atol=1e-6)
    torch.testing.assert_close(maps.sum(1), torch.ones(1, 5, 7))


def test_a_network_without_bases_has_no_maps(net):
    with pytest.raises(ConfigError, match=r"need a network with bases \(head=ema\), got Conv2d:"):
        base_maps(torch.nn.Conv2d(3, 3, 1), torch.zeros(1, 3, 9, 9))


def test_features_lie_over_the_pixels_that_they_belong_to():
    """Feature i over pixel 8i: of a side of 21, padded to 25, the last pixel lies at feature 2.5 of 0..3."""
    ramp = np.tile(np.arange(4.0), (4, 1))
    spread = stretch(ramp, np.zeros((21, 21, 3), np.uint8), (2.5, 2.5))
    np.testing.assert_allclose(spread[7], np.arange(21) / 8, atol=1 / 32)  # OpenCV's positions: 1/32 pixel


@pytest.mark.parametrize(("by_share", "first", "second"), [(True, 2, 1), (False, 1, 2)])
def test_the_sheet_shows_where_each_base_is_responsible_strongest_first_or_by_number(by_share, first, second):
    maps = np.full((4, 5, 9), 0.01, np.float32)
    maps[2, :, 4:] = 0.97  # claims the larger part, right
    maps[1, :, :4] = 0.97
    image = np.full((33, 65, 3), 128, np.uint8)
    chosen = maps if by_share else maps[1:3]
    sheet = attention_sheet(image, chosen, stride=8, bases=2, by_share=by_share, cell=100)
    row = np.array(sheet.convert("L")).astype(int)[-60:-20]  # two cells of 100 pixels from x=20, 8 apart
    right = [row[:, 100:115].mean() - row[:, 25:40].mean(), row[:, 205:220].mean() - row[:, 133:148].mean()]
    assert [difference > 80 for difference in right] == [first == 2, second == 2]
    assert [difference < -80 for difference in right] == [first == 1, second == 1]


# --- files in ---------------------------------------------------------------------------------------------------------


def test_pictures_of_every_kind_become_eight_bit_rgb(tmp_path):
    gray = np.linspace(0, 255, 20 * 30).reshape(20, 30).astype(np.uint8)
    color = photo(20, 30)
    Image.fromarray(gray).save(tmp_path / "gray.png")
    Image.fromarray(gray.astype(np.uint16) * 257).save(tmp_path / "gray16.png")
    Image.fromarray((gray / 255).astype(np.float32)).save(tmp_path / "float.tif")
    cv2.imwrite(str(tmp_path / "color16.tif"), color[..., ::-1].astype(np.uint16) * 257)
    cv2.imwrite(str(tmp_path / "color16.png"), color[..., ::-1].astype(np.uint16) * 257)
    Image.fromarray(gray).convert("1").save(tmp_path / "binary.png")
    rgba = np.dstack([color, np.where(gray > 127, 255, 0).astype(np.uint8)])
    Image.fromarray(rgba).save(tmp_path / "rgba.png")
    Image.fromarray(color).convert("CMYK").save(tmp_path / "cmyk.tif")
    three = np.repeat(gray[..., None], 3, axis=2)
    for name in ("gray.png", "gray16.png", "float.tif"):
        np.testing.assert_array_equal(read_picture(tmp_path / name), three, err_msg=name)
    for name in ("color16.tif", "color16.png", "cmyk.tif"):
        np.testing.assert_array_equal(read_picture(tmp_path / name), color, err_msg=name)
    assert set(np.unique(read_picture(tmp_path / "binary.png"))) == {0, 255}
    on_white = np.where(rgba[..., 3:] > 0, color, 255)
    np.testing.assert_array_equal(read_picture(tmp_path / "rgba.png"), on_white)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation):
    """Stored pixels turned as the tag says; a viewer and we show the same upright picture."""
    upright = np.zeros((16, 24, 3), np.uint8)
    upright[:8, :8] = 255  # white at the top left
    transposed = upright.transpose(1, 0, 2)
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: transposed,
        6: transposed[::-1],
        7: transposed[::-1, ::-1],
        8: transposed[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "photo.png", exif=exif)
    np.testing.assert_array_equal(read_picture(tmp_path / "photo.png"), upright)


def test_broken_pictures_are_refused_by_name(tmp_path):
    Image.fromarray(photo(200, 200)).save(tmp_path / "whole.jpg")
    (tmp_path / "half.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:5000])
    (tmp_path / "text.jpg").write_text("hello")
    Image.fromarray(np.full((4, 4), 70000, np.int32)).save(tmp_path / "deep.tif")
    with pytest.raises(MediaError, match=r"half\.jpg: cannot be read .*truncated"):
        read_picture(tmp_path / "half.jpg")
    with pytest.raises(MediaError, match=r"text\.jpg: not a picture"):
        read_picture(tmp_path / "text.jpg")
    with pytest.raises(MediaError, match="values from 70000 to 70000, expected 0 to 65535"):
        read_picture(tmp_path / "deep.tif")


def test_files_folders_and_patterns_are_found_and_named(tmp_path):
    for name in ("b/a.jpg", "b/a.png", "c.JPEG", "clip.mp4", "notes.txt", "out/masks/c.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()

    def names(given: str) -> list[str]:
        return [source.name for source in find_sources(given, leave_out=tmp_path / "out")]

    assert names(str(tmp_path)) == ["b/a.jpg", "b/a.png", "c", "clip"], "names that would collide keep their endings"
    assert names(str(tmp_path / "c.JPEG")) == ["c"]
    assert names(str(tmp_path / "**" / "a.*")) == ["a.jpg", "a.png"]
    assert [source.is_video for source in find_sources(str(tmp_path / "c*"))] == [False, True]
    with pytest.raises(ConfigError, match=re.escape("no picture or video there; give a file, a folder or a pattern")):
        find_sources(str(tmp_path / "*.gif"))


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["a.jpg", "a.png", "a.jpg.jpg"], ["a.jpg", "a.jpg.jpg", "a.png"]),
        (["a.jpg", "a.jpg.jpg", "a.jpg.jpg.png", "a.png"], ["a.jpg", "a.jpg.jpg", "a.jpg.jpg.png", "a.png"]),
        (["a.b.jpg", "a.jpg"], ["a.b", "a"]),
        (["v.mp4", "v/000001.png"], ["v/000001", "v.mp4"]),
        (["v/a.png", "v.png", "x.mp4", "x.png"], ["v", "v/a", "x.mp4", "x.png"]),
    ],
)
def test_results_of_different_files_have_different_names(files: list[str], names: list[str], tmp_path: Path):
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert sorted(source.name for source in find_sources(str(tmp_path))) == sorted(names)


def test_a_picture_above_what_pillow_takes_for_an_attack_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400)  # it refuses twice as many
    Image.fromarray(photo(30, 44)).save(tmp_path / "big.png")
    np.testing.assert_array_equal(read_picture(tmp_path / "big.png"), photo(30, 44))
    assert Image.MAX_IMAGE_PIXELS == 400
    monkeypatch.setattr("emanet.inference.media.MOST_PIXELS", 1000)
    with pytest.raises(MediaError, match=r"big\.png: cannot be read .*1320 pixels.* exceeds limit of 1000 pixels"):
        read_picture(tmp_path / "big.png")


# --- files out --------------------------------------------------------------------------------------------------------


def test_a_broken_file_is_reported_and_the_rest_goes_on(predictor, tmp_path, caplog):
    caplog.set_level(logging.ERROR)
    sizes = [(30, 44), (30, 44), (21, 20), (30, 44)]
    for number, size in enumerate(sizes):
        Image.fromarray(photo(*size, seed=number)).save(tmp_path / f"{number}.png")
    (tmp_path / "1a.jpg").write_text("no picture")
    results = Results(tmp_path / "out", predictor, ["mask", "overlay", "probabilities", "attention"], attention_bases=2)
    predict_sources(find_sources(str(tmp_path)), results, read=read_picture, batch_size=2)
    assert results.failed == [str(tmp_path / "1a.jpg")]
    assert results.done == 4
    assert "1a.jpg: not a picture" in caplog.text
    for number, size in enumerate(sizes):
        expected = predictor(tmp_path / f"{number}.png", probabilities=True)
        with Image.open(tmp_path / "out" / "masks" / f"{number}.png") as mask:
            assert mask.mode == "P"
            assert mask.getpalette()[: PALETTE.size] == PALETTE.ravel().tolist()
            np.testing.assert_array_equal(np.array(mask), expected.mask)
        stored = np.load(tmp_path / "out" / "probabilities" / f"{number}.npz")
        assert stored["probabilities"].dtype == np.float16
        np.testing.assert_allclose(stored["probabilities"], expected.probabilities, atol=1e-3)
        assert tuple(stored["names"]) == NAMES
        with Image.open(tmp_path / "out" / "overlays" / f"{number}.jpg") as overlay:
            assert overlay.height > size[0], "the legend lies below"
        assert (tmp_path / "out" / "attention" / f"{number}.jpg").is_file()
    suffixes = {path.suffix for path in (tmp_path / "out").rglob("*.*")}
    assert suffixes == {".png", ".jpg", ".npz"}, "no temporary file stays"


def test_a_failing_network_is_reported_and_says_what_to_do_when_memory_runs_out(tmp_path, caplog):
    class Full(EMANet):
        def forward(self, image, return_bases=False, low=False):
            raise RuntimeError("CUDA out of memory. Tried to allocate 20 GiB")

    full = Predictor(Full(len(NAMES), **OPTIONS), class_names=NAMES, palette=PALETTE, **STATISTICS, device="cpu")
    Image.fromarray(photo()).save(tmp_path / "big.png")
    results = Results(tmp_path / "out", full)
    predict_sources(find_sources(str(tmp_path)), results, read=read_picture)
    assert len(results.failed) == 1
    assert "inference.window=513" in caplog.text


def test_the_legend_names_what_there_is_and_how_much(predictor):
    mask = np.zeros((100, 300), np.uint8)
    mask[:, :75] = 2
    picture = np.array(overlay_with_legend(np.full((100, 300, 3), 255, np.uint8), mask, predictor))
    below = picture[100:].reshape(-1, 3)
    shown = {tuple(color) for color in np.unique(below, axis=0).tolist()}
    assert tuple(PALETTE[0].tolist()) in shown
    assert tuple(PALETTE[2].tolist()) in shown
    assert tuple(PALETTE[1].tolist()) not in shown
    np.testing.assert_array_equal(picture[50, 10], np.rint(127.5 + PALETTE[2] / 2))


def test_only_neighbors_of_one_size_are_batched():
    shapes = [(5, 5), (5, 5), (5, 5), (6, 5), (5, 5)]
    pictures = [(Source(Path(str(i)), str(i)), np.zeros((*shape, 3), np.uint8)) for i, shape in enumerate(shapes)]
    groups = [[source.name for source, _ in group] for group in same_size(iter(pictures), 2)]
    assert groups == [["0", "1"], ["2"], ["3"], ["4"]]


def test_a_video_gives_a_video_of_overlays_and_a_mask_per_frame(predictor, tmp_path):
    clip = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(clip), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for number in range(5):
        writer.write(np.full((48, 64, 3), 40 * number, np.uint8))
    writer.release()
    (tmp_path / "broken.mp4").write_text("no video")
    results = Results(tmp_path / "out", predictor)
    predict_sources(find_sources(str(tmp_path)), results, read=read_picture, batch_size=2)
    assert results.failed == [str(tmp_path / "broken.mp4")]
    assert results.done == 1
    overlays = Video(tmp_path / "out" / "overlays" / "clip.mp4")
    frames = list(overlays)
    assert overlays.rate == 10
    assert len(frames) == 5
    assert frames[0].shape[0] > 48, "the legend lies below"
    masks = sorted(path.name for path in (tmp_path / "out" / "masks" / "clip").iterdir())
    assert masks == [f"{number:06}.png" for number in range(5)]
    third = list(Video(clip))[3]
    with Image.open(tmp_path / "out" / "masks" / "clip" / "000003.png") as mask:
        np.testing.assert_array_equal(np.array(mask), predictor(third).mask)
    assert {path.suffix for path in (tmp_path / "out").rglob("*.*")} == {".mp4", ".png"}, "no temporary file stays"
