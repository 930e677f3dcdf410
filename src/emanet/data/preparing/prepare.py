"""A benchmark from nothing to verified: fetch, unpack, count. Recipes: :mod:`emanet.data.preparing.recipes`.

Below the root, ``archives/`` holds what was fetched, ``.unpacking/`` what is not yet in its place. An archive is
unpacked to ``.unpacking/<part>.incomplete``, which loses its ending once it is whole, and is then moved by renaming. So
a killed run leaves nothing in a data set's own folders that is not complete, and the next run goes on from there.
``prepared.json`` is written last and as a whole: what was unpacked, with measured checksums, and whether all is there.
"""

import enum
import os
import shutil
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.filesize import decimal

from emanet.common.console import progress_bar
from emanet.common.errors import ConfigError, DatasetError
from emanet.common.files import locked, read_json, write_json
from emanet.data.items import read_pair
from emanet.data.preparing.archives import unpack
from emanet.data.preparing.download import download, free_bytes, measure, part_of, remote_size, size_of
from emanet.data.preparing.recipes import Archive, Check, recipe_of
from emanet.data.reading import spaced

LOOKED_AT = 8  # images of a split whose masks are read, to see that their labels are in range


class MissingArchiveError(DatasetError):
    """An archive that only the user can get."""


class State(enum.Enum):
    """What is to be done for an archive."""

    DONE = "done"
    THERE = "there already, not by this program"
    FILE = "to be unpacked"
    FETCH = "to be fetched and unpacked"
    MISSING = "missing: get it by hand"


class Step(NamedTuple):
    """An archive and what is to be done for it."""

    archive: Archive
    state: State
    origin: str  #: path or address
    size: int | None = None  #: bytes of the archive
    needed: int = 0  #: bytes of disk, about: what is left to fetch, and as much again unpacked


