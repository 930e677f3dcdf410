"""Runs as their files tell them: what each was, what came of it, or why nothing did."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from emanet.common.errors import ConfigError
from emanet.common.files import read_json
from emanet.studies.portable import portable, portable_text

#: parts of a configuration that decide the result of a run; the others say where things lie and who is told
#: (optim: the optimizer and its schedule in runs of before they were groups)
DECISIVE = ("seed", "init_from", "dataset", "model", "optim", "optimizer", "scheduler", "loss", "trainer", "T_evals")
#: but these only say how the work is done
INCIDENTAL = [f"dataset.{key}" for key in ("root", "num_workers", "persistent_workers", "pin_memory", "cache")]
KEPT = (*DECISIVE, "name", "study", "swept")  # what a report keeps of a configuration
NUMBERS = ("val/miou", "val/pixel_accuracy", "val/mean_accuracy", "images_per_second", "seconds_total")  # of a summary
MAPPINGS = ("git", "hardware", "parameters", "val/iou", "versions")

SUMMARY, CONFIG, EVALUATIONS, FAILURE = "summary.json", "config.yaml", "evaluations.json", "failure.json"


@dataclass(frozen=True)
class Run:
    """A run, finished or not, without anything that belongs to a machine.

    Args:
        name: its folder below the place where it was looked for.
        config: what decides its result, keys joined by dots; nothing in it is resolved.
        summary: what ``summary.json`` says; empty if the run left none.
        evaluations: scores of the same checkpoint under other settings: ``{"T_eval": {"1": {"val/miou": ...}}}``.
        failure: why its job failed, if it left that.
        default: what the swept keys are without the sweep.
    """

    name: str
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    evaluations: dict[str, Any] = field(default_factory=dict)
    failure: str | None = None
    default: dict[str, Any] | None = None

    @property
    def experiment(self) -> str:
        """Name that the run was started under."""
        return str(self.config.get("name") or self.summary.get("name") or self.name)

    @property
    def study(self) -> str | None:
        """The study that it belongs to."""
        return None if self.config.get("study") is None else str(self.config["study"])

    @property
    def keys(self) -> tuple[str, ...]:
        """Swept keys without the seed."""
        return tuple(key for key in self.config.get("swept") or [] if key != "seed")

    @property
    def seed(self) -> Any:
        """Seed of everything random."""
        return self.config.get("seed", self.summary.get("seed"))

    @property
    def miou(self) -> float | None:
        """mIoU of the last validation, 0..1."""
        return self.summary.get("val/miou")

    @property
    def evaluated(self) -> dict[str, Any]:
        """Scores of the trained network by the number of EM iterations in evaluation."""
        return self.evaluations.get("T_eval", {})

    @property
    def reason(self) -> str | None:
        """Why the run has no result; ``None`` for one that has finished."""
        status = self.summary.get("status")
        if self.failure is not None:
            return self.failure
        if not self.summary:
            return "no summary: it ended before its first step, or has not come to it"
        if status == "running":
            steps, planned = self.summary.get("steps"), self.config.get("trainer.max_steps")
            return f"step {steps} of {planned}: it is running, or was killed"
        if status != "finished":
            return f"{status}: {self.summary.get('error') or 'it did not say why'}"
        return "it was not validated" if self.miou is None else None


def gather(places: Iterable[str | Path]) -> list[Run]:
    """The runs at each place: a folder with runs at any depth, or a ``runs.jsonl``; a folder named twice is read once.

    Raises:
        ConfigError: for a place that does not exist, or holds no run.
    """
    found: dict[Any, Run] = {}
    for place in places:
        here = read_place(Path(place).expanduser())
        if not here:
            raise ConfigError(f"runs={place}: no runs there; give a folder below which runs lie (summary.json)")
        found = here | found
    return ordered(found.values())


def ordered(runs: Iterable[Run]) -> list[Run]:
    """The runs by name; of one name, always in the same order."""
    return sorted(runs, key=lambda run: (natural(run.name), run_line(run)))


def read_place(path: Path) -> dict[Any, Run]:
    """Runs at one place, each by its folder or line; evaluations of checkpoints are left out."""
    if path.suffix == ".jsonl" and path.is_file():
        return {run_line(run): run for run in read_lines(path)}
    if not path.is_dir():
        raise ConfigError(f"runs={path}: no such folder, or runs.jsonl")
    files = (file for name in (SUMMARY, CONFIG, FAILURE) for file in path.rglob(name))
    folders = {file.parent for file in files if file.parent.name != ".hydra"}
    runs = {folder.resolve(): read_run(folder, folder.relative_to(path).as_posix()) for folder in folders}
    return {folder: run for folder, run in runs.items() if "checkpoint" not in run.summary}


def read_run(folder: Path, name: str) -> Run:
    """The run in a folder, whatever state it is in."""
    try:
        failure = read_json(folder / FAILURE)
        return checked(
            name=folder.name if name == "." else name,
            config=read_config(folder),
            summary=read_json(folder / SUMMARY),
            evaluations=read_json(folder / EVALUATIONS),
            failure=None if failure is None else failure.get("error"),
        )
    except RecursionError:
        return checked(name, failure="its files are nested too deeply to be read")


def checked(
    name: str,
    config: Any = None,
    summary: Any = None,
    evaluations: Any = None,
    failure: Any = None,
    default: Any = None,
) -> Run:
    """A run of what its files say, which anybody may have written: what is not of the kind that is meant is left."""
    kinds: dict[str, Any] = dict.fromkeys(NUMBERS, (int, float, type(None))) | dict.fromkeys(
        MAPPINGS, (dict, type(None))
    )
    found, tried = portable(summary or {}), portable(evaluations or {}).get("T_eval")
    scores = {T: each for T, each in tried.items() if isinstance(each, dict)} if isinstance(tried, dict) else {}
    return Run(
        name=name.encode("utf-8", "replace").decode(),
        config=kept(config or {}),
        summary={key: value for key, value in found.items() if isinstance(value, kinds.get(key, object))},
        evaluations={"T_eval": scores} if scores else {},
        failure=None if failure is None else portable_text(str(failure)),
        default=portable(default),
    )


def read_config(folder: Path, names: Sequence[str] = (CONFIG, f".hydra/{CONFIG}")) -> Mapping[str, Any]:
    """The configuration of a run as it is written, or what Hydra stored of a job that failed before that.

    Nothing is resolved: ``${oc.env:NAME}`` stays text. What is damaged, because the run was killed, counts as missing.
    """
    for name in names:
        try:
            config: Any = OmegaConf.to_container(OmegaConf.load(folder / name), resolve=False)
        except (OSError, ValueError, yaml.YAMLError, OmegaConfBaseException):
            continue
        if isinstance(config, dict) and config:
            return config
    return {}


def kept(config: Mapping[str, Any]) -> dict[str, Any]:
    """Of a configuration, nested or flat, what a report shows or compares; a name that refers to a key is looked up."""
    values = flat(config)
    reference = re.fullmatch(r"\$\{([\w.]+)\}", str(values.get("name")))
    if reference:
        values["name"] = values.get(reference[1])
    if "swept" in values:
        swept = values["swept"] if isinstance(values["swept"], list) else []
        values["swept"] = [key for key in swept if isinstance(key, str)]
    return portable({key: values[key] for key in sorted(values) if key.partition(".")[0] in KEPT})


def flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with its keys joined by dots; lists are values."""
    values: dict[str, Any] = {}
    for key, node in config.items():
        below = flat(node) if isinstance(node, Mapping) else None
        values |= {str(key): node} if below is None else {f"{key}.{name}": value for name, value in below.items()}
    return values


