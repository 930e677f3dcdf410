"""Names of a user's classes, and their colors: given as a list, as a number, or in a file of text or YAML."""

from collections.abc import Sequence
from pathlib import Path

import yaml

from emanet.common.errors import ConfigError
from emanet.data.reading import MAX_CLASSES, read_lines, read_text, some

Colors = dict[str, Sequence[int]]
IGNORED = "ignore"
"""A name that has a color but is no class."""


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
    try:
        node = yaml.compose(read_text(path), yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise ConfigError(f"dataset.class_file={path} is no YAML: {error}") from error
    if isinstance(node, yaml.SequenceNode):
        return [text_of(name, path) for name in node.value], {}
    if not isinstance(node, yaml.MappingNode):
        raise other_form(path, node)
    names = [text_of(key, path) for key, _ in node.value]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"dataset.class_file={path} names {some(twice)} twice.")
    colors = {name: color_of(value, path) for name, (_, value) in zip(names, node.value, strict=True)}
    return [name for name in names if name != IGNORED], colors


def text_of(node: yaml.Node, path: Path) -> str:
    """A name as it is written."""
    if not isinstance(node, yaml.ScalarNode):
        raise other_form(path, node)
    return str(node.value)


def color_of(node: yaml.Node, path: Path) -> Sequence[int]:
    """A list of whole numbers."""
    if not isinstance(node, yaml.SequenceNode):
        raise other_form(path, node)
    try:
        return [int(text_of(value, path)) for value in node.value]
    except ValueError as error:
        raise other_form(path, node) from error


def other_form(path: Path, node: yaml.Node | None) -> ConfigError:
    """Make the error for a file of another form."""
    got = "nothing" if node is None else f"a {node.id} in line {node.start_mark.line + 1}"
    return ConfigError(
        f"dataset.class_file={path} must hold a YAML list of names, or pairs 'name: [r, g, b]', got {got}."
    )
