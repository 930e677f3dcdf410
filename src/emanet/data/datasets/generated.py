"""What data sets share that are written at first use: all or nothing, however often and by whomever they are begun."""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from emanet.common.errors import DatasetError

PARTS = ("images", "masks", "README.md", "classes.txt")  # in the order of moving: the last one says that all is there


def is_written(root: Path) -> bool:
    """Whether a folder holds a whole generated data set."""
    return (root / PARTS[-1]).is_file()


def write_once(root: Path, write: Callable[[Path], None], *, name: str) -> None:
    """Let ``write(folder)`` make the ``PARTS`` of a data set, unless ``root`` has them.

    Everything is written to a temporary folder inside ``root`` and then moved, ``classes.txt`` last: where that file
    is, the data are whole, however a run before was killed. Processes that write at once write the same, and the first
    to move wins.

    Raises:
        DatasetError: if the folder cannot be written.
    """
    if is_written(root):
        return
    try:
        root.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".writing-", dir=root))
        try:
            write(staging)
            for part in PARTS:
                move(staging / part, root / part)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        raise DatasetError(
            f"{name}: cannot write to {root} ({error}); set dataset.root=... or paths.data_dir=... to a folder "
            "that you may write to."
        ) from error


def move(source: Path, target: Path) -> None:
    """Move a file or folder to its place in one step; what another process has put there, or a user, stays."""
    if target.exists():
        return
    try:
        os.replace(source, target)
    except OSError:
        if not target.exists():
            raise
