"""From a checkpoint back to network, classes and input statistics, whoever wrote it.

Four kinds are read: files of our training, folders of ``save_pretrained``, and files of the authors' code and of
mmsegmentation. Nothing needs the data set on disk, and no code is ever executed from a checkpoint.
"""

import inspect
import pkgutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from emanet.checkpoints import mmseg, reference
from emanet.data.datasets import ade20k, cityscapes, coco_stuff, pascal_context, voc
from emanet.data.palettes import spread_palette
from emanet.model.backbone import input_statistics
from emanet.model.hub import read_folder
from emanet.model.network import EMANet
from emanet.model.stored import UNKNOWN, Description, Stored, check_names, refusing, restore_network
from emanet.model.weights import read_checkpoint, unwrap_state_dict

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
    described = stored.description or describe(stored.num_classes)
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
    content = read_checkpoint(path)
    with refusing(f"{path} holds no settings and classes as our training stores them"):
        stored = (ours if "hyper_parameters" in content else foreign)(content, str(path))
    if not trust:
        check_names(stored.settings["model"], str(path))
    return stored


def read_weights(checkpoint: str | Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint under our names, whoever wrote it; of ours, a bare state dict will do.

    Raises:
        WeightsError: if it cannot be read, or is nobody's that we know.
    """
    content = read_checkpoint(checkpoint)
    state = unwrap_state_dict(content, source=str(checkpoint))
    is_ours = {"backbone", "fc2"} <= {key.partition(".")[0] for key in state}
    return state if is_ours else foreign(content, str(checkpoint)).weights


def ours(content: Mapping[str, Any], source: str) -> Stored:
    """A checkpoint of our training."""
    settings, validation = dict(content["hyper_parameters"]), dict(content.get("validation") or {})
    settings["model"] = dict(settings["model"])
    name, classes = str((settings.get("dataset") or {}).get("name", "")), content["classes"]
    described = Description(name, classes["names"], classes["palette"], miou=validation.get("val/miou"))
    state = unwrap_state_dict(content, source=source)
    return Stored(source, settings, len(described.class_names), state, described, validation)


def foreign(content: Mapping[str, Any], source: str) -> Stored:
    """A checkpoint of the authors' code or of mmsegmentation; without class names, a benchmark's by their number."""
    state = unwrap_state_dict(content, source=source)
    if mmseg.LAYOUT.bases in state:
        layout, options = mmseg.LAYOUT, mmseg.infer_options(state)
    else:
        layout, options = reference.LAYOUT, reference.LAYOUT.infer_options(state)
    arguments = inspect.signature(pkgutil.resolve_name(layout.network)).parameters.values()
    defaults = {p.name: p.default for p in arguments if p.default is not p.empty}
    model = {"_target_": layout.network, **defaults, **options}
    number = model.pop("num_classes")
    described = mmseg.describe(content, number) or describe(number)
    return Stored(source, {"model": model}, number, layout.convert(state), described, {})


def describe(number: int) -> Description:
    """The benchmark with so many classes; numbers in place of names if there is none."""
    found = (known for known in BENCHMARKS if len(known.class_names) == number)
    return next(found, Description(UNKNOWN, [f"class {label}" for label in range(number)]))
