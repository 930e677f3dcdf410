"""Atrous spatial pyramid pooling: convolutions of several dilations side by side."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from emanet.common.checks import at_least_one
from emanet.model.heads.layers import PooledContext, conv_bn_relu


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling (Chen, Papandreou, Schroff, Adam 2017, DeepLabV3, arXiv 1706.05587).

    A 1x1 convolution, three 3x3 convolutions with dilations 12, 24, 36 (at output stride 8; 6, 12, 18 at 16) and the
    mean of the image, each with batch norm and ReLU, are joined and projected by a 1x1 convolution. Every width is
    half of ``channels``: DeepLabV3's 256 at the default of 512.

    Args:
        in_channels: of the backbone's features.
        channels: twice the width of each branch and of the result.
        dilations: of the 3x3 convolutions at output stride 8; in input pixels they stay the same at other strides.
        output_stride: input pixels per feature, 8, 16 or 32.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        channels: int = 512,
        dilations: Sequence[int] = (12, 24, 36),
        output_stride: int = 8,
    ) -> None:
        super().__init__()
        at_least_one(channels=channels, **{f"dilations[{i}]": value for i, value in enumerate(dilations)})
        width = max(channels // 2, 1)
        self.out_channels = width
        self.branches = nn.ModuleList([conv_bn_relu(in_channels, width, kernel=1)])
        for dilation in dilations:
            self.branches.append(conv_bn_relu(in_channels, width, dilation=max(dilation * 8 // output_stride, 1)))
        self.branches.append(PooledContext(in_channels, channels=width, bins=1))
        self.project = conv_bn_relu(len(self.branches) * width, width, kernel=1)

    def forward(self, features: Float[Tensor, "b d h w"]) -> tuple[Float[Tensor, "b c h w"], None]:
        """Reduced features with context at several distances."""
        return self.project(torch.cat([branch(features) for branch in self.branches], dim=1)), None
