"""The report as one page, Markdown and HTML from the same sections; the templates lie beside this file."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup

from emanet.common.errors import ConfigError
from emanet.studies.report.study import unused
from emanet.studies.report.tables import Table

READING = (
    "mIoU and pixel accuracy in %: mean ± standard deviation over the seeds (n - 1), which a single run does not have. "
    "Difference to the default: paired over the seeds that both settings have, mean ± standard error in points of "
    "mIoU; bold where its 95 % interval (Student's t) leaves out 0, other differences are chance as far as these runs "
    "can tell. The intervals are not corrected for the number of settings: of twenty that are in truth alike, one is "
    "bold by chance."
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
    picture: Picture | None
    tables: Sequence[Table]
    finding: str
    csv: str
    notes: str = ""
    anchor: str = ""

    def own(self, shared: dict[str, str]) -> dict[str, str]:
        """Facts that are not told for all sections."""
        return {name: text for name, text in self.facts.items() if name not in shared}


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
    top, *others = re.split(r"^## +(.*?) *$", text, flags=re.MULTILINE)
    for heading, body in zip(others[::2], others[1::2], strict=True):
        if heading not in known:
            raise ConfigError(f"notes={path}: '## {heading}' names no section; there are {', '.join(known)}")
        known[heading].notes = body.strip()
    return top.strip()


def render(title: str, source: str, top: str, sections: Sequence[Section]) -> tuple[str, str]:
    """The page as Markdown, and as HTML that loads nothing.

    Args:
        source: link to the runs.
        top: notes for the top.
    """
    taken: set[str] = set()
    for section in sections:  # as GitHub names headings
        section.anchor = unused(re.sub(r"[^\w\- ]", "", section.title.lower()).replace(" ", "-"), taken)
    told = [section.facts.items() for section in sections]
    shared = {name: text for name, text in told[0] if all((name, text) in items for items in told)}
    context: dict[str, Any] = {"title": title, "source": source, "top": top, "sections": sections, "reading": READING}
    context["shared"] = shared if len(sections) > 1 else {}
    text = from_template("report.md.j2", context)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n", from_template("report.html.j2", context)


def from_template(name: str, context: dict[str, Any]) -> str:
    """A page of the package's template."""
    html = name.endswith(".html.j2")
    environment = Environment(autoescape=html, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    environment.filters |= {"md": escaped, "fence": fence, "notes": notes_html}
    return environment.from_string(files(__package__).joinpath(name).read_text(encoding="utf-8")).render(context)


def escaped(text: str) -> str:
    """Plain text as Markdown that shows it as it is, on one line: names give no emphasis, picture, link or HTML."""
    text = re.sub(r"([\\`*\[\]<>|~$#])", r"\\\1", " ".join(text.split()))
    text = re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", text)  # inside of a word it means nothing
    text = re.sub(r"&(?=#?\w+;)", r"\\&", text)
    return re.sub(r"(?i)(\b(?:https?|ftp):|\bwww)(?=//|\.)", r"\1\\", text)  # GitHub makes links of addresses


def fence(lines: Sequence[str]) -> str:
    """What begins and ends a block of code with these lines, and stands in none of them."""
    return "`" * max([3, *(len(ticks) + 1 for line in lines for ticks in re.findall("`+", line))])


def notes_html(text: str) -> Markup:
    """The user's notes as HTML: no pictures, and links to the web alone, since files do not travel with the page."""
    reader = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")
    return Markup(re.sub(r'<a href="(?!https?:)[^"]*">(.*?)</a>', r"\1", reader.render(text), flags=re.DOTALL))
