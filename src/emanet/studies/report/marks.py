"""What the figures of a study are made of: labels, ticks, means with error bars, seeds."""

import itertools
import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.lines import Line2D

from emanet.studies.report.studies import Cell, Metric, miou
from emanet.studies.report.style import BLUE, GREY

Number = int | float

SEED_SIZE = 2.8  # of a dot, in points

LABELS = {
    "model.K": "K, number of bases",
    "model.T": "T, EM iterations in training",
    "model.T_eval": "T_eval, EM iterations in evaluation",
    "model.momentum": "momentum, share of the old bases kept",
    "model.channels": "channels of the attention unit",
    "model.output_stride": "output stride, input pixels per feature",
    "model.gradient": "gradient, EM iterations that autograd sees",
    "model.maintenance": "maintenance of the bases over training",
    "model.norm": "norm of the bases",
    "model.head": "head",
}


def axis_label(key: str) -> str:
    """Words for an axis."""
    return LABELS.get(key, key)


def percents(cell: Cell, metric: Metric = miou) -> list[float]:
    """Scores of a cell's runs in percent."""
    return [100 * value for value in cell.spread(metric).values]


def mean_and_sd(cell: Cell, metric: Metric = miou) -> tuple[float, float]:
    """Both in percent; 0 where a standard deviation is not defined, NaN without a result."""
    spread = cell.spread(metric)
    return 100 * (math.nan if spread.mean is None else spread.mean), 100 * (spread.sd or 0.0)


def draw_seeds(axes: Axes, x: Number, cell: Cell, color: str = GREY) -> None:
    """A dot for each run at ``x``."""
    values = percents(cell)
    axes.plot(
        [x] * len(values), values, "o", color=color, markersize=SEED_SIZE, alpha=0.75, markeredgewidth=0, zorder=3
    )


def draw_mean(axes: Axes, x: Number, cell: Cell, color: str, marker: str = "o") -> ErrorbarContainer:
    """Mean with its error bar."""
    mean, sd = mean_and_sd(cell)
    return axes.errorbar([x], [mean], [sd] if sd else None, fmt=marker, color=color, elinewidth=1.1, zorder=4)


def mean_handle(color: str = BLUE, marker: str = "o", label: str = "mean over the seeds") -> Line2D:
    """Entry of a legend."""
    return Line2D([], [], color=color, marker=marker, linestyle="", label=label)


def seed_handle() -> Line2D:
    """Entry of a legend."""
    return Line2D([], [], color=GREY, marker="o", linestyle="", markersize=SEED_SIZE, label="single seed")


def places_of(values: Sequence[Number]) -> tuple[list[float], str]:
    """Where numbers stand on an axis, and what is to be said of it: by size, by logarithm, or one after the other."""
    if len(values) < 3:
        return [float(index) for index in range(len(values))], ""
    gaps = [after - before for before, after in itertools.pairwise(values)]
    if values[0] > 0:
        ratios = [after / before for before, after in itertools.pairwise(values)]
        if values[-1] / values[0] >= 8 or max(ratios) - min(ratios) < 1e-9:
            return [math.log2(value) for value in values], ""
    if max(gaps) <= 3 * min(gaps):
        return [float(value) for value in values], ""
    return [float(index) for index in range(len(values))], " (not to scale)"


def set_ticks(axes: Axes, places: Sequence[Number], labels: Sequence[str], *, room: int = 60) -> None:
    """Ticks of a horizontal axis, at the values alone; slanted where there is no room for so many letters."""
    slanted = sum(len(label) + 1 for label in labels) > room
    axes.set_xticks(
        list(places), list(labels), rotation=25 if slanted else 0, ha="right" if slanted else "center", minor=False
    )
