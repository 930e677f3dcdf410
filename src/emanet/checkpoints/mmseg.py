"""Checkpoints of mmsegmentation's EMANet under our names, with class names and palette where they store them.

Names and shapes are facts of open-mmlab/mmsegmentation 1.2.2, ``mmseg/models/decode_heads/ema_head.py``; the golden
file of tests/golden proves the logits equal. ``load_mmseg_checkpoint(FILE).save_pretrained(FOLDER)`` converts one.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from emanet.checkpoints.layout import Layout
from emanet.model.mmseg import AUX_WEIGHT, MMSegEMANet
from emanet.model.stored import UNKNOWN, Description, refusing
from emanet.model.weights import load_weights, read_checkpoint, unwrap_state_dict

LAYOUT = Layout(
    owner="mmsegmentation's EMANet",
    network="emanet.model.mmseg.MMSegEMANet",
    parts={
        "backbone.stem.7.": "backbone.body.bn1.",  # before the other parts of the stem
        "backbone.stem.": "backbone.body.conv1.",
        "backbone.layer": "backbone.body.layer",
        "decode_head.ema_in_conv.": "fc0.",
        "decode_head.ema_mid_conv.conv.": "head.conv1.",
        "decode_head.ema_module.bases": "head.mu",
        "decode_head.ema_out_conv.conv.": "head.conv2.0.",
        "decode_head.ema_out_conv.bn.": "head.conv2.1.",
        "decode_head.bottleneck.": "fc1.0.",
        "decode_head.conv_cat.": "fc_cat.0.",
        "decode_head.conv_seg.": "fc2.",
        "auxiliary_head.convs.0.": "aux.0.",
        "auxiliary_head.conv_seg.": "aux.2.",
    },
    bases="decode_head.ema_module.bases",
    classifier="decode_head.conv_seg.weight",
    stage="backbone.layer3.",
    backbones={6: "resnet50c", 23: "resnet101c", 36: "resnet152c"},
)


def infer_options(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """What :meth:`Layout.infer_options` tells, and the parts of the head that a checkpoint holds."""
    return LAYOUT.infer_options(state) | {
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
    content = path_or_content if isinstance(path_or_content, Mapping) else read_checkpoint(path_or_content)
    state = unwrap_state_dict(content)
    net = MMSegEMANet(**infer_options(state), output_stride=output_stride, align_corners=align_corners, T=T)
    load_weights(net, LAYOUT.convert(state), source="the mmsegmentation checkpoint")
    net.description = describe(content, net.num_classes)
    return net.eval()


def describe(content: Mapping, num_classes: int) -> Description | None:
    """Class names and palette that mmsegmentation stores beside the weights, in the old or the new way.

    Raises:
        WeightsError: for those that are no names and colors.
    """
    with refusing("the checkpoint's class names or palette cannot be used"):
        meta = content.get("meta") or {}
        stored = {key.lower(): value for key, value in dict(meta.get("dataset_meta") or meta).items()}
        names, palette = stored.get("classes"), stored.get("palette")
        return Description(UNKNOWN, list(names), palette) if names and len(names) == num_classes else None
