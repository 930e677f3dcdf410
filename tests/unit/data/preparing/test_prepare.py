"""Every benchmark prepared from archives in the published layout, over a loopback server or from a folder."""

import errno
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

import numpy as np
import pytest
from rich.console import Console

from emanet.cli import inspecting
from emanet.common.errors import ConfigError, DatasetError
from emanet.data.datasets.voc import VOC
from emanet.data.preparing import archives, derive
from emanet.data.preparing import prepare as module
from emanet.data.preparing.job import prepare
from emanet.data.preparing.prepare import MissingArchiveError, Preparation, State
from emanet.data.preparing.recipes import RECIPES
from emanet.data.preparing.record import locked
from emanet.data.reading import read_index_png
from fake_archives import PACKERS, tiny_recipe, write_archives
from loopback import serving

COUNTS = {  # images that the fake archives hold
    "voc": {"train": 4, "val": 2, "trainval": 6, "trainaug": 9, "test": 1},
    "pascal_context": {"train (mat)": 3, "val (mat)": 2, "train (json)": 3, "val (json)": 2},
    "coco_stuff": {"train": 3, "test": 2, "all": 5},
    "coco_stuff_164k": {"train": 3, "val": 2},
    "cityscapes": {"train": 3, "val": 2, "test": 1},
    "ade20k": {"train": 3, "val": 2},
}


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folders of archives, made once."""
    base = tmp_path_factory.mktemp("shelf")

    def folder(name: str) -> Path:
        return base / name / "www" if (base / name).exists() else write_archives(name, base / name)

    return folder


@pytest.fixture
def tiny(shelf: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Puts a recipe for the fake archives in place of the real one; returns their folder."""

    def use(name: str, url: str | None = None) -> Path:
        folder = shelf(name)
        monkeypatch.setitem(RECIPES, name, tiny_recipe(name, folder, url))
        return folder

    return use


def lenient(name: str, root: Path, source: Path | str | None, **options: object) -> Preparation:
    """A preparation that takes the fake archives' small numbers of images."""
    return Preparation(name, root, source=None if source is None else str(source), strict_counts=False, **options)


