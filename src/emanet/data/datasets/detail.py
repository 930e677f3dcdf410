"""``trainval_merged.json`` of PASCAL in Detail: semantic masks as COCO run lengths.

The fields are those that the detail API (``PythonAPI/detail/__init__.py``) and public converters read: ``images`` with
image_id, file_name, phase, height, width; ``annos_segmentation`` with image_id, category_id, segmentation. The file
itself was not at hand when this was written, so only a small imitation is tested.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Integer, UInt8

from emanet.common.errors import DatasetError
from emanet.data.reading import Sample, apply_lut, require_mask

KEPT = {"images", "annos_segmentation", "image_id", "file_name", "phase", "height", "width", "category_id"} | {
    *("segmentation", "counts")
}
"""Fields of the json that matter here; parts, boxes and key points are dropped while it is parsed."""


class Run(NamedTuple):
    """One annotation: its category and COCO run lengths."""

    category: int
    counts: str | list[int]


class AnnotatedImage(NamedTuple):
    """One image of the json."""

    name: str
    phase: str
    size: tuple[int, int]
    runs: list[Run]


def read_annotations(path: Path) -> dict[str, AnnotatedImage]:
    """Read images and semantic annotations of ``trainval_merged.json`` by image name.

    Raises:
        DatasetError: if the file is cut short or has other fields.
    """
    try:
        with path.open(encoding="utf-8") as file:
            content = json.load(file, object_hook=lambda fields: {key: fields[key] for key in KEPT & fields.keys()})
        by_id = {
            image["image_id"]: AnnotatedImage(
                Path(image["file_name"]).stem, image["phase"], (image["height"], image["width"]), []
            )
            for image in content["images"]
        }
        for annotation in content["annos_segmentation"]:
            if (image := by_id.get(annotation["image_id"])) is not None:
                image.runs.append(Run(annotation["category_id"], annotation["segmentation"]["counts"]))
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(
            f"{path}: not the annotations of PASCAL in Detail ({error!r}); download it again "
            "(sha1 169325d9f7e9047537fedca7b04de4dddf10b881)."
        ) from error
    return {image.name: image for image in by_id.values()}


class RunLengthLabels:
    """Labels painted from run lengths, in the file's order; pixels without annotation are 0 (detail API, getMask)."""

    def __init__(self, images: Mapping[str, AnnotatedImage], lut: UInt8[np.ndarray, " n"], num_classes: int):
        self.images, self.lut, self.num_classes = images, lut, num_classes

    def __call__(self, sample: Sample) -> UInt8[np.ndarray, "h w"]:
        """Paint and map the mask of one sample."""
        h, w = self.images[sample.name].size
        labels = np.zeros(h * w, np.int32)
        for run in self.images[sample.name].runs:
            inside = np.zeros(h * w, bool)
            counts = decode_counts(run.counts)
            if int(counts.sum()) != h * w:
                raise DatasetError(
                    f"{sample.mask}: run lengths of {sample.name} cover {counts.sum()} of {h * w} pixels."
                )
            ends = np.cumsum(counts)
            for first, last in zip(ends[0::2], ends[1::2], strict=False):
                inside[first:last] = True
            labels[inside] = run.category
        path = require_mask(sample)
        return apply_lut(labels.reshape((h, w), order="F"), self.lut, path / sample.name, self.num_classes)


def decode_counts(counts: str | list[int]) -> Integer[np.ndarray, " runs"]:
    """Decode COCO run lengths: alternately pixels outside and inside, down the columns.

    In the compressed form each number is a row of characters of 5 bits, low first, bit 5 set where more follow, with
    the sign in the last one's bit 4; from the fourth on, a number is the difference to the one two before it
    (cocodataset/cocoapi, common/maskApi.c, rleFrString).
    """
    if not isinstance(counts, str):
        return np.asarray(counts, np.int64)
    characters = np.frombuffer(counts.encode("ascii"), np.uint8).astype(np.int64) - 48
    last = np.flatnonzero((characters & 32) == 0)
    first = np.concatenate([[0], last[:-1] + 1])
    shift = 5 * (np.arange(len(characters)) - np.repeat(first, last - first + 1))
    numbers = np.add.reduceat((characters & 31) << shift, first)
    numbers -= np.where(characters[last] & 16, 1 << (5 * (last - first + 1)), 0)
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers
