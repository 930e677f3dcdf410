"""Archives unpacked safely: zip and tar files from anywhere, of which nothing may land outside the target.

A zip's members are described as tar describes its own, so that one check serves both. Only plain files are written: a
link that stays inside is left out (no benchmark needs one), anything else refuses the archive before the first byte.
"""

import errno
import logging
import re
import reprlib
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from rich.filesize import decimal

from emanet.common.console import Tick, silent
from emanet.common.errors import DatasetError
from emanet.data.preparing.download import CHUNK, free_bytes

log = logging.getLogger(__name__)

MOST_FILES = 1_000_000
MOST_GROWTH = 100  # unpacked bytes per archive byte; images and masks stay far below
ALWAYS_ALLOWED = 100 << 20  # bytes that no growth rule forbids
MOST_PADDING = 16 << 20  # bytes of zeros behind the last member of a tar
LONGEST_NAME = 4096  # bytes of a path or of a link's goal; no system allows more
LONGEST_HEADER = 1 << 20  # bytes of what a tar says about one member, which tarfile reads as a whole
BAD_NAME = {errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ}
LEAVES = re.compile(r"/|[A-Za-z]:|.*[\\\0]|(.*/)?\.\.(/|$)", re.DOTALL)  # names that lead out, here or on Windows
FROM_MACOS = re.compile(r"(.*/)?(__MACOSX/|\.DS_Store$|\._)", re.DOTALL)
ZIP_KINDS = {0: tarfile.REGTYPE, stat.S_IFREG: tarfile.REGTYPE, stat.S_IFLNK: tarfile.SYMTYPE}

shorten = reprlib.Repr()
shorten.maxstring = 100

Member = tuple[tarfile.TarInfo, Callable[[], Any]]
"""What an archive says about a member, and what opens it."""


def unpack(
    archive: Path, target: Path, *, wanted: Sequence[str] = (), verified: bool = False, tick: Tick = silent
) -> tuple[int, int]:
    """Unpack an archive into the new folder ``target``, or copy a file that is none; return the files and their bytes.

    Args:
        wanted: beginnings of the paths to unpack; none: everything.
        verified: the archive's checksum is known to be right, so the mark at the end of a tar is not asked for.
        tick: told of progress in bytes.

    Raises:
        DatasetError: before anything is written for an archive that is unsafe, truncated, grows beyond reason or is
            larger than the free disk; later for one that is damaged inside.
        OSError: from a disk that fills up.
    """
    with reading(archive, verified) as members:
        chosen = [member for member in within_reason(members, archive) if is_wanted(member[0], wanted, archive)]
        done, size, free = 0, sum(info.size for info, _ in chosen), free_bytes(target.parent)
        if size > free:
            raise DatasetError(
                f"{archive} unpacks to {decimal(size)}, {decimal(free)} are free in {target.parent}: make room or set "
                "dataset.root=... to another disk."
            )
        target.mkdir(parents=True)
        for info, open_member in chosen:
            (target / info.name).parent.mkdir(parents=True, exist_ok=True)
            with open_member() as source, (target / info.name).open("wb") as file:
                shutil.copyfileobj(source, file, CHUNK)
            done += info.size
            tick(done, size)
    return len(chosen), size


def within_reason(members: Iterable[Member], archive: Path) -> Iterator[Member]:
    """Hand members on; refuse the archive when they are too many or too large."""
    most, grown = max(ALWAYS_ALLOWED, MOST_GROWTH * archive.stat().st_size), 0
    for number, member in enumerate(members, start=1):
        grown += member[0].size
        if grown > most or number > MOST_FILES:
            raise refused(archive, f"it would grow to more than {decimal(most)} or {MOST_FILES} files (a bomb?)")
        yield member


