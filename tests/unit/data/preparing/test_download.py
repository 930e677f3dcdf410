"""Downloads over a loopback server that cuts, refuses and changes its files."""

import hashlib
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from emanet.common.errors import DatasetError
from emanet.data.preparing import download as module
from emanet.data.preparing.download import download, measure, part_of, remote_size
from fake_archives import file_size_limit
from loopback import Server, serving

DATA, OTHER = (random.Random(seed).randbytes(300_000) for seed in (0, 1))


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(module, "CHUNK", 10_000)
    (tmp_path / "www").mkdir()
    (tmp_path / "www" / "a.zip").write_bytes(DATA)
    with serving(tmp_path / "www") as state:
        yield state


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "archives" / "a.zip"


def leftovers(target: Path) -> list[str]:
    return sorted(path.name for path in target.parent.iterdir())


def no_wait(_seconds: float) -> None: ...


def begin(server: Server, target: Path, limit: int) -> int:
    """Download until a number of bytes are there, and be killed; return how many are kept."""

    def tick(done: int, _total: int | None) -> None:
        if done >= limit:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download(f"{server.url}/a.zip", target, tick=tick)
    assert leftovers(target) == ["a.zip.part", "a.zip.part.json"]
    return part_of(target).stat().st_size


def test_a_file_arrives_whole_with_its_progress(server: Server, target: Path):
    ticks: list[tuple[int, int | None]] = []
    download(f"{server.url}/a.zip", target, tick=lambda *now: ticks.append(now))
    assert target.read_bytes() == DATA
    assert leftovers(target) == ["a.zip"]
    assert (0, len(DATA)) in ticks
    assert ticks[-1] == (len(DATA), len(DATA))


@pytest.mark.parametrize(
    "trouble",
    [
        {"cuts": {"a.zip": 120_000}, "ranges": False},  # the file is started over
        {"statuses": {"a.zip": [503, 429, 500]}},
    ],
)
def test_a_server_in_trouble_is_asked_again(server: Server, target: Path, trouble: dict[str, Any]):
    vars(server).update(trouble)
    download(f"{server.url}/a.zip", target, sleep=no_wait)
    assert target.read_bytes() == DATA


def test_a_cut_connection_is_gone_on_with_by_range(server: Server, target: Path):
    server.cuts["a.zip"], server.cut_times = 120_000, 2
    download(f"{server.url}/a.zip", target, sleep=no_wait)
    assert target.read_bytes() == DATA
    first, *others = [wanted for _, _, wanted in server.requests]
    assert first is None
    starts = [int(str(wanted).removeprefix("bytes=").rstrip("-")) for wanted in others]
    assert 0 < starts[0] <= 120_000 < starts[1] <= 240_000


def test_a_new_process_goes_on_where_the_last_one_was_killed(server: Server, target: Path):
    have = begin(server, target, 150_000)
    assert 100_000 < have < len(DATA)
    download(f"{server.url}/a.zip", target)
    assert server.requests[-1] == ("GET", "a.zip", f"bytes={have}-")
    assert target.read_bytes() == DATA


def test_a_server_without_ranges_that_always_cuts_is_given_up_and_the_bytes_are_kept(server: Server, target: Path):
    server.ranges, server.cuts["a.zip"], server.cut_times = False, 120_000, 1000
    waits: list[float] = []
    with pytest.raises(DatasetError, match=r"6 times in a row; \d+ bytes are kept in .*a\.zip\.part"):
        download(f"{server.url}/a.zip", target, sleep=waits.append)
    assert waits[1:] == sorted(waits[1:])
    assert 2 <= max(waits) <= 30
    assert len(server.requests) <= 8
    assert not target.exists()


def changed(server: Server, part: Path) -> None:
    (server.folder / "a.zip").write_bytes(OTHER)
    server.etags["a.zip"] = '"2"'


def complete(server: Server, part: Path) -> None:
    part.write_bytes(DATA)


def of_unknown_origin(server: Server, part: Path) -> None:
    part.write_bytes(b"x" * 1000)
    part.with_suffix(".part.json").unlink()


@pytest.mark.parametrize(
    ("etag", "meanwhile", "ranged", "expected"),
    [
        ('"1"', changed, True, OTHER),
        ('"1"', complete, True, DATA),
        ('"1"', of_unknown_origin, False, DATA),
        ('W/"1"', lambda server, part: None, False, DATA),  # a weak one cannot vouch for the bytes
    ],
)
def test_a_part_is_gone_on_with_only_where_it_is_sure_to_be_of_the_same_file(
    server: Server, target: Path, etag: str, meanwhile: Callable, ranged: bool, expected: bytes
):
    server.etags["a.zip"] = etag
    begin(server, target, 150_000)
    meanwhile(server, part_of(target))
    download(f"{server.url}/a.zip", target, sleep=no_wait)
    assert target.read_bytes() == expected
    assert (server.requests[-1][2] is not None) == ranged


def test_a_missing_file_is_reported_at_once_with_what_to_do(server: Server, target: Path):
    with pytest.raises(DatasetError, match=r"b\.zip: the server answers 404 .*source=DIR"):
        download(f"{server.url}/b.zip", target, sleep=no_wait)
    assert len(server.requests) == 1
    assert leftovers(target) == []


def test_a_login_page_is_not_taken_for_an_archive(server: Server, target: Path):
    server.content_type = "text/html; charset=utf-8"
    with pytest.raises(DatasetError, match="a web page came in place of a file: it wants a login"):
        download(f"{server.url}/a.zip", target)


def test_checksums_are_measured_and_a_wrong_one_is_named(tmp_path: Path):
    (tmp_path / "a").write_bytes(DATA)
    md5, sha256 = hashlib.md5(DATA).hexdigest(), hashlib.sha256(DATA).hexdigest()
    assert measure(tmp_path / "a", f"md5:{md5}") == ({"md5": md5, "sha256": sha256}, "")
    assert measure(tmp_path / "a", None) == ({"sha256": sha256}, "")
    assert measure(tmp_path / "a", "md5:0")[1] == f"wrong checksum: md5 {md5}, expected 0"


def test_nobody_there_is_a_readable_error(target: Path):
    with pytest.raises(DatasetError, match=r"connection lost .*6 times in a row"):
        download("http://127.0.0.1:9/a.zip", target, sleep=no_wait)


def test_a_full_disk_ends_the_transfer_and_the_next_run_goes_on(server: Server, target: Path):
    with file_size_limit(200_000), pytest.raises(OSError, match="File too large"):
        download(f"{server.url}/a.zip", target, sleep=no_wait)
    assert not target.exists()
    assert 0 < part_of(target).stat().st_size <= 200_000
    download(f"{server.url}/a.zip", target)
    assert str(server.requests[-1][2]).startswith("bytes=")
    assert target.read_bytes() == DATA


def test_the_size_of_a_file_is_asked_for_without_fetching_it(server: Server):
    assert remote_size(f"{server.url}/a.zip") == len(DATA)
    assert remote_size(f"{server.url}/b.zip") is None
    assert remote_size("http://127.0.0.1:9/a.zip") is None
