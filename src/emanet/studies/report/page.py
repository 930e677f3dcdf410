"""The report as one page: Markdown, and HTML that holds everything itself."""

import base64
import html
import mimetypes
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from markdown_it import MarkdownIt

from emanet.common.errors import ConfigError
from emanet.studies.report.checks import commands, facts, warnings
from emanet.studies.report.spread import CONFIDENCE
from emanet.studies.report.studies import Study
from emanet.studies.report.tables import (
    MINUS,
    PLUS_MINUS,
    iterations_changes,
    iterations_table,
    one_line,
    study_table,
    unfinished_table,
    varying_costs,
)

GENERATED = "*Made by `python src/report.py` from [{name}]({link}); not edited by hand.*"
READING = (
    f"**How to read the tables.** mIoU and pixel accuracy in %: mean {PLUS_MINUS} standard deviation over the seeds "
    f"(n {MINUS} 1), which a single run does not have. Difference to the default: paired over the seeds that both "
    f"settings have, mean {PLUS_MINUS} standard error in points of mIoU; **bold** where its {100 * CONFIDENCE:.0f} % "
    "interval (Student's t) leaves out 0. The intervals are not corrected for the number of settings: of twenty that "
    "are in truth alike, one is bold by chance."
)
NO_DEFAULT = "The default setting is not among the runs with a result, so no differences to it are given."
CHANGES = (
    "What that changes, network by network, against as many iterations as in training: "
    f"mean {PLUS_MINUS} standard error in points of mIoU, bold as above."
)
COUNTED = "Costs are those of the head alone, for one image of {size}x{size} pixels (the training crop)."


@dataclass(frozen=True)
class Picture:
    """A figure as the page shows it: the link from the page, and what stands below it."""

    link: str
    caption: str


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading of its own."""

    title: str
    names: tuple[str, ...]  #: that notes may call it by
    blocks: tuple[str, ...]
    compares: bool = False  #: whether it has a table of settings


def study_section(study: Study, pictures: Sequence[Picture], table_link: str) -> Section:
    """Everything about a study."""
    listed = [f"- **{name}:** {one_line(text)}" for name, text in facts(study)]
    blocks = ["\n".join(listed)]
    if found := commands(study):
        blocks += ["```\n" + "\n".join(found) + "\n```"]
    if cautions := warnings(study):
        blocks += ["\n".join(["> **Warning**", *(f"> - {one_line(text)}" for text in cautions)])]
    blocks += [figure_block(picture) for picture in pictures[:1]]
    blocks += [study_table(study), f"{reading(study)} [CSV]({table_link})".strip()]
    blocks += [figure_block(picture) for picture in pictures[1:]]
    if study.evaluated:
        blocks += ["The same trained networks, evaluated with other numbers of EM iterations:", iterations_table(study)]
        if changes := iterations_changes(study):
            blocks += [CHANGES, changes]
    if study.unfinished:
        blocks += ["Without a result, and in no mean:", unfinished_table(study.unfinished)]
    names = (study.title, study.slug, study.name or study.experiment)
    return Section(study.title, names, tuple(blocks), compares=True)


def reading(study: Study) -> str:
    """What the differences come to, and what the costs count."""
    parts = []
    if study.keys:
        parts.append(finding(study))
    sizes = {run.costs["size"] for run in study.runs if run.costs is not None}
    if varying_costs(study) and len(sizes) == 1:
        parts.append(COUNTED.format(size=sizes.pop()))
    return " ".join(parts)


def finding(study: Study) -> str:
    """Which settings differ from the default by more than the seeds' noise."""
    default = study.default
    if default is None or not default.finished:
        return NO_DEFAULT
    compared = [
        (cell, difference) for cell in study.cells if cell is not default and (difference := cell.minus(default))
    ]
    measured = [(cell, difference) for cell, difference in compared if difference.se is not None]
    if not measured:
        return "No setting shares two seeds with the default, so nothing can be said of chance."
    apart = [
        f"{study.label(cell)} ({100 * difference.mean:+.2f})" for cell, difference in measured if difference.stands_out
    ]
    settings = f"Of {len(measured)} settings" if len(measured) > 1 else "Of one setting"
    told = ", ".join(apart).replace("-", MINUS) if apart else "none"
    return (
        f"{settings} that can be compared with the default over two seeds or more, by more than chance differ: {told}."
    )


def figure_block(picture: Picture) -> str:
    """A picture with its caption."""
    text = re.sub(r"[\[\]\\*_]", "", picture.caption)
    return f"![{text}](<{picture.link}>)\n\n*{text}*"


