"""Fill docs/performance.md from the files in benchmarks/results: each goal beside what was reached, a table a script.

    python benchmarks/page.py

Words are written in the page itself; what stands between its markers is made here.
"""

import json
import re
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
MEASURED = ("variant", "ms", "quartiles_ms", "rounds", "peak_mb")  # the other keys of a row are its case
EVERYBODY = ("authors", "mmsegmentation")
Results = dict[tuple[str, str], dict[str, Any]]  # by script and device


class Goal(NamedTuple):
    """How many times as fast (or small) ours should be as what it stands beside."""

    work: str
    least: float
    script: str
    case: dict[str, Any]
    others: Sequence[str] = EVERYBODY
    mine: str | None = "default"  #: settings of ours; None: those of the other
    theirs: Sequence[str] = ("default",)
    key: str = "ms"


UNIT, TRAINING, EVALUATION = {"task": "unit, forward"}, {"task": "training step"}, {"task": "evaluation"}
VIEWS, SMALL = {"task": "evaluation, 6 scales and flip, 150 classes"}, {"source": "500x375"}
LAYOUTS = ("", "channels last")
GOALS = (
    Goal("unit forward, beside either layout of theirs", 1.8, "peers", UNIT, EVERYBODY, "", LAYOUTS),
    Goal("the same, beside the floor of the folded unit", 0.8, "unit", UNIT, ["floor"], "", [""]),
    Goal("unit, beside the written-out equations (5% are noise)", 0.95, "unit", {}, ["equations"], None, LAYOUTS),
    Goal("unit training step", 1.6, "peers", {"task": "unit, training step"}, EVERYBODY, "", LAYOUTS),
    Goal("evaluation, default settings", 1.25, "peers", EVALUATION),
    Goal("the same, ours fast, theirs default", 2.5, "peers", EVALUATION, EVERYBODY, "fast"),
    Goal("training step, default settings", 1.15, "peers", TRAINING),
    Goal("the same, ours fast, theirs default", 2.0, "peers", TRAINING, EVERYBODY, "fast"),
    Goal("input, 500x375, beside the authors'", 3.0, "input", SMALL, ["authors"], "", [""]),
    Goal("input, 500x375, beside mmsegmentation's", 2.2, "input", SMALL, ["mmsegmentation"], "", [""]),
    Goal("6 scales and flip, 150 classes: time", 2.0, "peers", VIEWS, ["mmsegmentation"]),
    Goal("6 scales and flip, 150 classes: memory", 2.0, "peers", VIEWS, ["mmsegmentation"], key="peak_mb"),
)


def case_of(row: dict[str, Any]) -> dict[str, Any]:
    """What a row computes."""
    return {key: value for key, value in row.items() if key not in MEASURED}


def ratios(goal: Goal, rows: Sequence[dict[str, Any]]) -> list[float]:
    """The others' figures over those of ours in the same case; beside NAME stands "ours as NAME" where there is one."""
    found = []
    for row in rows:
        name, _, setting = row["variant"].partition("; ")
        if name in goal.others and setting in goal.theirs and goal.case.items() <= row.items() and goal.key in row:
            same = {one["variant"]: one for one in rows if case_of(one) == case_of(row)}
            wanted = f"; {setting if goal.mine is None else goal.mine}".removesuffix("; ")
            ours = same.get(f"ours as {name}{wanted}", same.get(f"ours{wanted}", {}))
            found += [row[goal.key] / ours[goal.key]] if goal.key in ours else []
    return found


def verdict(goal: Goal, result: dict[str, Any] | None) -> str:
    """What was reached, from the worst case to the best."""
    found = ratios(goal, result["rows"] if result else ())
    if not found:
        return "not run"
    reached = "reached" if min(found) >= goal.least else "**missed**"
    return f"{min(found):.2f}x to {max(found):.2f}x: {reached}"


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """A line for each case, a column for each variant: milliseconds, and MB where they were measured."""
    keys, names = list(case_of(rows[0])), list(dict.fromkeys(row["variant"] for row in rows))
    lines = [[*keys, *names], ["---"] * len(keys) + ["--:"] * len(names)]
    for case in dict.fromkeys(json.dumps(case_of(row)) for row in rows):
        found = {row["variant"]: row for row in rows if case_of(row) == json.loads(case)}
        lines.append([*map(str, json.loads(case).values()), *(cell(found.get(name, {})) for name in names)])
    return ["| " + " | ".join(line) + " |" for line in lines]


def cell(row: dict[str, Any]) -> str:
    """Figures of a row."""
    figures = [(row[key], unit) for key, unit in (("ms", ""), ("peak_mb", " MB")) if key in row]
    return ", ".join(f"{value:,.0f}{unit}" if value > 99 else f"{value:.3g}{unit}" for value, unit in figures)


def origin(result: dict[str, Any]) -> str:
    """Where a result comes from."""
    machine, code = result["hardware"], result["code"]
    names = ", ".join(machine["gpus"]) or f"{machine['cpu']}, {machine['threads']} of {machine['cores']} cores"
    peers = "".join(f"; {text}" for text in result.get("origins", {}).values())
    commit = f"`{code['commit'][:10]}`" + (" with changes" if code["dirty"] else "")
    return f"{names}; torch {result['versions']['torch']}; commit {commit}{peers}."


def goals(results: Results) -> list[str]:
    """The table of goals."""
    lines = ["| work | goal | CPU | GPU |", "|---|--:|---|---|"]
    for goal in GOALS:
        cells = [verdict(goal, results.get((goal.script, device))) for device in ("cpu", "cuda")]
        lines.append(f"| {goal.work} | {goal.least:g}x | {' | '.join(cells)} |")
    return lines


def section(script: str, results: Results) -> list[str]:
    """Origin and tables of a script's results."""
    lines = []
    for result in (results[script, device] for device in ("cpu", "cuda") if (script, device) in results):
        lines += [origin(result), ""]
        for _, rows in groupby(result["rows"], key=lambda row: list(case_of(row))):
            lines += [*table(list(rows)), ""]
    return lines or ["Not run; `make bench` fills this.", ""]


def page(text: str, results: Results) -> str:
    """The page with the tables of these results: between ``<!-- NAME -->`` and ``<!-- end -->`` all is replaced."""

    def filled(found: re.Match[str]) -> str:
        name = found[1]
        lines = goals(results) if name == "goals" else section(name, results)
        return "\n".join([f"<!-- {name} -->", *lines, "<!-- end -->"])

    return re.sub(r"<!-- (\w+) -->\n.*?<!-- end -->", filled, text, flags=re.DOTALL)


def load(folder: Path) -> Results:
    """All result files of a folder."""
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    return {(result["script"], result["device"]): result for result in found}


if __name__ == "__main__":
    path = ROOT / "docs" / "performance.md"
    path.write_text(page(path.read_text(), load(ROOT / "benchmarks" / "results")))
