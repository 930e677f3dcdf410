"""Files from the web: verified, and gone on with where a run stopped.

pooch removes its temporary file on any failure and never asks for a range (1.9, ``stream_download``), so a cut 18 GB
archive would start over each time. Here HTTP's ranges (RFC 9110, section 14) carry on, over requests.
"""

import hashlib
import logging
import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import requests
import urllib3

from emanet.common.console import Tick, silent
from emanet.common.errors import DatasetError
from emanet.common.files import read_json, write_json

log = logging.getLogger(__name__)

CHUNK = 1 << 20
TRIES = 6  # in a row that bring nothing new
LONGEST_WAIT = 30.0  # seconds between tries
TIMEOUT = (20.0, 60.0)  # seconds to connect, and between two chunks
ORIGIN = ".part.json"  # ending of what says of which file on the web, and of which state of it, the part is
HEADERS = {"User-Agent": "emanet-prepare", "Accept-Encoding": "identity"}  # archives as stored, not gzipped once more


class Interrupted(Exception):  # noqa: N818 - not an error of the user's: it is tried again
    """A transfer stopped for a reason that may pass."""


def download(url: str, target: Path, *, tick: Tick = silent, sleep: Callable[[float], None] = time.sleep) -> None:
    """Fetch ``url`` to ``target``, going on with ``target.part`` of an earlier run.

    Args:
        target: appears only when it is complete.
        tick: told of progress in bytes.
        sleep: waits a number of seconds between tries.

    Raises:
        DatasetError: refused by the server, or cut off too often.
        OSError: from the disk.
    """
    part, failures = part_of(target), 0
    target.parent.mkdir(parents=True, exist_ok=True)
    while True:
        before = size_of(part)
        try:
            fetch_rest(url, part, tick)
            break
        except Interrupted as error:
            failures = 0 if size_of(part) > before else failures + 1
            if failures == TRIES:
                raise DatasetError(
                    f"{url}: {error}, {TRIES} times in a row; {size_of(part)} bytes are kept in {part}: run the same "
                    "command again to go on, or name another place with source=DIR_OR_URL."
                ) from error
            wait = min(2.0**failures, LONGEST_WAIT)
            log.warning("%s: %s, %d bytes are here; trying again in %.0f s", url, error, size_of(part), wait)
            sleep(wait)
    os.replace(part, target)
    part.with_suffix(ORIGIN).unlink(missing_ok=True)


def part_of(target: Path) -> Path:
    """Where the bytes of a file are collected until it is whole."""
    return target.with_name(f"{target.name}.part")


def size_of(path: Path) -> int:
    """Bytes that are here."""
    return path.stat().st_size if path.is_file() else 0


def fetch_rest(url: str, part: Path, tick: Tick) -> None:
    """Append what ``part`` lacks; start it anew where the server has no ranges or its file has changed.

    Raises:
        Interrupted: if it is worth trying again.
        DatasetError: if it is not.
    """
    origin = read_json(part.with_suffix(ORIGIN)) or {}
    done = size_of(part) if origin.get("url") == url and origin.get("validator") else 0
    ranged = {"Range": f"bytes={done}-", "If-Range": origin["validator"]} if done else {}
    try:
        with requests.get(url, headers=HEADERS | ranged, stream=True, timeout=TIMEOUT) as response:
            span = response.headers.get("Content-Range", "")
            if response.status_code == 416 and span == f"bytes */{done}":
                return  # nothing lies behind what is here
            if response.status_code == 416 or (response.status_code == 206 and not span.startswith(f"bytes {done}-")):
                part.with_suffix(ORIGIN).unlink(missing_ok=True)
                raise Interrupted("the server's file has changed")
            refuse_other_answers(response)
            if response.status_code == 200 or not done:
                done = 0
                part.unlink(missing_ok=True)  # old bytes must not meet the new origin
                tag = response.headers.get("ETag", "")  # a weak one cannot vouch for bytes (RFC 9110, section 13.1.5)
                validator = tag if tag.startswith('"') else response.headers.get("Last-Modified")
                write_json(part.with_suffix(ORIGIN), {"url": url, "validator": validator})
            length = response.headers.get("Content-Length")
            total = None if length is None else done + int(length)
            with part.open("ab") as file:
                tick(done, total)
                for chunk in response.raw.stream(CHUNK, decode_content=False):
                    done += file.write(chunk)
                    tick(done, total)
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise Interrupted(f"connection lost ({type(error).__name__})") from error
    if total not in (None, done):
        raise Interrupted(f"{done} of {total} bytes came")


def refuse_other_answers(response: requests.Response) -> None:
    """Raise for an answer that brings no bytes of the file."""
    status = response.status_code
    if status in (408, 425, 429) or status >= 500:
        raise Interrupted(f"the server answers {status} {response.reason}")
    if status not in (200, 206):
        reason = f"the server answers {status} {response.reason}"
    elif "text/html" in response.headers.get("Content-Type", ""):
        reason = "a web page came in place of a file"
    else:
        return
    raise DatasetError(
        f"{response.url}: {reason}: it wants a login, or the file has moved. Download it by hand and name its folder "
        "with source=DIR, or name another place with source=URL."
    )


def remote_size(url: str) -> int | None:
    """Ask a server for a file's size; None where it does not say."""
    with suppress(requests.RequestException, Interrupted, DatasetError, KeyError):
        response = requests.head(url, headers=HEADERS, timeout=TIMEOUT[0], allow_redirects=True)
        refuse_other_answers(response)
        return int(response.headers["Content-Length"])
    return None


def measure(path: Path, checksum: str | None, tick: Tick = silent) -> tuple[dict[str, str], str]:
    """Compute sha256 and the algorithm of ``checksum``; say how that differs from the known one ("": it does not)."""
    algorithm, _, expected = (checksum or "").partition(":")
    hashes = {name: hashlib.new(name) for name in sorted({"sha256", algorithm}) if name}
    total, done = path.stat().st_size, 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            for value in hashes.values():
                value.update(chunk)
            done += len(chunk)
            tick(done, total)
    digests = {name: value.hexdigest() for name, value in hashes.items()}
    right = not checksum or digests[algorithm] == expected
    return digests, "" if right else f"wrong checksum: {algorithm} {digests[algorithm]}, expected {expected}"


def free_bytes(folder: Path) -> int:
    """Free bytes of the disk that a folder lies on, or will lie on."""
    while not folder.is_dir():
        folder = folder.parent
    return shutil.disk_usage(folder).free
