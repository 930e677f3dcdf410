"""Loss and evaluation without full-size logits, beside interpolating first: time and memory.

    python benchmarks/loss.py [--device auto] [--batch 2] [--size 513] [--rounds 7]

Loss: forward and backward from logits at an eighth of the resolution to their gradient. Evaluation: predicted classes of
one image, and its confusion matrix. In each round every variant runs once, in random order, so that a busy machine
slows all; the first round is not counted. Memory: most bytes beyond those of logits and mask, each figure in a fresh
process. Floor: bytes that must be read and written at least (logits, masks, gradients, classes), over the bandwidth
of a copy. Writes benchmarks/results/loss.json.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "src"))

from emanet.kernels.upsampled_loss import pick_method, upsampled_cross_entropy  # noqa: E402
from emanet.kernels.upsampling import upsampled_argmax  # noqa: E402
from emanet.metrics import confusion_matrix  # noqa: E402
from emanet.provenance import git_state, hardware, versions  # noqa: E402

CLASSES = (6, 21, 59, 150, 171)
STRIDE = 8
Variants = dict[str, Callable[[], object]]


def interpolate(low: Tensor, size: int) -> Tensor:
    """Logits at full size."""
    return F.interpolate(low, size=(size, size), mode="bilinear", align_corners=True)


def interpolate_first(low: Tensor, mask: Tensor) -> Tensor:
    """Gradient of the loss by PyTorch's interpolation and cross-entropy."""
    leaf = low.detach().requires_grad_()
    F.cross_entropy(interpolate(leaf, mask.shape[-1]), mask, ignore_index=255, reduction="sum").backward()
    assert leaf.grad is not None
    return leaf.grad


def with_the_loss(low: Tensor, mask: Tensor, method: str) -> Tensor:
    """Gradient of the loss without logits at full size."""
    leaf = low.detach().requires_grad_()
    upsampled_cross_entropy(leaf, mask, align_corners=True, method=method).backward()
    assert leaf.grad is not None
    return leaf.grad


def select_then_count(prediction: Tensor, mask: Tensor, classes: int) -> Tensor:
    """A confusion matrix as the authors count it: select the labelled pixels of both, make them int32, count."""
    labelled = (mask >= 0) & (mask < classes)
    cells = mask[labelled].int() * classes + prediction[labelled].int()
    return torch.bincount(cells, minlength=classes**2).view(classes, classes)


