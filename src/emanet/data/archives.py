"""Archives unpacked safely: zip and tar files from anywhere, of which nothing may land outside the target.

Only plain files are ever written. A link inside the archive's own tree is left out (no benchmark needs one), a link or
path that leads elsewhere, a device, a password or an absurd size refuse the whole archive. Python's own tar filter
(PEP 706) does not know sizes, zip files know no filter at all.
"""

import logging
import posixpath
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

from emanet.data.download import CHUNK, Tick, free_bytes, room_on_disk, silent
from emanet.errors import DatasetError

log = logging.getLogger(__name__)

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")
MOST_FILES = 1_000_000
MOST_GROWTH = 100  # unpacked bytes per archive byte; images and masks stay far below
ALWAYS_ALLOWED = 100 << 20  # bytes that no growth rule forbids
MOST_PADDING = 16 << 20  # bytes of zeros behind the last member
DRIVE = re.compile("[A-Za-z]:")
LEFT_OUT = {"__MACOSX", ".DS_Store"}  # what macOS adds to archives


class Entry(NamedTuple):
    """A plain file of an archive."""

    path: PurePosixPath  #: below the target, checked
    size: int  #: bytes, as declared
    open: Callable[[], IO[bytes]]


class Contents(NamedTuple):
    """What an archive holds, or what was unpacked from it."""

    files: int
    size: int  #: bytes


def is_archive(path: Path) -> bool:
    """Tell archives, by their name, from files that are used as they are."""
    return path.name.endswith(SUFFIXES)


def survey(archive: Path, *, wanted: Sequence[str] = (), verified: bool = False) -> Contents:
    """Look through all members before one is written; return how much is to be unpacked.

    Arguments:
        wanted: beginnings of the paths to unpack; none: everything.
        verified: the archive's checksum is known to be right, so the mark at the end of a tar is not asked for.

    Raises:
        DatasetError: for an archive that is truncated, unsafe, or grows beyond reason.
    """
    most = max(ALWAYS_ALLOWED, MOST_GROWTH * archive.stat().st_size)
    all_files = all_bytes = files = size = 0
    with reading(archive, verified=verified) as entries:
        for entry in entries:
            all_files, all_bytes = all_files + 1, all_bytes + entry.size
            if all_bytes > most or all_files > MOST_FILES:
                raise DatasetError(
                    f"{archive}: refused: it would grow to more than {most / 1e6:.0f} MB or {MOST_FILES} files, which "
                    "no benchmark does (a decompression bomb?)."
                )
            if is_wanted(entry.path, wanted):
                files, size = files + 1, size + entry.size
    return Contents(files, size)


def unpack(
    archive: Path, target: Path, *, wanted: Sequence[str] = (), verified: bool = False, tick: Tick = silent
) -> Contents:
    """Unpack an archive into the new folder ``target``, or copy a file that is none; return what was written.

    Raises:
        DatasetError: as :func:`survey`, and for a disk without room, before anything is written where that is known.
    """
    contents = survey(archive, wanted=wanted, verified=verified)
    if contents.size > (free := free_bytes(target.parent)):
        raise DatasetError(
            f"{archive} unpacks to {contents.size / 1e9:.2f} GB, {free / 1e9:.2f} GB are free in {target.parent}: make "
            "room or set dataset.root=... to another disk."
        )
    done = 0
    with room_on_disk(target), reading(archive, verified=verified) as entries:
        target.mkdir(parents=True)
        for entry in entries:
            if is_wanted(entry.path, wanted):
                write(entry, target / entry.path)
                done += entry.size
                tick(done, contents.size)
    return contents


