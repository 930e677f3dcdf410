"""mmsegmentation's EMANet: its differences from the paper's as named options, and its checkpoints under our names.

Names, shapes and settings are facts of open-mmlab/mmsegmentation 1.2.2, ``mmseg/models/decode_heads/ema_head.py`` and
``configs/emanet`` (FACTS section 2). ``python -m emanet.mmseg FILE.pth FOLDER`` converts a checkpoint.
"""

import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from emanet.emau import EMAU, e_step
from emanet.errors import WeightsError
from emanet.hub import Description
from emanet.network import FC1_CHANNELS, EMANet, conv_bn_relu, set_bn_momentum
from emanet.weights import load_weights, read_checkpoint, unwrap_state_dict

Eps = Literal["added", "floor"]

AUX_CHANNELS = 256  # of the auxiliary head
AUX_WEIGHT = 0.4  # of its loss, beside 1 for the head's
UNIT_OPTIONS = ("K", "T", "T_eval", "momentum", "norm", "maintenance", "gradient", "renormalise")


class MMSegEMAU(EMAU):
    """The unit with the port's two differences; with ``eps="added"`` and ``normalise_mean=False`` it is the paper's.

    Args:
        channels: channels c of the input and of the output.
        eps: what keeps a division by a norm finite. ``added``: 1e-6 is added, as the authors do; ``floor``: the norm
            is at least 1e-12, as ``torch.nn.functional.normalize`` does.
        normalise_mean: L2-normalise the batch's mean bases before the moving average takes them in.
        options: see :class:`~emanet.emau.EMAU`.

    Raises:
        ValueError: for an ``eps`` that does not go with the other options.
    """

    def __init__(self, channels: int, *, eps: Eps = "floor", normalise_mean: bool = True, **options: Any) -> None:
        super().__init__(channels, **options)
        if eps not in get_args(Eps):
            raise ValueError(f"eps must be one of {', '.join(get_args(Eps))}, got eps={eps!r}")
        if eps == "floor" and (self.norm, self.gradient) != ("l2", "none"):
            raise ValueError(f"eps=floor needs norm=l2 and gradient=none, got norm={self.norm}, gradient={self.gradient}")
        self.eps: Eps = eps
        self.normalise_mean = normalise_mean

    def attend(self, x: Float[Tensor, "b c h w"]) -> tuple[Float[Tensor, "b n k"], Float[Tensor, "b c k"]]:
        """Responsibilities and final bases, with norms bounded from below instead of raised."""
        if self.eps == "added":
            return super().attend(x)
        z = x.new_empty(0)
        with torch.no_grad():
            pixels = self.conv1(x).flatten(2)
            mu = self.mu.expand(x.shape[0], -1, -1)
            for _ in range(self.iterations):
                z = e_step(pixels, mu)
                mu = F.normalize(pixels @ F.normalize(z, p=1.0, dim=1), dim=1)
        return z, mu

    def update_bases(self, mu: Float[Tensor, "b c k"]) -> None:
        """Move the stored bases towards the batch's mean, normalised first if so configured."""
        mean = mu.mean(dim=0, keepdim=True)
        super().update_bases(F.normalize(mean, dim=1) if self.normalise_mean else mean)


