"""Optimizers: any of torch.optim, over groups of parameters that rules make (FACTS section 3)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, Literal

import torch
from torch import nn

from emanet.common.checks import one_of
from emanet.common.errors import ConfigError

Kind = Literal["weight", "norm", "bias"]
#: the paper's: weights (lr, decay), norm weights (lr, no decay), biases (2 lr, no decay)
PAPER = {
    "norms": {"kind": "norm", "weight_decay": 0.0},
    "biases": {"kind": "bias", "lr_factor": 2.0, "weight_decay": 0.0},
}


@dataclass
class Rule:
    """What holds for some parameters: those of a kind, with a name, or both.

    Args:
        kind: ``bias``; ``norm``, the other tensors of one dimension (scales of norms and layers) and bases trained by
            gradient, since decay would pull them off the sphere; ``weight``, the rest; or any.
        name: pattern of the full name, such as ``backbone.*`` or ``backbone.body.layer[12].*``.
        lr_factor: of the learning rate; the factors of several rules multiply.
        weight_decay: in place of the optimizer's; of several rules the last one counts.
        freeze: not trained at all. Running statistics of a frozen batch norm still move.

    Raises:
        ValueError: for values out of range.
    """

    kind: str | None = None
    name: str | None = None
    lr_factor: float = 1.0
    weight_decay: float | None = None
    freeze: bool = False

    def __post_init__(self) -> None:
        one_of((*Kind.__args__, None), kind=self.kind)  # type: ignore[attr-defined]
        for name, value in (("lr_factor", self.lr_factor), ("weight_decay", self.weight_decay)):
            if value is not None and not 0 <= value < float("inf"):
                raise ValueError(f"{name} must be 0 or more, got {name}={value}")

    def covers(self, name: str, parameter: nn.Parameter) -> bool:
        """Whether it holds for a parameter."""
        of_kind = self.kind is None or self.kind == kind_of(name, parameter)
        return of_kind and (self.name is None or fnmatchcase(name, self.name))


def kind_of(name: str, parameter: nn.Parameter) -> Kind:
    """Which of the recipe's three kinds a parameter is."""
    leaf = name.rpartition(".")[2]
    if leaf == "bias":
        return "bias"
    return "norm" if parameter.ndim <= 1 or leaf == "mu" else "weight"


class GroupedOptimizer:
    """Make an optimizer for a network, with a group for every rate and decay that the rules give.

    Args:
        make: ``make(groups) -> optimizer``, a partial call whose ``lr`` and ``weight_decay`` the rules start from.
        groups: the rules by name, as arguments of :class:`Rule`.

    Raises:
        ConfigError: for a rule that makes no sense.
    """

    def __init__(self, make: Callable[..., torch.optim.Optimizer], groups: Mapping[str, Mapping[str, Any]] = PAPER):
        self.make = make
        self.rules: dict[str, Rule] = {}
        for name, options in groups.items():
            try:
                self.rules[name] = Rule(**options)
            except (TypeError, ValueError) as error:
                raise ConfigError(
                    f"optimizer.groups.{name}: {str(error).replace('Rule.__init__()', 'a rule')}"
                ) from error

    def freeze(self, net: nn.Module) -> None:
        """Freeze what the rules say, in place; to be done before the network is handed to several devices.

        Raises:
            ConfigError: for a rule that names no parameter of the network, or where nothing is left to train.
        """
        parameters = dict(net.named_parameters())
        for label, rule in self.rules.items():
            covered = [p for name, p in parameters.items() if rule.covers(name, p)]
            if not covered and rule.name is not None:
                some = ", ".join(dict.fromkeys(f"{name.partition('.')[0]}.*" for name in parameters))
                raise ConfigError(f"optimizer.groups.{label}.name={rule.name} fits no parameter: there are {some}")
            for parameter in covered if rule.freeze else ():
                parameter.requires_grad_(False)
        if not any(p.requires_grad for p in parameters.values()):
            raise ConfigError("optimizer.groups freezes every parameter: nothing is left to train")

    def __call__(self, net: nn.Module) -> torch.optim.Optimizer:
        """The optimizer of a network's trainable parameters."""
        given = self.make.keywords if isinstance(self.make, partial) else {}
        groups: dict[tuple[float, float | None], dict[str, Any]] = {}
        for name, parameter in net.named_parameters():
            if not parameter.requires_grad:
                continue
            rules = {label: rule for label, rule in self.rules.items() if rule.covers(name, parameter)}
            factor, decay = 1.0, given.get("weight_decay")
            for rule in rules.values():
                factor *= rule.lr_factor
                decay = decay if rule.weight_decay is None else rule.weight_decay
            group = groups.setdefault((factor, decay), {"name": "+".join(rules) or "weights", "params": []})
            if "lr" in given:
                group["lr"] = factor * given["lr"]
            if decay is not None:
                group["weight_decay"] = decay
            group["params"].append(parameter)
        return self.make(list(groups.values()))
