"""COCO 2017 instances painted as the 21 classes of PASCAL VOC: the first stage of the VOC test schedule.

What the authors did beyond "COCO pretraining" is not published (FACTS section 4): which images, in which order objects
that overlap are painted, and for how long they trained. The choices made here stand at :class:`COCOVOC`.
"""

import json
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from emanet.common.errors import DatasetError
from emanet.data.datamodule import SegmentationDataModule
from emanet.data.datasets.detail import AnnotatedImage, RunLengthLabels, coco_mask
from emanet.data.datasets.voc import CLASSES, PALETTE
from emanet.data.reading import IGNORE, Labels, Sample, class_lut

COCO_NAMES = {"aeroplane": "airplane", "diningtable": "dining table", "motorbike": "motorcycle"}
COCO_NAMES |= {"pottedplant": "potted plant", "sofa": "couch", "tvmonitor": "tv"}
"""COCO's names of the VOC classes that it spells otherwise."""


class COCOVOC(SegmentationDataModule):
    """COCO 2017 with the instances of 20 classes as VOC labels them, by name; splits train and val.

    ``root`` holds ``annotations/instances_{train,val}2017.json`` and the images in ``train2017`` and ``val2017`` or
    ``images/...``. Taken are the images with at least one instance of the 20 classes that is no crowd. Crowds become
    255, then large objects are painted before small ones, since COCO knows no depth; all else is background.
    """

    name = "coco_voc"
    class_names, palette = CLASSES, PALETTE

    def remedy(self) -> str:
        """Say where the files come from."""
        return (
            "set dataset.root=... to a folder with annotations_trainval2017.zip, train2017.zip and val2017.zip of "
            "https://cocodataset.org/#download unpacked (data/coco_voc/README.md)."
        )

    def labels(self) -> Labels:
        """Paint the instances of one image."""
        files = {sample.mask for samples in self._samples.values() for sample in samples if sample.mask is not None}
        images = {name: image for path in files for name, image in read_instances(path).items()}
        return RunLengthLabels(images, class_lut(len(CLASSES)), len(CLASSES))

    def find(self, split: str) -> list[Sample]:
        """List the images of a split that show one of the classes."""
        annotations = self.first_existing(self.root / "annotations" / f"instances_{split}2017.json")
        images = self.first_existing(self.root / "images" / f"{split}2017", self.root / f"{split}2017")
        return [Sample(name, images / f"{name}.jpg", annotations) for name in sorted(read_instances(annotations))]


@cache
def read_instances(path: Path) -> dict[str, AnnotatedImage]:
    """Read COCO's instance annotations by image name, those of the 20 classes alone; once per process.

    Raises:
        DatasetError: if the file is cut short, or is none of COCO's instances.
    """
    try:
        with path.open(encoding="utf-8") as file:
            content = json.load(file, object_hook=shrink)
        ids = {str(category["name"]): category["id"] for category in content["categories"]}
        labels = {ids[COCO_NAMES.get(name, name)]: label for label, name in enumerate(CLASSES) if label}
        chosen: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for annotation in content["annotations"]:
            if annotation["category_id"] in labels:
                chosen[annotation["image_id"]].append(annotation)
        images = {}
        for fields in content["images"]:
            instances, size = chosen[fields["id"]], (fields["height"], fields["width"])
            if not all(instance["iscrowd"] for instance in instances):
                instances.sort(key=lambda instance: (not instance["iscrowd"], -instance["area"]))
                drawn = [IGNORE if instance["iscrowd"] else labels[instance["category_id"]] for instance in instances]
                runs = [outline_runs(instance["segmentation"], size) for instance in instances]
                name, painted = Path(fields["file_name"]).stem, list(zip(drawn, runs, strict=True))
                images[name] = AnnotatedImage(name, path.stem, size, painted)
    except (ValueError, LookupError, TypeError) as error:
        raise DatasetError(
            f"{path}: not the instances of COCO 2017 ({error!r}); take it from annotations_trainval2017.zip again."
        ) from error
    return images


def outline_runs(outline: Any, size: tuple[int, int]) -> Any:
    """Run lengths of an instance: its own, or those of its polygons in COCO's own way."""
    mask = coco_mask()
    return outline["counts"] if isinstance(outline, dict) else mask.merge(mask.frPyObjects(outline, *size))["counts"]


def shrink(fields: dict[str, Any]) -> dict[str, Any]:
    """Store the polygons that the json parser has just read in a quarter of the memory."""
    if isinstance(outline := fields.get("segmentation"), list):
        fields["segmentation"] = [np.array(polygon, np.float64) for polygon in outline]
    return fields
