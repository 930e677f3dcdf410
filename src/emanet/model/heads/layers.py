"""Layers that several heads are built from."""

from collections import OrderedDict

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from emanet.common.errors import ConfigError


def conv_bn_relu(in_channels: int, out_channels: int, *, kernel: int = 3, dilation: int = 1) -> nn.Sequential:
    """Convolution without bias that keeps the size, batch norm, ReLU."""
    padding = dilation * (kernel // 2)
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(in_channels, out_channels, kernel, padding=padding, dilation=dilation, bias=False),
            bn=nn.BatchNorm2d(out_channels),
            relu=nn.ReLU(inplace=True),
        )
    )


def conv_bn(in_channels: int, out_channels: int) -> nn.Sequential:
    """1x1 convolution without bias, batch norm: the end of a unit's branch."""
    return nn.Sequential(
        OrderedDict(conv=nn.Conv2d(in_channels, out_channels, 1, bias=False), bn=nn.BatchNorm2d(out_channels))
    )


class PooledContext(nn.Module):
    """Means over ``bins`` x ``bins`` cells of the image, a 1x1 convolution with batch norm and ReLU, spread out again.

    Args:
        in_channels: of the features.
        channels: of the result.
        bins: cells along each side.
    """

    def __init__(self, in_channels: int, *, channels: int, bins: int) -> None:
        super().__init__()
        self.bins = bins
        self.reduce = conv_bn_relu(in_channels, channels, kernel=1)

    def forward(self, features: Float[Tensor, "b d h w"]) -> Float[Tensor, "b c h w"]:
        """Context at the size of the features.

        Raises:
            ConfigError: in training with a single value per channel, which a batch norm cannot normalize.
        """
        pooled = F.adaptive_avg_pool2d(features, self.bins)
        bn = self.reduce.get_submodule("bn")
        if bn.training and not isinstance(bn, nn.SyncBatchNorm) and len(pooled) * self.bins**2 == 1:
            raise ConfigError(
                "this head normalizes the means over whole images, so training needs at least 2 images at a time on "
                "each device, got 1: raise dataset.batch_size, lower trainer.accumulate_grad_batches, or set "
                "trainer.sync_batchnorm=true on several GPUs"
            )
        return F.interpolate(self.reduce(pooled), size=features.shape[-2:], mode="bilinear", align_corners=True)
