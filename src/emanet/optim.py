"""The paper's optimiser: SGD with three parameter groups and a poly schedule (FACTS section 3)."""

import torch
from torch import nn


def parameter_groups(net: nn.Module, *, lr: float, weight_decay: float) -> list[dict]:
    """Split the trainable parameters: weights (lr, decay), norm weights (lr, no decay), biases (2 lr, no decay).

    Norm weights are all other tensors of one dimension (batch-norm and layer-norm scales, layer scales); bases trained
    by gradient join them, since decay would pull them off the sphere.
    """
    weights, norm_weights, biases = [], [], []
    for name, parameter in net.named_parameters():
        if not parameter.requires_grad:
            continue
        leaf = name.rpartition(".")[2]
        if leaf == "bias":
            biases.append(parameter)
        elif parameter.ndim <= 1 or leaf == "mu":
            norm_weights.append(parameter)
        else:
            weights.append(parameter)
    groups = [
        {"name": "weights", "params": weights, "lr": lr, "weight_decay": weight_decay},
        {"name": "norm_weights", "params": norm_weights, "lr": lr, "weight_decay": 0.0},
        {"name": "biases", "params": biases, "lr": 2 * lr, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def poly_factor(step: int, *, max_steps: int, power: float = 0.9, refresh: int = 10) -> float:
    """Share of the base rate for the optimiser step with index ``step`` (from 0): ``(1 - i / max_steps) ** power``.

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
    nesterov: bool = False,
) -> tuple[torch.optim.SGD, torch.optim.lr_scheduler.LambdaLR]:
    """SGD over :func:`parameter_groups` and its schedule, to be stepped once per optimiser step."""
    optimizer = torch.optim.SGD(
        parameter_groups(net, lr=lr, weight_decay=weight_decay), lr=lr, momentum=momentum, nesterov=nesterov
    )

    def factor(step: int) -> float:
        return poly_factor(step, max_steps=max_steps, power=power, refresh=refresh)

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