class Count(NamedTuple):
    """A split as its reader finds it."""

    name: str
    found: int
    expected: int


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
        console: where progress is shown.
    """

    name: str
    root: Path
    source: str | None = None
    parts: Collection[str] | None = None
    strict_counts: bool = True
    keep_archives: bool = False
    console: Console = field(default_factory=lambda: Console(quiet=True))

    def __post_init__(self) -> None:
        self.recipe = recipe_of(self.name)
        self.root = self.root.expanduser().absolute()
        self.record = self.root / "prepared.json"
        self.staging, self.fetched = self.root / ".unpacking", self.root / "archives"
        known = [archive.key for archive in self.recipe.archives]
        if unknown := [part for part in self.parts or () if part not in known]:
            raise ConfigError(f"{self.name} has the parts {', '.join(known)}; got {', '.join(unknown)}.")
        self.mirrored = (self.source or "").startswith(("http://", "https://"))
        self.places = [self.fetched, self.root]
        if self.source and not self.mirrored:
            folder = Path(self.source).expanduser()
            self.places = [folder, folder / self.name, *self.places]
            if not folder.is_dir():
                raise ConfigError(f"source={self.source}: no such folder, and no address with http:// or https://.")

    def plan(self) -> list[Step]:
        """Look at the disk and the source, and change nothing."""
        done = self._record()["archives"]
        steps = [self._step(archive, done) for archive in self.recipe.archives]
        if self.parts is not None:
            return [step for step in steps if step.archive.key in self.parts]
        return [step for step in steps if not step.archive.optional or step.state not in (State.FETCH, State.MISSING)]

    def run(self) -> list[Count]:
        """Do what the plan says; return the checked splits.

        Raises:
            DatasetError: naming the file, split or folder at fault. What was done stays done.
        """
        try:
            with locked(self.root / ".prepare.lock"):
                return self._run()
        except BlockingIOError as error:
            raise DatasetError(f"another process is preparing {self.root}; wait until it has ended.") from error
        except OSError as error:
            raise DatasetError(
                f"{self.root}: {error}; {decimal(free_bytes(self.root))} are free there. Make room, or set "
                "dataset.root=... to another folder; the same command goes on where it stopped."
            ) from error

    def _run(self) -> list[Count]:
        steps, record = self.plan(), self._record()
        self._refuse_impossible(steps)
        for step in steps:
            if step.state in (State.FILE, State.FETCH):
                record["archives"][step.archive.key] = self._bring(step)
                write_json(self.record, record | {"whole": False})
        there = {step.archive.key for step in steps} | set(record["archives"])
        counts = [
            count for check in self.recipe.checks if there.issuperset(check.needs) for count in self._count(check)
        ]
        record["counts"] |= {count.name: count.found for count in counts}
        wrong = [f"{count.name} {count.found} of {count.expected}" for count in counts if count.found != count.expected]
        write_json(self.record, record | {"whole": bool(counts) and not wrong})
        if self.strict_counts and (wrong or not counts):
            raise DatasetError(
                f"{self.name} in {self.root} is not whole: {', '.join(wrong) or 'none of its splits is complete'}. "
                "Remove the folders at fault and prepare it again; strict_counts=false accepts other counts."
            )
        for folder in (self.staging,) if self.keep_archives else (self.staging, self.fetched):
            shutil.rmtree(folder, ignore_errors=True)
        return counts

    def _record(self) -> dict[str, Any]:
        record = {"dataset": self.name, "whole": False, "archives": {}, "counts": {}} | (read_json(self.record) or {})
        if record["dataset"] != self.name:
            raise DatasetError(
                f"{self.record} says that this folder holds {record['dataset']}, not {self.name}; set dataset.root=..."
            )
        return record

    def _step(self, archive: Archive, done: dict[str, Any]) -> Step:
        if archive.key in done:
            return Step(archive, State.DONE, str(done[archive.key]["origin"]))
        moving = (self.staging / archive.key).exists()  # a run was killed: what is in place need not be all
        if not moving and all((self.root / place).exists() for place in archive.provides):
            return Step(archive, State.THERE, str(self.root / archive.provides[0]))
        for path in (place / archive.file for place in self.places):
            if path.is_file():
                return Step(archive, State.FILE, str(path), path.stat().st_size, path.stat().st_size)
        host = self.source.rstrip("/") if self.source and self.mirrored else archive.host
        if host is None or (self.source and not self.mirrored):
            return Step(archive, State.MISSING, archive.page or f"{host}/", archive.size, 2 * (archive.size or 0))
        url = f"{host}/{archive.file}"
        size = archive.size or remote_size(url)
        needed = 2 * (size or 0) - size_of(part_of(self.fetched / archive.file))
        return Step(archive, State.FETCH, url, size, max(0, needed))

    def _refuse_impossible(self, steps: Sequence[Step]) -> None:
        if missing := [step for step in steps if step.state is State.MISSING]:
            files = "; ".join(f"{step.archive.file} from {step.origin}" for step in missing)
            where = f"source={self.source} does not hold them" if self.source else "they cannot be fetched by a program"
            raise MissingArchiveError(
                f"{self.name}: {where}: {files}. Put them into {self.fetched}, or name their folder with source=DIR; "
                "other parts alone with parts=[...]."
            )
        needed, free = sum(step.needed for step in steps), free_bytes(self.root)
        if needed > free:
            raise DatasetError(
                f"{self.name} needs about {decimal(needed)}, {decimal(free)} are free for {self.root}: make room, or "
                "set dataset.root=... to another disk."
            )

    def _bring(self, step: Step) -> dict[str, Any]:
        """Fetch, verify, unpack and move one archive to its place; return what is to be recorded."""
        archive, path = step.archive, Path(step.origin)
        if step.state is State.FETCH:
            path = self.fetched / archive.file
            with progress_bar(self.console, f"fetching {archive.file}") as tick:
                download(step.origin, path, tick=tick)
        with progress_bar(self.console, f"verifying {archive.file}") as tick:
            digests, wrong = measure(path, archive.checksum, tick)
        if wrong:
            if step.state is State.FETCH:  # files that the user got are never touched
                path = path.replace(path.with_name(f"{path.name}.refused"))
            raise DatasetError(
                f"{path}: {wrong}; it is not used. Remove it and get it again, or name another place with source=."
            )
        whole, incomplete = (self.staging / f"{archive.key}{ending}" for ending in ("", ".incomplete"))
        shutil.rmtree(incomplete, ignore_errors=True)
        with progress_bar(self.console, f"unpacking {archive.file}") as tick:
            files, size = unpack(path, incomplete, wanted=archive.wanted, verified=bool(archive.checksum), tick=tick)
        if hasattr(os, "sync"):  # not on Windows
            os.sync()  # what is recorded as whole shall be so after a power cut too
        shutil.rmtree(whole, ignore_errors=True)
        os.replace(incomplete, whole)
        move_into(whole, self.root / archive.into)
        about = {"file": archive.file, "origin": step.origin, "bytes": path.stat().st_size, **digests}
        return about | {"files": files, "unpacked_bytes": size}

    def _count(self, check: Check) -> Iterator[Count]:
        """Count splits with the data set's own reader, and read some masks of each."""
        reader = self.recipe.reader(root=self.root, **check.options)
        note = "".join(f" ({value})" for value in check.options.values())
        for split in check.splits:
            samples, labels = reader.samples(split), reader.labels()
            for sample in spaced(samples, LOOKED_AT):
                if sample.mask is not None:
                    read_pair(sample, labels)
            yield Count(split + note, len(samples), reader.split_sizes[split])


def move_into(source: Path, target: Path) -> None:
    """Move a tree into another by renaming; what is there already stays as it is. It may be broken off and repeated."""
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.iterdir()):
        goal = target / path.name
        if not goal.exists():
            os.replace(path, goal)
        elif path.is_dir() and goal.is_dir():
            move_into(path, goal)
