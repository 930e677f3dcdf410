"""docs/results.md: published figures beside those of our runs, made from files; nothing is typed twice.

``docs/published.yaml`` holds the published figures with sources, ``docs/runs/NAME.MEASURE.json`` the summary.json of
each run that counts. ``python src/results.py`` writes the page, ``python src/results.py FOLDER[:MEASURE]`` keeps a run
first.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from jinja2 import Environment, StrictUndefined

from emanet.common.errors import ConfigError
from emanet.common.files import read_json, replacing, write_json
from emanet.config.schema import PROJECT_ROOT
from emanet.studies.complexity import published_rows

DOCS = PROJECT_ROOT / "docs"
PAGE, PUBLISHED, RUNS = DOCS / "results.md", DOCS / "published.yaml", DOCS / "runs"


class Run(NamedTuple):
    """A kept run: its experiment's name, what was measured, and its summary."""

    name: str
    measure: str
    summary: Mapping[str, Any]

    @property
    def miou(self) -> str:
        """mIoU in percent."""
        value = self.summary.get("val/miou")
        return "no score" if value is None else f"{100 * value:.2f}"

    @property
    def circumstances(self) -> str:
        """Steps, time, hardware, seed and commit."""
        summary, hardware, git = self.summary, self.summary.get("hardware") or {}, self.summary.get("git") or {}
        gpus = hardware.get("gpus") or []
        machine = f"{len(gpus)}x {gpus[0]}" if gpus else f"{hardware.get('cpu')}, {hardware.get('threads')} threads"
        commit = f"{str(git['commit'])[:10]}{' and changes' if git.get('dirty') else ''}" if git else "no commit"
        minutes = f"{summary.get('seconds_total', 0) / 60:.1f} min"
        return f"{summary.get('steps')} steps, {minutes}, {machine}, seed {summary.get('seed')}, {commit}"


def read_published() -> dict[str, Any]:
    """The published figures."""
    content: dict[str, Any] = yaml.safe_load(PUBLISHED.read_text(encoding="utf-8"))
    return content


def read_runs(folder: Path = RUNS) -> list[Run]:
    """The runs that were kept, by name."""
    files = ((path, *path.stem.rpartition(".")) for path in sorted(folder.glob("*.*.json")))
    return [Run(name, measure, read_json(path) or {}) for path, name, _, measure in files]


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
    summary = read_json(path)
    if summary is None:
        raise ConfigError(f"{path}: no such file; give the folder of a run that has finished")
    if summary.get("status") != "finished" or not re.fullmatch(r"[\w-]+", str(summary.get("name"))):
        raise ConfigError(f"{path}: status {summary.get('status')!r}, name {summary.get('name')!r}; only finished runs")
    write_json(folder / f"{summary['name']}.{measure}.json", summary)
    return folder / f"{summary['name']}.{measure}.json"


def render(published: Mapping[str, Any], runs: Sequence[Run]) -> str:
    """The page: a row for each published figure with our runs of the same kind, then the other runs, then costs."""
    entries, costs = published["results"], published["costs"]
    beside = [(entry, [run for run in runs if belongs(run, entry)]) for entry in entries]
    others = [run for run in runs if not any(run in ours for _, ours in beside)]
    scores = {(entry["experiment"], entry["measure"]): entry["miou"] for entry in entries}
    rows = []
    for entry, row in zip(costs["rows"], published_rows(costs), strict=True):
        pair = [entry.get(measure) or scores.get((entry.get("experiment"), measure), "") for measure in ("ss", "ms")]
        rows.append((*row[:4], *pair, *row[4:]))
    template = Environment(trim_blocks=True, keep_trailing_newline=True, undefined=StrictUndefined).from_string(
        (DOCS / "results.md.j2").read_text(encoding="utf-8")
    )
    return template.render(published, beside=beside, others=others, cost_rows=rows)


def belongs(run: Run, entry: Mapping[str, Any]) -> bool:
    """Whether a run stands beside a published figure: same experiment, and same measure where that is stated."""
    return run.name == entry["experiment"] and entry["measure"] in (run.measure, "unstated")


def main(arguments: Sequence[str]) -> None:
    """Keep the runs that are named, and write the page."""
    published = read_published()
    for argument in arguments:
        print(f"kept {keep_run(argument, published['measures'])}")
    page = render(published, read_runs())
    with replacing(PAGE) as temporary:
        temporary.write_text(page, encoding="utf-8")
    print(f"written {PAGE}")
