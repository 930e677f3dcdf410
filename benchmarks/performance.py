"""docs/performance.md from benchmarks/results: tables, plots, and each goal beside what was reached.

    python benchmarks/performance.py

Makes docs/performance.md and docs/performance/*.svg from the result files, with the words of docs/performance_notes.md.
What has no result file is "not run", with the command that fills it.
"""

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "src")]

from goals import GOALS, Results, reached  # noqa: E402
from plots import PLOTS  # noqa: E402

from emanet.studies.report.style import styled, to_bytes  # noqa: E402

DOCS = HERE.parent / "docs"
DEVICES = {"cpu": "CPU", "cuda": "GPU"}
#: title of each script's section, and what its rows are told apart by
SECTIONS = {
    "attention_unit": "The attention unit alone",
    "loss": "Loss and evaluation of logits",
    "input_pipeline": "Input",
    "step": "A training step, an evaluation",
    "peers": "Other implementations",
}
#: columns that are no setting of a case
MEASURED = {
    "variant",
    "ms",
    "quartiles_ms",
    "rounds",
    "images_per_s",
    "floor_ms",
    "times_floor",
    "peak_mb",
    "made_mb",
    "share",
}
#: columns that have a table of their own, below that of the time
FURTHER = {
    "share": "share of the whole",
    "times_floor": "times the floor",
    "peak_mb": "peak memory in MB",
    "made_mb": "MB of tensors made in a call",
}
Row = dict[str, Any]


def load(folder: Path) -> Results:
    """Result files by script and device."""
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    for result in found:
        if result["script"] == "input_pipeline":  # whose floor is decoding
            decoding = [row["ms"] for row in result["rows"] if row["variant"] == "decoding alone"]
            sources = list(dict.fromkeys((row["source"], row["crop"]) for row in result["rows"]))
            for row in result["rows"]:
                row["times_floor"] = row["ms"] / decoding[sources.index((row["source"], row["crop"]))]
    return {(result["script"], result["device"]): result for result in found}


def notes(text: str) -> dict[str, str]:
    """Text below each heading of the notes; that before the first is the introduction, under ''."""
    parts = re.split(r"^## (.+)\n", text, flags=re.MULTILINE)
    return {"": parts[0].strip()} | {
        title.strip(): body.strip() for title, body in zip(parts[1::2], parts[2::2], strict=True)
    }


def page(results: Results, words: dict[str, str]) -> str:
    """The whole page.

    Raises:
        ValueError: for notes on a section that the page does not have.
    """
    unknown = words.keys() - {"", "Goals", "Settings", *SECTIONS.values()}
    if unknown:
        raise ValueError(f"docs/performance_notes.md has headings that the page lacks: {', '.join(sorted(unknown))}")
    lines = [
        "# Speed and memory",
        "",
        "*Made by `python benchmarks/performance.py` from `benchmarks/results/`; not edited by hand.*",
        "",
        words[""],
        "",
        "## Goals",
        "",
        *goals_table(results),
        "",
        words.get("Goals", ""),
        *(["", "## Settings", "", words["Settings"]] if "Settings" in words else []),
    ]
    for script, title in SECTIONS.items():
        lines += ["", f"## {title}", "", words.get(title, "")]
        for device, name in DEVICES.items() if script != "input_pipeline" else [("cpu", "CPU")]:
            lines += ["", *section(script, device, name, results.get((script, device)))]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip() + "\n"


def goals_table(results: Results) -> list[str]:
    """A row for each goal: reached, missed, or not run."""
    lines = ["| part | goal | measured | |", "|---|---|---|---|"]
    for goal in GOALS:
        measured, verdict = reached(goal, results)
        lines.append(f"| {goal.part} | {goal.text} | {measured} | {verdict} |")
    return lines


