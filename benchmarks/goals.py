"""What the project set out to reach, and how each of it is read off the result files."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]
Results = dict[tuple[str, str], dict[str, Any]]  # by script and device
Reading = tuple[str, bool]  # what was measured, and whether that is the goal


@dataclass(frozen=True)
class Goal:
    """A figure to be reached."""

    part: str
    text: str
    script: str
    device: str
    read: Callable[[Sequence[Row]], Reading]


def reached(goal: Goal, results: Results) -> tuple[str, str]:
    """What was measured, and the verdict: reached, missed or not run."""
    result = results.get((goal.script, goal.device))
    if result is None:
        return "", "not run"
    try:
        text, good = goal.read(result["rows"])
    except LookupError:  # a run of other cases
        return "", "not run"
    return text, "reached" if good else "**missed**"


def row(rows: Sequence[Row], variant: str, **case: Any) -> Row:
    """The row of a variant in a case.

    Raises:
        LookupError: if there is none.
    """
    for one in rows:
        if one["variant"] == variant and all(one.get(key) == value for key, value in case.items()):
            return one
    raise LookupError(f"no row {variant} with {case}")


def span(values: Sequence[float]) -> str:
    """Smallest to largest, as times."""
    low, high = min(values), max(values)
    return f"{low:.2f}x" if f"{low:.2f}" == f"{high:.2f}" else f"{low:.2f}x to {high:.2f}x"


def over(rows: Sequence[Row], cases: Sequence[Row], ours: str, other: str, key: str = "ms") -> list[float]:
    """How many times ours the other variant's figure is, in each case."""
    return [row(rows, other, **case)[key] / row(rows, ours, **case)[key] for case in cases]


def distinct(rows: Sequence[Row], *keys: str, **fixed: Any) -> list[Row]:
    """Different values of the keys among the rows with the fixed ones, in their order.

    Raises:
        LookupError: if there are none.
    """
    chosen = [one for one in rows if all(one.get(key) == value for key, value in fixed.items())]
    found = dict.fromkeys(tuple(one[key] for key in keys) for one in chosen)
    if not found:
        raise LookupError(f"no row with {fixed}")
    return [dict(zip(keys, values, strict=True)) | fixed for values in found]


# --- loss -------------------------------------------------------------------------------------------------------------


def loss_memory(method: str) -> Callable[[Sequence[Row]], Reading]:
    """Memory beside interpolating first, from 59 classes up."""

    def read(rows: Sequence[Row]) -> Reading:
        cases = distinct([one for one in rows if one["classes"] >= 59], "classes", task="loss")
        shares = [1 / value for value in over(rows, cases, method, "full", "peak_mb")]
        return f"1/{1 / max(shares):.1f} to 1/{1 / min(shares):.1f}", max(shares) < 1 / 5

    return read


def loss_time(method: str, most: float) -> Callable[[Sequence[Row]], Reading]:
    """Time beside interpolating first, from 21 classes up; of fewer, ``auto`` interpolates first, too."""

    def read(rows: Sequence[Row]) -> Reading:
        cases = distinct([one for one in rows if one["classes"] >= 21], "classes", task="loss")
        shares = [1 / value for value in over(rows, cases, method, "full")]
        return span(shares), max(shares) <= most

    return read


def counting(rows: Sequence[Row]) -> Reading:
    """Confusion matrix beside the authors' way."""
    ratios = over(rows, distinct(rows, "classes", task="counts"), "ours", "authors")
    return f"1/{min(ratios):.1f} to 1/{max(ratios):.1f}", min(ratios) >= 5


# --- unit -------------------------------------------------------------------------------------------------------------

SIZES = {"side": 65, "images": 16, "channels": 512, "K": 64, "T": 3}
GOAL_CASE = {**SIZES, "precision": "bfloat16", "direction": "forward"}


def layouts(rows: Sequence[Row], variant: str, **case: Any) -> list[Row]:
    """A variant's rows in both layouts."""
    return [row(rows, variant + layout, **case) for layout in ("", " channels_last")]


def kernel_over_eager(rows: Sequence[Row]) -> Reading:
    """Triton beside PyTorch's EM, the better layout of each."""
    times = [min(one["ms"] for one in layouts(rows, name, part="em", **GOAL_CASE)) for name in ("torch", "triton")]
    return f"{times[0] / times[1]:.1f}x", times[0] >= 3 * times[1]


def kernel_over_floor(rows: Sequence[Row]) -> Reading:
    """Triton's EM beside its floor."""
    best = min(one["times_floor"] for one in layouts(rows, "triton", part="em", **GOAL_CASE))
    return f"{best:.1f}x", best <= 2


def kernel_over_nonlocal(rows: Sequence[Row]) -> Reading:
    """The unit beside a non-local block at 129x129."""
    case = GOAL_CASE | {"side": 129, "part": "unit"}
    ours = min(one["ms"] for one in layouts(rows, "triton", **case))
    factor = row(rows, "non-local", **case)["ms"] / ours
    return f"{factor:.1f}x", factor >= 10


def unit_cases(rows: Sequence[Row]) -> list[Row]:
    """All cases of the whole unit in float32."""
    keys = ("direction", "side", "images", "K", "T")
    return distinct(rows, *keys, part="unit", precision="float32")


