"""Runs grouped to studies; their scores averaged over seeds, and compared seed by seed."""

import itertools
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import nctdtrinc, stdtrit

from emanet.studies.portable import number
from emanet.studies.runs import Run, comparable, cut, natural, setting_text, shown

#: names that a reader expects in this order
ORDER: dict[str, tuple[Any, ...]] = {
    "model.gradient": ("none", "last", "full"),
    "model.maintenance": ("none", "backprop", "moving_average"),
    "model.norm": ("none", "layer", "l2"),
    "model.head": ("ema", "fcn", "nonlocal", "a2", "psp", "deeplabv3", "ham", "external"),
}
MIOU, ACCURACY, SPEED = SCORES = ("val/miou", "val/pixel_accuracy", "images_per_second")
HEAD = "parameters of the head"
CONFIDENCE = 0.95
MOST_KEYS, MOST_SHOWN, LONGEST_LABEL = 4, 40, 40  # of a page: key columns, settings, letters of a label


@dataclass(frozen=True)
class Study:
    """Runs of one experiment that differ in the values of ``keys``, and in the seed; a setting goes by its place.

    Args:
        experiment: name of the runs.
        name: of the study; ``None`` for runs outside of one.
        keys: what tells the settings apart.
        runs: all of them, finished or not.
        slug: name for files.
    """

    experiment: str
    name: str | None
    keys: tuple[str, ...]
    runs: tuple[Run, ...]
    slug: str

    @property
    def title(self) -> str:
        """Heading."""
        return self.experiment if self.name is None else f"{self.name} ({self.experiment})"

    @cached_property
    def grouped(self) -> list[tuple[tuple[Any, ...], list[Run]]]:
        """The different values of the keys, in the order that a reader expects, and their runs in that of the seeds."""
        found: dict[str, tuple[tuple[Any, ...], list[Run]]] = {}
        for run in sorted(self.runs, key=lambda run: (natural(shown(run.seed)), natural(run.name))):
            values = tuple(run.config.get(key) for key in self.keys)
            found.setdefault(json.dumps(values), (values, []))[1].append(run)
        return sorted(found.values(), key=lambda item: [*map(rank, self.keys, item[0])])

    @property
    def settings(self) -> list[tuple[Any, ...]]:
        """The values of each setting."""
        return [values for values, _ in self.grouped]

    @property
    def members(self) -> list[list[Run]]:
        """The runs of each setting."""
        return [runs for _, runs in self.grouped]

    @cached_property
    def ended(self) -> list[Run]:
        """Runs with a result."""
        return [run for run in self.runs if run.reason is None]

    @cached_property
    def iterations(self) -> list[str]:
        """Numbers of EM iterations that the trained networks were evaluated with."""
        return sorted({T for run in self.runs for T in run.evaluated}, key=natural)

    @cached_property
    def frame(self) -> pd.DataFrame:
        """A row per run with a result: ``run``, ``setting``, ``seed``, its scores, and ``T=...``: what other numbers of
        EM iterations in evaluation add to the mIoU of as many as in training."""
        changes = [f"T={T}" for T in self.iterations]
        rows = []
        for setting, runs in enumerate(self.members):
            for run in (run for run in runs if run.reason is None):
                row = {"run": run.name, "setting": setting, "seed": None if run.seed is None else shown(run.seed)}
                tried = {T: number(run.evaluated.get(T, {}).get(MIOU)) for T in self.iterations}
                scores = pd.Series(tried, dtype=float)
                own = scores.get(shown(run.config.get("model.T")), np.nan)
                row |= {name: run.summary.get(name) for name in SCORES}
                row[HEAD] = number((run.summary.get("parameters") or {}).get("head"))
                rows.append(row | dict(zip(changes, scores - own, strict=True)))
        columns = ["run", "setting", "seed", *SCORES, HEAD, *changes]
        return pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(columns[3:], float))

    @cached_property
    def default(self) -> int | None:
        """The setting that is trained without the sweep."""
        known = [run.default for run in self.runs if run.default and run.default.keys() >= {*self.keys}]
        found = {json.dumps([default[key] for key in self.keys]) for default in known}
        return next((n for n, values in enumerate(self.settings) if self.keys and found == {json.dumps(values)}), None)

    @cached_property
    def labels(self) -> list[str]:
        """The settings in words, or where that would be too long by the names of their first runs."""
        words = [setting_text(self.keys, values) or self.experiment for values in self.settings]
        if len(self.keys) <= MOST_KEYS and max(map(len, words)) <= LONGEST_LABEL:
            return words
        return [cut(runs[0].name, LONGEST_LABEL) for runs in self.members]

    def spread(self, metric: str) -> pd.DataFrame:
        """Mean, standard deviation (n - 1) and number of finished runs, a row per setting."""
        found = self.frame.groupby("setting")[metric].agg(["mean", "std", "count"])
        return found.reindex(range(len(self.settings))).fillna({"count": 0}).astype({"count": int})

    def differences(self) -> pd.DataFrame:
        """mIoU of each setting minus the default's, paired over the seeds that both have; see :func:`student`."""
        scores = self.frame.pivot_table(index="seed", columns="setting", values=MIOU)  # a seed run twice: its mean
        if self.default not in scores:
            return student(pd.DataFrame())
        return student(scores.drop(columns=self.default).sub(scores[self.default], axis=0))


