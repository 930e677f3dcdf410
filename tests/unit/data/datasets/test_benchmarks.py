"""Each benchmark read from its real layout: hand-checked labels, compositions, and errors that say what to do."""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import fake_data
from emanet.common.errors import ConfigError, DatasetError
from emanet.data import ADE20K, VOC, Cityscapes, COCOStuff10K, COCOStuff164K, PascalContext, SegmentationDataModule
from emanet.data.datasets.coco_stuff import CLASSES, LUT_10K, LUT_164K
from emanet.data.datasets.pascal_context import CATEGORY_IDS
from emanet.data.datasets.pascal_context import CLASSES as CONTEXT
from emanet.data.items import read_pair
from emanet.inference.media import find_sources


def module(cls: type[SegmentationDataModule], root: Path, **options) -> SegmentationDataModule:
    return cls(root=root, **({"batch_size": 2, "num_workers": 0, "crop_size": 33} | options))


def classes(data: SegmentationDataModule, split: str) -> dict[str, np.ndarray]:
    labels = data.labels()
    return {sample.name: read_pair(sample, labels)[1] for sample in data.samples(split)}


Case = tuple[Callable, type[SegmentationDataModule], dict, dict[int, int], int]
CASES: dict[str, Case] = {
    # raw value -> class, by hand
    "voc": (fake_data.write_voc, VOC, {}, {0: 0, 1: 1, 15: 15, 20: 20, 255: 255}, 21),
    "context 59": (
        fake_data.write_pascal_context,
        PascalContext,
        {},
        {0: 255, 1: 255, 459: 255, 2: 0, 9: 1, 115: 23, 284: 36, 397: 49, 458: 58},
        59,
    ),
    "context 60": (
        lambda root: fake_data.write_pascal_context(root, "json"),
        PascalContext,
        {"num_classes": 60},
        {0: 0, 2: 1, 9: 2, 115: 24, 284: 37, 397: 50, 458: 59},
        60,
    ),
    "stuff 10k": (fake_data.write_coco_stuff_10k, COCOStuff10K, {}, {0: 255, 1: 0, 13: 11, 92: 80, 182: 170}, 171),
    "stuff 164k": (fake_data.write_coco_stuff_164k, COCOStuff164K, {}, {0: 0, 12: 11, 91: 80, 181: 170, 255: 255}, 171),
    "cityscapes": (fake_data.write_cityscapes, Cityscapes, {}, {0: 255, 4: 255, 7: 0, 8: 1, 26: 13, 33: 18}, 19),
    "ade20k": (fake_data.write_ade20k, ADE20K, {}, {0: 255, 1: 0, 2: 1, 150: 149}, 150),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_labels_of_the_real_layout_become_the_hand_checked_classes(tmp_path: Path, case: Case):
    write, cls, options, expected, number = case
    raw = write(tmp_path)
    data = module(cls, tmp_path, **options)
    assert data.num_classes == len(set(data.class_names)) == len(data.palette) == number
    seen = set()
    for split in (data.stage_splits["fit"], data.stage_splits["validate"]):
        for name, mask in classes(data, split).items():
            for value in np.unique(raw[name]).tolist():
                assert np.unique(mask[raw[name] == value]).tolist() == [expected[value]]
                seen.add(value)
    assert seen == set(expected)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_batches_have_the_promised_keys_types_and_shapes(tmp_path: Path, case: Case):
    write, cls, options, _, _ = case
    write(tmp_path)
    data = module(cls, tmp_path, **options)
    data.setup("fit")
    data.setup("fit")
    train, val = next(iter(data.train_dataloader())), next(iter(data.val_dataloader()))
    assert (train["image"].shape, train["mask"].shape, len(train["name"])) == ((2, 3, 33, 33), (2, 33, 33), 2)
    assert (train["image"].dtype, train["mask"].dtype) == (torch.float32, torch.int64)
    assert (val["image"].shape, val["mask"].shape) == ((1, 3, 60, 80), (1, 60, 80))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_hidden_files_beside_any_file_are_not_seen(tmp_path: Path, case: Case):
    write, cls, options, _, _ = case
    raw = write(tmp_path)
    for path in [path for path in tmp_path.rglob("*") if path.is_file()]:
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7" + bytes(78))
        path.with_name(".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    data = module(cls, tmp_path, **options)
    for split in (data.stage_splits["fit"], data.stage_splits["validate"]):
        assert classes(data, split).keys() <= raw.keys()
    assert not [source.name for source in find_sources(str(tmp_path)) if "._" in source.name]


def test_published_sizes_that_differ_are_said_with_both_numbers(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    fake_data.write_voc(tmp_path)
    with caplog.at_level(logging.WARNING):
        module(VOC, tmp_path).setup("fit")
    assert "voc: split 'train' has 4 images, expected 1464" in caplog.text
    assert "voc: split 'val' has 2 images, expected 1449" in caplog.text


def test_trainaug_joins_voc_and_sbd_without_voc_val_and_keeps_voc_masks(tmp_path: Path):
    voc, sbd = fake_data.write_voc(tmp_path), fake_data.write_sbd(tmp_path)
    data = module(VOC, tmp_path, train_split="trainaug")
    masks = classes(data, "trainaug")
    assert set(masks) == {name for name in (*voc, *sbd) if not name.startswith("2008")}
    assert len(masks) == len(data.samples("trainaug")) == 9
    assert np.array_equal(masks["2007_000000"], voc["2007_000000"])  # in both: VOC's, with its void edge
    assert np.array_equal(masks["2010_000000"], sbd["2010_000000"])


def test_a_ready_made_segmentationclassaug_with_trainaug_txt_is_accepted(tmp_path: Path):
    voc, sbd = fake_data.write_voc(tmp_path), fake_data.write_sbd(tmp_path)
    devkit = tmp_path / "VOCdevkit" / "VOC2012"
    names = sorted({name for name in (*voc, *sbd) if not name.startswith("2008")})
    for name in names:
        fake_data.save_gray_png(devkit / "SegmentationClassAug" / f"{name}.png", sbd.get(name, voc.get(name)))
    lines = [f"/JPEGImages/{name}.jpg /SegmentationClassAug/{name}.png" for name in names]
    composed = classes(module(VOC, tmp_path), "trainaug")
    fake_data.save_list(devkit / "SegmentationClassAug" / "trainaug.txt", lines)
    (tmp_path / "benchmark_RELEASE").rename(tmp_path / "elsewhere")
    ready = classes(module(VOC, tmp_path), "trainaug")
    assert list(ready) == names
    assert all(np.array_equal(ready[name], composed[name]) for name in names)


def test_the_voc_test_split_is_predicted_without_masks_and_not_evaluated(tmp_path: Path):
    fake_data.write_voc(tmp_path)
    data = module(VOC, tmp_path, predict_split="test", test_split="test")
    assert set(next(iter(data.predict_dataloader()))) == {"image", "name"}
    with pytest.raises(ConfigError, match=r"split 'test' has no masks to evaluate against"):
        data.test_dataloader()


def test_context_names_and_ids_are_in_one_order_in_both_sources(tmp_path: Path):
    assert list(CONTEXT) == sorted(CONTEXT)
    assert list(CATEGORY_IDS) == sorted(set(CATEGORY_IDS))
    assert (len(CONTEXT), len(CATEGORY_IDS)) == (59, 60)
    assert (CONTEXT[0], CONTEXT[1], CONTEXT[2], CONTEXT[58]) == ("aeroplane", "bag", "bed", "wood")
    mat, merged = tmp_path / "mat", tmp_path / "json"
    raw = {"mat": fake_data.write_pascal_context(mat), "json": fake_data.write_pascal_context(merged, "json")}
    auto = [module(PascalContext, root, num_classes=60) for root in (mat, merged)]
    assert [data.label_source for data in auto] == ["mat", "json"]
    assert [data.split_sizes["train"] for data in auto] == [4998, 4996]
    for data, labels in zip(auto, raw.values(), strict=True):
        found = classes(data, "val")
        assert len(found) == 2
        for name, mask in found.items():
            assert (mask[labels[name] == 397] == 1 + CONTEXT.index("table")).all()


def test_context_labels_without_a_class_name_are_refused(tmp_path: Path):
    fake_data.write_pascal_context(tmp_path)
    lines = (tmp_path / "labels.txt").read_text().replace(": wood\n", ": timber\n")
    (tmp_path / "labels.txt").write_text(lines)
    with pytest.raises(DatasetError, match=r"labels\.txt: no line for the class 'wood'"):
        module(PascalContext, tmp_path).labels()


def test_a_cut_context_json_is_refused_with_its_checksum(tmp_path: Path):
    fake_data.write_pascal_context(tmp_path, "json")
    path = tmp_path / "trainval_merged.json"
    path.write_text(path.read_text()[:1000])
    with pytest.raises(DatasetError, match=r"trainval_merged\.json: not the annotations.*sha1 169325d9"):
        module(PascalContext, tmp_path).setup("fit")


def test_context_knows_59_or_60_classes_only(tmp_path: Path):
    with pytest.raises(ConfigError, match="got num_classes=33"):
        PascalContext.__init__.__wrapped__(PascalContext.__new__(PascalContext), root=tmp_path, num_classes=33)


def test_coco_stuff_has_171_classes_of_182_numbers_in_both_editions():
    for table, shift in ((LUT_10K, 0), (LUT_164K, 1)):
        known = [raw for raw in range(182 + 1) if table[raw] < 171]
        assert [int(table[raw]) for raw in known] == list(range(171))
        absent = [12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91]
        assert {raw + shift for raw in range(1 - shift, 183 - shift)} - {raw + shift for raw in known} == set(absent)
    assert (CLASSES[0], CLASSES[11], CLASSES[80], CLASSES[170]) == ("person", "stop sign", "banner", "wood")


def test_the_voc_palette_is_the_published_one():
    published = {0: (0, 0, 0), 1: (128, 0, 0), 5: (128, 0, 128), 15: (192, 128, 128), 20: (0, 64, 128)}
    assert {label: tuple(VOC.palette[label].tolist()) for label in published} == published


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_wrong_root_says_what_was_looked_for_and_both_remedies(tmp_path: Path, case: Case):
    _, cls, options, _, _ = case
    (tmp_path / "empty").mkdir()
    for root in (tmp_path / "nowhere", tmp_path / "empty"):
        data = module(cls, root, **options)
        with pytest.raises(DatasetError, match=rf"{root.name}.*dataset\.root=.*prepare\.py dataset={data.name}`"):
            data.setup("fit")


def test_missing_files_are_counted_and_named(tmp_path: Path):
    fake_data.write_voc(tmp_path)
    devkit = tmp_path / "VOCdevkit" / "VOC2012"
    (devkit / "JPEGImages" / "2007_000001.jpg").unlink()
    (devkit / "SegmentationClass" / "2007_000002.png").unlink()
    with pytest.raises(DatasetError, match=r"2 files of split 'train' are missing: .*2007_000001\.jpg, .*2007_000002"):
        module(VOC, tmp_path).setup("fit")


def test_an_empty_split_is_an_error(tmp_path: Path):
    fake_data.write_voc(tmp_path)
    (tmp_path / "VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt").write_text("\n")
    with pytest.raises(DatasetError, match=r"voc: split 'train' under .* is empty"):
        module(VOC, tmp_path).setup("fit")


def test_an_unknown_split_is_refused_with_the_known_ones(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"voc has the splits train, trainaug, trainval, val, test, got 'trian'"):
        module(VOC, tmp_path, train_split="trian")


def test_an_error_in_a_worker_process_still_names_the_file(tmp_path: Path):
    fake_data.write_ade20k(tmp_path)
    mask = tmp_path / "ADEChallengeData2016/annotations/validation/ADE_val_00000001.png"
    fake_data.save_gray_png(mask, np.full((61, 80), 1))
    data = module(ADE20K, tmp_path, num_workers=1, persistent_workers=False)
    with pytest.raises(DatasetError, match=r"^/\S*ADE_val_00000001\.png: mask is 80x61"):
        list(data.val_dataloader())


def test_unequal_sizes_in_one_evaluation_batch_are_refused(tmp_path: Path):
    fake_data.write_ade20k(tmp_path)
    base = tmp_path / "ADEChallengeData2016"
    rng = np.random.default_rng(0)
    fake_data.save_image(base / "images/validation/ADE_val_00000002.jpg", fake_data.picture(rng, (50, 80)))
    fake_data.save_gray_png(base / "annotations/validation/ADE_val_00000002.png", np.ones((50, 80)))
    with pytest.raises(ConfigError, match=r"unequal size .*80x50, 80x60.*eval_batch_size=1"):
        list(module(ADE20K, tmp_path, eval_batch_size=2).val_dataloader())


def test_fewer_images_than_one_batch_are_refused_or_repeated(tmp_path: Path):
    fake_data.write_ade20k(tmp_path)
    with pytest.raises(ConfigError, match=r"3 training images do not fill one batch of 16"):
        module(ADE20K, tmp_path, batch_size=16).train_dataloader()
    batches = list(module(ADE20K, tmp_path, batch_size=4, drop_last=False).train_dataloader())
    assert [len(batch["name"]) for batch in batches] == [4]
    assert len(set(batches[0]["name"])) == 3
