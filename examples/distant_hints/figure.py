"""The table of distant_hints, and its picture of what two heads predict.

    python examples/distant_hints/figure.py RUNS picture.png

RUNS holds one run folder ``<variant>_seed=<n>`` for each variant and seed, such as ``fcn_seed=0``.
"""

import json
import sys
from pathlib import Path
from statistics import mean

import numpy as np
from distant_hints import CLASSES, COLORS, PALETTE, PATCH, PATCHES, SIDE, best_accuracy, draw_scene, paint

from emanet import Predictor
from emanet.common.visual import WRONG_COLOUR, SheetRow, legend, sheet, sheet_width

VARIANTS = {"fcn": "the plain head", "ema_full": "EMANet, gradient full", "ema_none": "EMANet as published"}
GROWN, FRAME = 12, 4  # pixels by which a drawn answer exceeds its patch on each side, and those of its frame


def state_accuracy(summary: dict) -> float:
    """Share of the patches that are right, from the pixel accuracy over patches and empty places of one size.

    It counts on empty places being right, as they are in every run that was kept.
    """
    patches = len(COLORS) * PATCHES
    return (summary["val/pixel_accuracy"] * SIDE**2 - (SIDE**2 - patches)) / patches


def table(summaries: dict[str, list[dict]]) -> str:
    """Rows of the README: state accuracy of each variant (mean, then each seed) and mIoU, between both bounds."""
    rows = [f"| one patch alone, at best | {best_accuracy():.3f} | | |"]
    for variant, runs in summaries.items():
        values = [state_accuracy(run) for run in runs]
        seeds = ", ".join(f"{value:.3f}" for value in values)
        miou = mean(run["val/miou"] for run in runs)
        rows.append(f"| {VARIANTS[variant]} | {mean(values):.3f} | {seeds} | {miou:.3f} |")
    return "\n".join([*rows, f"| all patches of the kind, at best | {best_accuracy(PATCHES):.3f} | | |"])


def drawn(truth: np.ndarray, answer: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """The class that most pixels of each place are given, as an enlarged square; wrong ones have a red frame."""
    canvas = np.full((*truth.shape, 3), 255, np.uint8)
    for row, column in corners:
        window = np.s_[row : row + PATCH, column : column + PATCH]
        label = int(np.bincount(answer[window].ravel(), minlength=len(CLASSES)).argmax())
        square = canvas[row - GROWN : row + PATCH + GROWN, column - GROWN : column + PATCH + GROWN]
        square[:] = PALETTE[label] if label == truth[row, column] else WRONG_COLOUR
        square[FRAME:-FRAME, FRAME:-FRAME] = PALETTE[label]
    return canvas


def main(runs: Path, picture: Path) -> None:
    """Print the table; draw the first validation image, its truth, and what two heads make of it."""
    found = {name: sorted(runs.glob(f"{name}_seed=*/summary.json")) for name in VARIANTS}
    print(table({name: [json.loads(path.read_text()) for path in paths] for name, paths in found.items()}))
    scene = draw_scene("val", 0)
    image, truth = paint(scene)
    columns, pictures = ["image", "truth"], [image, drawn(truth, truth, scene.corner)]
    for variant in ("fcn", "ema_none"):
        answer = Predictor.from_checkpoint(runs / f"{variant}_seed=0/checkpoints/last.ckpt", device="cpu")(image).mask
        right = (answer == truth)[truth < len(CLASSES) - 1].mean()
        columns.append(f"{VARIANTS[variant]}: {right:.0%} of the patches right")
        pictures.append(drawn(truth, answer, scene.corner))
    footer = legend([*CLASSES, "wrong"], [*map(tuple, PALETTE.tolist()), WRONG_COLOUR], width=sheet_width(4, 385) - 40)
    sheet([SheetRow("", pictures)], columns, footer=footer, cell=image.shape[1]).save(picture, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