def section(script: str, device: str, name: str, result: dict[str, Any] | None) -> list[str]:
    """Plots, tables and origin of one result file."""
    if result is None:
        command = f"python benchmarks/{script}.py" + (" --device cuda" if device == "cuda" else "")
        return [f"**{name}: not run.** `{command}` fills this, as does `make bench{'-gpu' * (device == 'cuda')}`."]
    lines = [f"**{name}.** {result['what']}. {origin(result)}", ""]
    for figure in PLOTS.get(script, {}):
        lines += [f"![{figure}](performance/{script}_{figure}_{device}.svg)", ""]
    for task, rows in tables(result["rows"]):
        key, words = ("images_per_s", "images/s") if script == "input_pipeline" else ("ms", "milliseconds")
        if any(key in row for row in rows):
            lines += [f"*{task + ': ' if task else ''}{words}*", "", *table(rows, key, 3), ""]
        further = [(key, words) for key, words in FURTHER.items() if any(key in row for row in rows)]
        if further:
            lines += [
                f"<details><summary>{task + ': ' if task else ''}{', '.join(words for _, words in further)}</summary>",
                "",
            ]
            for key, words in further:
                lines += [f"*{words}*", "", *table(rows, key, 2 if key == "times_floor" else 3), ""]
            lines += ["</details>", ""]
    return lines


def origin(result: dict[str, Any]) -> str:
    """Where a result comes from, and what the machine can do."""
    hardware, code, roof = result["hardware"], result["code"] or {}, result["roof"]
    cpu = f"{hardware['cpu']}, {hardware['threads']} threads on {hardware['cores']} cores"
    machine = ", ".join(hardware["gpus"]) or cpu
    peaks = [f"{value:g} {name.partition('_')[2]}" for name, value in roof.items() if name.startswith("gflops")]
    commit = str(code.get("commit"))[:10] + (" with changes" if code.get("dirty") else "")
    return (
        f"Measured on {machine}; torch {result['versions']['torch']}; commit `{commit}`. In the same run a large copy "
        f"moved {roof['bandwidth_gb_per_s']:g} GB/s, a large matrix product {', '.join(peaks)} GFLOP/s."
    )


def tables(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    """Rows in tables, one for each task or part."""
    tasks = dict.fromkeys(task_of(row) for row in rows)
    return [(task, [row for row in rows if task_of(row) == task]) for task in tasks]


def task_of(row: Row) -> str:
    """What the row's table is about."""
    return ", ".join(str(row[key]) for key in ("task", "part", "direction") if key in row)


def table(rows: Sequence[Row], key: str, digits: int) -> list[str]:
    """One figure of each variant: a row for each case, a column for each variant; the best of a row is bold."""
    best = max if key == "images_per_s" else min
    settings, variants = varying(rows), list(dict.fromkeys(row["variant"] for row in rows))
    cases: dict[str, dict[str, Row]] = {}
    for row in rows:
        cases.setdefault(json.dumps([row.get(name) for name in case_keys(rows)]), {})[row["variant"]] = row
    lines = [[*settings, *variants], ["---"] * len(settings) + ["--:"] * len(variants)]
    for found in cases.values():
        values = [row[key] for row in found.values() if key in row and "share" not in row]  # parts do not compete
        first = best(values, default=None)
        figures = [figure(found.get(name, {}).get(key), first, digits) for name in variants]
        lines.append([*(text(next(iter(found.values())).get(name)) for name in settings), *figures])
    return ["| " + " | ".join(line) + " |" for line in lines]


def figure(value: float | None, best: float | None, digits: int) -> str:
    """A value with so many digits, bold if it is the best."""
    if value is None:
        return ""
    rounded = f"{float(f'{value:.{digits}g}'):,.10g}"
    return f"**{rounded}**" if value == best else rounded


def case_keys(rows: Sequence[Row]) -> list[str]:
    """Settings of the rows' cases, in the order in which they are given."""
    return [key for key in dict.fromkeys(key for row in rows for key in row) if key not in MEASURED]


def varying(rows: Sequence[Row]) -> list[str]:
    """Settings that differ among the rows."""
    return [key for key in case_keys(rows) if len({json.dumps(row.get(key)) for row in rows}) > 1]


def text(value: Any) -> str:
    """A value in a table."""
    return "" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


def main() -> None:
    """Write the page and its plots."""
    results = load(HERE / "results")
    folder = DOCS / "performance"
    folder.mkdir(exist_ok=True)
    for (script, device), result in results.items():
        for name, draw in PLOTS.get(script, {}).items():
            with styled():
                (folder / f"{script}_{name}_{device}.svg").write_bytes(to_bytes(draw(result["rows"]), "svg"))
    (DOCS / "performance.md").write_text(page(results, notes((DOCS / "performance_notes.md").read_text())))


if __name__ == "__main__":
    main()
