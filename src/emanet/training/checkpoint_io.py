"""Checkpoints that are either complete or not there: written beside the target, flushed to disk, then renamed."""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from emanet.common.errors import EMANetError
from emanet.common.files import replacing

log = logging.getLogger(__name__)


class CheckpointError(EMANetError):
    """A checkpoint that could not be written."""


class SafeCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoint files, atomic wherever ``TMPDIR`` lies, and read without executing code.

    Lightning's own way goes through a temporary file in ``TMPDIR``; where that is another file system than the target
    (a cluster's local disk), it ends in a plain copy, and a job killed in it leaves a file that cannot be read.
    """

    def __init__(self) -> None:
        self._swept: set[Path] = set()

    def save_checkpoint(self, checkpoint: Mapping[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write ``checkpoint`` to ``path``, which afterwards holds either all of it or what it held before.

        Raises:
            CheckpointError: if the file cannot be written, for example on a full disk.
        """
        if "://" in os.fspath(path):  # object storage has no rename, and no half-written objects either
            super().save_checkpoint(dict(checkpoint), path, storage_options)
            return
        path = Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._sweep(path.parent)
            with replacing(path, durable=True) as temporary, temporary.open("wb") as file:
                torch.save(checkpoint, file)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
            cause = str(error).splitlines()[0]
            if "DataLoader worker" in cause:  # the signal of its death arrives wherever this process is
                raise CheckpointError(
                    f"{cause}: the system killed a process that loads data, often for want of memory. Lower "
                    "dataset.num_workers or close other programs, and go on with resume=RUN_FOLDER"
                ) from error
            raise CheckpointError(
                f"the checkpoint {path} could not be written ({cause}); what it held before is untouched. Is the disk "
                "full or read-only? Make room and go on with resume=RUN_FOLDER"
            ) from error

    def load_checkpoint(
        self, path: str | Path, map_location: Any = lambda storage, loc: storage, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint of tensors and plain containers; code in it is refused, from a web address too."""
        return super().load_checkpoint(path, map_location, weights_only=weights_only is not False)

    def _sweep(self, folder: Path) -> None:
        """Once per folder, remove what killed processes left behind."""
        if folder in self._swept:
            return
        self._swept.add(folder)
        for stale in folder.glob("*.ckpt.*.tmp"):
            log.info("removing %s, left by a run that was killed", stale)
            stale.unlink(missing_ok=True)
