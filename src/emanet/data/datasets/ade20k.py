"""ADE20K scene parsing, 150 classes (Zhou et al., CVPR 2017; the SceneParsing challenge of 2016)."""

from collections.abc import Mapping

from emanet.data.datamodule import SegmentationDataModule
from emanet.data.palettes import spread_palette
from emanet.data.reading import IGNORE, Labels, Sample, TableLabels, make_lut, visible

# first name of each class in the release's objectInfo150.txt
CLASSES = (
    *("wall", "building", "sky", "floor", "tree", "ceiling", "road", "bed", "windowpane", "grass", "cabinet"),
    *("sidewalk", "person", "earth", "door", "table", "mountain", "plant", "curtain", "chair", "car", "water"),
    *("painting", "sofa", "shelf", "house", "sea", "mirror", "rug", "field", "armchair", "seat", "fence", "desk"),
    *("rock", "wardrobe", "lamp", "bathtub", "railing", "cushion", "base", "box", "column", "signboard"),
    *("chest of drawers", "counter", "sand", "sink", "skyscraper", "fireplace", "refrigerator", "grandstand"),
    *("path", "stairs", "runway", "case", "pool table", "pillow", "screen door", "stairway", "river", "bridge"),
    *("bookcase", "blind", "coffee table", "toilet", "flower", "book", "hill", "bench", "countertop", "stove"),
    *("palm", "kitchen island", "computer", "swivel chair", "boat", "bar", "arcade machine", "hovel", "bus"),
    *("towel", "light", "truck", "tower", "chandelier", "awning", "streetlight", "booth", "television receiver"),
    *("airplane", "dirt track", "apparel", "pole", "land", "bannister", "escalator", "ottoman", "bottle"),
    *("buffet", "poster", "stage", "van", "ship", "fountain", "conveyer belt", "canopy", "washer", "plaything"),
    *("swimming pool", "stool", "barrel", "basket", "waterfall", "tent", "bag", "minibike", "cradle", "oven"),
    *("ball", "food", "step", "tank", "trade name", "microwave", "pot", "animal", "bicycle", "lake"),
    *("dishwasher", "screen", "blanket", "sculpture", "hood", "sconce", "vase", "traffic light", "tray"),
    *("ashcan", "fan", "pier", "crt screen", "plate", "monitor", "bulletin board", "shower", "radiator"),
    *("glass", "clock", "flag"),
)
PALETTE = spread_palette(len(CLASSES))
LUT = make_lut({0: IGNORE} | {label: label - 1 for label in range(1, len(CLASSES) + 1)})
FOLDERS = {"train": "training", "val": "validation"}


class ADE20K(SegmentationDataModule):
    """ADE20K; ``root`` holds (or is) ``ADEChallengeData2016`` with ``images`` and ``annotations``."""

    name, class_names, palette = "ade20k", CLASSES, PALETTE
    split_sizes: Mapping[str, int] = {"train": 20210, "val": 2000}

    def labels(self) -> Labels:
        """Read masks of 0 (other, ignored) and 1..150."""
        return TableLabels(LUT, len(CLASSES))

    def find(self, split: str) -> list[Sample]:
        """List a split."""
        folder = FOLDERS[split]
        root = self.holding("images", "ADEChallengeData2016", ".")
        images, masks = self.first_existing(root / "images" / folder), root / "annotations" / folder
        return [Sample(path.stem, path, masks / f"{path.stem}.png") for path in visible(images.glob("*.jpg"))]
