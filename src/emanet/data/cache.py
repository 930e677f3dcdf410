"""Decoded images and masks on disk: each file is decoded once, where ``dataset.cache`` names a folder."""

import hashlib
import os
import pickle
import time
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from emanet.common.errors import ConfigError, DatasetError
from emanet.common.files import replacing
from emanet.data.items import Pair, ReadPair, read_pair
from emanet.data.reading import Labels, Sample, require_mask

FORMAT = 2
"""Part of every name: raise it when decoding, or the layout of a copy, changes."""

ABANDONED = 3600.0
"""Seconds after which a file that nobody finished is taken away."""


def reader(labels: Labels, folder: Path | None) -> ReadPair:
    """Return what reads image and classes of a sample: from the files themselves, or through a cache."""
    return partial(read_pair, labels=labels) if folder is None else DecodedCache(folder, labels)


class DecodedCache:
    """Reads samples as :func:`emanet.data.items.read_pair` does, from decoded copies where there are any.

    A copy is one ``.npy`` array of bytes, 4h x w: the image's h*w*3, then the mask's classes. It is mapped into memory,
    so that a crop reads its own part. Its name is a hash of all that decides on its content: path, size and
    modification time of both files, and how masks are read. So a changed file is another copy, and an old one is never
    used again. A copy appears whole or not at all: any number of processes may share the folder.

    Args:
        folder: of the copies; made if need be. They take 4 bytes per pixel.
        labels: the reader of masks.

    Raises:
        ConfigError: for a reader of masks that cannot be pickled.
    """

    def __init__(self, folder: Path, labels: Labels):
        self.folder, self.labels = folder, labels
        try:
            self.rules = hashlib.sha256(pickle.dumps((FORMAT, labels))).hexdigest()
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise ConfigError(
                f"dataset.cache: copies are named by how masks are read, but {type(labels).__name__} cannot be pickled "
                f"({error}); make it a class at the top of a module, or leave dataset.cache=null."
            ) from error
        self._remove_abandoned()

    def __call__(self, sample: Sample) -> Pair:
        """Read image and classes of one sample, of one size.

        Raises:
            DatasetError: for what cannot be decoded, and for a folder that cannot be written or is full.
        """
        place = self.place(sample)
        pair = _load(place)
        if pair is None:
            pair = read_pair(sample, self.labels)
            self._store(place, *pair)
        return pair

    def place(self, sample: Sample) -> Path:
        """Return where the copy of a sample is, or would be.

        Raises:
            DatasetError: if one of its files is missing.
        """
        said = [self.rules]
        files = getattr(self.labels, "files", None)  # of a sample with several masks
        for path in (sample.image, *(files(sample).values() if files else [require_mask(sample)])):
            try:
                now = path.stat()
            except OSError as error:
                raise DatasetError(f"{path}: no such file; copy it again, or check dataset.root.") from error
            said += [str(path.absolute()), str(now.st_size), str(now.st_mtime_ns)]
        name = hashlib.sha256("\0".join([*said, sample.name]).encode()).hexdigest()
        return self.folder / name[:2] / f"{name[2:40]}.npy"

    def _store(self, place: Path, image: UInt8[np.ndarray, "h w 3"], mask: UInt8[np.ndarray, "h w"]) -> None:
        h, w = mask.shape
        try:
            with replacing(place) as incomplete, incomplete.open("wb") as file:
                np.save(file, np.concatenate([image.reshape(3 * h, w), mask]))
                file.flush()
                os.fsync(file.fileno())  # else a power cut could leave a whole file of zeros
        except OSError as error:
            raise DatasetError(
                f"dataset.cache: {self.folder} cannot take another decoded image of {4 * h * w / 1e6:.1f} MB "
                f"({error.strerror or error}); make room, name another folder, or set dataset.cache=null."
            ) from error

    def _remove_abandoned(self) -> None:
        """Remove what processes left that were killed while they wrote."""
        for path in self.folder.glob("*/*.tmp"):
            try:
                if time.time() - path.stat().st_mtime > ABANDONED:
                    path.unlink()
            except FileNotFoundError:  # another process was faster
                continue


def _load(place: Path) -> Pair | None:
    """Map a copy; ``None`` where there is none, or one that a failing disk has cut."""
    try:
        both = np.load(place, mmap_mode="c")  # a change stays in this process's memory
    except (OSError, ValueError, EOFError):
        return None
    h, w = both.shape[0] // 4, both.shape[1]
    return np.asarray(both[: 3 * h]).reshape(h, w, 3), np.asarray(both[3 * h :])