def student(differences: pd.DataFrame, comparisons: int | None = None) -> pd.DataFrame:
    """What paired differences, a row per pair, come to in each column.

    Args:
        comparisons: number of intervals that shall hold at once with 95 % (Bonferroni); as many as there are here.

    Returns:
        ``mean``; ``sd`` and ``n`` of its pairs; ``low`` and ``high`` of Student's interval, which a single pair does
        not have; whether it ``stands_out``, that is, the interval leaves out 0.
    """
    found = pd.DataFrame({"mean": differences.mean(), "sd": differences.std(), "n": differences.count()})
    half = found["sd"] / found["n"] ** 0.5 * critical(found["n"], comparisons or compared(differences))
    found = found.assign(low=found["mean"] - half, high=found["mean"] + half)
    return found.assign(stands_out=found["mean"].abs() > half)[found["n"] > 0]


def compared(differences: pd.DataFrame) -> int:
    """Number of columns with an interval."""
    return int((differences.count() > 1).sum())


def critical(pairs: Any, comparisons: int) -> Any:
    """Quantile of Student's t that a mean of paired differences is compared with, in units of its standard error."""
    return stdtrit(np.maximum(pairs - 1, 1), 1 - (1 - CONFIDENCE) / (2 * max(comparisons, 1)))


def detectable(deviation: float, pairs: int, comparisons: int) -> float:
    """Smallest true difference whose interval leaves out 0 in 95 of 100 repetitions: what these pairs can see.

    Args:
        deviation: standard deviation of the paired differences.
        pairs: number of seeds, 2 or more.
        comparisons: number of differences that are looked at together.
    """
    shift = nctdtrinc(pairs - 1, 1 - CONFIDENCE, critical(pairs, comparisons))  # of the noncentral t distribution
    return float(shift * deviation / pairs**0.5)


def pairs_needed(deviation: float, difference: float, comparisons: int) -> int | None:
    """Fewest seeds that can see a difference; ``None`` for more than a thousand."""
    enough = (pairs for pairs in range(2, 1001) if detectable(deviation, pairs, comparisons) <= difference)
    return next(enough, None)


def group(runs: Iterable[Run]) -> list[Study]:
    """Runs to studies by experiment and study; those outside of one differ in whatever their settings differ in."""
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.experiment, run.study or ""), []).append(run)
    studies: list[Study] = []
    taken: set[str] = set()
    for experiment, name in sorted(groups, key=lambda key: (key[0], key[1] == "", natural(key[1].lower()))):
        members = groups[experiment, name]
        keys = dict.fromkeys(key for run in members for key in run.keys) if name else differing_keys(members)
        slug = re.sub(r"[^\w-]", "-", f"{experiment}_{name}" if name else experiment)[:80]
        studies.append(Study(experiment, name or None, tuple(keys), tuple(members), unused(slug, taken)))
    return studies


def unused(name: str, taken: set[str]) -> str:
    """The name, or the name with a number if it is taken, in capitals or not; it is taken then."""
    numbered = (f"{name}-{number}" if number else name for number in itertools.count())
    found = next(text for text in numbered if text.lower() not in taken)
    taken.add(found.lower())
    return found


def differing_keys(runs: Sequence[Run]) -> list[str]:
    """Keys that decide a result and do not have one value in all runs, the seed left out."""
    configs = [comparable(run.config) for run in runs if run.config]
    names = sorted({key for config in configs for key in config} - {"seed"})
    return [key for key in names if len({json.dumps(config.get(key)) for config in configs}) > 1]


def rank(key: str, value: Any) -> tuple[Any, ...]:
    """Sort key of a value: null, numbers by size, names in their usual order, other names."""
    usual = ORDER.get(key, ())
    if value is None or number(value) is not None:
        return (0, value is not None, value or 0)
    return (1, usual.index(value) if value in usual else len(usual), natural(shown(value)))
