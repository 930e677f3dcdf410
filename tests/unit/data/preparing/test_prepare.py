"""Every benchmark prepared from archives in the published layout, over a loopback server or from a folder."""

import io
import json
import os
import shutil
import signal
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from emanet.common.errors import ConfigError, DatasetError
from emanet.common.files import locked
from emanet.data.datasets.voc import VOC
from emanet.data.preparing import archives
from emanet.data.preparing import prepare as module
from emanet.data.preparing.job import prepare
from emanet.data.preparing.prepare import MissingArchiveError, Preparation, State
from emanet.data.preparing.recipes import RECIPES
from fake_archives import ARCHIVES, file_size_limit, tiny_recipe, write_archives
from loopback import serving

COUNTS = {  # images that the fake archives hold
    "voc": {"train": 4, "val": 2, "trainval": 6, "trainaug": 9, "test": 1},
    "pascal_context": {"train (mat)": 3, "val (mat)": 2, "train (json)": 3, "val (json)": 2},
    "coco_stuff": {"train": 3, "test": 2, "all": 5},
    "coco_stuff_164k": {"train": 3, "val": 2},
    "cityscapes": {"train": 3, "val": 2, "test": 1},
    "ade20k": {"train": 3, "val": 2},
}
QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of archives, made once."""
    base = tmp_path_factory.mktemp("shelf")
    return {name: write_archives(name, base / name) for name in ARCHIVES}


@pytest.fixture
def tiny(shelf: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Recipes for the fake archives in place of the real ones; returns their folders."""
    for name, folder in shelf.items():
        monkeypatch.setitem(RECIPES, name, tiny_recipe(name, folder))
    return shelf


def lenient(name: str, root: Path, source: Path | str | None, **options: object) -> Preparation:
    """A preparation that takes the fake archives' small numbers of images."""
    return Preparation(name, root, source=None if source is None else str(source), strict_counts=False, **options)


