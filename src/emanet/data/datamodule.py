"""What all data sets share: splits, loaders, sharding. A benchmark adds where its files lie and how to read them.

A batch is ``{"image": float32 (b,3,h,w) normalized, "mask": int64 (b,h,w) with 255 = ignore, "name": list of ids}``;
``mask`` is absent where a split has no labels. In a training, crops leave the loader as bytes and become this on the
device.
"""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from jaxtyping import UInt8
from torch.utils.data import DataLoader

from emanet.common.errors import ConfigError, DatasetError
from emanet.data.cache import reader
from emanet.data.items import Corrupt, EvalDataset, Item, TrainDataset, collate, single_threaded
from emanet.data.reading import IGNORE, Labels, Sample, lost_files, some
from emanet.data.sampling import EpochBatchSampler, Loader, ResumableLoader, evaluated, per_device_batch
from emanet.data.transforms import Finish, Normalize, TrainTransform, Transform

log = logging.getLogger(__name__)

SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class SegmentationDataModule(L.LightningDataModule):
    """Base of all data sets.

    A subclass sets ``name``, ``class_names``, ``palette``, ``split_sizes``, and writes ``find(split)`` (the samples of
    a split, in a fixed order) and ``labels()`` (the reader of masks). Everything else is here.

    Args:
        root: folder of the data set.
        name: what messages call it; by default the class's own name.
        batch_size: images per optimizer step, over all devices and accumulated batches.
        eval_batch_size: images per device in evaluation; above 1 only where all have one size.
        num_workers: loader processes per device.
        crop_size: side of the training crop in pixels.
        scales: factors of the random scaling.
        flip: probability of a horizontal flip.
        extra_transforms: built albumentations transforms, applied to the crop after the flip.
        mean, std: normalization in units of 0..1, RGB; from the backbone's pretrained configuration.
        seed: of order and augmentation.
        train_split, val_split, test_split, predict_split: names of splits.
        drop_last: leave out the images that do not fill a step, else fill the step from the front.
        persistent_workers: keep loader processes between epochs.
        pin_memory: copy batches to page-locked memory; null: where CUDA is.
        cache: folder for decoded images and masks, 4 bytes per pixel; null: decode them each time.
    """

    name: str
    splits: tuple[str, ...] = ("train", "val")
    split_sizes: Mapping[str, int] = {}
    class_names: tuple[str, ...]
    palette: UInt8[np.ndarray, "n 3"]
    ignore_index: int = IGNORE

    def __init__(
        self,
        *,
        root: str | Path,
        name: str | None = None,
        batch_size: int = 16,
        eval_batch_size: int = 1,
        num_workers: int = 4,
        crop_size: int = 513,
        scales: Sequence[float] = SCALES,
        flip: float = 0.5,
        extra_transforms: Sequence[Transform] = (),
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        seed: int = 0,
        train_split: str = "train",
        val_split: str = "val",
        test_split: str = "val",
        predict_split: str = "val",
        drop_last: bool = True,
        persistent_workers: bool = True,
        pin_memory: bool | None = None,
        cache: str | Path | None = None,
    ):
        super().__init__()
        self.root = Path(root).expanduser().absolute()  # wherever the process goes
        self.name = name or type(self).name
        self.batch_size, self.eval_batch_size, self.num_workers = batch_size, eval_batch_size, num_workers
        self.seed, self.drop_last = seed, drop_last
        self.mean, self.std = tuple(mean), tuple(std)
        self.persistent_workers = persistent_workers and num_workers > 0
        self.pin_memory = torch.cuda.is_available() if pin_memory is None else pin_memory
        self.stage_splits = {"fit": train_split, "validate": val_split, "test": test_split, "predict": predict_split}
        self.cache = None if cache is None else Path(cache).expanduser().absolute()
        self.train_transform = TrainTransform(
            crop_size=crop_size, scales=scales, flip=flip, mean=mean, extra_transforms=extra_transforms
        )
        self.normalize, self.finish = Normalize(mean, std), Finish(mean, std)
        self.corrupt: Corrupt | None = None  # (image, name) -> image, before normalization, in evaluation alone
        self._samples: dict[str, list[Sample]] = {}
        for split in self.stage_splits.values():
            self._check_split_name(split)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    # -- what a data set adds

    def find(self, split: str) -> list[Sample]:
        """List the samples of a split, always in the same order; need not check that the files exist."""
        raise NotImplementedError

    def labels(self) -> Labels:
        """Return the reader of masks."""
        raise NotImplementedError

    # -- splits

    def samples(self, split: str) -> list[Sample]:
        """Return the samples of a split, checked once: not empty, every file there, as many as published."""
        if split not in self._samples:
            self._check_split_name(split)
            if not self.root.is_dir():
                raise self.missing(self.root)
            samples = self.find(split)
            if not samples:
                raise DatasetError(f"{self.name}: split '{split}' under {self.root} is empty; {self.remedy()}")
            samples = self._once(samples, split)
            if lost := lost_files(samples):
                raise DatasetError(
                    f"{self.name}: {len(lost)} files of split '{split}' are missing: {some(lost)}; {self.remedy()}"
                )
            expected = self.split_sizes.get(split, len(samples))
            if len(samples) != expected:
                log.warning("%s: split '%s' has %d images, expected %d", self.name, split, len(samples), expected)
            self._samples[split] = samples
        return self._samples[split]

    def _once(self, samples: list[Sample], split: str) -> list[Sample]:
        by_image = {sample.image: sample for sample in samples}
        if len(by_image) < len(samples):
            times = Counter(sample.image for sample in samples)
            twice = [path.name for path, count in times.items() if count > 1]
            log.warning("%s: split '%s' lists %s more than once; each counts once", self.name, split, some(twice))
        return list(by_image.values())

    def setup(self, stage: str | None = None) -> None:
        """Find the files of the splits that a stage needs (fit: training and validation); may be called again."""
        for name in ("fit", "validate") if stage in ("fit", None) else (stage,):
            self.samples(self.stage_splits[name])

    def missing(self, *looked_for: Path) -> DatasetError:
        """Make the error for data that is not where it should be."""
        places = " or ".join(str(place) for place in looked_for)
        return DatasetError(f"{self.name}: not found: {places}; {self.remedy()}")

    def remedy(self) -> str:
        """Say how to get or point to this data set."""
        return f"set dataset.root=... to its folder, or get it with `python src/prepare.py dataset={self.name}`."

    def first_existing(self, *places: Path) -> Path:
        """Return the first place that exists.

        Raises:
            DatasetError: if none does.
        """
        for place in places:
            if place.exists():
                return place
        raise self.missing(*places)

    def holding(self, part: str, *folders: str) -> Path:
        """Return the first of the folders below the root that holds ``part``.

        Raises:
            DatasetError: if none does.
        """
        return self.first_existing(*(self.root / folder / part for folder in folders)).parent

    def _check_split_name(self, split: str) -> None:
        if self.splits and split not in self.splits:
            raise ConfigError(f"{self.name} has the splits {', '.join(self.splits)}, got '{split}'.")

    # -- loaders

    def train_dataloader(self) -> ResumableLoader:
        """Build the loader of augmented crops: this rank's share of each global batch."""
        samples, (rank, world, accumulate) = self.samples(self.stage_splits["fit"]), self._place()
        batch = per_device_batch(self.batch_size, world=world, accumulate=accumulate)
        if self.drop_last and len(samples) < self.batch_size:
            raise ConfigError(
                f"{self.name}: {len(samples)} training images do not fill one batch of {self.batch_size}; "
                "lower dataset.batch_size, or set dataset.drop_last=false to repeat images."
            )
        sampler = EpochBatchSampler(
            len(samples),
            batch_size=batch,
            seed=self.seed,
            rank=rank,
            world=world,
            accumulate=accumulate,
            drop_last=self.drop_last,
        )
        dataset = TrainDataset(samples, reader(self.labels(), self.cache), self.train_transform, self.seed)
        collated = collate if self.trainer is not None else self._finished  # without a trainer nobody else would
        return ResumableLoader(dataset, batch_sampler=sampler, **self._loader_options() | {"collate_fn": collated})

    def val_dataloader(self) -> DataLoader[Item]:
        """Build the loader of whole validation images."""
        return self._eval_dataloader("validate")

    def test_dataloader(self) -> DataLoader[Item]:
        """Build the loader of whole test images."""
        return self._eval_dataloader("test")

    def predict_dataloader(self) -> DataLoader[Item]:
        """Build the loader of whole images to predict, with or without masks."""
        return self._eval_dataloader("predict")

    def _finished(self, items: Sequence[Item]) -> dict[str, Any]:
        return self.finish(collate(items))

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Normalize what left its loader as bytes; Lightning has converted floats to its precision before that."""
        batch = self.finish(batch)
        return batch if self.trainer is None else self.trainer.precision_plugin.convert_input(batch)

    def _eval_dataloader(self, stage: str) -> DataLoader[Item]:
        split = self.stage_splits[stage]
        samples, (rank, world, _) = self.samples(split), self._place()
        if stage != "predict" and samples[0].mask is None:
            raise ConfigError(
                f"{self.name}: split '{split}' has no masks to evaluate against; predict it with src/predict.py."
            )
        dataset = EvalDataset(samples, reader(self.labels(), self.cache), self.normalize, self.corrupt)
        sampler = evaluated(len(samples), rank=rank, world=world)
        return Loader(dataset, batch_size=self.eval_batch_size, sampler=sampler, **self._loader_options())

    def _place(self) -> tuple[int, int, int]:
        """Return rank, number of ranks and accumulated batches; (0, 1, 1) without a trainer."""
        if self.trainer is None:
            return 0, 1, 1
        return self.trainer.global_rank, self.trainer.world_size, self.trainer.accumulate_grad_batches

    def _loader_options(self) -> dict[str, Any]:
        return {
            "num_workers": self.num_workers,
            "collate_fn": collate,
            "worker_init_fn": single_threaded,
            "generator": torch.Generator().manual_seed(self.seed),  # else each pass advances the global generator
            "persistent_workers": self.persistent_workers,
            "pin_memory": self.pin_memory,
        }
