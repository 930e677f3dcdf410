"""What a network costs, part by part: parameters, multiply-accumulates, memory; and the published table beside ours.

Everything is counted on PyTorch's ``meta`` device, from shapes alone: no image is computed and any size takes a second.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from emanet.common.errors import ConfigError
from emanet.common.files import replacing
from emanet.config.instantiate import build
from emanet.config.schema import PROJECT_ROOT
from emanet.model.heads import HEADS
from emanet.model.network import EMANet

PUBLISHED = PROJECT_ROOT / "docs" / "published.yaml"
PUBLISHED_SIZE = 513
PUBLISHED_PARTS = ("fc0", "head")  # what the published overhead counts, with the bases (FACTS section 2)


@dataclass(frozen=True)
class Cost:
    """What one part costs for one image.

    Args:
        name: the part.
        params: trained and frozen parameters; the stored bases are none (they are a buffer).
        macs: multiply-accumulates of convolutions, matrix products and batch norms (two per element in evaluation, as
            fvcore counts; the other elementwise operations count nothing, here as there). The published "FLOPs" are
            these too: 1 MAC = 1 FLOP.
        memory: most bytes of activations alive at once while the part computes, its input included, weights left out:
            inference (no gradient) of one image in float32. Training keeps every layer's output and needs much more.
    """

    name: str
    params: int
    macs: int
    memory: int


class LiveMemory(TorchDispatchMode):
    """Follow the storages that operations make: bytes alive now, and the most at once since the last reset."""

    def __init__(self, *held: Tensor, weights: Sequence[Tensor] = ()) -> None:
        super().__init__()
        self.alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self.weights = {value.untyped_storage()._cdata for value in weights}  # not counted
        self.peak = 0
        for value in held:
            self._add(value)

    def reset(self) -> None:
        """Start a new part: the peak is what is alive now."""
        self.peak = self._bytes()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation and take its results into account."""
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, tuple | list) else (out,):
            if isinstance(value, Tensor):
                self._add(value)
        self.peak = max(self.peak, self._bytes())
        return out

    def _add(self, value: Tensor) -> None:
        storage = value.untyped_storage()
        if storage._cdata not in self.weights:
            self.alive[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())

    def _bytes(self) -> int:
        self.alive = {key: entry for key, entry in self.alive.items() if not entry[0].expired()}
        return sum(size for _, size in self.alive.values())


class FusedAttention(TorchFunctionMode):
    """Take the fused kernel for attention, as CPUs and GPUs do: ``meta`` would hold the weights of all pairs."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Hand plain attention to the kernel, whose cost PyTorch's counter knows."""
        if func is torch.nn.functional.scaled_dot_product_attention and len(args) == 3 and not kwargs:
            return torch.ops.aten._scaled_dot_product_efficient_attention(*args, None, False)[0]
        return func(*args, **(kwargs or {}))


def batch_norm_flops(shape: Sequence[int], *args: Any, **kwargs: Any) -> int:
    """A multiplication and an addition per element in evaluation, each taken for a whole multiply-accumulate."""
    return 2 * 2 * math.prod(shape)  # FLOPs: the caller halves them


BATCH_NORMS: dict[Any, Any] = {
    torch.ops.aten.native_batch_norm: batch_norm_flops,
    torch.ops.aten._native_batch_norm_legit_no_training: batch_norm_flops,
}


