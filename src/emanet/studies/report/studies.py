"""Runs grouped to studies, a study's runs to cells of one setting, and what is averaged over a cell's seeds."""

import json
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from emanet.studies.report.runs import Run, comparable
from emanet.studies.report.spread import Difference, Spread
from emanet.studies.study import natural

#: names that a reader expects in this order
ORDER: dict[str, tuple[Any, ...]] = {
    "model.gradient": ("none", "last", "full"),
    "model.maintenance": ("none", "backprop", "moving_average"),
    "model.norm": ("none", "layer", "l2"),
    "model.head": ("ema", "fcn", "nonlocal", "a2", "psp", "deeplabv3", "ham", "external"),
}


Metric = Callable[[Run], float | None]


def miou(run: Run) -> float | None:
    """mIoU of the last validation, 0..1."""
    return run.miou


@dataclass(frozen=True)
class Cell:
    """The runs of one setting.

    Args:
        values: of the study's keys.
        runs: all of them, in the order of their seeds, finished or not.
    """

    values: tuple[Any, ...]
    runs: tuple[Run, ...]

    @cached_property
    def finished(self) -> tuple[Run, ...]:
        """The runs that have a result."""
        return tuple(run for run in self.runs if run.reason is None)

    def spread(self, metric: Metric = miou) -> Spread:
        """A quantity over the finished runs."""
        return Spread(tuple(value for value in map(metric, self.finished) if value is not None))

    def by_seed(self, metric: Metric = miou) -> dict[Any, float]:
        """A quantity by seed; of a seed that was run more than once, the mean."""
        values: dict[Any, list[float]] = {}
        for run in self.finished:
            value = metric(run)
            if value is not None:
                values.setdefault(run.seed, []).append(value)
        return {seed: statistics.fmean(each) for seed, each in values.items()}

    def minus(self, other: "Cell", metric: Metric = miou) -> Difference | None:
        """Paired difference over the seeds that both have; ``None`` where they share none."""
        ours, theirs = self.by_seed(metric), other.by_seed(metric)
        shared = [seed for seed in ours if seed in theirs]
        return Difference(tuple(ours[seed] - theirs[seed] for seed in shared)) if shared else None

    def change(self, metric: Metric, before: Metric) -> Difference | None:
        """Paired difference of two quantities of the same runs; ``None`` where no run has both."""
        pairs = [(metric(run), before(run)) for run in self.finished]
        both = tuple(now - then for now, then in pairs if now is not None and then is not None)
        return Difference(both) if both else None

    def cost(self, name: str) -> int | None:
        """A cost of the head: ``macs``, ``params`` or ``memory``."""
        return next((run.costs[name] for run in self.runs if run.costs is not None), None)


@dataclass(frozen=True)
class Study:
    """Runs of one experiment that differ in the values of ``keys``, and in the seed.

    Args:
        experiment: name of the runs.
        name: of the study; ``None`` for runs outside of one.
        keys: what tells the cells apart.
    """

    experiment: str
    name: str | None
    keys: tuple[str, ...]
    runs: tuple[Run, ...]

    @property
    def title(self) -> str:
        """Heading."""
        return self.experiment if self.name is None else f"{self.name} ({self.experiment})"

    @property
    def slug(self) -> str:
        """Name for files."""
        text = self.experiment if self.name is None else f"{self.experiment}_{self.name}"
        return "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in text)

    @cached_property
    def cells(self) -> tuple[Cell, ...]:
        """The settings, numbers in ascending order."""
        groups: dict[str, list[Run]] = {}
        for run in self.runs:
            groups.setdefault(json.dumps(self.setting(run)), []).append(run)
        cells = [Cell(self.setting(runs[0]), tuple(sorted(runs, key=by_seed))) for runs in groups.values()]
        return tuple(sorted(cells, key=lambda cell: tuple(map(rank, self.keys, cell.values))))

    def setting(self, run: Run) -> tuple[Any, ...]:
        """Values of a run for the study's keys."""
        return tuple(run.config.get(key) for key in self.keys)

    @cached_property
    def default(self) -> Cell | None:
        """The cell that is trained without the sweep."""
        known = [run.default or {} for run in self.runs]
        settings = {json.dumps([each[key] for key in self.keys]) for each in known if each.keys() >= {*self.keys}}
        if len(settings) != 1 or not self.keys:
            return None
        return next((cell for cell in self.cells if json.dumps(list(cell.values)) in settings), None)

    @property
    def finished(self) -> list[Run]:
        """Runs with a result."""
        return [run for run in self.runs if run.reason is None]

    @property
    def unfinished(self) -> list[Run]:
        """Runs without one."""
        return [run for run in self.runs if run.reason is not None]

    @property
    def evaluated(self) -> tuple[str, ...]:
        """Numbers of EM iterations that the trained networks were evaluated with."""
        return tuple(sorted({T for run in self.runs for T in run.evaluations.get("T_eval", {})}, key=natural))

    def label(self, cell: Cell, *, keys: bool = True) -> str:
        """A setting in words."""
        if not self.keys:
            return self.experiment
        parts = [shown(value) for value in cell.values]
        return ", ".join(f"{short(key)}={part}" if keys else part for key, part in zip(self.keys, parts, strict=True))


def group(runs: Iterable[Run]) -> list[Study]:
    """Runs to studies by experiment and study; those outside of one differ in whatever their settings differ in."""
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.experiment, run.study or ""), []).append(run)
    ordered = sorted(groups.items(), key=lambda item: (item[0][0], item[0][1] == "", natural(item[0][1].lower())))
    return [
        Study(experiment, name or None, swept_keys(members) if name else differing_keys(members), tuple(members))
        for (experiment, name), members in ordered
    ]


def swept_keys(runs: Sequence[Run]) -> tuple[str, ...]:
    """Keys that the runs of a study name as swept."""
    return tuple(dict.fromkeys(key for run in runs for key in run.keys))


def differing_keys(runs: Sequence[Run]) -> tuple[str, ...]:
    """Keys that decide a result and do not have one value in all runs, the seed left out."""
    configs = [comparable(run.config) for run in runs if run.config]
    names = sorted({key for config in configs for key in config} - {"seed"})
    return tuple(key for key in names if len({json.dumps(config.get(key)) for config in configs}) > 1)


def by_seed(run: Run) -> tuple[Any, ...]:
    """Sort key of runs in a cell."""
    return (run.seed is None, run.seed if isinstance(run.seed, int) else 0, natural(run.name))


def rank(key: str, value: Any) -> tuple[Any, ...]:
    """Sort key of a value: null, numbers by size, names in their usual order, other names."""
    usual = ORDER.get(key, ())
    if value is None:
        return (0, 0, [])
    if is_number(value):
        return (1, value, [])
    return (2, usual.index(value) if value in usual else len(usual), natural(shown(value)))


def is_number(value: Any) -> bool:
    """Whether a value lies on an axis."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def shown(value: Any) -> str:
    """A value as a configuration file spells it."""
    if isinstance(value, float):
        return f"{value:.10g}"  # 0.1, not 0.10000000000000001
    return value if isinstance(value, str) else json.dumps(value)


def short(key: str) -> str:
    """Last part of a key, unless that alone would say too little."""
    section, _, leaf = key.rpartition(".")
    return leaf if section in ("model", "") else key
