"""The split that VOC's archives do not hold but its users need."""

import os
import shutil
from pathlib import Path

from PIL import Image

from emanet.common.console import Tick
from emanet.common.files import replacing
from emanet.data.datasets.voc import VOC, read_voc_mask
from emanet.data.palettes import voc_palette


def derive_trainaug(root: Path, staging: Path, tick: Tick) -> None:
    """Write trainaug as PNG masks and a list: VOC's masks where VOC has them, SBD's elsewhere.

    trainaug = (VOC train + SBD train + SBD val) - VOC val. The folder appears at once, the list after it.
    """
    devkit = root / "VOCdevkit" / "VOC2012"
    masks, listed = devkit / "SegmentationClassAug", devkit / "ImageSets" / "Segmentation" / "trainaug.txt"
    if masks.is_dir() and listed.is_file():
        return
    samples = VOC(root=root).find("trainaug")
    if not masks.is_dir():
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        for done, sample in enumerate(samples, start=1):
            assert sample.mask is not None  # every image of trainaug has one
            target = staging / f"{sample.name}.png"
            if sample.mask.suffix == ".png":
                shutil.copyfile(sample.mask, target)
            else:
                image = Image.fromarray(read_voc_mask(sample.mask).astype("uint8"))
                image.putpalette(voc_palette(256).tobytes())
                image.save(target)
            tick(done, len(samples))
        os.replace(staging, masks)
    with replacing(listed) as temporary:
        temporary.write_text("".join(f"{sample.name}\n" for sample in samples), encoding="utf-8")
