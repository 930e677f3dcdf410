"""Which images, in which order, on which rank: exact resume in the middle of an epoch, no image twice in evaluation.

The order is a function of (seed, epoch), an augmentation one of (seed, epoch, index): a loader's whole state is its
epoch and the number of batches that it handed out.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler

from emanet.common.errors import ConfigError, DatasetError, EMANetError
from emanet.common.seeding import mix

Position = tuple[int, int]
"""(epoch, index). The epoch travels with the index, so persistent workers need not be told of a new epoch."""


class EpochBatchSampler(Sampler[list[Position]]):
    """One rank's batches of (epoch, index) under a permutation that every rank computes alike.

    Step s of an epoch takes ``global_batch`` images in a row from the permutation; micro-batch a of rank r gets the
    slice ``a * world + r`` of them. Which images make up an optimizer step thus does not depend on the number of
    ranks or of accumulated batches.

    Args:
        length: images in the split.
        batch_size: images per rank and micro-batch.
        seed: of the order.
        rank, world: this process and their number.
        accumulate: micro-batches per optimizer step; an epoch is a whole number of steps.
        drop_last: leave out the images that do not fill a step; else the last step is filled from the front of the
            permutation.
    """

    def __init__(
        self,
        length: int,
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        accumulate: int = 1,
        drop_last: bool = True,
    ):
        self.length, self.batch_size, self.seed, self.rank, self.world = length, batch_size, seed, rank, world
        global_batch = batch_size * world * accumulate
        steps = length // global_batch if drop_last else -(-length // global_batch)
        self.batches = steps * accumulate
        self.epoch = 0
        self._skip: tuple[int, int] | None = None
        # Lightning 2.x calls set_epoch on loader.sampler and loader.batch_sampler.sampler, not on batch_sampler
        # itself (lightning/fabric/utilities/data.py, _set_sampler_epoch).
        self.sampler = self

    def set_epoch(self, epoch: int) -> None:
        """Choose the permutation; Lightning calls it at the start of each epoch, before the first batch is drawn."""
        self.epoch = epoch

    def skip(self, epoch: int, batches: int) -> None:
        """Leave out the first ``batches`` of ``epoch``, should that epoch be the next to run."""
        self._skip = (epoch, batches)

    @property
    def start(self) -> int:
        """Number of the batch that the next pass begins with: 0 unless this epoch is resumed."""
        return self._skip[1] if self._skip is not None and self._skip[0] == self.epoch else 0

    def __iter__(self) -> Iterator[list[Position]]:
        """Yield the batches that remain of this epoch.

        A generator, so that the skip is used up by the pass that draws from it: a DataLoader with workers calls
        ``iter`` twice and drops the first.
        """
        start, self._skip = self.start, None
        generator = torch.Generator().manual_seed(mix(self.seed, self.epoch))
        order = torch.randperm(self.length, generator=generator).tolist()
        for batch in range(start, self.batches):
            first = (batch * self.world + self.rank) * self.batch_size
            yield [(self.epoch, order[i % self.length]) for i in range(first, first + self.batch_size)]

    def __len__(self) -> int:
        """Count the batches of a whole epoch, also when resumed: Lightning counts progress against it."""
        return self.batches


class Loader(DataLoader[Any]):
    """Loader whose workers' errors arrive as they were raised, if they are a user's to mend."""

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Yield batches."""
        try:
            yield from super().__iter__()
        except EMANetError as error:
            # torch makes the worker's traceback the message; the error itself stands at its end
            kind = type(error)
            raise kind(str(error).rpartition(f"{kind.__module__}.{kind.__qualname__}: ")[2].strip()) from None


class ResumableLoader(Loader):
    """Loader whose state is (epoch, batches handed out), not what workers fetched ahead.

    Lightning stores ``state_dict()`` of a stateful train loader under ``fit_loop.state_dict.combined_loader`` and
    loads it before the first batch is drawn. It does not fetch ahead from a loader with a length, so the count is
    exact (lightning/pytorch/loops/fetchers.py, _PrefetchDataFetcher).
    """

    batch_sampler: EpochBatchSampler
    _state: tuple[int, int] = (0, 0)

    def state_dict(self) -> dict[str, int]:
        """Say where the loader stands."""
        epoch, batches = self._state
        return {"epoch": epoch, "batches": batches}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on after the batches that the saved run had handed out in its epoch."""
        self._state = state["epoch"], state["batches"]
        self.batch_sampler.skip(*self._state)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Yield batches and count them.

        A generator on purpose: Lightning makes an iterator before it calls set_epoch, and nothing here runs (no
        worker starts on the wrong epoch) until the first batch is asked for.
        """
        epoch, done = self.batch_sampler.epoch, self.batch_sampler.start
        self._state = epoch, done
        for batch in super().__iter__():
            done += 1
            self._state = epoch, done
            yield batch


def evaluated(length: int, *, rank: int = 0, world: int = 1) -> range:
    """Every world-th image from ``rank`` on: over all ranks each image exactly once, none repeated to even them out.

    Lightning's own sampler pads the last round with repeated images, which would count twice in the mIoU.

    Raises:
        DatasetError: if there are fewer images than ranks.
    """
    if length < world:
        raise DatasetError(
            f"{length} images to evaluate on {world} devices leave some device without any, which would wait for "
            "ever at the sum over devices; use at most as many devices as images (trainer.devices)."
        )
    return range(rank, length, world)


def per_device_batch(batch_size: int, *, world: int, accumulate: int) -> int:
    """Split the global batch over devices and accumulated batches.

    Raises:
        ConfigError: if it does not divide.
    """
    parts = world * accumulate
    if batch_size < 1 or batch_size % parts:
        raise ConfigError(
            f"dataset.batch_size counts the images of one optimizer step and must be a positive multiple of devices x "
            f"accumulated batches, got {batch_size} for {world} x {accumulate} = {parts}; the nearest that fits is "
            f"{max(1, round(batch_size / parts)) * parts}."
        )
    return batch_size // parts
