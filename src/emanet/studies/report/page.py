"""The report as a Markdown page, and as an HTML page made of it that loads nothing; templates lie beside this file."""

import base64
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from jinja2 import Environment, StrictUndefined
from markdown_it import MarkdownIt
from markdown_it.token import Token

from emanet.common.errors import ConfigError
from emanet.studies.report.study import unused

READING = (
    "mIoU and pixel accuracy in %: mean ± standard deviation over the seeds (n - 1), which a single run does not have. "
    "Difference to the default: paired over the seeds that both settings have, in points of mIoU, with its interval: "
    "Student's t, widened for the number of differences in the table (Bonferroni), so that all of them hold at once "
    "with 95 %. Bold where the interval leaves out 0; other differences are chance as far as these runs can tell."
)
SHOWN = {"svg": "image/svg+xml", "png": "image/png"}  # formats that a browser shows


def read_notes(path: Path, sections: Sequence[dict[str, Any]]) -> dict[str, str]:
    """The user's notes by the title of the section that ``## STUDY`` names; those for the top under an empty title.

    Raises:
        ConfigError: for a file that cannot be read, or a heading that names no section.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"notes={path}: cannot be read ({error})") from error
    known = {name: section["title"] for section in reversed(sections) for name in section["names"]}
    top, *others = re.split(r"^## +(.*?) *$", text, flags=re.MULTILINE)
    notes = {"": top.strip()}
    for heading, body in zip(others[::2], others[1::2], strict=True):
        if heading not in known:
            raise ConfigError(f"notes={path}: '## {heading}' names no section; there are {', '.join(known)}")
        notes[known[heading]] = body.strip()
    return notes


def markdown_page(title: str, source: str, notes: Mapping[str, str], sections: Sequence[dict[str, Any]]) -> str:
    """The page as Markdown.

    Args:
        source: link to the runs.
        sections: what is said of each study, see :func:`emanet.studies.report.build.write_section`.
    """
    first = sections[0]["facts"].items() if len(sections) > 1 else ()
    shared = {name: text for name, text in first if all(one["facts"].get(name) == text for one in sections)}
    environment = Environment(trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    environment.filters |= {"md": escaped, "fence": fence}
    template = environment.from_string(files(__package__).joinpath("report.md.j2").read_text(encoding="utf-8"))
    links = anchors([section["title"] for section in sections])
    text = template.render(
        title=title, source=source, notes=notes, sections=sections, links=links, shared=shared, reading=READING
    )
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def html_page(title: str, markdown: str, pictures: Mapping[str, Any]) -> str:
    """The Markdown page as HTML: of pictures only ours, and links to the web and to sections, since no file travels.

    Args:
        pictures: content of each by its link.
    """
    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = reader.parse(markdown)
    headings = [place for place, token in enumerate(tokens) if (token.type, token.tag) == ("heading_open", "h2")]
    for place, name in zip(headings, anchors([tokens[place + 1].content for place in headings]), strict=True):
        tokens[place].attrSet("id", name)
    for token in tokens:
        token.children = [*portable_parts(token.children or (), pictures)]
    body = reader.renderer.render(tokens, reader.options, {})
    template = files(__package__).joinpath("report.html.j2").read_text(encoding="utf-8")
    return Environment(autoescape=True, undefined=StrictUndefined).from_string(template).render(title=title, body=body)


def portable_parts(parts: Sequence[Token], pictures: Mapping[str, Any]) -> Iterator[Token]:
    """Parts of a paragraph, with our pictures inside, without others, and without links that lead to files."""
    linked = True
    for part in parts:
        if part.type == "link_open":
            linked = bool(re.match("https?:|#", str(part.attrs["href"])))
        if part.type == "image":
            link = unquote(str(part.attrs["src"]))
            if link not in pictures:
                continue
            kind = SHOWN[link.rpartition(".")[2]]
            part.attrs["src"] = f"data:{kind};base64,{base64.b64encode(pictures[link]).decode()}"
        if linked or not part.type.startswith("link_"):
            yield part


def anchors(titles: Sequence[str]) -> list[str]:
    """Names of headings, as GitHub gives them."""
    taken: set[str] = set()
    return [unused(re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-"), taken) for title in titles]


def escaped(text: str) -> str:
    """Plain text as Markdown that shows it as it is, on one line: names give no emphasis, picture, link or HTML."""
    text = re.sub(r"([\\`*\[\]<>|~$#])", r"\\\1", " ".join(text.split()))
    text = re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", text)  # inside of a word it means nothing
    text = re.sub(r"&(?=#?\w+;)", r"\\&", text)
    return re.sub(r"(?i)(\b(?:https?|ftp):|\bwww)(?=//|\.)", r"\1\\", text)  # GitHub makes links of addresses


def fence(lines: Sequence[str]) -> str:
    """What begins and ends a block of code with these lines, and stands in none of them."""
    return "`" * max([3, *(len(ticks) + 1 for line in lines for ticks in re.findall("`+", line))])
