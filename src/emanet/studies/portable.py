"""What of a run may be published: values without the folders and names of the machine that they come from."""

import re
import sys
from collections.abc import Mapping
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

#: of settings and summaries: what a machine or a person is called
PRIVATE = frozenset({"host", "hostname", "node", "user", "username", "email", "entity", "root"})

CLASSES = "val/iou"  # scores by the name of the class

#: folders of an absolute path inside a text; its last part stays. Not those of an address or of a relative path.
FOLDERS = re.compile(r"(?<![\w/.~:%-])(?:~[\w.-]*|[A-Za-z]:)?[/\\](?:[^\s'\"/\\,;:()\[\]{}=]+[/\\])+")


def portable(value: Any) -> Any:
    """The value as JSON has it, without private keys, and with the last part of each absolute path in its place."""
    if isinstance(value, Mapping):
        kept = {str(key): item for key, item in value.items() if str(key).rpartition(".")[2] not in PRIVATE}
        return {key: item if key == CLASSES else portable(item) for key, item in kept.items()}  # classes may be "root"
    if isinstance(value, (list, tuple)):
        return [portable(item) for item in value]
    if value is None or isinstance(value, bool) or number(value) is not None:
        return value
    return portable_text(str(value))  # what JSON has no word for as well, such as nan


def number(value: Any) -> float | int | None:
    """The value if it is a finite number."""
    ok = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    return value if ok else None


def portable_text(text: str) -> str:
    """The text with the last part of each absolute path in place of the path; of our scripts, ``src/NAME.py``."""
    text = text.encode("utf-8", "replace").decode()  # halves of characters, as in a name of another encoding
    for kind in (PurePosixPath, PureWindowsPath):
        path = kind(text)
        if (
            (path.is_absolute() or text.startswith("~/"))
            and path.name
            and "\n" not in text
            and not text.startswith("//")
        ):
            return path.name
    text = re.sub(r"(?<![\w.-])[^\s'\"=]*[/\\](src[/\\]\w+\.py)\b", r"\1", text)
    return FOLDERS.sub("", text)
