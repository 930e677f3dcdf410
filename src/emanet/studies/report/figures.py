"""The figures of a study: which one suits its keys. Scores are in percent."""

from collections.abc import Callable
from dataclasses import dataclass

from matplotlib.figure import Figure

from emanet.studies.report.maps import iterations_map, two_key_map
from emanet.studies.report.plots import bars, cost_rows, cost_scatter, curve, dot_plot, seed_strip
from emanet.studies.report.studies import Study, is_number, short
from emanet.studies.report.tables import varying_costs

SPREAD = "Error bars: one standard deviation over the seeds (n - 1). Dots: single seeds."


@dataclass(frozen=True)
class Drawing:
    """A figure with its file name (without ending) and caption."""

    name: str
    caption: str
    figure: Figure


def drawings(study: Study) -> list[Drawing]:
    """The figures of a study; none where no run has a result."""
    if not study.finished:
        return []
    found = [main_drawing(study)]
    if is_trade(study):
        caption = "The same mIoU over what each costs. Error bars: one standard deviation over the seeds (n - 1)."
        found.append(Drawing(f"{study.slug}_costs", caption, cost_scatter(study)))
    if study.evaluated and len(study.keys) == 1:
        caption = (
            "mIoU in % (mean, and standard deviation over the seeds) of the same trained networks under other "
            "numbers of EM iterations. Framed: as many in evaluation as in training."
        )
        found.append(Drawing(f"{study.slug}_T_eval", caption, iterations_map(study)))
    return found


def numeric_keys(study: Study) -> list[bool]:
    """For each key whether all its values are numbers."""
    return [all(is_number(cell.values[index]) for cell in study.cells) for index in range(len(study.keys))]


def is_trade(study: Study) -> bool:
    """Whether named things of different cost are compared."""
    return len(study.keys) == 1 and not all(numeric_keys(study)) and bool(varying_costs(study))


def main_drawing(study: Study) -> Drawing:
    """The figure that suits the study's keys."""
    numeric = numeric_keys(study)
    size = next((run.costs["size"] for run in study.runs if run.costs), None)
    counted = f" Costs: of the head alone, for one image of {size}x{size} pixels." if varying_costs(study) else ""
    draw: Callable[[Study], Figure]
    if not study.keys:
        draw, caption = seed_strip, "mIoU by seed. Line and band: mean and one standard deviation."
    elif len(study.keys) == 1 and numeric[0]:
        draw, caption = curve, f"mIoU over {short(study.keys[0])}. {SPREAD}{counted}"
    elif is_trade(study):
        draw, caption = cost_rows, f"mIoU, and what each costs. {SPREAD}{counted}"
    elif len(study.keys) == 2 and all(numeric):
        draw, caption = two_key_map, "mIoU in % (mean, and standard deviation over the seeds)."
    elif len(study.keys) <= 2:
        draw, caption = bars, f"mIoU. {SPREAD}"
    else:
        draw, caption = dot_plot, f"mIoU. {SPREAD}"
    return Drawing(study.slug, caption, draw(study))
