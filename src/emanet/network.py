"""EMANet: backbone, channel reduction, expectation-maximization attention, classifier (paper section 3)."""

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from emanet.backbone import Backbone
from emanet.emau import EMAU, Gradient, Maintenance, Norm
from emanet.hub import HubMixin

FC1_CHANNELS = 256  # of fc1, for every width of the attention unit (FACTS section 1)


class EMANet(nn.Module, HubMixin):
    """The paper's network: ``net(image) -> logits`` at the size of the image.

    backbone -> fc0 (3x3, ``channels``) -> EMAU -> fc1 (3x3, 256) -> Dropout2d -> fc2 (1x1) -> bilinear upsampling with
    aligned corners. Images of size 1 modulo ``output_stride`` keep pixels and features aligned.

    Args:
        num_classes: number of classes.
        backbone: timm model name; ``resnet50s``, ``resnet101s`` and ``resnet152s`` are the paper's.
        output_stride: input pixels per feature: 8 (the paper's), 16 or 32.
        multi_grid: dilation factors of a ResNet's last stage, see :class:`~emanet.backbone.Backbone`.
        pretrained: ``True`` for timm's ImageNet weights, a path for a local file, ``False`` for none.
        channels: width of the attention unit: 512 or 256 in the paper.
        K, T, T_eval, momentum, norm, maintenance, gradient, renormalise: see :class:`~emanet.emau.EMAU`.
        dropout: share of fc1's channels dropped in training.
        bn_momentum: share of the *new* statistics in every batch norm's running mean, backbone included.

    Raises:
        ValueError: for values out of range, an unknown backbone, or one without features at the stride.
        WeightsError: for weights that cannot be fetched or do not fit.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: str = "resnet101s",
        output_stride: int = 8,
        multi_grid: Sequence[int] | None = (1, 2, 4),
        pretrained: bool | str | Path = False,
        channels: int = 512,
        K: int = 64,
        T: int = 3,
        T_eval: int | None = None,
        momentum: float = 0.9,
        norm: Norm = "l2",
        maintenance: Maintenance = "moving_average",
        gradient: Gradient = "none",
        renormalise: bool = False,
        dropout: float = 0.1,
        bn_momentum: float = 3e-4,
    ) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        # The unit first: its settings are refused before a backbone is built or its weights are fetched.
        emau = EMAU(
            channels,
            K=K,
            T=T,
            T_eval=T_eval,
            momentum=momentum,
            norm=norm,
            maintenance=maintenance,
            gradient=gradient,
            renormalise=renormalise,
        )
        self.num_classes = num_classes
        self.backbone = Backbone(backbone, output_stride=output_stride, multi_grid=multi_grid, pretrained=pretrained)
        self.fc0 = conv_bn_relu(self.backbone.channels, channels)
        self.emau = emau
        self.fc1 = nn.Sequential(conv_bn_relu(channels, FC1_CHANNELS), nn.Dropout2d(dropout))
        self.fc2 = nn.Conv2d(FC1_CHANNELS, num_classes, 1)
        set_bn_momentum(self, bn_momentum)

    @property
    def output_stride(self) -> int:
        """Input pixels per feature."""
        return self.backbone.output_stride

    def forward(
        self, image: Float[Tensor, "b 3 h w"], return_bases: bool = False
    ) -> Float[Tensor, "b classes h w"] | tuple[Float[Tensor, "b classes h w"], Float[Tensor, "b c k"]]:
        """Logits at the size of the image; with ``return_bases`` also each image's final bases."""
        logits_low, mu = self.forward_low(image)
        logits = F.interpolate(logits_low, size=image.shape[-2:], mode="bilinear", align_corners=True)
        return (logits, mu) if return_bases else logits

    def forward_low(
        self, image: Float[Tensor, "b 3 H W"]
    ) -> tuple[Float[Tensor, "b classes h w"], Float[Tensor, "b c k"]]:
        """Logits at the output stride, and each image's final bases."""
        x, mu = self.emau(self.fc0(self.backbone(image)))
        return self.fc2(self.fc1(x)), mu


def conv_bn_relu(in_channels: int, out_channels: int) -> nn.Sequential:
    """3x3 convolution without bias, batch norm, ReLU."""
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
            bn=nn.BatchNorm2d(out_channels),
            relu=nn.ReLU(inplace=True),
        )
    )


def set_bn_momentum(net: nn.Module, momentum: float) -> None:
    """Set the momentum of every batch norm, in place."""
    if not 0 <= momentum <= 1:
        raise ValueError(f"bn_momentum is the share of the new statistics, 0..1, got {momentum}")
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = momentum
