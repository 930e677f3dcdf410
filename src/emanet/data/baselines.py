"""What a data set gives away for free: answers without any network, to stand beside every score."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt8

BITS = 5  # of each color channel that the table tells apart

Pair = tuple[np.ndarray, np.ndarray]  #: image (h, w, 3) and mask (h, w), both uint8


class Baselines(NamedTuple):
    """Confusion matrices of the evaluated split, (true class, answer), in pixels."""

    color_table: Int[np.ndarray, "classes classes"]
    balanced_color_table: Int[np.ndarray, "classes classes"]  #: classes weighted by one over the root of their share
    constant: Int[np.ndarray, "classes classes"]


def measure_baselines(train: Iterable[Pair], evaluated: Iterable[Pair], num_classes: int) -> Baselines:
    """Answer by color alone, and by the most frequent class alone.

    The color table holds the most frequent class of the training pixels of each of 32 x 32 x 32 colors, and the most
    frequent class of all for colors that the training lacks. Where classes are weighted, as a loss may weight them,
    rare ones win more often.

    Args:
        train: images and masks that the answers are learned from; labels that are no class do not count.
        evaluated: images and masks that they are measured on.
        num_classes: number of classes.
    """
    colors = 2 ** (3 * BITS)
    seen = np.zeros(colors * num_classes, np.int64)
    for image, mask in train:
        labeled = mask < num_classes
        cells = color_codes(image)[labeled] * num_classes + mask[labeled]
        seen += np.bincount(cells, minlength=colors * num_classes)
    table = seen.reshape(colors, num_classes)
    shares = table.sum(0)
    weights = 1 / np.sqrt(np.maximum(shares, 1))
    tables = [np.where(table.any(1), votes.argmax(1), shares.argmax()) for votes in (table, table * weights)]
    answers = [*tables, np.full(colors, shares.argmax())]
    found = np.zeros((3, num_classes, num_classes), np.int64)
    for image, mask in evaluated:
        labeled = mask < num_classes
        truth, codes = mask[labeled].astype(np.int64), color_codes(image)[labeled]
        for counts, answer in zip(found, answers, strict=True):
            cells = np.bincount(truth * num_classes + answer[codes], minlength=num_classes**2)
            counts += cells.reshape(counts.shape)
    return Baselines(*found)


def color_codes(image: UInt8[np.ndarray, "h w 3"]) -> Int[np.ndarray, "h w"]:
    """The first bits of the three channels in one number."""
    red, green, blue = np.moveaxis(image.astype(np.int64) >> (8 - BITS), 2, 0)
    return (red << (2 * BITS)) + (green << BITS) + blue
