"""One way to measure: variants take turns in random order, memory in fresh processes, and a result file says where.

A script lists :class:`Variant` objects and calls :func:`main`. Those of one case are timed together: in each round each
runs once, in random order, so that a busy machine slows all of them. A row has the median and the quartiles. Memory is
the most that a call holds beyond what it was given, measured in a process that does nothing else: resident memory on a
CPU (Linux), bytes of PyTorch's allocator on CUDA.
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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
sys.path.insert(0, str(ROOT / "src"))

from emanet.common.provenance import git_state, hardware, versions  # noqa: E402

Call = Callable[[], object]


@dataclass(frozen=True)
class Variant:
    """One way to do the work of a case."""

    case: dict[str, Any]  #: what is computed: task, sizes; equal for all that are compared
    name: str  #: how
    build: Callable[[], Call]  #: makes the inputs; what it returns is timed
    memory: bool = False  #: whether to measure it, which takes a process of its own


def seconds(call: Call, device: str) -> float:
    """Wall time of a call."""
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    call()
    wait()
    return time.perf_counter() - start


def times(calls: Sequence[Call], *, device: str, rounds: int, budget: float) -> list[list[float]]:
    """Seconds of each call in each round; a call has fewer rounds where they would take more than ``budget`` seconds.

    A first call, in which libraries set up, counts only where it takes more than that alone.
    """
    first = [seconds(call, device) for call in calls]
    allowed = [min(rounds, int(budget / value)) for value in first]
    found = [[] if allowed[index] else [value] for index, value in enumerate(first)]
    order = random.Random(0)
    for number in range(max(allowed)):
        due = [index for index in range(len(calls)) if number < allowed[index]]
        for index in order.sample(due, len(due)):
            found[index].append(seconds(calls[index], device))
    return found


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Median and quartiles of some seconds, in milliseconds."""
    cuts = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    low, middle, high = (float(f"{1e3 * cut:.4g}") for cut in cuts)
    return {"ms": middle, "quartiles_ms": [low, high], "rounds": len(values)}


def peak_gflops(device: str, side: int = 2048) -> float:
    """Billions of float32 operations per second of a large matrix product, the best of ten: what the machine can do."""
    a, b = torch.randn(2, side, side, device=device)
    return round(2e-9 * side**3 / min(seconds(lambda: a @ b, device) for _ in range(10)), 1)


def peak_bytes(variant: Variant, device: str) -> int:
    """Most bytes held during a call beyond those held before it; it is not the first, in which libraries set up."""
    call = variant.build()
    call()
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


def resident(name: str) -> int:
    """Bytes of resident memory: now (VmRSS) or at most (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def peak_in_fresh_process(index: int) -> int | None:
    """:func:`peak_bytes` of the variant with this number; ``None`` where the system does not say."""
    # Of glibc: what is freed goes back to the system at once, else the heap's history decides what is resident.
    settings = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [sys.executable, *sys.argv, "--peak", str(index)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=settings)
    return int(done.stdout.split()[-1]) if done.returncode == 0 else None


def parse(description: str | None, *, rounds: int = 7, budget: float = 6.0, threads: int | None = None) -> Any:
    """Parse the command line that every script has, and settle device and threads."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=threads or torch.get_num_threads(), help="of PyTorch, on a CPU")
    parser.add_argument("--rounds", type=int, default=rounds, help="how often each variant is timed")
    parser.add_argument("--budget", type=float, default=budget, help="seconds for all rounds of a variant")
    parser.add_argument("--authors", type=Path, help="folder of a checkout of XiaLiPKU/EMANet, to stand beside ours")
    parser.add_argument("--mmseg", type=Path, help="folder that holds the package mmseg, to stand beside ours")
    parser.add_argument("--output", type=Path, help="instead of benchmarks/results/SCRIPT_DEVICE.json")
    parser.add_argument("--peak", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: no CUDA device was found")
    torch.set_num_threads(options.threads)
    return options


def main(
    variants: Sequence[Variant], options: argparse.Namespace, *, also: Sequence[dict[str, Any]] = (), **more: Any
) -> None:
    """Measure all variants, those of one case next to each other; write them, further rows and entries to the file."""
    if options.peak is not None:
        print(peak_bytes(variants[options.peak], options.device))
        return
    rows: list[dict[str, Any]] = []
    for case, group in groupby(variants, key=lambda variant: variant.case):
        together = list(group)
        limits = {"device": options.device, "rounds": options.rounds, "budget": options.budget}
        found = times([variant.build() for variant in together], **limits)
        gc.collect()
        for variant, values in zip(together, found, strict=True):
            row = {**case, "variant": variant.name, **summary(values)}
            peak = peak_in_fresh_process(len(rows)) if variant.memory else None
            rows.append(row if peak is None else row | {"peak_mb": round(peak / 1e6, 1)})
            print(json.dumps(rows[-1]), flush=True)
    write({**more, "rows": [*rows, *also]}, options)


def write(result: dict[str, Any], options: argparse.Namespace) -> None:
    """Write a result with the machine, the versions and the commit that it comes from."""
    script = Path(sys.argv[0]).stem
    path = options.output or RESULTS / f"{script}_{options.device}.json"
    # Changed is what was measured: not the result files, which just did.
    changes = subprocess.run(["git", "-C", str(ROOT), "diff", "--quiet", "HEAD", "--", "src", "benchmarks/*.py"])
    code = (git_state() or {"commit": "unknown"}) | {"dirty": changes.returncode != 0}
    origin = {"hardware": hardware(options.device), "versions": versions(), "code": code}
    path.write_text(json.dumps({"script": script, "device": options.device, **origin, **result}, indent=1) + "\n")
    print(f"written: {path}")
