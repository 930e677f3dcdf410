"""The paper's optimizer: SGD with three parameter groups and a poly schedule (FACTS section 3)."""

from typing import Any

import torch
from torch import nn


def parameter_groups(
    net: nn.Module, *, lr: float, weight_decay: float, backbone_lr_factor: float = 1.0
) -> list[dict[str, Any]]:
    """Split the trainable parameters: weights (lr, decay), norm weights (lr, no decay), biases (2 lr, no decay).

    Norm weights are all other tensors of one dimension (batch-norm and layer-norm scales, layer scales); bases trained
    by gradient join them, since decay would pull them off the sphere. With a ``backbone_lr_factor`` other than 1 the
    backbone has three groups of its own, at that share of the rates.
    """
    kinds = {"weights": (1, weight_decay), "norm_weights": (1, 0.0), "biases": (2, 0.0)}  # lr factor, weight decay
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in net.named_parameters():
        if not parameter.requires_grad:
            continue
        kind = parameter_kind(name, parameter)
        factor, decay = kinds[kind]
        in_backbone = name.startswith("backbone.") and backbone_lr_factor != 1
        rate = factor * lr * (backbone_lr_factor if in_backbone else 1)
        label = f"backbone_{kind}" if in_backbone else kind
        group = groups.setdefault(label, {"name": label, "params": [], "lr": rate, "weight_decay": decay})
        group["params"].append(parameter)
    order = [f"{part}{kind}" for part in ("", "backbone_") for kind in kinds]
    return sorted(groups.values(), key=lambda group: order.index(group["name"]))


def parameter_kind(name: str, parameter: nn.Parameter) -> str:
    """Which of the recipe's three kinds a parameter is."""
    leaf = name.rpartition(".")[2]
    if leaf == "bias":
        return "biases"
    return "norm_weights" if parameter.ndim <= 1 or leaf == "mu" else "weights"


def poly_factor(step: int, *, max_steps: int, power: float = 0.9, refresh: int = 10) -> float:
    """Share of the base rate for the optimizer step with index ``step`` (from 0): ``(1 - i / max_steps) ** power``.

    The authors refresh the rate only every 10th iteration, counted from 1: iterations 1-9 run at the full rate, the
    10th at that of i = 10, the last one at 0.
    """
    iteration = min(step + 1, max_steps)
    held = iteration - iteration % refresh
    return (1 - held / max_steps) ** power


def build_optimizer(
    net: nn.Module,
    *,
    lr: float,
    momentum: float,
    weight_decay: float,
    max_steps: int,
    power: float = 0.9,
    refresh: int = 10,
    backbone_lr_factor: float = 1.0,
    fused: bool = False,
) -> tuple[torch.optim.SGD, torch.optim.lr_scheduler.LambdaLR]:
    """SGD over :func:`parameter_groups` and its schedule, to be stepped once per optimizer step.

    ``fused`` updates all parameters in one kernel, where PyTorch has it; it differs in rounding alone.
    """
    optimizer = torch.optim.SGD(
        parameter_groups(net, lr=lr, weight_decay=weight_decay, backbone_lr_factor=backbone_lr_factor),
        lr=lr,
        momentum=momentum,
        fused=fused,
    )

    def factor(step: int) -> float:
        return poly_factor(step, max_steps=max_steps, power=power, refresh=refresh)

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
