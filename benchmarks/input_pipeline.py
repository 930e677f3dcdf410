"""Images per second of the training input on one thread: ours beside scaling the whole image and then cropping.

    python benchmarks/input_pipeline.py [--images 64] [--rounds 5]

Both read the same synthetic 500x375 JPEGs and palette PNGs, draw the same scales, crop to 513 and give normalised float
tensors; rounds alternate, so that a busy machine slows both. Writes benchmarks/results/input_pipeline.json.
"""

import argparse
import json
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "src"), str(HERE.parent / "tests")]

import albumentations  # noqa: E402

from emanet.data.datamodule import IMAGENET_MEAN, IMAGENET_STD, SCALES  # noqa: E402
from emanet.data.items import read_pair  # noqa: E402
from emanet.data.reading import Sample, TableLabels, class_lut  # noqa: E402
from emanet.data.transforms import TrainTransform  # noqa: E402
from emanet.seeding import mix  # noqa: E402
from fake_data import blocks, save_image, save_palette_png  # noqa: E402

CROP = 513


def write_images(folder: Path, count: int) -> list[Sample]:
    """Write smooth noise with some texture: about the 80 kB of a VOC photograph."""
    rng, samples = np.random.default_rng(0), []
    for i in range(count):
        coarse = cv2.resize(
            rng.integers(0, 256, (24, 32, 3), dtype=np.uint8), (500, 375), interpolation=cv2.INTER_CUBIC
        )
        grain = rng.normal(0, 8, coarse.shape)
        sample = Sample(f"{i}", folder / f"{i}.jpg", folder / f"{i}.png")
        save_image(sample.image, np.clip(coarse + grain, 0, 255).astype(np.uint8))
        save_palette_png(folder / f"{i}.png", blocks(rng, range(21), (375, 500)))
        samples.append(sample)
    return samples


def resize_then_crop(sample: Sample, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The plain way: decode with Pillow, normalise in float, scale all of it, pad, crop, flip."""
    rng = random.Random(seed)
    image = torch.from_numpy(np.array(Image.open(sample.image).convert("RGB"))).permute(2, 0, 1).float() / 255
    mask = torch.from_numpy(np.array(Image.open(str(sample.mask)))).long()
    image = (image - torch.tensor(IMAGENET_MEAN)[:, None, None]) / torch.tensor(IMAGENET_STD)[:, None, None]
    scale = rng.choice(SCALES)
    size = [int(side * scale) for side in mask.shape]
    image = F.interpolate(image[None], size=size, mode="bilinear", align_corners=True)[0]
    mask = F.interpolate(mask[None, None].float(), size=size, mode="nearest")[0, 0].long()
    bottom, right = (max(CROP - side, 0) for side in size)
    image, mask = F.pad(image, (0, right, 0, bottom)), F.pad(mask, (0, right, 0, bottom), value=255)
    top, left = (rng.randint(0, side - CROP) for side in mask.shape)
    image, mask = image[:, top : top + CROP, left : left + CROP], mask[top : top + CROP, left : left + CROP]
    if rng.random() < 0.5:
        image, mask = image.flip(-1), mask.flip(-1)
    return image.contiguous(), mask.contiguous()


def rate(pipeline: Callable[[Sample, int], object], samples: list[Sample], epoch: int) -> float:
    """Images per second of processor time over one pass: on one thread the wall time of an idle machine."""
    start = time.process_time()
    for index, sample in enumerate(samples):
        pipeline(sample, mix(0, epoch, index))
    return len(samples) / (time.process_time() - start)


def processor() -> str:
    """Name of the processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.processor())


def commit() -> str:
    """Commit of the working tree, or unknown."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=HERE, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    transform = TrainTransform(crop_size=CROP, scales=SCALES, flip=0.5, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    labels = TableLabels(class_lut(21), 21)
    pipelines: dict[str, Callable[[Sample, int], object]] = {
        "ours": lambda sample, seed: transform(*read_pair(sample, labels), seed),
        "resize the whole image, then crop": resize_then_crop,
    }
    rates: dict[str, list[float]] = {name: [] for name in pipelines}
    with tempfile.TemporaryDirectory() as folder:
        samples = write_images(Path(folder), options.images)
        for epoch in range(options.rounds + 1):
            for name, pipeline in pipelines.items():
                value = rate(pipeline, samples, epoch)
                if epoch:  # the first pass warms the file cache
                    rates[name].append(value)
    result = {
        "what": "images per CPU second, one thread, synthetic 500x375 JPEG and palette PNG to normalised 513x513 "
        "crops; median of rounds",
        "images_per_cpu_second": {name: round(statistics.median(values), 1) for name, values in rates.items()},
        "range": {name: [round(min(values), 1), round(max(values), 1)] for name, values in rates.items()},
        "rounds": options.rounds,
        "images": options.images,
        "processor": processor(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "opencv": cv2.__version__,
            "albumentations": albumentations.__version__,
        },
        "commit": commit(),
    }
    print(json.dumps(result, indent=2))
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / "input_pipeline.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
