"""Tables of a study: numbers for CSV, the same as text for the page."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from emanet.studies.report.study import METRICS, MIOU, MOST_SHOWN, Study
from emanet.studies.runs import Run, comparable, cut, short, shown

PLUS_MINUS, MINUS = "±", "−"  # noqa: RUF001 a minus sign is as wide as a plus


class Strong(str):
    """A text that stands out."""

    strong = True


@dataclass(frozen=True)
class Table:
    """A table as a page shows it: the first ``left`` columns are text, the others numbers."""

    lead: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: int = 1


def tables(study: Study) -> list[Table]:
    """The tables of a study: scores; scores under other EM iterations; runs without a result."""
    found = [scores_table(study)]
    if study.iterations and study.ended:
        found.append(iterations_table(study))
    if study.unfinished:
        rows = [[cut(run.name), cut(str(run.reason), 300)] for run in study.unfinished[:MOST_SHOWN]]
        of = f", the first {MOST_SHOWN} of {len(study.unfinished)}" if len(study.unfinished) > MOST_SHOWN else ""
        found.append(Table(f"Without a result, and in no mean{of}:", ["run", "reason"], rows, left=2))
    return found


def scores(study: Study) -> pd.DataFrame:
    """A row per setting with all numbers: scores as shares, the paired difference to the default, costs."""
    frame = pd.DataFrame({key: [plain(values[n]) for values in study.settings] for n, key in enumerate(study.keys)})
    frame = frame.reindex(range(len(study.settings)))
    frame["runs"] = [len(members) for members in study.members]
    for name, metric in {**METRICS, **{f"miou_T_eval={T}": f"T_eval={T}" for T in study.iterations}}.items():
        spread = study.spread(metric)
        frame[[f"{name}_mean", f"{name}_sd"]] = spread[["mean", "std"]]
        if name == "miou":
            frame.insert(frame.columns.get_loc("runs") + 1, "finished", spread["count"])
    differences = study.differences().reindex(frame.index)
    frame[["difference", "difference_se"]] = differences[["mean", "se"]]
    frame["pairs"] = differences["n"].fillna(0).astype(int)
    return frame.join(study.costs.add_prefix("head_")).astype(object)


def scores_table(study: Study) -> Table:
    """A row per setting: scores, difference to the default, speed, costs."""
    header, named = setting_columns(study)
    differences, costs, default = study.differences(), study.varying_costs(), study.default
    columns = ["runs", "mIoU", "pixel accuracy", f"mIoU {MINUS} default's", "images/s"]
    if default is None:
        columns.remove(f"mIoU {MINUS} default's")
    rows = []
    for setting, row in scores(study).loc[study.listed].iterrows():
        of = "" if row["finished"] == row["runs"] else f" of {row['runs']}"
        texts = [f"{row['finished']}{of}", spread_text(row, "miou"), spread_text(row, "pixel_accuracy")]
        texts += [difference_text(differences, setting)] if default is not None else []
        texts += [number(row["images_per_second_mean"], ".1f"), *(number(cost, ".3g") for cost in costs.loc[setting])]
        rows.append(named[setting] + texts)
    of = f"The {len(rows)} best of {len(study.settings)} settings; the CSV file holds all."
    lead = of if len(rows) < len(study.settings) else ""
    return Table(lead, [*header, *columns, *costs.columns], rows, left=len(header))


def setting_columns(study: Study) -> tuple[list[str], list[list[str]]]:
    """Header and cells that tell the settings apart: their keys, or number and first run where words are too long."""
    header = [short(key) for key in study.keys] or ["runs of"]
    rows = [[shown(value) for value in values] or [study.experiment] for values in study.settings]
    if study.numbered:
        header = ["setting", "its first run"]
        rows = [[label, cut(runs[0].name)] for label, runs in zip(study.labels, study.members, strict=True)]
    if study.default is not None:
        rows[study.default][-1] += " (default)"
    return header, rows


def iterations_table(study: Study) -> Table:
    """What other numbers of EM iterations in evaluation change (columns) in the networks of each setting (rows)."""
    header, named = setting_columns(study)
    numbers, rows = scores(study), []
    for setting in study.listed:
        changes = study.changes(setting)
        own = shown(study.members[setting][0].config.get("model.T"))
        texts = [
            spread_text(numbers.loc[setting], f"miou_T_eval={T}")
            if own == T
            else difference_text(changes, f"T_eval={T}")
            for T in study.iterations
        ]
        rows.append(named[setting] + texts)
    lead = (
        "The same trained networks, evaluated with other numbers of EM iterations: mIoU with as many as in training, "
        f"and what each other number changes, network by network (mean {PLUS_MINUS} standard error, bold as above)."
    )
    return Table(lead, [*header, *(f"T_eval={T}" for T in study.iterations)], rows, left=len(header))


def finding(study: Study) -> str:
    """Which settings differ from the default by more than the seeds' noise."""
    if not study.keys:
        return ""
    if study.default is None or study.spread(METRICS["miou"])["count"][study.default] == 0:
        return "The default setting is not among the runs with a result, so no differences to it are given."
    differences = study.differences()
    measured = differences[differences["n"] > 1]
    if measured.empty:
        return "No setting shares two seeds with the default, so nothing can be said of chance."
    apart = measured.loc[measured["stands_out"], "mean"]
    told = [f"{study.labels[setting]} ({number(100 * mean, '+.2f')})" for setting, mean in apart.items()]
    return (
        f"Settings that can be compared with the default over two seeds or more: {len(measured)}. "
        f"By more than chance differ: {', '.join(told) or 'none'}."
    )


