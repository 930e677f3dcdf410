"""What the benchmarks share: variants timed side by side in one run, memory in fresh processes, floors, a result file.

A script lists :class:`Variant` objects and calls :func:`main`. Those of one case are timed together: in each round each
runs once, in random order, so that a busy machine slows all of them; a first round is not counted. Short calls are
repeated until a sample lasts :data:`SAMPLE`. A row has the median and the range between the quartiles.

Memory is the most that is held beyond the inputs, measured in a process that does nothing else: resident memory on a
CPU (Linux), bytes of the allocator on CUDA.

Floor: no variant can be faster than the bytes that its task must move over the bandwidth of a large copy, nor than its
operations over those of a large matrix product, both measured in the same run. The product is of float32
where variants of several precisions share a case, so that it has one floor: bfloat16 can go below it.
"""

import argparse
import gc
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "src"))

from emanet.common.provenance import git_state, hardware, versions  # noqa: E402

RESULTS = HERE / "results"
SIDES = {"cpu": (1024, 2048), "cuda": (4096, 8192)}  # of the matrices whose product shows what the machine can do
SAMPLE = 0.02  # seconds
Call = Callable[[], object]
Case = dict[str, Any]


@dataclass(frozen=True)
class Variant:
    """One way to do the task of a case."""

    case: Case  #: what is computed: sizes, precision, direction; equal for all that are compared
    name: str  #: how
    build: Callable[[], Call]  #: makes inputs and warm-up; what it returns is timed
    bytes: float = 0  #: that the task must read and write at least
    operations: float = 0  #: floating-point operations that the task needs at least
    dtype: str = "float32"  #: precision of the operations
    count: bool = False  #: let PyTorch count the products of a call; others of the case without any take that number
    per_call: int = 1  #: images, say, of a call
    memory: bool = True  #: whether to measure it
    note: dict[str, Any] = field(default_factory=dict)  #: further columns


@dataclass(frozen=True)
class Roof:
    """What the machine can do: bytes per second, and operations per second of each precision."""

    bandwidth: float
    operations: dict[str, float]

    def floor(self, variant: Variant) -> float | None:
        """Seconds below which the task cannot be done; ``None`` where the variant names no work."""
        least = max(variant.bytes / self.bandwidth, variant.operations / self.operations[variant.dtype])
        return least or None

    def as_dict(self) -> dict[str, float]:
        """For the result file."""
        peaks = {f"gflops_{name}": round(value / 1e9, 1) for name, value in self.operations.items()}
        return {"bandwidth_gb_per_s": round(self.bandwidth / 1e9, 1), **peaks}


# --- time -------------------------------------------------------------------------------------------------------------


def seconds(call: Call, device: str, repeats: int = 1) -> float:
    """Wall time of a call; mean of several in a row."""
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    wait()
    return (time.perf_counter() - start) / repeats


def times(variants: Sequence[Variant], options: argparse.Namespace) -> list[list[float]]:
    """Times of variants of one case: ``options.rounds`` each, fewer of those that exceed ``options.budget`` seconds."""
    calls = [variant.build() for variant in variants]
    estimates = [warmed_up(call, options) for call in calls]
    repeats = [max(1, round(SAMPLE / value)) for value in estimates]
    rounds = [max(1, int(options.budget / max(SAMPLE, value))) for value in estimates]
    found: list[list[float]] = [[] for _ in calls]
    rng = random.Random(0)
    for number in range(options.rounds):
        due = [k for k in range(len(calls)) if number < rounds[k]]
        for k in rng.sample(due, len(due)):
            found[k].append(seconds(calls[k], options.device, repeats[k]))
    return found


def warmed_up(call: Call, options: argparse.Namespace) -> float:
    """Call once or twice; about how long it takes."""
    first = seconds(call, options.device)
    return first if first > options.budget else seconds(call, options.device)


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    """Lower and upper quartile."""
    if len(values) < 2:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high


# --- memory -----------------------------------------------------------------------------------------------------------


def peak_bytes(variant: Variant, device: str) -> int:
    """Most bytes held during a call beyond those before it."""
    exercise(device)
    call = variant.build()
    gc.collect()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text("5")  # starts a new peak of resident memory
    before = resident("VmRSS")
    call()
    return resident("VmHWM") - before


def exercise(device: str) -> None:
    """Let the libraries set up what they keep, so that it is not counted."""
    image = torch.rand(1, 8, 9, 9, device=device, requires_grad=True)
    wide = torch.nn.functional.interpolate(image, size=(17, 17), mode="bilinear")
    maps = torch.nn.functional.conv2d(wide, torch.rand(8, 8, 1, 1, device=device))
    (maps.flatten(2) @ maps.flatten(2).transpose(1, 2)).log_softmax(1).sum().backward()


