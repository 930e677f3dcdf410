"""``prepared.json`` beside a benchmark: what was unpacked, with measured checksums, and whether all of it is there.

It is written last and as a whole, so that nothing half done is taken for done.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from emanet.common import files
from emanet.common.errors import DatasetError
from emanet.common.files import read_json, write_json

NAME = "prepared.json"
VERSION = 1


@dataclass
class Record:
    """What was done to a folder."""

    dataset: str
    version: int = VERSION
    whole: bool = False  #: every count checked is the published one
    archives: dict[str, dict[str, Any]] = field(default_factory=dict)  #: by part: file, origin, bytes, checksums, files
    derived: dict[str, int] = field(default_factory=dict)  #: files made from others
    counts: dict[str, int] = field(default_factory=dict)  #: images by split, as the reader finds them

    @classmethod
    def load(cls, root: Path, dataset: str) -> "Record":
        """Read the record of a folder; an empty one where there is none.

        Raises:
            DatasetError: for a record of another data set.
        """
        content = read_json(root / NAME)
        if content is None or content.get("version") != VERSION:
            return cls(dataset)
        record = cls(**content)
        if record.dataset != dataset:
            raise DatasetError(
                f"{root / NAME} says that this folder holds {record.dataset}, not {dataset}; set dataset.root=..."
            )
        return record

    def save(self, root: Path) -> None:
        """Write the record."""
        write_json(root / NAME, asdict(self))


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """Hold a folder for one process, until it ends in whatever way.

    Raises:
        DatasetError: if another process holds it, or it cannot be written.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(files.locked(root / ".prepare.lock"))
        except BlockingIOError as error:
            raise DatasetError(f"another process is preparing {root}; wait until it has ended.") from error
        except OSError as error:
            raise DatasetError(
                f"cannot write to {root} ({error}); set dataset.root=... to a folder of yours."
            ) from error
        yield
