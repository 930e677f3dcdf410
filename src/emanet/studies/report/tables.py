"""Tables of a study: Markdown for readers, CSV for programs."""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from emanet.studies.report.runs import Run
from emanet.studies.report.spread import Difference, Spread
from emanet.studies.report.studies import Cell, Metric, Study, miou, short, shown

#: costs of a head: name, unit, and what a table and a figure call it
COSTS = (
    ("macs", "MACs", "multiply-accumulates"),
    ("params", "params", "parameters"),
    ("memory", "B", "activations"),
)
PREFIXES = (("G", 1e9), ("M", 1e6), ("k", 1e3), ("", 1.0))
PLUS_MINUS, MINUS = "±", "−"  # noqa: RUF001 a minus sign is as wide as a plus


def percent(value: float | None) -> str:
    """A share in percent."""
    return "" if value is None else f"{100 * value:.2f}"


def spread_text(spread: Spread) -> str:
    """Mean and standard deviation in percent; the mean alone where there is one run."""
    if spread.mean is None:
        return "no result"
    return percent(spread.mean) + (f" {PLUS_MINUS} {percent(spread.sd)}" if spread.sd is not None else "")


def difference_text(difference: Difference | None) -> str:
    """Mean difference in points and its standard error; bold where it stands out from the seeds' noise."""
    if difference is None:
        return ""
    mean = f"{100 * difference.mean:+.2f}".replace("-", MINUS)
    if difference.se is None:
        return mean
    text = f"{mean} {PLUS_MINUS} {percent(difference.se)}"
    return f"**{text}**" if difference.stands_out else text


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1) -> str:
    """A Markdown table; the first ``left`` columns are text, the others numbers."""
    rule = ["---"] * left + ["---:"] * (len(header) - left)
    lines = [header, rule, *rows]
    return "\n".join("| " + " | ".join(one_line(cell) for cell in line) + " |" for line in lines)


def one_line(text: str) -> str:
    """Text for a cell."""
    return " ".join(text.split()).replace("|", "\\|")


def scalar(name: str) -> Metric:
    """A quantity of the summary."""
    return lambda run: run.summary.get(name)


@dataclass(frozen=True)
class CostColumn:
    """A cost that differs between cells, in units that give readable numbers.

    Args:
        name: of the cost.
        heading: in a table.
        title: in a figure.
        scale: of its unit.
    """

    name: str
    heading: str
    title: str
    scale: float

    def value(self, cell: Cell) -> float | None:
        """The cost of a cell in this unit."""
        cost = cell.cost(self.name)
        return None if cost is None else cost / self.scale

    def text(self, cell: Cell) -> str:
        """The same with three digits or more."""
        value = self.value(cell)
        return "" if value is None else f"{value:.0f}" if value >= 100 else f"{value:#.3g}"


def varying_costs(study: Study) -> list[CostColumn]:
    """Costs that are not the same for all cells."""
    found = []
    for name, unit, title in COSTS:
        values = {value for cell in study.cells if (value := cell.cost(name)) is not None}
        if len(values) > 1:
            prefix, scale = next((p, s) for p, s in PREFIXES if max(values) >= 0.1 * s or s == 1)
            words = f"{prefix} {unit}" if len(unit) > 1 else prefix + unit
            inside = words if name == "memory" else prefix
            found.append(CostColumn(name, f"head {words}", title + f" ({inside})" * bool(inside), scale))
    return found


def study_table(study: Study) -> str:
    """A row per setting: scores, difference to the default, speed, costs."""
    default, costs = study.default, varying_costs(study)
    keys = [f"`{short(key)}`" for key in study.keys] or ["runs of"]
    header = [*keys, "runs", "mIoU", "pixel accuracy"]
    header += [f"mIoU {MINUS} default's"] if default else []
    header += ["images/s", *(cost.heading for cost in costs)]
    rows = []
    for cell in study.cells:
        row = [shown(value) for value in cell.values] or [study.experiment]
        if cell is default:
            row[-1] += " (default)"
        finished, planned = len(cell.finished), len(cell.runs)
        row += [str(planned) if finished == planned else f"{finished} of {planned}"]
        row += [spread_text(cell.spread()), spread_text(cell.spread(scalar("val/pixel_accuracy")))]
        if default:
            row += ["" if cell is default else difference_text(cell.minus(default))]
        speed = cell.spread(scalar("images_per_second")).mean
        row += ["" if speed is None else f"{speed:.1f}"]
        row += [cost.text(cell) for cost in costs]
        rows.append(row)
    return markdown(header, rows, left=len(keys))


