"""Own masks in every encoding lead to the same classes; every known mistake meets its message."""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emanet.common.errors import ConfigError, DatasetError
from emanet.data.datasets.folder import Folder
from fake_data import save_gray_png, save_image, save_list, save_palette_png, write_folder

COLORS = {"ground": [90, 90, 90], "disc": [220, 60, 60], "square": [60, 120, 220], "ignore": [0, 0, 0]}
NAMES = ["ground", "disc", "square"]
TABLE = "".join(f"{name}: {color}\n" for name, color in COLORS.items())


def as_index(root: Path, name: str, labels: np.ndarray) -> None:
    save_gray_png(root / f"{name}.png", labels)


def as_palette(root: Path, name: str, labels: np.ndarray) -> None:
    save_palette_png(root / f"{name}.png", labels)


def as_rgb(root: Path, name: str, labels: np.ndarray) -> None:
    pixels = np.zeros((*labels.shape, 3), np.uint8)
    for label, color in enumerate(COLORS.values()):
        pixels[labels == (255 if label == 3 else label)] = color
    save_image(root / f"{name}.png", pixels)


def as_folders(root: Path, name: str, labels: np.ndarray) -> None:
    for label, kind in enumerate(NAMES):
        save_gray_png(root / kind / f"{name}.png", np.where(labels == label, 255, 0))


@pytest.mark.parametrize("layout", ["folders", "lists", "ratio"])
@pytest.mark.parametrize(
    ("write", "options"),
    [
        (as_index, {"class_names": NAMES}),
        (as_palette, {"class_file": "names.txt"}),
        (as_rgb, {"class_file": "classes.yaml", "mask_encoding": "rgb"}),
        (as_folders, {"class_file": "names.yaml", "mask_encoding": "folders"}),
    ],
)
def test_every_encoding_split_and_file_of_names_gives_the_same_classes(
    tmp_path: Path, layout: str, write: Callable, options: dict
):
    (tmp_path / "names.txt").write_text("\n".join(NAMES))
    (tmp_path / "names.yaml").write_text("".join(f"- {name}\n" for name in NAMES))
    (tmp_path / "classes.yaml").write_text(TABLE)
    rng, labels = np.random.default_rng(0), {}
    for split, count in {"train": 4, "val": 2}.items():
        inner = split if layout == "folders" else ""
        names = [f"{split}{i}" for i in range(count)]
        for name in names:
            labels[name] = rng.choice([0, 1, 2, 255], (8, 9))
            save_image(tmp_path / "images" / inner / f"{name}.jpg", np.zeros((8, 9, 3), np.uint8))
            write(tmp_path / "masks" / inner, name, labels[name])
        if layout == "lists":
            save_list(tmp_path / f"{split}.txt", names)
    options = options | {key: str(tmp_path / value) for key, value in options.items() if key == "class_file"}
    datamodule = Folder(root=tmp_path, val_ratio=1 / 3 if layout == "ratio" else 0.0, **options)
    assert datamodule.class_names == tuple(NAMES)
    read = datamodule.labels()
    seen = {split: datamodule.samples(split) for split in ("train", "val")}
    assert {split: len(samples) for split, samples in seen.items()} == {"train": 4, "val": 2}
    assert {sample.name for samples in seen.values() for sample in samples} == set(labels)
    for samples in seen.values():
        for sample in samples:
            np.testing.assert_array_equal(read(sample), labels[sample.name])


def test_colors_of_the_class_file_are_those_of_the_pictures(tmp_path: Path):
    (tmp_path / "classes.yaml").write_text(TABLE)
    datamodule = Folder(root=tmp_path, class_file=tmp_path / "classes.yaml", mask_encoding="rgb")
    assert datamodule.palette.tolist() == [COLORS[name] for name in NAMES]
    changed = Folder(
        root=tmp_path, class_file=tmp_path / "classes.yaml", mask_encoding="rgb", colors={"disc": [1, 2, 3]}
    )
    assert changed.palette[1].tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [1, 2\n", "is no YAML"), ("a: 1\nb: 2\n", "pairs 'name: "), ("7\n", "got int"), ("", "got NoneType")],
)
def test_a_class_file_of_another_shape_is_refused(tmp_path: Path, text: str, message: str):
    (tmp_path / "classes.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        Folder(root=tmp_path, class_file=tmp_path / "classes.yaml")


def replace_by_jpeg(root: Path) -> None:
    path = root / "masks" / "train" / "train0.png"
    Image.open(path).convert("L").save(path.with_suffix(".jpg"))
    path.unlink()


def jpeg_named_png(root: Path) -> None:
    path = root / "masks" / "train" / "train0.png"
    Image.open(path).convert("L").save(path, format="JPEG")


MISTAKES = [
    (lambda root: as_index(root / "masks" / "train", "train0", np.full((60, 80), 7)), "label 7 in 4800 pixels"),
    (replace_by_jpeg, "stored as JPEG"),
    (jpeg_named_png, "stored as JPEG"),
    (
        lambda root: as_rgb(root / "masks" / "train", "train0", np.zeros((60, 80))),
        "color channels .*mask_encoding=rgb",
    ),
    (lambda root: (root / "masks" / "train" / "train0.png").unlink(), "1 images of split 'train' have no mask"),
]


@pytest.mark.parametrize(("spoil", "message"), MISTAKES)
def test_a_mistake_is_met_before_training_starts(tmp_path: Path, spoil: Callable[[Path], object], message: str):
    write_folder(tmp_path)
    spoil(tmp_path)
    with pytest.raises(DatasetError, match=message):
        Folder(root=tmp_path, num_classes=3).setup("fit")


def test_an_image_without_a_file_in_any_class_folder_is_met_before_training_starts(tmp_path: Path):
    for name in ("a", "b"):
        save_image(tmp_path / "images" / "train" / f"{name}.jpg", np.zeros((8, 9, 3), np.uint8))
    as_folders(tmp_path / "masks" / "train", "a", np.eye(8, 9))
    with pytest.raises(DatasetError, match=r"1 images of split 'train' have no mask in .*: b\.jpg"):
        Folder(root=tmp_path, class_names=NAMES, mask_encoding="folders").samples("train")


def test_an_all_background_split_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    write_folder(tmp_path, values=(0, 255))
    with caplog.at_level(logging.WARNING):
        Folder(root=tmp_path, class_names=NAMES).setup("fit")
    assert "the masks looked at hold only ground" in caplog.text
    assert "class_map={0: 0, 255: 1}" in caplog.text
