"""A benchmark from nothing to verified: fetch, unpack, derive, count. Recipes: :mod:`emanet.data.preparing.recipes`.

Below the root, ``archives/`` holds what was fetched, ``.unpacking/`` what is not yet whole. An archive is unpacked to
``.unpacking/<part>/files``; once ``about.json`` lies beside it, it is whole and moved to its place by renaming. So a
killed run leaves nothing in a data set's own folders that is not complete, and the next run goes on from there.
"""

import enum
import logging
import os
import shutil
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from emanet.common.errors import ConfigError, DatasetError
from emanet.common.files import read_json, write_json
from emanet.data.items import read_pair
from emanet.data.preparing.archives import unpack
from emanet.data.preparing.download import Partial, Tick, download, free_bytes, measure, mismatch, remote_size, silent
from emanet.data.preparing.recipes import Archive, recipe_of
from emanet.data.preparing.record import Record, locked

log = logging.getLogger(__name__)

LOOKED_AT = 8  # images of a split whose masks are read, to see that their labels are in range

Show = Callable[[str, str], AbstractContextManager[Tick]]
"""Opens a progress bar: its text, and what it counts ("bytes" or a plural noun)."""


def show_nothing(_text: str, _unit: str) -> AbstractContextManager[Tick]:
    """Show no progress."""
    return nullcontext(silent)


class MissingArchiveError(DatasetError):
    """An archive that only the user can get."""


class State(enum.Enum):
    """What is to be done for an archive."""

    DONE = "done"
    THERE = "there already, not by this program"
    UNPACKED = "unpacked, to be moved to its place"
    FILE = "to be unpacked"
    FETCH = "to be fetched and unpacked"
    MISSING = "missing: get it by hand"


class Step(NamedTuple):
    """An archive and what is to be done for it."""

    archive: Archive
    state: State
    origin: str  #: path or address
    size: int | None  #: bytes of the archive
    needed: int  #: bytes of disk, about: what is left to fetch, and as much again unpacked


class Count(NamedTuple):
    """A split as its reader finds it."""

    name: str
    found: int
    expected: int | None

    @property
    def right(self) -> bool:
        """Whether the split is whole."""
        return self.expected in (None, self.found)


