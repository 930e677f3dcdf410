"""Whole training steps and whole evaluations: time, memory, growth with size and batch, and the share of each part.

    python benchmarks/step.py [--device auto] [--backbone resnet50s] [--size 257] [--images 2]

Network, task and optimizer are built from conf/ as src/train.py builds them, with random weights and random images. A
training step is the task's own (loss, backward, division by the global count, guard, bases, optimizer, schedule) in
Lightning's order; Lightning's loop, the loggers and the transfer of the batch are left out. A variant is a list of
overrides; "plain" is PyTorch as it comes, "fast" the preset trainer=fast. An evaluation is the prediction of an image
and its confusion matrix; variants are eval.upsample.

Parts are timed in rounds of their own, on CUDA with a wait after each. "input" is none of them: the time that one
process of the loader needs for the batch, and so its share the number of processes that keep up with the step.
Defaults are for a CPU; with CUDA ResNet-101, 16 images of 513x513. Writes benchmarks/results/step_DEVICE.json.
"""

import argparse
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from built import Setting, evaluation, loading, training
from measure import Variant, arguments, main, parse, seconds
from parts import Laps, Row, part_row, part_rows

from emanet.training.build import has_cpu_bfloat16
from emanet.training.losses.upsampled import launcher

PLAIN = ["loss.upsample=full", "trainer.channels_last=false", "trainer.precision=32-true", "optim.fused=false"]
FAST = ["trainer=fast"]
VARIANTS = {
    "plain": PLAIN,
    "loss in blocks": [*PLAIN, "loss.upsample=blocks"],
    "channels last": [*PLAIN, "trainer.channels_last=true"],
    "bfloat16": [*PLAIN, "trainer.precision=bf16-mixed"],
    "fused SGD": [*PLAIN, "optim.fused=true"],
    "fast": FAST,
}
ON_CUDA = {  # plain: TF32 in convolutions alone, as PyTorch comes
    "no TF32": PLAIN,
    "TF32 in all products": [*PLAIN, "trainer.matmul_precision=high"],
    "loss in Triton": [*PLAIN, "loss.upsample=triton"],
    "cuDNN tries kernels": [*PLAIN, "trainer.benchmark=true"],
    "compiled": [*PLAIN, "trainer.compile=true"],
    "fast, compiled": [*FAST, "trainer.compile=true"],
    "fast, compiled, CUDA graphs": [*FAST, "trainer.compile=true", "trainer.cuda_graphs=true"],
}
QUICKSTART = Setting("cpu", "quickstart", size=161, images=12, classes=6)  # as in conf/experiment


def names(device: str) -> list[str]:
    """Variants of a training step that the device has."""
    if device == "cuda":
        return [*VARIANTS, *(name for name in ON_CUDA if launcher() or name != "loss in Triton")]
    return [name for name in VARIANTS if name != "bfloat16" or has_cpu_bfloat16()]


def steps(setting: Setting, chosen: Sequence[str]) -> Iterator[Variant]:
    """Training steps of a case."""
    countable = setting.network != QUICKSTART.network  # PyTorch counts too much of grouped convolutions' backward pass
    for name in chosen:
        build = partial(training, (VARIANTS | ON_CUDA)[name], setting, tf32=name != "no TF32")
        yield Variant(
            setting.case("training step"), name, build, per_call=setting.images, count=countable and name == "plain"
        )


