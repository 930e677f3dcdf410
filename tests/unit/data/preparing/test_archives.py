"""Archives that are hostile, truncated or merely large."""

import io
import logging
import stat
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from emanet.common.errors import DatasetError
from emanet.data.preparing import archives as module
from emanet.data.preparing.archives import Contents, survey, unpack

FILES = {"top/a.txt": b"alpha" * 1000, "top/deep/er/b.bin": bytes(range(256)) * 20, "c.txt": b""}
Member = tuple[str, bytes, dict[str, object]]


def make_tar(path: Path, members: dict[str, bytes], *extra: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix in (".gz", ".tgz") else "w") as archive:
        for info in extra:
            archive.addfile(info)
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def make_zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            info = zipfile.ZipInfo(name)
            info.filename = name  # the constructor would cut what comes after a NUL
            archive.writestr(info, data, zipfile.ZIP_DEFLATED)
    return path


def make(path: Path, members: dict[str, bytes]) -> Path:
    return make_zip(path, members) if path.suffix == ".zip" else make_tar(path, members)


def link(name: str, goal: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, goal
    return info


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["a.tar", "a.tgz", "a.tar.gz", "a.zip"])
def test_an_honest_archive_is_unpacked_as_it_is(tmp_path: Path, name: str):
    archive = make(tmp_path / name, FILES)
    ticks: list[tuple[int, int | None]] = []
    contents = unpack(archive, tmp_path / "out", tick=lambda *now: ticks.append(now))
    assert tree(tmp_path / "out") == FILES
    assert contents == Contents(3, sum(map(len, FILES.values()))) == survey(archive)
    assert ticks[-1] == (contents.size, contents.size)


def test_only_what_is_wanted_is_unpacked(tmp_path: Path):
    contents = unpack(make(tmp_path / "a.zip", FILES), tmp_path / "out", wanted=("top/deep/", "c.txt"))
    assert set(tree(tmp_path / "out")) == {"top/deep/er/b.bin", "c.txt"}
    assert contents.files == 2


def test_a_plain_file_is_copied(tmp_path: Path):
    (tmp_path / "labels.json").write_text("{}")
    unpack(tmp_path / "labels.json", tmp_path / "out")
    assert tree(tmp_path / "out") == {"labels.json": b"{}"}


@pytest.mark.parametrize("suffix", [".tar", ".tgz", ".zip"])
@pytest.mark.parametrize(
    "name",
    ["/etc/evil", "../evil", "a/../../evil", "a/../b", "..\\evil", "C:/evil", "C:evil", "//host/evil", "ok/.."],
)
def test_a_member_that_would_land_outside_refuses_the_archive(tmp_path: Path, suffix: str, name: str):
    archive = make(tmp_path / f"a{suffix}", {"good.txt": b"x", name: b"evil"})
    with pytest.raises(DatasetError, match=r"refused: its member .* would land outside"):
        unpack(archive, tmp_path / "inner" / "out")
    assert sorted(path.name for path in tmp_path.rglob("*")) == [archive.name]


@pytest.mark.parametrize(
    ("name", "goal", "kind"),
    [
        ("a", "/etc/passwd", tarfile.SYMTYPE),
        ("a", "../outside", tarfile.SYMTYPE),
        ("a/b", "../../outside", tarfile.SYMTYPE),
        ("a/b", "c/../../../outside", tarfile.SYMTYPE),
        ("a/b", "../outside", tarfile.LNKTYPE),
        ("a", "/etc/passwd", tarfile.LNKTYPE),
    ],
)
def test_a_link_that_leads_outside_refuses_a_tar(tmp_path: Path, name: str, goal: str, kind: bytes):
    archive = make_tar(tmp_path / "a.tar", {f"{name}/evil": b"x"}, link(name, goal, kind))
    with pytest.raises(DatasetError, match=r"refused: its link .* leads outside"):
        unpack(archive, tmp_path / "inner" / "out")
    assert not (tmp_path / "inner").exists()


def test_a_link_that_leads_outside_refuses_a_zip(tmp_path: Path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        info = zipfile.ZipInfo("a/b")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "../../outside")
    with pytest.raises(DatasetError, match=r"refused: its link a/b leads outside"):
        unpack(path, tmp_path / "out")


