"""Where each benchmark comes from and what makes it whole: tables for :mod:`emanet.data.preparing.prepare`.

Checksums and sizes are those of docs/FACTS.md, section 4, and nothing else; None: not published, so the counts decide.
Addresses are those of the benchmarks' own pages, given beside them; they may move, then ``source=DIR`` helps.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from emanet.common.errors import ConfigError
from emanet.data.datamodule import SegmentationDataModule
from emanet.data.datasets.ade20k import ADE20K
from emanet.data.datasets.cityscapes import Cityscapes
from emanet.data.datasets.coco_stuff import COCOStuff10K, COCOStuff164K
from emanet.data.datasets.pascal_context import PascalContext
from emanet.data.datasets.voc import VOC
from emanet.data.preparing.derive import derive_context_lists, derive_trainaug
from emanet.data.preparing.download import Tick

GB, MB = 10**9, 10**6


@dataclass(frozen=True, kw_only=True)
class Archive:
    """A file to fetch; one that is no zip or tar is used as it is."""

    key: str  #: what ``parts=[...]`` calls it
    file: str
    page: str  #: where people find it
    url: str | None = None  #: None: only by hand, after a login
    size: int | None = None  #: bytes, as published: about
    checksum: str | None = None  #: ``algorithm:hexdigest``
    into: str = "."  #: folder below the root that it unpacks into
    wanted: tuple[str, ...] = ()  #: beginnings of the paths that are needed; none: all
    provides: tuple[str, ...]  #: paths below the root that are there once it is unpacked
    optional: bool = False  #: taken only where the file lies ready, or on request


@dataclass(frozen=True, kw_only=True)
class Derivation:
    """Files computed from others: ``make(root, staging, tick)`` returns how many there are."""

    name: str
    needs: tuple[str, ...]  #: keys of archives
    make: Callable[[Path, Path, Tick], int]


@dataclass(frozen=True, kw_only=True)
class Check:
    """Splits that must have their published size, read by the data set's own reader."""

    needs: tuple[str, ...]  #: keys of archives
    splits: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)  #: of the reader


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All of a benchmark."""

    reader: Callable[..., SegmentationDataModule]
    archives: tuple[Archive, ...]
    checks: tuple[Check, ...]
    derivations: tuple[Derivation, ...] = ()


VOC_HOST = "http://host.robots.ox.ac.uk/pascal/VOC"
VOC2012 = "VOCdevkit/VOC2012"
VOC2010 = "VOCdevkit/VOC2010"
CONTEXT_PAGE = "https://cs.stanford.edu/~roozbeh/pascal-context/"
DETAIL_PAGE = (
    "https://sites.google.com/view/pasd/dataset"  # zhanghang1989/detail-api, README; file: mmsegmentation docs
)
STUFF_HOST = "http://calvin.inf.ed.ac.uk/wp-content/uploads/data/cocostuffdataset"
COCO_HOST = "http://images.cocodataset.org/zips"  # cocodataset.org, Download
COCO_PAGE = "https://cocodataset.org/#download"
CITYSCAPES_PAGE = "https://www.cityscapes-dataset.com/downloads/"

RECIPES: dict[str, Recipe] = {
    "voc": Recipe(
        reader=VOC,
        archives=(
            Archive(
                key="trainval",
                file="VOCtrainval_11-May-2012.tar",
                page=f"{VOC_HOST}/voc2012/",
                url=f"{VOC_HOST}/voc2012/VOCtrainval_11-May-2012.tar",
                size=int(1.9 * GB),
                checksum="md5:6cd6e144f989b92b3379bac3b3de84fd",
                provides=tuple(
                    f"{VOC2012}/{part}"
                    for part in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation/trainval.txt")
                ),
            ),
            Archive(
                key="sbd",
                file="benchmark.tgz",
                page="http://home.bharathh.info/pubs/codes/SBD/download.html",
                url="https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz",
                size=int(1.4 * GB),
                checksum="md5:82b4d87ceb2ed10f6038a1cba92111cb",
                # its images are copies of VOC's
                wanted=tuple(f"benchmark_RELEASE/dataset/{part}" for part in ("cls/", "train.txt", "val.txt")),
                provides=tuple(f"benchmark_RELEASE/dataset/{part}" for part in ("cls", "train.txt", "val.txt")),
            ),
            Archive(
                key="test",
                file="VOC2012test.tar",
                page="http://host.robots.ox.ac.uk:8080/eval/challenges/voc2012/",
                provides=(f"{VOC2012}/ImageSets/Segmentation/test.txt",),
                optional=True,
            ),
        ),
        derivations=(Derivation(name="trainaug", needs=("trainval", "sbd"), make=derive_trainaug),),
        checks=(
            Check(needs=("trainval",), splits=("train", "val", "trainval")),
            Check(needs=("trainval", "sbd"), splits=("trainaug",)),
            Check(needs=("trainval", "test"), splits=("test",)),
        ),
    ),
    "pascal_context": Recipe(
        reader=PascalContext,
        archives=(
            Archive(
                key="images",
                file="VOCtrainval_03-May-2010.tar",
                page=f"{VOC_HOST}/voc2010/",
                url=f"{VOC_HOST}/voc2010/VOCtrainval_03-May-2010.tar",
                checksum="md5:da459979d0c395079b5c75ee67908abb",
                provides=(f"{VOC2010}/JPEGImages", f"{VOC2010}/ImageSets/Main/train.txt"),
            ),
            Archive(
                key="mat",
                file="trainval.tar.gz",
                page=CONTEXT_PAGE,
                url=f"{CONTEXT_PAGE}trainval.tar.gz",
                provides=("trainval",),
            ),
            Archive(
                key="json",
                file="trainval_merged.json",
                page=DETAIL_PAGE,
                url="https://codalabuser.blob.core.windows.net/public/trainval_merged.json",
                checksum="sha1:169325d9f7e9047537fedca7b04de4dddf10b881",
                provides=("trainval_merged.json",),
            ),
        ),
        derivations=(Derivation(name="lists", needs=("images", "mat"), make=derive_context_lists),),
        checks=(
            Check(needs=("images", "mat"), splits=("train", "val"), options={"label_source": "mat"}),
            Check(needs=("images", "json"), splits=("train", "val"), options={"label_source": "json"}),
        ),
    ),
    "coco_stuff": Recipe(
        reader=COCOStuff10K,
        archives=(
            Archive(
                key="all",
                file="cocostuff-10k-v1.1.zip",
                page="https://github.com/nightrome/cocostuff10k",
                url=f"{STUFF_HOST}/cocostuff-10k-v1.1.zip",
                size=2 * GB,
                provides=("images", "annotations", "imageLists"),
            ),
        ),
        checks=(Check(needs=("all",), splits=("train", "test", "all")),),
    ),
    "coco_stuff_164k": Recipe(
        reader=COCOStuff164K,
        archives=(
            *(
                Archive(
                    key=key,
                    file=f"{key}2017.zip",
                    page=COCO_PAGE,
                    url=f"{COCO_HOST}/{key}2017.zip",
                    size=size,
                    into="images",
                    provides=(f"images/{key}2017",),
                )
                for key, size in (("train", 18 * GB), ("val", GB))
            ),
            Archive(
                key="labels",
                file="stuffthingmaps_trainval2017.zip",
                page="https://github.com/nightrome/cocostuff#downloads",
                url=f"{STUFF_HOST}/stuffthingmaps_trainval2017.zip",
                size=659 * MB,
                into="stuffthingmaps_trainval2017",
                provides=tuple(f"stuffthingmaps_trainval2017/{key}2017" for key in ("train", "val")),
            ),
        ),
        checks=(
            Check(needs=("train", "labels"), splits=("train",)),
            Check(needs=("val", "labels"), splits=("val",)),
        ),
    ),
    "cityscapes": Recipe(
        reader=Cityscapes,
        archives=(
            Archive(
                key="labels",
                file="gtFine_trainvaltest.zip",
                page=CITYSCAPES_PAGE,
                checksum="md5:4237c19de34c8a376e9ba46b495d6f66",
                provides=("gtFine",),
            ),
            Archive(
                key="images",
                file="leftImg8bit_trainvaltest.zip",
                page=CITYSCAPES_PAGE,
                checksum="md5:0a6e97e94b616a514066c9e2adb0c97f",
                provides=("leftImg8bit",),
            ),
        ),
        checks=(Check(needs=("labels", "images"), splits=("train", "val", "test")),),
    ),
    "ade20k": Recipe(
        reader=ADE20K,
        archives=(
            Archive(
                key="all",
                file="ADEChallengeData2016.zip",
                page="http://sceneparsing.csail.mit.edu/",
                url="http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip",
                checksum="sha1:219e1696abb36c8ba3a3afe7fb2f4b4606a897c7",
                provides=("ADEChallengeData2016/images", "ADEChallengeData2016/annotations"),
            ),
        ),
        checks=(Check(needs=("all",), splits=("train", "val")),),
    ),
}


WRITTEN_AT_FIRST_USE = {"blue_marble": "written from two pip packages"}


def recipe_of(name: str) -> Recipe:
    """Look up a benchmark.

    Raises:
        ConfigError: if it has no recipe.
    """
    if name in WRITTEN_AT_FIRST_USE:
        raise ConfigError(f"{name} needs no preparing: it is {WRITTEN_AT_FIRST_USE[name]} at first use.")
    if name not in RECIPES:
        raise ConfigError(
            f"dataset={name} cannot be prepared; there are {', '.join(RECIPES)}, all. Your own data needs no "
            "preparing: see docs/own_data.md"
        )
    return RECIPES[name]
