"""Circumstances of a study's runs, and warnings where they are not the same for all."""

import json
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from emanet.studies.report.study import MOST_KEYS, Study
from emanet.studies.runs import Run, comparable, cut, natural, shown

MOST_TOLD = 6  # of values, commands, warnings of a kind

#: settings that are told where all runs share them
TOLD = [f"model.{name}" for name in ("backbone", "head", "output_stride", "channels", "K", "T", "momentum", "norm")]
TOLD += ["model.maintenance", "model.gradient", "model.pretrained", "trainer.max_steps", "trainer.precision"]
TOLD += ["dataset.batch_size", "dataset.crop_size", "optim.lr", "optimizer.lr"]


def facts(study: Study) -> dict[str, str]:
    """What a reader needs to know of the runs, in words."""
    found = {"Swept": swept_text(study), "Settings": settings_text(study.runs), "Runs": runs_text(study)}
    for name, counted in circumstances(study.ended or study.runs).items():
        found[name] = next(iter(counted)) if len(counted) == 1 else ""  # of several there is a warning
    return {name: text for name, text in found.items() if text}


def commands(study: Study) -> list[str]:
    """The different commands that started the runs, the commonest first."""
    counted = Counter(" ".join(str(run.summary["command"]).split()) for run in study.runs if run.summary.get("command"))
    return few(sorted(counted, key=lambda command: (-counted[command], command)), "# {} more are in runs.csv")


def warnings(study: Study) -> list[str]:
    """Why the figures of a study may not be comparable, one sentence each."""
    told = circumstances(study.ended).items()
    found = [f"{name} is not the same for all runs: {listed(counted)}." for name, counted in told if len(counted) > 1]
    again = study.frame.groupby(["setting", "seed"])["run"].agg(list)
    for (setting, seed), names in again[again.map(len) > 1].items():
        found.append(f"{study.labels[setting]}: seed {seed} was run more than once: {', '.join(few(names))}.")
    return differing_settings(study) + found + unequal_seeds(study)


# --- facts ----------------------------------------------------------------------------------------------------------


def swept_text(study: Study) -> str:
    """Keys and their values, and the seeds."""
    parts = [f"{len(study.keys)} keys: {', '.join(few(study.keys))}"]
    if len(study.keys) <= MOST_KEYS:
        values = [dict.fromkeys(map(shown, each)) for each in zip(*study.settings, strict=True)]
        parts = [f"{key} = {cut(', '.join(each), 200)}" for key, each in zip(study.keys, values, strict=True)]
    return "; ".join([*parts, f"seeds: {seeds_text(study.runs) or 'not recorded'}"])


def seeds_text(runs: Iterable[Run]) -> str:
    """The different seeds."""
    return ", ".join(sorted({shown(run.seed) for run in runs if run.seed is not None}, key=natural))


def settings_text(runs: Iterable[Run]) -> str:
    """Settings that all runs share; others are swept, or warned of."""
    configs = [run.config for run in runs if run.config]
    values = {key: {shown(config.get(key)) for config in configs} - {"null"} for key in TOLD}
    return ", ".join(f"{key.rpartition('.')[2]}={each.pop()}" for key, each in values.items() if len(each) == 1)


def runs_text(study: Study) -> str:
    """How many, and how long they took."""
    text = f"{len(study.runs)}, {len(study.ended)} of them finished"
    minutes = [run.summary["seconds_total"] / 60 for run in study.ended if run.summary.get("seconds_total")]
    if minutes:
        text += f"; {statistics.median(minutes):.1f} minutes each (median), {sum(minutes) / 60:.1f} hours in all"
    return text


def circumstances(runs: Sequence[Run]) -> dict[str, Counter[str]]:
    """What a result may depend on beside the settings, each text with the number of runs that it is true of."""
    found: dict[str, Counter[str]] = {}
    for run in runs:
        summary, git = run.summary, dict(run.summary.get("git") or {})
        git["commit"] = str(git.get("commit"))[:10]
        data = {"": run.config.get("dataset.name") or summary.get("dataset")}
        data |= {"validated on": run.config.get("dataset.val_split"), "classes:": len(summary.get("val/iou") or {})}
        parts = {"Data": data, "Steps done": {"": summary.get("steps")}, "Hardware": summary.get("hardware")}
        for name, values in (parts | {"Software": summary.get("versions"), "Source": git}).items():
            known = {key: value for key, value in (values or {}).items() if value not in (None, [])}
            text = ", ".join(f"{key} {shown(value)}".strip() for key, value in known.items())
            found.setdefault(name, Counter())[text] += 1
    return found


# --- warnings -------------------------------------------------------------------------------------------------------


def listed(counted: Mapping[str, int]) -> str:
    """Values, each with the number of runs."""
    ordered = sorted(counted.items(), key=lambda item: (-item[1], item[0]))
    return "; ".join(few([f"{text or 'unknown'} ({n} run{'s' * (n > 1)})" for text, n in ordered]))


def few(texts: Sequence[str], more: str = "and {} more") -> list[str]:
    """The first of many texts."""
    return [*texts[:MOST_TOLD], *([more.format(len(texts) - MOST_TOLD)] if len(texts) > MOST_TOLD else [])]


def differing_settings(study: Study) -> list[str]:
    """Settings that are not swept, and differ all the same."""
    configs = [comparable(run.config) for run in study.runs if run.config]
    found = []
    for key in sorted({key for config in configs for key in config} - {"seed", *study.keys}):
        counted = Counter(shown(config.get(key)) for config in configs)
        if len(counted) > 1:
            pairs = {(json.dumps([c.get(swept) for swept in study.keys]), json.dumps(c.get(key))) for c in configs}
            follows = len(pairs) == len({setting for setting, _ in pairs})  # each setting has one value of the key
            how = "goes with what is swept" if follows else "differs, though it is not swept"
            found.append(f"{key} {how}: {listed(counted)}.")
    return few(found)


def unequal_seeds(study: Study) -> list[str]:
    """Settings whose means are over other seeds than most."""
    seeds = [seeds_text(run for run in members if run.reason is None) for members in study.members]
    counted = Counter(text for text in seeds if text)
    if len(counted) < 2:
        return []
    usual = max(counted, key=lambda text: (counted[text], len(text)))
    others = [f"{label} ({text})" for label, text in zip(study.labels, seeds, strict=True) if text not in ("", usual)]
    return [f"Means are not over the same seeds: most are over {usual}, but not {'; '.join(few(others))}."]
