"""Which configurations make sense: checked at once, before anything heavy starts, all mistakes in one message."""

import dataclasses
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from emanet.common.errors import ConfigError
from emanet.config.instantiate import build, is_node, leaves, mistakes
from emanet.model.heads import check_head, options_of


def settle(cfg: DictConfig) -> dict[str, Any]:
    """The configuration as plain values, resolved once; everything below is handed these.

    Raises:
        ConfigError: for keys that nobody reads, wrong types, values out of range, and values that are missing.
    """
    unknown = list(unknown_keys(cfg, ""))
    if unknown:
        raise ConfigError("nothing reads this configuration:\n  " + "\n  ".join(unknown))
    try:
        container = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise ConfigError(f"{error.full_key}=VALUE is missing") from error
    except OmegaConfBaseException as error:
        if isinstance(error.__cause__, ConfigError):
            raise error.__cause__ from error
        raise ConfigError(str(error).splitlines()[0]) from error  # the other lines are OmegaConf's own
    assert isinstance(container, dict)
    plain = {str(key): value for key, value in container.items()}
    check(plain)
    return plain


def unknown_keys(cfg: Any, where: str) -> Iterator[str]:
    """Keys of dataclass sections that their dataclass does not have: Hydra's ``+key`` forces them in."""
    kind = OmegaConf.get_type(cfg)
    if not dataclasses.is_dataclass(kind):
        return
    names = [field.name for field in dataclasses.fields(kind)]
    for key in cfg:
        if key not in names:
            yield f"{where}{key}: there are {', '.join(f'{where}{name}' for name in names)}"
        elif OmegaConf.is_dict(cfg) and not OmegaConf.is_missing(cfg, key):
            node = cfg._get_node(key)
            if OmegaConf.is_dict(node):
                yield from unknown_keys(node, f"{where}{key}.")


def check(cfg: dict[str, Any]) -> None:
    """Refuse arguments that their constructors do not know or of a wrong type, and values out of range.

    Raises:
        ConfigError: with a line for each mistake.
    """
    found = [*wrong_values(cfg), *wrong_numbers(cfg)]
    for section, node in cfg.items():
        if section in NODES:
            found += wrong_node(section, node)
        elif section in ("logger", "callbacks"):
            for name, inner in node.items():
                found += wrong_node(f"{section}.{name}", inner) if inner is not None else []
    if not found:  # then they can be built without a network
        found += [line for section in CHEAP if section in cfg for line in refused(section, cfg[section])]
    if found:
        raise ConfigError("this configuration makes no sense:\n  " + "\n  ".join(found))


#: sections that are nodes, and those that are built at once to see whether their constructors take the values
NODES = ("dataset", "model", "optimizer", "scheduler", "loss", "trainer", "inference")
CHEAP = ("optimizer", "scheduler", "loss", "trainer", "inference", "model")


def wrong_node(where: str, node: Any) -> list[str]:
    """What is wrong with the names and types of a section."""
    if not node and where == "dataset":
        return []  # a checkpoint that does not say what it was trained on
    if not is_node(node):
        return [
            f"{where} must be built from a _target_, got {node!r}: choose a file of conf/{where.partition('.')[0]}/"
        ]
    own = {key: value for key, value in node.items() if (where, key) not in LABELS}
    return mistakes(own, where)


#: keys of a node that are not its constructor's: the name of a data set's group, the rules of the optimizer's groups
LABELS = {("dataset", "name"), ("optimizer", "groups")}


def refused(section: str, node: Any) -> list[str]:
    """What the constructor of a section says to its values."""
    try:
        TRIALS.get(section, lambda node: build(node, section))(node)
    except (ConfigError, TypeError, ValueError, RuntimeError) as error:
        return [str(error) if str(error).startswith(section) else f"{section}: {error}"]
    return []


def try_head(node: dict[str, Any]) -> None:
    """Build the head of a network alone, which costs nothing."""
    head = node.get("head", "ema")
    options = {key: node[key] for key in options_of(head) if key in node}
    check_head(head, options, output_stride=node.get("output_stride", 8))


def try_scheduler(node: dict[str, Any]) -> None:
    """Build a schedule for an optimizer of one number."""
    make = build(node, "scheduler", max_steps=100)
    make(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1))


