"""A data set as its reader sees it: counts, sizes, class frequencies, and a sheet of overlaid masks to judge by eye."""

import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import yaml
from jaxtyping import Float, Int64, UInt8
from PIL import Image

from emanet.common.visual import (
    SheetRow,
    colorize,
    fit_size,
    legend_of,
    overlay,
    resize,
    resize_labels,
    sheet,
    sheet_width,
)
from emanet.data.datamodule import SegmentationDataModule
from emanet.data.items import read_pair
from emanet.data.reading import Sample

CELL = 288  # pixels, the longer side of a picture on the sheet


@dataclass
class Inspection:
    """Figures of a split."""

    name: str
    split: str
    class_names: tuple[str, ...]
    images: int  #: in the split
    read: int  #: of which masks were read
    pixels: Int64[np.ndarray, " n"]  #: by class
    shown_in: Int64[np.ndarray, " n"]  #: images by class
    pixels_beside: Int64[np.ndarray, " n"]  #: labeled pixels of those images
    ignored: int = 0  #: pixels without a class
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)  #: images by (height, width)

    @property
    def labeled(self) -> int:
        """Pixels with a class."""
        return int(self.pixels.sum())

    @property
    def frequencies(self) -> Float[np.ndarray, " n"]:
        """Share of the labeled pixels, by class."""
        return self.pixels / max(1, self.labeled)

    @property
    def absent(self) -> list[str]:
        """Classes that no mask shows."""
        return [name for name, count in zip(self.class_names, self.shown_in, strict=True) if count == 0]

    def class_weights(self) -> list[float]:
        """Median frequency balancing: median frequency / frequency, among the images that show the class.

        Eigen and Fergus, ICCV 2015, section 6.3.2. A class that no mask shows gets 1: nothing is multiplied by it.
        """
        shown = self.pixels > 0
        frequencies = self.pixels[shown] / self.pixels_beside[shown]
        weights = np.ones(len(self.pixels))
        if shown.any():
            weights[shown] = np.median(frequencies) / frequencies
        return [float(f"{weight:.4g}") for weight in weights]


def inspect(
    datamodule: SegmentationDataModule,
    split: str,
    *,
    limit: int | None = None,
    tick: Callable[[int, int | None], None] = lambda done, total: None,
) -> Inspection:
    """Read images and masks of a split, all or ``limit`` evenly spaced ones.

    Raises:
        DatasetError: for the first file that is missing, broken, or holds a label out of range.
    """
    samples, labels = datamodule.samples(split), datamodule.labels()
    chosen = spaced(samples, limit)
    n = datamodule.num_classes
    zeros = np.zeros(n, np.int64)
    found = Inspection(
        datamodule.name, split, datamodule.class_names, len(samples), 0, zeros, zeros.copy(), zeros.copy()
    )
    for done, sample in enumerate(chosen, start=1):
        if sample.mask is None:
            with Image.open(sample.image) as image:
                found.sizes[image.height, image.width] += 1
        else:
            _, mask = read_pair(sample, labels)
            count_mask(found, mask)
        tick(done, len(chosen))
    return found


def count_mask(found: Inspection, mask: UInt8[np.ndarray, "h w"]) -> None:
    """Add one mask to the figures."""
    n = len(found.class_names)
    counts = np.bincount(mask.ravel(), minlength=256)
    here, shown = counts[:n], counts[:n] > 0
    found.read += 1
    found.pixels += here
    found.shown_in += shown
    found.pixels_beside += shown * here.sum()
    found.ignored += int(counts[n:].sum())
    found.sizes[mask.shape[0], mask.shape[1]] += 1