def resident(name: str) -> int:
    """Bytes of resident memory, now (VmRSS) or at most (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def peak_in_fresh_process(index: int) -> int | None:
    """:func:`peak_bytes` of a variant; ``None`` where the system does not say."""
    command = [sys.executable, *sys.argv, "--peak", str(index)]
    # Of glibc: what is freed goes back to the system at once, else the heap's history decides what is resident.
    settings = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=settings)
    return int(done.stdout.split()[-1]) if done.returncode == 0 else None


# --- floor ------------------------------------------------------------------------------------------------------------


def roof(device: str, dtypes: Iterable[str]) -> Roof:
    """Bandwidth of a large copy, read and written bytes together, and speed of a large matrix product."""
    source = torch.ones(2**26, device=device)
    target = torch.empty_like(source)
    bandwidth = 2 * source.nbytes / best(lambda: target.copy_(source), device)
    operations = {
        name: max(product_speed(name, side, device) for side in SIDES[device]) for name in sorted(set(dtypes))
    }
    return Roof(bandwidth, operations)


def with_operations(variants: Sequence[Variant]) -> list[Variant]:
    """Variants of one case with the floating-point operations of their matrix products and convolutions."""
    found = [
        replace(variant, operations=counted(variant.build())) if variant.count else variant for variant in variants
    ]
    shared = next((variant.operations for variant in found if variant.count), 0)
    return [
        variant if variant.operations or variant.bytes else replace(variant, operations=shared) for variant in found
    ]


def counted(call: Call) -> int:
    """Floating-point operations of a call's matrix products and convolutions."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def product_speed(dtype: str, side: int, device: str) -> float:
    """Operations per second of a product of two square matrices."""
    a, b = (torch.randn(side, side, device=device).to(getattr(torch, dtype)) for _ in range(2))
    return 2 * side**3 / best(lambda: a @ b, device)


def best(call: Call, device: str) -> float:
    """Least time of a call, of as many as a second has, and of seven at least: what the machine can do."""
    found: list[float] = []
    while len(found) < 7 or sum(found) < 1:
        found.append(seconds(call, device))
    return min(found)


# --- one run ----------------------------------------------------------------------------------------------------------


def arguments(description: str | None) -> argparse.ArgumentParser:
    """Options that every script has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of PyTorch, on a CPU")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--budget", type=float, default=20, help="seconds for a variant, from which rounds are saved")
    parser.add_argument("--no-memory", action="store_true", help="measure times alone")
    parser.add_argument("--output", type=Path, help="instead of benchmarks/results/SCRIPT_DEVICE.json")
    parser.add_argument("--peak", type=int, help=argparse.SUPPRESS)
    return parser


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Parse the command line, settle the device, and set the threads."""
    options = parser.parse_args()
    if options.device == "auto":
        options.device = "cuda" if torch.cuda.is_available() else "cpu"
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: no CUDA device was found")
    torch.set_num_threads(options.threads)
    return options


def main(
    what: str,
    variants: Sequence[Variant],
    options: argparse.Namespace,
    *,
    also: Callable[[], Iterable[dict[str, Any]]] = list,
    **more: Any,
) -> None:
    """Measure all variants, print a line each, and write the result file.

    Args:
        what: a sentence on what is measured, for the reader of the file.
        variants: those of one case next to each other.
        options: from :func:`parse`.
        also: gives further rows, measured in another way.
        more: further entries of the file.
    """
    if options.peak is not None:
        print(peak_bytes(variants[options.peak], options.device))
        return
    machine = roof(options.device, (variant.dtype for variant in variants))
    rows: list[dict[str, Any]] = []
    for _, group in groupby(variants, key=lambda variant: variant.case):
        together = with_operations(list(group))
        found = times(together, options)
        gc.collect()
        for variant, values in zip(together, found, strict=True):
            wanted = variant.memory and not options.no_memory
            peak = peak_in_fresh_process(len(rows)) if wanted else None
            rows.append(row(variant, values, machine.floor(variant), peak))
            print(json.dumps(rows[-1]), flush=True)
    for further in also():
        rows.append(further)
        print(json.dumps(further), flush=True)
    write({"what": what, "roof": machine.as_dict(), "rows": rows, **more}, options)


def row(variant: Variant, values: Sequence[float], floor: float | None, peak: int | None) -> dict[str, Any]:
    """Median, quartiles, floor and memory of a variant."""
    median, (low, high) = statistics.median(values), quartiles(values)
    result = {
        **variant.case,
        "variant": variant.name,
        "ms": significant(1e3 * median),
        "quartiles_ms": [significant(1e3 * low), significant(1e3 * high)],
        "rounds": len(values),
    }
    if variant.per_call != 1:
        result["images_per_s"] = significant(variant.per_call / median)
    if floor is not None:
        result |= {"floor_ms": significant(1e3 * floor), "times_floor": significant(median / floor, 3)}
    if peak is not None:
        result["peak_mb"] = round(peak / 1e6, 1)
    return result | variant.note


def significant(value: float, digits: int = 4) -> float:
    """The value with so many digits."""
    return float(f"{value:.{digits}g}")


def write(result: dict[str, Any], options: argparse.Namespace) -> None:
    """Write a result with where it comes from."""
    script = Path(sys.argv[0]).stem
    path = options.output or RESULTS / f"{script}_{options.device}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    origin = {"hardware": hardware(options.device), "versions": versions(), "code": git_state()}
    path.write_text(json.dumps({"script": script, "device": options.device, **result, **origin}, indent=1) + "\n")
    print(f"written: {path}")
