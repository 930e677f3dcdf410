"""Images per second of the training input on one thread: ours beside other ways to the same crops.

    python benchmarks/input_pipeline.py [--rounds 9] [--images 28] [--cases 1 2 3 4 5 6]

Every way reads the same synthetic JPEGs and PNG masks and gives normalized float crops and labels; each call has a
multiple of 7 images, one of each scale (or of each seventh of the range, where a library draws it evenly). Decoding
alone is what every way must do that has no decoded copies: the floor. "Ours, left as bytes" is what a process of the
loader does by default, when the device normalizes. mmsegmentation takes part where it is importable:

    pip install --no-deps --target mmseg onedl-mmsegmentation==1.4.2 onedl-mmcv onedl-mmengine ftfy regex \\
        prettytable wcwidth addict yapf termcolor
    PYTHONPATH=mmseg python benchmarks/input_pipeline.py

Writes benchmarks/results/input_pipeline_cpu.json.
"""

import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from itertools import cycle, islice
from pathlib import Path

import cv2
import numpy as np
from measure import HERE, Call, Variant, arguments, main, parse

sys.path.append(str(HERE.parent / "tests"))

from input_variants import CLASSES, available

from emanet.data.reading import Sample
from fake_data import blocks, save_gray_png, save_image, save_palette_png

CASES = (  # width and height of the source, side of the crop, kind of mask; the sizes of VOC, COCO, -, Cityscapes
    (500, 375, 513, "palette"),
    (640, 480, 513, "gray"),
    (1280, 960, 513, "palette"),
    (2048, 1024, 513, "gray"),
    (500, 375, 321, "palette"),
    (2048, 1024, 769, "gray"),
)
MASKS = {"palette": save_palette_png, "gray": save_gray_png}
PACKAGES = ("albumentations", "torchvision", "pillow", "opencv-python-headless", "onedl-mmsegmentation", "onedl-mmcv")
DRAWN = 280  # seeds of a variant, used in turn


def write_images(folder: Path, number: int, width: int, height: int, mask: str) -> list[Sample]:
    """Write smooth noise with some grain: bytes per pixel as in a VOC photograph; masks of 10-pixel blocks."""
    rng, samples = np.random.default_rng(0), []
    for index in range(number):
        coarse = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
        smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        sample = Sample(str(index), folder / f"{index}.jpg", folder / f"{index}.png")
        save_image(sample.image, np.clip(smooth + rng.normal(0, 8, smooth.shape), 0, 255).astype(np.uint8))
        MASKS[mask](folder / f"{index}.png", blocks(rng, range(CLASSES), (height, width)))
        samples.append(sample)
    return samples


def passes(way_name: str, size: int, samples: list[Sample]) -> Call:
    """Build a way; a call takes every sample once, with seeds that no earlier call had."""
    way = available()[way_name](size)
    seeds = cycle(islice(way.seeds(), DRAWN))

    def call() -> None:
        for sample in samples:
            way.load(sample, next(seeds))

    return call


def variants(folder: Path, case: tuple[int, int, int, str], number: int | None) -> Iterator[Variant]:
    """All ways of a case."""
    width, height, size, mask = case
    count = number or (28 if width < 1000 else 7)
    samples = write_images(folder / f"{width}x{height}_{size}", count, width, height, mask)
    files = sum(path.stat().st_size for sample in samples for path in (sample.image, sample.mask) if path)
    shown = {"source": f"{width}x{height}", "crop": size, "mask": mask}
    note = {"kilobytes_per_image": round(files / count / 1000)}
    for name in available():
        call = partial(passes, name, size, samples)
        yield Variant(shown, name, call, per_call=count, memory=False, note=note)


def installed() -> dict[str, str]:
    """Versions of the packages that do the work."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    parser = arguments(__doc__)
    parser.add_argument("--images", type=int, help="of a call; by default 28 small or 7 large ones")
    parser.add_argument("--cases", type=int, nargs="+", default=range(1, len(CASES) + 1), help="numbers, from 1")
    parser.set_defaults(threads=1, device="cpu")
    options = parse(parser)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        found = [
            variant
            for number in options.cases
            for variant in variants(Path(folder) / str(number), CASES[number - 1], options.images)
        ]
        main("synthetic JPEGs and PNG masks to normalized crops, one thread", found, options, packages=installed())
