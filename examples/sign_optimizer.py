"""An optimizer of one's own: steps by the sign of the averaged gradient (signSGD with momentum).

    python src/train.py --config-dir examples/conf optimizer=sign optimizer.lr=1e-4 ...

Any class of torch.optim's kind works; ``optimizer.groups`` gives each group its ``lr`` and ``weight_decay``.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.optim import Optimizer


class SignSGD(Optimizer):
    """Each parameter moves by lr against the sign of its averaged gradient, and decays.

    Args:
        params: parameters, or groups of them.
        lr: length of a step.
        momentum: share of the old average that is kept.
        weight_decay: share of a parameter, times lr, that a step takes away.
    """

    def __init__(
        self, params: Iterable[Any], *, lr: float = 1e-4, momentum: float = 0.9, weight_decay: float = 0.0
    ) -> None:
        if lr <= 0 or not 0 <= momentum < 1:
            raise ValueError(f"lr must be positive and momentum 0..1, got lr={lr}, momentum={momentum}")
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                mean = self.state[parameter].setdefault("mean", torch.zeros_like(parameter))
                mean.lerp_(parameter.grad, 1 - group["momentum"])
                parameter.mul_(1 - group["lr"] * group["weight_decay"]).sub_(mean.sign(), alpha=group["lr"])
        return loss
