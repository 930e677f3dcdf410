"""Finer features and the image joined before the classifier: crisp edges and plain color at a coarse output stride.

DeepLabV3+ joins features of stride 4; colors as they are, which a pretrained network's first layers filter out, tell
water from land and desert from ice.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from emanet.model.heads.layers import conv_bn_relu


class Skips(nn.Module):
    """Reduce the coarse features, bring all to the size of the finest, mix them by a 1x1 convolution.

    Args:
        in_channels: of the coarse features.
        finer: channels of each of the finer ones.
        channels: of the result.
    """

    def __init__(self, in_channels: int, finer: Sequence[int], channels: int) -> None:
        super().__init__()
        self.reduce = conv_bn_relu(in_channels, channels, kernel=1)
        self.mix = conv_bn_relu(channels + sum(finer), channels, kernel=1)

    def forward(self, coarse: Float[Tensor, "b d h w"], finer: Sequence[Tensor]) -> Float[Tensor, "b c height width"]:
        """Features of the finest stride; ``finer`` begins with it."""
        size = finer[0].shape[2:]
        joined = [self.reduce(coarse), *finer]
        resized = [F.interpolate(x, size=size, mode="bilinear", align_corners=True) for x in joined]
        return self.mix(torch.cat(resized, dim=1))
