"""Archives of each benchmark, tiny but laid out as the published ones, and recipes that know their checksums."""

import hashlib
import resource
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from emanet.data.preparing.recipes import RECIPES, Recipe
from fake_data import (
    write_ade20k,
    write_cityscapes,
    write_coco_stuff_10k,
    write_coco_stuff_164k,
    write_pascal_context,
    write_sbd,
    write_voc,
)


def pack(archive: Path, root: Path, *tops: str, skip: Sequence[str] = ()) -> None:
    """Pack files and folders of ``root``, by names relative to it, into a zip or tar."""
    paths = sorted(
        path for top in tops for path in ([root / top] if (root / top).is_file() else (root / top).rglob("*"))
    )
    chosen = [path for path in paths if path.is_file() and path.relative_to(root).as_posix() not in skip]
    assert chosen
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as opened:
            for path in chosen:
                opened.write(path, path.relative_to(root).as_posix())
        return
    with tarfile.open(archive, "w" if archive.suffix == ".tar" else "w:gz") as opened_tar:
        for path in chosen:
            opened_tar.add(path, path.relative_to(root).as_posix())


def pack_voc(work: Path, out: Path) -> None:
    write_voc(work)
    write_sbd(work)
    base = "VOCdevkit/VOC2012"
    test = [f"{base}/ImageSets/Segmentation/test.txt", f"{base}/JPEGImages/2009_000000.jpg"]
    pack(out / "VOCtrainval_11-May-2012.tar", work, "VOCdevkit", skip=test)
    pack(out / "VOC2012test.tar", work, *test)
    pack(out / "benchmark.tgz", work, "benchmark_RELEASE")


def pack_context(work: Path, out: Path) -> None:
    write_pascal_context(work, source="json")
    write_pascal_context(work, source="mat")
    pack(out / "VOCtrainval_03-May-2010.tar", work, "VOCdevkit")
    pack(out / "trainval.tar.gz", work, "trainval", "labels.txt")
    shutil.copy(work / "trainval_merged.json", out)


def pack_coco_10k(work: Path, out: Path) -> None:
    write_coco_stuff_10k(work)
    pack(out / "cocostuff-10k-v1.1.zip", work, "images", "annotations", "imageLists")


def pack_coco_164k(work: Path, out: Path) -> None:
    write_coco_stuff_164k(work)
    for part in ("train2017", "val2017"):
        pack(out / f"{part}.zip", work, part)
    pack(out / "stuffthingmaps_trainval2017.zip", work / "stuffthingmaps_trainval2017", "train2017", "val2017")


def pack_cityscapes(work: Path, out: Path) -> None:
    write_cityscapes(work)
    for name in ("README", "license.txt"):  # both archives bring these
        (work / name).write_text("terms")
    for part in ("gtFine", "leftImg8bit"):
        pack(out / f"{part}_trainvaltest.zip", work, part, "README", "license.txt")


def pack_ade20k(work: Path, out: Path) -> None:
    write_ade20k(work)
    pack(out / "ADEChallengeData2016.zip", work, "ADEChallengeData2016")


PACKERS: dict[str, Callable[[Path, Path], None]] = {
    "voc": pack_voc,
    "pascal_context": pack_context,
    "coco_stuff": pack_coco_10k,
    "coco_stuff_164k": pack_coco_164k,
    "cityscapes": pack_cityscapes,
    "ade20k": pack_ade20k,
}


def write_archives(name: str, base: Path) -> Path:
    """Write a benchmark's archives; return their folder."""
    out = base / "www"
    out.mkdir(parents=True)
    PACKERS[name](base / "work", out)
    shutil.rmtree(base / "work")
    return out


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
