"""Figures of means with error bars: curves, bars, points."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from emanet.studies.report.marks import (
    SEED_SIZE,
    Number,
    axis_label,
    draw_mean,
    draw_seeds,
    mean_and_sd,
    mean_handle,
    percents,
    places_of,
    seed_handle,
    set_ticks,
)
from emanet.studies.report.studies import Cell, Study, short, shown
from emanet.studies.report.style import BLUE, GREY, INK, PALE, VERMILLION, legend_above, looks, new_figure, percent_axis
from emanet.studies.report.tables import varying_costs


def curve(study: Study) -> Figure:
    """mIoU over a number; beside it what the head costs, where that depends on it."""
    costs = varying_costs(study)
    figure = new_figure(3.1 if len(costs) < 3 else 3.5, width=6.6 if costs else 4.6)
    grid = figure.add_gridspec(max(len(costs), 1), 2 if costs else 1, width_ratios=[1.55, 1] if costs else None)
    axes = figure.add_subplot(grid[:, 0])
    labels = [shown(cell.values[0]) for cell in study.cells]
    places, remark = places_of([cell.values[0] for cell in study.cells])
    draw_curve(axes, study, places)
    set_ticks(axes, places, labels)
    axes.set_xlabel(axis_label(study.keys[0]) + remark)
    percent_axis(axes)
    for row, cost in enumerate(costs):
        panel = figure.add_subplot(grid[row, 1])
        values = [math.nan if (value := cost.value(cell)) is None else value for cell in study.cells]
        panel.plot(places, values, "o-", color=INK, markersize=3.5)
        panel.set_ylim(0, 1.2 * max(value for value in values if not math.isnan(value)))
        panel.set_title(cost.title)
        set_ticks(panel, places, labels if row == len(costs) - 1 else [""] * len(labels), room=28)
    if costs:
        panel.set_xlabel(short(study.keys[0]))
    legend_above(figure, usual_handles(study))
    return figure


def usual_handles(study: Study) -> list[Line2D]:
    """Entries of a legend for means and seeds."""
    default = [mean_handle(VERMILLION, "D", "default")] if study.default else []
    return [mean_handle(), *default, seed_handle()]


def draw_curve(axes: Axes, study: Study, places: Sequence[float]) -> None:
    """Means joined by a line, with error bars and seeds."""
    beside = 0.1 * min((after - before for before, after in itertools.pairwise(places)), default=1.0)
    means = [mean_and_sd(cell)[0] for cell in study.cells]
    axes.plot(places, means, "-", color=BLUE, alpha=0.45, zorder=3)
    for place, cell in zip(places, study.cells, strict=True):
        if cell.finished:
            draw_seeds(axes, place - beside, cell)
            is_default = cell is study.default
            draw_mean(axes, place, cell, VERMILLION if is_default else BLUE, "D" if is_default else "o")


def cost_rows(study: Study) -> Figure:
    """A row per setting: mIoU, and beside it what the head costs."""
    costs = varying_costs(study)
    cells = study.cells
    figure = new_figure(1.1 + 0.27 * len(cells))
    panels = figure.subplots(1, 1 + len(costs), sharey=True, width_ratios=[2.2] + [1] * len(costs))
    draw_rows(panels[0], study, cells)
    for axes, cost in zip(panels[1:], costs, strict=True):
        known = [cost.value(cell) or 0.0 for cell in cells]
        axes.barh(range(len(cells)), known, 0.6, color=PALE)
        for row, cell in enumerate(cells):
            axes.text(0, row, f" {cost.text(cell)}", va="center", fontsize=7.5)
        axes.set_xlabel(cost.title.replace(" (", "\n(").replace("multiply-accumulates", "MACs"))
        axes.grid(visible=False)
        axes.spines["bottom"].set_visible(False)
        axes.set_xticks([])
        axes.tick_params(left=False)
    panels[0].set_yticks(range(len(cells)), [study.label(cell, keys=False) for cell in cells])
    legend_above(figure, usual_handles(study))
    return figure


def cost_scatter(study: Study) -> Figure:
    """mIoU over each cost that differs: one panel each, one color and marker per setting."""
    costs = varying_costs(study)[:2]
    figure = new_figure(3.2)
    panels = figure.subplots(1, len(costs), sharey=True, squeeze=False)[0]
    cells = [cell for cell in study.cells if cell.finished]
    styles = looks(len(cells))
    for axes, cost in zip(panels, costs, strict=True):
        for cell, (color, marker) in zip(cells, styles, strict=True):
            value = cost.value(cell)
            if value is not None:
                draw_mean(axes, value, cell, color, marker)
        axes.set_xlabel("head: " + cost.title)
        axes.grid(axis="x")
        axes.margins(x=0.1, y=0.1)
    panels[0].set_ylabel("mIoU (%)")
    handles = [
        mean_handle(color, marker, study.label(cell, keys=False) + " (default)" * (cell is study.default))
        for cell, (color, marker) in zip(cells, styles, strict=True)
    ]
    figure.legend(handles=handles, loc="outside right center", title=axis_label(study.keys[0]))
    return figure


def bars(study: Study) -> Figure:
    """Bars from zero: one per value, or groups of the first key's values with a color for each of the second's."""
    cells = {tuple(map(shown, cell.values)): cell for cell in study.cells}
    groups = list(dict.fromkeys(setting[0] for setting in cells))
    series = list(dict.fromkeys(setting[1:] for setting in cells))  # of one setting () with one key alone
    figure = new_figure(3.2, width=min(6.6, 2.8 + 0.75 * len(groups) * max(1.0, 0.7 * len(series))))
    axes = figure.add_subplot()
    width = 0.8 / len(series)
    colors = [color for color, _ in looks(len(series))]
    for row, (name, color) in enumerate(zip(series, colors, strict=True)):
        for column, value in enumerate(groups):
            cell = cells.get((value, *name))
            place = column + (row - (len(series) - 1) / 2) * width
            draw_bar(axes, place, cell, width, color, is_default=cell is not None and cell is study.default)
    set_ticks(axes, range(len(groups)), groups)
    axes.tick_params(axis="x", length=0)
    axes.set_xlabel(axis_label(study.keys[0]))
    axes.set_ylabel("mIoU (%)")
    axes.set_ylim(bottom=0)
    handles: list[Any] = []
    if len(study.keys) == 2:
        key = short(study.keys[1])
        named = zip(colors, series, strict=True)
        handles = [Patch(color=blend(color), label=f"{key}: {name[0]}") for color, name in named]
    if study.default:
        handles.append(Patch(facecolor="white", edgecolor=INK, linewidth=1.4, label="default"))
    legend_above(figure, [*handles, seed_handle()], columns=5)
    return figure


def draw_bar(axes: Axes, place: Number, cell: Cell | None, width: float, color: str, *, is_default: bool) -> None:
    """Mean as a bar, with error bar and seeds; words where there is no result."""
    if cell is None or not cell.finished:
        if cell is not None:
            where: Any = ("data", "axes fraction")
            axes.annotate(
                "no result", (place, 0.02), xycoords=where, rotation=90, ha="center", fontsize=7.5, color=GREY
            )
        return
    mean, sd = mean_and_sd(cell)
    edge = {"edgecolor": INK, "linewidth": 1.4} if is_default else {"edgecolor": "none"}
    axes.bar(place, mean, 0.9 * width, color=blend(color), **edge)
    if sd:
        axes.errorbar([place], [mean], [sd], fmt="none", ecolor=INK, elinewidth=1.1, zorder=4)
    draw_seeds(axes, place - 0.18 * width, cell, INK)


def blend(color: str, share: float = 0.55) -> tuple[float, float, float]:
    """A color mixed with white."""
    channels = [int(color[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    red, green, blue = (1 - share * (1 - channel) for channel in channels)
    return red, green, blue


def seed_strip(study: Study) -> Figure:
    """The runs of one setting, by seed."""
    (cell,) = study.cells
    figure = new_figure(2.6, width=4.6)
    axes = figure.add_subplot()
    mean, sd = mean_and_sd(cell)
    axes.axhspan(mean - sd, mean + sd, color=BLUE, alpha=0.12, linewidth=0)
    axes.axhline(mean, color=BLUE, linewidth=1.2)
    runs = [run for run in cell.finished if run.miou is not None]
    axes.plot(range(len(runs)), percents(cell), "o", color=BLUE)
    set_ticks(axes, range(len(runs)), [shown(run.seed) for run in runs])
    axes.set_xlabel("seed")
    axes.margins(x=0.08)
    percent_axis(axes)
    return figure


def dot_plot(study: Study) -> Figure:
    """A row per setting, for any number of keys."""
    figure = new_figure(1.0 + 0.27 * len(study.cells))
    axes = figure.add_subplot()
    draw_rows(axes, study, study.cells)
    axes.set_yticks(range(len(study.cells)), [study.label(cell) for cell in study.cells])
    legend_above(figure, usual_handles(study))
    return figure


def draw_rows(axes: Axes, study: Study, cells: Sequence[Cell]) -> None:
    """mIoU from left to right, a row per cell from top to bottom."""
    for row, cell in enumerate(cells):
        if not cell.finished:
            axes.annotate("no result", (0.02, row), xycoords=("axes fraction", "data"), va="center", color=GREY)
            continue
        mean, sd = mean_and_sd(cell)
        color, marker = (VERMILLION, "D") if cell is study.default else (BLUE, "o")
        values = percents(cell)
        axes.plot(values, [row + 0.22] * len(values), "o", color=GREY, markersize=SEED_SIZE, markeredgewidth=0)
        axes.errorbar([mean], [row], xerr=[sd] if sd else None, fmt=marker, color=color, elinewidth=1.1)
    axes.set_ylim(len(cells) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.grid(visible=True, axis="x")
    axes.set_xlabel("mIoU (%)")