def growth(base: Setting, sizes: Sequence[int], batches: Sequence[int]) -> list[Setting]:
    """Other sizes, on a CPU with fewer images where they are large; then other numbers of images."""
    pixels = 2 * base.images * base.size**2
    most = [base.images if base.device == "cuda" else max(1, pixels // size**2) for size in sizes]
    fitting = [replace(base, size=size, images=min(base.images, n)) for size, n in zip(sizes, most, strict=True)]
    found = dict.fromkeys([*fitting, *(replace(base, images=images) for images in batches)])
    return [setting for setting in found if setting != base]


def looks(options: argparse.Namespace, base: Setting) -> Iterator[tuple[str, Setting]]:
    """What is evaluated: which look (a file of conf/eval), and what at."""
    for look, size in (("plain", options.eval_size), ("ms_flip", options.ms_size)):
        for classes in options.classes:
            yield look, replace(base, size=size, images=1, classes=classes)


def variants(options: argparse.Namespace, bases: Sequence[Setting]) -> Iterator[Variant]:
    """All that is timed as a whole."""
    for base in bases:
        yield from steps(base, names(base.device))
    for setting in growth(bases[0], options.sizes, options.batches):
        yield from steps(setting, ("plain", "fast"))
    for look, setting in looks(options, bases[0]):
        for upsample in ("full", "auto"):
            build = partial(evaluation, upsample, look, setting)
            yield Variant(setting.case("evaluation") | {"look": look}, upsample, build, count=upsample == "full")


def parts(options: argparse.Namespace, bases: Sequence[Setting]) -> Iterator[Row]:
    """Rows of the parts of steps and evaluations."""
    laps, rounds = Laps(options.device), options.rounds // 2 + 1
    for base in bases:
        for name in ("plain", "fast"):
            case = base.case("parts of a training step") | {"of": name}
            found = part_rows(case, training(VARIANTS[name], base, laps=laps), laps, rounds)
            yield from found
            whole = sum(row["ms"] for row in found) / 1e3
            yield part_row(case, "input, one process", input_seconds(base, 3 * rounds), whole)
    for look, setting in looks(options, bases[0]):
        for upsample in ("full", "auto"):
            case = setting.case("parts of an evaluation") | {"look": look, "of": upsample}
            yield from part_rows(case, evaluation(upsample, look, setting, laps=laps), laps, rounds)


def input_seconds(setting: Setting, rounds: int) -> float:
    """Time of reading and augmenting a batch on one thread."""
    with tempfile.TemporaryDirectory() as folder:
        load = loading(Path(folder), setting)
        return statistics.median(seconds(load, "cpu") for _ in range(rounds))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = arguments(__doc__)
    found.add_argument("--backbone", help="timm's name of a ResNet; by default resnet50s, with CUDA resnet101s")
    found.add_argument("--size", type=int, help="of the training step; by default 257, with CUDA 513")
    found.add_argument("--images", type=int, help="of the training step; by default 2, with CUDA 16")
    found.add_argument("--sizes", type=int, nargs="*", default=(129, 257, 385, 513), help="growth")
    found.add_argument("--batches", type=int, nargs="*", help="growth; by default 1 2 4, with CUDA 1 4 16")
    found.add_argument("--classes", type=int, nargs="*", default=(21, 171), help="of evaluations")
    found.add_argument("--eval-size", type=int, default=513, help="of the image looked at once")
    found.add_argument("--ms-size", type=int, help="of that with scales and flip; by default 257, with CUDA 513")
    found.add_argument("--no-quickstart", action="store_true", help="leave its network out")
    found.set_defaults(rounds=5, budget=8)
    return found


def complete(options: argparse.Namespace) -> argparse.Namespace:
    """Fill in what depends on the device."""
    cuda = options.device == "cuda"
    defaults: dict[str, Any] = {
        "backbone": ("resnet50s", "resnet101s"),
        "size": (257, 513),
        "images": (2, 16),
        "batches": ((1, 2, 4), (1, 4, 16)),
        "ms_size": (257, 513),
    }
    for name, values in defaults.items():
        if getattr(options, name) is None:
            setattr(options, name, values[cuda])
    return options


if __name__ == "__main__":
    options = complete(parse(parser()))
    bases = [Setting(options.device, options.backbone, options.size, options.images)]
    if not options.no_quickstart:
        bases.append(replace(QUICKSTART, device=options.device))
    more = partial(parts, options, bases)
    main(
        "EMANet at stride 8 (quickstart: 16), random weights and images",
        [*variants(options, bases)],
        options,
        also=more,
    )
