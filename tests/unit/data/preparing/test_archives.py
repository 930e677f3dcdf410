"""Archives that are hostile, truncated or merely large."""

import io
import stat
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from emanet.common.errors import DatasetError
from emanet.data.preparing import archives as module
from emanet.data.preparing.archives import unpack

FILES = {"top/a.txt": b"alpha" * 1000, "top/deep/er/b.bin": bytes(range(256)) * 20, "c.txt": b""}
TAR, ZIP = "a.tar", "a.zip"


def make(path: Path, members: dict[str, bytes], *links: tuple[str, str | bytes]) -> Path:
    """Write a zip or tar of files, and before them links (name, goal) or tar's other kinds (name, kind)."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in (*links, *members.items()):
                info = zipfile.ZipInfo(name)
                info.filename = name  # the constructor would cut what comes after a NUL
                if (name, data) in links:
                    info.external_attr = (stat.S_IFLNK if isinstance(data, str) else stat.S_IFCHR) << 16
                archive.writestr(info, data, zipfile.ZIP_DEFLATED)
        return path
    with tarfile.open(path, "w" if path.suffix == ".tar" else "w:gz") as archive_tar:
        for name, goal in links:
            info_tar = tarfile.TarInfo(name)
            info_tar.type = goal if isinstance(goal, bytes) else tarfile.SYMTYPE
            info_tar.linkname = goal if isinstance(goal, str) else ""
            archive_tar.addfile(info_tar)
        for name, data in members.items():
            info_tar = tarfile.TarInfo(name)
            info_tar.size = len(data)
            archive_tar.addfile(info_tar, io.BytesIO(data))
    return path


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refusal(archive: Path, message: str, **options: bool) -> Path:
    """Assert that an archive is refused in a few words; return where it was to go."""
    target = archive.parent / "inner" / "out"
    with pytest.raises(DatasetError, match=rf"{archive.name}: {message}") as caught:
        unpack(archive, target, **options)
    assert len(str(caught.value)) < 1000
    return target


@pytest.mark.parametrize("name", [TAR, "a.tgz", "a.tar.gz", ZIP])
def test_an_honest_archive_is_unpacked_as_it_is(tmp_path: Path, name: str):
    ticks: list[tuple[int, int | None]] = []
    files, size = unpack(make(tmp_path / name, FILES), tmp_path / "out", tick=lambda *now: ticks.append(now))
    assert tree(tmp_path / "out") == FILES
    assert (files, size) == (3, sum(map(len, FILES.values())))
    assert ticks[-1] == (size, size)


def test_only_what_is_wanted_is_unpacked(tmp_path: Path):
    written = unpack(make(tmp_path / ZIP, FILES), tmp_path / "out", wanted=("top/deep/", "c.txt"))
    assert set(tree(tmp_path / "out")) == {"top/deep/er/b.bin", "c.txt"}
    assert written == (2, 5120)


def test_a_plain_file_is_copied(tmp_path: Path):
    (tmp_path / "labels.json").write_text("{}")
    unpack(tmp_path / "labels.json", tmp_path / "out")
    assert tree(tmp_path / "out") == {"labels.json": b"{}"}


@pytest.mark.parametrize("archive", [TAR, "a.tgz", ZIP])
@pytest.mark.parametrize(
    "name",
    ["/etc/evil", "../evil", "a/../../evil", "a/../b", "..\\evil", "C:/evil", "C:evil", "//host/evil", "ok/..", "a\\b"],
)
def test_a_member_that_would_land_outside_refuses_the_archive(tmp_path: Path, archive: str, name: str):
    refusal(make(tmp_path / archive, {"good.txt": b"x", name: b"evil"}), r"refused: its member .* would land")
    assert [path.name for path in tmp_path.rglob("*")] == [archive]


@pytest.mark.parametrize("archive", [TAR, ZIP])
@pytest.mark.parametrize(
    ("name", "goal", "reason"),
    [
        ("a", "/etc/passwd", "absolute path"),
        ("a", "../outside", "outside the destination"),
        ("a/b", "../../outside", "outside the destination"),
        ("a/b", "c/../../../outside", "outside the destination"),
        ("a", "..\\outside", "lead outside the target"),
        ("a", "x" * 5000, "lead outside the target"),
    ],
)
def test_a_link_that_leads_outside_refuses_the_archive(tmp_path: Path, archive: str, name: str, goal: str, reason: str):
    target = refusal(make(tmp_path / archive, {f"{name}/evil": b"x"}, (name, goal)), f"refused: its member .*{reason}")
    assert not target.parent.exists()


@pytest.mark.parametrize("goal", ["../outside", "/etc/passwd"])
def test_a_hard_link_that_leads_outside_refuses_a_tar(tmp_path: Path, goal: str):
    info = tarfile.TarInfo("a/b")
    info.type, info.linkname = tarfile.LNKTYPE, goal
    with tarfile.open(tmp_path / TAR, "w") as archive:
        archive.addfile(info)
    refusal(tmp_path / TAR, r"refused: its member .*(absolute path|outside the destination)")


@pytest.mark.parametrize("archive", [TAR, ZIP])
def test_a_link_inside_is_left_out_and_never_followed(
    tmp_path: Path, archive: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    files = {"real/x": b"1", "alias/y": b"2"}
    made = make(tmp_path / archive, files, ("alias", "real"), ("long", "b/" * 2000))
    assert unpack(made, tmp_path / "out") == (2, 2)
    assert tree(tmp_path / "out") == files
    assert not (tmp_path / "out" / "alias").is_symlink()
    assert "left out the link 'alias' -> 'real'" in caplog.text
    assert len(caplog.text) < 1000, "the long goal is cut"
    monkeypatch.setattr(module, "MOST_FILES", 3)
    refusal(made, "refused: .*or 3 files")  # links count


@pytest.mark.parametrize(
    ("archive", "kind"),
    [(ZIP, tarfile.CHRTYPE), (TAR, tarfile.CHRTYPE), (TAR, tarfile.BLKTYPE), (TAR, tarfile.FIFOTYPE)],
)
def test_a_device_refuses_the_archive(tmp_path: Path, archive: str, kind: bytes):
    refusal(make(tmp_path / archive, {}, ("dev", kind)), "refused: .*special file")


@pytest.mark.parametrize("name", ["bomb.tgz", "bomb.zip"])
def test_a_bomb_is_refused_before_anything_is_written(tmp_path: Path, name: str):
    archive = make(tmp_path / name, {f"{i}.bin": bytes(10 << 20) for i in range(11)})
    assert archive.stat().st_size < 200_000
    assert not refusal(archive, r"refused: it would grow to more than 104\.9 MB").exists()


def test_a_zip_that_lies_about_sizes_writes_no_more_than_it_declares(tmp_path: Path):
    archive = make(tmp_path / ZIP, {"a.bin": bytes(5_000_000)})
    true, lie = (5_000_000).to_bytes(4, "little"), (1000).to_bytes(4, "little")
    archive.write_bytes(archive.read_bytes().replace(true, lie))
    assert (refusal(archive, "truncated or damaged") / "a.bin").stat().st_size <= 1000


def test_an_archive_larger_than_the_free_disk_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "free_bytes", lambda folder: 1000)
    with pytest.raises(DatasetError, match=r"unpacks to 10\.1 kB, 1\.0 kB are free in"):
        unpack(make(tmp_path / TAR, FILES), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_tar_cut_between_two_members_is_not_taken_for_whole(tmp_path: Path):
    archive = make(tmp_path / TAR, {"a.bin": bytes(512), "b.bin": bytes(512)})
    archive.write_bytes(archive.read_bytes()[:1024])  # header and contents of a.bin, nothing else
    refusal(archive, r"truncated or damaged \(the mark at the end is missing")
    assert unpack(archive, tmp_path / "out", verified=True)[0] == 1  # a known checksum outweighs the mark


def cut(share: float, data: bytes) -> bytes:
    return data[: int(share * len(data))]


def flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :]


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        *(
            (name, lambda data, s=s: data[: int(s * len(data))])
            for name in (TAR, "a.tgz", ZIP)
            for s in (0.3, 0.6, 0.9)
        ),
        *((name, lambda data: b"<html>not found</html>" * 100) for name in (TAR, "a.tgz", ZIP)),
        (ZIP, lambda data: flipped(data, 60)),
        ("a.tgz", lambda data: flipped(data, len(data) // 2)),
    ],
)
def test_a_truncated_or_damaged_archive_is_named(tmp_path: Path, name: str, spoil: Callable[[bytes], bytes]):
    archive = make(tmp_path / name, {f"{i}.bin": i.to_bytes(2, "big") * 3000 for i in range(20)})
    archive.write_bytes(spoil(archive.read_bytes()))
    refusal(archive, "truncated or damaged (?s:.*)fetch it again")


def test_what_macos_adds_is_left_out(tmp_path: Path):
    unpack(
        make(tmp_path / ZIP, {"a": b"1", "__MACOSX/._a.txt": b"2", "b/.DS_Store": b"3", "b/._c.jpg": b"4"}),
        tmp_path / "out",
    )
    assert set(tree(tmp_path / "out")) == {"a"}


def peak_of_refusal(archive: Path, message: str) -> int:
    """Most bytes that were held while an archive was refused."""
    tracemalloc.start()
    try:
        refusal(archive, message)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
def test_a_link_of_a_huge_goal_is_refused_without_reading_it(tmp_path: Path, method: int):
    with zipfile.ZipFile(tmp_path / ZIP, "w") as archive:
        info = zipfile.ZipInfo("a")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, b"x" * (20 << 20), method)
    message = (
        "refused: its member 'a' would" if method == zipfile.ZIP_DEFLATED else "refused: .*compressed by method 12"
    )
    assert peak_of_refusal(tmp_path / ZIP, message) < 4 << 20


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_tar_with_a_huge_name_is_refused_without_reading_it(tmp_path: Path, form: int):
    with tarfile.open(tmp_path / "a.tgz", "w:gz", format=form) as archive:
        archive.addfile(tarfile.TarInfo("x" * (8 << 20)))
    assert peak_of_refusal(tmp_path / "a.tgz", r"truncated or damaged \(a header of 8388\d* bytes") < 4 << 20


@pytest.mark.parametrize("archive", [TAR, ZIP])
@pytest.mark.parametrize("names", [("a", "a/b"), ("a/b", "a"), ("x" * 300,)])
def test_names_that_clash_or_are_too_long_name_the_archive(tmp_path: Path, archive: str, names: tuple[str, ...]):
    refusal(make(tmp_path / archive, dict.fromkeys(names, b"1")), "refused: two members have one name, or one too long")
