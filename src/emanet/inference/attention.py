"""What each base attends to: responsibilities as maps, and a sheet of them over the image.

The paper shows such maps of a few bases; here are all of them, strongest first.
"""

from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image, ImageDraw
from torch import Tensor

from emanet.common.errors import ConfigError
from emanet.common.visual import FAINT, GAP, INK, LINE, MARGIN, PAPER, Pixels, fit_size, font, resize
from emanet.data.palettes import spread_palette
from emanet.inference.views import pad_to_stride

#: a map's colors from 0 to its greatest value: dark, then red, yellow, white
HEAT = np.array([(8, 8, 20), (90, 16, 80), (200, 50, 50), (250, 170, 40), (255, 255, 220)], np.float64)
COLUMNS = 8
CAPTION = 13  # size of a caption's letters


@torch.no_grad()
def base_maps(net: Any, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k h2 w2"]:
    """Responsibilities of the bases in one look at the whole image; over the bases they sum to 1 at every feature.

    Corners are aligned: feature i of a side lies over pixel ``i * net.output_stride``.

    Raises:
        ConfigError: for a network without bases.
    """
    check_bases(net)
    z, _, size = net.attend(pad_to_stride(image, net.output_stride))
    return z.transpose(1, 2).unflatten(2, size).float()


def check_bases(net: Any) -> None:
    """Refuse a network without the paper's unit, whose bases the maps are of.

    Raises:
        ConfigError: says what it is instead.
    """
    if not getattr(net, "has_bases", False):
        got = getattr(net, "head_name", type(net).__name__)
        raise ConfigError(f"attention maps need a network with bases (head=ema), got {got}: leave attention out")


def attention_sheet(
    image: Pixels,
    maps: Float[np.ndarray, "k h2 w2"],
    *,
    stride: int,
    title: str = "",
    bases: int | None = None,
    by_share: bool = True,
    cell: int = 176,
) -> Image.Image:
    """Draw the image, which pixels each base claims, and the maps of the bases that claim most.

    A pixel is claimed by the base with the greatest responsibility for it. Each map is scaled by its own greatest
    value, which its caption gives if there is room.

    Args:
        image: the picture.
        maps: responsibilities from :func:`base_maps`.
        stride: pixels per feature.
        title: headline.
        bases: how many maps to draw; ``None``: all.
        by_share: maps in order of the share that a base claims; else by number, so that a base keeps its place from
            one sheet to the next.
        cell: longest side of a map in pixels.
    """
    k = len(maps)
    claimed = maps.argmax(0)
    shares = np.bincount(claimed.ravel(), minlength=k) / claimed.size
    order = (np.lexsort((-maps.mean((1, 2)), -shares)) if by_share else np.arange(k))[:bases]
    full_height, full_width, _ = image.shape
    extent = ((full_height - 1) / stride, (full_width - 1) / stride)
    height, width = fit_size(full_height, full_width, cell)
    small = resize(image, height, width)
    captions = [f"#{base}  {shares[base]:.1%}  max {maps[base].max():.2f}" for base in order]
    if max(font(CAPTION).getlength(caption) for caption in captions) > cell + GAP / 2:
        captions = [caption.partition("  max")[0] for caption in captions]  # small cells have no room for it
    cells = [heat_map(small, stretch(maps[base], height, width, extent)) for base in order]
    columns = min(COLUMNS, max(2, len(cells)))

    big_height, big_width = fit_size(full_height, full_width, (columns * (cell + GAP) - GAP) // 2 - GAP)
    big = resize(image, big_height, big_width)
    claims = claim_map(big, claimants(maps, big_height, big_width, extent))
    canvas_width = 2 * MARGIN + columns * (cell + GAP) - GAP
    head = MARGIN + (36 if title else 0)
    top = head + 24 + big_height + GAP
    step = height + 24
    canvas = Image.new("RGB", (canvas_width, top + 28 + -(-len(cells) // columns) * step + MARGIN // 2), PAPER)
    draw = ImageDraw.Draw(canvas)
    if title:
        draw.text((MARGIN, MARGIN), title, fill=INK, font=font(24))
    right = canvas_width // 2 + GAP // 2
    active = int((shares > 0).sum())
    paste(canvas, big, (MARGIN, head), "image")
    paste(canvas, claims, (right, head), f"pixels by the base that claims them: {active} of {k} bases claim any")
    sorting = "in order of the share they claim" if by_share else "by number"
    note = f"responsibility for each pixel, bases {sorting}; brightest = max"
    draw.text((MARGIN, top), note, fill=INK, font=font(16))
    for index, (caption, picture) in enumerate(zip(captions, cells, strict=True)):
        x = MARGIN + index % columns * (cell + GAP)
        paste(canvas, picture, (x, top + 26 + index // columns * step), caption)
    return canvas


def paste(canvas: Image.Image, picture: Pixels, corner: tuple[int, int], caption: str) -> None:
    """Put a picture with a thin frame below its caption."""
    (x, y), draw = corner, ImageDraw.Draw(canvas)
    draw.text((x, y + 2), caption, fill=FAINT, font=font(CAPTION))
    canvas.paste(Image.fromarray(picture), (x, y + 20))
    draw.rectangle((x - 1, y + 19, x + picture.shape[1], y + 20 + picture.shape[0]), outline=LINE)


def stretch(
    values: Float[np.ndarray, "h2 w2"], height: int, width: int, extent: tuple[float, float]
) -> Float[np.ndarray, "h w"]:
    """Spread features over a picture of ``height`` x ``width``, whose last row and column lie at feature ``extent``."""
    steps = [length / max(side - 1, 1) for length, side in zip(extent, (height, width), strict=True)]
    to_feature = np.array([[steps[1], 0, 0], [0, steps[0], 0]])
    flags = cv2.WARP_INVERSE_MAP | cv2.INTER_LINEAR
    return cv2.warpAffine(
        values.astype(np.float32), to_feature, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE
    ).astype(np.float32, copy=False)


def claimants(
    maps: Float[np.ndarray, "k h2 w2"], height: int, width: int, extent: tuple[float, float]
) -> Int[np.ndarray, "h w"]:
    """The base with the greatest responsibility for each pixel of a picture; one stretched map at a time."""
    best, claimed = np.full((height, width), -1, np.float32), np.zeros((height, width), np.int64)
    for base, responsibility in enumerate(maps):
        stretched = stretch(responsibility, height, width, extent)
        claimed[stretched > best] = base
        np.maximum(best, stretched, out=best)
    return claimed


def heat_map(image: Pixels, responsibility: Float[np.ndarray, "h w"]) -> Pixels:
    """Glow where a base is responsible, over the darkened gray image; scaled by the map's greatest value."""
    strength = responsibility / max(float(responsibility.max()), 1e-12)
    places = np.linspace(0, 1, len(HEAT))
    colors = np.stack([np.interp(strength, places, HEAT[:, channel]) for channel in range(3)], axis=2)
    glow = 0.3 + 0.45 * strength[..., None]
    gray = image.mean(axis=2, keepdims=True) * (0.4 + 0.6 * strength[..., None])
    return np.rint((1 - glow) * gray + glow * colors).clip(0, 255).astype(np.uint8)


def claim_map(image: Pixels, claimed: Int[np.ndarray, "h w"]) -> Pixels:
    """Color each pixel by the base that claims it, over the gray image."""
    colors = spread_palette(int(claimed.max()) + 1)[claimed]
    return np.rint(0.4 * image.mean(axis=2, keepdims=True) + 0.6 * colors).astype(np.uint8)
