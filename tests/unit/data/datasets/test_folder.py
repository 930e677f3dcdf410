"""Own data: every layout and encoding, and every mistake that users make with them."""

import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from PIL import Image

from emanet.common.errors import ConfigError, DatasetError
from emanet.config.instantiate import call_target
from emanet.config.schema import CONF_DIR, register
from emanet.data.datasets.folder import Folder
from emanet.data.items import read_pair
from emanet.model.network import EMANet
from emanet.training.build import build_task
from fake_data import SIZE, picture, save_gray_png, save_image, save_list, write_folder


def folder(root: Path, **options) -> Folder:
    return Folder(root=root, **({"batch_size": 2, "num_workers": 0, "crop_size": 33} | options))


def classes(data: Folder, split: str = "train") -> dict[str, np.ndarray]:
    return {sample.name: read_pair(sample, data.labels())[1] for sample in data.samples(split)}


@pytest.mark.parametrize("layout", ["folders", "lists"])
def test_splits_come_from_folders_or_lists(tmp_path: Path, layout: str):
    raw = write_folder(tmp_path, layout=layout)
    data = folder(tmp_path, num_classes=3)
    assert [sample.name for sample in data.samples("train")] == ["train0", "train1", "train2", "train3"]
    assert [sample.name for sample in data.samples("val")] == ["val0", "val1"]
    assert all(np.array_equal(mask, raw[name]) for name, mask in classes(data).items())


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


def test_names_come_from_a_list_a_text_file_a_yaml_file_or_a_count(tmp_path: Path):
    save_list(tmp_path / "names.txt", ["sky", "tall tree", "road"])
    (tmp_path / "names.yaml").write_text("- sky\n- tall tree\n- road\n")
    expected = ("sky", "tall tree", "road")
    assert folder(tmp_path, class_names=list(expected)).class_names == expected
    assert folder(tmp_path, class_file=str(tmp_path / "names.txt")).class_names == expected
    assert folder(tmp_path, class_file=str(tmp_path / "names.yaml")).class_names == expected
    assert folder(tmp_path, num_classes=2).class_names == ("class 0", "class 1")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "say the classes in one way"),
        ({"num_classes": 2, "class_names": ["a", "b"]}, "say the classes in one way"),
        ({"class_names": ["a", "a"]}, "different names, got 2: a, a"),
        ({"num_classes": 255}, "1 to 254 different names, got 255"),
        ({"class_file": "gone.yaml"}, r"class_file=gone\.yaml: no such file"),
        ({"num_classes": 2, "class_map": {300: 1}}, r"0\.\.255, got \[300\]"),
        ({"num_classes": 2, "class_map": {3: 2}}, r"classes 0\.\.1 or 255, got \[2\]"),
        ({"class_names": ["a", "b"], "mask_encoding": "rgb", "colors": {"a": [0, 0, 0]}}, r"not for \['b'\]"),
        (
            {"class_names": ["a"], "mask_encoding": "rgb", "colors": {"a": [0, 0]}},
            r"three numbers 0\.\.255, got \[0, 0\]",
        ),
    ],
)
def test_senseless_options_are_refused_with_what_was_got(tmp_path: Path, options: dict, message: str):
    write_folder(tmp_path)
    with pytest.raises(ConfigError, match=message):
        folder(tmp_path, **options).labels()


def test_a_class_map_and_an_ignore_label_give_raw_values_their_meaning(tmp_path: Path):
    raw = write_folder(tmp_path, values=(0, 10, 20, 99))
    data = folder(tmp_path, num_classes=2, class_map={10: 0, 20: 1, 99: 255}, ignore_label=0)
    for name, mask in classes(data).items():
        for value, label in {0: 255, 10: 0, 20: 1, 99: 255}.items():
            assert (mask[raw[name] == value] == label).all()


def test_labels_beyond_the_class_count_are_named_with_the_way_out(tmp_path: Path):
    write_folder(tmp_path, values=(0, 1, 2))
    data = folder(tmp_path, num_classes=2)
    with pytest.raises(DatasetError, match=r"train0\.png: label 2 in .* none of the 2 classes.*dataset\.class_map"):
        data.setup("fit")


