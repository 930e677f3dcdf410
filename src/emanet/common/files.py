"""JSON files that are never seen half-written, and locks that end with their process."""

import importlib
import json
import logging
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)


def read_json(path: Path) -> dict[str, Any] | None:
    """Read a JSON object; ``None`` where there is none, or a damaged one."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError):
        return None


@contextmanager
def replacing(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """Give a file beside ``path`` to write to, which becomes ``path`` when the block ends well; its folder is made.

    If ``durable``, it is flushed to the disk first, and its folder afterwards where the system can do that: a power cut
    leaves the old file or the new one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        if durable:
            flush(temporary)
        temporary.replace(path)
        if durable and os.name == "posix":
            flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file, with its folder: it is either the old one or the new one, never half of it."""
    with replacing(path, durable=True) as temporary, temporary.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=2, allow_nan=False)
        file.write("\n")


def flush(path: Path) -> None:
    """Have the system write a file or folder to its disk."""
    descriptor = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file for one process, until it ends in whatever way; its folder is made.

    Where a file system or a system knows no locks, the log says so and nothing is held.

    Raises:
        BlockingIOError: if another process holds it, with what that one wrote about itself.
        OSError: if it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        if hasattr(os, "register_at_fork"):  # else a worker that outlives this process would hold it on
            os.register_at_fork(after_in_child=file.close)
        try:
            file_lock()(file.fileno())
        except (BlockingIOError, PermissionError) as error:  # the latter is what Windows says
            file.seek(0)
            raise BlockingIOError(file.read().strip() or "another process") from error
        except (ImportError, OSError) as error:
            log.warning("%s cannot be locked (%s): let no second process work there", path.parent, error)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}\n")
        file.flush()
        yield


def file_lock() -> Callable[[int], None]:
    """Return what locks an open file until it is closed, or raises where another process has locked it."""
    try:
        import fcntl
    except ImportError:
        msvcrt: Any = importlib.import_module("msvcrt")  # Windows; its functions are unknown to checkers elsewhere
        return lambda number: msvcrt.locking(number, msvcrt.LK_NBLCK, 1)
    return lambda number: fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