def comparable(config: Mapping[str, Any]) -> dict[str, Any]:
    """Of a configuration, nested or flat, what decides a result."""
    values = flat(config)
    return {key: values[key] for key in values if key.partition(".")[0] in DECISIVE and key not in INCIDENTAL}


def run_line(run: Run) -> str:
    """A run as one line of JSON."""
    content = {key: value for key, value in asdict(run).items() if value not in (None, {})}
    return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def read_lines(path: Path) -> list[Run]:
    """The runs of a ``runs.jsonl``.

    Raises:
        ConfigError: naming the line that is none.
    """
    runs = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        try:
            runs += [checked(**json.loads(line))] if line.strip() else []
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise ConfigError(f"{path}, line {number}: no run ({error}); make the file anew from the runs") from error
    return runs


def natural(text: str) -> list[tuple[int, str]]:
    """Sort key that takes digits as numbers."""
    parts = re.findall(r"\d+|\D+", text)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def shown(value: Any) -> str:
    """A value as a configuration file spells it."""
    if isinstance(value, float):
        return f"{value:.10g}"  # 0.1, not 0.10000000000000001
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def setting_text(keys: Sequence[str], values: Sequence[Any]) -> str:
    """A setting in words: ``K=64, T=3``."""
    return ", ".join(f"{short(key)}={shown(value)}" for key, value in zip(keys, values, strict=True))


def short(key: str) -> str:
    """Last part of a key, unless that alone would say too little."""
    section, _, leaf = key.rpartition(".")
    return leaf if section in ("model", "") else key


def cut(text: str, most: int = 60) -> str:
    """A text on one line, without its middle where it has more letters than allowed."""
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most // 2]} … {text[-(most // 2 - 3) :]}"
