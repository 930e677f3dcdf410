"""Circumstances of a study's runs, and warnings where they are not the same for all."""

import json
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from emanet.studies.report.runs import Run, comparable
from emanet.studies.report.studies import Cell, Study, shown

Fact = tuple[str, str]  # what, and how it is

HARDWARE = ("cpu", "cores", "threads", "gpus", "devices", "system")
MOST_VALUES = 6  # of a circumstance that are told one by one


def facts(study: Study) -> list[Fact]:
    """What a reader needs to know of the runs, in words."""
    runs = study.runs
    found = [
        ("Swept", swept_text(study)),
        ("Data", told(study.finished or runs, data_text)),
        ("Network", settings_text(study, NETWORK)),
        ("Training", settings_text(study, TRAINING)),
        ("Runs", runs_text(study)),
        ("Hardware", told(runs, hardware_text)),
        ("Software", told(runs, versions_text)),
        ("Commit", told(runs, commit_text)),
    ]
    return [(name, text) for name, text in found if text]


def commands(study: Study) -> list[str]:
    """Commands that started the runs, the commonest first."""
    counted = Counter(str(run.summary["command"]) for run in study.runs if run.summary.get("command"))
    return [command for command, _ in sorted(counted.items(), key=lambda item: (-item[1], item[0]))][:3]


# --- facts ----------------------------------------------------------------------------------------------------------

#: how a setting that all runs share is told: key, and words around its value
NETWORK = (
    ("model.backbone", "{}"),
    ("model.head", "head {}"),
    ("model.output_stride", "output stride {}"),
    ("model.channels", "{} channels"),
    ("model.K", "K={}"),
    ("model.T", "T={}"),
    ("model.momentum", "momentum {}"),
    ("model.norm", "norm {}"),
    ("model.maintenance", "maintenance {}"),
    ("model.gradient", "gradient {}"),
)
TRAINING = (
    ("trainer.max_steps", "{} steps"),
    ("dataset.batch_size", "batch {}"),
    ("dataset.crop_size", "crop {} px"),
    ("optim.lr", "lr {}"),
    ("trainer.precision", "precision {}"),
    ("model.pretrained", "start from {}"),
)
STARTS = {
    ("model.pretrained", "true"): "ImageNet weights",
    ("model.pretrained", "false"): "random weights",
}


def swept_text(study: Study) -> str:
    """Keys and their values, and the seeds."""
    parts = []
    for index, key in enumerate(study.keys):
        values = dict.fromkeys(shown(cell.values[index]) for cell in study.cells)
        parts.append(f"`{key}` = {', '.join(values)}")
    seeds = sorted({shown(run.seed) for run in study.runs if run.seed is not None}, key=lambda text: (len(text), text))
    return "; ".join([*parts, f"seed{'s' * (len(seeds) > 1)} {', '.join(seeds)}" if seeds else "no seed recorded"])


def data_text(run: Run) -> str:
    """Data set and split."""
    name = run.config.get("dataset.name") or run.summary.get("dataset")
    split = run.config.get("dataset.val_split")
    classes = len(run.summary.get("val/iou") or {})
    parts = [str(name) if name else "", f"validated on {split}" if split else "", f"{classes} classes" * bool(classes)]
    return ", ".join(part for part in parts if part)


def settings_text(study: Study, settings: Iterable[tuple[str, str]]) -> str:
    """Settings that all runs share; others are swept, or warned of."""
    parts = []
    for key, words in settings:
        values = {shown(run.config.get(key)) for run in study.runs if run.config}
        if len(values) == 1 and values != {"null"}:
            (value,) = values
            parts.append(words.format(STARTS.get((key, value), value)))
    return ", ".join(parts)


def runs_text(study: Study) -> str:
    """How many, and how long they took."""
    finished = study.finished
    text = f"{len(study.runs)}, " + (f"of which {len(finished)} finished" if study.unfinished else "all finished")
    minutes = [run.summary["seconds_total"] / 60 for run in finished if run.summary.get("seconds_total")]
    if minutes:
        text += f"; {statistics.median(minutes):.1f} minutes each (median), {sum(minutes) / 60:.1f} hours in all"
    return text


def hardware_text(run: Run) -> str:
    """Accelerators, or the processor with its threads; and the system."""
    hardware = run.summary.get("hardware") or {}
    if not hardware:
        return ""
    gpus = hardware.get("gpus") or []
    machine = ", ".join(f"{count}x {name}" for name, count in Counter(gpus).items())
    threads = hardware.get("threads")
    machine = (
        machine or f"{hardware.get('cpu')}, {threads} thread{'s' * (threads != 1)} on {hardware.get('cores')} cores"
    )
    return f"{machine}, {hardware['system']}" if hardware.get("system") else machine


def versions_text(run: Run) -> str:
    """Packages and versions."""
    versions = run.summary.get("versions") or {}
    return ", ".join(f"{name} {number}" for name, number in versions.items() if number)


def commit_text(run: Run) -> str:
    """Commit, and whether the source had been changed since."""
    git = run.summary.get("git") or {}
    if not git.get("commit"):
        return ""
    return f"`{str(git['commit'])[:10]}`" + " with uncommitted changes" * bool(git.get("dirty"))


