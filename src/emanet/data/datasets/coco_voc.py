"""COCO 2017 instances painted as the 21 classes of PASCAL VOC: the first stage of the VOC test schedule.

What the authors did beyond "COCO pretraining" is not published (FACTS section 4): which images, in which order objects
that overlap are painted, and for how long they trained. The choices made here stand at :class:`COCOVOC`.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from emanet.common.errors import DatasetError
from emanet.data.datamodule import SegmentationDataModule
from emanet.data.datasets.detail import decode_counts
from emanet.data.datasets.voc import CLASSES, PALETTE
from emanet.data.reading import IGNORE, Labels, Sample, require_mask

COCO_NAMES = {
    **{"aeroplane": "airplane", "diningtable": "dining table", "motorbike": "motorcycle"},
    **{"pottedplant": "potted plant", "sofa": "couch", "tvmonitor": "tv"},
}
"""COCO's names of the VOC classes that it spells otherwise."""

Outline = list[Float32[np.ndarray, "corners 2"]]


class Instance(NamedTuple):
    """One object: its VOC class, or 255 for a crowd, and its outline as polygons (x, y) or run lengths."""

    label: int
    area: float
    outline: Outline | str | list[int]


class InstanceImage(NamedTuple):
    """The size of an image and what is painted, in this order."""

    size: tuple[int, int]
    instances: list[Instance]


class COCOVOC(SegmentationDataModule):
    """COCO 2017 with the instances of 20 classes as VOC labels them, by name; splits train and val.

    ``root`` holds ``annotations/instances_{train,val}2017.json`` and the images in ``train2017`` and ``val2017`` or
    ``images/...``. Taken are the images with at least one instance of the 20 classes that is no crowd. Crowds become
    255, then large objects are painted before small ones, since COCO knows no depth; all else is background.
    """

    name = "coco_voc"

    def __init__(self, **options: Any):
        super().__init__(**options)
        self.class_names, self.palette = CLASSES, PALETTE

    def remedy(self) -> str:
        """Say where the files come from."""
        return (
            "set dataset.root=... to a folder with annotations_trainval2017.zip, train2017.zip and val2017.zip of "
            "https://cocodataset.org/#download unpacked (data/coco_voc/README.md)."
        )

    def labels(self) -> Labels:
        """Paint the instances of one image."""
        return InstanceLabels({path: read_instances(path) for path in self._annotation_files()})

    def find(self, split: str) -> list[Sample]:
        """List the images of a split that show one of the classes."""
        annotations = self.first_existing(self._annotations(split))
        images = self.first_existing(self.root / "images" / f"{split}2017", self.root / f"{split}2017")
        return [Sample(name, images / f"{name}.jpg", annotations) for name in sorted(read_instances(annotations))]

    def _annotations(self, split: str) -> Path:
        return self.root / "annotations" / f"instances_{split}2017.json"

    def _annotation_files(self) -> set[Path]:
        return {sample.mask for samples in self._samples.values() for sample in samples if sample.mask is not None}


class InstanceLabels:
    """Masks painted from instances; holds those of every annotation file that is in use."""

    def __init__(self, images: Mapping[Path, Mapping[str, InstanceImage]]):
        self.images = images

    def __call__(self, sample: Sample) -> UInt8[np.ndarray, "h w"]:
        """Paint the mask of one sample."""
        path = require_mask(sample)
        size, instances = self.images[path][sample.name]
        mask = np.zeros(size, np.uint8)
        for label, _, outline in instances:
            if isinstance(outline, list) and outline and isinstance(outline[0], np.ndarray):
                for polygon in outline:
                    mask[inside(polygon, size)] = label
            else:
                mask[from_runs(outline, size, path)] = label  # type: ignore[arg-type]
        return mask


def inside(polygon: Float32[np.ndarray, "corners 2"], size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """Pixels whose center lies inside a polygon (x, y) in units of pixels, by the even-odd rule along each row."""
    h, w = size
    (x0, y0), (x1, y1) = polygon.T, np.roll(polygon, -1, axis=0).T
    centers = np.arange(h, dtype=np.float32) + 0.5
    edge, row = np.nonzero((y0[:, None] <= centers) != (y1[:, None] <= centers))
    crossing = x0[edge] + (centers[row] - y0[edge]) * (x1 - x0)[edge] / (y1 - y0)[edge]
    turns = np.zeros((h, w + 1), np.uint8)
    np.add.at(turns, (row, np.clip(np.ceil(crossing - 0.5), 0, w).astype(int)), 1)
    return np.cumsum(turns[:, :w], axis=1, dtype=np.uint8) % 2 == 1


def from_runs(counts: str | list[int], size: tuple[int, int], path: Path) -> Bool[np.ndarray, "h w"]:
    """Pixels inside, from COCO run lengths down the columns.

    Raises:
        DatasetError: if they do not cover the image exactly.
    """
    runs = decode_counts(counts)
    if int(runs.sum()) != size[0] * size[1]:
        raise DatasetError(f"{path}: run lengths cover {runs.sum()} of {size[0] * size[1]} pixels; download it again.")
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(size, order="F")


@cache
def read_instances(path: Path) -> dict[str, InstanceImage]:
    """Read COCO's instance annotations by image name, those of the 20 classes alone; once per process.

    Raises:
        DatasetError: if the file is cut short, or is none of COCO's instances.
    """
    try:
        with path.open(encoding="utf-8") as file:
            content = json.load(file, object_hook=pack)
        labels = {str(category["name"]): category["id"] for category in content["categories"]}
        by_id = {labels[COCO_NAMES.get(name, name)]: label for label, name in enumerate(CLASSES) if label}
        chosen: dict[int, list[Instance]] = defaultdict(list)
        for annotation in content["annotations"]:
            if (label := by_id.get(annotation["category_id"])) is not None:
                label = IGNORE if annotation["iscrowd"] else label
                chosen[annotation["image_id"]].append(Instance(label, annotation["area"], annotation["segmentation"]))
        return {
            Path(image["file_name"]).stem: InstanceImage(
                (image["height"], image["width"]), painting_order(chosen[image["id"]])
            )
            for image in content["images"]
            if any(instance.label != IGNORE for instance in chosen[image["id"]])
        }
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(
            f"{path}: not the instances of COCO 2017 ({error!r}); take it from annotations_trainval2017.zip again."
        ) from error


def painting_order(instances: Sequence[Instance]) -> list[Instance]:
    """Crowds first, then from large to small."""
    return sorted(instances, key=_rank)


def _rank(instance: Instance) -> tuple[bool, float]:
    return instance.label != IGNORE, -instance.area


def pack(fields: dict[str, Any]) -> Any:
    """Shrink what the json parser has just read: polygons to arrays, run lengths to their counts."""
    if "counts" in fields:
        return fields["counts"]
    polygons = fields.get("segmentation")
    if isinstance(polygons, list) and polygons and isinstance(polygons[0], list):
        fields["segmentation"] = [np.array(polygon, np.float32).reshape(-1, 2) for polygon in polygons]
    fields.pop("bbox", None)
    return fields
