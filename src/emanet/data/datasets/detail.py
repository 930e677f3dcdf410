"""Masks painted from COCO run lengths, and ``trainval_merged.json`` of PASCAL in Detail, which holds such masks.

The fields are those that the detail API (``PythonAPI/detail/__init__.py``) and public converters read: ``images`` with
image_id, file_name, phase, height, width; ``annos_segmentation`` with image_id, category_id, segmentation. The file
itself was not at hand when this was written, so only a small imitation is tested.
"""

import importlib
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, UInt8

from emanet.common.errors import DatasetError
from emanet.data.reading import Sample, apply_lut, require_mask

KEPT = {"images", "image_id", "file_name", "phase", "height", "width"}  # parts and key points are dropped on parsing
KEPT |= {"annos_segmentation", "category_id", "segmentation", "counts"}


class AnnotatedImage(NamedTuple):
    """One image of a json: its categories with their run lengths, in the order of painting."""

    name: str
    phase: str
    size: tuple[int, int]
    runs: list[tuple[int, str | bytes | list[int]]]


def read_annotations(path: Path) -> dict[str, AnnotatedImage]:
    """Read images and semantic annotations of ``trainval_merged.json`` by image name.

    Raises:
        DatasetError: if the file is cut short or has other fields.
    """
    try:
        with path.open(encoding="utf-8") as file:
            content = json.load(file, object_hook=lambda fields: {key: fields[key] for key in KEPT & fields.keys()})
        by_id = {}
        for image in content["images"]:
            name, size = Path(image["file_name"]).stem, (image["height"], image["width"])
            by_id[image["image_id"]] = AnnotatedImage(name, image["phase"], size, [])
        for annotation in content["annos_segmentation"]:
            if (annotated := by_id.get(annotation["image_id"])) is not None:
                annotated.runs.append((annotation["category_id"], annotation["segmentation"]["counts"]))
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(
            f"{path}: not the annotations of PASCAL in Detail ({error!r}); download it again "
            "(sha1 169325d9f7e9047537fedca7b04de4dddf10b881)."
        ) from error
    return {image.name: image for image in by_id.values()}


class RunLengthLabels:
    """Labels painted from run lengths, one over the other; pixels without any are 0 (detail API, getMask)."""

    def __init__(self, images: Mapping[str, AnnotatedImage], lut: UInt8[np.ndarray, " n"], num_classes: int):
        self.images, self.lut, self.num_classes = images, lut, num_classes
        coco_mask()  # missing, it is missed here and not in a worker process

    def __call__(self, sample: Sample) -> UInt8[np.ndarray, "h w"]:
        """Paint and map the mask of one sample."""
        path, image = require_mask(sample) / sample.name, self.images[sample.name]
        labels = np.zeros(image.size, np.int32)
        for category, counts in image.runs:
            labels[decode(counts, image.size, path)] = category
        return apply_lut(labels, self.lut, path, self.num_classes)


def coco_mask() -> Any:
    """Import COCO's own code for masks.

    Raises:
        DatasetError: if it is not installed.
    """
    try:
        return importlib.import_module("pycocotools.mask")
    except ImportError as error:
        raise DatasetError("COCO's run lengths and polygons need pycocotools:  pip install -e '.[coco]'") from error


def decode(counts: str | bytes | list[int], size: tuple[int, int], path: Path) -> Bool[np.ndarray, "h w"]:
    """Pixels inside, from COCO run lengths down the columns, compressed (text) or not (numbers).

    Raises:
        DatasetError: if they do not cover the image exactly.
    """
    mask, runs = coco_mask(), {"size": size, "counts": counts}
    if isinstance(counts, list):
        runs = mask.frPyObjects(runs, *size)
    with suppress(ValueError):  # runs that are too long
        inside = mask.decode(runs) == 1
        try:  # behind runs that are too short pixels would be undefined, but those fit into fewer pixels as well
            mask.decode(runs | {"size": (size[0] * size[1] - 1, 1)})
        except ValueError:
            return inside
    raise DatasetError(f"{path}: its run lengths do not cover {size[0]} x {size[1]} pixels; download it again.")
