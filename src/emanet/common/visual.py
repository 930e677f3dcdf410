"""Pictures of segmentations: colors, overlays, error maps, legends and sheets. NumPy and Pillow only."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Integer, UInt8
from PIL import Image, ImageDraw, ImageFont

IGNORE_INDEX = 255
IGNORE_COLOUR = (224, 224, 224)
WRONG_COLOUR = (214, 39, 40)
INK, FAINT, PAPER, LINE = (33, 37, 41), (108, 117, 125), (255, 255, 255), (173, 181, 189)
MARGIN, GAP = 20, 8
MOST_NAME = 16  # width that a legend gives a name before it is shortened, in font sizes

Color = tuple[int, int, int]
Pixels = UInt8[np.ndarray, "h w 3"]
Labels = Integer[np.ndarray, "h w"]
Palette = UInt8[np.ndarray, "classes 3"]


class SheetRow(NamedTuple):
    """One row of a sheet: equally sized pictures below a caption."""

    caption: str
    pictures: Sequence[Pixels]


def colorize(
    mask: Labels, palette: Palette, ignore_index: int = IGNORE_INDEX, ignore_color: Color = IGNORE_COLOUR
) -> Pixels:
    """Color every pixel by its class.

    Raises:
        ValueError: for a label that is neither in the palette nor the ignore label.
    """
    ignored = mask == ignore_index
    labels = mask[~ignored]
    if labels.size and not 0 <= labels.min() <= labels.max() < len(palette):
        raise ValueError(
            f"labels must lie in 0..{len(palette) - 1} or be {ignore_index} (ignored), "
            f"got {labels.min()}..{labels.max()}"
        )
    colors = np.vstack([palette, np.array([ignore_color], np.uint8)])
    return colors[np.where(ignored, len(palette), mask)]


def overlay(
    image: Pixels, mask: Labels, palette: Palette, alpha: float = 0.5, ignore_index: int = IGNORE_INDEX
) -> Pixels:
    """Lay the classes over an image with opacity ``alpha``; ignored pixels show the image alone."""
    colors = colorize(mask, palette, ignore_index)
    blended = np.rint((1 - alpha) * image + alpha * colors.astype(np.float64)).astype(np.uint8)
    return np.where((mask == ignore_index)[..., None], image, blended)


def error_map(image: Pixels, truth: Labels, prediction: Labels, ignore_index: int = IGNORE_INDEX) -> Pixels:
    """Wrong pixels in red over a pale gray image; ignored pixels are neither right nor wrong and stay flat gray."""
    gray = image.mean(axis=2, keepdims=True)
    canvas = np.repeat(np.rint(127 + gray / 2), 3, axis=2).astype(np.uint8)
    canvas[truth != prediction] = WRONG_COLOUR
    canvas[truth == ignore_index] = IGNORE_COLOUR
    return canvas


def denormalize(
    image: Float[np.ndarray, "3 h w"], mean: tuple[float, float, float], std: tuple[float, float, float]
) -> Pixels:
    """Turn a network's input back into 8-bit colors; mean and std are in units of 0..1."""
    colors = np.moveaxis(image.astype(np.float64), 0, 2) * np.asarray(std) + np.asarray(mean)
    return np.rint(255 * colors.clip(0, 1)).astype(np.uint8)


def fit_size(height: int, width: int, most: int) -> tuple[int, int]:
    """Height and width scaled so that the longer side is ``most``."""
    scale = most / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def resize(image: Pixels, height: int, width: int, *, smooth: bool = True) -> UInt8[np.ndarray, "H W 3"]:
    """Resize a picture: smoothly for photographs, to the nearest pixel for colors that mean a class."""
    resample = Image.Resampling.LANCZOS if smooth else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(image).resize((width, height), resample))


