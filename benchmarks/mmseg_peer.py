"""mmsegmentation's EMANet for peers.py, where that package or its maintained fork is installed.

Nothing of theirs stands here.
"""

import importlib
import sys
from collections.abc import Mapping
from importlib.metadata import packages_distributions, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import torch.nn.functional as F
from implementations import CLASSES, PORT, Implementation, Net, port_net, take_over
from torch import Tensor, nn

from emanet.checkpoints.mmseg import convert_state_dict


def find_mmseg() -> list[Implementation]:
    """mmsegmentation, or its maintained fork, if it is installed; beside ours with its options."""
    if find_spec("mmseg") is None:
        return []

    def origin() -> dict[str, Any]:
        package = packages_distributions()["mmseg"][0]
        return {"package": package, "version": version(package)}

    options: dict[str, Any] = {"unit": MMSegUnit, "counterpart": PORT, "origin": origin}
    return [PORT, Implementation("mmsegmentation", mmseg_network, mmseg_logits, mmseg_loss, **options)]


def build_mmseg() -> Net:
    """The network of mmsegmentation's configs/_base_/models/emanet_r50-d8.py, with batch norms for one device."""
    try:
        importlib.import_module("mmcv._ext")
    except ImportError:  # mmcv-lite lacks the compiled operators; EMANet uses none
        sys.modules["mmcv._ext"] = MagicMock()
    import mmseg
    from mmengine.config import Config
    from mmseg.registry import MODELS
    from mmseg.utils import register_all_modules

    register_all_modules()
    model = Config.fromfile(Path(mmseg.__file__).parent / ".mim/configs/_base_/models/emanet_r50-d8.py").model
    model.pretrained = None
    for part in (model.backbone, model.decode_head, model.auxiliary_head):
        part.norm_cfg.type = "BN"
    for head in (model.decode_head, model.auxiliary_head):
        head.num_classes = CLASSES
    return MODELS.build(model)


def their_keys(state: Mapping[str, Tensor], prefix: str = "") -> dict[str, str]:
    """From our name of each tensor to mmsegmentation's, of a part that has this prefix in the whole."""
    return dict(zip(convert_state_dict({prefix + key: value for key, value in state.items()}), state, strict=True))


def mmseg_network() -> Net:
    """With our port's weights."""
    net, state = build_mmseg(), port_net().state_dict()
    take_over(net, {theirs: state[our] for our, theirs in their_keys(net.state_dict()).items()}, "mmsegmentation")
    return net


class MMSegUnit(nn.Module):
    """The attention unit, which stands in pieces in mmsegmentation's head."""

    def __init__(self) -> None:
        super().__init__()
        head = build_mmseg().decode_head
        self.ema_mid_conv, self.ema_module, self.ema_out_conv = head.ema_mid_conv, head.ema_module, head.ema_out_conv
        assert PORT.unit
        state = PORT.unit().state_dict()
        keys = their_keys(self.state_dict(), "decode_head.")
        take_over(self, {theirs: state[our.removeprefix("emau.")] for our, theirs in keys.items()}, "mmsegmentation")

    def forward(self, x: Tensor) -> Tensor:
        """The pieces in their order."""
        y = self.ema_out_conv(F.relu_(self.ema_module(self.ema_mid_conv(x))))
        return F.relu_(x + y)


def mmseg_logits(net: Net, image: Tensor) -> Tensor:
    """Without the wrapping of results."""
    return net.encode_decode(image, [{"img_shape": tuple(image.shape[-2:])}] * len(image))


def mmseg_loss(net: Net, image: Tensor, mask: Tensor) -> Tensor:
    """As its training loop computes it."""
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    samples = []
    for labels in mask:
        sample = SegDataSample(metainfo={"img_shape": tuple(labels.shape)})
        sample.gt_sem_seg = PixelData(data=labels[None])
        samples.append(sample)
    return net.parse_losses(net.loss(image, samples))[0]