def test_colors_become_classes_and_unknown_ones_are_named(tmp_path: Path):
    raw = write_folder(tmp_path, values=(0, 1, 2))
    table = np.array([(255, 0, 0), (0, 255, 0), (1, 2, 3)], np.uint8)
    for path in tmp_path.glob("masks/*/*.png"):
        save_image(path, table[raw[path.stem]])
    colors = {"red": [255, 0, 0], "green": [0, 255, 0], "ignore": [1, 2, 3]}
    data = folder(tmp_path, class_names=["red", "green"], mask_encoding="rgb", colors=colors)
    for name, mask in classes(data).items():
        assert np.array_equal(mask, np.array([0, 1, 255])[raw[name]])
    assert data.palette.tolist() == [[255, 0, 0], [0, 255, 0]]
    del colors["ignore"]
    with pytest.raises(DatasetError, match=r"colors without a class: \(1, 2, 3\)"):
        folder(tmp_path, class_names=["red", "green"], mask_encoding="rgb", colors=colors).setup("fit")
    with pytest.raises(DatasetError, match=r"color channels \(mode RGB\)"):
        folder(tmp_path, num_classes=2).setup("fit")


@pytest.mark.parametrize("background", [True, False])
def test_one_folder_per_class_is_read_with_later_classes_on_top(tmp_path: Path, background: bool):
    write_folder(tmp_path, n_train=2, n_val=1)
    for path in tmp_path.glob("masks/*/*.png"):
        path.unlink()
    for split, name in (("train", "train0"), ("train", "train1"), ("val", "val0")):
        for number, kind in enumerate(("cat", "dog")):
            mask = np.zeros(SIZE, np.uint8)
            mask[10 * number : 10 * number + 20] = 255
            save_image(tmp_path / "masks" / split / kind / f"{name}.png", mask)
    names = ["ground", "cat", "dog"] if background else ["cat", "dog"]
    data = folder(tmp_path, class_names=names, mask_encoding="folders")
    columns = classes(data)["train0"][:, 0].tolist()
    cat, dog = names.index("cat"), names.index("dog")
    assert columns == [cat] * 10 + [dog] * 20 + [0 if background else 255] * 30
    (tmp_path / "masks/train/cat/train1.png").unlink()
    (tmp_path / "masks/train/dog/train1.png").unlink()
    with pytest.raises(DatasetError, match=r"train1\.jpg: no mask in any of"):
        classes(data)


def test_images_without_masks_are_counted_and_named(tmp_path: Path):
    write_folder(tmp_path)
    (tmp_path / "masks/train/train1.png").unlink()
    with pytest.raises(DatasetError, match=r"1 images of split 'train' have no mask in .*: train1\.jpg"):
        folder(tmp_path, num_classes=3).setup("fit")


def test_a_mask_suffix_joins_differently_named_files(tmp_path: Path):
    write_folder(tmp_path)
    for path in tmp_path.glob("masks/*/*.png"):
        path.rename(path.with_name(f"{path.stem}_mask.png"))
    assert len(classes(folder(tmp_path, num_classes=3, mask_suffix="_mask"))) == 4


def test_jpeg_masks_are_refused_in_each_encoding(tmp_path: Path):
    write_folder(tmp_path)
    for path in tmp_path.glob("masks/*/*.png"):
        Image.open(path).convert("RGB").save(path.with_suffix(".jpg"))
        path.unlink()
    colors = {"a": [0, 0, 0]}
    for options in ({"num_classes": 3}, {"class_names": ["a"], "mask_encoding": "rgb", "colors": colors}):
        with pytest.raises(DatasetError, match=r"train0\.jpg: a mask stored as JPEG"):
            folder(tmp_path, **options).setup("fit")


