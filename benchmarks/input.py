"""Training input on one thread, from files to batches of normalized crops: ours beside other ways.

    python benchmarks/input.py [--authors FOLDER] [--mmseg FOLDER]

Every way reads the same synthetic JPEGs and PNG masks, scales them by each of 0.5, 0.75 ... 2, crops, flips half of
them, normalizes, and stacks four. How the folders of the authors' code and of mmsegmentation come about: peers.py.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import albumentations as A
import cv2
import numpy as np
import torch
from measure import Call, Variant, main, parse
from peers import authors_module, import_mmseg
from PIL import Image
from torch import Tensor

from emanet.data import Folder
from emanet.data.datamodule import IMAGENET_MEAN, IMAGENET_STD, SCALES

CLASSES, BATCH = 21, 4
CASES = ((500, 375, 513, 8), (2048, 1024, 769, 4))  # width, height, crop, files: photographs of VOC and of Cityscapes
GRAY = tuple(round(255 * value) for value in IMAGENET_MEAN)  # 8-bit padding that normalizes to about 0
Load = Callable[[], Iterator[tuple[Tensor, Tensor]]]  # all files once, in batches of images and masks


def write_files(root: Path, number: int, width: int, height: int) -> list[str]:
    """Write smooth noise with some grain, in bytes as a photograph, and masks; under the names of VOC as well."""
    rng, names = np.random.default_rng(0), [str(index) for index in range(number)]
    for ours, theirs in (("images", "JPEGImages"), ("masks", "SegmentationClassAug")):
        (root / ours / "train").mkdir(parents=True)
        (root / theirs).symlink_to(root / ours / "train")
    for name in names:
        coarse = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
        smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        pixels = np.clip(smooth + rng.normal(0, 8, smooth.shape), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(root / "images" / "train" / f"{name}.jpg", quality=95)
        labels = rng.integers(0, CLASSES, (height // 10 + 1, width // 10 + 1), dtype=np.uint8)
        mask = np.kron(labels, np.ones((10, 10), np.uint8))[:height, :width]
        Image.fromarray(mask).save(root / "masks" / "train" / f"{name}.png")
    return names


def batches(load: Callable[[str], tuple[Any, Any]], names: Sequence[str]) -> Iterator[tuple[Tensor, Tensor]]:
    """Stack what a way loads of each file."""
    for start in range(0, len(names), BATCH):
        images, masks = zip(*map(load, names[start : start + BATCH]), strict=True)
        yield torch.stack(images), torch.stack(masks)


def ours(root: Path, names: Sequence[str], size: int, scale: float) -> Load:
    """The package's own data module, as Lightning drives it."""
    options: Any = {"crop_size": size, "scales": (scale,), "batch_size": BATCH, "num_workers": 0}
    data = Folder(root=root, num_classes=CLASSES, val_split="train", **options)
    data.setup("fit")
    loader = data.train_dataloader()

    def load() -> Iterator[tuple[Tensor, Tensor]]:
        for batch in loader:
            done = data.on_after_batch_transfer(batch, 0)
            yield done["image"], done["mask"]

    return load


def albumentations(root: Path, names: Sequence[str], size: int, scale: float) -> Load:
    """The same operations by albumentations' own classes."""
    pad = A.PadIfNeeded(size, size, position="top_left", fill=GRAY, fill_mask=255)
    crop = [A.RandomScale((scale - 1, scale - 1), p=1), pad, A.RandomCrop(size, size), A.HorizontalFlip(p=0.5)]
    compose = A.Compose([*crop, A.Normalize(IMAGENET_MEAN, IMAGENET_STD), A.ToTensorV2()])

    def load(name: str) -> tuple[Tensor, Tensor]:
        image = cv2.cvtColor(cv2.imread(str(root / f"images/train/{name}.jpg")), cv2.COLOR_BGR2RGB)
        found = compose(image=image, mask=np.array(Image.open(root / f"masks/train/{name}.png")))
        return found["image"], found["mask"].long()

    return lambda: batches(load, names)


def authors(folder: Path, root: Path, names: Sequence[str], size: int, scale: float) -> Load:
    """The authors' own data set."""
    module = authors_module(folder, "dataset")
    module.settings.SCALES, module.settings.CROP_SIZE = (scale,), size
    data = object.__new__(module.TrainDataset)  # its constructor looks for a list of VOC's files
    data.data_root = str(root)
    return lambda: batches(data._get_item, names)


def mmsegmentation(folder: Path, root: Path, names: Sequence[str], size: int, scale: float) -> Load:
    """mmsegmentation's own classes, from loading to its model's normalization and padding."""
    import_mmseg(folder)
    import mmcv.transforms as M
    import mmseg.datasets.transforms as S
    from mmseg.models.data_preprocessor import SegDataPreProcessor

    width, height = Image.open(root / f"images/train/{names[0]}.jpg").size
    resize = M.RandomResize((width, height), ratio_range=(scale, scale), keep_ratio=True)
    crop, flip = S.RandomCrop((size, size)), M.RandomFlip(prob=0.5)
    compose = M.Compose([M.LoadImageFromFile(), S.LoadAnnotations(), resize, crop, flip, S.PackSegInputs()])
    mean, std = ([255 * value for value in values] for values in (IMAGENET_MEAN, IMAGENET_STD))
    finish = SegDataPreProcessor(mean, std, size=(size, size), bgr_to_rgb=True, pad_val=0, seg_pad_val=255)

    def load(name: str) -> Any:
        image, mask = (str(root / place / "train" / name) for place in ("images", "masks"))
        labels = {"seg_map_path": f"{mask}.png", "seg_fields": [], "reduce_zero_label": False}
        return compose({"img_path": f"{image}.jpg", **labels})

    def load_all() -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, len(names), BATCH):
            found = [load(name) for name in names[start : start + BATCH]]
            keys = {key: [one[key] for one in found] for key in ("inputs", "data_samples")}
            done = finish(keys, training=True)
            yield done["inputs"], torch.stack([one.gt_sem_seg.data[0] for one in done["data_samples"]])

    return load_all


def every_scale(way: Any, root: Path, names: Sequence[str], size: int) -> Call:
    """All files at each scale: every way gets equally hard work."""
    loads = [way(root, names, size, scale) for scale in SCALES]

    def call() -> None:
        for _ in chain.from_iterable(load() for load in loads):
            pass

    return call


if __name__ == "__main__":
    options = parse(__doc__, threads=1)
    cv2.setNumThreads(1)
    ways: dict[str, Any] = {"ours": ours, "albumentations": albumentations}
    ways |= {"authors": partial(authors, options.authors)} if options.authors else {}
    ways |= {"mmsegmentation": partial(mmsegmentation, options.mmseg)} if options.mmseg else {}
    with tempfile.TemporaryDirectory() as folder:
        variants = []
        for width, height, size, number in CASES:
            root = Path(folder) / str(width)
            names = write_files(root, number, width, height)
            case = {"task": "input", "source": f"{width}x{height}", "crop": size, "images": number * len(SCALES)}
            made = {name: partial(every_scale, way, root, names, size) for name, way in ways.items()}
            variants += [Variant(case, name, build) for name, build in made.items()]
        main(variants, options)
