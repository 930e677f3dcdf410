"""Archives of each benchmark, tiny but laid out as the published ones, and recipes that know their checksums."""

import hashlib
import resource
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import fake_data
from emanet.data.preparing.recipes import RECIPES, Recipe

TEST_OF_VOC = tuple(
    f"VOCdevkit/VOC2012/{file}" for file in ("ImageSets/Segmentation/test.txt", "JPEGImages/2009_000000.jpg")
)
TERMS = ("README", "license.txt")  # both archives of Cityscapes bring these
ARCHIVES: dict[str, dict[str, tuple[str, ...]]] = {  # what each holds: files, folders, or the contents of "folders/"
    "voc": {
        "VOCtrainval_11-May-2012.tar": ("VOCdevkit",),
        "VOC2012test.tar": TEST_OF_VOC,
        "benchmark.tgz": ("benchmark_RELEASE",),
    },
    "pascal_context": {
        "VOCtrainval_03-May-2010.tar": ("VOCdevkit",),
        "trainval.tar.gz": ("trainval", "labels.txt"),
        "trainval_merged.json": ("trainval_merged.json",),
    },
    "coco_stuff": {"cocostuff-10k-v1.1.zip": ("images", "annotations", "imageLists")},
    "coco_stuff_164k": {
        "train2017.zip": ("train2017",),
        "val2017.zip": ("val2017",),
        "stuffthingmaps_trainval2017.zip": ("stuffthingmaps_trainval2017/",),
    },
    "cityscapes": {f"{part}_trainvaltest.zip": (part, *TERMS) for part in ("gtFine", "leftImg8bit")},
    "ade20k": {"ADEChallengeData2016.zip": ("ADEChallengeData2016",)},
}


def write_archives(name: str, base: Path) -> Path:
    """Write a benchmark's archives; return their folder."""
    work, out = base / "work", base / "www"
    work.mkdir(parents=True)
    out.mkdir()
    for write in WRITERS[name]:
        write(work)
    alone = {top for tops in ARCHIVES[name].values() for top in tops if (work / top).is_file()}
    for file, tops in ARCHIVES[name].items():
        names: dict[str, Path] = {top: work / top for top in tops if top in alone}
        for top in (top for top in tops if top not in alone):
            start = work / top if top.endswith("/") else work
            for path in sorted((work / top).rglob("*")):
                if path.is_file() and path.relative_to(work).as_posix() not in alone:
                    names[path.relative_to(start).as_posix()] = path
        pack(out / file, names)
    shutil.rmtree(work)
    return out


def write_terms(work: Path) -> None:
    """The files that both archives of Cityscapes bring."""
    for name in TERMS:
        (work / name).write_text("terms")


WRITERS: dict[str, tuple[Callable[[Path], object], ...]] = {
    "voc": (fake_data.write_voc, fake_data.write_sbd),
    "pascal_context": tuple(lambda work, s=s: fake_data.write_pascal_context(work, s) for s in ("json", "mat")),
    "coco_stuff": (fake_data.write_coco_stuff_10k,),
    "coco_stuff_164k": (fake_data.write_coco_stuff_164k,),
    "cityscapes": (fake_data.write_cityscapes, write_terms),
    "ade20k": (fake_data.write_ade20k,),
}


def pack(archive: Path, names: dict[str, Path]) -> None:
    """Pack files by their names in a zip or tar, or copy the only one."""
    assert names
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as opened:
            for name, path in names.items():
                opened.write(path, name)
    elif archive.suffix == ".json":
        shutil.copy(names[archive.name], archive)
    else:
        with tarfile.open(archive, "w" if archive.suffix == ".tar" else "w:gz") as opened_tar:
            for name, path in names.items():
                opened_tar.add(path, name)


def tiny_recipe(name: str, folder: Path, url: str | None = None) -> Recipe:
    """The recipe with these archives' checksums where the real one has any, unknown sizes, and addresses at ``url``."""
    archives = tuple(
        replace(
            archive,
            size=None,
            checksum=archive.checksum and "md5:" + hashlib.md5((folder / archive.file).read_bytes()).hexdigest(),
            host=archive.host and url,
        )
        for archive in RECIPES[name].archives
    )
    return replace(RECIPES[name], archives=archives)


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Let the kernel refuse bytes beyond ``size`` in any file, as a full disk or a quota does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