def test_a_link_inside_is_left_out_and_never_followed(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    archive = make_tar(tmp_path / "a.tar", {"real/x": b"1", "alias/y": b"2"}, link("alias", "real"))
    unpack(archive, tmp_path / "out")
    assert tree(tmp_path / "out") == {"real/x": b"1", "alias/y": b"2"}
    assert not (tmp_path / "out" / "alias").is_symlink()
    assert "left out the link alias -> real" in caplog.text


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_a_device_refuses_the_archive(tmp_path: Path, kind: bytes):
    info = tarfile.TarInfo("dev")
    info.type = kind
    with pytest.raises(DatasetError, match="refused: dev is a device"):
        unpack(make_tar(tmp_path / "a.tar", {}, info), tmp_path / "out")


@pytest.mark.parametrize("suffix", [".tgz", ".zip"])
def test_a_bomb_is_refused_before_anything_is_written(tmp_path: Path, suffix: str):
    zeros = bytes(10 << 20)
    archive = make(tmp_path / f"bomb{suffix}", {f"{i}.bin": zeros for i in range(11)})
    assert archive.stat().st_size < 200_000
    with pytest.raises(DatasetError, match="refused: it would grow to more than 105 MB"):
        unpack(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_zip_that_lies_about_sizes_writes_no_more_than_it_declares(tmp_path: Path):
    archive = make(tmp_path / "a.zip", {"a.bin": bytes(5_000_000)})
    true, lie = (5_000_000).to_bytes(4, "little"), (1000).to_bytes(4, "little")
    archive.write_bytes(archive.read_bytes().replace(true, lie))
    with pytest.raises(DatasetError, match="truncated or damaged"):
        unpack(archive, tmp_path / "out")
    assert (tmp_path / "out" / "a.bin").stat().st_size <= 1000


def test_too_many_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "MOST_FILES", 2)
    with pytest.raises(DatasetError, match="or 2 files"):
        survey(make(tmp_path / "a.tar", FILES))


def test_an_archive_larger_than_the_free_disk_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "free_bytes", lambda folder: 1000)
    with pytest.raises(DatasetError, match=r"unpacks to 0\.00 GB, 0\.00 GB are free in"):
        unpack(make(tmp_path / "a.tar", FILES), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def chop(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


@pytest.mark.parametrize("suffix", [".tar", ".tgz", ".zip"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_truncated_archive_is_named(tmp_path: Path, suffix: str, share: float):
    archive = make(tmp_path / f"a{suffix}", {f"{i}.bin": i.to_bytes(2, "big") * 3000 for i in range(20)})
    chop(archive, int(archive.stat().st_size * share))
    with pytest.raises(DatasetError, match=rf"a{suffix}: truncated or damaged .*fetch it again"):
        unpack(archive, tmp_path / "out")


def test_a_tar_cut_between_two_members_is_not_taken_for_whole(tmp_path: Path):
    archive = make(tmp_path / "a.tar", {"a.bin": bytes(512), "b.bin": bytes(512)})
    chop(archive, 1024)  # header and contents of a.bin, nothing else
    with pytest.raises(DatasetError, match="the mark at the end is missing"):
        unpack(archive, tmp_path / "out")
    assert unpack(archive, tmp_path / "out", verified=True).files == 1  # a known checksum outweighs the mark


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 0xFF
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("a.zip", lambda path: flip(path, 60)),
        ("a.tgz", lambda path: flip(path, path.stat().st_size // 2)),
        ("a.tar", lambda path: path.write_bytes(b"<html>not found</html>" * 100)),
        ("a.zip", lambda path: path.write_bytes(b"<html>not found</html>" * 100)),
        ("a.tgz", lambda path: path.write_bytes(b"")),
    ],
)
def test_a_damaged_archive_is_named(tmp_path: Path, name: str, spoil: Callable[[Path], object]):
    archive = make(tmp_path / name, FILES)
    spoil(archive)
    with pytest.raises(DatasetError, match=f"{name}: truncated or damaged"):
        unpack(archive, tmp_path / "out")


def test_what_macos_adds_is_left_out(tmp_path: Path):
    archive = make(tmp_path / "a.zip", {"a.txt": b"1", "__MACOSX/._a.txt": b"2", "b/.DS_Store": b"3"})
    unpack(archive, tmp_path / "out")
    assert set(tree(tmp_path / "out")) == {"a.txt"}


def zip_with_link(path: Path, name: str, goal: bytes, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        info = zipfile.ZipInfo(name)
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, goal, method)
    return path


def peak_of_refusal(archive: Path, message: str) -> int:
    """Most bytes that were held while an archive was refused."""
    tracemalloc.start()
    try:
        with pytest.raises(DatasetError, match=message) as caught:
            survey(archive)
        assert len(str(caught.value)) < 1000
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
def test_a_link_of_a_huge_goal_is_refused_without_reading_it(tmp_path: Path, method: int):
    archive = zip_with_link(tmp_path / "a.zip", "a", b"x" * (20 << 20), method)
    assert archive.stat().st_size < 30_000
    message = "its link a is longer than 4096 bytes" if method == zipfile.ZIP_DEFLATED else "compressed by method 12"
    assert peak_of_refusal(archive, message) < 4 << 20


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_tar_with_a_huge_name_is_refused_without_reading_it(tmp_path: Path, form: int):
    with tarfile.open(tmp_path / "a.tgz", "w:gz", format=form) as archive:
        archive.addfile(link("a", "x" * (8 << 20)))
    assert peak_of_refusal(tmp_path / "a.tgz", r"a\.tgz: truncated or damaged \(a header of 8388\d* bytes") < 4 << 20


def test_a_long_goal_is_cut_in_messages(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING):
        survey(zip_with_link(tmp_path / "a.zip", "a", b"b/" * 2000))
    assert "left out the link a -> b/b/" in caplog.text
    assert len(caplog.text) < 500


def test_links_count_among_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "MOST_FILES", 2)
    with pytest.raises(DatasetError, match="or 2 files"):
        survey(make_tar(tmp_path / "a.tar", {}, *(link(name, "x") for name in "abc")))
    contents = survey(make_tar(tmp_path / "b.tar", {"x": b"1"}, link("a", "x")))
    assert contents == Contents(1, 1)


@pytest.mark.parametrize("suffix", [".tar", ".zip"])
@pytest.mark.parametrize("names", [("a", "a/b"), ("a/b", "a"), ("x" * 300,)])
def test_names_that_clash_or_are_too_long_name_the_archive(tmp_path: Path, suffix: str, names: tuple[str, ...]):
    archive = make(tmp_path / f"odd{suffix}", dict.fromkeys(names, b"1"))
    with pytest.raises(DatasetError, match=rf"odd{suffix}: its member .* cannot be written below .*out") as caught:
        unpack(archive, tmp_path / "out")
    assert len(str(caught.value)) < 1000
