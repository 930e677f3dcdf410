"""The checker that enforces the signatures of the package, shapes included, while tests run."""

from collections.abc import Callable

from beartype import beartype
from beartype.roar import BeartypeDecorHintPep673Exception


def checked(function: Callable) -> Callable:
    """beartype, except for a method that returns ``Self``, which it can check on whole classes only."""
    try:
        return beartype(function)
    except BeartypeDecorHintPep673Exception:
        return function
