"""From the configuration of a report to its files."""

import base64
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from emanet.common.errors import ConfigError
from emanet.studies.report.costs import complete
from emanet.studies.report.facts import commands, facts, warnings
from emanet.studies.report.figures import draw
from emanet.studies.report.page import Picture, Section, assign_notes, render
from emanet.studies.report.study import Study, group
from emanet.studies.report.style import styled, to_bytes
from emanet.studies.report.tables import finding, runs_frame, scores, tables, to_csv
from emanet.studies.runs import gather, ordered, run_line

log = logging.getLogger(__name__)

KINDS = {"svg": "image/svg+xml", "png": "image/png"}  # formats that a browser shows


def write(path: Path, content: str | bytes) -> Path:
    """Write a file, with its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    return path


def write_report(cfg: Mapping[str, Any]) -> Path:
    """Gather the runs, and write tables, figures and pages; returns the Markdown page.

    Raises:
        ConfigError: where there is nothing to report, or what is named cannot be read.
    """
    places = [cfg["runs"]] if isinstance(cfg["runs"], str) else list(cfg["runs"] or [])
    if not (places or cfg["wandb"]):
        raise ConfigError("say what to report on: runs=FOLDER or wandb=ENTITY/PROJECT is missing")
    if not (places or cfg["output"]):
        raise ConfigError("say where to write the report: output=FOLDER is missing")
    baseline = parse_setting(cfg["baseline"])
    runs = gather(places)
    if cfg["wandb"]:
        from emanet.studies.report.wandb_runs import read_project  # importing wandb takes seconds

        runs += read_project(cfg["wandb"])
    runs = ordered(replace(run, default=(run.default or {}) | baseline or None) for run in complete(runs))
    first = Path(places[0] if places else ".").expanduser()
    output = (
        Path(cfg["output"]).expanduser() if cfg["output"] else (first if first.is_dir() else first.parent) / "report"
    )
    page = Path(cfg["page"]).expanduser() if cfg["page"] else output / "report.md"
    with styled():
        sections = [write_section(study, output, page.parent, list(cfg["formats"])) for study in group(runs)]
    top = assign_notes(Path(cfg["notes"]).expanduser(), sections) if cfg["notes"] else ""
    write(output / "runs.csv", to_csv(runs_frame(runs)))
    kept = write(output / "runs.jsonl", "".join(run_line(run) + "\n" for run in runs))
    markdown, html = render(cfg["title"], link(kept, page.parent), top, sections)
    write(page, markdown)
    write(output / "report.html", html)
    log.info("%d runs; page %s, to pass on %s", len(runs), page, output / "report.html")
    return page


def link(path: Path, folder: Path) -> str:
    """A link to a file from a page in a folder."""
    return Path(os.path.relpath(path, folder)).as_posix()


def write_section(study: Study, output: Path, folder: Path, formats: Sequence[str]) -> Section:
    """Tables and figures of a study; what a page in ``folder`` says of it."""
    picture = None
    if drawn := draw(study):
        files = {kind: to_bytes(drawn[1], kind) for kind in formats}
        paths = {kind: write(output / f"figures/{study.slug}.{kind}", data) for kind, data in files.items()}
        kind = next(kind for kind in formats if kind in KINDS)
        data = f"data:{KINDS[kind]};base64,{base64.b64encode(files[kind]).decode()}"
        picture = Picture(drawn[0], link(paths[kind], folder), data)
    table = write(output / f"tables/{study.slug}.csv", to_csv(scores(study)))
    return Section(
        study.title,
        names=(study.title, study.slug, study.name or study.experiment),
        facts=facts(study),
        commands=commands(study),
        warnings=warnings(study),
        picture=picture,
        tables=tables(study),
        finding=finding(study),
        csv=link(table, folder),
    )


def parse_setting(words: Sequence[str]) -> dict[str, Any]:
    """``KEY=VALUE`` as a configuration file reads the value.

    Raises:
        ConfigError: for words of another form.
    """
    if mistakes := [word for word in words if not all(word.partition("=")[:2])]:
        raise ConfigError(f"baseline holds KEY=VALUE such as model.K=64, got {mistakes[0]!r}")
    return {key: yaml.safe_load(value) for key, _, value in (word.partition("=") for word in words)}
