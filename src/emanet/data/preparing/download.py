"""Files from the web: verified, and gone on with where a run stopped.

pooch writes to a temporary file that it removes on any failure and never asks for a range (1.9, ``stream_download``),
so a cut 18 GB archive would start over each time. Here HTTP's ranges (RFC 9110, section 14) carry on, over requests.
"""

import errno
import hashlib
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import requests
import urllib3

from emanet.common.errors import DatasetError

log = logging.getLogger(__name__)

Tick = Callable[[int, int | None], None]
"""Told of progress: bytes done, bytes in all (None: unknown)."""

CHUNK = 1 << 20
TRIES = 6  # in a row that bring nothing new
LONGEST_WAIT = 30.0  # seconds between tries
TIMEOUT = (20.0, 60.0)  # seconds to connect, and between two chunks
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
HEADERS = {"User-Agent": "emanet-prepare", "Accept-Encoding": "identity"}  # archives as stored, not gzipped once more


class Interrupted(Exception):  # noqa: N818 - not an error of the user's: it is tried again
    """A transfer stopped for a reason that may pass."""


class Body(NamedTuple):
    """What a response brings."""

    offset: int  #: its first byte's place in the file
    total: int | None  #: size of the whole file


class Partial:
    """``target.part`` and beside it, in ``target.part.json``, where its bytes come from."""

    def __init__(self, target: Path):
        self.path = target.with_name(f"{target.name}.part")
        self.origin_file = target.with_name(f"{target.name}.part.json")

    @property
    def size(self) -> int:
        """Bytes that are here."""
        return self.path.stat().st_size if self.path.is_file() else 0

    def origin(self) -> dict[str, Any]:
        """Read url, validator and total; empty if nobody knows."""
        try:
            return dict(json.loads(self.origin_file.read_text()))
        except (OSError, ValueError):
            return {}

    def begin(self, url: str, response: requests.Response, total: int | None) -> None:
        """Start anew; a weak ETag cannot vouch for bytes (RFC 9110, section 13.1.5)."""
        self.path.unlink(missing_ok=True)  # old bytes must not meet the new origin
        tag = response.headers.get("ETag", "")
        validator = tag if tag.startswith('"') else response.headers.get("Last-Modified")
        self.origin_file.write_text(json.dumps({"url": url, "validator": validator, "total": total}))

    def forget(self) -> None:
        """Forget the origin, so that the next request asks for the whole file."""
        self.origin_file.unlink(missing_ok=True)

    def finish(self, target: Path) -> None:
        """Become ``target``."""
        with self.path.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(self.path, target)
        self.forget()


def silent(_done: int, _total: int | None) -> None:
    """Report nothing."""


