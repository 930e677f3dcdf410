"""JSON files that are never seen half-written, and locks that end with their process."""

import importlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def read_json(path: Path) -> dict[str, Any] | None:
    """Read a JSON object; ``None`` where there is none, or a damaged one."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError):
        return None


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a file beside ``path`` to write to, which becomes ``path`` when the block ends well; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file, with its folder: it is either the old one or the new one, never half of it."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=2, allow_nan=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file for one process, until it ends in whatever way; its folder is made.

    Raises:
        BlockingIOError: if another process holds it.
        OSError: if it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            file_lock()(file.fileno())
        except PermissionError as error:  # what Windows says
            raise BlockingIOError(f"another process holds {path}") from error
        yield


def file_lock() -> Callable[[int], None]:
    """Return what locks an open file until it is closed, or raises where another process has locked it."""
    try:
        import fcntl
    except ImportError:
        msvcrt: Any = importlib.import_module("msvcrt")  # Windows; its functions are unknown to checkers elsewhere
        return lambda number: msvcrt.locking(number, msvcrt.LK_NBLCK, 1)
    return lambda number: fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
