"""From a checkpoint back to network, classes and input statistics, whoever wrote it.

Four kinds are read: files of our training, folders of ``save_pretrained``, and files of the authors' code and of
mmsegmentation. Nothing needs the data set on disk, and no code is ever executed from a checkpoint.
"""

import inspect
import logging
import pkgutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from emanet.checkpoints import mmseg, reference
from emanet.common.errors import WeightsError
from emanet.data.datasets import ade20k, cityscapes, coco_stuff, pascal_context, voc
from emanet.data.palettes import spread_palette
from emanet.model.backbone import input_statistics
from emanet.model.hub import read_folder
from emanet.model.network import EMANet
from emanet.model.stored import UNKNOWN, Description, Stored, check_names, refusing, restore_network
from emanet.model.weights import read_checkpoint, unwrap_state_dict

log = logging.getLogger(__name__)

CONTEXT = pascal_context.CLASSES
#: classes and colors for weights that come without, by their number
BENCHMARKS = [
    Description(name, classes, palette.tolist())
    for name, classes, palette in (
        ("voc", voc.CLASSES, voc.PALETTE),
        ("cityscapes", cityscapes.CLASSES, cityscapes.PALETTE),
        ("coco_stuff", coco_stuff.CLASSES, coco_stuff.PALETTE),
        ("ade20k", ade20k.CLASSES, ade20k.PALETTE),
        ("pascal_context", CONTEXT, spread_palette(len(CONTEXT))),
        ("pascal_context", ("background", *CONTEXT), np.pad(spread_palette(len(CONTEXT)), ((1, 0), (0, 0)))),
    )
]


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
        trust: import other people's classes that the checkpoint names, and run their code.

    Raises:
        WeightsError: for a checkpoint that cannot be read or does not fit.
        ConfigError: for arguments that make no sense, or that the network's head does not know.
    """
    stored = read_stored(checkpoint, trust=trust)
    net = restore_network(stored, stored.settings["model"] | dict(model or {}))
    described = net.description = stored.description or describe(stored.num_classes)
    names, (mean, std) = tuple(described.class_names), input_statistics(net.backbone.name)
    palette = spread_palette(len(names)) if described.palette is None else np.array(described.palette, np.uint8)
    return Restored(net, names, palette, tuple(described.mean or mean), tuple(described.std or std))


def read_stored(checkpoint: str | Path, *, trust: bool = False) -> Stored:
    """Read a checkpoint of any of the four kinds; what it says stays data, and nothing that it names is imported.

    Raises:
        WeightsError: if it cannot be read, is none of them, or names code that is not ours (unless ``trust``).
    """
    path = Path(checkpoint).expanduser()
    if path.is_dir():
        return read_folder(path, trust=trust)
    stored = translated(read_checkpoint(path), str(path))
    if not trust:
        check_names(stored.settings["model"], str(path))
    return stored


def read_weights(checkpoint: str | Path, class_names: Sequence[str] | None = None) -> dict[str, Tensor]:
    """The tensors of a checkpoint under our names, whoever wrote it; of ours, a bare state dict will do.

    Args:
        checkpoint: a file or folder.
        class_names: those wanted. The classifier of a checkpoint that names others, or in another order, is left out.

    Raises:
        WeightsError: if it cannot be read, or is nobody's that we know.
    """
    path = Path(checkpoint).expanduser()
    if path.is_dir():
        stored = read_folder(path, trust=True)  # imports nothing
    else:
        content = read_checkpoint(path)
        state = unwrap_state_dict(content, source=str(path))
        if {"backbone", "fc2"} <= {key.partition(".")[0] for key in state} and "classes" not in content:
            return state
        stored = translated(content, str(path))
    if class_names is None or stored.description is None or list(stored.description.class_names) == list(class_names):
        return stored.weights
    told = ", ".join(stored.description.class_names), ", ".join(class_names)
    log.warning("%s names the classes %s, the data %s: the classifier is not taken", path, *told)
    return {key: value for key, value in stored.weights.items() if not key.startswith("fc2.")}


def check_classes(stored: Stored, class_names: Sequence[str]) -> None:
    """Compare the classes that a checkpoint names with those of the data that it is to be evaluated on.

    Raises:
        WeightsError: where a class has another number there: labels would be counted for other classes.
    """
    told = [] if stored.description is None else list(stored.description.class_names)
    names = dict(zip(class_names, told, strict=False))
    if moved := [name for name, other in names.items() if name != other and name in told]:
        raise WeightsError(
            f"{stored.source} names the classes {', '.join(told)}; the data {', '.join(class_names)}, where "
            f"{', '.join(moved)} have other numbers: give the data's classes in the order of the checkpoint"
        )
    if renamed := [f"{other} as {name}" for name, other in names.items() if name != other]:
        log.warning("%s names its classes otherwise than the data: %s", stored.source, ", ".join(renamed))


def translated(content: Mapping[str, Any], source: str) -> Stored:
    """What a file of anybody's holds, under our names."""
    with refusing(f"{source} holds no settings and classes as our training stores them"):
        return (ours if "hyper_parameters" in content else foreign)(content, source)


def ours(content: Mapping[str, Any], source: str) -> Stored:
    """A checkpoint of our training."""
    settings, validation = dict(content["hyper_parameters"]), dict(content.get("validation") or {})
    settings["model"] = dict(settings["model"])
    if validation and content.get("global_step", validation.get("step")) != validation.get("step"):
        validation = {"step": content["global_step"]}  # the scores are of earlier weights
    name, classes = str((settings.get("dataset") or {}).get("name", "")), content["classes"]
    described = Description(name, classes["names"], classes["palette"], miou=validation.get("val/miou"))
    state = unwrap_state_dict(content, source=source)
    return Stored(source, settings, len(described.class_names), state, described, validation)


def foreign(content: Mapping[str, Any], source: str) -> Stored:
    """A checkpoint of the authors' code or of mmsegmentation."""
    state = unwrap_state_dict(content, source=source)
    if mmseg.LAYOUT.bases in state:
        layout, options = mmseg.LAYOUT, mmseg.infer_options(state)
    else:
        layout, options = reference.LAYOUT, reference.LAYOUT.infer_options(state)
    arguments = inspect.signature(pkgutil.resolve_name(layout.network)).parameters.values()
    defaults = {p.name: p.default for p in arguments if p.default is not p.empty}
    model = {"_target_": layout.network, **defaults, **options}
    number = model.pop("num_classes")
    return Stored(source, {"model": model}, number, layout.convert(state), mmseg.describe(content, number), {})


def describe(number: int) -> Description:
    """The benchmark with so many classes; numbers in place of names if there is none."""
    found = (known for known in BENCHMARKS if len(known.class_names) == number)
    return next(found, Description(UNKNOWN, [f"class {label}" for label in range(number)]))