def measure(net: EMANet, height: int, width: int) -> list[Cost]:
    """Cost of each part of a network on the ``meta`` device, for one image; then of all of it.

    Raises:
        ValueError: for a size below 1, or a network that is not on the ``meta`` device.
    """
    if min(height, width) < 1:
        raise ValueError(f"size must be at least 1 pixel, got {height}x{width}")
    if any(not parameter.is_meta for parameter in net.parameters()):
        raise ValueError("build the network under torch.device('meta'): it is counted, not run")
    image = torch.empty(1, 3, height, width, device="meta")
    live, peaks = LiveMemory(image, weights=[*net.parameters(), *net.buffers()]), {}
    handles = []
    for name, part in net.named_children():
        handles.append(part.register_forward_pre_hook(lambda *_: live.reset()))
        handles.append(part.register_forward_hook(lambda *_, name=name: peaks.update({name: live.peak})))
    counter = FlopCounterMode(display=False, custom_mapping=BATCH_NORMS)
    with counter, torch.no_grad(), live, FusedAttention():
        net.eval()(image)
    for handle in handles:
        handle.remove()
    flops = {name: sum(counts.values()) for name, counts in counter.get_flop_counts().items()}
    costs = []
    for name, peak in peaks.items():  # as they ran; a head for training alone does not run
        part = net.get_submodule(name)
        params = sum(parameter.numel() for parameter in part.parameters())
        if not isinstance(part, nn.Identity):
            costs.append(Cost(name, params, flops.get(f"{type(net).__name__}.{name}", 0) // 2, peak))
    most = max(live.peak, *peaks.values())  # the last peak is that of the upsampling, after all parts
    return [*costs, Cost("total", sum(c.params for c in costs), sum(c.macs for c in costs), most)]


def overheads(net: EMANet, costs: Sequence[Cost]) -> list[Cost]:
    """What the head adds to the backbone, counted in both ways: as published, and whole.

    The published count takes fc0, the unit and its bases, or the rival head in their place, and leaves out fc1 and the
    classifier.
    """
    parts = {cost.name: cost for cost in costs}
    published = [parts[name] for name in PUBLISHED_PARTS if name in parts]
    head = [cost for cost in costs if cost.name not in ("backbone", "total")]
    bases = sum(buffer.numel() for name, buffer in net.head.named_buffers() if name == "mu")
    return [
        Cost(name, sum(c.params for c in chosen) + bases, sum(c.macs for c in chosen), max(c.memory for c in chosen))
        for name, chosen in (("overhead as published", published), ("overhead, whole head", head))
    ]


def build_on_meta(**options: Any) -> EMANet:
    """The paper's network without memory for its weights."""
    with torch.device("meta"):
        return EMANet(**options)


def head_costs(model: Mapping[str, Any], num_classes: int, height: int, width: int) -> list[Cost]:
    """What every head would add to the configured network's backbone, counted in both ways."""
    kept = ("backbone", "output_stride", "multi_grid", "channels")
    common = {key: model[key] for key in kept if key in model}
    rows = []
    for name in HEADS:
        net = build_on_meta(num_classes=num_classes, head=name, **common)
        added = overheads(net, measure(net, height, width))
        rows += [replace(cost, name=f"{name}: {cost.name}") for cost in added]
    return rows


def published_rows(published: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The published costs beside ours: method; published MACs, params, memory; ours counted so; ours, whole head."""
    rows = []
    for entry in published["rows"]:
        ours = [""] * 4
        if "model" in entry:
            net = build_on_meta(num_classes=published["num_classes"], **entry["model"])
            costs = measure(net, PUBLISHED_SIZE, PUBLISHED_SIZE)
            counted = costs[:1] * 2 if entry["part"] == "backbone" else overheads(net, costs)
            ours = [text for cost in counted for text in (f"{cost.macs / 1e9:.2f}", f"{cost.params / 1e6:.3f}")]
        rows.append((entry["method"], str(entry["gmacs"]), str(entry["mparams"]), entry["memory"], *ours))
    return rows


COLUMNS = [
    "method",
    "published\nGMACs",
    "\nM par.",
    "\nmemory",
    "ours so\nGMACs",
    "\nM par.",
    "whole\nGMACs",
    "\nM par.",
]


def print_table(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table."""
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in header:
        table.add_column(name, no_wrap=True)
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def print_costs(title: str, costs: Sequence[Cost]) -> None:
    """Print what parts cost."""
    rows = [(c.name, f"{c.params / 1e6:.3f}", f"{c.macs / 1e9:.2f}", f"{c.memory / 1e6:.1f}") for c in costs]
    print_table(title, ("part", "params (M)", "MACs (G)", "peak memory (MB)"), rows)


def report(cfg: Mapping[str, Any]) -> None:
    """Measure the configured network, print its table and the published one, write the rows if a path is given.

    Raises:
        ConfigError: for a size that makes no sense.
    """
    size, model = cfg["size"], cfg["model"] | {"pretrained": False}  # weights cost nothing to count
    sides = size if isinstance(size, list) else [size, size]
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise ConfigError(f"size is one number of pixels, or [height,width], got {size}")
    height, width = sides
    with torch.device("meta"):
        net = build(model, "model", num_classes=cfg["num_classes"])
    costs = measure(net, height, width)
    costs += overheads(net, costs)
    setting = f"{model['backbone']}, {model['channels']} channels, 1x3x{height}x{width}"
    print_costs(setting, costs)
    if cfg["heads"]:
        added = head_costs(model, cfg["num_classes"], height, width)
        print_costs(f"every head on top of the backbone: {setting}", added)
        costs += added
    if PUBLISHED.is_file():  # not in an installed package
        published = yaml.safe_load(PUBLISHED.read_text(encoding="utf-8"))["costs"]
        title = f"published beside ours: {published['setting']}\n{published['source']}\n{published['note']}"
        print_table(title, COLUMNS, published_rows(published))
    if cfg["json"] is not None:
        path = Path(cfg["json"]).expanduser()
        with replacing(path) as temporary:
            temporary.write_text(json.dumps([asdict(cost) for cost in costs], indent=2) + "\n", encoding="utf-8")
        print(f"rows in {path}")
