"""Nothing is ignored: every leaf of the configuration reaches an object, or is refused when it changes."""

import copy
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest

from composing import settled
from emanet.cli import jobs
from emanet.common.errors import ConfigError
from emanet.config import instantiate, rules
from emanet.training import build as building

COMMAND = ("experiment=quickstart_short", "logger=all", "loss=nll_dice", "T_evals=[2]", "study=K", "swept=[model.K]")
#: named elsewhere: the folders that the data sets, runs and loggers were resolved with before a job is handed them
RESOLVED = {"paths.data_dir", "paths.runs_dir"}


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


class Recorder:
    """What a training does with a configuration, without doing it: every call, by name and arguments."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, run_dir: Path) -> None:
        self.calls: list[str] = []
        self.run_dir = run_dir

        def note(name: str, result: Any) -> Any:
            def call(*args: Any, **kwargs: Any) -> Any:
                told = [str(arg) for arg in args if isinstance(arg, str | int | list | bool)]
                told += [f"{key}={value}" for key, value in kwargs.items() if key != "config"]
                self.calls.append(f"{name}({', '.join(told)})")
                return result(*args) if callable(result) else result

            return call

        def build(node: Any, where: str, **context: Any) -> Any:
            self.calls.append(f"{where}: {node}")
            return MagicMock(class_names=["a", "b"], num_classes=2, stage_splits={})

        for module in (jobs, building):
            monkeypatch.setattr(module, "build", build)
        monkeypatch.setattr(building, "input_statistics", note("input_statistics", ((0, 0, 0), (1, 1, 1))))
        for name in ("optimizer", "data", "task", "trainer"):  # without the checks of types that are on in tests
            monkeypatch.setattr(jobs, f"build_{name}", getattr(building, f"build_{name}").__wrapped__)
        monkeypatch.setattr(jobs, "evaluate_iterations", jobs.evaluate_iterations.__wrapped__)
        monkeypatch.setattr(building, "GroupedOptimizer", note("GroupedOptimizer", MagicMock()))
        monkeypatch.setattr(building, "SegmentationTask", note("SegmentationTask", MagicMock()))
        monkeypatch.setattr(jobs, "build_loggers", lambda nodes, **run: self.calls.append(f"loggers: {nodes}") or [])
        monkeypatch.setattr(jobs, "describe_run", self.describe)
        monkeypatch.setattr(jobs.L, "seed_everything", note("seed_everything", None))
        monkeypatch.setattr(jobs, "find_checkpoint", lambda resume, run_dir: self.calls.append(f"resume={resume}"))
        monkeypatch.setattr(jobs, "read_weights", note("read_weights", {}))
        monkeypatch.setattr(jobs, "load_weights", note("load_weights", []))
        monkeypatch.setattr(jobs, "named_scores", note("named_scores", {}))
        monkeypatch.setattr(jobs, "write_json", lambda path, content: self.calls.append(f"{path.name}: {content}"))
        monkeypatch.setattr(jobs.OmegaConf, "save", note("save", None))

    def describe(self, cfg: dict[str, Any], *_: Any) -> Any:
        self.calls.append(f"described by {[cfg[key] for key in ('name', 'tags', 'study', 'swept')]}")
        return SimpleNamespace(_asdict=dict)

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
        except ConfigError:
            continue
        if recorder.plan(other) == before and ".".join(path) not in RESOLVED:
            ignored.append(".".join(path))
    assert not ignored


def test_a_constructor_gets_all_that_its_node_holds(monkeypatch: pytest.MonkeyPatch):
    """What the recorder takes for granted: ``build`` hands a node's values on, every one."""
    seen: dict[str, Any] = {}

    def target(**values: Any) -> None:
        seen.update(values)

    monkeypatch.setattr(instantiate, "locate", lambda name, where: target)
    instantiate.build({"_target_": "x.y", "a": 1, "b": [2], "c": {"d": 3}}, "x")
    assert seen == {"a": 1, "b": [2], "c": {"d": 3}}