def is_wanted(info: tarfile.TarInfo, wanted: Sequence[str], archive: Path) -> bool:
    """Whether a member is a file that is asked for; refuse one that would land outside, leads there, or is a device."""
    name = shorten.repr(info.name)
    if LEAVES.match(info.name) or "\\" in info.linkname or max(len(info.name), len(info.linkname)) > LONGEST_NAME:
        raise refused(archive, f"its member {name} would land or lead outside the target folder")
    if not (info.isreg() or info.isdir()):
        try:
            tarfile.data_filter(info, f"{archive}.unpacked")
        except (tarfile.FilterError, OSError) as error:
            raise refused(archive, f"its member {name}: {shorten.repr(str(error))}") from error
        log.warning("%s: left out the link %s -> %s", archive, name, shorten.repr(info.linkname))
    parts = PurePosixPath(info.name).parts
    return (
        info.isreg() and not FROM_MACOS.match(info.name) and (not wanted or "/".join(parts).startswith(tuple(wanted)))
    )


@contextmanager
def reading(archive: Path, verified: bool) -> Iterator[Iterator[Member]]:
    """Open an archive as its members, to be read in this order; name the archive in every error.

    Raises:
        DatasetError: for an archive that is truncated or broken.
    """
    try:
        if archive.name.endswith(".zip"):
            with zipfile.ZipFile(archive) as opened:
                yield zip_members(opened, archive)
        elif archive.name.endswith((".tar", ".tar.gz", ".tgz")):
            with tarfile.open(archive, tarinfo=Header) as opened_tar:
                yield tar_members(opened_tar, archive, verified)
        else:
            info = tarfile.TarInfo(archive.name)
            info.size = archive.stat().st_size
            yield iter([(info, partial(archive.open, "rb"))])
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, OSError) as error:
        if isinstance(error, OSError) and error.errno in BAD_NAME:
            what = shorten.repr(str(error))
            raise refused(archive, f"two members have one name, or one too long to be written here: {what}") from error
        if isinstance(error, OSError) and error.errno is not None:  # gzip's own carries no number
            raise
        raise DatasetError(f"{archive}: truncated or damaged ({error}); remove it and fetch it again.") from error


def zip_members(opened: zipfile.ZipFile, archive: Path) -> Iterator[Member]:
    """Walk through a zip file; its checksums of members are verified on reading."""
    for entry in opened.infolist():
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # zipfile inflates others unbounded
            raise refused(archive, f"{shorten.repr(entry.filename)} is compressed by method {entry.compress_type}")
        info = tarfile.TarInfo(entry.orig_filename)
        info.size = entry.file_size
        kind = stat.S_IFMT(entry.external_attr >> 16)
        info.type = tarfile.DIRTYPE if entry.is_dir() else ZIP_KINDS.get(kind, tarfile.CHRTYPE)
        if info.issym():
            with opened.open(entry) as link:
                info.linkname = link.read(LONGEST_NAME + 1).decode(errors="replace")
        yield info, partial(opened.open, entry)


def tar_members(opened: tarfile.TarFile, archive: Path, verified: bool) -> Iterator[Member]:
    """Walk through a tar file, and make sure that it has an end."""
    for info in opened:
        yield info, partial(opened.extractfile, info)
    assert opened.fileobj is not None
    opened.fileobj.seek(opened.offset)
    end = opened.fileobj.read(MOST_PADDING)  # to the last byte: only there gzip compares its checksum
    if len(end) < tarfile.BLOCKSIZE and not verified:  # tarfile takes a file cut between two members for whole
        raise EOFError("the mark at the end is missing")


class Header(tarfile.TarInfo):
    """What a tar says about a member, of bounded size."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "Header":
        """Read a header, and refuse a huge one before tarfile reads it."""
        header = super().frombuf(buf, encoding, errors)
        if header.size > LONGEST_HEADER and not header.isreg():
            raise RuntimeError(f"a header of {header.size} bytes")
        return header


def refused(archive: Path, reason: str) -> DatasetError:
    """Make the error for an archive that is not unpacked."""
    return DatasetError(f"{archive}: refused: {reason}. No copy of a benchmark holds such a thing; take another one.")
