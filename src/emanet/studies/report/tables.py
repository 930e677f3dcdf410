"""Tables of a study: numbers for CSV, texts for the page."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from emanet.studies.report.study import (
    ACCURACY,
    HEAD,
    MIOU,
    MOST_KEYS,
    MOST_SHOWN,
    SCORES,
    SPEED,
    Study,
    compared,
    detectable,
    pairs_needed,
    student,
)
from emanet.studies.runs import Run, comparable, cut, short, shown

GOAL = 0.02  # a difference of mIoU that a reader would like to see
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
    failed = [[cut(run.name), cut(str(run.reason), 300)] for run in study.runs if run.reason is not None]
    if failed:
        of = f", the first {MOST_SHOWN} of {len(failed)}" if len(failed) > MOST_SHOWN else ""
        found.append(Table(f"Without a result, and in no mean{of}:", ["run", "reason"], failed[:MOST_SHOWN], left=2))
    return found


def scores(study: Study) -> pd.DataFrame:
    """A row per setting with all numbers: scores as shares, parameters, the paired difference to the default."""
    frame = pd.DataFrame([dict(zip(study.keys, values, strict=True)) for values in study.settings], dtype=object)
    frame["runs"], frame["finished"] = [len(runs) for runs in study.members], study.spread(MIOU)["count"]
    for name in (*SCORES, *(f"T={T}" for T in study.iterations)):
        frame[[f"{name} mean", f"{name} sd"]] = study.spread(name)[["mean", "std"]]
    frame[HEAD] = study.spread(HEAD)["mean"]
    return frame.join(study.differences().drop(columns="stands_out").add_prefix("difference "))


def listed(study: Study) -> list[int]:
    """The settings that the page shows: all, or of very many the best."""
    best = study.spread(MIOU)["mean"].nlargest(MOST_SHOWN).index
    return sorted(best) if len(study.settings) > MOST_SHOWN else list(range(len(study.settings)))


def scores_table(study: Study) -> Table:
    """A row per setting: scores, difference to the default, speed, parameters of the head where they differ."""
    header, named = setting_columns(study)
    found, differences, shows = scores(study), study.differences(), listed(study)
    columns = {
        "runs": [str(n) if n == of else f"{n} of {of}" for n, of in zip(found["finished"], found["runs"], strict=True)],
        "mIoU": [text or "no result" for text in with_errors(found, MIOU)],
        "pixel accuracy": with_errors(found, ACCURACY),
    }
    if not differences.empty:
        columns[f"mIoU {MINUS} default's"] = [difference_text(differences, setting) for setting in found.index]
    columns["images/s"] = [number(value, ".1f") for value in found[f"{SPEED} mean"]]
    if found[HEAD].nunique() > 1:
        columns["head M params"] = [number(value / 1e6, ".3f") for value in found[HEAD]]
    rows = [[*named[setting], *(cells[setting] for cells in columns.values())] for setting in shows]
    many = len(shows) < len(study.settings)
    lead = f"The {len(shows)} best of {len(study.settings)} settings; the CSV file holds all." if many else ""
    return Table(lead, [*header, *columns], rows, left=len(header))


def setting_columns(study: Study) -> tuple[list[str], list[list[str]]]:
    """Header and cells that tell the settings apart: their keys, or a run where they are too many."""
    header = [short(key) for key in study.keys] or ["runs of"]
    rows = [[cut(shown(value)) for value in values] or [study.experiment] for values in study.settings]
    if len(study.keys) > MOST_KEYS:
        header, rows = ["first run of a setting"], [[label] for label in study.labels]
    if study.default is not None:
        rows[study.default][-1] += " (default)"
    return header, rows


def iterations_table(study: Study) -> Table:
    """What other numbers of EM iterations in evaluation change (columns) in the networks of each setting (rows)."""
    header, named = setting_columns(study)
    columns = [f"T={T}" for T in study.iterations]
    changes = {}
    for setting in listed(study):
        own = f"T={study.members[setting][0].config.get('model.T')}"
        found = study.frame[study.frame["setting"] == setting]
        changes[setting] = found[[name for name in columns if name != own]]
    comparisons = sum(map(compared, changes.values()))
    rows = []
    for setting, differences in changes.items():
        found = student(differences, comparisons)
        cells = [difference_text(found, name) if name in differences else "as trained" for name in columns]
        rows.append([*named[setting], *cells])
    lead = (
        "The same trained networks under other numbers of EM iterations T in evaluation: what that adds to their mIoU, "
        "network by network (mean and interval in points, as above)."
    )
    return Table(lead, [*header, *(f"evaluated with {name}" for name in columns)], rows, left=len(header))


def finding(study: Study) -> str:
    """Which settings differ from the default by more than the seeds' noise."""
    if not study.keys:
        return ""
    differences = study.differences()
    if differences.empty:
        return "No setting shares a seed with a default setting, so no differences are given."
    measured = differences[differences["n"] > 1]
    apart = measured.loc[measured["stands_out"], "mean"]
    told = [f"{study.labels[setting]} ({number(100 * mean, '+.2f')})" for setting, mean in apart.items()]
    return (
        f"Settings that can be compared with the default over two seeds or more: {len(measured)}. "
        f"By more than chance differ: {', '.join(told) or 'none'}. {power(measured)}"
    ).strip()


