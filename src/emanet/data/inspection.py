"""A data set as its reader sees it: counts, sizes, class frequencies, and a sheet of overlaid masks to judge by eye."""

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
from emanet.data.pictures import read_image
from emanet.data.reading import histogram, spaced

CELL = 288  # pixels, the longer side of a picture on the sheet


@dataclass
class Inspection:
    """Figures of a split."""

    name: str
    split: str
    class_names: tuple[str, ...]
    images: int  #: in the split
    pixels: Int64[np.ndarray, " n"]  #: by class
    shown_in: Int64[np.ndarray, " n"]  #: images by class
    pixels_beside: Int64[np.ndarray, " n"]  #: labeled pixels of those images
    read: int = 0  #: masks read
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

    def count(self, mask: UInt8[np.ndarray, "h w"]) -> None:
        """Add one mask to the figures."""
        counts = histogram(mask)
        here = counts[: len(self.class_names)]
        self.read += 1
        self.pixels += here
        self.shown_in += here > 0
        self.pixels_beside += (here > 0) * here.sum()
        self.ignored += int(counts.sum() - here.sum())

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
    pixels, shown_in, beside = (np.zeros(datamodule.num_classes, np.int64) for _ in range(3))
    found = Inspection(datamodule.name, split, datamodule.class_names, len(samples), pixels, shown_in, beside)
    for done, sample in enumerate(chosen, start=1):
        if sample.mask is None:
            height, width = read_image(sample.image).shape[:2]
        else:
            _, mask = read_pair(sample, labels)
            height, width = mask.shape
            found.count(mask)
        found.sizes[height, width] += 1
        tick(done, len(chosen))
    return found


def report(found: Inspection) -> str:
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
    for label in np.argsort(-found.pixels, kind="stable").tolist():
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
    (h, w), count = sizes.most_common(1)[0]
    if len(sizes) == 1:
        return f"all {w}x{h}"
    heights, widths = zip(*sizes, strict=True)
    return (
        f"{min(widths)}..{max(widths)} wide, {min(heights)}..{max(heights)} high; {len(sizes)} different ones, "
        f"most often {w}x{h} ({count} images)"
    )


def write_weights(found: Inspection, path: Path) -> None:
    """Write class weights and frequencies as YAML; ``loss.class_weights`` takes the list."""
    weights = found.class_weights()
    columns = zip(found.class_names, weights, found.frequencies, found.shown_in, strict=True)
    by_class = {
        name: {"weight": weight, "share": float(f"{share:.4g}"), "images": int(count)}
        for name, weight, share, count in columns
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


def contact_sheet(datamodule: SegmentationDataModule, split: str, *, pictures: int = 12, seed: int = 0) -> Image.Image:
    """Draw images, their masks laid over them and the masks alone, two images a row, with a legend."""
    samples, labels, palette = datamodule.samples(split), datamodule.labels(), datamodule.palette
    drawn = sorted(np.random.default_rng(seed).permutation(len(samples))[:pictures].tolist())
    shown: list[tuple[str, list[UInt8[np.ndarray, "h w 3"]]]] = []
    masks = []
    for sample in (samples[place] for place in drawn):
        pixels = read_image(sample.image)
        size = fit_size(pixels.shape[0], pixels.shape[1], CELL)
        row = [resize(pixels, *size)]
        if sample.mask is not None:
            masks.append(read_pair(sample, labels)[1])
            classes = resize_labels(masks[-1], *size)
            row += [overlay(row[0], classes, palette, alpha=0.6), colorize(classes, palette)]
        shown.append((sample.name, row))
    columns = ["image", "overlaid", "mask"] if masks else ["image"]
    abreast = min(2 if masks else 4, len(shown))
    rows = [
        SheetRow("   |   ".join(name for name, _ in group), [picture for _, row in group for picture in row])
        for group in (shown[i : i + abreast] for i in range(0, len(shown), abreast))
    ]
    width = sheet_width(len(columns) * abreast, CELL)
    return sheet(
        rows,
        columns * abreast,
        title=f"{datamodule.name}: {split}",
        subtitle=f"{len(shown)} of {len(samples)} images, drawn at random; {datamodule.num_classes} classes",
        footer=legend_of(masks, datamodule.class_names, palette, width=width - 40) if masks else None,
        cell=CELL,
    )