def contents(sections: Sequence[Section]) -> str:
    """A list of links to the sections."""
    return "\n".join(f"- [{section.title}](#{anchor(section.title)})" for section in sections)


def anchor(title: str) -> str:
    """Where a heading is found, as GitHub names it."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def markdown_page(title: str, source: tuple[str, str], sections: Sequence[Section], notes: Mapping[str, str]) -> str:
    """The page.

    Args:
        source: name of the file that it is made from, and the link to it.
        notes: text by the title of a section; under "" that of the top.
    """
    parts = [f"# {title}", GENERATED.format(name=source[0], link=source[1])]
    parts += [notes[""]] if notes.get("") else []
    parts += [contents(sections)] if len(sections) > 1 else []
    parts += [READING] if any(section.compares for section in sections) else []
    for section in sections:
        parts.append(f"## {section.title}")
        parts += [notes[section.title]] if section.title in notes else []
        parts += section.blocks
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


# --- notes ----------------------------------------------------------------------------------------------------------


def read_notes(path: Path, sections: Iterable[Section]) -> dict[str, str]:
    """Hand-written text by the title of its section: what stands under ``## NAME``, and before that for the top.

    Raises:
        ConfigError: for a missing file, or a heading that names no section.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"notes={path}: cannot be read ({error.strerror})") from error
    known = {name: section.title for section in reversed(list(sections)) for name in section.names}
    notes: dict[str, str] = {}
    for heading, body in split_notes(text):
        if heading and heading not in known:
            raise ConfigError(f"notes={path}: '## {heading}' names no section; there are {', '.join(known)}")
        notes[known[heading] if heading else ""] = body
    return notes


def split_notes(text: str) -> list[tuple[str, str]]:
    """Headings of the second level with the text below each; code blocks may hold lines that look like one."""
    parts: list[tuple[str, list[str]]] = [("", [])]
    fenced = False
    for line in text.splitlines():
        fenced ^= line.lstrip().startswith("```")
        if line.startswith("## ") and not fenced:
            parts.append((line[3:].strip(), []))
        elif not (line.startswith("# ") and not fenced):  # a title of the notes' own
            parts[-1][1].append(line)
    return [(heading, "\n".join(lines).strip("\n")) for heading, lines in parts]


# --- HTML -----------------------------------------------------------------------------------------------------------

CSS = """
body{max-width:62rem;margin:2rem auto;padding:0 1rem;font:16px/1.5 system-ui,sans-serif;color:#222;background:#fff}
h1,h2{line-height:1.2}h2{margin-top:2.5rem;border-bottom:1px solid #ddd;padding-bottom:.3rem}
table{border-collapse:collapse;margin:1rem 0;font-size:.88rem;font-variant-numeric:tabular-nums}
th,td{padding:.25rem .7rem;border-bottom:1px solid #e5e5e5}thead th{border-bottom:2px solid #888}
img{max-width:100%;margin-top:1rem}code{background:#f3f3f3;padding:.05rem .25rem;border-radius:3px}
pre{background:#f3f3f3;padding:.7rem;overflow-x:auto}pre code{padding:0}
blockquote{margin:1rem 0;padding:.3rem 1rem;background:#fff6e5;border-left:4px solid #E69F00}
@media print{body{max-width:none;margin:0}h2{break-after:avoid}img,table{break-inside:avoid}}
"""


def html_page(title: str, text: str, folder: Path) -> str:
    """The Markdown page as HTML that loads nothing: pictures are put in, links to files beside the page are dropped.

    Args:
        folder: that the links of the page start from.
    """
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    body = re.sub(r'<img src="([^"]*)"', lambda found: f'<img src="{embedded(found[1], folder)}"', body)
    body = re.sub(r'<a href="(?!#|https?:)[^"]*">(.*?)</a>', r"\1", body)
    body = re.sub(r"<h2>(.*?)</h2>", lambda found: f'<h2 id="{anchor(html.unescape(found[1]))}">{found[1]}</h2>', body)
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{CSS}</style>'
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}</body></html>\n'


def embedded(link: str, folder: Path) -> str:
    """A picture as a data address.

    Raises:
        ConfigError: for one that is not among the files.
    """
    path = folder / unquote(html.unescape(link))
    kind = mimetypes.guess_type(path.name)[0] or ""
    if not path.is_file() or not kind.startswith("image/"):
        raise ConfigError(f"{link}: no picture there, seen from {folder}; a page that is passed on needs all in files")
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
