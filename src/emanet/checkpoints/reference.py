"""Checkpoints in the layout of the authors' code: theirs in, ours out.

Their network numbers the backbone's parts (``extractor.0`` is the stem's convolutions, ``extractor.1`` its batch norm,
``extractor.4`` to ``extractor.7`` the four stages). Names and shapes are facts of XiaLiPKU/EMANet, see FACTS section 1.
"""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from emanet.checkpoints.layout import Layout, renamed
from emanet.common.errors import WeightsError
from emanet.model.network import EMANet
from emanet.model.weights import load_weights, read_state_dict, unwrap_state_dict

LAYOUT = Layout(
    owner="the authors' code",
    network="emanet.EMANet",
    parts={
        "extractor.0.": "backbone.body.conv1.",
        "extractor.1.": "backbone.body.bn1.",
        "extractor.4.": "backbone.body.layer1.",
        "extractor.5.": "backbone.body.layer2.",
        "extractor.6.": "backbone.body.layer3.",
        "extractor.7.": "backbone.body.layer4.",
        "emau.": "head.",
    },
    bases="emau.mu",
    classifier="fc2.weight",
    stage="extractor.6.",
    backbones={6: "resnet50s", 23: "resnet101s", 36: "resnet152s"},
)


def load_reference_checkpoint(
    path_or_state_dict: str | Path | Mapping, *, output_stride: int = 8, T: int = 3
) -> EMANet:
    """Build the network that a checkpoint of the authors' code holds; depth, classes, channels and K are read off it.

    Args:
        path_or_state_dict: a file (read without executing code from it) or its content: ``{"net": state_dict}`` or a
            bare state dict, with or without DataParallel's ``module.`` prefix.
        output_stride: input pixels per feature, 8 or 16. It is no property of the weights.
        T: EM iterations, no property of the weights either.

    Raises:
        WeightsError: for a file that cannot be read, and for tensors that do not fit; names each of them.
    """
    given = path_or_state_dict
    state = unwrap_state_dict(given) if isinstance(given, Mapping) else read_state_dict(given)
    net = EMANet(**LAYOUT.infer_options(state), output_stride=output_stride, T=T)
    load_weights(net, LAYOUT.convert(state), source="the checkpoint of the authors' code")
    return net


def to_reference_state_dict(net: EMANet) -> dict[str, Tensor]:
    """The network's weights under the authors' names, as copies; ``torch.save({"net": ...}, path)`` writes their file.

    Raises:
        WeightsError: for a backbone or a head that the authors' code does not have.
    """
    if net.head_name != "ema":
        raise WeightsError("the authors' layout holds networks with head=ema only; net.save_pretrained keeps any other")
    if net.backbone.name not in LAYOUT.backbones.values():
        raise WeightsError(
            f"the authors' layout knows the backbones {', '.join(LAYOUT.backbones.values())} only, got "
            f"{net.backbone.name!r}"
        )
    theirs = {ours: part for part, ours in LAYOUT.parts.items()}
    return {renamed(key, theirs): value.detach().clone() for key, value in net.state_dict().items()}