# --- texts ----------------------------------------------------------------------------------------------------------


def number(value: float, form: str) -> str:
    """A number; nothing where there is none."""
    return "" if math.isnan(value) else f"{value:{form}}".replace("-", MINUS)


def with_error(mean: float, error: float, form: str = ".2f") -> str:
    """A share in percent with its error, as far as it has one."""
    return number(100 * mean, form) + ("" if math.isnan(error) else f" {PLUS_MINUS} {100 * error:.2f}")


def spread_text(row: "pd.Series[Any]", name: str) -> str:
    """Mean and standard deviation."""
    return with_error(row[f"{name}_mean"], row[f"{name}_sd"]) or "no result"


def difference_text(differences: pd.DataFrame, row: Any) -> str:
    """Mean difference and its standard error; strong where it stands out from the seeds' noise."""
    if row not in differences.index:
        return ""
    mean, error, stands_out = differences.loc[row, ["mean", "se", "stands_out"]]
    text = with_error(mean, error, "+.2f")
    return Strong(text) if stands_out else text


# --- CSV ------------------------------------------------------------------------------------------------------------


def runs_frame(runs: Iterable[Run]) -> pd.DataFrame:
    """A row per run: what it was and gave; of its settings, those that differ between the runs."""
    rows = []
    for run in runs:
        row = {
            "run": run.name,
            "experiment": run.experiment,
            "study": run.study,
            "seed": run.seed,
            "reason": run.reason,
        }
        settings = {f"config.{key}": value for key, value in comparable(run.config).items() if key != "seed"}
        scores = {T: found.get(MIOU) for T, found in run.evaluated.items()}
        rows.append(row | settings | run.summary | {"T_eval": scores, "head": run.costs or {}})
    frame = pd.json_normalize(rows)
    return frame[[name for name in frame if not name.startswith("config.") or frame[name].map(shown).nunique() > 1]]


def to_csv(frame: pd.DataFrame) -> str:
    """A table as CSV; numbers to their last digit, and no text that a spreadsheet would take for a formula."""
    frame = frame.astype(object).map(lambda value: harmless(plain(value)))
    return frame.rename(columns=harmless).to_csv(index=False, lineterminator="\n")


def harmless(value: Any) -> Any:
    """A text that begins like a formula behind an apostrophe; any other value as it is."""
    return f"'{value}" if isinstance(value, str) and value[:1] in set("=+-@\t\r") else value


def plain(value: Any) -> Any:
    """A number or nothing as it is, any other value as text."""
    return shown(value) if isinstance(value, (bool, str, list, dict)) else value
