"""EMANet: backbone, channel reduction, expectation-maximization attention, classifier (paper section 3)."""

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from emanet.common.checks import at_least_one, share
from emanet.model.backbone import Backbone, find_level
from emanet.model.heads import build_head, options_of, reads_backbone
from emanet.model.heads.layers import conv_bn_relu
from emanet.model.hub import HubMixin
from emanet.model.skips import Skips

FC1_CHANNELS = 256  # of fc1, for every width of the attention unit (FACTS section 1)


class Attention(NamedTuple):
    """What an attention unit sees in a batch of images."""

    z: Float[Tensor, "b n k"]  #: responsibilities of each feature pixel
    mu: Float[Tensor, "b c k"]  #: each image's final bases
    size: tuple[int, int]  #: height and width of the features, n = height * width


class EMANet(nn.Module, HubMixin):
    """The paper's network: ``net(image) -> logits`` at the size of the image.

    backbone -> fc0 (3x3, ``channels``) -> head -> fc1 (3x3, 256) -> Dropout2d -> fc2 (1x1) -> bilinear upsampling with
    aligned corners. Images of size 1 modulo ``output_stride`` keep pixels and features aligned.

    Args:
        num_classes: number of classes.
        backbone: timm model name; ``resnet50s``, ``resnet101s`` and ``resnet152s`` are the paper's.
        output_stride: input pixels per feature: 8 (the paper's), 16 or 32.
        multi_grid: dilation factors of a ResNet's last stage, see :class:`~emanet.model.backbone.Backbone`.
        pretrained: ``True`` for timm's ImageNet weights, a path for a local file, ``False`` for none.
        head: ``ema``, the paper's, another name of :data:`emanet.model.heads.HEADS`, or a class
            of one's own, itself or as ``module.Class``.
        channels: width of the head: 512 or 256 in the paper.
        dropout: share of fc1's channels dropped in training.
        bn_momentum: share of the *new* statistics in every batch norm's running mean, backbone included.
        skips: finer strides whose features are joined before the classifier, and the image itself
            (:mod:`emanet.model.skips`); the paper has none.
        skip_channels: width of the joined features.
        options: of the head, such as ``K``, ``T``, ``T_eval``, ``momentum`` of :class:`~emanet.model.emau.EMAU`.

    Raises:
        ValueError: for values out of range, options that the head does not have, an unknown backbone, or one without
            features at the stride.
        WeightsError: for weights that cannot be fetched or do not fit.
    """

    align_corners: bool = True  # of the upsampled logits
    aux_weights: tuple[float, ...] = ()  # of the losses of auxiliary logits, which follow the bases in training

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: str = "resnet101s",
        output_stride: int = 8,
        multi_grid: Sequence[int] | None = (1, 2, 4),
        pretrained: bool | str | Path = False,
        head: str | type[nn.Module] = "ema",
        channels: int = 512,
        dropout: float = 0.1,
        bn_momentum: float = 3e-4,
        skips: Sequence[int] = (),
        skip_channels: int = 64,
        **options: Any,
    ) -> None:
        super().__init__()
        at_least_one(num_classes=num_classes, skip_channels=skip_channels)
        share(dropout=dropout, bn_momentum=bn_momentum)
        # The head first: its settings are refused before a backbone is built or its weights are fetched.
        width = find_level(backbone, output_stride).channels
        options["channels"] = channels
        self.head: Any = build_head(head, in_channels=width, output_stride=output_stride, options=options)
        self.head_name = head if isinstance(head, str) else f"{head.__module__}.{head.__qualname__}"
        self.num_classes = num_classes
        self.backbone = Backbone(
            backbone, output_stride=output_stride, multi_grid=multi_grid, pretrained=pretrained, skips=skips
        )
        self.fc0: nn.Module = nn.Identity()
        if not reads_backbone(type(self.head)):
            self.fc0 = conv_bn_relu(width, channels)
        given: int = getattr(self.head, "out_channels", channels)
        self.fc1 = nn.Sequential(conv_bn_relu(given, FC1_CHANNELS), nn.Dropout2d(dropout))
        self.skips = Skips(FC1_CHANNELS, [*self.backbone.skip_channels, 3], skip_channels) if skips else None
        self.fc2 = nn.Conv2d(skip_channels if skips else FC1_CHANNELS, num_classes, 1)
        set_bn_momentum(self, bn_momentum)

    @classmethod
    def further_arguments(cls, node: Mapping[str, Any]) -> dict[str, inspect.Parameter]:
        """What ``options`` may hold, for the head that a configuration names."""
        return options_of(node.get("head", "ema"))

    @property
    def output_stride(self) -> int:
        """Input pixels per feature."""
        return self.backbone.output_stride

    def forward(self, image: Float[Tensor, "b 3 h w"], return_bases: bool = False, low: bool = False) -> Any:
        """Logits (b, classes, h, w) at the size of the image, or as they are before upsampling (``low``).

        Whoever upsamples those takes bilinear interpolation and :attr:`align_corners`. With ``return_bases`` also each
        image's final bases (b, c, k), ``None`` where the head has none.
        """
        *finer, features = self.backbone.levels(image)
        logits, mu = self.classify(features, [*finer, image])
        logits = logits if low else self.upsample(logits, image)
        return (logits, mu) if return_bases else logits

    def classify(
        self, features: Float[Tensor, "b d h w"], finer: Sequence[Tensor] = ()
    ) -> tuple[Float[Tensor, "b classes height width"], Tensor | None]:
        """Logits and final bases from the backbone's features; at the output stride, or that of the finest skip."""
        x = self.fc0(features)
        del features  # 35 MB an image at 513 pixels, which nobody needs from here on
        x, mu = self.head(x)
        return self.fc2(self.joined(self.fc1(x), finer)), mu

    def joined(self, x: Float[Tensor, "b c h w"], finer: Sequence[Tensor]) -> Float[Tensor, "b c2 height width"]:
        """What the classifier reads: features as they are, or joined with finer ones."""
        return x if self.skips is None else self.skips(x, finer)

    def upsample(
        self, logits: Float[Tensor, "b classes h w"], image: Tensor
    ) -> Float[Tensor, "b classes height width"]:
        """Logits at the size of the image."""
        return F.interpolate(logits, size=image.shape[-2:], mode="bilinear", align_corners=self.align_corners)

    @property
    def has_bases(self) -> bool:
        """Whether the head describes an image by bases, which :meth:`attend` gives."""
        return hasattr(self.head, "update_bases")

    def attend(self, image: Float[Tensor, "b 3 h w"]) -> Attention:
        """Responsibilities and bases of images, for whoever draws or measures them.

        Raises:
            ValueError: for a head without bases.
        """
        if not self.has_bases:
            raise ValueError(f"head={self.head_name} has no bases: attention is that of head=ema")
        x = self.fc0(self.backbone(image))
        z, mu = self.head.attend(x)
        return Attention(z, mu, (x.shape[2], x.shape[3]))

    def update_bases(self, mu: Tensor | None) -> None:
        """Move the stored bases towards the mean of ``mu``, once per optimizer step; no bases, nothing to move."""
        if mu is not None and self.has_bases:
            self.head.update_bases(mu)


def set_bn_momentum(net: nn.Module, momentum: float) -> None:
    """Set the momentum of every batch norm, in place."""
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = momentum
