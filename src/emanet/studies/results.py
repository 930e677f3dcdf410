"""docs/results.md: published figures beside those of our runs, made from files; nothing is typed twice.

``docs/published.yaml`` holds the published figures with sources, ``docs/runs/NAME.MEASURE.json`` the summary.json of
each run that counts. ``python src/results.py`` writes the page, ``python src/results.py FOLDER[:MEASURE]`` keeps a run
first.
"""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf

from emanet.common.errors import ConfigError
from emanet.config.schema import PROJECT_ROOT
from emanet.studies.complexity import published_rows

DOCS = PROJECT_ROOT / "docs"
PAGE, PUBLISHED, RUNS = DOCS / "results.md", DOCS / "published.yaml", DOCS / "runs"
NOT_RUN = "not run"


class Run(NamedTuple):
    """A kept run: its experiment's name, what was measured, and its summary."""

    name: str
    measure: str
    summary: dict[str, Any]

    @property
    def miou(self) -> str:
        """mIoU in percent."""
        value = self.summary.get("val/miou")
        return "no score" if value is None else f"{100 * value:.2f}"

    @property
    def circumstances(self) -> str:
        """Steps, time, hardware, seed and commit."""
        summary = self.summary
        hardware, git = summary.get("hardware") or {}, summary.get("git") or {}
        gpus = hardware.get("gpus") or []
        machine = f"{len(gpus)}x {gpus[0]}" if gpus else f"{hardware.get('cpu')}, {hardware.get('threads')} threads"
        commit = f"{str(git['commit'])[:10]}{' and changes' if git.get('dirty') else ''}" if git else "no commit"
        minutes = f"{summary.get('seconds_total', 0) / 60:.1f} min"
        return f"{summary.get('steps')} steps, {minutes}, {machine}, seed {summary.get('seed')}, {commit}"


def read_published(path: Path = PUBLISHED) -> dict[str, Any]:
    """The published figures."""
    content: Any = OmegaConf.to_container(OmegaConf.load(path))
    return content


def read_runs(folder: Path = RUNS) -> list[Run]:
    """The runs that were kept, by name."""
    runs = []
    for path in sorted(folder.glob("*.*.json")):
        name, _, measure = path.stem.rpartition(".")
        runs.append(Run(name, measure, json.loads(path.read_text(encoding="utf-8"))))
    return runs


def keep_run(argument: str, measures: Iterable[str], folder: Path = RUNS) -> Path:
    """Copy the summary of a run, ``FOLDER`` or ``FOLDER:MEASURE``, beside those that the page shows.

    Raises:
        ConfigError: for a measure that is not known, or a folder without the summary of a finished run.
    """
    run, _, measure = argument.partition(":")
    measure = measure or "ss"
    if measure not in measures:
        raise ConfigError(f"a run is measured as one of {', '.join(measures)}, got {measure!r}")
    path = Path(run).expanduser() / "summary.json"
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; give the folder of a run that has finished")
    text = path.read_text(encoding="utf-8")
    summary = json.loads(text)
    if summary.get("status") != "finished" or not re.fullmatch(r"[\w-]+", str(summary.get("name"))):
        raise ConfigError(f"{path}: status {summary.get('status')!r}, name {summary.get('name')!r}; only finished runs")
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{summary['name']}.{measure}.json"
    target.write_text(text, encoding="utf-8")
    return target


def render(published: dict[str, Any], runs: Sequence[Run]) -> str:
    """The page."""
    costs = published["costs"]
    others = other_rows(published, runs)
    ports = [(p["port"], p["data"], f"{p['r50']:.2f}", f"{p['r101']:.2f}", p["source"]) for p in published["ports"]]
    sections = [
        "# Results",
        "Made by `python src/results.py` from `docs/published.yaml` and `docs/runs/`; not edited by hand. mIoU in %.",
        "## Published by the authors, and ours",
        table("experiment, data, network, measure, published, source, ours, our run", result_rows(published, runs)),
        *(["## Other runs", table("run, data, measure, mIoU, circumstances", others)] if others else []),
        "## Cost",
        f"{costs['setting']}. Source: {costs['source']}. {costs['note']}",
        table(
            "method, G MACs, M params, memory, single scale, MS + flip, ours so: G MACs, ours so: M params, "
            "ours whole: G MACs, ours whole: M params",
            cost_rows(published),
        ),
        "## Other implementations",
        table("port, data, R-50, R-101, source", ports),
    ]
    return "\n\n".join(sections) + "\n"


def belongs(run: Run, entry: dict[str, Any]) -> bool:
    """Whether a run stands beside a published figure: same experiment, and same measure where that is stated."""
    return run.name == entry["experiment"] and entry["measure"] in (run.measure, "unstated")


def result_rows(published: dict[str, Any], runs: Sequence[Run]) -> list[tuple[str, ...]]:
    """A row for each published figure, with our runs of the same kind."""
    rows = []
    for entry in published["results"]:
        figure = "none published by the authors" if entry["miou"] is None else str(entry["miou"])
        measures = published["measures"]
        matching = [run for run in runs if belongs(run, entry)]
        unstated = entry["measure"] == "unstated"
        ours = [f"{run.miou} ({measures[run.measure]})" if unstated else run.miou for run in matching]
        told = [f"`{entry['experiment']}`", entry["data"], entry["net"], measures[entry["measure"]], figure]
        circumstances = "; ".join(run.circumstances for run in matching)
        rows.append((*told, entry["source"], "; ".join(ours) or NOT_RUN, circumstances))
    return rows


def other_rows(published: dict[str, Any], runs: Sequence[Run]) -> list[tuple[str, ...]]:
    """A row for each run that no published figure stands beside."""
    return [
        (
            f"`{run.name}`",
            str(run.summary.get("dataset")),
            published["measures"][run.measure],
            run.miou,
            run.circumstances,
        )
        for run in runs
        if not any(belongs(run, entry) for entry in published["results"])
    ]


def cost_rows(published: dict[str, Any]) -> list[tuple[str, ...]]:
    """The published costs beside ours, with the published scores of the same network."""
    scores = {(entry["experiment"], entry["measure"]): entry["miou"] for entry in published["results"]}
    rows = []
    for entry, row in zip(published["costs"]["rows"], published_rows(published["costs"]), strict=True):
        pair = [entry.get(m) or scores.get((entry.get("experiment"), m), "") for m in ("ss", "ms")]
        rows.append((*row[:4], *map(str, pair), *row[4:]))
    return rows


def table(header: str, rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; the header's columns are separated by commas."""
    names = header.split(", ")
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def main(arguments: Sequence[str]) -> None:
    """Keep the runs that are named, and write the page."""
    published = read_published()
    for argument in arguments:
        print(f"kept {keep_run(argument, published['measures'])}")
    PAGE.write_text(render(published, read_runs()), encoding="utf-8")
    print(f"written {PAGE}")
