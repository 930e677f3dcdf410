"""Tiny imitations of each benchmark in its REAL directory layout and file formats, for the real readers to read.

Every writer takes the root that ``dataset.root`` would name, writes a few seeded images and labels, and returns the
raw label maps by image name.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

from emanet.data.datasets.pascal_context import CATEGORY_IDS, CLASSES, OTHER_NAMES
from emanet.data.palettes import voc_palette

SIZE = (60, 80)
Labels = dict[str, np.ndarray]


def picture(rng: np.random.Generator, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A smooth random RGB image."""
    small = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return np.array(Image.fromarray(small).resize(size[::-1], Image.Resampling.BICUBIC))


def blocks(rng: np.random.Generator, values: Sequence[int], size: tuple[int, int] = SIZE) -> np.ndarray:
    """A label map of 10x10 blocks that shows ``values`` at random."""
    h, w = size
    coarse = rng.choice(np.asarray(values), size=(-(-h // 10), -(-w // 10)))
    return np.kron(coarse, np.ones((10, 10), int))[:h, :w]


def save_image(path: Path, pixels: np.ndarray) -> None:
    """Write a JPEG or PNG, its folders included."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **({"quality": 95} if path.suffix == ".jpg" else {}))


def save_palette_png(path: Path, labels: np.ndarray) -> None:
    """Write labels as VOC does: a palette PNG whose indices are the labels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(labels.astype(np.uint8))
    image.putpalette(voc_palette(256).tobytes())
    image.save(path)


def save_gray_png(path: Path, labels: np.ndarray) -> None:
    """Write labels as gray values."""
    save_image(path, labels.astype(np.uint8))


def save_list(path: Path, names: Sequence[str]) -> None:
    """Write a split list."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{name}\n" for name in names))


def write_voc(root: Path, n_train: int = 4, n_val: int = 2, n_test: int = 1, seed: int = 0) -> Labels:
    """VOCdevkit/VOC2012 with palette PNGs; JPEGImages also holds the images that only SBD labels."""
    rng, devkit = np.random.default_rng(seed), root / "VOCdevkit" / "VOC2012"
    train = [f"2007_{i:06}" for i in range(n_train)]
    val = [f"2008_{i:06}" for i in range(n_val)]
    test = [f"2009_{i:06}" for i in range(n_test)]
    labels = {name: blocks(rng, [0, 1, 15, 20, 255]) for name in train + val}
    for name in train + val + test:
        save_image(devkit / "JPEGImages" / f"{name}.jpg", picture(rng))
    for name, mask in labels.items():
        save_palette_png(devkit / "SegmentationClass" / f"{name}.png", mask)
    for split, names in {"train": train, "val": val, "trainval": sorted(train + val), "test": test}.items():
        save_list(devkit / "ImageSets" / "Segmentation" / f"{split}.txt", names)
    return labels


def write_sbd(root: Path, n_train: int = 3, n_val: int = 2, seed: int = 1) -> Labels:
    """benchmark_RELEASE/dataset beside an existing write_voc tree; overlaps VOC train (1) and VOC val (1).

    SBD's own train list repeats VOC's first training image, its val list VOC's first validation image.
    """
    rng, devkit = np.random.default_rng(seed), root / "VOCdevkit" / "VOC2012"
    sbd = root / "benchmark_RELEASE" / "dataset"
    train = ["2007_000000", *(f"2010_{i:06}" for i in range(n_train))]
    val = ["2008_000000", *(f"2011_{i:06}" for i in range(n_val))]
    labels = {name: blocks(rng, [0, 2, 7]) for name in train + val}
    (sbd / "cls").mkdir(parents=True, exist_ok=True)
    for name, mask in labels.items():
        image = devkit / "JPEGImages" / f"{name}.jpg"
        pixels = np.array(Image.open(image)) if image.exists() else picture(rng)
        save_image(image, pixels)
        save_image(sbd / "img" / f"{name}.jpg", pixels)
        segmentation = {"Boundaries": np.zeros((20, 1), object), "Segmentation": mask.astype(np.uint8)}
        present = {"CategoriesPresent": np.unique(mask[mask > 0]).astype(np.uint8)[:, None]}
        savemat(sbd / "cls" / f"{name}.mat", {"GTcls": segmentation | present}, do_compression=True)
    save_list(sbd / "train.txt", train)
    save_list(sbd / "val.txt", val)
    return labels


def context_label_names() -> list[str]:
    """459 names in the order of labels.txt: the 59 known ones at their ids, fillers elsewhere."""
    names = {number: CLASSES[rank - 1] for rank, number in enumerate(CATEGORY_IDS) if rank}
    return [names.get(number, f"thing{number}") for number in range(1, 460)]


def write_pascal_context(root: Path, source: str = "mat", n_train: int = 3, n_val: int = 2, seed: int = 2) -> Labels:
    """VOCdevkit/VOC2010 with ``trainval/*.mat`` and label lists, or with ``trainval_merged.json``."""
    rng, devkit = np.random.default_rng(seed), root / "VOCdevkit" / "VOC2010"
    splits = {
        "train": [f"2008_{i:06}" for i in range(n_train)],
        "val": [f"2009_{i:06}" for i in range(n_val)],
    }
    known = [0, 2, 9, 115, 284, 397, 458]
    values = known if source == "json" else [*known, 1, 459]  # the json holds no other categories
    labels = {name: blocks(rng, values) for names in splits.values() for name in names}
    for name in labels:
        save_image(devkit / "JPEGImages" / f"{name}.jpg", picture(rng))
    for split, names in splits.items():
        save_list(devkit / "ImageSets" / "Main" / f"{split}.txt", names)
    if source == "json":
        (root / "trainval_merged.json").write_text(json.dumps(_detail(labels, splits)))
        return labels
    folder = root / "trainval"
    folder.mkdir(parents=True, exist_ok=True)
    for name, mask in labels.items():
        savemat(folder / f"{name}.mat", {"LabelMap": mask.astype(np.uint16)}, do_compression=True)
    save_list(root / "labels.txt", [f"{i}: {name}" for i, name in enumerate(context_label_names(), start=1)])
    spelt = [OTHER_NAMES.get(name, name) for name in CLASSES]
    save_list(root / "59_labels.txt", [f"{i}: {name}" for i, name in enumerate(spelt, start=1)])
    return labels


def _detail(labels: Labels, splits: dict[str, list[str]]) -> dict[str, object]:
    """The fields of trainval_merged.json that the detail API documents, with parts and boxes to be skipped."""
    phases = {name: split for split, names in splits.items() for name in names}
    images, annotations = [], []
    for name, mask in labels.items():
        number = int(name.replace("_", ""))
        h, w = mask.shape
        images.append(
            {"file_name": f"{name}.jpg", "phase": phases[name], "height": h, "width": w, "image_id": number}
            | {"date_captured": "31-May-2010"}
        )
        for category in np.unique(mask[mask > 0]).tolist():
            rle = {"size": [h, w], "counts": compress_runs(mask == category)}
            annotations.append(
                {"id": len(annotations) + 1, "image_id": number, "category_id": category, "segmentation": rle}
                | {"bbox": [0, 0, w, h], "area": int((mask == category).sum()), "iscrowd": 0}
                | {"parts": [{"part_id": 255, "segmentation": rle}]}
            )
    categories = [{"category_id": i, "name": f"c{i}", "onlysemantic": 0} for i in CATEGORY_IDS]
    return {"info": {}, "images": images, "annos_segmentation": annotations, "categories": categories, "parts": []}


def compress_runs(mask: np.ndarray) -> str:
    """COCO's compressed run lengths, written from their description, number by number."""
    flat = mask.flatten(order="F").astype(int)
    counts, current, length = [], 0, 0
    for value in flat.tolist():
        if value != current:
            counts.append(length)
            current, length = value, 0
        length += 1
    counts.append(length)
    text = ""
    for i, count in enumerate(counts):
        number, more = count - (counts[i - 2] if i > 2 else 0), True
        while more:
            bits = number & 31
            number >>= 5
            more = number != (-1 if bits & 16 else 0)
            text += chr(48 + bits + (32 if more else 0))
    return text


def write_coco_stuff_10k(root: Path, n_train: int = 3, n_test: int = 2, seed: int = 3) -> Labels:
    """COCO-Stuff 10K v1.1: images, annotations/*.mat (S, names, captions), imageLists."""
    rng = np.random.default_rng(seed)
    train = [f"COCO_train2014_{i:012}" for i in range(n_train)]
    test = [f"COCO_train2014_{i:012}" for i in range(100, 100 + n_test)]
    labels = {name: blocks(rng, [0, 1, 13, 92, 182]) for name in train + test}
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    for name, mask in labels.items():
        save_image(root / "images" / f"{name}.jpg", picture(rng))
        extra = {"names": np.array(["unlabeled", "person"], object), "captions": np.array(["a"], object)}
        savemat(root / "annotations" / f"{name}.mat", {"S": mask.astype(np.uint16)} | extra, do_compression=True)
    for split, names in {"train": train, "test": test, "all": train + test}.items():
        save_list(root / "imageLists" / f"{split}.txt", names)
    return labels


def write_coco_stuff_164k(root: Path, n_train: int = 3, n_val: int = 2, seed: int = 4) -> Labels:
    """train2017, val2017 and stuffthingmaps_trainval2017."""
    rng, labels = np.random.default_rng(seed), {}
    for part, count in {"train2017": n_train, "val2017": n_val}.items():
        for i in range(count):
            name = f"{i + (0 if part == 'train2017' else 500):012}"
            labels[name] = blocks(rng, [0, 12, 91, 181, 255])
            save_image(root / part / f"{name}.jpg", picture(rng))
            save_gray_png(root / "stuffthingmaps_trainval2017" / part / f"{name}.png", labels[name])
    return labels


def write_cityscapes(root: Path, n_train: int = 3, n_val: int = 2, n_test: int = 1, seed: int = 5) -> Labels:
    """leftImg8bit and gtFine by split and city, with all files of gtFine's frames."""
    rng, labels = np.random.default_rng(seed), {}
    cities = {"train": ("aachen", n_train), "val": ("lindau", n_val), "test": ("berlin", n_test)}
    for split, (city, count) in cities.items():
        for i in range(count):
            name = f"{city}_{i:06}_000019"
            save_image(root / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png", picture(rng))
            labels[name] = blocks(rng, [0, 4, 7, 8, 26, 33])
            base = root / "gtFine" / split / city / name
            save_gray_png(base.with_name(f"{name}_gtFine_labelIds.png"), labels[name])
            save_image(base.with_name(f"{name}_gtFine_color.png"), picture(rng))
            base.with_name(f"{name}_gtFine_polygons.json").write_text("{}")
    return labels


def write_ade20k(root: Path, n_train: int = 3, n_val: int = 2, seed: int = 6) -> Labels:
    """ADEChallengeData2016 with images and annotations."""
    rng, labels, base = np.random.default_rng(seed), {}, root / "ADEChallengeData2016"
    for folder, short, count in (("training", "train", n_train), ("validation", "val", n_val)):
        for i in range(1, count + 1):
            name = f"ADE_{short}_{i:08}"
            labels[name] = blocks(rng, [0, 1, 2, 150])
            save_image(base / "images" / folder / f"{name}.jpg", picture(rng))
            save_gray_png(base / "annotations" / folder / f"{name}.png", labels[name])
    return labels


def write_folder(
    root: Path,
    n_train: int = 4,
    n_val: int = 2,
    values: Sequence[int] = (0, 1, 2, 255),
    layout: str = "folders",
    seed: int = 7,
) -> Labels:
    """Own data: images and index PNGs, split by ``layout`` = folders, lists or none."""
    rng, labels = np.random.default_rng(seed), {}
    for split, count in {"train": n_train, "val": n_val}.items():
        names = [f"{split}{i}" for i in range(count)]
        for name in names:
            inner = Path(split) if layout == "folders" else Path()
            labels[name] = blocks(rng, values)
            save_image(root / "images" / inner / f"{name}.jpg", picture(rng))
            save_palette_png(root / "masks" / inner / f"{name}.png", labels[name])
        if layout == "lists":
            save_list(root / f"{split}.txt", names)
    return labels
