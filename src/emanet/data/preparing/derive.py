"""Files that a benchmark's archives do not hold but its users need: merged masks and split lists."""

import os
import shutil
from pathlib import Path

from PIL import Image

from emanet.data.datasets.voc import VOC, read_voc_mask
from emanet.data.palettes import voc_palette
from emanet.data.preparing.download import Tick, silent
from emanet.data.reading import read_lines

MASKS, LIST = "SegmentationClassAug", "trainaug.txt"


def derive_trainaug(root: Path, staging: Path, tick: Tick = silent) -> int:
    """Write trainaug as PNG masks and a list: VOC's masks where VOC has them, SBD's elsewhere.

    trainaug = (VOC train + SBD train + SBD val) - VOC val. The folder appears at once, the list after it.
    """
    devkit = root / "VOCdevkit" / "VOC2012"
    masks, listed = devkit / MASKS, devkit / "ImageSets" / "Segmentation" / LIST
    if masks.is_dir() and listed.is_file():
        return len(read_lines(listed))
    samples = VOC(root=root).find("trainaug")
    if not masks.is_dir():
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
    write_list(listed, [sample.name for sample in samples])
    return len(samples)


def derive_context_lists(root: Path, _staging: Path, _tick: Tick = silent) -> int:
    """Write the lists of PASCAL Context: those images of VOC 2010's lists that have labels."""
    lists = root / "VOCdevkit" / "VOC2010" / "ImageSets"
    labeled = {path.stem for path in (root / "trainval").glob("*.mat")}
    total = 0
    for split in ("train", "val"):
        names = [line.split()[0] for line in read_lines(lists / "Main" / f"{split}.txt")]
        chosen = [name for name in names if name in labeled]
        write_list(lists / "SegmentationContext" / f"{split}.txt", chosen)
        total += len(chosen)
    return total


def write_list(path: Path, names: list[str]) -> None:
    """Write one name a line; the file appears at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    incomplete = path.with_name(f"{path.name}.part")
    incomplete.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    os.replace(incomplete, path)