def unit_time(rows: Sequence[Row]) -> Reading:
    """The transcription's time over ours, in each layout; 5% are noise."""
    ratios = [
        ratio
        for layout in ("", " channels_last")
        for ratio in over(rows, unit_cases(rows), f"auto{layout}", f"transcription{layout}")
    ]
    return f"{span(ratios)} as fast", min(ratios) >= 0.95


def unit_memory(rows: Sequence[Row]) -> Reading:
    """Bytes of tensors that we make over those that the transcription makes, in each layout."""
    keys = ("direction", "side", "images", "K", "T")
    cases = distinct(rows, *keys, part="tensors made by the unit", precision="float32")
    ratios = [
        1 / ratio
        for layout in ("", " channels_last")
        for ratio in over(rows, cases, f"auto{layout}", f"transcription{layout}", "made_mb")
    ]
    return f"{span(ratios)} as much", max(ratios) < 1


# --- input, step, peers -----------------------------------------------------------------------------------------------


def input_over(other: str, factor: float) -> Callable[[Sequence[Row]], Reading]:
    """Our images per second over another way's, of 500x375 pixels with crop 513."""

    def read(rows: Sequence[Row]) -> Reading:
        case = {"source": "500x375", "crop": 513}
        ratio = row(rows, other, **case)["ms"] / row(rows, "ours", **case)["ms"]
        return f"{ratio:.2f}x", ratio >= factor

    return read


def step_over_tf32(rows: Sequence[Row]) -> Reading:
    """Everything that is fast beside an eager step in TF32."""
    case = {"task": "training step", "size": 513, "images": 16}
    ours = min(row(rows, name, **case)["ms"] for name in ("fast, compiled", "fast, compiled, CUDA graphs"))
    ratio = row(rows, "TF32 in all products", **case)["ms"] / ours
    return f"{ratio:.2f}x", ratio >= 2


def not_measured(rows: Sequence[Row]) -> Reading:
    """What no script measures yet."""
    raise LookupError


def peers(task: str) -> Callable[[Sequence[Row]], Reading]:
    """Each peer's time over that of ours which computes the same, under the same conditions; 5% are noise."""

    def read(rows: Sequence[Row]) -> Reading:
        chosen = [one for one in rows if one["task"].startswith(task)]
        found: dict[str, list[float]] = {}
        for one in chosen:
            name = one["implementation"]
            if name.startswith("ours"):
                continue
            same = {key: one[key] for key in ("task", "images", "size", "precision", "layout")}
            ours = {two["implementation"]: two["ms"] for two in chosen if same.items() <= two.items()}
            found.setdefault(name, []).append(one["ms"] / ours.get(f"ours, {name}'s options", ours["ours"]))
        if not found:
            raise LookupError("no other implementation")
        text = "; ".join(f"{name}: {span(ratios)} our time" for name, ratios in found.items())
        return text, min(min(ratios) for ratios in found.values()) >= 0.95

    return read


GOALS = [
    Goal(
        "EM, H100, batch 16, 65x65, bfloat16",
        "3x as fast as eager PyTorch",
        "attention_unit",
        "cuda",
        kernel_over_eager,
    ),
    Goal("the same", "within 2x of the floor", "attention_unit", "cuda", kernel_over_floor),
    Goal("unit, H100, 129x129", "10x as fast as a non-local block", "attention_unit", "cuda", kernel_over_nonlocal),
    Goal(
        "unit, CPU, float32",
        "no slower than the paper's equations in eager PyTorch",
        "attention_unit",
        "cpu",
        unit_time,
    ),
    Goal("unit, CPU, float32", "fewer bytes of tensors made than by those", "attention_unit", "cpu", unit_memory),
    Goal("loss, CPU, from 59 classes", "under a fifth of the memory", "loss", "cpu", loss_memory("blocks")),
    Goal("loss, CPU, from 21 classes", "at most 1.2x the time", "loss", "cpu", loss_time("blocks", 1.2)),
    Goal("loss, CUDA, from 59 classes", "under a fifth of the memory", "loss", "cuda", loss_memory("triton")),
    Goal("loss, CUDA, from 21 classes", "no slower", "loss", "cuda", loss_time("triton", 1.0)),
    Goal("confusion matrix, CPU", "at most a fifth of the authors' time", "loss", "cpu", counting),
    Goal("input, 500x375, crop 513", "2x the authors' images/s", "input_pipeline", "cpu", input_over("authors", 2)),
    Goal("the same", "5x mmsegmentation's", "input_pipeline", "cpu", input_over("mmsegmentation", 5)),
    Goal("other EMANets, CPU, the unit", "none is faster", "peers", "cpu", peers("unit")),
    Goal("other EMANets, CPU, the network", "none is faster", "peers", "cpu", peers("network")),
    Goal("training step, H100", "2x the images/s of an eager step in TF32", "step", "cuda", step_over_tf32),
    Goal("training, H100", "GPU busy above 90% with the real input", "step", "cuda", not_measured),
    Goal("training, H100", "result as in float32, within the noise of seeds", "step", "cuda", not_measured),
]
