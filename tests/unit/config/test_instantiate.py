"""Objects from nodes: what is built, what is handed to whom, and what is refused in which words."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import pytest

from emanet.common.errors import ConfigError
from emanet.config.instantiate import build, fits, mistakes, shown


class Part:
    """Something to build."""

    def __init__(self, size: int, *, rate: float = 0.5, kind: Literal["a", "b"] = "a", seed: int | None = None) -> None:
        if size < 1:
            raise ValueError(f"size must be at least 1, got size={size}")
        self.size, self.rate, self.kind, self.seed = size, rate, kind, seed


class Child(Part):
    """A part that hands its parent's arguments on."""

    def __init__(self, *, inner: Any = None, **options: Any) -> None:
        super().__init__(**options)
        self.inner = inner


def node(name: str = "Part", **values: Any) -> dict[str, Any]:
    """A node for one of them."""
    return {"_target_": f"{__name__}.{name}", **values}


def test_a_node_is_built_with_the_nodes_inside_it():
    built = build(node("Child", size=2, inner=[node(size=3), 4]), "part")
    assert (type(built), built.size, built.inner[0].size, built.inner[1]) == (Child, 2, 3, 4)


def test_a_partial_node_is_completed_later():
    made = build(node(rate=0.1, _partial_=True), "part")
    assert isinstance(made, partial)
    assert made(7).size == 7


def test_context_goes_to_constructors_that_name_it_unless_the_node_sets_it():
    outer = build(node("Child", size=1, inner=node(size=1, seed=5)), "part", seed=3, nobody=0)
    assert (outer.seed, outer.inner.seed) == (3, 5)


def test_whole_numbers_become_numbers_where_a_constructor_wants_those():
    built = build(node(size=1, rate=2), "part")
    assert type(built.rate) is float


@pytest.mark.parametrize(
    ("value", "lines"),
    [
        (node(size=1), []),
        (node(size="1"), ["part.size must be an integer, got '1'"]),
        (node(size=True), ["part.size must be an integer, got True"]),
        (node(size=1, rate="x"), ["part.rate must be a number, got 'x'"]),
        (node(size=1, kind="c"), ["part.kind must be one of a, b, got 'c'"]),
        (node(size=1, seed=1.5), ["part.seed must be an integer or null, got 1.5"]),
        (node(size=1, sise=1), ["part has no key 'sise': Part takes size, rate, kind, seed"]),
        (node("Child", size=1, sise=1), ["part has no key 'sise': Child takes size, rate, kind, seed, inner"]),
        (node("Child", inner=node(size=None)), ["part.inner.size must be an integer, got None"]),
        (node("Child", inner=[node(sise=1)]), ["part.inner[0] has no key 'sise': Part takes size, rate, kind, seed"]),
    ],
)
def test_wrong_names_and_types_are_told_before_anything_is_built(value: dict, lines: list[str]):
    assert mistakes(value, "part") == lines


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("emanet.Nothing", "x._target_=emanet.Nothing cannot be found: give MODULE.NAME"),
        ("no_such_module.Thing", "x._target_=no_such_module.Thing cannot be found"),
        ("emanet", "x._target_=emanet cannot be found"),
        ("math.pi", "x._target_=math.pi cannot be found"),
        ("pandas_not_there.x", "cannot be found"),
    ],
)
def test_a_target_that_is_not_there_is_told_in_one_line(target: str, message: str):
    with pytest.raises(ConfigError) as caught:
        build({"_target_": target}, "x")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_module_that_lacks_a_package_names_it(tmp_path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "needs_more.py").write_text("import surely_not_installed\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="needs a package: No module named 'surely_not_installed'"):
        build({"_target_": "needs_more.Thing"}, "x")


def test_what_a_constructor_refuses_is_told_with_its_place():
    with pytest.raises(ConfigError, match="part: size must be at least 1, got size=0"):
        build(node(size=0), "part")


@pytest.mark.parametrize(
    ("hint", "good", "bad", "words"),
    [
        (int, 3, 3.0, "an integer"),
        (float, 3, "3", "a number"),
        (bool, True, 1, "true or false"),
        (str | None, None, 3, "a text or null"),
        (Sequence[float], [1, 2.5], ["a"], "a list of a number"),
        (list[int], [1], "1", "a list of an integer"),
        (dict[str, Any], {}, [], "dict"),
        (Literal["x", "y"], "y", "z", "one of x, y"),
        (Any, object(), None, "Any"),
    ],
)
def test_types_are_those_of_yaml(hint: Any, good: Any, bad: Any, words: str):
    assert fits(good, hint)
    assert hint is Any or not fits(bad, hint)
    assert words in shown(hint)