@dataclass
class Preparation:
    """One benchmark and one folder.

    Args:
        name: of the benchmark.
        root: folder that it shall lie in.
        source: folder or address to take the archives from; None: their own addresses.
        parts: keys of the archives to take; None: all, optional ones only where their files lie ready.
        strict_counts: whether a split of another size than published is an error.
        keep_archives: whether fetched archives stay once everything is unpacked and checked.
        show: opens progress bars.
    """

    name: str
    root: Path
    source: str | None = None
    parts: Collection[str] | None = None
    strict_counts: bool = True
    keep_archives: bool = False
    show: Show = show_nothing

    def __post_init__(self) -> None:
        self.recipe = recipe_of(self.name)
        self.root = self.root.expanduser().absolute()
        self.staging, self.fetched = self.root / ".unpacking", self.root / "archives"
        known = [archive.key for archive in self.recipe.archives]
        if unknown := [part for part in self.parts or () if part not in known]:
            raise ConfigError(f"{self.name} has the parts {', '.join(known)}; got {', '.join(unknown)}.")

    # -- what is to be done

    def plan(self) -> list[Step]:
        """Look at the disk and the source, and change nothing."""
        record = Record.load(self.root, self.name)
        steps = [
            self._step(archive, record)
            for archive in self.recipe.archives
            if self.parts is None or archive.key in self.parts
        ]
        return [
            step
            for step in steps
            if not (step.archive.optional and self.parts is None and step.state in (State.FETCH, State.MISSING))
        ]

    def _step(self, archive: Archive, record: Record) -> Step:
        if archive.key in record.archives:
            return Step(archive, State.DONE, str(record.archives[archive.key]["origin"]), None, 0)
        if (self.staging / archive.key / "about.json").is_file():
            return Step(archive, State.UNPACKED, str(self.staging / archive.key), None, 0)
        if all((self.root / place).exists() for place in archive.provides):
            return Step(archive, State.THERE, str(self.root / archive.provides[0]), None, 0)
        for place in self._places():
            if (path := place / archive.file).is_file():
                length = path.stat().st_size
                return Step(archive, State.FILE, str(path), length, length)
        url = self._address(archive)
        if url is None:
            return Step(archive, State.MISSING, archive.page, archive.size, 2 * (archive.size or 0))
        size = archive.size or remote_size(url)
        here = Partial(self.fetched / archive.file).size
        return Step(archive, State.FETCH, url, size, max(0, 2 * (size or 0) - here))

    def _places(self) -> list[Path]:
        places = [self.fetched, self.root]
        if self.source is not None and not is_address(self.source):
            folder = Path(self.source).expanduser()
            if not folder.is_dir():
                raise ConfigError(f"source={self.source}: no such folder, and no address with http:// or https://.")
            places = [folder, folder / self.name, *places]
        return places

    def _address(self, archive: Archive) -> str | None:
        if self.source is None:
            return archive.url
        return f"{self.source.rstrip('/')}/{archive.file}" if is_address(self.source) else None

    # -- doing it

    def run(self) -> list[Count]:
        """Do what the plan says; return the checked splits.

        Raises:
            DatasetError: naming the file or split at fault. What was done stays done.
        """
        with locked(self.root):
            steps = self.plan()
            self._refuse_impossible(steps)
            record = Record.load(self.root, self.name)
            for step in steps:
                if step.state not in (State.DONE, State.THERE):
                    record.archives[step.archive.key] = self._bring(step)
                    record.whole = False
                    record.save(self.root)
                    shutil.rmtree(self.staging / step.archive.key)
            there = {step.archive.key for step in steps} | set(record.archives)
            self._derive(record, there)
            counts = self._check(record, there)
            shutil.rmtree(self.staging, ignore_errors=True)
            if not self.keep_archives:
                shutil.rmtree(self.fetched, ignore_errors=True)
        return counts

    def _refuse_impossible(self, steps: Sequence[Step]) -> None:
        if missing := [step for step in steps if step.state is State.MISSING]:
            files = "; ".join(f"{step.archive.file} from {step.archive.page}" for step in missing)
            where = f"source={self.source} does not hold them" if self.source else "they cannot be fetched by a program"
            raise MissingArchiveError(
                f"{self.name}: {where}: {files}. Put them into {self.fetched}, or name their folder with source=DIR; "
                "other parts alone with parts=[...]."
            )
        needed, free = sum(step.needed for step in steps), free_bytes(self.root)
        if needed > free:
            raise DatasetError(
                f"{self.name} needs about {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free for {self.root}: make "
                "room, or set dataset.root=... to another disk."
            )

    def _bring(self, step: Step) -> dict[str, Any]:
        """Fetch, verify, unpack and move one archive to its place; return what is to be recorded."""
        archive, folder = step.archive, self.staging / step.archive.key
        if step.state is not State.UNPACKED:
            shutil.rmtree(folder, ignore_errors=True)  # what a killed run left
            path, digests = self._verified_file(step)
            folder.mkdir(parents=True)
            with self.show(f"unpacking {archive.file}", "bytes") as tick:
                contents = unpack(
                    path, folder / "files", wanted=archive.wanted, verified=archive.checksum is not None, tick=tick
                )
            if hasattr(os, "sync"):  # not on Windows
                os.sync()  # what is marked as whole shall be so after a power cut too
            about = {"file": archive.file, "origin": step.origin, "bytes": path.stat().st_size, **digests}
            write_json(folder / "about.json", about | {"files": contents.files, "unpacked_bytes": contents.size})
        move_into(folder / "files", self.root / archive.into)
        return read_json(folder / "about.json") or {}

    def _verified_file(self, step: Step) -> tuple[Path, dict[str, str]]:
        archive = step.archive
        if step.state is State.FETCH:
            path = self.fetched / archive.file
            with self.show(f"fetching {archive.file}", "bytes") as tick:
                return path, download(step.origin, path, checksum=archive.checksum, tick=tick)
        path = Path(step.origin)
        with self.show(f"verifying {archive.file}", "bytes") as tick:
            digests = measure(path, archive.checksum, tick)
        if wrong := mismatch(digests, archive.checksum):
            raise DatasetError(f"{path}: wrong checksum: {wrong}; it is not used. Remove it and get it again.")
        return path, digests

    def _derive(self, record: Record, there: set[str]) -> None:
        for derivation in self.recipe.derivations:
            if there.issuperset(derivation.needs) and derivation.name not in record.derived:
                folder = self.staging / derivation.name
                shutil.rmtree(folder, ignore_errors=True)
                with self.show(f"deriving {derivation.name}", "files") as tick:
                    record.derived[derivation.name] = derivation.make(self.root, folder, tick)
                record.save(self.root)

    def _check(self, record: Record, there: set[str]) -> list[Count]:
        """Count the splits with the data set's own reader, and read some masks of each."""
        counts = []
        for check in self.recipe.checks:
            if not there.issuperset(check.needs):
                continue
            reader = self.recipe.reader(root=self.root, **check.options)
            note = "".join(f" ({value})" for value in check.options.values())
            for split in check.splits:
                samples = reader.samples(split)
                counts.append(Count(split + note, len(samples), reader.split_sizes.get(split)))
                labels = reader.labels()
                for sample in samples[:: max(1, len(samples) // LOOKED_AT)][:LOOKED_AT]:
                    if sample.mask is not None:
                        read_pair(sample, labels)
        record.counts |= {count.name: count.found for count in counts}
        record.whole = bool(counts) and all(count.right for count in counts)
        record.save(self.root)
        if self.strict_counts and not record.whole:
            wrong = ", ".join(f"{count.name} {count.found} of {count.expected}" for count in counts if not count.right)
            raise DatasetError(
                f"{self.name} in {self.root} is not whole: {wrong or 'none of its splits is complete'}. Remove the "
                "folders at fault and prepare it again; strict_counts=false accepts other counts."
            )
        return counts


def is_address(source: str) -> bool:
    """Tell an address from a folder."""
    return source.startswith(("http://", "https://"))


def move_into(source: Path, target: Path) -> None:
    """Move a tree into another by renaming; what is there already stays as it is. It may be broken off and repeated."""
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.iterdir()) if source.is_dir() else ():
        goal = target / path.name
        if not goal.exists():
            os.replace(path, goal)
        elif path.is_dir() and goal.is_dir():
            move_into(path, goal)
