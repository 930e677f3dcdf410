"""From a checkpoint back to network, classes and input statistics, whoever wrote it.

Four kinds are read: files of our training, folders of ``save_pretrained``, and files of the authors' code and of
mmsegmentation. Nothing needs the data set on disk, and no code is ever executed from a checkpoint.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from emanet.checkpoints.mmseg import is_mmseg, load_mmseg_checkpoint, read_foreign_checkpoint
from emanet.checkpoints.reference import load_reference_checkpoint
from emanet.common.errors import EMANetError, WeightsError
from emanet.config.instantiate import build
from emanet.config.network import build_network
from emanet.data.datasets import ade20k, cityscapes, coco_stuff, voc
from emanet.data.datasets.pascal_context import PascalContext
from emanet.data.palettes import spread_palette
from emanet.model.backbone import input_statistics
from emanet.model.hub import ARCHITECTURES, Description
from emanet.model.network import EMANet
from emanet.model.weights import load_weights, unwrap_state_dict

#: benchmarks by number of classes, for weights that come without names
BENCHMARKS = {len(module.CLASSES): module for module in (voc, cityscapes, coco_stuff, ade20k)}


class Stored(NamedTuple):
    """What a checkpoint holds, under our names."""

    source: str  #: where it lies
    settings: dict[str, Any]  #: configuration groups: ``model`` always, ``dataset`` and ``trainer`` if it is ours
    weights: dict[str, Tensor]
    description: Description  #: classes and input statistics
    validation: dict[str, int | float]  #: scores at the time of writing, if it is ours


class Restored(NamedTuple):
    """A network and what belongs to it."""

    net: EMANet
    names: tuple[str, ...]  #: of the classes
    palette: UInt8[np.ndarray, "classes 3"]
    mean: tuple[float, ...]  #: normalization of the input in units of 0..1, RGB
    std: tuple[float, ...]


def restore(checkpoint: str | Path, model: Mapping[str, Any] | None = None, *, trust: bool = False) -> Restored:
    """Rebuild the network of a checkpoint.

    Args:
        checkpoint: a file or folder, see the module's text.
        model: arguments of the network that are to differ from those stored, such as ``{"T_eval": 5}``.

    Raises:
        WeightsError: for a checkpoint that cannot be read or does not fit.
        ConfigError: for arguments that make no sense, or that the network's head does not know.
    """
    stored = read_stored(checkpoint, trust=trust)
    described = stored.description
    names = tuple(described.class_names)
    before, wanted = stored.settings["model"], dict(model or {})
    net = restore_network(stored, before | wanted, num_classes=len(names))
    mean, std = input_statistics(net.backbone.name)
    palette = spread_palette(len(names)) if described.palette is None else np.array(described.palette, np.uint8)
    return Restored(net, names, palette, tuple(described.mean or mean), tuple(described.std or std))


def restore_network(stored: Stored, model: Mapping[str, Any], *, num_classes: int) -> EMANet:
    """Build the network from its configuration, and fill it with the weights of a checkpoint, strictly."""
    net = build_network({**model, "pretrained": False}, num_classes)  # the checkpoint holds the backbone's weights too
    load_weights(net, stored.weights, source=stored.source)
    net.description = stored.description  # for save_pretrained
    return net.eval()


def read_stored(checkpoint: str | Path, *, trust: bool = False) -> Stored:
    """Read a checkpoint of any of the four kinds.

    Raises:
        WeightsError: if it cannot be read, or is none of them.
    """
    path = Path(checkpoint).expanduser()
    if path.is_dir():
        return from_network(EMANet.from_pretrained(path), str(path))
    content = read_foreign_checkpoint(path)
    if "hyper_parameters" in content:
        return ours(content, str(path))
    foreign = load_mmseg_checkpoint if is_mmseg(unwrap_state_dict(content)) else load_reference_checkpoint
    return from_network(foreign(content), str(path))


def read_weights(checkpoint: str | Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint under our names, whoever wrote it; of ours, a bare state dict will do.

    Raises:
        WeightsError: as :func:`read_stored`.
    """
    path = Path(checkpoint).expanduser()
    if path.is_file():
        state = unwrap_state_dict(read_foreign_checkpoint(path), source=str(path))
        state = {key.removeprefix("net."): value for key, value in state.items()}
        if {"backbone", "fc2"} <= {key.partition(".")[0] for key in state}:
            return state
    return read_stored(path).weights


def ours(content: Mapping[str, Any], source: str) -> Stored:
    """A checkpoint of our training."""
    settings = content["hyper_parameters"]
    classes = content.get("classes") or classes_of_dataset(settings.get("dataset", {}))
    described = Description(
        dataset=str(settings.get("dataset", {}).get("name", "")),
        class_names=classes["names"],
        palette=classes["palette"],
        miou=content.get("validation", {}).get("val/miou"),
    )
    state = {key.removeprefix("net."): value for key, value in unwrap_state_dict(content, source=source).items()}
    return Stored(source, dict(settings), state, described, content.get("validation", {}))


def from_network(net: EMANet, source: str) -> Stored:
    """A network that another reader has already built; without a description, a benchmark's by its class count."""
    config = net.hub_config()
    options = {key: value for key, value in config["model"].items() if key != "num_classes"}
    target = f"{ARCHITECTURES[config['architecture']]}.{config['architecture']}"
    described = net.description or describe_benchmark(net.num_classes)
    return Stored(source, {"model": {"_target_": target, **options}}, dict(net.state_dict()), described, {})


def classes_of_dataset(dataset: Mapping[str, Any]) -> dict[str, Any]:
    """Names and colors of a configured data set, which need not be on disk."""
    try:
        datamodule = build({key: value for key, value in dataset.items() if key != "name"}, "dataset")
    except (EMANetError, KeyError) as error:
        raise WeightsError(f"the checkpoint does not say what its classes are called: {error}") from error
    return {"names": list(datamodule.class_names), "palette": datamodule.palette.tolist()}


def describe_benchmark(number: int) -> Description:
    """The benchmark with so many classes; numbers in place of names if there is none."""
    if number in (59, 60):
        context = PascalContext(root=".", num_classes=59 if number == 59 else 60)
        return Description("pascal_context", context.class_names, context.palette.tolist())
    if number in BENCHMARKS:
        module = BENCHMARKS[number]
        return Description(module.__name__.rpartition(".")[2], module.CLASSES, module.PALETTE.tolist())
    return Description("unknown", [f"class {label}" for label in range(number)], spread_palette(number).tolist())