def tree(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_every_benchmark_has_a_recipe_and_archives_to_test_it_with():
    assert set(PACKERS) == set(RECIPES) == set(COUNTS)


@pytest.mark.parametrize("name", list(PACKERS))
def test_a_benchmark_is_prepared_over_the_network_recorded_and_not_fetched_twice(tiny, tmp_path: Path, name: str):
    with serving(tiny(name)) as server:
        counts = lenient(name, tmp_path, server.url, parts=None if name != "voc" else ("trainval", "sbd", "test")).run()
        fetched = len(server.requests)
        again = lenient(name, tmp_path, server.url)
        assert {step.state for step in again.plan()} == {State.DONE}
        assert again.run() is not None
        assert len(server.requests) == fetched
    assert {count.name: count.found for count in counts} == COUNTS[name]
    record = json.loads((tmp_path / "prepared.json").read_text())
    assert record["dataset"] == name
    assert record["whole"] is False  # far fewer images than published
    assert record["counts"] == COUNTS[name]
    for archive in RECIPES[name].archives:
        entry = record["archives"][archive.key]
        assert len(entry["sha256"]) == 64
        assert entry["origin"] == f"{server.url}/{archive.file}"
        assert entry["files"] > 0
    assert not (tmp_path / ".unpacking").exists()
    assert not (tmp_path / "archives").exists()


def test_the_addresses_of_the_recipe_are_used_where_no_source_is_given(shelf, tiny, tmp_path: Path):
    with serving(shelf("ade20k")) as server:
        tiny("ade20k", server.url)
        lenient("ade20k", tmp_path, None, keep_archives=True).run()
    assert (tmp_path / "archives" / "ADEChallengeData2016.zip").is_file()


def test_a_folder_of_archives_serves_and_is_left_alone(tiny, tmp_path: Path):
    folder = tiny("voc")
    before = tree(folder)
    lenient("voc", tmp_path, folder).run()
    assert tree(folder) == before
    record = json.loads((tmp_path / "prepared.json").read_text())
    assert record["archives"]["sbd"]["origin"] == str(folder / "benchmark.tgz")


def test_trainaug_takes_vocs_masks_where_voc_has_them_and_sbds_elsewhere(tiny, tmp_path: Path):
    lenient("voc", tmp_path, tiny("voc")).run()
    devkit = tmp_path / "VOCdevkit" / "VOC2012"
    names = (devkit / "ImageSets/Segmentation/trainaug.txt").read_text().split()
    train = (devkit / "ImageSets/Segmentation/train.txt").read_text().split()
    val = (devkit / "ImageSets/Segmentation/val.txt").read_text().split()
    assert len(names) == len(set(names)) == 9
    assert set(train) <= set(names)
    assert not set(val) & set(names)
    assert {path.stem for path in (devkit / "SegmentationClassAug").iterdir()} == set(names)
    for name in train:
        merged, own = (read_index_png(devkit / folder / f"{name}.png") for folder in MASKS)
        np.testing.assert_array_equal(merged, own)


MASKS = ("SegmentationClassAug", "SegmentationClass")


def test_merged_masks_are_those_of_sbd(tiny, tmp_path: Path):
    lenient("voc", tmp_path, tiny("voc")).run()
    merged = VOC(root=tmp_path)
    by_name = {sample.name: merged.labels()(sample) for sample in merged.samples("trainaug")}
    devkit = tmp_path / "VOCdevkit" / "VOC2012"
    shutil.rmtree(devkit / "SegmentationClassAug")
    (devkit / "ImageSets/Segmentation/trainaug.txt").unlink()
    raw = VOC(root=tmp_path)
    compared = 0
    for sample in raw.samples("trainaug"):
        np.testing.assert_array_equal(by_name[sample.name], raw.labels()(sample))
        compared += str(sample.mask).endswith(".mat")
    assert compared == 5


def test_of_sbd_only_masks_and_lists_are_unpacked(tiny, tmp_path: Path):
    lenient("voc", tmp_path, tiny("voc")).run()
    assert {path.name for path in (tmp_path / "benchmark_RELEASE" / "dataset").iterdir()} == {
        "cls",
        "train.txt",
        "val.txt",
    }


def test_published_counts_are_asked_for_unless_told_otherwise(tiny, tmp_path: Path):
    with pytest.raises(DatasetError, match=r"not whole: train 3 of 20210, val 2 of 2000.*strict_counts=false"):
        Preparation("ade20k", tmp_path, source=str(tiny("ade20k"))).run()
    assert json.loads((tmp_path / "prepared.json").read_text())["whole"] is False


def test_a_whole_benchmark_is_recorded_as_whole(tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(RECIPES["ade20k"].reader, "split_sizes", {"train": 3, "val": 2})
    Preparation("ade20k", tmp_path, source=str(tiny("ade20k"))).run()
    assert json.loads((tmp_path / "prepared.json").read_text())["whole"] is True


def test_a_missing_file_on_the_server_leaves_what_was_done_and_names_the_rest(tiny, tmp_path: Path):
    folder = tmp_path / "www"
    shutil.copytree(tiny("coco_stuff_164k"), folder)
    (folder / "val2017.zip").rename(folder / "hidden")
    with serving(folder) as server:
        with pytest.raises(DatasetError, match=r"val2017\.zip: the server answers 404"):
            lenient("coco_stuff_164k", tmp_path / "root", server.url).run()
        record = json.loads((tmp_path / "root" / "prepared.json").read_text())
        assert list(record["archives"]) == ["train"]
        assert record["whole"] is False
        (folder / "hidden").rename(folder / "val2017.zip")
        lenient("coco_stuff_164k", tmp_path / "root", server.url).run()
        assert sum(name == "train2017.zip" and verb == "GET" for verb, name, _ in server.requests) == 1


@pytest.mark.parametrize("fault", ["checksum", "truncated", "hostile"])
def test_a_bad_archive_is_refused_and_nothing_looks_whole(tiny, tmp_path: Path, fault: str):
    folder = tmp_path / "www"
    shutil.copytree(tiny("ade20k") if fault == "checksum" else tiny("coco_stuff"), folder)
    (archive,) = folder.iterdir()
    if fault == "hostile":
        with zipfile.ZipFile(archive, "a") as opened:
            opened.writestr("../../evil", "x")
    else:
        archive.write_bytes(archive.read_bytes()[:-500])
    name = "ade20k" if fault == "checksum" else "coco_stuff"
    expected = {"checksum": "wrong checksum: md5", "truncated": "truncated or damaged", "hostile": "would land outside"}
    with pytest.raises(DatasetError, match=expected[fault]):
        lenient(name, tmp_path / "root", folder).run()
    assert tree(tmp_path / "root") <= {".prepare.lock"}
    assert not list(tmp_path.rglob("evil"))
    with pytest.raises(DatasetError, match="not found"):
        RECIPES[name].reader(root=tmp_path / "root").samples("train")


def test_a_disk_too_small_is_noticed_before_anything_is_fetched(tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "free_bytes", lambda folder: 5000)
    with serving(tiny("voc")) as server:
        with pytest.raises(DatasetError, match=r"voc needs about 0\.\d GB, 0\.0 GB are free .*dataset\.root"):
            lenient("voc", tmp_path, server.url).run()
        assert {verb for verb, _, _ in server.requests} == {"HEAD"}


def test_a_disk_that_fills_up_while_unpacking_leaves_nothing_that_looks_whole(tiny, tmp_path: Path):
    from unit.data.test_download import file_size_limit

    folder = tiny("coco_stuff")
    with file_size_limit(1500), pytest.raises(DatasetError, match="no room to write"):
        lenient("coco_stuff", tmp_path, folder).run()
    assert not (tmp_path / "images").exists()
    assert not (tmp_path / "prepared.json").exists()
    assert {count.found for count in lenient("coco_stuff", tmp_path, folder).run()} == {3, 2, 5}


def dying(function: Callable, after: int) -> Callable:
    """Make a function kill its process, without a chance to clean up, at a call."""
    calls = iter(range(after))

    def wrapped(*arguments, **options):
        if next(calls, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)

    return wrapped


KILLERS = {  # moment: object, attribute, calls that it survives
    "unpacking": (archives, "write", 7),
    "marking as unpacked": (module, "write_json", 0),
    "moving": (module.os, "replace", 3),  # two of them write json files
    "recording": (module.Record, "save", 0),
    "deriving": (derive.Image.Image, "save", 2),
    "listing": (derive, "write_list", 0),
}


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("moment", list(KILLERS))
def test_a_run_killed_at_any_moment_leaves_nothing_that_looks_whole_and_the_next_one_finishes(
    tiny, tmp_path: Path, moment: str
):
    folder, root = tiny("voc"), tmp_path / "root"
    child = os.fork()
    if child == 0:
        try:
            place, name, after = KILLERS[moment]
            setattr(place, name, dying(getattr(place, name), after))
            lenient("voc", root, folder).run()
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    record = root / "prepared.json"
    assert not record.is_file() or not json.loads(record.read_text())["whole"]
    masks = root / "VOCdevkit" / "VOC2012" / "SegmentationClassAug"
    if moment in ("deriving", "listing"):
        assert not masks.exists() or len(list(masks.iterdir())) == 9
    else:
        with pytest.raises(DatasetError):
            VOC(root=root).samples("trainaug")
    counts = lenient("voc", root, folder).run()
    assert {count.name: count.found for count in counts} == COUNTS["voc"]
    fresh = tmp_path / "fresh"
    lenient("voc", fresh, folder).run()
    assert tree(root) == tree(fresh)
    for name in tree(fresh) - {"prepared.json"}:
        assert (root / name).read_bytes() == (fresh / name).read_bytes(), name


def test_two_runs_do_not_meet_in_one_folder(tiny, tmp_path: Path):
    folder = tiny("ade20k")
    with module.locked(tmp_path), pytest.raises(DatasetError, match="another process is preparing"):
        lenient("ade20k", tmp_path, folder).run()


def test_a_folder_that_cannot_be_written_is_named(tiny, tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match=r"cannot write to .*file/root .*dataset\.root"):
        lenient("ade20k", tmp_path / "file" / "root", tiny("ade20k")).run()


def test_an_interruption_says_how_to_go_on(tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tiny("ade20k")

    def stop(*_arguments: object, **_options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "unpack", stop)
    with pytest.raises(DatasetError, match="ade20k: interrupted; the same command goes on"):
        prepare("ade20k", data_dir=tmp_path, source=str(folder), console=Console(quiet=True))


def test_what_a_user_unpacked_is_taken_as_it_is(tiny, tmp_path: Path):
    folder = tiny("ade20k")
    shutil.unpack_archive(folder / "ADEChallengeData2016.zip", tmp_path)
    preparation = lenient("ade20k", tmp_path, None)
    assert [step.state for step in preparation.plan()] == [State.THERE]
    assert len(preparation.run()) == 2


def test_files_that_are_there_are_not_overwritten(tiny, tmp_path: Path):
    (tmp_path / "README").write_text("mine")
    lenient("cityscapes", tmp_path, tiny("cityscapes")).run()
    assert (tmp_path / "README").read_text() == "mine"
    assert (tmp_path / "license.txt").read_text() == "terms"


def test_archives_behind_a_login_are_asked_for_by_name(tmp_path: Path):
    with pytest.raises(
        MissingArchiveError, match=r"gtFine_trainvaltest\.zip from https://www\.cityscapes-dataset\.com"
    ):
        Preparation("cityscapes", tmp_path).run()


def test_archives_put_beside_the_data_are_found(tiny, tmp_path: Path):
    shutil.copytree(tiny("cityscapes"), tmp_path / "archives")
    preparation = lenient("cityscapes", tmp_path, None)
    assert {step.state for step in preparation.plan()} == {State.FILE}
    assert len(preparation.run()) == 3


def test_parts_are_taken_alone(tiny, tmp_path: Path):
    counts = lenient("pascal_context", tmp_path, tiny("pascal_context"), parts=("images", "json")).run()
    assert [count.name for count in counts] == ["train (json)", "val (json)"]
    assert not (tmp_path / "trainval").exists()
    with pytest.raises(ConfigError, match="pascal_context has the parts images, mat, json; got mask"):
        Preparation("pascal_context", tmp_path, parts=("mask",))


def test_a_source_that_is_not_there_and_a_folder_of_another_data_set_are_refused(tiny, tmp_path: Path):
    with pytest.raises(ConfigError, match="no such folder"):
        lenient("voc", tmp_path, tmp_path / "nowhere").run()
    lenient("ade20k", tmp_path, tiny("ade20k")).run()
    with pytest.raises(DatasetError, match="this folder holds ade20k, not coco_stuff"):
        lenient("coco_stuff", tmp_path, tiny("coco_stuff")).run()


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(tiny, tmp_path: Path):
    console = Console(record=True, width=200, file=io.StringIO())
    with serving(tiny("voc")) as server:
        prepare("voc", data_dir=tmp_path, source=server.url, dry_run=True, console=console)
    text = console.export_text()
    assert f"{server.url}/benchmark.tgz" in text
    assert "to be fetched and unpacked" in text
    assert "disk: about 0." in text
    assert not list(tmp_path.iterdir())


def test_all_prepares_what_it_can_and_names_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny, caplog):
    source = tmp_path / "source"
    for name in PACKERS:
        shutil.copytree(tiny(name), source / name)
    shutil.rmtree(source / "cityscapes")
    (source / "ade20k" / "ADEChallengeData2016.zip").write_bytes(b"not a zip")
    options = {"data_dir": tmp_path / "data", "source": str(source), "strict_counts": False}
    with pytest.raises(DatasetError, match="not prepared: cityscapes, ade20k; see above"):
        prepare("all", console=Console(quiet=True), **options)
    assert "cityscapes: source=" in caplog.text
    assert "wrong checksum" in caplog.text
    ready = {folder.name for folder in (tmp_path / "data").iterdir() if (folder / "prepared.json").is_file()}
    assert ready == set(PACKERS) - {"cityscapes", "ade20k"}


def test_all_from_an_empty_folder_fails_and_names_every_benchmark(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match=f"not prepared: {', '.join(RECIPES)}; see above"):
        prepare("all", data_dir=tmp_path / "data", source=str(tmp_path / "empty"), console=Console(quiet=True))


def test_all_without_a_source_only_names_a_benchmark_behind_a_login(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    for name in set(RECIPES) - {"cityscapes"}:
        monkeypatch.delitem(RECIPES, name)
    prepare("all", data_dir=tmp_path, console=Console(quiet=True))
    assert "not prepared, since no program can fetch it: cityscapes" in caplog.text


def test_a_system_without_sync_prepares_too(tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delattr(os, "sync")  # as on Windows
    counts = lenient("ade20k", tmp_path, tiny("ade20k")).run()
    assert {count.name: count.found for count in counts} == COUNTS["ade20k"]


def test_where_there_is_no_fcntl_the_lock_is_that_of_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def locking(number: int, mode: int, size: int) -> None:
        calls.append((mode, size))
        if len(calls) > 1:
            raise PermissionError(errno.EACCES, "Permission denied")

    calls: list[tuple[int, int]] = []
    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", SimpleNamespace(locking=locking, LK_NBLCK=2))
    with locked(tmp_path), pytest.raises(DatasetError, match="another process is preparing"), locked(tmp_path):
        pass
    assert calls == [(2, 1), (2, 1)]


def test_looking_at_data_needs_no_preparing():
    source = Path(inspecting.__file__).read_text(encoding="utf-8")
    assert "emanet.data.preparing.bars" in source
    assert "emanet.data.preparing.prepare" not in source
