"""Own data: every layout and encoding leads to the same classes; every known mistake meets its message."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from PIL import Image

from emanet.common.errors import ConfigError, DatasetError
from emanet.data import Folder
from emanet.data.datasets.folder import LOOKED_AT
from emanet.data.items import read_pair
from fake_data import SIZE, picture, save_gray_png, save_image, save_list, save_palette_png, write_folder

ROOT = Path(__file__).parents[4]
COLORS = {"ground": [90, 90, 90], "disc": [220, 60, 60], "square": [60, 120, 220], "ignore": [0, 0, 0]}
NAMES = ["ground", "disc", "square"]
TABLE = "".join(f"{name}: {color}\n" for name, color in COLORS.items())


def folder(root: Path, **options) -> Folder:
    return Folder(root=root, **({"batch_size": 2, "num_workers": 0, "crop_size": 33} | options))


def classes(data: Folder, split: str = "train") -> dict[str, np.ndarray]:
    return {sample.name: read_pair(sample, data.labels())[1] for sample in data.samples(split)}


def as_index(root: Path, name: str, labels: np.ndarray) -> None:
    save_gray_png(root / f"{name}.png", labels)


def as_palette(root: Path, name: str, labels: np.ndarray) -> None:
    save_palette_png(root / f"{name}.png", labels)


def as_suffixed(root: Path, name: str, labels: np.ndarray) -> None:
    save_palette_png(root / f"{name}_mask.png", labels)


def as_rgb(root: Path, name: str, labels: np.ndarray) -> None:
    save_image(root / f"{name}.png", np.array(list(COLORS.values()), np.uint8)[np.minimum(labels, 3).astype(int)])


def as_folders(root: Path, name: str, labels: np.ndarray) -> None:
    for label, kind in enumerate(NAMES):
        save_gray_png(root / kind / f"{name}.png", np.where(labels == label, 255, 0))


@pytest.mark.parametrize("layout", ["folders", "lists", "ratio"])
@pytest.mark.parametrize(
    ("write", "options"),
    [
        (as_index, {"class_names": NAMES}),
        (as_palette, {"class_file": "names.txt"}),
        (as_suffixed, {"class_names": NAMES, "mask_suffix": "_mask"}),
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
    data = folder(tmp_path, val_ratio=1 / 3 if layout == "ratio" else 0.0, **options)
    assert data.class_names == tuple(NAMES)
    found = {split: classes(data, split) for split in ("train", "val")}
    assert {split: len(masks) for split, masks in found.items()} == {"train": 4, "val": 2}
    assert found["train"].keys() | found["val"].keys() == set(labels)
    for masks in found.values():
        for name, mask in masks.items():
            np.testing.assert_array_equal(mask, labels[name])


def test_a_ratio_splits_without_overlap_and_keeps_its_choice_when_images_join(tmp_path: Path):
    write_folder(tmp_path, n_train=30, n_val=10, layout="none")
    data = folder(tmp_path, num_classes=3, val_ratio=0.25)
    train, val = ({sample.name for sample in data.samples(split)} for split in ("train", "val"))
    assert len(val) == 10
    assert not train & val
    assert len(train | val) == 40
    save_image(tmp_path / "images" / "new.jpg", picture(np.random.default_rng(0)))
    save_gray_png(tmp_path / "masks" / "new.png", np.zeros(SIZE))
    later = {sample.name for sample in folder(tmp_path, num_classes=3, val_ratio=0.25).samples("val")}
    assert len(later & val) >= 9


@pytest.mark.parametrize(("ratio", "held_out"), [(0.01, 1), (0.25, 1), (0.5, 2), (0.99, 3)])
def test_a_ratio_leaves_an_image_on_either_side(tmp_path: Path, ratio: float, held_out: int):
    write_folder(tmp_path, n_train=3, n_val=1, layout="none")
    data = folder(tmp_path, num_classes=3, val_ratio=ratio)
    assert {split: len(data.samples(split)) for split in ("train", "val")} == {"train": 4 - held_out, "val": held_out}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "say the classes in one way"),
        ({"num_classes": 2, "class_names": ["a", "b"]}, "say the classes in one way"),
        ({"class_names": ["a", "a"]}, "different names, got a twice"),
        ({"num_classes": 255}, "1 to 254 classes, got 255"),
        ({"class_names": ["a", " "]}, "the name of a class is a text"),
        ({"class_file": "gone.yaml"}, r"class_file=gone\.yaml: no such file"),
        ({"num_classes": 2, "class_map": {300: 1}}, r"0\.\.255, got \[300\]"),
        ({"num_classes": 2, "class_map": {3: 2}}, r"classes 0\.\.1 or 255, got \[2\]"),
        ({"num_classes": 2, "val_ratio": 20.0}, r"val_ratio must be at least 0 and below 1, got 20\.0"),
        ({"num_classes": 2, "val_ratio": float("nan")}, "val_ratio must be at least 0 and below 1, got nan"),
        ({"class_names": ["a", "b"], "mask_encoding": "rgb", "colors": {"a": [0, 0, 0]}}, r"not for \['b'\]"),
        (
            {"class_names": ["a"], "mask_encoding": "rgb", "colors": {"a": [0, 0]}},
            r"three numbers 0\.\.255, got \[0, 0\]",
        ),
        *(
            (
                {"class_names": ["a", "b", "c"], "mask_encoding": "rgb", "colors": colors},
                f"colors: {names} share a color",
            )
            for colors, names in [
                ({"a": [0, 0, 0], "b": [9, 9, 9], "c": [9, 9, 9]}, "b, c"),
                ({"a": [0, 0, 0], "b": [9, 9, 9], "c": [8, 8, 8], "ignore": [0, 0, 0]}, "a, ignore"),
            ]
        ),
    ],
)
def test_senseless_options_are_refused_with_what_was_got(tmp_path: Path, options: dict, message: str):
    write_folder(tmp_path)
    with pytest.raises(ConfigError, match=message):
        folder(tmp_path, **options).labels()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1, 2\n", "is no YAML"),
        ("a: 1\nb: 2\n", "pairs 'name: .*, got \\{'a': '1', 'b': '2'\\}"),
        ("a: [1, 2, x]\n", r"got \{'a': \['1', '2', 'x'\]\}"),
        ("7\n", "got '7'"),
        ("", "got None"),
        ("- a\n- b: c\n", r"got \['a', \{'b': 'c'\}\]"),
        ("- a\n-\n", "the name of a class is a text, got \\[''\\]"),
        ("- a\n- a\n", "different names, got a twice"),
        ("a: [1, 1, 1]\nb: [2, 2, 2]\na: [3, 3, 3]\n", "names a twice"),
        ("a: [1, 1, 1]\nignore: [2, 2, 2]\nignore: [3, 3, 3]\n", "names ignore twice"),
    ],
)
def test_a_class_file_of_another_shape_is_refused(tmp_path: Path, text: str, message: str):
    (tmp_path / "classes.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        folder(tmp_path, class_file=tmp_path / "classes.yaml")


@pytest.mark.parametrize("form", ["- {}\n", "{}: [{}, 0, 0]\n"])
def test_names_in_yaml_are_taken_as_they_are_written(tmp_path: Path, form: str):
    names = ["no", "012", "null", "~", "1.50", "2024-01-01", "Yes"]
    (tmp_path / "classes.yaml").write_text("".join(form.format(name, number) for number, name in enumerate(names)))
    data = folder(tmp_path, class_file=tmp_path / "classes.yaml")
    assert data.class_names == tuple(names)
    assert list(data.colors.values()) == ([(number, 0, 0) for number in range(7)] if ":" in form else [])


def test_colors_of_the_class_file_are_those_of_the_pictures_and_options_change_them(tmp_path: Path):
    (tmp_path / "classes.yaml").write_text(TABLE)
    options = {"class_file": tmp_path / "classes.yaml", "mask_encoding": "rgb"}
    assert folder(tmp_path, **options).palette.tolist() == [COLORS[name] for name in NAMES]
    assert folder(tmp_path, **options, colors={"disc": [1, 2, 3]}).palette[1].tolist() == [1, 2, 3]


def test_a_class_map_and_an_ignore_label_give_raw_values_their_meaning(tmp_path: Path):
    raw = write_folder(tmp_path, values=(0, 10, 20, 99))
    data = folder(tmp_path, num_classes=2, class_map={10: 0, 20: 1, 99: 255}, ignore_label=0)
    assert data.class_names == ("class 0", "class 1")
    for name, mask in classes(data).items():
        for value, label in {0: 255, 10: 0, 20: 1, 99: 255}.items():
            assert (mask[raw[name] == value] == label).all()


@pytest.mark.parametrize("names", [["ground", "cat", "dog"], ["cat", "dog"]], ids=["background", "none"])
def test_of_one_folder_per_class_later_classes_lie_on_top_and_the_rest_is_background_or_ignored(
    tmp_path: Path, names: list[str]
):
    save_image(tmp_path / "images" / "train" / "a.jpg", np.zeros((*SIZE, 3), np.uint8))
    for number, kind in enumerate(("cat", "dog")):
        mask = np.zeros(SIZE, np.uint8)
        mask[10 * number : 10 * number + 20] = 255
        save_image(tmp_path / "masks" / "train" / kind / "a.png", mask)
    column = classes(folder(tmp_path, class_names=names, mask_encoding="folders"))["a"][:, 0].tolist()
    rest = 0 if "ground" in names else 255
    assert column == [names.index("cat")] * 10 + [names.index("dog")] * 20 + [rest] * 30


def white_first(pixels: np.ndarray) -> Image.Image:
    drawn = Image.fromarray((pixels == 0).astype(np.uint8))
    drawn.putpalette([255, 255, 255, 0, 0, 0])
    return drawn


@pytest.mark.parametrize(
    ("place", "draw"),
    [
        *((f"square/a{suffix}", Image.fromarray) for suffix in (".png", ".PNG", ".tif", ".bmp")),
        ("Square/a.png", Image.fromarray),
        ("square/a.png", white_first),
        ("square/a.png", lambda pixels: Image.fromarray(pixels).convert("1")),
        ("square/a.png", lambda pixels: Image.fromarray(pixels // 255)),
        ("square/a.png", lambda pixels: Image.fromarray(pixels.astype(np.uint16) * 257)),
    ],
)
def test_a_class_whose_file_is_there_is_seen_however_spelled_and_drawn(tmp_path: Path, place: str, draw: Callable):
    pixels = np.zeros((10, 10), np.uint8)
    pixels[:, :5] = 255
    save_image(tmp_path / "images" / "train" / "a.jpg", np.zeros((10, 10, 3), np.uint8))
    save_image(tmp_path / "masks" / "train" / "disc" / "a.png", pixels.T.copy())
    path = tmp_path / "masks" / "train" / place
    path.parent.mkdir(exist_ok=True)
    draw(pixels).save(path.with_suffix(path.suffix.lower()))
    path.with_suffix(path.suffix.lower()).rename(path)
    data = folder(tmp_path, class_names=NAMES, mask_encoding="folders")
    assert np.array_equal(classes(data)["a"], np.where(pixels, 2, np.where(pixels.T, 1, 0)))


def test_class_folders_that_could_mean_two_or_no_class_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    save_image(tmp_path / "images" / "train" / "a.jpg", np.zeros((*SIZE, 3), np.uint8))
    for kind in ("disc", "Square", "suqare"):
        save_image(tmp_path / "masks" / "train" / kind / "a.png", np.full(SIZE, 255, np.uint8))
    options = {"class_names": NAMES, "mask_encoding": "folders"}
    assert np.unique(classes(folder(tmp_path, **options))["a"]).tolist() == [2]
    assert "no class is called like the folders suqare; they are not read" in caplog.text
    save_image(tmp_path / "masks" / "train" / "SQUARE" / "a.png", np.full(SIZE, 255, np.uint8))
    with pytest.raises(DatasetError, match=r"SQUARE and Square: two folders of one class"):
        folder(tmp_path, **options).samples("train")
    cased = folder(tmp_path, class_names=["Square", "SQUARE"], mask_encoding="folders")
    assert np.unique(classes(cased)["a"]).tolist() == [1]


def as_jpeg(mask: Path, name: Path) -> None:
    pixels = Image.open(mask).convert("RGB")
    mask.unlink()
    pixels.save(name, format="JPEG")


RGB = {"num_classes": None, "class_names": ["a"], "mask_encoding": "rgb", "colors": {"a": [90, 90, 90]}}
KINDS = {"num_classes": None, "class_names": NAMES, "mask_encoding": "folders"}
MISTAKES = [
    (lambda mask, _: save_gray_png(mask, np.full(SIZE, 7)), {}, r"train0\.png: label 7 in 4800 .*dataset\.class_map"),
    (lambda mask, _: as_jpeg(mask, mask), {}, "stored as JPEG"),
    (lambda mask, _: as_jpeg(mask, mask.with_suffix(".jpg")), {}, r"train0\.jpg: a mask stored as JPEG"),
    (lambda mask, _: as_jpeg(mask, mask.with_suffix(".jpg")), RGB, r"train0\.jpg: a mask stored as JPEG"),
    (lambda mask, _: as_rgb(mask.parent, "train0", np.zeros(SIZE)), {}, "color channels .*mask_encoding=rgb"),
    (lambda mask, _: as_rgb(mask.parent, "train0", np.ones(SIZE)), RGB, r"without a class: \(220, 60, 60\);"),
    (lambda mask, _: mask.unlink(), {}, r"1 images of split 'train' have no mask in .*: train0\.jpg"),
    (lambda mask, _: as_folders(mask.parent, "train1", np.ones(SIZE)), KINDS, "3 images of split 'train' have no mask"),
    (
        lambda _, image: save_image(image.with_suffix(".png"), np.zeros((*SIZE, 3), np.uint8)),
        {},
        "two files of one name",
    ),
]


@pytest.mark.parametrize(("change", "options", "message"), MISTAKES)
def test_a_mistake_is_met_before_training_starts(tmp_path: Path, change: Callable, options: dict, message: str):
    write_folder(tmp_path)
    change(tmp_path / "masks/train/train0.png", tmp_path / "images/train/train0.jpg")
    with pytest.raises(DatasetError, match=message):
        folder(tmp_path, **{"num_classes": 3} | options).setup("fit")


def test_an_image_that_a_list_names_twice_counts_once(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    write_folder(tmp_path, layout="lists")
    save_list(tmp_path / "val.txt", ["val1", "val0", "val1", "val1.jpg"])
    assert [sample.name for sample in folder(tmp_path, num_classes=3).samples("val")] == ["val1", "val0"]
    assert "split 'val' lists val1.jpg more than once; each counts once" in caplog.text


def test_pictures_in_deeper_folders_are_left_out_in_words(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    write_folder(tmp_path)
    save_image(tmp_path / "images/train/scene/deep/b.jpg", picture(np.random.default_rng(0)))
    save_image(tmp_path / "images/train/.thumbnails/a.jpg", picture(np.random.default_rng(0)))
    assert len(folder(tmp_path, num_classes=3).samples("train")) == 4
    assert "1 pictures in folders below" in caplog.text
    assert f"images/train are left out: {Path('scene/deep/b.jpg')}" in caplog.text


def test_unknown_names_in_a_list_are_refused(tmp_path: Path):
    write_folder(tmp_path, layout="lists")
    save_list(tmp_path / "val.txt", ["val0.jpg", "ghost"])
    with pytest.raises(DatasetError, match=r"val\.txt names 1 unknown images: ghost"):
        folder(tmp_path, num_classes=3).samples("val")


def test_a_folder_without_splits_says_the_three_ways(tmp_path: Path):
    write_folder(tmp_path, layout="none")
    with pytest.raises(DatasetError, match=r"images/train or .*train\.txt.*images/train, masks/train.*val_ratio=0\.2"):
        folder(tmp_path, num_classes=3).setup("fit")


def test_masks_of_0_and_255_are_refused_unless_255_has_a_meaning(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    write_folder(tmp_path, values=(0, 255))
    with pytest.raises(DatasetError, match=r"split 'train' hold only 0 and 255.*class_map=\{0: 0, 255: 1\}"):
        folder(tmp_path, num_classes=2).setup("fit")
    data = folder(tmp_path, num_classes=2, class_map={0: 0, 255: 1})
    data.setup("fit")
    assert not caplog.text
    assert np.unique(classes(data)["train0"]).tolist() == [0, 1]
    folder(tmp_path, num_classes=2, class_map={0: 0, 255: 255}).setup("fit")
    assert "split 'train': the masks looked at hold only class 0" in caplog.text


def test_a_rare_class_among_masks_of_0_and_255_is_found(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    write_folder(tmp_path, n_train=2 * LOOKED_AT, values=(0, 255))
    save_gray_png(tmp_path / "masks/train/train1.png", np.ones(SIZE))  # the first look takes every second one
    folder(tmp_path, num_classes=2).samples("train")
    assert not caplog.text


def test_an_image_in_both_lists_is_warned_of_once(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    write_folder(tmp_path, layout="lists")
    folder(tmp_path, num_classes=3).setup("fit")
    assert not caplog.text
    save_list(tmp_path / "val.txt", ["val0", "train1.jpg"])
    data = folder(tmp_path, num_classes=3)
    data.setup("fit")
    data.setup("validate")
    assert caplog.text.count("1 images are in split 'train' and in split 'val': train1;") == 1


def test_a_split_that_is_only_predicted_needs_no_masks(tmp_path: Path):
    write_folder(tmp_path)
    save_image(tmp_path / "images/new/a.jpg", picture(np.random.default_rng(0)))
    batch = next(iter(folder(tmp_path, num_classes=3, predict_split="new").predict_dataloader()))
    assert batch["name"] == ["a"]
    assert "mask" not in batch


def typed(key: str, *files: str) -> list:
    """What the texts tell users to type for a key, as Hydra understands it."""
    texts = [(ROOT / file).read_text(encoding="utf-8") for file in files]
    overrides = [override for text in texts for override in re.findall(rf"'(dataset\.{key}=[^']*)'", text)]
    return [override.value() for override in OverridesParser.create().parse_overrides(overrides)]


def test_the_class_map_and_the_colors_of_the_texts_can_be_typed(tmp_path: Path):
    files = ("docs/own_data.md", "data/folder/README.md", "src/emanet/data/datasets/folder.py")
    assert typed("class_map", *files) == [{0: 0, 255: 1}] * 3
    (colors,) = typed("colors", "data/folder/README.md")
    data = folder(tmp_path, class_names=["sky", "tree", "road"], mask_encoding="rgb", colors=colors)
    assert data.palette.tolist() == [[0, 0, 255], [0, 255, 0], [9, 9, 9]]
