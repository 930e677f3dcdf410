"""The figures of a study, scores in percent: the same runs give the same bytes; figures.mplstyle says how they look."""

import io
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from emanet.studies.portable import number
from emanet.studies.report.study import MIOU, Study
from emanet.studies.report.tables import listed
from emanet.studies.runs import short, shown

WIDTH = 6.6  # inches: the text width of a page
BLUE, VERMILLION, GREY = "#0072B2", "#D55E00", "#777777"  # Okabe and Ito's: told apart by everybody
SPREAD = "Error bars: one standard deviation over the seeds (n - 1). Small dots: single seeds."
MEAN: dict[str, Any] = {"color": BLUE, "marker": "o", "linestyle": "", "label": "mean over the seeds"}
DEFAULT: dict[str, Any] = {"color": VERMILLION, "marker": "D", "linestyle": "", "label": "default"}
SEED: dict[str, Any] = {"color": GREY, "marker": "o", "linestyle": "", "markersize": 2.8, "label": "single seed"}
NO_TRACES: dict[str, dict[str, None]] = {  # metadata that would change from day to day
    "svg": {"Date": None, "Creator": None},
    "png": {"Software": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


def styled() -> AbstractContextManager[None]:
    """A context in which figures are drawn and written."""
    return style.context(["default", "emanet.studies.report.figures"])


def to_bytes(figure: Figure, kind: str) -> bytes:
    """The figure as a file of this kind."""
    target = io.BytesIO()
    figure.savefig(target, format=kind, metadata=NO_TRACES[kind])
    return target.getvalue()


def draw(study: Study) -> tuple[str, Figure] | None:
    """Caption and figure that suit a study; ``None`` where no run, or one run alone, has a result."""
    if len(study.ended) < 2:
        return None
    shows = listed(study)
    if len(study.keys) == 1 and 2 < len(shows) < 16 and all(number(value) is not None for (value,) in study.settings):
        caption, figure = f"mIoU over {short(study.keys[0])}. {SPREAD}", curve(study)
    else:
        caption, figure = f"mIoU. {SPREAD}", rows(study, shows)
    hows = [MEAN, SEED] if study.default is None else [MEAN, DEFAULT, SEED]
    handles = [Line2D([], [], **how) for how in hows]
    figure.legend(handles=handles, loc="outside upper left", ncols=4, columnspacing=1.4, handletextpad=0.4)
    return caption, figure


def curve(study: Study) -> Figure:
    """mIoU over a number."""
    figure = Figure(figsize=(WIDTH, 2.7), layout="constrained")
    axes = figure.add_subplot()
    places = range(len(study.settings))
    axes.plot(places, 100 * study.spread(MIOU)["mean"], "-", color=BLUE, alpha=0.45)
    draw_means(axes, study, places)
    axes.set_xticks(places, [shown(value) for (value,) in study.settings])
    axes.set(xlabel=f"{study.keys[0]} (values side by side, not to scale)", ylabel="mIoU (%)")
    axes.margins(y=0.12)
    return figure


def rows(study: Study, shows: list[int]) -> Figure:
    """A row per setting."""
    figure = Figure(figsize=(WIDTH, 1.15 + 0.25 * len(shows)), layout="constrained")
    axes = figure.add_subplot()
    draw_means(axes, study, shows, flat=True)
    axes.set_yticks(range(len(shows)), [study.labels[setting] for setting in shows])
    axes.set(ylim=(len(shows) - 0.4, -0.6), xlabel="mIoU (%)")
    axes.grid(visible=False, axis="y")
    axes.grid(visible=True, axis="x")
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
