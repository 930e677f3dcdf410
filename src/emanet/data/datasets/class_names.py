"""Names of a user's classes, and their colors: given as a list, as a number, or in a file of text or YAML."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import yaml

from emanet.common.errors import ConfigError
from emanet.data.reading import MAX_CLASSES, read_lines, read_text, some

Colors = dict[str, Sequence[int]]


def read_classes(names: Sequence[str], file: Path | None, number: int | None) -> tuple[tuple[str, ...], Colors]:
    """Names of the classes, and the colors that their file gives them.

    Raises:
        ConfigError: for classes that are given in no way or in two, and for names that are not different texts.
    """
    if sum((bool(names), file is not None, number is not None)) != 1:
        raise ConfigError("say the classes in one way: dataset.class_names, dataset.class_file or dataset.num_classes.")
    colors: Colors = {}
    if file is not None:
        names, colors = read_class_file(file)
    elif number is not None:
        names = [f"class {label}" for label in range(number)]
    if bad := [name for name in names if not isinstance(name, str) or not name.strip()]:
        raise ConfigError(f"the name of a class is a text, got {bad}; write it in quotes.")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"classes must have different names, got {some(twice)} twice.")
    if not 1 <= len(names) <= MAX_CLASSES:
        raise ConfigError(f"there may be 1 to {MAX_CLASSES} classes, got {len(names)}.")
    return tuple(names), colors


def read_class_file(path: Path) -> tuple[list[str], Colors]:
    """Names, and colors where the file is YAML with pairs. Names are taken as they are written: ``no`` is no "False".

    Raises:
        ConfigError: for a file that is missing or of another form.
    """
    if not path.is_file():
        raise ConfigError(f"dataset.class_file={path}: no such file.")
    if path.suffix.lower() not in (".yaml", ".yml"):
        return read_lines(path), {}
    text = read_text(path)
    try:
        node, content = yaml.compose(text, yaml.BaseLoader), yaml.load(text, yaml.BaseLoader)  # texts, as written
    except yaml.YAMLError as error:
        raise ConfigError(f"dataset.class_file={path} is no YAML: {error}") from error
    if isinstance(content, list) and all(isinstance(name, str) for name in content):
        return content, {}
    if isinstance(content, dict) and all(isinstance(color, list) for color in content.values()):
        written = [key.value for key, _ in node.value]
        if twice := sorted({name for name in written if written.count(name) > 1}):
            raise ConfigError(f"dataset.class_file={path} names {some(twice)} twice.")
        with suppress(ValueError, TypeError):
            colors: Colors = {name: [int(value) for value in color] for name, color in content.items()}
            return [name for name in colors if name != "ignore"], colors
    raise ConfigError(
        f"dataset.class_file={path} must hold a YAML list of names, or pairs 'name: [r, g, b]', got {content!r:.100}."
    )
