"""Archives unpacked safely: zip and tar files from anywhere, of which nothing may land outside the target.

Only plain files are ever written. A link inside the archive's own tree is left out (no benchmark needs one), a link or
path that leads elsewhere, a device, a password or an absurd size refuse the whole archive. Python's own tar filter
(PEP 706) does not know sizes, zip files know no filter at all.
"""

import errno
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

from emanet.common.errors import DatasetError
from emanet.data.preparing.download import CHUNK, Tick, free_bytes, room_on_disk, silent

log = logging.getLogger(__name__)

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")
MOST_FILES = 1_000_000
MOST_GROWTH = 100  # unpacked bytes per archive byte; images and masks stay far below
ALWAYS_ALLOWED = 100 << 20  # bytes that no growth rule forbids
MOST_PADDING = 16 << 20  # bytes of zeros behind the last member
LONGEST_NAME = 4096  # bytes of a path or of a link's goal; no system allows more
LONGEST_HEADER = 1 << 20  # bytes of what a tar says about one member, which tarfile reads as a whole
HEADERS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
BAD_NAME = {errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ}
DRIVE = re.compile("[A-Za-z]:")
LEFT_OUT = {"__MACOSX", ".DS_Store"}  # what macOS adds to archives


class Entry(NamedTuple):
    """A plain file of an archive, or a link that is left out."""

    path: PurePosixPath  #: below the target, checked
    size: int  #: bytes, as declared
    open: Callable[[], IO[bytes]] | None  #: None for a link


class Contents(NamedTuple):
    """What an archive holds, or what was unpacked from it."""

    files: int
    size: int  #: bytes


def is_archive(path: Path) -> bool:
    """Tell archives, by their name, from files that are used as they are."""
    return path.name.endswith(SUFFIXES)


def survey(archive: Path, *, wanted: Sequence[str] = (), verified: bool = False) -> Contents:
    """Look through all members before one is written; return how much is to be unpacked.

    Args:
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
            if is_wanted(entry, wanted):
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
            if is_wanted(entry, wanted):
                with writable(entry.path, target, archive):
                    write(entry, target / entry.path)
                done += entry.size
                tick(done, contents.size)
    return contents


def write(entry: Entry, path: Path) -> None:
    """Write one file, which must be as long as declared."""
    assert entry.open is not None
    path.parent.mkdir(parents=True, exist_ok=True)
    with entry.open() as source, path.open("wb") as file:
        shutil.copyfileobj(source, file, CHUNK)
        if file.tell() != entry.size:
            raise EOFError(f"{entry.path} has {file.tell()} of {entry.size} bytes")


@contextmanager
def writable(path: PurePosixPath, target: Path, archive: Path) -> Iterator[None]:
    """Name the archive where a member's name cannot be written: two that clash, or one that the system refuses.

    Raises:
        DatasetError: instead of the system's error.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in BAD_NAME:
            raise
        raise DatasetError(
            f"{archive}: its member {short(path)} cannot be written below {target}: {error.strerror}. Two members may "
            "have one name, or the path be too long here: take another copy, or set dataset.root=... to a shorter path."
        ) from error


def is_wanted(entry: Entry, wanted: Sequence[str]) -> bool:
    """Whether an entry is a file whose path begins with any of the wanted beginnings."""
    return entry.open is not None and (not wanted or entry.path.as_posix().startswith(tuple(wanted)))


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
            with tarfile.open(archive, tarinfo=Header) as opened_tar:
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
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # zipfile inflates others unbounded
            raise refused(archive, f"{short(path)} is compressed by method {info.compress_type}, not by deflate")
        if kind == stat.S_IFLNK:
            with opened.open(info) as link:
                goal = link.read(LONGEST_NAME + 1)
            yield left_out(path, goal.decode(errors="replace"), archive)
        elif kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise refused(archive, f"{path} is a device")
        elif not info.is_dir() and not LEFT_OUT & set(path.parts):
            yield Entry(path, info.file_size, lambda info=info: opened.open(info))  # type: ignore[misc]


def tar_entries(opened: tarfile.TarFile, archive: Path, verified: bool) -> Iterator[Entry]:
    """Walk through a tar file, and make sure that it has an end."""
    for info in opened:
        path = safe_path(info.name, archive)
        if info.issym():
            yield left_out(path, info.linkname, archive)
        elif info.islnk():
            yield left_out(PurePosixPath(path.name), info.linkname, archive)  # names a member, from the archive's root
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


class Header(tarfile.TarInfo):
    """What a tar says about a member, of bounded size."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "Header":
        """Read a header, and refuse a huge one before tarfile reads it."""
        header = super().frombuf(buf, encoding, errors)
        if header.size > LONGEST_HEADER and header.type in HEADERS:
            raise RuntimeError(f"a header of {header.size} bytes")
        return header


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
        raise refused(archive, f"its member {short(name)!r} would land outside the target folder")
    if len(name) > LONGEST_NAME:
        raise refused(archive, f"its member {short(name)!r} has a name of {len(name)} characters")
    return path


def left_out(path: PurePosixPath, goal: str, archive: Path) -> Entry:
    """Refuse a link that leads out of the archive's tree or is too long; say that one inside is left out."""
    if len(goal) > LONGEST_NAME:
        raise refused(archive, f"its link {short(path)} is longer than {LONGEST_NAME} bytes")
    reached = posixpath.normpath(posixpath.join(path.parent.as_posix(), goal))
    if goal.startswith("/") or "\\" in goal or reached == ".." or reached.startswith("../"):
        raise refused(archive, f"its link {short(path)} leads outside the target folder, to {short(goal)!r}")
    log.warning("%s: left out the link %s -> %s", archive, short(path), short(goal))
    return Entry(path, 0, None)


def short(name: object) -> str:
    """Cut a long name for a message."""
    text = str(name)
    return text if len(text) <= 100 else f"{text[:60]}...{text[-30:]}"


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