def told(runs: Iterable[Run], text_of: Callable[[Run], str]) -> str:
    """The one text for all runs, or each with the number of runs that it is true of."""
    counted = Counter(text for text in map(text_of, runs) if text)
    return listed(counted)


def listed(counted: Counter[str]) -> str:
    """Values with the number of runs, if there is more than one value."""
    if len(counted) <= 1:
        return next(iter(counted), "")
    ordered = sorted(counted.items(), key=lambda item: (-item[1], item[0]))
    texts = [f"{text} ({count} run{'s' * (count > 1)})" for text, count in ordered[:MOST_VALUES]]
    more = [f"and {len(ordered) - MOST_VALUES} others"] if len(ordered) > MOST_VALUES else []
    return "; ".join([*texts, *more])


# --- warnings -------------------------------------------------------------------------------------------------------


def warnings(study: Study) -> list[str]:
    """Why the figures of a study may not be comparable, one sentence each."""
    return [
        *differing_settings(study),
        *differing_circumstances(study.finished),
        *changed_sources(study.finished),
        *repeated_seeds(study),
        *unequal_seeds(study),
        *missing_evaluations(study),
    ]


def differing_settings(study: Study) -> list[str]:
    """Settings that are not swept, and differ all the same."""
    configs = [comparable(run.config) for run in study.runs if run.config]
    names = sorted({key for config in configs for key in config} - {"seed", *study.keys})
    found = []
    for key in names:
        counted = Counter(shown(config.get(key)) for config in configs)
        if len(counted) > 1:
            follows = followed_key(study, key)
            how = f"goes with `{follows}`" if follows else "differs, though it is not swept"
            found.append(f"`{key}` {how}: {listed(counted)}.")
    return found


def followed_key(study: Study, key: str) -> str | None:
    """The swept key whose value decides that of another key."""
    for swept in study.keys:
        values: dict[str, set[str]] = {}
        for run in study.runs:
            if run.config:
                values.setdefault(json.dumps(run.config.get(swept)), set()).add(json.dumps(run.config.get(key)))
        if all(len(each) == 1 for each in values.values()):
            return swept
    return None


def differing_circumstances(runs: Sequence[Run]) -> list[str]:
    """Commit, hardware, versions, steps and the like, where the runs with a result do not share them."""
    circumstances = [circumstances_of(run) for run in runs]
    names = dict.fromkeys(name for each in circumstances for name in each)
    found = []
    for name in names:
        counted = Counter(shown(each.get(name)) for each in circumstances)
        if len(counted) > 1:
            found.append(f"{name} is not the same for all runs: {listed(counted)}.")
    return found


def circumstances_of(run: Run) -> dict[str, Any]:
    """What a run's result may depend on beside its settings, by what it is called."""
    summary = run.summary
    hardware, packages = summary.get("hardware") or {}, summary.get("versions") or {}
    return {
        "commit": str((summary.get("git") or {}).get("commit"))[:10],
        "steps done": summary.get("steps"),
        "data set": summary.get("dataset"),
        "precision": summary.get("precision"),
        **{f"hardware: {name}": hardware.get(name) for name in HARDWARE},
        **{f"version of {name}": packages[name] for name in sorted(packages)},
    }


def changed_sources(runs: Sequence[Run]) -> list[str]:
    """Runs of a source that no commit holds."""
    dirty = [run for run in runs if (run.summary.get("git") or {}).get("dirty")]
    if not dirty:
        return []
    return [f"{len(dirty)} of {len(runs)} runs come from a source tree with uncommitted changes."]


def repeated_seeds(study: Study) -> list[str]:
    """Seeds that one setting was run with more than once."""
    found = []
    for cell in study.cells:
        again = [seed for seed, count in Counter(shown(run.seed) for run in cell.finished).items() if count > 1]
        if again:
            names = ", ".join(f"`{run.name}`" for run in cell.finished if shown(run.seed) in again)
            found.append(f"{study.label(cell)}: seed {', '.join(again)} was run more than once: {names}.")
    return found


def unequal_seeds(study: Study) -> list[str]:
    """Cells whose means are over other seeds than most."""

    def seeds(cell: Cell) -> str:
        return ", ".join(sorted({shown(run.seed) for run in cell.finished}, key=lambda text: (len(text), text)))

    counted = Counter(map(seeds, study.cells))
    if len(counted) < 2:
        return []
    usual = max(counted, key=lambda text: (counted[text], len(text)))
    told_of = [f"{study.label(cell)} ({seeds(cell) or 'none'})" for cell in study.cells if seeds(cell) != usual]
    return [f"Means are not over the same seeds: most are over {usual}, but not {'; '.join(told_of)}."]


def missing_evaluations(study: Study) -> list[str]:
    """Finished runs that lack evaluations that others have."""
    lacking = [run for run in study.finished if {*study.evaluated} - run.evaluations.get("T_eval", {}).keys()]
    names = ", ".join(f"`{run.name}`" for run in lacking)
    return [f"Not evaluated with every T_eval: {names}."] if lacking else []
