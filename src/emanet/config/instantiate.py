"""Objects from configuration: a node's keys are the constructor's arguments, so its signature is the schema.

A node is a plain dictionary with ``_target_``, the dotted name of what is called, and with ``_partial_: true`` where
somebody else completes the call. Nodes inside a node are built first. Nothing here sees OmegaConf.
"""

import inspect
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from emanet.common.errors import ConfigError, EMANetError

Node = Mapping[str, Any]
RESERVED = ("_target_", "_partial_")


def is_node(value: Any) -> bool:
    """Whether a value is to be built."""
    return isinstance(value, Mapping) and "_target_" in value


def locate(target: Any, where: str) -> Callable[..., Any]:
    """What a dotted name stands for.

    Raises:
        ConfigError: in one line, where it is not there, cannot be imported, or cannot be called.
    """
    parts = str(target).split(".")
    for length in range(len(parts) - 1, 0, -1):
        module = ".".join(parts[:length])
        try:
            found: Any = import_module(module)
            for name in parts[length:]:
                found = getattr(found, name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module}.".startswith(f"{error.name}."):
                raise ConfigError(f"{where}._target_={target} needs a package: {error}{remedy(error.name)}") from error
        except AttributeError:
            break
        except ImportError as error:
            raise ConfigError(f"{where}._target_={target} cannot be imported: {error}") from error
        else:
            if not callable(found):
                break
            return found
    raise ConfigError(
        f"{where}._target_={target} cannot be found: give MODULE.NAME of a class or a function; your own are looked "
        f"for in the working directory and beside --config-dir{remedy(parts[0])}"
    )


#: packages of the extras of pyproject.toml, by what is imported
EXTRAS = {
    "segmentation_models_pytorch": "losses",
    "tensorboard": "tensorboard",
    "mlflow": "mlflow",
    "comet_ml": "comet",
    "optuna": "search",
    "pandas": "report",
    "matplotlib": "report",
    "markdown_it": "report",
    "wandb_workspaces": "dashboard",
    "pycocotools": "coco",
}


def remedy(package: str | None) -> str:
    """How to get a package that one of our extras brings."""
    return f"; pip install 'emanet[{EXTRAS[package]}]'" if package in EXTRAS else ""


def arguments(constructor: Callable[..., Any], node: Node) -> tuple[dict[str, Any], bool]:
    """Type of each argument by name, and whether further ones may be given.

    Classes that hand ``**options`` on to their parents take the parents' arguments too. A class may say what else it
    takes for the values of a node: ``further_arguments(node) -> {name: parameter}``.
    """
    sources = [constructor]
    if inspect.isclass(constructor):
        sources = [vars(kind)["__init__"] for kind in constructor.__mro__ if "__init__" in vars(kind)]
    known: dict[str, Any] = {}
    is_open = False
    for source in sources:
        try:
            parameters, hints = inspect.signature(source).parameters, hints_of(source)
        except (TypeError, ValueError):  # written in C
            return known, True
        kinds = {parameter.kind for parameter in parameters.values()}
        named = (parameter for parameter in parameters.values() if parameter.kind in NAMED)
        known = {parameter.name: hints.get(parameter.name, Any) for parameter in named} | known
        is_open = inspect.Parameter.VAR_KEYWORD in kinds
        if not is_open:
            break
    if is_open and hasattr(constructor, "further_arguments"):
        further = constructor.further_arguments(node)
        known |= {name: parameter.annotation for name, parameter in further.items() if name not in known}
        is_open = False
    known.pop("self", None)
    return known, is_open


#: how constructors refuse values; those of libraries have errors of their own besides
REFUSALS = (TypeError, ValueError, ModuleNotFoundError, AssertionError)
NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def hints_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Types of a function's arguments; none where they cannot be found out."""
    try:
        return get_type_hints(function)
    except Exception:  # whatever a foreign annotation evaluates to
        return {}


