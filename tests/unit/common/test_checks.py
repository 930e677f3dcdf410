"""One sentence for each kind of wrong argument."""

import math
from typing import Any, Literal

import pytest

from emanet.common.checks import at_least_one, one_of, share


@pytest.mark.parametrize(
    ("check", "values", "message"),
    [
        (at_least_one, {"K": 0, "n": 1, "T": -2}, "K and T must be at least 1, got K=0, T=-2"),
        (at_least_one, {"K": "3"}, "K must be an integer, at least 1, got K='3'"),
        (at_least_one, {"T": 3.0, "K": 0}, "T and K must be an integer, at least 1, got T=3.0, K=0"),
        (share, {"a": 0.5, "b": 1.5}, "b is a share, 0..1, got b=1.5"),
        (share, {"a": math.nan}, "a is a share, 0..1, got a=nan"),
    ],
)
def test_what_was_got_and_what_is_allowed_is_said(check: Any, values: dict, message: str):
    with pytest.raises(ValueError) as caught:  # noqa: PT011  (the whole sentence is compared)
        check.__wrapped__(**values) if hasattr(check, "__wrapped__") else check(**values)
    assert str(caught.value) == message


def test_a_value_must_be_one_of_a_literals_or_of_a_collections():
    one_of(Literal["a", "b"], x="a", y="b")
    one_of({"a": 1}, x="a")
    with pytest.raises(ValueError, match=r"^y must be one of a, b, got y='c'$"):
        one_of(Literal["a", "b"], x="a", y="c")


def test_the_ends_of_a_range_are_in_it():
    at_least_one(K=1)
    share(a=0.0, b=1.0)