def at_iterations(T: str) -> Metric:
    """mIoU of the trained network evaluated with so many EM iterations."""
    return lambda run: (run.evaluations.get("T_eval", {}).get(T) or {}).get("val/miou")


def iterations_table(study: Study) -> str:
    """mIoU of each setting (rows) under each number of EM iterations in evaluation (columns)."""
    header = [*(f"`{short(key)}`" for key in study.keys), *(f"T_eval={T}" for T in study.evaluated)]
    rows = [
        [*map(shown, cell.values), *(spread_text(cell.spread(at_iterations(T))) for T in study.evaluated)]
        for cell in study.cells
    ]
    return markdown(header, rows, left=len(study.keys))


def iterations_changes(study: Study) -> str:
    """What other EM iterations in evaluation change against those of training; nothing for another study."""
    if study.keys != ("model.T",):
        return ""
    header = ["`T`", *(f"T_eval={T}" for T in study.evaluated)]
    rows = []
    for cell in study.cells:
        own = shown(cell.values[0])
        changes = {T: cell.change(at_iterations(T), at_iterations(own)) for T in study.evaluated}
        rows.append([own, *("" if own == T else difference_text(changes[T]) for T in study.evaluated)])
    return markdown(header, rows)


def unfinished_table(runs: Iterable[Run]) -> str:
    """Runs without a result, and why."""
    return markdown(["run", "reason"], [[f"`{run.name}`", cut(str(run.reason))] for run in runs], left=2)


def cut(text: str, most: int = 300) -> str:
    """The first lines of a long text."""
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 3] + "..."


# --- CSV ------------------------------------------------------------------------------------------------------------


def to_csv(rows: Sequence[dict[str, Any]]) -> str:
    """Rows as CSV; a column for every key, in the order in which they first occur."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def cells_csv(study: Study) -> str:
    """The study's table for programs: shares, not percent."""
    rows = []
    for cell in study.cells:
        spread, difference = cell.spread(), cell.minus(study.default) if study.default else None
        row: dict[str, Any] = dict(zip(study.keys, map(shown, cell.values), strict=True))
        row |= {"runs": len(cell.runs), "finished": len(cell.finished), "miou_mean": spread.mean, "miou_sd": spread.sd}
        accuracy = cell.spread(scalar("val/pixel_accuracy"))
        row |= {"pixel_accuracy_mean": accuracy.mean, "pixel_accuracy_sd": accuracy.sd}
        if difference is not None:
            row |= {"difference": difference.mean, "difference_se": difference.se, "pairs": difference.n}
        row |= {f"head_{name}": cell.cost(name) for name, _, _ in COSTS}
        for T in study.evaluated:
            evaluated = cell.spread(at_iterations(T))
            row |= {f"miou_mean_T_eval={T}": evaluated.mean, f"miou_sd_T_eval={T}": evaluated.sd}
        rows.append(row)
    return to_csv(rows)


def runs_csv(studies: Iterable[Study]) -> str:
    """A row per run."""
    return to_csv([run_row(study, run) for study in studies for cell in study.cells for run in cell.runs])


def run_row(study: Study, run: Run) -> dict[str, Any]:
    """What the run was and gave."""
    summary = run.summary
    hardware, git = summary.get("hardware") or {}, summary.get("git") or {}
    row: dict[str, Any] = {"run": run.name, "experiment": run.experiment, "study": run.study, "seed": run.seed}
    row |= {"status": summary.get("status", "none"), "reason": run.reason and cut(run.reason)}
    row |= {key: shown(run.config[key]) for key in study.keys if key in run.config}
    row |= {"val/miou": miou(run)}
    names = ("val/pixel_accuracy", "val/mean_accuracy", "steps", "seconds", "images_per_second", "precision", "dataset")
    row |= {name: summary.get(name) for name in names}
    row |= {f"parameters_{name}": count for name, count in (summary.get("parameters") or {}).items()}
    row |= {f"head_{name}": (run.costs or {}).get(name) for name, _, _ in COSTS}
    row |= {f"T_eval={T}": at_iterations(T)(run) for T in study.evaluated}
    row |= {f"val/iou/{name}": value for name, value in (summary.get("val/iou") or {}).items()}
    row |= {"cpu": hardware.get("cpu"), "threads": hardware.get("threads")}
    row |= {"gpus": ", ".join(hardware.get("gpus") or []), "torch": (summary.get("versions") or {}).get("torch")}
    return row | {"commit": git.get("commit"), "dirty": git.get("dirty")}
