"""A tiny imitation of COCO 2017's instance annotations, in its layout and fields."""

import json
from pathlib import Path

import numpy as np

from fake_data import compress_runs, picture, save_image

H, W = 40, 60
# ids, names and order of COCO's own list of categories
CATEGORIES = {1: "person", 2: "bicycle", 3: "car", 4: "motorcycle", 5: "airplane", 6: "bus", 7: "train", 8: "truck"}
CATEGORIES |= {9: "boat", 16: "bird", 17: "cat", 18: "dog", 19: "horse", 20: "sheep", 21: "cow", 44: "bottle"}
CATEGORIES |= {62: "chair", 63: "couch", 64: "potted plant", 67: "dining table", 72: "tv"}


def box(x0: int, y0: int, x1: int, y1: int) -> list[float]:
    """A polygon around the pixels x0..x1-1, y0..y1-1."""
    return [float(v) for v in (x0, y0, x1, y0, x1, y1, x0, y1)]


def write_coco(root: Path) -> None:
    """annotations/instances_*2017.json and images, in COCO's layout."""
    crowd = np.zeros((H, W), bool)
    crowd[0:6, 30:60] = True
    runs = np.zeros((H, W), bool)
    runs[30:36, 5:9] = True
    parts: dict[str, list[dict]] = {
        "000000000001": [
            {"category_id": 72, "area": 16.0, "segmentation": [box(20, 20, 24, 24)]},  # on the couch, listed before
            {"category_id": 63, "area": 400.0, "segmentation": [box(10, 10, 30, 30)]},
            {"category_id": 8, "area": 100.0, "segmentation": [box(40, 20, 50, 30)]},  # a truck: no VOC class
            {"category_id": 1, "area": 180.0, "iscrowd": 1, "segmentation": {"counts": compress_runs(crowd)}},
            {"category_id": 64, "area": 24.0, "segmentation": {"counts": compress_runs(runs)}},
            {"category_id": 5, "area": 32.0, "segmentation": [box(40, 32, 44, 36), box(50, 32, 54, 36)]},
        ],
        "000000000002": [{"category_id": 8, "area": 100.0, "segmentation": [box(0, 0, 10, 10)]}],
        "000000000003": [{"category_id": 1, "area": 9.0, "iscrowd": 1, "segmentation": {"counts": [0, H * W]}}],
    }
    for split, names in {"train": list(parts), "val": ["000000000001"]}.items():
        annotations = []
        for name in names:
            save_image(root / f"{split}2017" / f"{name}.jpg", picture(np.random.default_rng(0), (H, W)))
            for fields in parts[name]:
                segmentation = fields["segmentation"]
                if isinstance(segmentation, dict):
                    segmentation = {"size": [H, W], **segmentation}
                whole = {"id": len(annotations), "image_id": int(name), "iscrowd": 0, "bbox": [0, 0, 1, 1]}
                annotations.append(whole | fields | {"segmentation": segmentation})
        content = {
            "info": {},
            "licenses": [],
            "images": [{"id": int(n), "file_name": f"{n}.jpg", "height": H, "width": W} for n in names],
            "annotations": annotations,
            "categories": [{"supercategory": "", "id": number, "name": name} for number, name in CATEGORIES.items()],
        }
        path = root / "annotations" / f"instances_{split}2017.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
