"""The report as one page: Markdown, and HTML that holds everything itself, both from the same sections."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup

from emanet.common.errors import ConfigError
from emanet.studies.report.study import CONFIDENCE, unused
from emanet.studies.report.tables import MINUS, PLUS_MINUS, Strong, Table

READING = (
    f"mIoU and pixel accuracy in %: mean {PLUS_MINUS} standard deviation over the seeds "
    f"(n {MINUS} 1), which a single run does not have. Difference to the default: paired over the seeds that both "
    f"settings have, mean {PLUS_MINUS} standard error in points of mIoU; bold where its {100 * CONFIDENCE:.0f} % "
    "interval (Student's t) leaves out 0. The intervals are not corrected for the number of settings: of twenty that "
    "are in truth alike, one is bold by chance."
)


@dataclass(frozen=True)
class Picture:
    """A figure that was just drawn: caption, link from the Markdown page, and its content as a data address."""

    caption: str
    link: str
    data: str


@dataclass
class Section:
    """What the page says of a study; all texts are plain.

    Args:
        names: that notes may call it by.
        csv: link to the first table as a file.
        notes: words of the user, in Markdown.
    """

    title: str
    names: tuple[str, ...]
    facts: dict[str, str]
    commands: Sequence[str]
    warnings: Sequence[str]
    pictures: Sequence[Picture]
    tables: Sequence[Table]
    finding: str
    csv: str
    notes: str = ""


def shared_facts(sections: Sequence[Section]) -> dict[str, str]:
    """What is the same in all of several sections, so that it is said once."""
    if len(sections) < 2:
        return {}
    first, *others = (section.facts.items() for section in sections)
    return {name: text for name, text in first if all((name, text) in items for items in others)}


# --- notes ----------------------------------------------------------------------------------------------------------


def assign_notes(path: Path, sections: Sequence[Section]) -> str:
    """Give the notes below ``## STUDY`` to the sections; returns those for the top.

    Raises:
        ConfigError: for a file that cannot be read, or a heading that names no section.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"notes={path}: cannot be read ({error.strerror})") from error
    known = {name: section for section in reversed(sections) for name in section.names}
    (_, top), *others = split_notes(text)
    for heading, body in others:
        if heading not in known:
            raise ConfigError(f"notes={path}: '## {heading}' names no section; there are {', '.join(known)}")
        known[heading].notes = body
    return top


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


# --- Markdown -------------------------------------------------------------------------------------------------------


def markdown_page(title: str, source: str, top: str, sections: Sequence[Section]) -> str:
    """The page; ``source`` is the link to the runs."""
    taken: set[str] = set()
    links = [f"- [{escaped(s.title)}](#{unused(anchor(s.title), taken)})" for s in sections]
    shared = shared_facts(sections)
    blocks = [f"# {escaped(title)}", f"*Made by `python src/report.py` from [runs.jsonl]({quote(source)}).*", top]
    blocks += ["\n".join(links) if len(links) > 1 else "", f"**How to read the tables.** {READING}"]
    blocks += ["**The same for all:**" if shared else "", facts_list(shared)]
    for section in sections:
        blocks += section_blocks(section, shared)
    return "\n\n".join(block for block in blocks if block) + "\n"


def section_blocks(section: Section, shared: dict[str, str]) -> list[str]:
    """A section in Markdown."""
    own = {name: text for name, text in section.facts.items() if name not in shared}
    blocks = [f"## {escaped(section.title)}", section.notes, facts_list(own), fenced(section.commands)]
    cautions = [f"> - {escaped(text)}" for text in section.warnings]
    blocks += ["\n".join(["> **Warning**", ">", *cautions]) if cautions else ""]
    pictures = [f"![{escaped(p.caption)}](<{quote(p.link)}>)\n\n*{escaped(p.caption)}*" for p in section.pictures]
    blocks += pictures[:1]
    for number, table in enumerate(section.tables):
        blocks += [escaped(table.lead), markdown_table(table)]
        if number == 0:
            blocks += [f"{escaped(section.finding)} [CSV]({quote(section.csv)})".strip(), *pictures[1:]]
    return blocks


def facts_list(facts: dict[str, str]) -> str:
    """Facts as a list."""
    return "\n".join(f"- **{name}:** {escaped(text)}" for name, text in facts.items())


def fenced(commands: Sequence[str]) -> str:
    """Commands as a block of code that none of them can end."""
    fence = "`" * max([3, *(len(ticks) + 1 for line in commands for ticks in re.findall("`+", line))])
    return "\n".join([fence, *commands, fence]) if commands else ""


def markdown_table(table: Table) -> str:
    """A table in Markdown."""
    rule = ["---"] * table.left + ["---:"] * (len(table.header) - table.left)
    body = [
        [f"**{escaped(cell)}**" if isinstance(cell, Strong) else escaped(cell) for cell in row] for row in table.rows
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in ([*map(escaped, table.header)], rule, *body))


def escaped(text: str) -> str:
    """Plain text as Markdown that shows it as it is, on one line: names give no emphasis, picture, link or HTML."""
    text = re.sub(r"([\\`*\[\]<>|~$#])", r"\\\1", " ".join(text.split()))
    text = re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", text)  # inside of a word it means nothing
    text = re.sub(r"&(?=#?\w+;)", r"\\&", text)
    return re.sub(r"(?i)\b(https?|ftp)://|\bwww\.", lambda found: f"{found[0][:-1]}\\{found[0][-1]}", text)


def anchor(title: str) -> str:
    """Where a heading is found, as GitHub names it."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


# --- HTML -----------------------------------------------------------------------------------------------------------


def html_page(title: str, top: str, sections: Sequence[Section]) -> str:
    """The page as HTML that loads nothing."""
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    environment.filters["notes"] = notes_html
    template = environment.from_string(files(__package__).joinpath("report.html.j2").read_text(encoding="utf-8"))
    shared = shared_facts(sections)
    return template.render(title=title, top=top, sections=sections, shared=shared, reading=READING)


def notes_html(text: str) -> Markup:
    """The user's notes as HTML: no pictures, and links to the web alone, since files do not travel with the page."""
    reader = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")
    return Markup(re.sub(r'<a href="(?!https?:)[^"]*">(.*?)</a>', r"\1", reader.render(text), flags=re.DOTALL))
