"""Checks of arguments: one sentence that says what was got and what is allowed."""

from typing import Any, get_args


def at_least_one(**counts: int) -> None:
    """Refuse counts below 1, and what is no count.

    Raises:
        ValueError: names each of them.
    """
    if wrong := {name: value for name, value in counts.items() if not isinstance(value, int) or value < 1}:
        kind = "" if all(isinstance(value, int) for value in wrong.values()) else "an integer, "
        got = ", ".join(f"{name}={value!r}" for name, value in wrong.items())
        raise ValueError(f"{' and '.join(wrong)} must be {kind}at least 1, got {got}")


def share(**shares: float) -> None:
    """Refuse shares outside 0..1, NaN among them.

    Raises:
        ValueError: names the first of them.
    """
    for name, value in shares.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name} is a share, 0..1, got {name}={value}")


def one_of(allowed: Any, **values: Any) -> None:
    """Refuse values that are none of a ``Literal``'s, or of a collection's.

    Raises:
        ValueError: names the first of them and what is allowed.
    """
    options = get_args(allowed) or tuple(allowed)
    for name, value in values.items():
        if value not in options:
            raise ValueError(f"{name} must be one of {', '.join(map(str, options))}, got {name}={value!r}")
