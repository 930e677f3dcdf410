"""Plots of docs/performance.md: each takes the rows of a result file."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from emanet.studies.report.style import (
    BLACK,
    BLUE,
    COLORS,
    GREEN,
    GREY,
    ORANGE,
    VERMILLION,
    legend_above,
    looks,
    new_figure,
)

Row = dict[str, Any]
#: series of the unit's plot: color, marker, name in the legend
UNITS = {
    "triton": (BLACK, "P", "EM attention (Triton)"),
    "auto": (BLUE, "o", "EM attention"),
    "transcription": (GREEN, "^", "the paper's equations, eager"),
    "double attention": (ORANGE, "v", "double attention"),
    "non-local": (VERMILLION, "s", "non-local block"),
}

CONDITIONS = [("float32", "contiguous"), ("float32", "channels last"), ("bfloat16", "channels last")]
SHORT = ("contiguous", "channels last", "bfloat16")


def scaling(rows: Sequence[Row]) -> Figure:
    """Time and memory of an image's forward pass over its number of pixels."""
    figure = new_figure(3.2)
    chosen = over_sides(rows)
    keys = [key for key in ("ms", "peak_mb") if any(key in row for row in chosen)]
    for axes, key in zip(figure.subplots(1, len(keys), squeeze=False)[0], keys, strict=True):
        label = "ms" if key == "ms" else "MB"
        for name, (color, marker, _) in UNITS.items():
            mine = [row for row in chosen if row["variant"] == name and key in row]
            points = sorted((row["side"] ** 2, row[key] / row["images"]) for row in mine)
            axes.plot(*zip(*points, strict=True) if points else ((), ()), color=color, marker=marker)
            if name == "auto" or (name == "non-local" and key == "ms"):  # its fused attention holds no N² weights
                guide(axes, points, power=1 if name == "auto" else 2)
        axes.set(xscale="log", yscale="log", xlabel="pixels N of the feature map", ylabel=f"{label} per image")
    there = [name for name in UNITS if any(row["variant"] == name for row in chosen)]
    handles = [Line2D([], [], color=UNITS[name][0], marker=UNITS[name][1], label=UNITS[name][2]) for name in there]
    legend_above(figure, handles, columns=3)
    return figure


def over_sides(rows: Sequence[Row]) -> list[Row]:
    """The series that varies the side alone: it comes first, so each side's first row says what else belongs to it."""
    chosen = [row for row in rows if row["part"] == "unit" and row["direction"] == "forward"]
    first: dict[int, Row] = {}
    for row in chosen:
        first.setdefault(row["side"], row)
    same = ("images", "K", "T", "precision")
    return [row for row in chosen if all(row[key] == first[row["side"]][key] for key in same)]


def guide(axes: Axes, points: Sequence[tuple[int, float]], power: int) -> None:
    """A thin line of this power of N below the points."""
    if len(points) < 2:
        return
    last, end = points[-1]
    first = max(points[0][0], last / 16)
    y = [0.6 * end * (n / last) ** power for n in (first, last)]
    axes.plot((first, last), y, color=GREY, linewidth=0.8, linestyle=":")
    name = "O(N)" if power == 1 else "O(N²)"
    axes.annotate(name, (last, y[-1]), (-2, -9), textcoords="offset points", color=GREY, ha="right")


def classes(rows: Sequence[Row]) -> Figure:
    """Time and memory of the loss over the number of classes."""
    figure = new_figure(2.7)
    looks = {"full": (VERMILLION, "s"), "blocks": (BLUE, "o"), "triton": (BLACK, "P")}
    chosen = [row for row in rows if row["task"] == "loss"]
    there = [name for name in looks if any(row["variant"] == name for row in chosen)]
    for axes, key, label in zip(figure.subplots(1, 2), ("ms", "peak_mb"), ("ms", "MB"), strict=True):
        for name in there:
            points = [(row["classes"], row[key]) for row in chosen if row["variant"] == name and key in row]
            axes.plot(*zip(*points, strict=True) if points else ((), ()), color=looks[name][0], marker=looks[name][1])
        axes.set(xlabel="classes", ylabel=label, ylim=(0, None))
    names = {"full": "interpolate, then loss", "blocks": "with the loss, in blocks", "triton": "with the loss, Triton"}
    legend_above(figure, [Line2D([], [], color=looks[n][0], marker=looks[n][1], label=names[n]) for n in there])
    return figure


def shares(rows: Sequence[Row]) -> Figure:
    """Time of each part of a training step, one bar for each network and variant."""
    chosen = [row for row in rows if row["task"] == "parts of a training step" and "input" not in row["variant"]]
    bars = list(dict.fromkeys((row["network"], row["of"]) for row in chosen))
    parts = list(dict.fromkeys(row["variant"] for row in chosen))
    figure = new_figure(1.1 + 0.34 * len(bars))
    axes = figure.subplots()
    looked = dict(zip(parts, itertools.cycle((*COLORS, GREY)), strict=False))
    for place, (network, of) in enumerate(bars):
        start = 0.0
        for row in (row for row in chosen if (row["network"], row["of"]) == (network, of)):
            width = 100 * row["ms"] / sum(one["ms"] for one in chosen if (one["network"], one["of"]) == (network, of))
            axes.barh(place, width, 0.65, left=start, color=looked[row["variant"]], edgecolor="white", linewidth=0.5)
            start += width
    axes.set_yticks(range(len(bars)), [f"{network}, {of}" for network, of in bars])
    axes.invert_yaxis()
    axes.set(xlabel="share of a training step (%)", xlim=(0, 100))
    axes.grid(axis="y", visible=False)
    legend_above(figure, [Patch(color=looked[part], label=part) for part in parts], columns=4)
    return figure


def rivals(rows: Sequence[Row]) -> Figure:
    """Time of each implementation over ours under the same conditions."""
    tasks = list(dict.fromkeys((row["task"], row["size"]) for row in rows))
    figure = new_figure(0.9 + 0.62 * len(tasks))
    axes = figure.subplots()
    names = list(dict.fromkeys(row["implementation"] for row in rows))
    looked = dict(zip(names, looks(len(names)), strict=True))
    for place, (task, size) in enumerate(tasks):
        here = [row for row in rows if (row["task"], row["size"]) == (task, size)]
        base = next(row["ms"] for row in here if row["implementation"] == "ours")
        for row in here:
            shift = 0.22 * (CONDITIONS.index((row["precision"], row["layout"])) - 1)
            color, marker = looked[row["implementation"]]
            axes.plot(row["ms"] / base, place + shift, marker, color=color)
    axes.axvline(1, color=GREY, linewidth=0.8)
    axes.set_yticks(range(len(tasks)), [f"{task}\n{size}x{size}" for task, size in tasks])
    axes.invert_yaxis()
    label = f"time over ours in float32, contiguous\n(rows of dots: {', '.join(SHORT)})"
    axes.set(xlabel=label, xlim=(0, None))
    axes.grid(axis="x")
    legend_above(figure, [Line2D([], [], ls="", color=looked[n][0], marker=looked[n][1], label=n) for n in names])
    return figure


#: plots of each script's result, by name
PLOTS: dict[str, dict[str, Callable[[Sequence[Row]], Figure]]] = {
    "attention_unit": {"scaling": scaling},
    "loss": {"classes": classes},
    "step": {"shares": shares},
    "peers": {"rivals": rivals},
}
