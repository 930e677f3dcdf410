"""The figures of a study. Scores are in percent."""

import math
from collections.abc import Iterable
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from emanet.studies.report.study import MIOU, Study, is_number
from emanet.studies.report.style import BLUE, GREY, PALE, VERMILLION, legend_above, new_figure
from emanet.studies.report.tables import listed
from emanet.studies.runs import short, shown

SPREAD = "Error bars: one standard deviation over the seeds (n - 1). Small dots: single seeds."
MEAN: dict[str, Any] = {"color": BLUE, "marker": "o", "linestyle": "", "label": "mean over the seeds"}
DEFAULT: dict[str, Any] = {"color": VERMILLION, "marker": "D", "linestyle": "", "label": "default"}
SEED: dict[str, Any] = {"color": GREY, "marker": "o", "linestyle": "", "markersize": 2.8, "label": "single seed"}


def draw(study: Study) -> tuple[str, Figure] | None:
    """Caption and figure that suit a study; ``None`` where no run, or one run alone, has a result."""
    if len(study.ended) < 2:
        return None
    shows = listed(study)
    if len(study.keys) == 1 and 2 < len(shows) < 16 and all(is_number(value) for (value,) in study.settings):
        return f"mIoU over {short(study.keys[0])}. {SPREAD}", curve(study)
    sizes = {run.costs["size"] for run in study.runs if run.costs}
    costs = f" Costs: of the head alone, for one image of {min(sizes)}x{min(sizes)} pixels." if sizes else ""
    return f"mIoU. {SPREAD}{'' if study.costs().empty else costs}", rows(study, shows)


def curve(study: Study) -> Figure:
    """mIoU over a number."""
    figure = new_figure(2.7)
    axes = figure.add_subplot()
    places = range(len(study.settings))
    axes.plot(places, 100 * study.spread(MIOU)["mean"], "-", color=BLUE, alpha=0.45)
    draw_means(axes, study, places)
    axes.set_xticks(places, [shown(value) for (value,) in study.settings])
    axes.set_xlabel(f"{study.keys[0]} (values side by side, not to scale)")
    axes.set_ylabel("mIoU (%)")
    axes.margins(y=0.12)
    legend_above(figure, handles(study))
    return figure


def rows(study: Study, shows: list[int]) -> Figure:
    """A row per setting: mIoU, and beside it what the head costs."""
    costs = study.costs().loc[shows]
    figure = new_figure(1.15 + 0.25 * len(shows))
    ratios = [2.4] + [1.0] * len(costs.columns)
    first, *panels = figure.subplots(1, len(ratios), sharey=True, squeeze=False, width_ratios=ratios)[0]
    draw_means(first, study, shows, flat=True)
    words = [", ".join(map(shown, values)) or study.experiment for values in study.settings]
    first.set_yticks(range(len(shows)), [study.labels[n] if study.numbered else words[n] for n in shows])
    first.set_ylim(len(shows) - 0.4, -0.6)
    first.grid(visible=False, axis="y")
    first.grid(visible=True, axis="x")
    first.set_xlabel("mIoU (%)")
    for axes, (name, values) in zip(panels, costs.items(), strict=True):
        axes.barh(range(len(shows)), values.fillna(0), 0.6, color=PALE)
        for row, value in enumerate(values):
            axes.text(0, row, "" if math.isnan(value) else f" {value:.3g}", va="center", fontsize=7.5)
        axes.set_xlabel(str(name))
        axes.grid(visible=False)
        axes.spines["bottom"].set_visible(False)
        axes.set_xticks([])
        axes.tick_params(left=False)
    legend_above(figure, handles(study))
    return figure


def draw_means(axes: Axes, study: Study, settings: Iterable[int], *, flat: bool = False) -> None:
    """Means with error bars and seeds, one setting after the other; ``flat``: scores from left to right."""
    spread = 100 * study.spread(MIOU)[["mean", "std"]]
    for place, setting in enumerate(settings):
        scores = 100 * study.frame.loc[study.frame["setting"] == setting, MIOU]
        mean, deviation = spread.loc[setting]
        error = deviation if deviation > 0 else None
        how = DEFAULT if setting == study.default else MEAN
        if flat:
            axes.plot(scores, [place + 0.25] * len(scores), **SEED)
            axes.errorbar([mean], [place], xerr=error, elinewidth=1.1, **how)
        else:
            axes.plot([place - 0.08] * len(scores), scores, **SEED)
            axes.errorbar([place], [mean], yerr=error, elinewidth=1.1, **how)


def handles(study: Study) -> list[Line2D]:
    """Entries of a legend."""
    shows = [MEAN, SEED] if study.default is None else [MEAN, DEFAULT, SEED]
    return [Line2D([], [], **how) for how in shows]
