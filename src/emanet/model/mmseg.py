"""mmsegmentation's EMANet: its differences from the paper's as named options.

Settings are facts of open-mmlab/mmsegmentation 1.2.2, ``mmseg/models/decode_heads/ema_head.py`` and
``configs/_base_/models/emanet_r50-d8.py`` (FACTS section 2). Its checkpoints: :mod:`emanet.checkpoints.mmseg`.
"""

from functools import partial
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from emanet.model.emau import EMAU, e_step
from emanet.model.heads import EMA
from emanet.model.network import FC1_CHANNELS, EMANet, conv_bn_relu, set_bn_momentum

Eps = Literal["added", "floor"]

AUX_CHANNELS = 256  # of the auxiliary head
AUX_WEIGHT = 0.4  # of its loss, beside 1 for the head's
UNIT_OPTIONS = ("K", "T", "T_eval", "momentum", "norm", "maintenance", "gradient")


class MMSegEMAU(EMAU):
    """The unit with the port's two differences; with ``eps="added"`` and ``normalize_mean=False`` it is the paper's.

    Args:
        channels: channels c of the input and of the output.
        eps: what keeps a division by a norm finite. ``added``: 1e-6 is added, as the authors do; ``floor``: the norm
            is at least 1e-12, as ``torch.nn.functional.normalize`` does.
        normalize_mean: L2-normalize the batch's mean bases before the moving average takes them in.
        options: see :class:`~emanet.model.emau.EMAU`.

    Raises:
        ValueError: for an ``eps`` that does not go with the other options.
    """

    def __init__(self, channels: int, *, eps: str = "floor", normalize_mean: bool = True, **options: Any) -> None:
        super().__init__(channels, **options)
        if eps not in get_args(Eps):
            raise ValueError(f"eps must be one of {', '.join(get_args(Eps))}, got eps={eps!r}")
        if eps == "floor" and (self.norm, self.gradient) != ("l2", "none"):
            raise ValueError(
                f"eps=floor needs norm=l2 and gradient=none, got norm={self.norm}, gradient={self.gradient}"
            )
        self.eps = eps
        self.normalize_mean = normalize_mean

    def run_em(self, pixels: Float[Tensor, "b c n"]) -> tuple[Float[Tensor, "b n k"], Float[Tensor, "b c k"]]:
        """EM from the stored bases, with norms bounded from below instead of raised."""
        if self.eps == "added":
            return super().run_em(pixels)
        z, mu = pixels.new_empty(0), self.mu.expand(pixels.shape[0], -1, -1)
        for _ in range(self.iterations):
            z = e_step(pixels, mu)
            mu = F.normalize(pixels @ F.normalize(z, p=1.0, dim=1), dim=1)
        return z, mu

    def update_bases(self, mu: Float[Tensor, "b c k"]) -> None:
        """Move the stored bases towards the batch's mean, normalized first if so configured."""
        mean = mu.mean(dim=0, keepdim=True)
        super().update_bases(F.normalize(mean, dim=1) if self.normalize_mean else mean)


