"""Backbones: any timm feature extractor at a chosen output stride; the paper's ResNets with their multi-grid."""

import difflib
import logging
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.layers import Format
from timm.models.resnet import Bottleneck
from torch import Tensor, nn

from emanet.common.checks import at_least_one
from emanet.common.errors import WeightsError
from emanet.model.weights import fit_classifier_weights, read_state_dict

log = logging.getLogger(__name__)
logging.getLogger("timm.models._builder").setLevel(logging.ERROR)  # warns of the last layers, which a backbone drops

OUTPUT_STRIDES = (8, 16, 32)
DILATING_FAMILIES = "resnet*, resnext*, regnet*, convnext*, efficientnet*, tf_efficientnet*, mobilenetv3*"


class Backbone(nn.Module):
    """The deepest features of a timm model at ``output_stride``.

    Args:
        name: timm model name. ``resnet50s``, ``resnet101s`` and ``resnet152s`` are the paper's (deep stem 64-64-128).
        output_stride: input pixels per feature, 8, 16 or 32.
        multi_grid: dilation factors of the last stage's blocks, for bottleneck ResNets at stride 8 or 16; the first
            entry is not used, as in the authors' code: stride 8 gives dilations 2, 8, 16 (FACTS section 1).
            Other families keep their own dilations.
        pretrained: ``True`` for timm's ImageNet weights, a path for a local file in timm's layout, ``False`` for none.
        skips: finer strides whose features :meth:`levels` gives as well.

    Raises:
        ValueError: for a backbone that is unknown or has no features at this stride.
        WeightsError: for weights that cannot be fetched or do not fit.
    """

    body: Any

    def __init__(
        self,
        name: str = "resnet101s",
        *,
        output_stride: int = 8,
        multi_grid: Sequence[int] | None = (1, 2, 4),
        pretrained: bool | str | Path = False,
        skips: Sequence[int] = (),
    ) -> None:
        super().__init__()
        place, self.channels, self.pads, options = find_level(name, output_stride)
        self.name = name
        self.output_stride = output_stride
        finer = find_skips(name, output_stride, skips)
        self.skip_channels = [channels for _, channels in finer]
        places = (*(index for index, _ in finer), place)
        self.body = create_features(name, pretrained=pretrained, out_indices=places, **options)
        if multi_grid is not None:
            at_least_one(**{f"multi_grid[{i}]": factor for i, factor in enumerate(multi_grid)})
            apply_multi_grid(self.body, output_stride, multi_grid)

    def levels(self, image: Float[Tensor, "b 3 H W"]) -> list[Tensor]:
        """The features at each of ``skips``, the finest first, and then those at ``output_stride``."""
        return self.body(image) if self.skip_channels else [self(image)]

    def forward(self, image: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b c h w"]:
        """Features at ``output_stride``."""
        if not self.pads:
            return deepest(self.body, image)
        height, width = image.shape[-2:]
        features = deepest(self.body, F.pad(image, (0, -width % 32, 0, -height % 32)))
        return features[..., : -(-height // self.output_stride), : -(-width // self.output_stride)].contiguous()


def deepest(body: Any, image: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b c h w"]:
    """A feature extractor's last features; some transformers give them with the channels last."""
    features = body(image)[-1]
    return features.permute(0, 3, 1, 2) if getattr(body, "output_fmt", None) == Format.NHWC else features


def create_features(name: str, *, pretrained: bool | str | Path, **options: Any) -> Any:
    """timm's feature extractor; with its ImageNet weights, or those of a file of the whole classifier, if wanted.

    Raises:
        WeightsError: where the weights cannot be fetched (it names the two ways out), or do not fit.
    """
    if isinstance(pretrained, str | Path):
        log.info("ImageNet weights of %s from %s", name, pretrained)
        options["pretrained_cfg_overlay"] = {"state_dict": fit_classifier_weights(read_state_dict(pretrained), name)}
    elif pretrained:
        log.info("ImageNet weights of %s from timm (fetched once, then cached)", name)
    try:
        return timm.create_model(name, features_only=True, pretrained=bool(pretrained), **options)
    except Exception as error:  # the hub client raises errors of many unrelated types
        if pretrained is not True:
            raise
        raise WeightsError(
            f"cannot fetch the ImageNet weights of backbone {name!r} ({type(error).__name__}). Without a network, "
            "either give a local file in timm's layout, model.pretrained=PATH, or start from random weights, "
            "model.pretrained=false"
        ) from error


def input_statistics(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation (of values in 0..1) with which the backbone's weights were trained."""
    check_name(name)
    config = timm.get_pretrained_cfg(name)
    if config is None:
        return (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    return tuple(config.mean), tuple(config.std)


def check_name(name: str) -> None:
    """Raise a ValueError with similar names for a backbone that timm does not know."""
    if not timm.is_model(name):
        close = ", ".join(difflib.get_close_matches(name, timm.list_models(), n=4)) or "a name of timm.list_models()"
        raise ValueError(f"unknown backbone {name!r}: did you mean {close}?")


class Level(NamedTuple):
    """Features of a timm model that can be used."""

    place: int  #: among the levels
    channels: int
    pads: bool  #: whether images must be padded to a multiple of 32
    options: dict[str, Any]  #: that timm builds the model with


@lru_cache
def find_level(name: str, output_stride: int) -> Level:
    """The deepest level of features with the wanted stride, which a trial without data gives at every size.

    Raises:
        ValueError: where there is none; names the strides that there are and the families that can.
    """
    check_name(name)
    if output_stride not in OUTPUT_STRIDES:
        raise ValueError(f"output_stride must be one of {OUTPUT_STRIDES}, got {output_stride}")
    any_size = {"dynamic_img_size": True, "dynamic_img_pad": True}  # vision transformers
    free_size = {"strict_img_size": False}  # windowed transformers
    reductions: set[int] = set()
    for options in ({"output_stride": output_stride}, any_size, free_size, {}):
        try:
            with torch.device("meta"):
                body: Any = timm.create_model(name, features_only=True, **options)
        except Exception:
            continue  # a family refuses an option that it does not know in its own way
        info = list(body.feature_info.info)
        reductions |= {level["reduction"] for level in info}
        levels = [level for level in info if level["reduction"] == output_stride]
        if levels:
            with torch.device("meta"):
                body = timm.create_model(name, features_only=True, out_indices=(levels[-1]["index"],), **options)
            return Level(levels[-1]["index"], levels[-1]["num_chs"], needs_padding(body, name, output_stride), options)
    got = f"gives features at strides {sorted(reductions)}" if reductions else "gives no feature maps"
    raise ValueError(
        f"backbone {name!r} {got}, not at output_stride={output_stride}. Choose another stride, or a family that can "
        f"dilate: {DILATING_FAMILIES}"
    )


def find_skips(name: str, output_stride: int, skips: Sequence[int]) -> list[tuple[int, int]]:
    """Place and channels of the features at finer strides, the finest first.

    Raises:
        ValueError: for a stride that the backbone has no such features at; names those that there are.
    """
    if not skips:
        return []
    _, _, pads, options = find_level(name, output_stride)
    with torch.device("meta"):
        body: Any = timm.create_model(name, features_only=True, **options)
    levels = {level["reduction"]: (level["index"], level["num_chs"]) for level in body.feature_info.info[::-1]}
    finer = sorted(stride for stride in levels if stride < output_stride)
    if pads or getattr(body, "output_fmt", None) == Format.NHWC or not set(skips) <= set(finer):
        raise ValueError(f"skips must be among the strides {finer} of backbone {name!r}, got {list(skips)}")
    return [levels[stride] for stride in sorted(set(skips))]


def needs_padding(body: Any, name: str, output_stride: int) -> bool:
    """Whether a model on the meta device wants images padded to a multiple of 32 to give a feature for every stride.

    Some families fail at other sizes; others, whose convolutions are not padded, see nothing of the rest at the right
    and at the bottom, so that 513 pixels give 32 features where 33 are meant.

    Raises:
        ValueError: for a model that gives other features of padded images too.
    """
    if not misfit(body, [(513, 385), (375, 500)], output_stride):
        return False
    if told := misfit(body, [(544, 416), (512, 768)], output_stride):
        raise ValueError(
            f"backbone {name!r} does not take images of any size: {told}. Choose another family, such as "
            f"{DILATING_FAMILIES}, swin*, vit*"
        )
    return True


def misfit(body: Any, sizes: Sequence[tuple[int, int]], output_stride: int) -> str:
    """What is wrong with the features of images of these sizes; nothing if it is one for every stride."""
    for height, width in sizes:
        expected = -(-height // output_stride), -(-width // output_stride)
        try:
            got: Any = tuple(deepest(body.eval(), torch.empty(1, 3, height, width, device="meta")).shape[-2:])
        except Exception as error:  # a family refuses a size in its own way
            got = f"{type(error).__name__}, {str(error).partition(chr(10))[0]:.80},"
        if got != expected:
            return f"{height}x{width} pixels give {got} instead of {expected} features"
    return ""


def apply_multi_grid(body: nn.Module, output_stride: int, multi_grid: Sequence[int]) -> None:
    """Set the dilations of a bottleneck ResNet's last stage, in place (FACTS section 1)."""
    blocks = list(getattr(body, "layer4", ()))
    if output_stride == 32 or not blocks or not all(isinstance(block, Bottleneck) for block in blocks):
        return
    if len(multi_grid) != len(blocks):
        raise ValueError(f"multi_grid needs {len(blocks)} factors, one per block of layer4, got {list(multi_grid)}")
    stage_dilation = 32 // output_stride
    for block, factor in zip(blocks[1:], multi_grid[1:], strict=True):
        dilation = stage_dilation * factor
        block.conv2.dilation = block.conv2.padding = (dilation, dilation)
