"""From the configuration of a report to its files."""

import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from emanet.common.errors import ConfigError, EMANetError
from emanet.common.files import replacing
from emanet.studies.report.default import default_of
from emanet.studies.report.facts import commands, facts, warnings
from emanet.studies.report.figures import draw, styled, to_bytes
from emanet.studies.report.page import SHOWN, html_page, markdown_page, read_notes
from emanet.studies.report.study import Study, group
from emanet.studies.report.tables import finding, runs_frame, scores, tables, to_csv
from emanet.studies.runs import gather, ordered, run_line

log = logging.getLogger(__name__)


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
    defaults = [run.default or default_of(run) or {} for run in runs]
    runs = ordered(replace(run, default=d | baseline or None) for run, d in zip(runs, defaults, strict=True))
    first = Path(cfg["output"] or places[0]).expanduser()
    output = first if cfg["output"] else (first if first.is_dir() else first.parent) / "report"
    page = Path(cfg["page"]).expanduser() if cfg["page"] else output / "report.md"
    made: dict[Path, str | bytes] = {}
    with styled():
        sections = [write_section(study, output, page.parent, cfg["formats"], made) for study in group(runs)]
    notes = read_notes(Path(cfg["notes"]).expanduser(), sections) if cfg["notes"] else {}
    pictures = {section["picture"]: made[section["path"]] for section in sections if section["picture"]}
    made[output / "runs.csv"] = to_csv(runs_frame(runs))
    made[output / "runs.jsonl"] = "".join(run_line(run) + "\n" for run in runs)
    made[page] = markdown_page(cfg["title"], link(output / "runs.jsonl", page.parent), notes, sections)
    made[output / "report.html"] = html_page(cfg["title"], str(made[page]), pictures)
    write(made)
    log.info("%d runs; page %s, to pass on %s", len(runs), page, output / "report.html")
    return page


def write_section(
    study: Study, output: Path, folder: Path, formats: Sequence[str], made: dict[Path, str | bytes]
) -> dict[str, Any]:
    """Add tables and figures of a study to what is made; returns what a page in ``folder`` says, all in plain text."""
    caption, figure = draw(study) or ("", None)
    places = {kind: output / f"figures/{study.slug}.{kind}" for kind in formats if figure}
    if figure:
        made |= {path: to_bytes(figure, kind) for kind, path in places.items()}
    path = next((places[kind] for kind in places if kind in SHOWN), None)
    csv = output / f"tables/{study.slug}.csv"
    made[csv] = to_csv(scores(study))
    return {
        "title": study.title,
        "names": (study.title, study.slug, study.name or study.experiment),  # that notes may call it by
        "facts": facts(study),
        "commands": commands(study),
        "warnings": warnings(study),
        "caption": caption,
        "path": path,
        "picture": link(path, folder) if path else "",
        "tables": tables(study),
        "finding": finding(study),
        "csv": link(csv, folder),
    }


def write(made: Mapping[Path, str | bytes]) -> None:
    """Write all files, with their folders, or none: they take their places when all are whole.

    Raises:
        EMANetError: where that cannot be done; what lay there before is still there.
    """
    try:
        with ExitStack() as stack:
            for path, content in made.items():
                temporary = stack.enter_context(replacing(path))
                temporary.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    except OSError as error:
        raise EMANetError(f"the report cannot be written ({error}); what was there before is unchanged") from error


def link(path: Path, folder: Path) -> str:
    """A link to a file from a page in a folder."""
    return Path(os.path.relpath(path, folder)).as_posix()


def parse_setting(words: Sequence[str]) -> dict[str, Any]:
    """``KEY=VALUE`` as a configuration file reads the value.

    Raises:
        ConfigError: for words of another form.
    """
    if mistakes := [word for word in words if not all(word.partition("=")[:2])]:
        raise ConfigError(f"baseline holds KEY=VALUE such as model.K=64, got {mistakes[0]!r}")
    return {key: yaml.safe_load(value) for key, _, value in (word.partition("=") for word in words)}
