"""Samples to tensors: one image of a split read, transformed, and stacked with others to a batch."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypedDict

import cv2
import numpy as np
import torch
from jaxtyping import Float32, Int64, UInt8
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from emanet.common.errors import ConfigError
from emanet.common.seeding import mix
from emanet.data.pictures import read_image
from emanet.data.reading import Labels, Sample, check_same_size
from emanet.data.sampling import Position
from emanet.data.transforms import Normalize, TrainTransform

Pair: TypeAlias = tuple[UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w"]]
ReadPair: TypeAlias = Callable[[Sample], Pair]
Corrupt: TypeAlias = Callable[[UInt8[np.ndarray, "h w 3"], str], UInt8[np.ndarray, "h w 3"]]


class Item(TypedDict, total=False):
    """One image of a batch; a training crop is bytes until :class:`emanet.data.transforms.Finish` has seen it."""

    image: Float32[Tensor, "3 h w"] | UInt8[Tensor, "h w 3"]
    mask: Int64[Tensor, "h w"] | UInt8[Tensor, "h w"]
    name: str


class TrainDataset(Dataset[Item]):
    """Augmented crops as bytes; an item is a function of (seed, epoch, index) only."""

    def __init__(self, samples: Sequence[Sample], read: ReadPair, transform: TrainTransform, seed: int):
        self.samples, self.read, self.transform, self.seed = samples, read, transform, seed

    def __len__(self) -> int:
        """Count the images."""
        return len(self.samples)

    def __getitem__(self, position: Position) -> Item:
        """Read and augment image ``index`` as ``epoch`` shows it."""
        epoch, index = position
        sample = self.samples[index]
        image, mask = self.read(sample)
        pixels, classes = self.transform(image, mask, mix(self.seed, epoch, index))
        return {"image": pixels, "mask": classes, "name": sample.name}


class EvalDataset(Dataset[Item]):
    """Whole images, normalized at their own size (inference pads to the stride).

    ``corrupt`` may change the 8-bit image, given its name.
    """

    def __init__(self, samples: Sequence[Sample], read: ReadPair, normalize: Normalize, corrupt: Corrupt | None = None):
        self.samples, self.read, self.normalize, self.corrupt = samples, read, normalize, corrupt

    def __len__(self) -> int:
        """Count the images."""
        return len(self.samples)

    def __getitem__(self, index: int) -> Item:
        """Read image ``index``, and its mask where it has one."""
        sample = self.samples[index]
        if sample.mask is None:
            return {"image": self._input(read_image(sample.image)), "name": sample.name}
        image, mask = self.read(sample)
        if self.corrupt is not None:
            image = self.corrupt(image, sample.name)
        return {"image": self._input(image), "mask": torch.from_numpy(mask).long(), "name": sample.name}

    def _input(self, image: UInt8[np.ndarray, "h w 3"]) -> Float32[Tensor, "3 h w"]:
        return torch.from_numpy(self.normalize(image))


def read_pair(sample: Sample, labels: Labels) -> Pair:
    """Read image and classes of one sample, of one size."""
    image, mask = read_image(sample.image), labels(sample)
    check_same_size(image, mask, sample)
    return image, mask


def collate(items: Sequence[Item]) -> dict[str, Any]:
    """Stack items of one size to a batch.

    Raises:
        ConfigError: for unequal sizes. They are not padded to a common one: padding would take part in the EM.
    """
    sizes = {tuple(item["image"].shape[-2:]) for item in items}
    if len(sizes) > 1:
        shown = ", ".join(f"{w}x{h}" for h, w in sorted(sizes))
        raise ConfigError(
            f"images of unequal size in one evaluation batch ({shown}): padding them would change the EM; "
            "set dataset.eval_batch_size=1."
        )
    batch: dict[str, Any] = {
        "image": default_collate([item["image"] for item in items]),  # in a worker, straight into shared memory
        "name": [item["name"] for item in items],
    }
    if all("mask" in item for item in items):
        batch["mask"] = default_collate([item["mask"] for item in items])
    return batch


def single_threaded(_worker: int) -> None:
    """Keep OpenCV to one thread in each worker: the workers are the parallelism."""
    cv2.setNumThreads(0)
