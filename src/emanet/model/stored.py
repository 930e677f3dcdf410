"""What a checkpoint holds, under our names, and the network that it describes.

A stored configuration is data that anybody may have written. It may name our networks and our heads and nothing else,
which is checked before anything is imported; whatever else is wrong with it ends in one :class:`WeightsError`.
"""

import pkgutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from emanet.common.errors import ConfigError, EMANetError, WeightsError
from emanet.model.heads import HEADS
from emanet.model.weights import load_weights

UNKNOWN = "unknown"  #: data set of weights that do not say it
NETWORKS = (  # that a checkpoint may name
    *("emanet.EMANet", "emanet.model.EMANet", "emanet.model.network.EMANet"),
    *("emanet.model.MMSegEMANet", "emanet.model.mmseg.MMSegEMANet"),
)


@dataclass(frozen=True)
class Description:
    """What a network's input and output mean: all that prediction needs beside the weights.

    Args:
        dataset: what it was trained on.
        class_names: name of each class.
        palette: color of each class, 0..255 RGB.
        mean, std: normalization of the input in units of 0..1, RGB; ``None``: those of the backbone's weights.
        miou: on ``split``, a share 0..1; ``None``: not measured.
        split: of the data set that was measured on.

    Raises:
        ValueError: for values of another type or number.
    """

    dataset: str
    class_names: Sequence[str]
    palette: Sequence[Sequence[int]] | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    miou: float | None = None
    split: str | None = None

    def __post_init__(self) -> None:
        texts, number = [self.dataset, *self.class_names, self.split or ""], len(self.class_names)
        if isinstance(self.class_names, str) or not number or not all(isinstance(text, str) for text in texts):
            raise ValueError("class_names must be a list of texts, and dataset and split texts")
        colors = self.palette if self.palette is not None else [(0, 0, 0)] * number
        if len(colors) != number or not all(len(color) == 3 and {*color} <= {*range(256)} for color in colors):
            raise ValueError(f"palette must hold a color of three numbers 0..255 for each of the {number} classes")
        statistics = [*(self.mean or (0, 0, 0)), *(self.std or (1, 1, 1))]
        if len(statistics) != 6 or not all(isinstance(value, int | float) for value in [*statistics, self.miou or 0]):
            raise ValueError("mean and std must be three numbers each, and miou a number")


class Stored(NamedTuple):
    """What a checkpoint holds, under our names, whoever wrote it."""

    source: str  #: where it lies
    settings: dict[str, Any]  #: configuration groups: ``model`` always, ``dataset`` and ``trainer`` if it is ours
    num_classes: int
    weights: dict[str, Tensor]
    description: Description | None  #: classes and input statistics
    validation: dict[str, int | float]  #: scores at the time of writing, if it is ours


@contextmanager
def refusing(what: str) -> Iterator[None]:
    """Turn an error of whatever type, as odd content provokes it, into one WeightsError that begins with ``what``."""
    try:
        yield
    except EMANetError:
        raise
    except Exception as error:
        raise WeightsError(f"{what} ({type(error).__name__}: {str(error).partition(chr(10))[0]:.300})") from error


def check_names(model: Mapping[str, Any], source: str) -> None:
    """Refuse a stored network that names anybody else's code; nothing is imported for that.

    Raises:
        WeightsError: names what was asked for, what is allowed, and the way out.
    """
    with refusing(f"{source}: its settings of the network are no plain values"):
        inside = [f"one inside {key}" for key, value in model.items() if key != "_target_" and "_target_" in str(value)]
    asked = {"_target_": [model.get("_target_"), *inside], "head": [model.get("head", "ema")]}
    for key, ours in (("_target_", NETWORKS), ("head", HEADS)):
        for value in asked[key]:
            if not isinstance(value, str) or value not in ours:
                got = " ".join(value.split())[:100] if isinstance(value, str) else type(value).__name__
                raise WeightsError(
                    f"{source} asks for {key}={got}, which is none of ours: nothing of it was imported\n"
                    f"ours: {', '.join(ours)}; trust=true takes other people's classes, whose code then runs"
                )


def restore_network(stored: Stored, model: Mapping[str, Any], *, num_classes: int | None = None) -> Any:
    """Build the network from its settings, and fill it with the weights of a checkpoint, strictly.

    Args:
        stored: the checkpoint.
        model: its settings of the network, with what the caller wants otherwise.
        num_classes: as the caller expects them; ``None``: those of the checkpoint.

    Raises:
        WeightsError: for weights that do not fit, and for stored settings from which no network can be built.
        ConfigError: for such settings of the caller's.
    """
    # the checkpoint holds the backbone's weights too: none are fetched, whatever its settings say
    options = {"num_classes": stored.num_classes if num_classes is None else num_classes, **model, "pretrained": False}
    try:
        with refusing(f"{stored.source}: no network can be built from its settings"):
            net = pkgutil.resolve_name(options.pop("_target_"))(**options)
    except WeightsError as error:
        raise error if model == stored.settings["model"] else ConfigError(str(error)) from error
    load_weights(net, stored.weights, source=stored.source)
    net.description = stored.description  # for save_pretrained
    return net.eval()
