"""Colors of classes."""

import colorsys

import numpy as np
from jaxtyping import UInt8


def voc_palette(num_classes: int) -> UInt8[np.ndarray, "n 3"]:
    """Compute the PASCAL VOC colors: bit 3j + c of the label becomes bit 7 - j of channel c (VOC development kit)."""
    labels = np.arange(num_classes)
    palette = np.zeros((num_classes, 3), np.uint8)
    for j in range(8):
        for channel in range(3):
            palette[:, channel] |= (((labels >> (3 * j + channel)) & 1) << (7 - j)).astype(np.uint8)
    return palette


def spread_palette(num_classes: int) -> UInt8[np.ndarray, "n 3"]:
    """Compute distinct colors: hues a golden angle apart, three rounds of lightness and saturation."""
    golden = 0.618033988749895
    rounds = ((0.75, 0.95), (0.55, 0.7), (0.9, 0.6))  # (saturation, value)
    colors = [colorsys.hsv_to_rgb(i * golden % 1, *rounds[i % 3]) for i in range(num_classes)]
    return np.round(np.array(colors) * 255).astype(np.uint8).reshape(num_classes, 3)