def test_a_split_of_one_class_only_is_warned_of_with_the_usual_cause(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    write_folder(tmp_path, values=(0, 255))
    with caplog.at_level(logging.WARNING):
        folder(tmp_path, num_classes=2).setup("fit")
    assert "split 'train': the masks looked at hold only class 0" in caplog.text
    assert "class_map={0: 0, 255: 1}" in caplog.text
    caplog.clear()
    data = folder(tmp_path, num_classes=2, class_map={0: 0, 255: 1})
    data.setup("fit")
    assert not caplog.text
    assert np.unique(classes(data)["train0"]).tolist() == [0, 1]


def test_a_split_that_is_only_predicted_needs_no_masks(tmp_path: Path):
    write_folder(tmp_path)
    save_image(tmp_path / "images/new/a.jpg", picture(np.random.default_rng(0)))
    batch = next(iter(folder(tmp_path, num_classes=3, predict_split="new").predict_dataloader()))
    assert batch["name"] == ["a"]
    assert "mask" not in batch


def test_two_images_of_one_name_and_unknown_names_in_a_list_are_refused(tmp_path: Path):
    write_folder(tmp_path, layout="lists")
    save_list(tmp_path / "val.txt", ["val0.jpg", "ghost"])
    with pytest.raises(DatasetError, match=r"val\.txt names 1 unknown images: ghost"):
        folder(tmp_path, num_classes=3).samples("val")
    save_image(tmp_path / "images/val0.png", picture(np.random.default_rng(0)))
    with pytest.raises(DatasetError, match=r"val0\.png and val0\.jpg: two files of one name"):
        folder(tmp_path, num_classes=3).samples("train")


def test_a_folder_without_splits_says_the_three_ways(tmp_path: Path):
    write_folder(tmp_path, layout="none")
    with pytest.raises(DatasetError, match=r"images/train or .*train\.txt.*images/train, masks/train.*val_ratio=0\.2"):
        folder(tmp_path, num_classes=3).setup("fit")


@pytest.mark.parametrize("ratio", [-0.1, 1.0, 20.0, float("nan")])
def test_a_ratio_that_is_no_share_is_refused(tmp_path: Path, ratio: float):
    with pytest.raises(ConfigError, match=rf"val_ratio must be at least 0 and below 1, got {ratio}"):
        folder(tmp_path, num_classes=3, val_ratio=ratio)


@pytest.mark.parametrize(("ratio", "held_out"), [(0.01, 1), (0.25, 1), (0.5, 2), (0.99, 3)])
def test_a_ratio_leaves_an_image_on_either_side(tmp_path: Path, ratio: float, held_out: int):
    write_folder(tmp_path, n_train=3, n_val=1, layout="none")
    data = folder(tmp_path, num_classes=3, val_ratio=ratio)
    assert {split: len(data.samples(split)) for split in ("train", "val")} == {"train": 4 - held_out, "val": held_out}


def test_an_image_in_both_lists_is_warned_of_once(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    write_folder(tmp_path, layout="lists")
    data = folder(tmp_path, num_classes=3)
    data.setup("fit")
    assert not caplog.text
    save_list(tmp_path / "val.txt", ["val0", "train1.jpg"])
    data = folder(tmp_path, num_classes=3)
    data.setup("fit")
    data.setup("validate")
    assert caplog.text.count("1 images are in split 'train' and in split 'val': train1;") == 1


@pytest.fixture
def composed() -> Iterator[Callable[..., Folder]]:
    """Builds the data module of a command line."""
    register()

    def build(root: Path, *overrides: str) -> Folder:
        with initialize_config_dir(CONF_DIR, version_base="1.3"):
            cfg = compose("train", ["dataset=folder", f"dataset.root={root}", "dataset.num_workers=0", *overrides])
        return call_target(cfg.dataset)

    yield build
    GlobalHydra.instance().clear()


def quoted(key: str, *files: str) -> list[str]:
    """Overrides of a key that the texts tell users to type, in the shell's quotes."""
    texts = [(Path(CONF_DIR).parent / file).read_text(encoding="utf-8") for file in files]
    return [override for text in texts for override in re.findall(rf"'(dataset\.{key}=[^']*)'", text)]


def test_the_class_map_of_the_texts_can_be_typed(tmp_path: Path, composed: Callable[..., Folder]):
    overrides = quoted("class_map", "docs/own_data.md", "data/folder/README.md", "src/emanet/data/datasets/folder.py")
    assert overrides == ["dataset.class_map={0: 0, 255: 1}"] * 3
    raw = write_folder(tmp_path, values=(0, 255))
    data = composed(tmp_path, "dataset.num_classes=2", overrides[0])
    for name, mask in classes(data).items():
        assert np.array_equal(mask, raw[name] // 255)


def test_the_colors_of_the_texts_can_be_typed(tmp_path: Path, composed: Callable[..., Folder]):
    (override,) = quoted("colors", "data/folder/README.md")
    data = composed(tmp_path, "dataset.class_names=[sky,tree,road]", "dataset.mask_encoding=rgb", override)
    assert data.palette.tolist() == [[0, 0, 255], [0, 255, 0], [9, 9, 9]]
    data = composed(
        tmp_path, "dataset.class_names=[road]", "dataset.mask_encoding=rgb", "dataset.colors={road: [128,64,128]}"
    )
    assert data.colors == {"road": (128, 64, 128)}


def test_the_messages_of_own_data_are_those_that_are_printed():
    text = (Path(CONF_DIR).parent / "docs/own_data.md").read_text(encoding="utf-8")
    quoted_message = re.search(r"`(loss\.class_weights must[^`]*)`", text)
    assert quoted_message is not None
    cfg = OmegaConf.create({"loss": {"class_weights": [1, 1]}})
    net = EMANet.__new__(EMANet)  # not looked at
    with pytest.raises(ConfigError, match=re.escape(quoted_message[1])):
        build_task(cfg, net, folder(Path("unread"), num_classes=3))
