"""How alike the bases are: their cosines as a picture, ordered so that groups show."""

import numpy as np
from jaxtyping import Float, Int
from PIL import Image, ImageDraw
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform

from emanet.common.visual import FAINT, GAP, INK, LINE, MARGIN, PAPER, Pixels, font

#: colors of the cosines -1, 0 and 1
COLD, NEUTRAL, HOT = (33, 102, 172), (247, 247, 247), (178, 24, 43)
SIDE = 640  # of the matrix in pixels, about
BAR = 140  # longest bar of a share
LABELLED = 12  # pixels of a cell from which its base has room for a number


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
    width = max(left + side + 2 * GAP + BAR + MARGIN, 520)
    canvas = Image.new("RGB", (width, top + side + 56), PAPER)
    draw = ImageDraw.Draw(canvas)
    if title:
        draw.text((MARGIN, MARGIN), title, fill=INK, font=font(20))
    note = "cosines between stored bases, similar ones together;  bars: share of the responsibility, line: 1/K"
    draw.text((MARGIN, top - 22), note, fill=FAINT, font=font(13))
    picture = diverging(cosines[np.ix_(order, order)]).repeat(cell, axis=0).repeat(cell, axis=1)
    canvas.paste(Image.fromarray(picture), (left, top))
    draw.rectangle((left - 1, top - 1, left + side, top + side), outline=LINE)
    start = left + side + 2 * GAP
    scale = BAR / max(float(shares.max()), 2 / k)
    for row, base in enumerate(order):
        y = top + row * cell
        draw.rectangle((start, y, start + scale * float(shares[base]), y + max(cell - 2, 1)), fill=COLD)
        if labels:
            draw.text((left - 6, y + cell / 2), f"#{base}", fill=FAINT, font=font(11), anchor="rm")
    draw.line((start + scale / k, top, start + scale / k, top + side), fill=HOT)
    draw_scale(canvas, (left, top + side + 12))
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
    stops = np.array([COLD, NEUTRAL, HOT], np.float64)
    channels = [np.interp(values, (-1, 0, 1), stops[:, channel]) for channel in range(3)]
    return np.rint(np.stack(channels, axis=2)).astype(np.uint8)


def draw_scale(canvas: Image.Image, corner: tuple[int, int]) -> None:
    """The colors from -1 to 1, with numbers."""
    x, y = corner
    ramp = diverging(np.linspace(-1, 1, 200)[None, :]).repeat(10, axis=0)
    canvas.paste(Image.fromarray(ramp), (x, y))
    draw = ImageDraw.Draw(canvas)
    for place, text in ((0, "-1"), (100, "0"), (199, "1")):
        draw.text((x + place, y + 20), text, fill=FAINT, font=font(13), anchor="mm")