def mistakes(value: Any, where: str) -> list[str]:
    """What is wrong with the names and types of a node's arguments, the nodes inside it included, a line each."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [line for index, item in enumerate(value) for line in mistakes(item, f"{where}[{index}]")]
    if not isinstance(value, Mapping):
        return []
    found = [line for key, item in value.items() for line in mistakes(item, f"{where}.{key}")]
    if not is_node(value):
        return found
    try:
        constructor = locate(value["_target_"], where)
        known, is_open = arguments(constructor, value)
    except (ConfigError, ValueError) as error:
        return [*found, str(error)]
    name = str(value["_target_"]).rpartition(".")[2]
    if hasattr(constructor, "further_arguments") and "head" in value:
        name += f" with head={value['head']}"
    for key, item in value.items():
        if key in RESERVED:
            continue
        if key not in known and not is_open:
            found.append(f"{where} has no key {key!r}: {name} takes {', '.join(known)}")
        elif key in known and not fits(item, known[key]):
            found.append(f"{where}.{key} must be {shown(known[key])}, got {item!r}")
    return found


def leaves(node: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """All values that are no dictionaries or lists, with their places; keys count as values too."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield f"{place}.key", str(key)
            yield from leaves(value, f"{place}.{key}".lstrip("."))
    elif isinstance(node, list | tuple):
        for index, value in enumerate(node):
            yield from leaves(value, f"{place}[{index}]")
    else:
        yield place, node


def fits(value: Any, hint: Any) -> bool:
    """Whether a plain value is of an argument's type, as far as the type says; a node is of whatever it builds."""
    origin, inner = get_origin(hint), get_args(hint)
    if is_node(value):
        return True
    if origin in (Union, types.UnionType):
        return any(fits(value, option) for option in inner)
    if origin is Literal:
        return value in inner
    if hint is None or hint is type(None):
        return value is None
    if origin in (list, tuple, Sequence) or hint in (list, tuple):
        items = [item for item in inner if item is not Ellipsis] or [Any]
        return isinstance(value, list | tuple) and all(fits(item, items[0]) for item in value)
    if origin in (dict, Mapping) or hint in (dict, Mapping):
        return isinstance(value, Mapping)
    if hint in (int, float):
        return isinstance(value, int | hint) and not isinstance(value, bool)
    if hint in (bool, str):
        return isinstance(value, hint)
    if hint is Path:
        return isinstance(value, str | Path)
    # a text, list or mapping may be made an object of; a number or nothing at all is only itself
    return not inspect.isclass(hint) or not isinstance(value, int | float | None) or isinstance(value, hint)


def shown(hint: Any) -> str:
    """A type in the words of YAML."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(shown(option) for option in inner))
    if origin is Literal:
        return "one of " + ", ".join(map(str, inner))
    if origin in (list, tuple, Sequence):
        return f"a list of {shown(inner[0])}" if inner else "a list"
    names = {int: "an integer", float: "a number", bool: "true or false", str: "a text", Path: "a path"}
    return "null" if hint is type(None) else names.get(hint, getattr(hint, "__name__", str(hint)))


def build(node: Any, where: str, **context: Any) -> Any:
    """Build what a node names.

    Args:
        node: a dictionary with ``_target_``; lists and dictionaries of such are built item by item.
        where: place of the node in the configuration, for messages.
        context: values that every constructor gets which names them, where its node does not set them.

    Raises:
        ConfigError: for a target that cannot be found, and for values that its constructor refuses.
    """
    if isinstance(node, list | tuple):
        return [build(item, f"{where}[{index}]", **context) for index, item in enumerate(node)]
    if not isinstance(node, Mapping):
        return node
    values = {key: build(item, f"{where}.{key}", **context) for key, item in node.items() if key not in RESERVED}
    if not is_node(node):
        return values
    constructor = locate(node["_target_"], where)
    known, _ = arguments(constructor, node)
    whole = {key: float(value) for key, value in values.items() if known.get(key) is float and type(value) is int}
    values |= whole | {key: value for key, value in context.items() if key in known and key not in values}
    try:
        return partial(constructor, **values) if node.get("_partial_") else constructor(**values)
    except EMANetError:
        raise
    except Exception as error:
        if str(node["_target_"]).startswith("emanet.") and not isinstance(error, REFUSALS):
            raise  # a fault of ours, with its stack
        hint = remedy(error.name) if isinstance(error, ModuleNotFoundError) else ""
        told = str(error) or f"{node['_target_']} refuses {values}"  # a bare assertion of a library says nothing
        raise ConfigError(f"{where}: {told}{hint}") from error
