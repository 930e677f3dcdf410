"""Checkpoints in the layout of the authors' code: theirs in, ours out.

Their network numbers the backbone's parts (``extractor.0`` is the stem's convolutions, ``extractor.1`` its batch norm,
``extractor.4`` to ``extractor.7`` the four stages); the head has the names that ours has. Names and shapes are facts of
XiaLiPKU/EMANet, see FACTS section 1.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from emanet.common.errors import WeightsError
from emanet.model.network import EMANet
from emanet.model.weights import read_state_dict, unwrap_state_dict

#: the authors' name of each part of the backbone, and timm's
PARTS = {
    "extractor.0.": "backbone.body.conv1.",
    "extractor.1.": "backbone.body.bn1.",
    "extractor.4.": "backbone.body.layer1.",
    "extractor.5.": "backbone.body.layer2.",
    "extractor.6.": "backbone.body.layer3.",
    "extractor.7.": "backbone.body.layer4.",
    "emau.": "head.",
}
BACKBONES = {6: "resnet50s", 23: "resnet101s", 36: "resnet152s"}  # by the number of blocks in the third stage
COUNTER = "num_batches_tracked"  # of batch norms; absent in checkpoints of PyTorch before 0.4.1, and never used here


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
    if isinstance(path_or_state_dict, Mapping):
        state = unwrap_state_dict(path_or_state_dict)
    else:
        state = read_state_dict(path_or_state_dict)
    options = infer_options(state)
    with torch.device("meta"):  # no memory and no random numbers for values that are replaced at once
        net = EMANet(**options, output_stride=output_stride, T=T)
    expected = {reference_key(key): value for key, value in net.state_dict().items()}
    for key, value in expected.items():
        if key.endswith(COUNTER):
            state.setdefault(key, torch.zeros(value.shape, dtype=value.dtype))
    check_fit(state, expected)
    # Copies: training the network must not write into the caller's tensors.
    own = {key: state[reference_key(key)].to(value.dtype, copy=True) for key, value in net.state_dict().items()}
    net.load_state_dict(own, assign=True)
    return net


def to_reference_state_dict(net: EMANet) -> dict[str, Tensor]:
    """The network's weights under the authors' names, as copies; ``torch.save({"net": ...}, path)`` writes their file.

    Raises:
        WeightsError: for a backbone or a head that the authors' code does not have.
    """
    if net.head_name != "ema":
        raise WeightsError("the authors' layout holds networks with head=ema only; net.save_pretrained keeps any other")
    if net.backbone.name not in BACKBONES.values():
        raise WeightsError(
            f"the authors' layout knows the backbones {', '.join(BACKBONES.values())} only, got {net.backbone.name!r}"
        )
    return {reference_key(key): value.detach().clone() for key, value in net.state_dict().items()}


def infer_options(state: Mapping[str, Tensor]) -> dict:
    """Backbone, classes, channels and K of a checkpoint in the authors' layout.

    Raises:
        WeightsError: where the tensors that tell are missing, or tell of no network of the authors'.
    """
    missing = [key for key in ("extractor.6.0.conv1.weight", "emau.mu", "fc2.weight") if key not in state]
    if missing:
        raise WeightsError(
            f"this is no checkpoint of the authors' code: it lacks {', '.join(missing)}; its keys begin with "
            f"{', '.join(list(state)[:3])}"
        )
    mu, classifier = state["emau.mu"], state["fc2.weight"]
    if mu.ndim != 3 or mu.shape[0] != 1 or classifier.ndim != 4:
        raise WeightsError(
            "expected emau.mu of shape (1, channels, K) and fc2.weight of shape (classes, 256, 1, 1), got "
            f"{tuple(mu.shape)} and {tuple(classifier.shape)}"
        )
    blocks = len({key.split(".")[2] for key in state if key.startswith("extractor.6.")})
    if blocks not in BACKBONES:
        raise WeightsError(
            f"the third stage, extractor.6, has {blocks} blocks; ResNet-50, 101 and 152 have "
            f"{', '.join(map(str, BACKBONES))}"
        )
    _, channels, K = mu.shape
    return {"num_classes": classifier.shape[0], "backbone": BACKBONES[blocks], "channels": channels, "K": K}


def reference_key(key: str) -> str:
    """The authors' name of one of our tensors."""
    for theirs, ours in PARTS.items():
        if key.startswith(ours):
            return theirs + key.removeprefix(ours)
    return key


def check_fit(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Refuse tensors that are missing, unexpected, or of another shape.

    Raises:
        WeightsError: names every one of them.
    """
    complaints = {
        "missing": sorted(expected.keys() - state.keys()),
        "unexpected": sorted(state.keys() - expected.keys()),
        "of another shape": sorted(
            f"{key} {tuple(state[key].shape)} instead of {tuple(expected[key].shape)}"
            for key in expected.keys() & state.keys()
            if state[key].shape != expected[key].shape
        ),
    }
    if any(complaints.values()):
        told = "; ".join(f"{what}: {', '.join(keys)}" for what, keys in complaints.items() if keys)
        raise WeightsError(f"the checkpoint does not fit the authors' network: {told}")
