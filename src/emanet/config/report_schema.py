"""Schema of conf/report.yaml and conf/robustness.yaml: type and meaning of every key."""

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from emanet.common.processes import quote
from emanet.config.schema import PathsConfig


@dataclass
class ReportConfig:
    """Root of conf/report.yaml."""

    runs: Any = None  # folder below which runs lie, a runs.jsonl, a summary; or a list of such
    wandb: str | None = None  # also the runs of this W&B project: entity/project
    output: str | None = None  # folder for what is written; null: report/ in the first folder of runs
    page: str | None = None  # place of the Markdown page; null: report.md in the output folder
    title: str = MISSING  # of the page
    notes: str | None = None  # Markdown file with words on the findings: for the top, and under ## STUDY for a study
    baseline: list[str] = field(default_factory=list)  # default setting, KEY=VALUE; else what the command gives
    formats: list[str] = MISSING  # of the figures: svg | png | pdf; the page shows the first that browsers show


@dataclass
class RobustnessConfig:
    """Root of conf/robustness.yaml."""

    name: str = MISSING  # of the run: names its folder
    checkpoints: Any = None  # files, or a pattern such as 'runs/sweep_head/*/checkpoints/best.ckpt'
    label: str | None = None  # key of the stored configuration that tells networks apart; null: name of the run
    corruptions: dict[str, Any] = MISSING  # strengths of each: see src/emanet/data/corruptions.py
    split: str | None = None  # null: the split that training validated on
    root: str | None = None  # folder of the data set; null: where it lay in training
    accelerator: str | None = None  # null: as in training, where there is one
    seed: int = 0  # of the noise
    paths: PathsConfig = MISSING


def register_report_schemas(argv: list[str]) -> list[str]:
    """Make both known to Hydra; quotes paths, since Hydra's grammar has its own use for ``=`` and blanks."""
    store = ConfigStore.instance()
    store.store(name="report_schema", node=ReportConfig)
    store.store(name="robustness_schema", node=RobustnessConfig)
    return [argv[0], *map(quoted, argv[1:])]


#: keys that hold paths
PATHS = ("runs", "output", "page", "notes", "checkpoints", "root")


def quoted(argument: str) -> str:
    """An argument as Hydra takes it; one with quotes in it is taken as it is."""
    key, equals, value = argument.partition("=")
    if key not in PATHS or not equals or value in ("", "null") or "'" in value or '"' in value:
        return argument
    if value.startswith("[") and value.endswith("]"):
        items = [item.strip() for item in value[1:-1].split(",") if item.strip()]
        return f"{key}=[{','.join(map(quote, items))}]"
    return f"{key}={quote(value)}"
