"""Circumstances of a study's runs, and warnings where they are not the same for all."""

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from emanet.studies.report.study import MOST_KEYS, Study
from emanet.studies.runs import Run, comparable, cut, natural, shown

MOST_TOLD = 6  # of values, commands, warnings of a kind

#: settings that are told where all runs share them
TOLD = [f"model.{name}" for name in ("backbone", "head", "output_stride", "channels", "K", "T", "momentum", "norm")]
TOLD += ["model.maintenance", "model.gradient", "model.pretrained", "trainer.max_steps", "trainer.precision"]
TOLD += ["dataset.batch_size", "dataset.crop_size", "optim.lr", "optimizer.lr"]


def facts(study: Study) -> dict[str, str]:
    """What a reader needs to know of the runs, in words; of what is not the same for all there are warnings."""
    found = {"Swept": swept_text(study), "Settings": settings_text(study.runs), "Runs": runs_text(study)}
    told = circumstances(study.ended or study.runs)
    found |= {name: column.iloc[0] for name, column in told.items() if column.nunique() == 1}
    return {name: text for name, text in found.items() if text}


def commands(study: Study) -> list[str]:
    """The different commands that started the runs, the commonest first."""
    found = [" ".join(str(run.summary["command"]).split()) for run in study.runs if run.summary.get("command")]
    return few(list(counted(found).index), "# {} more are in runs.csv")


def warnings(study: Study) -> list[str]:
    """Why the figures of a study may not be comparable, one sentence each."""
    told = circumstances(study.ended).items()
    found = [f"{name} is not the same for all runs: {listed(column)}." for name, column in told if column.nunique() > 1]
    again = study.frame.groupby(["setting", "seed"])["run"].agg(list)
    for (setting, seed), names in again[again.map(len) > 1].items():
        found.append(f"{study.labels[setting]}: seed {seed} was run more than once: {', '.join(few(names))}.")
    return differing_settings(study) + found


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
    seconds = pd.Series([run.summary.get("seconds_total") for run in study.ended], dtype=float)
    if seconds.any():
        text += f"; {seconds.median() / 60:.1f} minutes each (median), {seconds.sum() / 3600:.1f} hours in all"
    return text


def circumstances(runs: Iterable[Run]) -> pd.DataFrame:
    """What a result may depend on beside the settings, a row per run."""
    rows = []
    for run in runs:
        config, summary, git = run.config, run.summary, dict(run.summary.get("git") or {})
        git["commit"] = str(git.get("commit"))[:10]
        data = {
            "": config.get("dataset.name") or summary.get("dataset"),
            "validated on": config.get("dataset.val_split"),
        }
        data["classes:"] = len(summary.get("val/iou") or {})
        parts = {"Data": data, "Steps done": {"": summary.get("steps")}, "Hardware": summary.get("hardware")}
        row = {}
        for name, values in (parts | {"Software": summary.get("versions"), "Source": git}).items():
            known = {key: value for key, value in (values or {}).items() if value not in (None, [])}
            row[name] = ", ".join(f"{key} {shown(value)}".strip() for key, value in known.items())
        rows.append(row)
    return pd.DataFrame(rows)


def counted(texts: Iterable[str]) -> pd.Series:
    """How often each text occurs, the commonest first, then by the alphabet."""
    return pd.Series([*texts], dtype=object).value_counts().sort_index().sort_values(ascending=False, kind="stable")


def listed(texts: Iterable[str]) -> str:
    """Texts, each with the number of runs that it is true of."""
    return "; ".join(few([f"{text or 'unknown'} ({n} run{'s' * (n > 1)})" for text, n in counted(texts).items()]))


def few(texts: Sequence[str], more: str = "and {} more") -> list[str]:
    """The first of many texts."""
    return [*texts[:MOST_TOLD], *([more.format(len(texts) - MOST_TOLD)] if len(texts) > MOST_TOLD else [])]


def differing_settings(study: Study) -> list[str]:
    """Settings that are not swept, and differ all the same."""
    configs = [{key: shown(value) for key, value in comparable(run.config).items()} for run in study.runs if run.config]
    frame = pd.DataFrame(configs, dtype=object).fillna("null")
    found = []
    for key in sorted({*frame} - {"seed", *study.keys}):
        if frame[key].nunique() > 1:
            by: list[Any] = [name for name in study.keys if name in frame]
            swept = frame.groupby(by or [True] * len(frame))
            how = "goes with what is swept" if swept[key].nunique().max() == 1 else "differs, though it is not swept"
            found.append(f"{key} {how}: {listed(frame[key])}.")
    return few(found)
