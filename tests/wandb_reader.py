"""Read the file of an offline W&B run back: LevelDB's log framing around protobuf records.

wandb has no Python reader of its own any more (its writer is a separate Go process), but ships the record types.
"""

import json
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2 as pb

BLOCK, FRAME = 32768, 7  # bytes of a block, and of the header before each piece of a record
FULL, FIRST, LAST = 1, 2, 4  # a record in one piece, or its first and last pieces


@dataclass
class OfflineRun:
    """What an offline run holds."""

    project: str = ""
    entity: str = ""
    name: str = ""
    group: str = ""
    job_type: str = ""
    tags: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)
    artifacts: list[tuple[str, list[str], list[str]]] = field(default_factory=list)  #: name, aliases, local files
    exit_code: int | None = None

    def series(self, key: str) -> list[Any]:
        """Values of a key in the order in which they were logged."""
        return [row[key] for row in self.history if key in row]


def find_run(run_dir: Path) -> Path:
    """The one offline run under a run folder."""
    (path,) = (run_dir / "wandb").glob("offline-run-*/run-*.wandb")
    return path


def read_run(path: Path) -> OfflineRun:
    """Read a ``run-ID.wandb`` file."""
    run = OfflineRun()
    for record in records(path.read_bytes()):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run.project, run.entity, run.name = record.run.project, record.run.entity, record.run.display_name
            run.group, run.job_type, run.tags = record.run.run_group, record.run.job_type, list(record.run.tags)
            run.config |= values(record.run.config.update)
        elif kind == "config":
            run.config |= values(record.config.update)
        elif kind == "history":
            run.history.append(values(record.history.item))
        elif kind == "summary":
            run.summary |= values(record.summary.update)
        elif kind == "files":
            run.files += [file.path for file in record.files.files]
        elif kind == "artifact":
            contents = [entry.local_path for entry in record.artifact.manifest.contents]
            run.artifacts.append((record.artifact.name, list(record.artifact.aliases), contents))
        elif kind == "exit":
            run.exit_code = record.exit.exit_code
    return run


def records(data: bytes) -> Iterator[pb.Record]:
    """Put the pieces of each record together and parse it.

    Raises:
        ValueError: for a file of another kind, or a piece whose checksum is wrong.
    """
    magic, number, _version = struct.unpack("<4sHB", data[:FRAME])
    if (magic, number) != (b":W&B", 0xBEE1):
        raise ValueError(f"no W&B file: it starts with {data[:FRAME]!r}")
    position, pieces = FRAME, b""
    while position + FRAME <= len(data):
        left = BLOCK - position % BLOCK
        checksum, length, kind = (
            struct.unpack("<IHB", data[position : position + FRAME]) if left >= FRAME else (0, 0, 0)
        )
        if kind == 0:  # the rest of the block is padding
            position += left
            continue
        piece = data[position + FRAME : position + FRAME + length]
        if zlib.crc32(piece, zlib.crc32(bytes([kind]))) != checksum:
            raise ValueError(f"wrong checksum at byte {position}")
        position += FRAME + length
        pieces = piece if kind in (FULL, FIRST) else pieces + piece
        if kind in (FULL, LAST):
            yield pb.Record.FromString(pieces)


def values(items: Iterable[Any]) -> dict[str, Any]:
    """Key-value records as a dictionary; the parts of a nested key are joined by slashes."""
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