class MMSegEMANet(EMANet):
    """EMANet as mmsegmentation builds it; with every option at the paper's value it computes what the paper's does.

    Args:
        num_classes: number of classes.
        backbone: a timm ResNet; ``resnet50c`` and ``resnet101c`` (stem 32-32-64, ResNetV1c) are the port's.
        multi_grid: see :class:`~emanet.backbone.Backbone`; the port has none (paper: 1, 2, 4).
        channels: width of the attention unit.
        eps, normalise_mean: see :class:`MMSegEMAU` (paper: added, false).
        concat: join the backbone's features to fc1's, and reduce them by a 3x3 convolution (paper: false).
        align_corners: of the upsampled logits; the port's 769x769 configurations say true (paper: true).
        aux_weight: weight of the loss of a small head on the third stage, in training; 0: no such head (paper: 0).
        dropout: share of the channels dropped before each classifier.
        bn_momentum: share of the new statistics in the running ones; PyTorch's default in the port (paper: 3e-4).
        options: see :class:`~emanet.network.EMANet`.

    Raises:
        ValueError: for values out of range, or a backbone without a third stage.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: str = "resnet50c",
        multi_grid: list[int] | None = None,
        channels: int = 512,
        eps: Eps = "floor",
        normalise_mean: bool = True,
        concat: bool = True,
        align_corners: bool = False,
        aux_weight: float = AUX_WEIGHT,
        dropout: float = 0.1,
        bn_momentum: float = 0.1,
        **options: Any,
    ) -> None:
        if aux_weight < 0:
            raise ValueError(f"aux_weight must be 0 (no auxiliary head) or more, got {aux_weight}")
        unit = {name: options[name] for name in UNIT_OPTIONS if name in options}
        emau = MMSegEMAU(channels, eps=eps, normalise_mean=normalise_mean, **unit)
        super().__init__(
            num_classes, backbone=backbone, multi_grid=multi_grid, channels=channels, dropout=dropout, **options
        )
        if aux_weight and "layer3" not in self.backbone.body:
            raise ValueError(f"the auxiliary head sits on a ResNet's layer3, which {backbone!r} lacks: set aux_weight=0")
        self.emau = emau
        self.align_corners = align_corners
        width = self.backbone.channels
        self.fc_cat = conv_bn_relu(width + FC1_CHANNELS, FC1_CHANNELS) if concat else None
        self.aux = fcn_head(width // 2, num_classes, dropout=dropout) if aux_weight else None
        self.aux_weights = (aux_weight,) if aux_weight else ()
        set_bn_momentum(self, bn_momentum)

    def forward(self, image: Float[Tensor, "b 3 h w"], return_bases: bool = False) -> Any:
        """Logits at the size of the image; with ``return_bases`` also the bases, and in training the auxiliary logits."""
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

    def classify(
        self, x: Float[Tensor, "b d h w"]
    ) -> tuple[Float[Tensor, "b classes h w"], Float[Tensor, "b c k"]]:
        """Logits and final bases from the backbone's features."""
        attended, mu = self.emau(self.fc0(x))
        reduce, dropout = self.fc1
        y = reduce(attended)
        if self.fc_cat is not None:
            y = self.fc_cat(torch.cat([x, y], dim=1))
        return self.fc2(dropout(y)), mu

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


# --- checkpoints ----------------------------------------------------------------------------------------------------

#: the port's name of each part, and ours
PARTS = {
    "backbone.stem.0.": "backbone.body.conv1.0.",
    "backbone.stem.1.": "backbone.body.conv1.1.",
    "backbone.stem.3.": "backbone.body.conv1.3.",
    "backbone.stem.4.": "backbone.body.conv1.4.",
    "backbone.stem.6.": "backbone.body.conv1.6.",
    "backbone.stem.7.": "backbone.body.bn1.",
    "backbone.layer": "backbone.body.layer",
    "decode_head.ema_in_conv.": "fc0.",
    "decode_head.ema_mid_conv.conv.": "emau.conv1.",
    "decode_head.ema_module.bases": "emau.mu",
    "decode_head.ema_out_conv.conv.": "emau.conv2.0.",
    "decode_head.ema_out_conv.bn.": "emau.conv2.1.",
    "decode_head.bottleneck.": "fc1.0.",
    "decode_head.conv_cat.": "fc_cat.",
    "decode_head.conv_seg.": "fc2.",
    "auxiliary_head.convs.0.": "aux.0.",
    "auxiliary_head.conv_seg.": "aux.2.",
}
BACKBONES = {6: "resnet50c", 23: "resnet101c", 36: "resnet152c"}  # by the number of blocks in the third stage
TELLING = ("decode_head.ema_module.bases", "decode_head.conv_seg.weight", "backbone.stem.0.weight")


def is_mmseg(state: Mapping[str, Any]) -> bool:
    """Whether a state dict is that of mmsegmentation's EMANet."""
    return TELLING[0] in state


