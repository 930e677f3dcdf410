"""Schedules of the learning rate, stepped once per optimizer step; every one can warm up.

A schedule is ``make(optimizer) -> scheduler``; one that names ``max_steps`` is given the length of the training.
"""

import math
from collections.abc import Callable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from emanet.common.checks import at_least_one, share


def poly(
    optimizer: Optimizer, *, max_steps: int, power: float = 0.9, refresh: int = 10, warmup_steps: int = 0
) -> LambdaLR:
    """The paper's schedule: the base rate times ``(1 - i / max_steps) ** power`` at iteration i, counted from 1.

    Args:
        optimizer: whose rates are scheduled.
        max_steps: length of the training in optimizer steps.
        power: of the decay.
        refresh: iterations between two changes of the rate. The authors change it every 10th: iterations 1-9 run at
            the full rate, the 10th at that of i = 10, the last one at 0.
        warmup_steps: first steps, over which the rate rises linearly from 0.

    Raises:
        ValueError: for values out of range.
    """
    at_least_one(refresh=refresh)
    if not 0 <= power < math.inf:
        raise ValueError(f"power must be 0 or more, got power={power}")

    def factor(step: int) -> float:
        iteration = min(step + 1, max_steps)
        return (1 - (iteration - iteration % refresh) / max_steps) ** power

    return warmed_up(optimizer, factor, warmup_steps)


def cosine(optimizer: Optimizer, *, max_steps: int, final: float = 0.0, warmup_steps: int = 0) -> LambdaLR:
    """Half a cosine from the base rate to the share ``final`` of it at the last step; ``warmup_steps`` as in poly."""
    share(final=final)

    def factor(step: int) -> float:
        return final + (1 - final) * (1 + math.cos(math.pi * progress(step, max_steps, warmup_steps))) / 2

    return warmed_up(optimizer, factor, warmup_steps)


def linear(optimizer: Optimizer, *, max_steps: int, final: float = 0.0, warmup_steps: int = 0) -> LambdaLR:
    """A straight line from the base rate to the share ``final`` of it at the last step; ``warmup_steps`` as in poly."""
    share(final=final)

    def factor(step: int) -> float:
        return 1 - (1 - final) * progress(step, max_steps, warmup_steps)

    return warmed_up(optimizer, factor, warmup_steps)


def constant(optimizer: Optimizer, *, warmup_steps: int = 0) -> LambdaLR:
    """The base rate throughout; ``warmup_steps`` as in poly."""
    return warmed_up(optimizer, lambda step: 1.0, warmup_steps)


def progress(step: int, max_steps: int, warmup_steps: int) -> float:
    """Share 0..1 of the steps behind the warm-up that are done at a step, from 0; 1 at the last one."""
    return min(max(step - warmup_steps, 0) / max(max_steps - warmup_steps - 1, 1), 1.0)


def warmed_up(optimizer: Optimizer, factor: Callable[[int], float], warmup_steps: int) -> LambdaLR:
    """A schedule by its factor of the base rate, which rises to it over the first steps.

    Raises:
        ValueError: for a negative number of steps.
    """
    if warmup_steps < 0:
        raise ValueError(f"warmup_steps must be 0 (none) or more, got warmup_steps={warmup_steps}")
    return LambdaLR(optimizer, lambda step: factor(step) * min(1.0, (step + 1) / max(warmup_steps, 1)))
