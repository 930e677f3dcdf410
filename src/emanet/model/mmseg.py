"""mmsegmentation's EMANet: its differences from the paper's as named options.

Settings are facts of open-mmlab/mmsegmentation 1.2.2, ``mmseg/models/decode_heads/ema_head.py`` and
``configs/_base_/models/emanet_r50-d8.py`` (FACTS section 2). Its checkpoints: :mod:`emanet.checkpoints.mmseg`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from emanet.model.heads.layers import conv_bn_relu
from emanet.model.network import FC1_CHANNELS, EMANet, set_bn_momentum

AUX_CHANNELS = 256  # of the auxiliary head
AUX_WEIGHT = 0.4  # of its loss, beside 1 for the head's


class MMSegEMANet(EMANet):
    """EMANet as mmsegmentation builds it; with every option at the paper's value it computes what the paper's does.

    Args:
        num_classes: number of classes.
        backbone: a timm ResNet; ``resnet50c`` and ``resnet101c`` (stem 32-32-64, ResNetV1c) are the port's.
        multi_grid: see :class:`~emanet.model.backbone.Backbone`; the port has none (paper: 1, 2, 4).
        head: ``ema_mmseg``, the port's unit, or any other.
        concat: join the backbone's features to fc1's, and reduce them by a 3x3 convolution (paper: false).
        align_corners: of the upsampled logits; the port's 769x769 configurations say true (paper: true).
        aux_weight: weight of the loss of a small head on the third stage, in training; 0: no such head (paper: 0).
        dropout: share of the channels dropped before each classifier.
        bn_momentum: share of the new statistics in the running ones; PyTorch's default in the port (paper: 3e-4).
        options: see :class:`~emanet.model.network.EMANet`.

    Raises:
        ValueError: for values out of range, or a backbone without a third stage.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: str = "resnet50c",
        multi_grid: Sequence[int] | None = None,
        head: str | type[nn.Module] = "ema_mmseg",
        concat: bool = True,
        align_corners: bool = False,
        aux_weight: float = AUX_WEIGHT,
        dropout: float = 0.1,
        bn_momentum: float = 0.1,
        **options: Any,
    ) -> None:
        if aux_weight < 0:
            raise ValueError(f"aux_weight must be 0 (no auxiliary head) or more, got {aux_weight}")
        super().__init__(num_classes, backbone=backbone, multi_grid=multi_grid, head=head, dropout=dropout, **options)
        if aux_weight and "layer3" not in self.backbone.body:
            raise ValueError(
                f"the auxiliary head sits on a ResNet's layer3, which {backbone!r} lacks: set aux_weight=0"
            )
        if aux_weight and self.skips is not None:
            raise ValueError("skips are not joined where an auxiliary head is trained: set aux_weight=0")
        self.align_corners = align_corners
        width = self.backbone.channels
        self.fc_cat = None
        if concat:  # takes over fc1's dropout, which comes right before the classifier
            self.fc_cat = nn.Sequential(conv_bn_relu(width + FC1_CHANNELS, FC1_CHANNELS), self.fc1.pop(1))
        self.aux = fcn_head(width // 2, num_classes, dropout=dropout) if aux_weight else None
        self.aux_weights = (aux_weight,) if aux_weight else ()
        set_bn_momentum(self, bn_momentum)

    def forward(self, image: Float[Tensor, "b 3 h w"], return_bases: bool = False, low: bool = False) -> Any:
        """As of :class:`~emanet.model.network.EMANet`; with ``return_bases``, in training, the auxiliary logits too."""
        if self.aux is None or not (self.training and return_bases):
            return super().forward(image, return_bases, low)
        x = third = image
        for name, stage in self.backbone.body.items():
            x = stage(x)
            third = x if name == "layer3" else third
        logits, mu = self.classify(x)
        aux = self.aux(third)
        return (logits, mu, aux) if low else (self.upsample(logits, image), mu, self.upsample(aux, image))

    def classify(
        self, features: Float[Tensor, "b d h w"], finer: Sequence[Tensor] = ()
    ) -> tuple[Float[Tensor, "b classes height width"], Tensor | None]:
        """Logits and final bases from the backbone's features."""
        y, mu = self.head(self.fc0(features))
        y = self.fc1(y)
        if self.fc_cat is not None:
            y = self.fc_cat(torch.cat([features, y], dim=1))
        return self.fc2(self.joined(y, finer)), mu


def fcn_head(in_channels: int, num_classes: int, *, dropout: float) -> nn.Sequential:
    """3x3 convolution, dropout, classifier."""
    classifier = nn.Conv2d(AUX_CHANNELS, num_classes, 1)
    return nn.Sequential(conv_bn_relu(in_channels, AUX_CHANNELS), nn.Dropout2d(dropout), classifier)
