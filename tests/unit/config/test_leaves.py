"""Nothing is ignored: every leaf of the configuration reaches an object, or is refused when it changes."""

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest

from composing import settled
from emanet.cli import jobs
from emanet.common.errors import ConfigError
from emanet.config import instantiate, rules
from emanet.training import build as building

COMMAND = ("experiment=quickstart_short", "logger=all", "loss=nll_dice", "T_evals=[2]", "study=K")
#: named elsewhere: what the names and folders of data sets, runs and loggers were resolved with before
RESOLVED = {"paths.data_dir", "paths.runs_dir", "dataset.name"}


def leaves(node: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Places of all values that are no dictionaries."""
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from leaves(value, (*path, key))
    else:
        yield path


def changed(value: Any) -> Any:
    """Another value, of the same type where there is one."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1 if value != -1 else 5
    if isinstance(value, list):
        return [*value, *(value[-1:] or ["x"])]
    return {None: 7, "": "x"}.get(value, f"{value}x")


def replaced(cfg: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    """The configuration with one leaf changed."""
    cfg = copy.deepcopy(cfg)
    node = cfg
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = changed(node[path[-1]])
    return cfg


#: what is called on the way, and what it gives here
STUBS: dict[Any, dict[str, Any]] = {
    jobs: {
        "build_loggers": [],
        "find_checkpoint": None,
        "read_weights": {},
        "load_weights": [],
        "named_scores": {},
        "write_json": None,
    },
    building: {
        "check_transforms": None,
        "input_statistics": ((0, 0, 0), (1, 1, 1)),
        "GroupedOptimizer": MagicMock(),
        "SegmentationTask": MagicMock(),
    },
    jobs.L: {"seed_everything": None},
    jobs.OmegaConf: {"save": None},
}


class Recorder:
    """What a training does with a configuration, without doing it: every call, by name and arguments."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, run_dir: Path) -> None:
        self.calls: list[str] = []
        self.run_dir = run_dir
        for home, stubs in STUBS.items():
            for name, result in stubs.items():
                monkeypatch.setattr(home, name, self.noting(name, result))
        for module in (jobs, building):
            monkeypatch.setattr(
                module, "build", self.noting("build", MagicMock(class_names=["a", "b"], num_classes=2, stage_splits={}))
            )
        for name in ("optimizer", "data", "task", "trainer"):  # without the checks of types that are on in tests
            monkeypatch.setattr(jobs, f"build_{name}", getattr(building, f"build_{name}").__wrapped__)
        monkeypatch.setattr(jobs, "evaluate_iterations", jobs.evaluate_iterations.__wrapped__)

    def noting(self, name: str, result: Any) -> Callable[..., Any]:
        """A function that notes what it is called with; the whole configuration says nothing."""

        def call(*args: Any, **kwargs: Any) -> Any:
            told = [str(arg) for arg in args if isinstance(arg, str | int | list | dict)]
            told += [f"{key}={value}" for key, value in kwargs.items() if key != "config"]
            self.calls.append(f"{name}({', '.join(told)})")
            return result

        return call

    def plan(self, cfg: dict[str, Any]) -> list[str]:
        """All calls of a training."""
        self.calls = []
        jobs.fit(cfg, self.run_dir)
        return self.calls


def test_every_leaf_reaches_an_object_or_is_refused_when_it_changes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    cfg = settled(*COMMAND, run_dir=str(tmp_path))
    recorder = Recorder(monkeypatch, tmp_path)
    before = recorder.plan(cfg)
    paths = list(leaves(cfg))
    assert len(paths) > 120
    ignored = []
    for path in paths:
        other = replaced(cfg, path)
        try:
            rules.check(other)
            if recorder.plan(other) == before and ".".join(path) not in RESOLVED:
                ignored.append(".".join(path))
        except ConfigError:
            continue
    assert not ignored


def test_a_constructor_gets_all_that_its_node_holds(monkeypatch: pytest.MonkeyPatch):
    """What the recorder takes for granted: ``build`` hands a node's values on, every one."""
    seen: dict[str, Any] = {}

    def target(**values: Any) -> None:
        seen.update(values)

    monkeypatch.setattr(instantiate, "locate", lambda name, where: target)
    instantiate.build({"_target_": "x.y", "a": 1, "b": [2], "c": {"d": 3}}, "x")
    assert seen == {"a": 1, "b": [2], "c": {"d": 3}}
