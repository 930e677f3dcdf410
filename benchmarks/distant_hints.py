"""Heads on distant_hints: a table of runs beside both bounds, and a picture of what they predict.

    python benchmarks/distant_hints.py RUNS [--image 0] [--picture docs/images/distant_hints.png] [--show fcn ema_none]

RUNS holds a run folder ``<variant>_seed=<n>`` for each variant and seed, such as ``fcn_seed=0``; the header of
conf/experiment/distant_hints.yaml has the commands. The table goes to the screen: state accuracy is that over the
patches, the share whose kind and state are both right.
"""

import argparse
import json
import statistics
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "src"))

from emanet import Predictor  # noqa: E402
from emanet.common.visual import WRONG_COLOUR, SheetRow, legend, sheet, sheet_width  # noqa: E402
from emanet.data.datasets.distant_hints import (  # noqa: E402
    CLASSES,
    COLOURS,
    PALETTE,
    PATCH,
    PATCHES,
    SIDE,
    best_accuracy,
    draw_scene,
    paint,
)

GROWN = 12  # pixels by which a drawn answer exceeds its patch on each side
FRAME = 4


def state_accuracy(summary: dict[str, Any]) -> float:
    """Share of the patches that are right, from the pixel accuracy over patches and empty places of one size.

    Raises:
        ValueError: if an empty place is wrong, which the summary does not count.
    """
    if summary["val/iou"]["empty"] < 0.9995:
        raise ValueError(f"empty places are to be right, got an IoU of {summary['val/iou']['empty']}")
    patches = len(COLOURS) * PATCHES
    return (summary["val/pixel_accuracy"] * SIDE**2 - (SIDE**2 - patches)) / patches


def table(runs: Path) -> str:
    """One row per variant: mean, standard deviation and each seed's state accuracy, and the mean mIoU."""
    accuracies, mious = defaultdict(list), defaultdict(list)
    for path in sorted(runs.glob("*_seed=*/summary.json")):
        summary = json.loads(path.read_text())
        variant = path.parent.name.partition("_seed=")[0]
        accuracies[variant].append(state_accuracy(summary))
        mious[variant].append(summary["val/miou"])
    rows = [f"{'a patch alone, at best':24} {best_accuracy():.3f}"]
    for variant, values in sorted(accuracies.items(), key=lambda item: statistics.mean(item[1])):
        sd = statistics.stdev(values) if len(values) > 1 else float("nan")
        seeds = " ".join(f"{value:.3f}" for value in values)
        miou = statistics.mean(mious[variant])
        rows.append(f"{variant:24} {statistics.mean(values):.3f} sd {sd:.3f} ({seeds})  mIoU {miou:.3f}")
    return "\n".join([*rows, f"{'all of its kind, at best':24} {best_accuracy(PATCHES):.3f}"])


def draw_answer(truth: np.ndarray, answer: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """The class that most pixels of each place are given, as an enlarged square; wrong ones have a red frame."""
    canvas = np.full((*truth.shape, 3), 255, np.uint8)
    for row, column in corners:
        window = np.s_[row : row + PATCH, column : column + PATCH]
        label = int(np.bincount(answer[window].ravel(), minlength=len(CLASSES)).argmax())
        square = canvas[row - GROWN : row + PATCH + GROWN, column - GROWN : column + PATCH + GROWN]
        square[:] = PALETTE[label] if label == truth[row, column] else WRONG_COLOUR
        square[FRAME:-FRAME, FRAME:-FRAME] = PALETTE[label]
    return canvas


def picture(runs: Path, index: int, variants: list[str]) -> Any:
    """One image of the validation split, its truth, and what the variants' first seeds make of it."""
    scene = draw_scene("val", index)
    image, truth = paint(scene)
    columns, pictures = ["image", "truth"], [image, draw_answer(truth, truth, scene.corner)]
    for variant in variants:
        predictor = Predictor.from_checkpoint(runs / f"{variant}_seed=0" / "checkpoints" / "last.ckpt", device="cpu")
        answer = predictor(image).mask
        patches = truth < len(CLASSES) - 1
        columns.append(f"{variant}: {(answer == truth)[patches].mean():.0%} of the patches right")
        pictures.append(draw_answer(truth, answer, scene.corner))
    footer = legend([*CLASSES, "wrong"], [*map(tuple, PALETTE.tolist()), WRONG_COLOUR], width=sheet_width(4, 385) - 40)
    return sheet([SheetRow("", pictures)], columns, footer=footer, cell=image.shape[1])


def main() -> None:
    """Print the table; draw the picture if asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--image", type=int, default=0, help="number of the validation image")
    parser.add_argument("--picture", type=Path, help="file to draw to")
    parser.add_argument("--show", nargs=2, default=["fcn", "ema_none"], metavar="VARIANT")
    arguments = parser.parse_args()
    print(table(arguments.runs))
    if arguments.picture:
        picture(arguments.runs, arguments.image, arguments.show).save(arguments.picture, optimize=True)


if __name__ == "__main__":
    main()
