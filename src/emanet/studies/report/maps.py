"""Heat maps that show their numbers."""

import math
from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from emanet.studies.report.marks import axis_label, mean_and_sd
from emanet.studies.report.studies import Study, shown
from emanet.studies.report.style import PALE, VERMILLION, new_figure
from emanet.studies.report.tables import at_iterations


def two_key_map(study: Study) -> Figure:
    """mIoU over two numbers."""
    rows, columns = (sorted({cell.values[index] for cell in study.cells}) for index in (0, 1))
    cells = {cell.values: cell for cell in study.cells}
    table = [[mean_and_sd(cells[r, c]) if (r, c) in cells else (math.nan, 0.0) for c in columns] for r in rows]
    labels = (axis_label(study.keys[0]), axis_label(study.keys[1]))
    return value_map(table, [shown(r) for r in rows], [shown(c) for c in columns], labels, framed=set())


def iterations_map(study: Study) -> Figure:
    """mIoU over the study's key (rows) and the EM iterations of the evaluation (columns)."""
    table = [[mean_and_sd(cell, at_iterations(T)) for T in study.evaluated] for cell in study.cells]
    rows = [study.label(cell, keys=False) for cell in study.cells]
    framed = {(row, column) for row, name in enumerate(rows) for column, T in enumerate(study.evaluated) if name == T}
    labels = (axis_label(study.keys[0]), axis_label("model.T_eval"))
    return value_map(table, rows, list(study.evaluated), labels, framed if study.keys == ("model.T",) else set())


def value_map(
    table: Sequence[Sequence[tuple[float, float]]],
    rows: Sequence[str],
    columns: Sequence[str],
    labels: tuple[str, str],
    framed: set[tuple[int, int]],
) -> Figure:
    """A heat map of (mean, standard deviation) with the numbers in its cells."""
    figure = new_figure(max(2.3, 0.95 + 0.46 * len(rows)), width=min(6.6, 1.9 + 0.72 * len(columns)))
    axes = figure.add_subplot()
    image = axes.imshow([[mean for mean, _ in row] for row in table], cmap="cividis", aspect="auto")
    low, high = image.get_clim()
    middle = ((low or 0.0) + (high or 0.0)) / 2
    for y, row in enumerate(table):
        for x, (mean, sd) in enumerate(row):
            dark = mean < middle  # so is the map's lower half; NaN is not
            text = "-" if math.isnan(mean) else f"{mean:.1f}" + f"\n±{sd:.1f}" * (sd > 0)
            axes.text(x, y, text, ha="center", va="center", fontsize=7.5, color="white" if dark else "black")
    for y, x in sorted(framed):
        axes.add_patch(Rectangle((x - 0.47, y - 0.47), 0.94, 0.94, fill=False, edgecolor=VERMILLION, linewidth=2))
    axes.set_xticks(range(len(columns)), list(columns))
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set_ylabel(labels[0])
    axes.set_xlabel(labels[1])
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_facecolor(PALE)
    bar = figure.colorbar(image, label="mIoU (%)", shrink=0.9, pad=0.02)
    bar.outline.set_visible(False)
    return figure
