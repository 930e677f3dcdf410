"""Ways from an image file and its mask to a normalized training crop: ours and those of others, for input_pipeline.py.

Each takes a sample and a seed. It gives the image (float32, 3 x side x side, normalized, about 0 where padded) and its
labels (int64, 255 where padded), scaled by 0.5 to 2, mirrored in half of the cases.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from io import StringIO
from itertools import count
from pathlib import Path
from typing import Any
from warnings import catch_warnings, simplefilter

import albumentations as A
import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from emanet.data.cache import DecodedCache
from emanet.data.crop import ScaleCrop
from emanet.data.datamodule import IMAGENET_MEAN, IMAGENET_STD, SCALES
from emanet.data.items import read_pair
from emanet.data.reading import Sample, TableLabels, class_lut
from emanet.data.transforms import TrainTransform

CLASSES = 21
GREY = tuple(round(255 * value) for value in IMAGENET_MEAN)  # 8-bit padding that normalizes to about 0
Load = Callable[[Sample, int], tuple[Tensor, Tensor]]


def our_draw(seed: int) -> float:
    """Where in the list of scales a seed of :class:`ScaleCrop` falls, from 0 to 1."""
    rng = random.Random(seed)
    rng.random()
    return rng.choice(range(len(SCALES))) / len(SCALES)


@dataclass(frozen=True)
class Way:
    """A pipeline, and the number in 0..1 by which a seed decides on the scale; ``None`` where nothing is scaled."""

    load: Load
    draw: Callable[[int], float] | None = our_draw

    def seeds(self, strata: int = len(SCALES)) -> Iterator[int]:
        """Yield seeds that fall into the parts of the range of scales in turn: all ways get equally hard work."""
        seed = count()
        for turn in count():
            yield next(s for s in seed if self.draw is None or int(self.draw(s) * strata + 1e-9) == turn % strata)


def ours(size: int) -> Way:
    """The package's own training input."""
    transform = TrainTransform(crop_size=size, scales=SCALES, flip=0.5, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    labels = TableLabels(class_lut(CLASSES), CLASSES)
    return Way(lambda sample, seed: transform(*read_pair(sample, labels), seed))


def as_bytes(size: int) -> Way:
    """Ours where the device normalizes (``dataset.normalize_on``): what is left to do in a process of the loader."""
    transform = TrainTransform(crop_size=size, scales=SCALES, flip=0.5, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    labels = TableLabels(class_lut(CLASSES), CLASSES)
    return Way(lambda sample, seed: transform.unfinished(*read_pair(sample, labels), seed))


def cached(size: int) -> Way:
    """Ours with ``dataset.cache``: both files were decoded in an earlier epoch, and the copies are in memory."""
    transform = TrainTransform(crop_size=size, scales=SCALES, flip=0.5, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    labels, caches = TableLabels(class_lut(CLASSES), CLASSES), dict[Path, DecodedCache]()

    def load(sample: Sample, seed: int) -> tuple[Tensor, Tensor]:
        folder = sample.image.parent / "decoded"
        cache = caches.get(folder) or caches.setdefault(folder, DecodedCache(folder, labels))
        return transform(*cache(sample), seed)

    return Way(load)


def decoding(size: int) -> Way:
    """Only what every way must do: decode both files. No crop comes of it."""

    def load(sample: Sample, seed: int) -> tuple[Tensor, Tensor]:
        image = cv2.imdecode(np.fromfile(sample.image, np.uint8), cv2.IMREAD_COLOR)
        return torch.from_numpy(image), torch.from_numpy(np.array(Image.open(str(sample.mask))))

    return Way(load, draw=None)


def authors(size: int) -> Way:
    """The authors' order of work: normalize in float, scale all of it, pad, crop, flip."""
    crop = ScaleCrop(size, SCALES, flip=0.5)
    mean, std = (torch.tensor(value)[:, None, None] for value in (IMAGENET_MEAN, IMAGENET_STD))

    def load(sample: Sample, seed: int) -> tuple[Tensor, Tensor]:
        image = torch.from_numpy(np.array(Image.open(sample.image).convert("RGB"))).permute(2, 0, 1).float() / 255
        mask = torch.from_numpy(np.array(Image.open(str(sample.mask)))).long()
        window = crop.draw(mask.shape, random.Random(seed))
        image = F.interpolate(((image - mean) / std)[None], size=window.scaled, mode="bilinear", align_corners=True)[0]
        mask = F.interpolate(mask[None, None].float(), size=window.scaled, mode="nearest")[0, 0].long()
        bottom, right = (max(size - side, 0) for side in window.scaled)
        image, mask = F.pad(image, (0, right, 0, bottom)), F.pad(mask, (0, right, 0, bottom), value=255)
        area = tuple(slice(start, start + size) for start in window.corner)
        image, mask = image[:, *area], mask[area]
        if window.flip:
            image, mask = image.flip(-1), mask.flip(-1)
        return image.contiguous(), mask.contiguous()

    return Way(load)


def torchvision_v2(size: int) -> Way:
    """The same operations by torchvision's functions on 8-bit tensors; decoded with Pillow, as its own decoder ends."""
    from torchvision.transforms.v2 import functional as V

    crop = ScaleCrop(size, SCALES, flip=0.5)

    def load(sample: Sample, seed: int) -> tuple[Tensor, Tensor]:
        image, mask = (V.pil_to_tensor(Image.open(str(path))) for path in (sample.image, sample.mask))
        window = crop.draw(mask.shape[1:], random.Random(seed))
        image = V.resize(image, list(window.scaled), antialias=False)
        mask = V.resize(mask, list(window.scaled), interpolation=V.InterpolationMode.NEAREST)
        bottom, right = (max(size - side, 0) for side in window.scaled)
        image = V.crop(V.pad(image, [0, 0, right, bottom], fill=list(GREY)), *window.corner, size, size)
        mask = V.crop(V.pad(mask, [0, 0, right, bottom], fill=255), *window.corner, size, size)
        if window.flip:
            image, mask = V.horizontal_flip(image), V.horizontal_flip(mask)
        image = V.normalize(V.to_dtype(image, torch.float32, scale=True), list(IMAGENET_MEAN), list(IMAGENET_STD))
        return image, mask[0].long()

    return Way(load)


def plain_albumentations(size: int) -> Way:
    """The same operations by albumentations' own classes."""
    compose = A.Compose(
        [
            A.RandomScale((min(SCALES) - 1, max(SCALES) - 1), p=1),
            A.PadIfNeeded(size, size, position="top_left", fill=GREY, fill_mask=255),
            A.RandomCrop(size, size),
            A.HorizontalFlip(p=0.5),
            A.Normalize(IMAGENET_MEAN, IMAGENET_STD),
            A.ToTensorV2(),
        ]
    )

    def load(sample: Sample, seed: int) -> tuple[Tensor, Tensor]:
        compose.set_random_state(np.random.default_rng(seed), random.Random(seed))
        image = cv2.cvtColor(cv2.imread(str(sample.image)), cv2.COLOR_BGR2RGB)
        out = compose(image=image, mask=np.array(Image.open(str(sample.mask))))
        return out["image"], out["mask"].long()

    def draw(seed: int) -> float:
        rng = random.Random(seed)
        rng.random()
        return rng.random()

    return Way(load, draw)


def mmsegmentation(size: int, cat_max_ratio: float = 1.0) -> Way:
    """mmsegmentation's own classes, from loading to its model's normalization and padding.

    Args:
        size: side of the crop.
        cat_max_ratio: crops are drawn again, up to ten times, while one class covers more; 0.75 in its VOC settings.
    """
    import mmcv.transforms as M
    import mmseg.datasets.transforms as S
    from mmseg.models.data_preprocessor import SegDataPreProcessor

    load_image, load_mask = M.LoadImageFromFile(), S.LoadAnnotations()
    flip, pack = M.RandomFlip(prob=0.5), S.PackSegInputs()
    crop = S.RandomCrop((size, size), cat_max_ratio=cat_max_ratio)
    mean, std = ([255 * value for value in values] for values in (IMAGENET_MEAN, IMAGENET_STD))
    finish = SegDataPreProcessor(mean, std, size=(size, size), bgr_to_rgb=True, pad_val=0, seg_pad_val=255)

    def load(sample: Sample, seed: int) -> tuple[Tensor, Tensor]:
        np.random.seed(seed)
        start = {"img_path": str(sample.image), "seg_map_path": str(sample.mask), "seg_fields": []}
        out: Any = load_mask(load_image(start | {"reduce_zero_label": False}))
        resize = M.RandomResize(out["img_shape"][::-1], ratio_range=(min(SCALES), max(SCALES)), keep_ratio=True)
        out = pack(flip(crop(resize(out))))
        done = finish({"inputs": [out["inputs"]], "data_samples": [out["data_samples"]]}, training=True)
        return done["inputs"][0], done["data_samples"][0].gt_sem_seg.data[0]

    return Way(load, lambda seed: float(np.random.RandomState(seed).random_sample()))


def mmsegmentation_voc(size: int) -> Way:
    """:func:`mmsegmentation` with the crops of its VOC settings."""
    return mmsegmentation(size, cat_max_ratio=0.75)


def available() -> dict[str, Callable[[int], Way]]:
    """Every way that the installed packages allow."""
    ways = {"decoding alone": decoding, "ours": ours, "ours, left as bytes": as_bytes}
    ways |= {"ours, decoded before": cached, "authors": authors}
    if find_spec("torchvision"):
        ways["torchvision v2"] = torchvision_v2
    ways["albumentations"] = plain_albumentations
    if find_spec("mmseg"):
        with catch_warnings(), redirect_stdout(StringIO()):  # what it cannot find and this needs not
            simplefilter("ignore")
            mmsegmentation(8)
        ways |= {"mmsegmentation": mmsegmentation, "mmsegmentation, VOC crops": mmsegmentation_voc}
    return ways