def download(
    url: str,
    target: Path,
    *,
    checksum: str | None = None,
    tick: Tick = silent,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, str]:
    """Fetch ``url`` to ``target``, going on with ``target.part`` of an earlier run; return the measured checksums.

    ``target`` appears only when it is complete and verified.

    Args:
        checksum: ``algorithm:hexdigest``; without it the file is only measured.
        tick: told of progress.
        sleep: waits between tries.

    Raises:
        DatasetError: refused by the server, cut off too often, no room on the disk, or a wrong checksum.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = Partial(target)
    failures = 0
    while True:
        before = part.size
        try:
            with room_on_disk(part.path):
                fetch_rest(url, part, tick)
            break
        except Interrupted as error:
            failures = 0 if part.size > before else failures + 1
            if failures == TRIES:
                raise DatasetError(
                    f"{url}: {error}, {TRIES} times in a row; {part.size} bytes are kept in {part.path}: run the same "
                    "command again to go on, or name another place with source=DIR_OR_URL."
                ) from error
            wait = min(2.0**failures, LONGEST_WAIT)
            log.warning("%s: %s, %d bytes are here; trying again in %.0f s", url, error, part.size, wait)
            sleep(wait)
    digests = measure(part.path, checksum, tick)
    if wrong := mismatch(digests, checksum):
        refused = target.with_name(f"{target.name}.refused")
        part.finish(refused)
        raise DatasetError(
            f"{url}: wrong checksum: {wrong}; the file was put aside as {refused} and is not used. Run again to fetch "
            "it anew, or name another place with source=DIR_OR_URL."
        )
    part.finish(target)
    return digests


def fetch_rest(url: str, part: Partial, tick: Tick) -> None:
    """Append what ``part`` lacks; start it anew where the server has no ranges or its file has changed.

    Raises:
        Interrupted: if it is worth trying again.
        DatasetError: if it is not.
    """
    origin = part.origin()
    have = part.size if origin.get("url") == url else 0
    headers = dict(HEADERS)
    if have:
        headers["Range"] = f"bytes={have}-"
        if origin.get("validator"):
            headers["If-Range"] = origin["validator"]
    try:
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
            body = understand(response, part, have)
            if body is None:
                return
            if body.offset == 0:
                part.begin(url, response, body.total)
            done = body.offset
            with part.path.open("ab") as file:
                tick(done, body.total)
                for chunk in response.raw.stream(CHUNK, decode_content=False):
                    file.write(chunk)
                    done += len(chunk)
                    tick(done, body.total)
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise Interrupted(f"connection lost ({type(error).__name__})") from error
    if body.total is not None and done != body.total:
        raise Interrupted(f"{done} of {body.total} bytes came")


def understand(response: requests.Response, part: Partial, have: int) -> Body | None:
    """Judge the head of a response; None: nothing is left to fetch."""
    status, span = response.status_code, response.headers.get("Content-Range", "")
    if status == 206:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", span)
        total = part.origin().get("total")
        if match and int(match[1]) == have and (total is None or match[2] in ("*", str(total))):
            return Body(have, total if match[2] == "*" else int(match[2]))
    if status == 416 and span == f"bytes */{have}":  # range not satisfiable: nothing lies behind what is here
        return None
    if status in (206, 416):
        part.forget()
        raise Interrupted("the server's file has changed")
    if status in (408, 425, 429) or status >= 500:
        raise Interrupted(f"the server answers {status} {response.reason}")
    if status != 200:
        raise DatasetError(
            f"{response.url}: the server answers {status} {response.reason}. If the file has moved, download it by "
            "hand and name its folder with source=DIR, or name another place with source=URL."
        )
    if "text/html" in response.headers.get("Content-Type", ""):
        raise DatasetError(
            f"{response.url}: a web page came in place of a file (a login, or the file has moved); download it by hand "
            "and name its folder with source=DIR."
        )
    length = response.headers.get("Content-Length")
    return Body(0, None if length is None else int(length))


def remote_size(url: str) -> int | None:
    """Ask a server for a file's size; None where it does not say."""
    try:
        response = requests.head(url, headers=HEADERS, timeout=TIMEOUT[0], allow_redirects=True)
    except requests.RequestException:
        return None
    length = response.headers.get("Content-Length") if response.ok else None
    return None if length is None or "text/html" in response.headers.get("Content-Type", "") else int(length)


def measure(path: Path, checksum: str | None = None, tick: Tick = silent) -> dict[str, str]:
    """Compute sha256 and the algorithm of ``checksum`` in one pass."""
    hashes = {name: hashlib.new(name) for name in ("sha256", *((checksum.partition(":")[0],) if checksum else ()))}
    total, done = path.stat().st_size, 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            for value in hashes.values():
                value.update(chunk)
            done += len(chunk)
            tick(done, total)
    return {name: value.hexdigest() for name, value in hashes.items()}


def mismatch(digests: dict[str, str], checksum: str | None) -> str | None:
    """Say how the measured checksums differ from the known one; None where they do not."""
    if checksum is None:
        return None
    algorithm, _, expected = checksum.partition(":")
    return None if digests[algorithm] == expected else f"{algorithm} {digests[algorithm]}, expected {expected}"


@contextmanager
def room_on_disk(path: Path) -> Iterator[None]:
    """Turn "no space left" into an error that says where and how much.

    Raises:
        DatasetError: if the disk, a quota or a limit on file sizes stops a write.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise DatasetError(
            f"no room to write {path} ({error.strerror}; {free_bytes(path.parent) / 1e9:.1f} GB free): make room or "
            "set dataset.root=... to another disk, then run the same command again: it goes on where it stopped."
        ) from error


def free_bytes(folder: Path) -> int:
    """Free bytes of the disk that a folder lies on, or will lie on."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