def tree(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def record(root: Path) -> dict:
    return json.loads((root / "prepared.json").read_text())


@pytest.mark.parametrize("name", list(ARCHIVES))
def test_a_benchmark_is_prepared_over_the_network_recorded_and_not_fetched_twice(tiny, tmp_path: Path, name: str):
    with serving(tiny[name]) as server:
        counts = lenient(name, tmp_path, server.url, parts=None if name != "voc" else ("trainval", "sbd", "test")).run()
        fetched = len(server.requests)
        again = lenient(name, tmp_path, server.url)
        assert {step.state for step in again.plan()} == {State.DONE}
        assert again.run() == counts
        assert len(server.requests) == fetched
    assert {count.name: count.found for count in counts} == record(tmp_path)["counts"] == COUNTS[name]
    assert record(tmp_path)["dataset"] == name
    assert record(tmp_path)["whole"] is False  # far fewer images than published
    for archive in RECIPES[name].archives:
        entry = record(tmp_path)["archives"][archive.key]
        assert len(entry["sha256"]) == 64
        assert entry["origin"] == f"{server.url}/{archive.file}"
        assert entry["files"] > 0
    assert not {".unpacking", "archives"} & {path.name for path in tmp_path.iterdir()}


def test_a_folder_of_archives_serves_and_is_left_alone(tiny, tmp_path: Path):
    before = tree(tiny["voc"])
    lenient("voc", tmp_path, tiny["voc"]).run()
    assert tree(tiny["voc"]) == before
    assert record(tmp_path)["archives"]["sbd"]["origin"] == str(tiny["voc"] / "benchmark.tgz")
    of_sbd = {path.name for path in (tmp_path / "benchmark_RELEASE" / "dataset").iterdir()}
    assert of_sbd == {"cls", "train.txt", "val.txt"}, "its images are copies of VOC's"


def test_published_counts_are_asked_for_unless_told_otherwise(tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    strict = Preparation("ade20k", tmp_path, source=str(tiny["ade20k"]))
    with pytest.raises(DatasetError, match=r"not whole: train 3 of 20210, val 2 of 2000.*strict_counts=false"):
        strict.run()
    assert record(tmp_path)["whole"] is False
    monkeypatch.setattr(RECIPES["ade20k"].reader, "split_sizes", {"train": 3, "val": 2})
    strict.run()
    assert record(tmp_path)["whole"] is True


def test_a_missing_file_on_the_server_leaves_what_was_done_and_names_the_rest(tiny, tmp_path: Path):
    folder, root = tmp_path / "www", tmp_path / "root"
    shutil.copytree(tiny["coco_stuff_164k"], folder)
    (folder / "val2017.zip").rename(folder / "hidden")
    with serving(folder) as server:
        with pytest.raises(DatasetError, match=r"val2017\.zip: the server answers 404"):
            lenient("coco_stuff_164k", root, server.url).run()
        assert list(record(root)["archives"]) == ["train"]
        assert record(root)["whole"] is False
        (folder / "hidden").rename(folder / "val2017.zip")
        lenient("coco_stuff_164k", root, server.url).run()
        assert sum(name == "train2017.zip" and verb == "GET" for verb, name, _ in server.requests) == 1


@pytest.mark.parametrize(
    ("name", "fault", "message"),
    [
        ("ade20k", "truncated", "wrong checksum: md5"),
        ("coco_stuff", "truncated", "truncated or damaged"),
        ("coco_stuff", "hostile", "would land"),
    ],
)
def test_a_bad_archive_is_refused_and_nothing_looks_whole(tiny, tmp_path: Path, name: str, fault: str, message: str):
    folder, root = tmp_path / "www", tmp_path / "root"
    shutil.copytree(tiny[name], folder)
    (archive,) = folder.iterdir()
    if fault == "hostile":
        with zipfile.ZipFile(archive, "a") as opened:
            opened.writestr("../../evil", "x")
    else:
        archive.write_bytes(archive.read_bytes()[:-500])
    with pytest.raises(DatasetError, match=message):
        lenient(name, root, folder).run()
    assert tree(root) <= {".prepare.lock"}
    assert not list(tmp_path.rglob("evil"))
    with pytest.raises(DatasetError, match="not found"):
        RECIPES[name].reader(root=root).samples("train")


def test_a_fetched_file_of_a_wrong_checksum_is_put_aside_and_fetched_again_from_the_recipes_address(
    shelf: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    shutil.copytree(shelf["ade20k"], tmp_path / "www")
    (archive,) = (tmp_path / "www").iterdir()
    archive.write_bytes(b"bad")
    with serving(tmp_path / "www") as server:
        monkeypatch.setitem(RECIPES, "ade20k", tiny_recipe("ade20k", shelf["ade20k"], server.url))
        with pytest.raises(DatasetError, match=rf"archives/{archive.name}\.refused: wrong checksum: md5 .*not used"):
            lenient("ade20k", tmp_path / "root", None).run()
        shutil.copy(shelf["ade20k"] / archive.name, archive)
        assert len(lenient("ade20k", tmp_path / "root", None, keep_archives=True).run()) == 2
    assert (tmp_path / "root" / "archives" / archive.name).is_file()


def test_a_disk_too_small_is_noticed_before_anything_is_fetched(tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "free_bytes", lambda folder: 5000)
    with serving(tiny["voc"]) as server:
        with pytest.raises(DatasetError, match=r"voc needs about \d+\.\d kB, 5\.0 kB are free .*dataset\.root"):
            lenient("voc", tmp_path, server.url).run()
        assert {verb for verb, _, _ in server.requests} == {"HEAD"}


def test_a_disk_that_fills_up_while_unpacking_leaves_nothing_that_looks_whole(tiny, tmp_path: Path):
    said = rf"{tmp_path}: .*File too large.* are free there\. Make room, or set dataset\.root"
    with file_size_limit(1500), pytest.raises(DatasetError, match=said):
        lenient("coco_stuff", tmp_path, tiny["coco_stuff"]).run()
    assert not {"images", "prepared.json"} & {path.name for path in tmp_path.iterdir()}
    assert {count.found for count in lenient("coco_stuff", tmp_path, tiny["coco_stuff"]).run()} == {3, 2, 5}


def dying(function: Callable, after: int) -> Callable:
    """Make a function kill its process, without a chance to clean up, at a call."""
    calls = iter(range(after))

    def wrapped(*arguments, **options):
        if next(calls, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)

    return wrapped


KILLERS = {  # moment: object, attribute, calls that it survives; an archive takes 2 renames and 1 of prepared.json
    "unpacking": (archives.shutil, "copyfileobj", 7),
    "moving": (os, "replace", 1),
    "recording": (module, "write_json", 0),
    "moving the second": (os, "replace", 4),
    "moving half of the third": (os, "replace", 8),
}


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("moment", list(KILLERS))
def test_a_run_killed_at_any_moment_leaves_nothing_that_looks_whole_and_the_next_one_finishes(
    tiny, tmp_path: Path, moment: str
):
    root, fresh = tmp_path / "root", tmp_path / "fresh"
    child = os.fork()
    if child == 0:
        try:
            place, name, after = KILLERS[moment]
            setattr(place, name, dying(getattr(place, name), after))
            lenient("voc", root, tiny["voc"]).run()
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert not (root / "prepared.json").is_file() or not record(root)["whole"]
    if "third" not in moment:  # that one is the test split's
        with pytest.raises(DatasetError):
            VOC(root=root).samples("trainaug")
    counts = lenient("voc", root, tiny["voc"]).run()
    assert {count.name: count.found for count in counts} == COUNTS["voc"]
    lenient("voc", fresh, tiny["voc"]).run()
    assert tree(root) == tree(fresh)
    for name in tree(fresh):
        assert (root / name).read_bytes() == (fresh / name).read_bytes(), name


def test_two_runs_do_not_meet_in_one_folder(tiny, tmp_path: Path):
    with locked(tmp_path / ".prepare.lock"), pytest.raises(DatasetError, match="another process is preparing"):
        lenient("ade20k", tmp_path, tiny["ade20k"]).run()


def test_a_folder_that_cannot_be_written_is_named(tiny, tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match=r"file/root: .*Not a directory.* set dataset\.root=\.\.\. to another"):
        lenient("ade20k", tmp_path / "file" / "root", tiny["ade20k"]).run()


def test_an_interruption_says_how_to_go_on(tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def stop(*_arguments: object, **_options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "unpack", stop)
    with pytest.raises(DatasetError, match="ade20k: interrupted; the same command goes on"):
        prepare("ade20k", data_dir=tmp_path, source=str(tiny["ade20k"]), console=QUIET)


def test_what_a_user_unpacked_is_taken_as_it_is(tiny, tmp_path: Path):
    shutil.unpack_archive(tiny["ade20k"] / "ADEChallengeData2016.zip", tmp_path)
    preparation = lenient("ade20k", tmp_path, None)
    assert [step.state for step in preparation.plan()] == [State.THERE]
    assert len(preparation.run()) == 2


def test_archives_put_beside_the_data_are_found_and_files_that_are_there_not_overwritten(tiny, tmp_path: Path):
    shutil.copytree(tiny["cityscapes"], tmp_path / "archives")
    (tmp_path / "README").write_text("mine")
    preparation = lenient("cityscapes", tmp_path, None)
    assert {step.state for step in preparation.plan()} == {State.FILE}
    assert len(preparation.run()) == 3
    assert (tmp_path / "README").read_text() == "mine"
    assert (tmp_path / "license.txt").read_text() == "terms"


def test_archives_behind_a_login_are_asked_for_by_name(tmp_path: Path):
    with pytest.raises(
        MissingArchiveError, match=r"gtFine_trainvaltest\.zip from https://www\.cityscapes-dataset\.com"
    ):
        Preparation("cityscapes", tmp_path).run()


def test_parts_are_taken_alone(tiny, tmp_path: Path):
    counts = lenient("pascal_context", tmp_path, tiny["pascal_context"], parts=("images", "json")).run()
    assert [count.name for count in counts] == ["train (json)", "val (json)"]
    assert not (tmp_path / "trainval").exists()
    with pytest.raises(ConfigError, match="pascal_context has the parts images, mat, json; got mask"):
        Preparation("pascal_context", tmp_path, parts=("mask",))


def test_a_source_that_is_not_there_and_a_folder_of_another_data_set_are_refused(tiny, tmp_path: Path):
    with pytest.raises(ConfigError, match="no such folder"):
        lenient("voc", tmp_path, tmp_path / "nowhere").run()
    lenient("ade20k", tmp_path, tiny["ade20k"]).run()
    with pytest.raises(DatasetError, match="this folder holds ade20k, not coco_stuff"):
        lenient("coco_stuff", tmp_path, tiny["coco_stuff"]).run()


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(tiny, tmp_path: Path):
    console = Console(record=True, width=200, file=io.StringIO())
    with serving(tiny["voc"]) as server:
        prepare("voc", data_dir=tmp_path, source=server.url, dry_run=True, console=console)
    text = console.export_text()
    assert f"{server.url}/benchmark.tgz" in text
    assert "to be fetched and unpacked" in text
    needed = 2 * sum((tiny["voc"] / name).stat().st_size for name in ("VOCtrainval_11-May-2012.tar", "benchmark.tgz"))
    assert f"disk: about {needed / 1000:.1f} kB; " in text
    assert not list(tmp_path.iterdir())


def test_all_prepares_what_it_can_and_names_the_rest(tmp_path: Path, tiny, caplog: pytest.LogCaptureFixture):
    source = tmp_path / "source"
    for name in set(ARCHIVES) - {"cityscapes"}:
        shutil.copytree(tiny[name], source / name)
    (source / "ade20k" / "ADEChallengeData2016.zip").write_bytes(b"not a zip")
    with pytest.raises(DatasetError, match="not prepared: cityscapes, ade20k; see above"):
        prepare("all", data_dir=tmp_path / "data", source=str(source), strict_counts=False, console=QUIET)
    assert "cityscapes: source=" in caplog.text
    assert "wrong checksum" in caplog.text
    ready = {folder.name for folder in (tmp_path / "data").iterdir() if (folder / "prepared.json").is_file()}
    assert ready == set(ARCHIVES) - {"cityscapes", "ade20k"}
    with pytest.raises(ConfigError, match="go with one benchmark"):
        prepare("all", data_dir=tmp_path, parts=["images"])


def test_all_without_a_source_only_names_a_benchmark_behind_a_login(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    for name in set(RECIPES) - {"cityscapes"}:
        monkeypatch.delitem(RECIPES, name)
    prepare("all", data_dir=tmp_path, console=QUIET)
    assert "not prepared, since no program can fetch it: cityscapes" in caplog.text


def test_where_there_is_no_fcntl_the_lock_is_that_of_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def locking(number: int, mode: int, size: int) -> None:
        calls.append((mode, size))
        if len(calls) > 1:
            raise PermissionError("Permission denied")

    calls: list[tuple[int, int]] = []
    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", SimpleNamespace(locking=locking, LK_NBLCK=2))
    path = tmp_path / "lock"
    with locked(path), pytest.raises(BlockingIOError, match=rf"process {os.getpid()} on "), locked(path):
        pass
    assert calls == [(2, 1), (2, 1)]