def spaced(samples: Sequence[Sample], limit: int | None) -> list[Sample]:
    """Take ``limit`` samples, evenly spaced."""
    if limit is None or limit >= len(samples):
        return list(samples)
    return [samples[i * len(samples) // limit] for i in range(limit)]


def report(found: Inspection, most_classes: int = 200) -> str:
    """Write the figures for people, the most frequent class first."""
    lines = [f"{found.name}, split {found.split}: {found.images} images, {found.read} masks read"]
    lines.append(f"  sizes      {describe_sizes(found.sizes)}")
    if not found.read:
        return "\n".join([*lines, "  this split has no masks"])
    every = found.labeled + found.ignored
    lines.append(f"  ignored    {found.ignored / every:.2%} of the pixels have no class (255)")
    lines.append(f"  classes    {len(found.class_names)}, of which {len(found.absent)} occur in no mask read")
    width = max(map(len, found.class_names))
    lines.append(f"\n  {'class':<{width + 5}} {'pixels':>9} {'images':>7}  weight")
    weights = found.class_weights()
    for label in np.argsort(-found.pixels, kind="stable")[:most_classes].tolist():
        if found.shown_in[label]:
            bar = "#" * round(30 * found.frequencies[label])
            lines.append(
                f"  {label:>3}  {found.class_names[label]:<{width}} {found.frequencies[label]:>9.3%} "
                f"{found.shown_in[label]:>7}  {weights[label]:<8.4g}{bar}"
            )
    if found.absent:
        lines.append(f"\n  in no mask read: {', '.join(found.absent)}")
    return "\n".join(lines)


def describe_sizes(sizes: Counter[tuple[int, int]]) -> str:
    """Say how large the images are."""
    if len(sizes) == 1:
        ((h, w),) = sizes
        return f"all {w}x{h}"
    heights, widths = ([size[axis] for size in sizes.elements()] for axis in (0, 1))
    (h, w), count = sizes.most_common(1)[0]
    middle = f"{statistics.median(widths):.0f}x{statistics.median(heights):.0f}"
    return (
        f"{min(widths)}..{max(widths)} wide, {min(heights)}..{max(heights)} high, median {middle}; {len(sizes)} "
        f"different ones, most often {w}x{h} ({count} images)"
    )


def write_weights(found: Inspection, path: Path) -> None:
    """Write class weights and frequencies as YAML; ``loss.class_weights`` takes the list."""
    weights = found.class_weights()
    by_class = {
        name: {"weight": weight, "share": float(f"{share:.4g}"), "images": int(count)}
        for name, weight, share, count in zip(
            found.class_names, weights, found.frequencies, found.shown_in, strict=True
        )
    }
    text = (
        f"# Median frequency balancing over {found.read} masks of {found.name}, split {found.split}.\n"
        f"# python src/train.py ... 'loss.class_weights={written(weights)}'\n"
    )
    content = {"class_weights": weights, "classes": by_class}
    path.write_text(text + yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=110), "utf-8")


def written(weights: Sequence[float]) -> str:
    """Write weights as the command line takes them."""
    return f"[{','.join(f'{weight:g}' for weight in weights)}]"


def choose(samples: Sequence[Sample], count: int, seed: int) -> list[Sample]:
    """Draw some samples, in the order of the split."""
    places = np.random.default_rng(seed).permutation(len(samples))[:count]
    return [samples[place] for place in sorted(places.tolist())]


def contact_sheet(datamodule: SegmentationDataModule, split: str, *, pictures: int = 12, seed: int = 0) -> Image.Image:
    """Draw images, their masks laid over them and the masks alone, two images a row, with a legend."""
    samples, labels = datamodule.samples(split), datamodule.labels()
    shown: list[tuple[str, list[UInt8[np.ndarray, "h w 3"]]]] = []
    masks = []
    for sample in choose(samples, pictures, seed):
        if sample.mask is None:
            with Image.open(sample.image) as image:
                pixels = np.asarray(image.convert("RGB"))
            size = fit_size(pixels.shape[0], pixels.shape[1], CELL)
            shown.append((sample.name, [resize(pixels, *size)]))
            continue
        pixels, mask = read_pair(sample, labels)
        size = fit_size(mask.shape[0], mask.shape[1], CELL)
        small, classes = resize(pixels, *size), resize_labels(mask, *size)
        masks.append(mask)
        over = overlay(small, classes, datamodule.palette, alpha=0.6)
        shown.append((sample.name, [small, over, colorize(classes, datamodule.palette)]))
    columns = ["image", "overlaid", "mask"] if masks else ["image"]
    abreast = min(2 if masks else 4, len(shown))
    rows = [
        SheetRow("   |   ".join(name for name, _ in group), [picture for _, row in group for picture in row])
        for group in (shown[i : i + abreast] for i in range(0, len(shown), abreast))
    ]
    width = sheet_width(len(columns) * abreast, CELL)
    footer = legend_of(masks, datamodule.class_names, datamodule.palette, width=width - 40) if masks else None
    subtitle = f"{len(shown)} of {len(samples)} images, drawn at random; {datamodule.num_classes} classes"
    return sheet(
        rows,
        columns * abreast,
        title=f"{datamodule.name}: {split}",
        subtitle=subtitle,
        footer=footer,
        cell=CELL,
    )
