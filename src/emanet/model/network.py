"""EMANet: backbone, channel reduction, expectation-maximization attention, classifier (paper section 3)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from emanet.model.backbone import Backbone
from emanet.model.emau import EMAU, Gradient, Maintenance, Norm
from emanet.model.heads import EMA, build_head
from emanet.model.heads.layers import conv_bn_relu
from emanet.model.hub import HubMixin

FC1_CHANNELS = 256  # of fc1, for every width of the attention unit (FACTS section 1)


class EMANet(nn.Module, HubMixin):
    """The paper's network: ``net(image) -> logits`` at the size of the image.

    backbone -> fc0 (3x3, ``channels``) -> EMAU -> fc1 (3x3, 256) -> Dropout2d -> fc2 (1x1) -> bilinear upsampling with
    aligned corners. Images of size 1 modulo ``output_stride`` keep pixels and features aligned. Another ``head`` stands
    in place of EMAU (some of fc0 as well) and has no bases: ``mu`` is then of shape (b, 0, 0).

    Args:
        num_classes: number of classes.
        backbone: timm model name; ``resnet50s``, ``resnet101s`` and ``resnet152s`` are the paper's.
        output_stride: input pixels per feature: 8 (the paper's), 16 or 32.
        multi_grid: dilation factors of a ResNet's last stage, see :class:`~emanet.model.backbone.Backbone`.
        pretrained: ``True`` for timm's ImageNet weights, a path for a local file, ``False`` for none.
        head: ``ema``, the paper's, or a rival of :mod:`emanet.model.heads`, which takes the options it knows.
        channels: width of the head: 512 or 256 in the paper.
        K, T, T_eval, momentum, norm, maintenance, gradient: see :class:`~emanet.model.emau.EMAU`; a
            ``gradient`` of ``None`` is the head's own default.
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
        head: str = EMA,
        channels: int = 512,
        K: int = 64,
        T: int = 3,
        T_eval: int | None = None,
        momentum: float = 0.9,
        norm: Norm = "l2",
        maintenance: Maintenance = "moving_average",
        gradient: Gradient | None = None,
        dropout: float = 0.1,
        bn_momentum: float = 3e-4,
    ) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        # The unit first: its settings are refused before a backbone is built or its weights are fetched.
        options: dict[str, Any] = {"K": K, "T": T, "T_eval": T_eval}
        emau = None
        if head == EMA:
            emau = EMAU(
                channels,
                momentum=momentum,
                norm=norm,
                maintenance=maintenance,
                gradient=gradient or "none",
                **options,
            )
        self.num_classes = num_classes
        self.backbone = Backbone(backbone, output_stride=output_stride, multi_grid=multi_grid, pretrained=pretrained)
        self.fc0: Any
        self.head: Any = None
        if emau is not None:
            self.fc0 = conv_bn_relu(self.backbone.channels, channels)
            self.emau = emau
        else:
            options |= {"gradient": gradient, "output_stride": output_stride}
            self.fc0, self.head, channels = build_head(head, self.backbone.channels, channels, **options)
        self.fc1 = nn.Sequential(conv_bn_relu(channels, FC1_CHANNELS), nn.Dropout2d(dropout))
        self.fc2 = nn.Conv2d(FC1_CHANNELS, num_classes, 1)
        set_bn_momentum(self, bn_momentum)

    align_corners: bool = True  # of the upsampled logits

    @property
    def output_stride(self) -> int:
        """Input pixels per feature."""
        return self.backbone.output_stride

    def forward(
        self, image: Float[Tensor, "b 3 h w"], return_bases: bool = False, low: bool = False
    ) -> Float[Tensor, "b classes y x"] | tuple[Float[Tensor, "b classes y x"], Float[Tensor, "b c k"]]:
        """Logits at the size of the image, or as they are at the output stride (``low``): whoever upsamples those takes
        bilinear interpolation and :attr:`align_corners`. With ``return_bases`` also each image's final bases.
        """
        logits, mu = self.forward_low(image)
        if not low:
            logits = F.interpolate(logits, size=image.shape[-2:], mode="bilinear", align_corners=self.align_corners)
        return (logits, mu) if return_bases else logits

    def forward_low(
        self, image: Float[Tensor, "b 3 H W"]
    ) -> tuple[Float[Tensor, "b classes h w"], Float[Tensor, "b c k"]]:
        """Logits at the output stride, and each image's final bases."""
        x = self.fc0(self.backbone(image))
        x, mu = self.emau(x) if self.head is None else (self.head(x), x.new_empty(len(x), 0, 0))
        return self.fc2(self.fc1(x)), mu

    def update_bases(self, mu: Float[Tensor, "b c k"]) -> None:
        """Move the stored bases towards the mean of ``mu``, once per optimizer step; another head has none to move."""
        if self.head is None:
            self.emau.update_bases(mu)


def set_bn_momentum(net: nn.Module, momentum: float) -> None:
    """Set the momentum of every batch norm, in place."""
    if not 0 <= momentum <= 1:
        raise ValueError(f"bn_momentum is the share of the new statistics, 0..1, got {momentum}")
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = momentum
