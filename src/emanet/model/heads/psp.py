"""Pyramid pooling: means over the image at four scales beside the features."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from emanet.common.checks import at_least_one
from emanet.model.heads.layers import PooledContext, conv_bn_relu


class PyramidPooling(nn.Module):
    """Pyramid pooling module (Zhao, Shi, Qi, Wang, Jia 2017, PSPNet, arXiv 1612.01105).

    Means over 1x1, 2x2, 3x3 and 6x6 cells, each reduced to a quarter of the features' channels and spread out again,
    are joined to the features; a 3x3 convolution with batch norm and ReLU reduces all to ``channels``.

    Args:
        in_channels: of the backbone's features.
        channels: of the result; the paper's 512.
        bins: cells along each side, a level of the pyramid for each.
    """

    def __init__(self, in_channels: int, *, channels: int = 512, bins: Sequence[int] = (1, 2, 3, 6)) -> None:
        super().__init__()
        at_least_one(channels=channels, **{f"bins[{i}]": count for i, count in enumerate(bins)})
        quarter = max(in_channels // len(bins), 1)
        self.out_channels = channels
        self.pyramid = nn.ModuleList(PooledContext(in_channels, channels=quarter, bins=count) for count in bins)
        self.bottleneck = conv_bn_relu(in_channels + len(bins) * quarter, channels)

    def forward(self, features: Float[Tensor, "b d h w"]) -> tuple[Float[Tensor, "b c h w"], None]:
        """Reduced features with the context of the pyramid."""
        return self.bottleneck(torch.cat([features, *(level(features) for level in self.pyramid)], dim=1)), None