def write(entry: Entry, path: Path) -> None:
    """Write one file, which must be as long as declared."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with entry.open() as source, path.open("wb") as file:
        shutil.copyfileobj(source, file, CHUNK)
        if file.tell() != entry.size:
            raise EOFError(f"{entry.path} has {file.tell()} of {entry.size} bytes")


def is_wanted(path: PurePosixPath, wanted: Sequence[str]) -> bool:
    """Whether a path begins with any of the wanted beginnings."""
    return not wanted or path.as_posix().startswith(tuple(wanted))


@contextmanager
def reading(archive: Path, *, verified: bool = False) -> Iterator[Iterator[Entry]]:
    """Open an archive as its plain files, to be read in this order; name the archive in every error.

    Raises:
        DatasetError: for an archive that is truncated, broken or unsafe.
    """
    try:
        if archive.name.endswith(".zip"):
            with zipfile.ZipFile(archive) as opened:
                yield zip_entries(opened, archive)
        elif is_archive(archive):
            with tarfile.open(archive) as opened_tar:
                yield tar_entries(opened_tar, archive, verified)
        else:
            yield iter([Entry(PurePosixPath(archive.name), archive.stat().st_size, lambda: archive.open("rb"))])
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise broken(archive, error) from error
    except OSError as error:
        if error.errno is None:  # gzip's BadGzipFile; those of the operating system carry a number
            raise broken(archive, error) from error
        raise


def zip_entries(opened: zipfile.ZipFile, archive: Path) -> Iterator[Entry]:
    """Walk through a zip file; its checksums of members are verified on reading."""
    for info in opened.infolist():
        path = safe_path(info.orig_filename, archive)
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind == stat.S_IFLNK:
            check_link(path, opened.read(info)[:4096].decode(errors="replace"), archive)
        elif kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise refused(archive, f"{path} is a device")
        elif not info.is_dir() and not LEFT_OUT & set(path.parts):
            yield Entry(path, info.file_size, lambda info=info: opened.open(info))  # type: ignore[misc]


def tar_entries(opened: tarfile.TarFile, archive: Path, verified: bool) -> Iterator[Entry]:
    """Walk through a tar file, and make sure that it has an end."""
    for info in opened:
        path = safe_path(info.name, archive)
        if info.issym():
            check_link(path, info.linkname, archive)
        elif info.islnk():
            check_link(PurePosixPath(path.name), info.linkname, archive)  # names a member, from the archive's root
        elif not (info.isreg() or info.isdir()):
            raise refused(archive, f"{path} is a device")
        elif info.isreg() and not LEFT_OUT & set(path.parts):
            yield Entry(path, info.size, lambda info=info: tar_file(opened, info))  # type: ignore[misc]
    assert opened.fileobj is not None
    opened.fileobj.seek(opened.offset)
    end = opened.fileobj.read(MOST_PADDING)  # to the last byte: only there gzip compares its checksum
    if len(end) < tarfile.BLOCKSIZE and not verified:  # tarfile takes a file cut between two members for whole
        raise EOFError("the mark at the end is missing")
    if len(end) == MOST_PADDING:
        raise refused(archive, "more follows behind its end")


def tar_file(opened: tarfile.TarFile, info: tarfile.TarInfo) -> Any:
    """Open a plain file of a tar, as binary file."""
    file = opened.extractfile(info)
    assert file is not None  # None for other kinds only
    return file


def safe_path(name: str, archive: Path) -> PurePosixPath:
    """Check a member's name: a relative path that stays below the target, on any system.

    Raises:
        DatasetError: if it does not.
    """
    path = PurePosixPath(name)
    if not path.parts and name.strip("./") == "":
        return PurePosixPath(".")  # the archive's own root, as "tar -c ." writes it
    if path.is_absolute() or ".." in path.parts or DRIVE.match(name) or "\\" in name or "\0" in name:
        raise refused(archive, f"its member {name!r} would land outside the target folder")
    return path


def check_link(path: PurePosixPath, goal: str, archive: Path) -> None:
    """Refuse a link that leads out of the archive's tree; say that one inside is left out."""
    reached = posixpath.normpath(posixpath.join(path.parent.as_posix(), goal))
    if goal.startswith("/") or "\\" in goal or reached == ".." or reached.startswith("../"):
        raise refused(archive, f"its link {path} leads outside the target folder, to {goal!r}")
    log.warning("%s: left out the link %s -> %s", archive, path, goal)


def refused(archive: Path, reason: str) -> DatasetError:
    """Make the error for an unsafe archive."""
    return DatasetError(
        f"{archive}: refused: {reason}. No copy of this benchmark holds such a thing; take another one."
    )


def broken(archive: Path, error: Exception) -> DatasetError:
    """Make the error for a truncated or damaged archive."""
    return DatasetError(
        f"{archive}: truncated or damaged ({error}; {archive.stat().st_size} bytes); remove it and fetch it again."
    )