def convert_state_dict(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of mmsegmentation's EMANet under our names; a name that is not known stays, to be refused later."""
    renamed = {}
    for key, value in state.items():
        part = next((part for part in PARTS if key.startswith(part)), "")
        renamed[PARTS.get(part, "") + key.removeprefix(part)] = value
    return renamed


def infer_options(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Backbone, classes, channels, K and the parts of the head that a checkpoint holds.

    Raises:
        WeightsError: if it is not one of mmsegmentation's EMANet with ResNetV1c.
    """
    if missing := [key for key in TELLING if key not in state]:
        raise WeightsError(
            f"this is no checkpoint of mmsegmentation's EMANet: it lacks {', '.join(missing)}; its keys begin with "
            f"{', '.join(list(state)[:3])}"
        )
    blocks = len({key.split(".")[2] for key in state if key.startswith("backbone.layer3.")})
    if blocks not in BACKBONES:
        raise WeightsError(
            f"backbone.layer3 has {blocks} blocks; ResNetV1c-50, 101 and 152 have {', '.join(map(str, BACKBONES))}"
        )
    _, channels, K = state["decode_head.ema_module.bases"].shape
    return {
        "num_classes": state["decode_head.conv_seg.weight"].shape[0],
        "backbone": BACKBONES[blocks],
        "channels": channels,
        "K": K,
        "concat": "decode_head.conv_cat.conv.weight" in state,
        "aux_weight": AUX_WEIGHT if "auxiliary_head.conv_seg.weight" in state else 0.0,
    }


def load_mmseg_checkpoint(
    path_or_content: str | Path | Mapping, *, output_stride: int = 8, align_corners: bool = False, T: int = 3
) -> MMSegEMANet:
    """Build the network that a checkpoint of mmsegmentation's EMANet holds, with class names where it stores them.

    Args:
        path_or_content: a file (read without executing code from it) or its content.
        output_stride: input pixels per feature; no property of the weights.
        align_corners: of the upsampling: true for the port's 769x769 configurations; no property of the weights.
        T: EM iterations; no property of the weights.

    Raises:
        WeightsError: for a file that cannot be read safely, and for tensors that do not fit; names each of them.
    """
    content = path_or_content if isinstance(path_or_content, Mapping) else read_foreign_checkpoint(path_or_content)
    state = unwrap_state_dict(content)
    net = MMSegEMANet(**infer_options(state), output_stride=output_stride, align_corners=align_corners, T=T)
    load_weights(net, convert_state_dict(state), source="the mmsegmentation checkpoint")
    net.description = describe(content.get("meta"), net)
    return net.eval()


def read_foreign_checkpoint(path: str | Path) -> dict:
    """Read a file with tensors and plain containers; one that pickles mmengine's objects is refused with a way out."""
    try:
        return read_checkpoint(path)
    except WeightsError as error:
        if "was refused" not in str(error):
            raise
        raise WeightsError(
            f"{error} mmengine's own checkpoints pickle loggers and numpy objects beside the weights. If you trust the "
            "file's origin, strip them where mmengine is installed: python -c \"import torch; torch.save({'state_dict': "
            f"torch.load('{path}', weights_only=False)['state_dict']}}, 'weights.pth')\" and give weights.pth"
        ) from error


def describe(meta: Any, net: MMSegEMANet) -> Description | None:
    """Class names and palette that mmsegmentation stores beside the weights, in the old or the new way."""
    meta = meta if isinstance(meta, Mapping) else {}
    stored = {str(key).lower(): value for key, value in dict(meta.get("dataset_meta") or meta).items()}
    names, palette = stored.get("classes"), stored.get("palette")
    if not names or len(names) != net.num_classes:
        return None
    return Description(
        dataset="mmsegmentation",
        class_names=list(map(str, names)),
        palette=[list(map(int, color)) for color in palette] if palette else None,
    )


def main(arguments: list[str]) -> None:
    """Convert FILE to FOLDER, which ``EMANet.from_pretrained`` and the scripts read."""
    if len(arguments) != 2:
        sys.exit("usage: python -m emanet.mmseg FILE.pth FOLDER")
    try:
        load_mmseg_checkpoint(arguments[0]).save_pretrained(arguments[1])
    except WeightsError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
