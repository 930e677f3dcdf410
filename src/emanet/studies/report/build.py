"""From the configuration of a report to its files."""

import base64
import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from emanet.common.errors import ConfigError
from emanet.config.rules import check
from emanet.studies.report.costs import complete
from emanet.studies.report.facts import commands, facts, warnings
from emanet.studies.report.figures import drawings
from emanet.studies.report.page import Picture, Section, assign_notes, render
from emanet.studies.report.study import Study, group
from emanet.studies.report.style import styled, to_bytes
from emanet.studies.report.tables import finding, runs_frame, scores, tables, to_csv
from emanet.studies.runs import Run, gather, ordered, run_line

log = logging.getLogger(__name__)

KINDS = {"svg": "image/svg+xml", "png": "image/png"}  # formats that a browser shows


def write(path: Path, content: str | bytes) -> Path:
    """Write a file, with its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    return path


def write_report(cfg: DictConfig) -> Path:
    """Gather the runs, and write tables, figures and pages; returns the Markdown page.

    Raises:
        ConfigError: where there is nothing to report, or what is named cannot be read.
    """
    check(cfg)
    places = as_list(cfg.runs)
    if not (places or cfg.wandb):
        raise ConfigError("say what to report on: runs=FOLDER or wandb=ENTITY/PROJECT is missing")
    baseline = parse_setting(cfg.baseline)
    runs = complete(gather(places) + read_wandb(cfg.wandb))
    runs = ordered(replace(run, default=(run.default or {}) | baseline or None) for run in runs)
    output = place_of(cfg, places)
    page = Path(cfg.page).expanduser() if cfg.page else output / "report.md"
    studies = group(runs)
    with styled():
        sections = [write_section(study, output, page.parent, list(cfg.formats)) for study in studies]
    top = assign_notes(Path(cfg.notes).expanduser(), sections) if cfg.notes else ""
    write(output / "runs.csv", to_csv(runs_frame(runs)))
    kept = write(output / "runs.jsonl", "".join(run_line(run) + "\n" for run in runs))
    markdown, html = render(cfg.title, link(kept, page.parent), top, sections)
    write(page, markdown)
    write(output / "report.html", html)
    log.info("%d runs; page %s, to pass on %s", len(runs), page, output / "report.html")
    return page


def link(path: Path, folder: Path) -> str:
    """A link to a file from a page in a folder."""
    return Path(os.path.relpath(path, folder)).as_posix()


def write_section(study: Study, output: Path, folder: Path, formats: Sequence[str]) -> Section:
    """Tables and figures of a study; what a page in ``folder`` says of it."""
    pictures = []
    kind = next(kind for kind in formats if kind in KINDS)
    for drawing in drawings(study):
        paths = {k: write(output / f"figures/{drawing.name}.{k}", to_bytes(drawing.figure, k)) for k in formats}
        data = base64.b64encode(paths[kind].read_bytes()).decode()
        pictures.append(Picture(drawing.caption, link(paths[kind], folder), f"data:{KINDS[kind]};base64,{data}"))
    table = write(output / f"tables/{study.slug}.csv", to_csv(scores(study)))
    return Section(
        study.title,
        names=(study.title, study.slug, study.name or study.experiment),
        facts=facts(study),
        commands=commands(study),
        warnings=warnings(study),
        pictures=pictures,
        tables=tables(study),
        finding=finding(study),
        csv=link(table, folder),
    )


def read_wandb(project: str | None) -> list[Run]:
    """Runs of a W&B project; none without one."""
    if project is None:
        return []
    from emanet.studies.report.wandb_runs import read_project  # importing wandb takes seconds

    return read_project(project)


def parse_setting(words: Sequence[str]) -> dict[str, Any]:
    """``KEY=VALUE`` as a configuration file reads the value.

    Raises:
        ConfigError: for words of another form.
    """
    if mistakes := [word for word in words if not all(word.partition("=")[:2])]:
        raise ConfigError(f"baseline holds KEY=VALUE such as model.K=64, got {mistakes[0]!r}")
    return {key: yaml.safe_load(value) for key, _, value in (word.partition("=") for word in words)}


def as_list(value: Any) -> list[str]:
    """One path or several."""
    return [str(item) for item in value] if OmegaConf.is_list(value) else [str(value)] if value is not None else []


def place_of(cfg: DictConfig, places: Sequence[str]) -> Path:
    """The output folder: the one that is named, or ``report`` beside the runs."""
    if cfg.output:
        return Path(cfg.output).expanduser()
    if not places:
        raise ConfigError("say where to write the report: output=FOLDER is missing")
    first = Path(places[0]).expanduser()
    return (first if first.is_dir() else first.parent) / "report"