def power(measured: pd.DataFrame) -> str:
    """What differences these runs could have seen, from the pooled deviation and the fewest pairs of a setting."""
    if measured.empty or not measured["sd"].any():
        return ""
    count, pairs, weights = len(measured), int(measured["n"].min()), measured["n"] - 1
    deviation = ((weights * measured["sd"] ** 2).sum() / weights.sum()) ** 0.5
    needed = pairs_needed(deviation, GOAL, count)
    return (
        f"What these runs can see: paired differences have a standard deviation of {100 * deviation:.2f} points; with "
        f"{pairs} seeds and {count} comparison{'s' * (count > 1)}, a true difference of "
        f"{100 * detectable(deviation, pairs, count):.1f} points stands out with 95 % certainty, and one of "
        f"{100 * GOAL:.0f} points needs {needed or 'more than 1000'} seeds."
    )


# --- texts ----------------------------------------------------------------------------------------------------------


def number(value: float, form: str) -> str:
    """A number; nothing where there is none."""
    return "" if math.isnan(value) else f"{value:{form}}".replace("-", MINUS)


def with_errors(found: pd.DataFrame, score: str) -> list[str]:
    """Mean and standard deviation of a score in percent, as far as there is one, a text per setting."""
    pairs = (100 * found[[f"{score} mean", f"{score} sd"]]).itertuples(index=False)
    return [number(mean, ".2f") + ("" if math.isnan(sd) else f" {PLUS_MINUS} {sd:.2f}") for mean, sd in pairs]


def difference_text(differences: pd.DataFrame, row: Any) -> str:
    """Mean difference and its interval; strong where it stands out from the seeds' noise."""
    if row not in differences.index:
        return ""
    mean, *ends, stands_out = differences.loc[row, ["mean", "low", "high", "stands_out"]]
    text = number(100 * mean, "+.2f")
    if not math.isnan(ends[0]):
        text += f" [{', '.join(number(100 * end, '+.2f') for end in ends)}]"
    return Strong(text) if stands_out else text


# --- CSV ------------------------------------------------------------------------------------------------------------


def runs_frame(runs: Iterable[Run]) -> pd.DataFrame:
    """A row per run: what it was and gave; of its settings, those that differ between the runs."""
    rows = []
    for run in runs:
        row = {"run": run.name, "experiment": run.experiment, "study": run.study, "reason": run.reason}
        settings = {f"config.{key}": value for key, value in comparable(run.config).items()}
        scores = {T: found.get(MIOU) for T, found in run.evaluated.items()}
        rows.append(row | settings | run.summary | {"T_eval": scores})
    frame = pd.json_normalize(rows)
    return frame[[name for name in frame if not name.startswith("config.") or frame[name].map(shown).nunique() > 1]]


def to_csv(frame: pd.DataFrame) -> str:
    """A table as CSV; numbers to their last digit, and no text that a spreadsheet would take for a formula."""

    def plain(value: Any) -> Any:
        text = shown(value) if isinstance(value, (bool, str, list, dict)) else value
        return f"'{text}" if isinstance(text, str) and text[:1] in set("=+-@\t\r") else text

    return frame.astype(object).map(plain).rename(columns=plain).to_csv(index=False, lineterminator="\n")
