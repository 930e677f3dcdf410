"""8-bit crops to the network's input, on the device that holds them."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from emanet.data.reading import IGNORE
from emanet.data.transforms import PADDING, Normalize


class Finish:
    """Normalizes batches of :meth:`emanet.data.transforms.TrainTransform.unfinished` after their transfer.

    The numbers come from the same table as in the loader's processes, so they are equal to the last bit; on the way
    through shared and page-locked memory, and to the device, a pixel takes 4 bytes instead of 20.

    Args:
        normalize: what the crops would otherwise be normalized with.
    """

    def __init__(self, normalize: Normalize):
        self.normalize = normalize
        self._tables: dict[torch.device, Tensor] = {}  # each device has its own copy, made once

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Finish ``image`` (b,h,w,3) and ``mask`` (b,h,w) of bytes; a batch of anything else is returned as it is."""
        pixels, labels = batch["image"], batch.get("mask")
        if pixels.dtype != torch.uint8 or labels is None:
            return batch
        image = self._on_cpu(pixels) if pixels.device.type == "cpu" else self.looked_up(pixels)
        padded = labels == PADDING
        image.masked_fill_(padded[:, None], 0)
        return batch | {"image": image, "mask": labels.long().masked_fill_(padded, IGNORE)}

    def _on_cpu(self, pixels: UInt8[Tensor, "b h w 3"]) -> Float32[Tensor, "b 3 h w"]:
        b, h, w, _ = pixels.shape
        out = np.empty((b, 3, h, w), np.float32)
        for index, image in enumerate(pixels.numpy()):
            self.normalize(image, out[index])
        return torch.from_numpy(out)

    def looked_up(self, pixels: UInt8[Tensor, "b h w 3"]) -> Float32[Tensor, "b 3 h w"]:
        """Normalize by the table in the device's memory."""
        if pixels.device not in self._tables:
            self._tables[pixels.device] = torch.from_numpy(self.normalize.table).to(pixels.device)
        channels = zip(self._tables[pixels.device], pixels.unbind(-1), strict=True)
        return torch.stack([levels[channel.int()] for levels, channel in channels], dim=1)