def problem(classes: int, batch: int, size: int, device: str) -> tuple[Tensor, Tensor]:
    """Logits at the stride, and a mask of 64-pixel blocks with void borders."""
    draw = torch.Generator().manual_seed(classes)
    side = (size - 1) // STRIDE + 1
    low = torch.randn(batch, classes, side, side, generator=draw) * 3
    coarse = torch.randint(0, classes, (batch, size // 64 + 1, size // 64 + 1), generator=draw)
    mask = coarse.repeat_interleave(64, 1).repeat_interleave(64, 2)[:, :size, :size].clone()
    mask[:, ::64] = mask[:, :, ::64] = 255
    return low.to(device), mask.to(device)


def loss_variants(classes: int, batch: int, size: int, device: str) -> Variants:
    """Ways to the gradient of the loss."""
    low, mask = problem(classes, batch, size, device)
    method = pick_method("auto", low)
    return {
        "interpolate, then loss": partial(interpolate_first, low, mask),
        f"ours ({method})": partial(with_the_loss, low, mask, method),
    }


def evaluation_variants(classes: int, size: int, device: str) -> Variants:
    """Ways to the predicted classes of one image, and to its confusion matrix."""
    low, mask = problem(classes, 1, size, device)
    last = low.contiguous(memory_format=torch.channels_last)
    prediction = interpolate(low, size).argmax(1)
    assert torch.equal(select_then_count(prediction, mask, classes), confusion_matrix(prediction, mask, classes))
    return {
        "interpolate, then argmax": lambda: interpolate(low, size).argmax(1),
        "classes: ours": lambda: upsampled_argmax(low, (size, size), align_corners=True),
        "interpolate, then argmax, channels last": lambda: interpolate(last, size).argmax(1),
        "classes: ours, channels last": lambda: upsampled_argmax(last, (size, size), align_corners=True),
        "select, then count (the authors' way)": partial(select_then_count, prediction, mask, classes),
        "confusion matrix: ours": partial(confusion_matrix, prediction, mask, classes),
    }


def least_bytes(name: str, classes: int, batch: int, size: int) -> int:
    """Bytes that a variant must read and write at least."""
    low, pixels = classes * ((size - 1) // STRIDE + 1) ** 2 * 4, size * size * 8
    if "loss" in name or name.startswith("ours"):
        return batch * (2 * low + pixels)
    return low + pixels if "argmax" in name or "classes" in name else 2 * pixels


def seconds(call: Callable[[], object], device: str) -> float:
    """Wall time of one call."""
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    call()
    wait()
    return time.perf_counter() - start


def bandwidth(device: str) -> float:
    """Bytes per second of a large copy, read and written ones together."""
    source = torch.ones(2**26, device=device)
    target = torch.empty_like(source)
    times = [seconds(lambda: target.copy_(source), device) for _ in range(7)]
    return 2 * source.numel() * 4 / statistics.median(times[2:])


def rounds(
    groups: dict[tuple[str, int], Variants], number: int, device: str
) -> dict[tuple[str, int, str], list[float]]:
    """Times of each variant; every round in another order."""
    calls = {(*group, name): call for group, variants in groups.items() for name, call in variants.items()}
    times: dict[tuple[str, int, str], list[float]] = {key: [] for key in calls}
    rng = random.Random(0)
    for index in range(number + 1):
        for key in rng.sample(sorted(calls), len(calls)):
            value = seconds(calls[key], device)
            if index:
                times[key].append(value)
    return times


def peak_bytes(call: Callable[[], object], device: str) -> int:
    """Most bytes alive during a call beyond those before it; on Linux, of a process that did nothing else."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text("5")  # starts a new peak of resident memory
    before = resident("VmRSS")
    call()
    return resident("VmHWM") - before


def resident(field: str) -> int:
    """Bytes of resident memory, now (VmRSS) or at most (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def peak_in_fresh_process(kind: str, classes: int, name: str, options: argparse.Namespace) -> int | None:
    """:func:`peak_bytes` of one variant, in a process of its own; ``None`` where the system does not say."""
    sizes = ["--device", options.device, "--batch", str(options.batch), "--size", str(options.size)]
    command = [sys.executable, __file__, *sizes, "--threads", str(options.threads), "--peak", kind, str(classes), name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return int(done.stdout) if done.returncode == 0 else None


def variants_of(kind: str, classes: int, options: argparse.Namespace) -> Variants:
    """The variants of a part: loss or evaluation."""
    if kind == "loss":
        return loss_variants(classes, options.batch, options.size, options.device)
    return evaluation_variants(classes, options.size, options.device)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Times and memory of all variants."""
    groups = {
        (kind, classes): variants_of(kind, classes, options)
        for kind in ("loss", "evaluation")
        for classes in options.classes
    }
    speed = bandwidth(options.device)
    rows = []
    for (kind, classes, name), times in rounds(groups, options.rounds, options.device).items():
        floor = least_bytes(name, classes, options.batch, options.size) / speed
        median = statistics.median(times)
        peak = peak_in_fresh_process(kind, classes, name, options)
        row = {
            "part": kind,
            "classes": classes,
            "variant": name,
            "ms": round(1e3 * median, 3),
            "range_ms": [round(1e3 * min(times), 3), round(1e3 * max(times), 3)],
            "floor_ms": round(1e3 * floor, 3),
            "times_floor": round(median / floor, 1),
            "peak_mb": None if peak is None else round(peak / 1e6, 1),
        }
        print(json.dumps(row), flush=True)
        rows.append(row)
    return {"bandwidth_gb_per_s": round(speed / 1e9, 1), "rows": rows}


def parse() -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--batch", type=int, default=2, help="images of the loss")
    parser.add_argument("--size", type=int, default=513)
    parser.add_argument("--classes", type=int, nargs="+", default=CLASSES)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--peak", nargs=3, metavar=("PART", "CLASSES", "VARIANT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.device == "auto":
        options.device = "cuda" if torch.cuda.is_available() else "cpu"
    return options


def main() -> None:
    """Measure, print and write."""
    options = parse()
    torch.set_num_threads(options.threads)
    if options.peak:
        kind, classes, name = options.peak
        call = variants_of(kind, int(classes), options)[name]
        print(peak_bytes(call, options.device))
        return
    result = {
        "what": f"medians of {options.rounds} rounds in random order, float32, {options.size}x{options.size}; the loss, "
        f"forward and backward, of {options.batch} images; evaluation of one; logits at an eighth of the resolution",
        **measure(options),
        "hardware": hardware(options.device),
        "versions": versions(),
        "code": git_state(),
    }
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / "loss.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
