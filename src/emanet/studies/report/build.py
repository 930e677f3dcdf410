"""From the configuration of a report to its files."""

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from emanet.common.errors import ConfigError
from emanet.config.rules import check
from emanet.studies.report.costs import complete
from emanet.studies.report.figures import Drawing, drawings
from emanet.studies.report.page import Picture, Section, html_page, markdown_page, read_notes, study_section
from emanet.studies.report.robustness import (
    Results,
    read_results,
    robustness_csv,
    robustness_drawings,
    robustness_section,
)
from emanet.studies.report.runs import Run, gather, ordered, parse_setting, run_line, with_defaults
from emanet.studies.report.studies import group
from emanet.studies.report.style import styled, to_bytes
from emanet.studies.report.tables import cells_csv, runs_csv

log = logging.getLogger(__name__)

SHOWN = ("svg", "png")  # formats that a browser shows


class Files:
    """The files of a report, each written whole; links to them from the page.

    Args:
        output: folder for all but the page.
        page: the Markdown page.
    """

    def __init__(self, output: Path, page: Path) -> None:
        self.output, self.page = output, page

    def write(self, name: str, content: str | bytes) -> str:
        """Write a file of the output folder; returns its link from the page."""
        write_whole(self.output / name, content)
        return self.link(name)

    def link(self, name: str) -> str:
        """Link from the page to a file of the output folder."""
        return Path(os.path.relpath(self.output / name, self.page.parent)).as_posix()

    def picture(self, drawing: Drawing, formats: Sequence[str]) -> Picture:
        """Write a figure in each format; what the page shows of it."""
        for kind in formats:
            self.write(f"figures/{drawing.name}.{kind}", to_bytes(drawing.figure, kind))
        kind = next(kind for kind in formats if kind in SHOWN)
        return Picture(self.link(f"figures/{drawing.name}.{kind}"), drawing.caption)


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file that is never seen half-written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    incomplete = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        incomplete.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
        incomplete.replace(path)
    finally:
        incomplete.unlink(missing_ok=True)


def make_report(cfg: DictConfig) -> Path:
    """Gather the runs, and write tables, figures and pages; returns the Markdown page.

    Raises:
        ConfigError: where there is nothing to report, or what is named cannot be read.
    """
    check(cfg)
    places = as_list(cfg.runs)
    if not (places or cfg.wandb or cfg.robustness):
        raise ConfigError("say what to report on: runs=FOLDER, wandb=ENTITY/PROJECT or robustness=FILE is missing")
    runs = gather(places) + read_wandb(cfg.wandb)
    runs = ordered(with_defaults(complete(runs), parse_setting(cfg.baseline)))
    tested = read_results(Path(cfg.robustness).expanduser()) if cfg.robustness else None
    output = place_of(cfg)
    files = Files(output, Path(cfg.page).expanduser() if cfg.page else output / "report.md")
    with styled():
        sections = write_studies(runs, files, list(cfg.formats))
        if tested is not None:
            sections.append(write_robustness(tested, files, list(cfg.formats)))
    notes = read_notes(Path(cfg.notes).expanduser(), sections) if cfg.notes else {}
    text = markdown_page(cfg.title, source_of(files, runs), sections, notes)
    write_whole(files.page, text)
    files.write("report.html", html_page(cfg.title, text, files.page.parent))
    log.info("%d runs; page %s, to pass on %s", len(runs), files.page, output / "report.html")
    return files.page


def write_studies(runs: Sequence[Run], files: Files, formats: Sequence[str]) -> list[Section]:
    """Tables and figures of all studies, and the runs themselves; the sections of the page."""
    if not runs:
        return []
    studies = group(runs)
    sections = []
    for study in studies:
        pictures = [files.picture(drawing, formats) for drawing in drawings(study)]
        link = files.write(f"tables/{study.slug}.csv", cells_csv(study))
        sections.append(study_section(study, pictures, link))
    files.write("runs.csv", runs_csv(studies))
    files.write("runs.jsonl", "".join(run_line(run) + "\n" for run in runs))
    return sections


def write_robustness(tested: Results, files: Files, formats: Sequence[str]) -> Section:
    """Figures of the evaluations under corruption, and the evaluations themselves; their section."""
    pictures = [files.picture(drawing, formats) for drawing in robustness_drawings(tested)]
    files.write("robustness.json", json.dumps(tested.content, indent=2) + "\n")
    return robustness_section(tested, pictures, files.write("tables/robustness.csv", robustness_csv(tested)))


def source_of(files: Files, runs: Sequence[Run]) -> tuple[str, str]:
    """What the page is made from: name and link."""
    name = "runs.jsonl" if runs else "robustness.json"
    return name, files.link(name)


def read_wandb(project: str | None) -> list[Run]:
    """Runs of a W&B project; none without one."""
    if project is None:
        return []
    from emanet.studies.report.wandb_runs import read_project  # importing wandb takes seconds

    return read_project(project)


def as_list(value: Any) -> list[str]:
    """One path or several."""
    if value is None:
        return []
    if OmegaConf.is_list(value):
        return [str(item) for item in value]
    return [str(value)]


def place_of(cfg: DictConfig) -> Path:
    """The output folder: the one that is named, or ``report`` beside the runs."""
    if cfg.output:
        return Path(cfg.output).expanduser()
    first = next((Path(place).expanduser() for place in as_list(cfg.runs)), None)
    if first is None:
        raise ConfigError("say where to write the report: output=FOLDER is missing")
    return (first if first.is_dir() else first.parent) / "report"
