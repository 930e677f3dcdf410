"""How alike the bases are: their cosines as a picture, ordered so that groups show."""

import numpy as np
from jaxtyping import Float, Int
from PIL import Image, ImageDraw
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform

from emanet.common.visual import FAINT, GAP, INK, MARGIN, PAPER, Pixels, font, framed

#: colors of the cosines -1, 0 and 1
COLD, NEUTRAL, HOT = (33, 102, 172), (247, 247, 247), (178, 24, 43)
SIDE = 640  # of the matrix in pixels, about
BAR = 140  # longest bar of a share
LABELLED = 12  # pixels of a cell from which its base has room for a number
NOTE = "cosines between stored bases, similar ones together;  bars: share of the responsibility, line: 1/K"
SCALE = "cosine:  blue -1, white 0, red 1"


def similarity_picture(
    cosines: Float[np.ndarray, "k k"], shares: Float[np.ndarray, " k"], *, title: str = ""
) -> Image.Image:
    """Draw the cosines between bases, and beside each row the base's share of the responsibility.

    Similar bases stand next to each other: the order is that of a hierarchical clustering. A line marks ``1 / k``, the
    share of a base if all are used alike.
    """
    k = len(cosines)
    order = cluster_order(cosines)
    cell = max(2, min(40, SIDE // k))
    side, labels = cell * k, 36 if cell >= LABELLED else 0
    top = MARGIN + (36 if title else 0) + 24
    left = MARGIN + labels
    start = left + side + 2 * GAP
    canvas = Image.new("RGB", (max(start + BAR + MARGIN, 520), top + side + 40), PAPER)
    draw = ImageDraw.Draw(canvas)
    draw.text((MARGIN, MARGIN), title, fill=INK, font=font(20))
    draw.text((MARGIN, top - 22), NOTE, fill=FAINT, font=font(13))
    draw.text((left, top + side + 12), SCALE, fill=FAINT, font=font(13))
    picture = diverging(cosines[np.ix_(order, order)]).repeat(cell, axis=0).repeat(cell, axis=1)
    framed(canvas, picture, left, top)
    scale = BAR / max(float(shares.max()), 2 / k)
    for row, base in enumerate(order):
        y = top + row * cell
        draw.rectangle((start, y, start + scale * float(shares[base]), y + max(cell - 2, 1)), fill=COLD)
        if labels:
            draw.text((left - 6, y + cell / 2), f"#{base}", fill=FAINT, font=font(11), anchor="rm")
    draw.line((start + scale / k, top, start + scale / k, top + side), fill=HOT)
    return canvas


def cluster_order(cosines: Float[np.ndarray, "k k"]) -> Int[np.ndarray, " k"]:
    """Order in which similar bases are neighbors: leaves of an average-linkage tree over ``1 - cosine``."""
    if len(cosines) < 3:
        return np.arange(len(cosines))
    distances = np.clip(1 - (cosines + cosines.T) / 2, 0, None)
    np.fill_diagonal(distances, 0)
    tree = hierarchy.linkage(squareform(distances), method="average", optimal_ordering=True)
    return hierarchy.leaves_list(tree).astype(np.int64)


def diverging(values: Float[np.ndarray, "h w"]) -> Pixels:
    """Colors of values from -1 to 1: blue, white, red."""
    channels = [np.interp(values, (-1, 0, 1), stops) for stops in zip(COLD, NEUTRAL, HOT, strict=True)]
    return np.rint(np.stack(channels, axis=2)).astype(np.uint8)
