"""What each base attends to: responsibilities as maps, and a sheet of them over the image.

The paper shows such maps of a few bases; here are all of them, strongest first.
"""

from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageDraw
from torch import Tensor

from emanet.common.errors import ConfigError
from emanet.common.visual import FAINT, GAP, INK, MARGIN, PAPER, Pixels, fit_size, font, framed, overlay, resize
from emanet.data.palettes import spread_palette
from emanet.inference.views import as_tested

COLUMNS = 8
CAPTION = 13  # size of a caption's letters
ROOMY = 150  # width of a map whose caption has room for the greatest value


@torch.no_grad()
def base_maps(net: Any, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k h2 w2"]:
    """Responsibilities of the bases in one look at the whole image; over the bases they sum to 1 at every feature.

    Corners are aligned: feature i of a side lies over pixel ``i * net.output_stride``.

    Raises:
        ConfigError: for a network without bases.
    """
    check_bases(net)
    z, _, size = net.attend(as_tested(net, image))
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
    shares = np.bincount(maps.argmax(0).ravel(), minlength=k) / maps[0].size
    order = (np.lexsort((-maps.mean((1, 2)), -shares)) if by_share else np.arange(k))[:bases]
    columns = min(COLUMNS, max(2, len(order)))
    room = columns * (cell + GAP) - GAP
    full_height, full_width, _ = image.shape
    extent = ((full_height - 1) / stride, (full_width - 1) / stride)
    small = resize(image, *fit_size(full_height, full_width, cell))
    big = resize(image, *fit_size(full_height, full_width, room // 2 - GAP))
    head = MARGIN + (36 if title else 0)
    top, step = head + 24 + big.shape[0] + GAP, small.shape[0] + 24
    canvas = Image.new("RGB", (2 * MARGIN + room, top + 28 + -(-len(order) // columns) * step + MARGIN // 2), PAPER)
    draw = ImageDraw.Draw(canvas)

    def put(picture: Pixels, x: int, y: int, caption: str) -> None:
        draw.text((x, y + 2), caption, fill=FAINT, font=font(CAPTION))
        framed(canvas, picture, x, y + 20)

    draw.text((MARGIN, MARGIN), title, fill=INK, font=font(24))
    put(big, MARGIN, head, "image")
    active = f"pixels by the base that claims them: {(shares > 0).sum()} of {k} bases claim any"
    put(claim_map(big, maps, extent), MARGIN + room // 2 + GAP // 2, head, active)
    sorting = "in order of the share they claim" if by_share else "by number"
    note = f"responsibility for each pixel, bases {sorting}; brightest = max"
    draw.text((MARGIN, top), note, fill=INK, font=font(16))
    for index, base in enumerate(order):
        row, column = divmod(index, columns)
        caption = f"#{base}  {shares[base]:.1%}" + (f"  max {maps[base].max():.2f}" if cell >= ROOMY else "")
        glow = heat_map(small, stretch(maps[base], small, extent))
        put(glow, MARGIN + column * (cell + GAP), top + 26 + row * step, caption)
    return canvas


def stretch(
    values: Float[np.ndarray, "h2 w2"], picture: Pixels, extent: tuple[float, float]
) -> Float[np.ndarray, "h w"]:
    """Spread features over a picture, whose last row and column lie at feature ``extent``."""
    height, width, _ = picture.shape
    down, right = (length / max(side - 1, 1) for length, side in zip(extent, (height, width), strict=True))
    to_feature = np.array([[right, 0, 0], [0, down, 0]])
    flags = cv2.WARP_INVERSE_MAP | cv2.INTER_LINEAR
    spread = cv2.warpAffine(
        values.astype(np.float32), to_feature, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE
    )
    return spread.astype(np.float32, copy=False)


def heat_map(image: Pixels, responsibility: Float[np.ndarray, "h w"]) -> Pixels:
    """Glow where a base is responsible, over the darkened gray image; scaled by the map's greatest value."""
    strength = responsibility[..., None] / max(float(responsibility.max()), 1e-12)
    colors = cv2.applyColorMap(np.rint(255 * strength).astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1]
    glow = 0.3 + 0.45 * strength
    gray = image.mean(axis=2, keepdims=True) * (0.4 + 0.6 * strength)
    return np.rint((1 - glow) * gray + glow * colors).astype(np.uint8)


def claim_map(image: Pixels, maps: Float[np.ndarray, "k h2 w2"], extent: tuple[float, float]) -> Pixels:
    """Color each pixel by the base with the greatest responsibility for it, over the gray image."""
    best, claimed = np.full(image.shape[:2], -1, np.float32), np.zeros(image.shape[:2], np.int64)
    for base, responsibility in enumerate(maps):  # one stretched map at a time
        stretched = stretch(responsibility, image, extent)
        claimed[stretched > best] = base
        np.maximum(best, stretched, out=best)
    gray = np.repeat(np.rint(image.mean(axis=2, keepdims=True)).astype(np.uint8), 3, axis=2)
    return overlay(gray, claimed, spread_palette(len(maps)), alpha=0.6, ignore_index=-1)
