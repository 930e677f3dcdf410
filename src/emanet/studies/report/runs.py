"""One run as a report sees it, read from its folder, from a summary, or from a line of ``runs.jsonl``."""

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from emanet.common.errors import ConfigError, EMANetError
from emanet.common.files import read_json
from emanet.studies.report.portable import portable, portable_text
from emanet.studies.study import CONFIG, DECISIVE, EVALUATIONS, FAILURE, INCIDENTAL, SUMMARY, flat, natural

log = logging.getLogger(__name__)

KEPT = (*DECISIVE, "name", "study", "swept")  # sections of a configuration that a report keeps


@dataclass(frozen=True)
class Run:
    """A run, finished or not, without anything that belongs to a machine.

    Args:
        name: its folder below the place where it was looked for.
        config: what decides its result, keys joined by dots.
        summary: what ``summary.json`` says; empty if the run left none.
        evaluations: scores of the same checkpoint under other settings: ``{"T_eval": {"1": {"val/miou": ...}}}``.
        failure: why its job failed, if it left that.
        costs: of its head for one image, see :func:`emanet.studies.report.costs.head_costs`.
        default: what the swept keys are without the sweep.
    """

    name: str
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    evaluations: dict[str, Any] = field(default_factory=dict)
    failure: str | None = None
    costs: dict[str, Any] | None = None
    default: dict[str, Any] | None = None

    @property
    def experiment(self) -> str:
        """Name that the run was started under."""
        return str(self.config.get("name") or self.summary.get("name") or self.name)

    @property
    def study(self) -> str | None:
        """The study that it belongs to."""
        return self.config.get("study")

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
        """mIoU of the last validation."""
        return self.summary.get("val/miou")

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
    """The runs at each place: a folder with runs at any depth, a ``runs.jsonl``, or the summary of one run.

    Raises:
        ConfigError: for a place that does not exist, or holds no run.
    """
    found: dict[Path | int, Run] = {}
    for place in places:
        path = Path(place).expanduser()
        here = read_place(path)
        if not here:
            raise ConfigError(f"runs={place}: no runs there; give a folder below which runs lie (summary.json)")
        for source, run in here:
            found.setdefault(len(found) if source is None else source, run)  # a folder named twice is read once
    return list(found.values())


def ordered(runs: Iterable[Run]) -> list[Run]:
    """The runs by name; of one name, always in the same order."""
    return sorted(runs, key=lambda run: (natural(run.name), run_line(run)))


def read_place(path: Path) -> list[tuple[Path | None, Run]]:
    """Runs at one place, each with its folder where it has one."""
    if path.suffix == ".jsonl" and path.is_file():
        return [(None, run) for run in read_lines(path)]
    if path.is_file():
        return [(path.resolve(), read_summary(path))]
    if not path.is_dir():
        raise ConfigError(f"runs={path}: no such folder or file")
    files = (file for name in (SUMMARY, CONFIG, FAILURE) for file in path.rglob(name))
    folders = sorted({file.parent for file in files if file.parent.name != ".hydra"})
    runs = [(folder.resolve(), read_run(folder, below(folder, path))) for folder in folders]
    trained: list[tuple[Path | None, Run]]
    trained = [(folder, run) for folder, run in runs if "checkpoint" not in run.summary]
    if len(trained) < len(runs):
        log.info("%s: %d folders are no training runs and are left out", path, len(runs) - len(trained))
    return trained


def below(folder: Path, place: Path) -> str:
    """Name of a run: its folder below the place, or the folder's own name."""
    return folder.name if folder == place else folder.relative_to(place).as_posix()


def read_run(folder: Path, name: str) -> Run:
    """The run in a folder, whatever state it is in."""
    failure = read_json(folder / FAILURE)
    return Run(
        name=name,
        config=kept(read_config(folder)),
        summary=portable(read_json(folder / SUMMARY) or {}),
        evaluations=portable(read_json(folder / EVALUATIONS) or {}),
        failure=None if failure is None else portable_text(str(failure.get("error"))),
    )


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration of a run, flat: the resolved one, or what Hydra stored of a job that failed before it.

    What is damaged, because the run was killed, counts as missing.
    """
    for path in (folder / CONFIG, folder / ".hydra" / CONFIG):
        try:
            cfg = OmegaConf.load(path)
        except (OSError, yaml.YAMLError):
            continue
        if OmegaConf.is_dict(cfg) and len(cfg):
            return flat({section: section_of(cfg, section) for section in KEPT if section in cfg})
    return {}


def section_of(cfg: Any, section: str) -> Any:
    """A part of a configuration as plain containers; as it is written, where it cannot be resolved."""
    try:
        value = cfg[section]
        return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
    except (OmegaConfBaseException, EMANetError):
        return OmegaConf.to_container(cfg, resolve=False)[section]  # type: ignore[index, call-overload]


def kept(config: Mapping[str, Any]) -> dict[str, Any]:
    """Of a flat configuration, what a report shows or compares."""
    return portable({key: value for key, value in sorted(config.items()) if key.partition(".")[0] in KEPT})


def read_summary(path: Path) -> Run:
    """The run of a single summary, such as those in ``docs/runs``.

    Raises:
        ConfigError: if it is none.
    """
    content = read_json(path)
    if content is None or "status" not in content:
        raise ConfigError(f"{path}: no summary of a run (a JSON object with status and val/miou)")
    return Run(name=path.stem, summary=portable(content))


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
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            runs.append(Run(**json.loads(line)))
        except (ValueError, TypeError) as error:
            raise ConfigError(f"{path}, line {number}: no run ({error}); make the file anew from the runs") from error
    return runs


def parse_setting(words: Iterable[str]) -> dict[str, Any]:
    """``KEY=VALUE`` as a configuration file reads the value.

    Raises:
        ConfigError: for words of another form.
    """
    setting = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not (key and equals):
            raise ConfigError(f"baseline holds KEY=VALUE such as model.K=64, got {word!r}")
        setting[key] = yaml.safe_load(value)
    return setting


def with_defaults(runs: Sequence[Run], defaults: Mapping[str, Any]) -> list[Run]:
    """The runs, with other values of the default cell."""
    return [replace(run, default=(run.default or {}) | dict(defaults)) for run in runs] if defaults else list(runs)


def comparable(config: Mapping[str, Any]) -> dict[str, Any]:
    """Of a run's configuration, what decides its result."""
    sections = {key: value for key, value in config.items() if key.partition(".")[0] in DECISIVE}
    return {key: value for key, value in sections.items() if key not in INCIDENTAL}
