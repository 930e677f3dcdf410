"""The figures of a study. Scores are in percent."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from emanet.studies.report.study import MIOU, Study, is_number
from emanet.studies.report.style import BLUE, GREY, PALE, VERMILLION, legend_above, looks, new_figure
from emanet.studies.runs import short, shown

Number = int | float
MOST_LINES = 8  # colors that can be told apart
SPREAD = "Error bars: one standard deviation over the seeds (n - 1). Small dots: single seeds."
MEAN: dict[str, Any] = {"color": BLUE, "marker": "o", "linestyle": ""}
DEFAULT: dict[str, Any] = {"color": VERMILLION, "marker": "D", "linestyle": ""}
SEED: dict[str, Any] = {"color": GREY, "marker": "o", "linestyle": "", "markersize": 2.8, "alpha": 0.75}


@dataclass(frozen=True)
class Drawing:
    """A figure with its file name (without ending) and caption."""

    name: str
    caption: str
    figure: Figure


def drawings(study: Study) -> list[Drawing]:
    """The figures of a study: none where no run, or one run alone, has a result."""
    if len(study.ended) < 2:
        return []
    if len(study.keys) == 1 and len(study.settings) > 2 and all(is_number(value) for (value,) in study.settings):
        found = [Drawing(study.slug, f"mIoU over {short(study.keys[0])}. {SPREAD}", curve(study))]
    else:
        sizes = {run.costs["size"] for run in study.runs if run.costs}
        costs = f" Costs: of the head alone, for one image of {min(sizes)}x{min(sizes)} pixels." if sizes else ""
        costs *= not study.varying_costs().empty
        found = [Drawing(study.slug, f"mIoU. {SPREAD}{costs}", rows(study))]
    if all(map(str.isdecimal, study.iterations)) and study.iterations and len(study.settings) <= MOST_LINES:
        caption = (
            "What other EM iterations in evaluation change in the same trained networks, against as many as in "
            "training. Error bars: standard error of the mean change."
        )
        found.append(Drawing(f"{study.slug}_T_eval", caption, iterations(study)))
    return found


def curve(study: Study) -> Figure:
    """mIoU over a number."""
    values = [value for (value,) in study.settings]
    places, remark = places_of(values)
    figure = new_figure(2.7)
    axes = figure.add_subplot()
    axes.plot(places, 100 * study.spread(MIOU)["mean"], "-", color=BLUE, alpha=0.45)
    draw_means(axes, study, dict(enumerate(places)))
    set_ticks(axes, places, [shown(value) for value in values])
    axes.set_xlabel(study.keys[0] + remark)
    axes.set_ylabel("mIoU (%)")
    axes.margins(y=0.12)
    legend_above(figure, usual_handles(study))
    return figure


def rows(study: Study) -> Figure:
    """A row per setting: mIoU, and beside it what the head costs."""
    listed, costs = study.listed, study.varying_costs()
    figure = new_figure(1.15 + 0.25 * len(listed))
    ratios = [2.4] + [1.0] * len(costs.columns)
    first, *panels = figure.subplots(1, len(ratios), sharey=True, squeeze=False, width_ratios=ratios)[0]
    draw_means(first, study, {setting: row for row, setting in enumerate(listed)}, flat=True)
    first.set_yticks(range(len(listed)), [row_label(study, setting) for setting in listed])
    first.set_ylim(len(listed) - 0.4, -0.6)
    first.grid(visible=False, axis="y")
    first.grid(visible=True, axis="x")
    first.set_xlabel("mIoU (%)")
    for axes, (name, values) in zip(panels, costs.loc[listed].items(), strict=True):
        axes.barh(range(len(listed)), values.fillna(0), 0.6, color=PALE)
        for row, value in enumerate(values):
            axes.text(0, row, "" if math.isnan(value) else f" {value:.3g}", va="center", fontsize=7.5)
        axes.set_xlabel(str(name))
        axes.grid(visible=False)
        axes.spines["bottom"].set_visible(False)
        axes.set_xticks([])
        axes.tick_params(left=False)
    legend_above(figure, usual_handles(study))
    return figure


def row_label(study: Study, setting: int) -> str:
    """A setting in a few words: its number, or its values without the keys."""
    words = ", ".join(map(shown, study.settings[setting]))
    return study.labels[setting] if study.numbered or not words else words


def iterations(study: Study) -> Figure:
    """Change of mIoU over the EM iterations of the evaluation, a line per setting."""
    figure = new_figure(2.9)
    axes = figure.add_subplot()
    axes.axhline(0, color=GREY, linewidth=0.8)
    places = list(map(int, study.iterations))
    handles = []
    for setting, (color, marker) in enumerate(looks(len(study.settings))):
        changes = 100 * study.changes(setting)[["mean", "se"]].reindex([f"T_eval={T}" for T in study.iterations])
        beside = 0.5 * (setting + 0.5) / len(study.settings) - 0.25  # so that error bars stand side by side
        x = [place + beside for place in places]
        axes.errorbar(x, changes["mean"], changes["se"].fillna(0), fmt="-", marker=marker, color=color, elinewidth=1.1)
        handles.append(Line2D([], [], color=color, marker=marker, label=study.labels[setting]))
    set_ticks(axes, places, study.iterations)
    axes.set_xlabel("T_eval, EM iterations in evaluation")
    axes.set_ylabel("change of mIoU (points)")
    legend_above(figure, handles, columns=5)
    return figure


# --- what they are made of ------------------------------------------------------------------------------------------


def draw_means(axes: Axes, study: Study, places: Mapping[int, Number], *, flat: bool = False) -> None:
    """Means with error bars and seeds at the places of the settings; ``flat``: scores from left to right."""
    spread, runs = 100 * study.spread(MIOU)[["mean", "std"]], study.finished
    gaps = [after - before for before, after in itertools.pairwise(places.values())]
    beside = 0.25 if flat else -0.08 * min(gaps, default=1.0)
    for setting, place in places.items():
        scores = 100 * runs.loc[runs["setting"] == setting, MIOU]
        mean, deviation = spread.loc[setting]
        error = deviation if deviation > 0 else None
        how = DEFAULT if setting == study.default else MEAN
        seeds = [place + beside] * len(scores)
        if flat:
            axes.plot(scores, seeds, **SEED)
            axes.errorbar([mean], [place], xerr=error, elinewidth=1.1, **how)
        else:
            axes.plot(seeds, scores, **SEED)
            axes.errorbar([place], [mean], yerr=error, elinewidth=1.1, **how)


def usual_handles(study: Study) -> list[Line2D]:
    """Entries of a legend for means and seeds."""
    default = [Line2D([], [], label="default", **DEFAULT)] if study.default is not None else []
    return [Line2D([], [], label="mean over the seeds", **MEAN), *default, Line2D([], [], label="single seed", **SEED)]


def places_of(values: Sequence[Number]) -> tuple[list[Number], str]:
    """Where three numbers or more stand on an axis: by size, by logarithm, or one after the other, which is said."""
    gaps = [after - before for before, after in itertools.pairwise(values)]
    if values[0] > 0 and values[-1] / values[0] >= 8:
        return [math.log2(value) for value in values], ""
    if max(gaps) <= 3 * min(gaps):
        return [float(value) for value in values], ""
    return [float(index) for index in range(len(values))], " (not to scale)"


def set_ticks(axes: Axes, places: Sequence[Number], labels: Sequence[str]) -> None:
    """Ticks of a horizontal axis, at the values alone; slanted where there is no room for so many letters."""
    slanted = sum(len(label) + 1 for label in labels) > 60
    axes.set_xticks(places, labels, rotation=40 if slanted else 0, ha="right" if slanted else "center", minor=False)
