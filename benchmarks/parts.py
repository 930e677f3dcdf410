"""Time of the parts of a training step or an evaluation: laps that end at hooks of the network and of its outputs."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from measure import Call, significant
from torch import Tensor, nn

Row = dict[str, Any]
HEAD = "head without the unit"
#: module -> the part that ends with it, and the part whose backward pass is done when its output has a gradient
CHAIN = {"backbone": ("backbone", HEAD), "fc0": (HEAD, "unit"), "emau": ("unit", HEAD), "fc2": (HEAD, "loss")}


class Laps:
    """Seconds from one lap to the next, summed by name."""

    def __init__(self, device: str) -> None:
        self.wait = torch.cuda.synchronize if device == "cuda" else lambda: None
        self.seconds: dict[str, float] = {}
        self._last = 0.0

    def start(self) -> None:
        """Begin anew."""
        self.seconds = {}
        self._last = self._now()

    def lap(self, name: str) -> None:
        """End a part."""
        now = self._now()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._last
        self._last = now

    def _now(self) -> float:
        self.wait()
        return time.perf_counter()


class NoLaps(Laps):
    """Looks at no clock and waits for nobody."""

    def start(self) -> None:
        """Nothing."""

    def lap(self, name: str) -> None:
        """Nothing."""


no_laps = NoLaps("cpu")


def watch(net: nn.Module, laps: Laps, *, before: str) -> None:
    """Have an EMANet end a lap after each of its parts, forward and backward; what comes before it is ``before``."""
    net.get_submodule("backbone").register_forward_pre_hook(lambda *_: laps.lap(before))
    for name, (part, behind) in CHAIN.items():
        net.get_submodule(name).register_forward_hook(ends(laps, part, f"{behind}, backward"))


def ends(laps: Laps, part: str, behind: str) -> Callable[[nn.Module, Any, Any], None]:
    """A hook that ends a lap, and another one when the output has its gradient."""

    def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
        tensor: Tensor = output[0] if isinstance(output, tuple) else output
        if tensor.requires_grad:
            tensor.register_hook(lambda _: laps.lap(behind))
        laps.lap(part)

    return hook


def part_rows(case: Row, call: Call, laps: Laps, rounds: int) -> list[Row]:
    """Median time of each part over some rounds after a first one, and its share of their sum."""
    found: list[dict[str, float]] = []
    for _ in range(rounds + 1):
        call()
        found.append(laps.seconds)
    medians = {name: statistics.median(one[name] for one in found[1:]) for name in found[0]}
    return [part_row(case, name, value, sum(medians.values())) for name, value in medians.items()]


def part_row(case: Row, name: str, seconds: float, whole: float) -> Row:
    """Row of a part."""
    return case | {"variant": name, "ms": significant(1e3 * seconds), "share": significant(seconds / whole, 3)}