class MMSegEMANet(EMANet):
    """EMANet as mmsegmentation builds it; with every option at the paper's value it computes what the paper's does.

    Args:
        num_classes: number of classes.
        backbone: a timm ResNet; ``resnet50c`` and ``resnet101c`` (stem 32-32-64, ResNetV1c) are the port's.
        multi_grid: see :class:`~emanet.model.backbone.Backbone`; the port has none (paper: 1, 2, 4).
        channels: width of the attention unit.
        eps, normalize_mean: see :class:`MMSegEMAU` (paper: added, false).
        concat: join the backbone's features to fc1's, and reduce them by a 3x3 convolution (paper: false).
        align_corners: of the upsampled logits; the port's 769x769 configurations say true (paper: true).
        aux_weight: weight of the loss of a small head on the third stage, in training; 0: no such head (paper: 0).
        dropout: share of the channels dropped before each classifier.
        bn_momentum: share of the new statistics in the running ones; PyTorch's default in the port (paper: 3e-4).
        options: see :class:`~emanet.model.network.EMANet`.

    Raises:
        ValueError: for values out of range, a backbone without a third stage, or another head.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: str = "resnet50c",
        multi_grid: list[int] | None = None,
        channels: int = 512,
        eps: str = "floor",
        normalize_mean: bool = True,
        concat: bool = True,
        align_corners: bool = False,
        aux_weight: float = AUX_WEIGHT,
        dropout: float = 0.1,
        bn_momentum: float = 0.1,
        **options: Any,
    ) -> None:
        if aux_weight < 0:
            raise ValueError(f"aux_weight must be 0 (no auxiliary head) or more, got {aux_weight}")
        if (head := options.get("head", EMA)) != EMA:
            raise ValueError(f"mmsegmentation's EMANet has head=ema alone, got head={head!r}: use model=emanet")
        unit = {name: options[name] for name in UNIT_OPTIONS if options.get(name) is not None}  # None: the default
        emau = MMSegEMAU(channels, eps=eps, normalize_mean=normalize_mean, **unit)
        super().__init__(
            num_classes, backbone=backbone, multi_grid=multi_grid, channels=channels, dropout=dropout, **options
        )
        if aux_weight and "layer3" not in self.backbone.body:
            raise ValueError(
                f"the auxiliary head sits on a ResNet's layer3, which {backbone!r} lacks: set aux_weight=0"
            )
        self.emau = emau
        self.align_corners = align_corners
        width = self.backbone.channels
        self.fc_cat = None
        if concat:  # takes over fc1's dropout, which comes right before the classifier
            self.fc_cat = nn.Sequential(conv_bn_relu(width + FC1_CHANNELS, FC1_CHANNELS), self.fc1.pop(1))
        self.aux = fcn_head(width // 2, num_classes, dropout=dropout) if aux_weight else None
        self.aux_weights = (aux_weight,) if aux_weight else ()
        set_bn_momentum(self, bn_momentum)

    def forward(self, image: Float[Tensor, "b 3 h w"], return_bases: bool = False, low: bool = False) -> Any:
        """Logits at the image's size, or at the output stride (``low``); with ``return_bases`` the bases too, and in
        training the auxiliary logits.
        """
        upsample: Any = nn.Identity()
        if not low:
            upsample = partial(F.interpolate, size=image.shape[-2:], mode="bilinear", align_corners=self.align_corners)
        third, last = self.stages(image)
        logits_low, mu = self.classify(last)
        logits = upsample(logits_low)
        if not return_bases:
            return logits
        if self.aux is None or not self.training:
            return logits, mu
        return logits, mu, upsample(self.aux(third))

    def forward_low(
        self, image: Float[Tensor, "b 3 H W"]
    ) -> tuple[Float[Tensor, "b classes h w"], Float[Tensor, "b c k"]]:
        """Logits at the output stride, and each image's final bases."""
        return self.classify(self.backbone(image))

    def classify(self, x: Float[Tensor, "b d h w"]) -> tuple[Float[Tensor, "b classes h w"], Float[Tensor, "b c k"]]:
        """Logits and final bases from the backbone's features."""
        y, mu = self.emau(self.fc0(x))
        y = self.fc1(y)
        if self.fc_cat is not None:
            y = self.fc_cat(torch.cat([x, y], dim=1))
        return self.fc2(y), mu

    def stages(self, image: Float[Tensor, "b 3 h w"]) -> tuple[Tensor, Tensor]:
        """The third stage's features, which only the auxiliary head needs, and the last ones."""
        if self.aux is None or not self.training:
            features = self.backbone(image)
            return features, features
        x = third = image
        for name, stage in self.backbone.body.items():
            x = stage(x)
            third = x if name == "layer3" else third
        return third, x


def fcn_head(in_channels: int, num_classes: int, *, dropout: float) -> nn.Sequential:
    """3x3 convolution, dropout, classifier."""
    classifier = nn.Conv2d(AUX_CHANNELS, num_classes, 1)
    return nn.Sequential(conv_bn_relu(in_channels, AUX_CHANNELS), nn.Dropout2d(dropout), classifier)