def resize_labels(mask: Labels, height: int, width: int) -> Integer[np.ndarray, "H W"]:
    """Resize labels to the nearest pixel."""
    rows = (np.arange(height) + 0.5) * mask.shape[0] / height
    columns = (np.arange(width) + 0.5) * mask.shape[1] / width
    return mask[rows.astype(int)[:, None], columns.astype(int)]


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own typeface, so that pictures look the same everywhere."""
    return ImageFont.load_default(size=size)


def shorten(text: str, most: float | int, face: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """Cut a text to ``most`` pixels, with an ellipsis."""
    if face.getlength(text) <= most:
        return text
    while text and face.getlength(text + "...") > most:
        text = text[:-1]
    return text.rstrip() + "..."


def legend(names: Sequence[str], colors: Sequence[Color] | Palette, *, width: int = 800, size: int = 15) -> Image.Image:
    """Draw colored squares with class names beside them, in as many equal columns as fit into ``width``."""
    face, box, line = font(size), size + 3, size + 13
    indent = box + GAP
    widest = min(max((face.getlength(name) for name in names), default=0), MOST_NAME * size)
    columns = max(1, min(len(names), int(width // (indent + widest + 2 * GAP))))
    column_width = width // columns
    rows = -(-len(names) // columns)
    canvas = Image.new("RGB", (width, rows * line), PAPER)
    draw = ImageDraw.Draw(canvas)
    for index, (name, color) in enumerate(zip(names, colors, strict=True)):
        x, y = (index // rows) * column_width, (index % rows) * line
        draw.rectangle((x, y + 4, x + box, y + 4 + box), fill=tuple(int(c) for c in color), outline=LINE)
        text = shorten(name, column_width - indent - GAP, face)
        draw.text((x + indent, y + 4 + box / 2), text, fill=INK, font=face, anchor="lm")
    return canvas


def legend_of(
    masks: Sequence[np.ndarray],
    names: Sequence[str],
    palette: Palette,
    *,
    ignore_index: int = IGNORE_INDEX,
    width: int = 800,
) -> Image.Image:
    """Legend of those classes alone that occur in the masks; the ignore label comes last."""
    present = set().union(*(np.unique(mask).tolist() for mask in masks))
    shown = [(names[label], tuple(palette[label].tolist())) for label in sorted(present - {ignore_index})]
    if ignore_index in present:
        shown.append(("(ignored)", IGNORE_COLOUR))
    return legend([name for name, _ in shown], [color for _, color in shown], width=width)


def framed(canvas: Image.Image, picture: Pixels, x: int, y: int) -> None:
    """Put a picture with a thin frame around it."""
    canvas.paste(Image.fromarray(picture), (x, y))
    ImageDraw.Draw(canvas).rectangle((x - 1, y - 1, x + picture.shape[1], y + picture.shape[0]), outline=LINE)


def sheet(
    rows: Sequence[SheetRow],
    columns: Sequence[str],
    *,
    title: str = "",
    subtitle: str = "",
    footer: Image.Image | None = None,
    cell: int = 288,
) -> Image.Image:
    """Arrange rows of pictures under column titles, with a headline above and a footer (the legend) below.

    Pictures are centered in cells of width ``cell`` and must not be larger than that; a row is as high as its highest
    picture. See :func:`sheet_width` for the width of the whole.
    """
    heading, body, small = font(24), font(16), font(13)
    head = MARGIN + (36 if title else 0) + (24 if subtitle else 0) + 28
    heights = [24 + max(picture.shape[0] for picture in row.pictures) + 12 for row in rows]
    foot = footer.height + MARGIN if footer is not None else 0
    width = sheet_width(len(columns), cell)
    canvas = Image.new("RGB", (width, head + sum(heights) + foot + MARGIN // 2), PAPER)
    draw = ImageDraw.Draw(canvas)

    y = MARGIN
    for text, face, color, step in ((title, heading, INK, 36), (subtitle, body, FAINT, 24)):
        if text:
            draw.text((MARGIN, y), shorten(text, width - 2 * MARGIN, face), fill=color, font=face)
            y += step
    for column, text in enumerate(columns):
        x = MARGIN + column * (cell + GAP) + cell / 2
        draw.text((x, y + 14), shorten(text, cell, body), fill=INK, font=body, anchor="mm")
    y = head

    for row, height in zip(rows, heights, strict=True):
        draw.text((MARGIN, y + 5), shorten(row.caption, width - 2 * MARGIN, small), fill=FAINT, font=small)
        for column, picture in enumerate(row.pictures):
            x = MARGIN + column * (cell + GAP) + (cell - picture.shape[1]) // 2
            framed(canvas, picture, x, y + 24)
        y += height
    if footer is not None:
        draw.line((MARGIN, y, width - MARGIN, y), fill=LINE)
        canvas.paste(footer, (MARGIN, y + MARGIN // 2))
    return canvas


def sheet_width(columns: int, cell: int = 288) -> int:
    """Width of a sheet in pixels."""
    return 2 * MARGIN + columns * cell + (columns - 1) * GAP