def try_optimizer(node: dict[str, Any]) -> None:
    """Build the optimizer of one number."""
    make = build({key: value for key, value in node.items() if key != "groups"}, "optimizer")
    make([torch.nn.Parameter(torch.zeros(1))])


TRIALS: dict[str, Callable[[dict[str, Any]], None]] = {
    "model": try_head,
    "scheduler": try_scheduler,
    "optimizer": try_optimizer,
}


def wrong_values(cfg: dict[str, Any]) -> Iterator[str]:
    """What the rules say to the values that are there; one of another type than a rule can compare is wrong."""
    for key, allowed, accepts in RULES:
        value: Any = cfg
        for part in key.split("."):
            value = value.get(part, MISSING) if isinstance(value, dict) else MISSING
        try:
            fine = value is MISSING or accepts(value)
        except (TypeError, ValueError, AttributeError):
            fine = False
        if not fine:
            yield f"{key} must be {allowed}, got {value!r}"


def wrong_numbers(cfg: dict[str, Any]) -> Iterator[str]:
    """Numbers, wherever they stand, that are none, or that a network's or a counter's type cannot hold."""
    for place, value in leaves(cfg):
        if isinstance(value, int | float) and not abs(value) < (2**63 if isinstance(value, int) else FLOAT32):
            yield f"{place} must be a number that {'int64' if isinstance(value, int) else 'float32'} holds, got {value}"


FLOAT32 = torch.finfo(torch.float32).max


def is_count(value: Any) -> bool:
    """Whether a value is a number from 1 on."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def is_between(low: int, high: int, value: Any) -> bool:
    """Whether a number lies between two; whether it is one, its constructor says."""
    return low <= value <= high if isinstance(value, int | float) else True


def is_name(value: str) -> bool:
    """Whether a text can name a folder: one component of a path, on every system."""
    return bool(value.strip(" .")) and not re.search(r"[/\\\0-\x1f]", value) and len(value.encode()) <= 200


PREDICTIONS = ("mask", "overlay", "probabilities", "attention")  # what predict can save

#: (key of the root, what is allowed, test)
RULES: list[tuple[str, str, Callable[[Any], bool]]] = [
    ("name", "the name of a folder, without / and at most 200 bytes", is_name),
    ("study", "null or the name of a folder", lambda value: value is None or is_name(value)),
    ("dataset.scales", "factors from 0.01 to 100", lambda value: value and all(0.01 <= item <= 100 for item in value)),
    ("model.multi_grid", "null or factors from 1 on", lambda value: value is None or all(map(is_count, value))),
    ("seed", "an integer from 0 to 2**32 - 1", lambda value: 0 <= value < 2**32),
    ("T_evals", "numbers of EM iterations from 1 to 1000", lambda value: all(item in range(1, 1001) for item in value)),
    ("n_trials", "at least 1", is_count),
    ("timeout", "null or a positive number", lambda value: value is None or 0 < value < float("inf")),
    ("startup_trials", "0 or more", lambda value: value >= 0),
    ("warmup_steps", "0 or more", lambda value: value >= 0),
    ("save", f"a list of {', '.join(PREDICTIONS)}", lambda value: all(name in PREDICTIONS for name in value)),
    ("formats", "a list of svg, png and pdf, with svg or png among them", lambda value: are_figures(value)),
    ("attention_bases", "null or at least 1", lambda value: value is None or is_count(value)),
    ("batch_size", "at least 1", is_count),
]


SIZE, SHARE = (1, 2**16), (0, 1)
#: ends of numbers; a larger size is a slip of the keyboard, and would take the memory of the machine
RANGES = {
    "model.K": SIZE,
    "model.channels": SIZE,
    "model.T": (1, 1000),
    "model.T_eval": (1, 1000),
    "optimizer.momentum": SHARE,
    "dataset.flip": SHARE,
    "dataset.crop_size": SIZE,
    "dataset.batch_size": SIZE,
    "dataset.eval_batch_size": SIZE,
    "dataset.num_workers": (0, 256),
}
RULES += [(key, f"from {low} to {high}", partial(is_between, low, high)) for key, (low, high) in RANGES.items()]


def are_figures(value: list[str]) -> bool:
    """Whether figures can be written so, and shown: the page shows no pdf."""
    return {*value} <= {"svg", "png", "pdf"} and bool({"svg", "png"} & {*value})
