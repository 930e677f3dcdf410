"""The roots of the configuration: which keys there are, beside the nodes whose keys their constructors know.

The values live in conf/. Hydra checks names when it composes; :mod:`emanet.config.rules` refuses keys that were forced
in (``+key``), wrong types and senseless values before anything heavy starts.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf

from emanet.common.errors import ConfigError
from emanet.common.packages import find_package_file

PACKAGE = Path(__file__).resolve().parents[1]
#: the source tree, or the working directory of an installed package
PROJECT_ROOT = PACKAGE.parents[1] if (PACKAGE.parents[1] / "conf" / "train.yaml").is_file() else Path.cwd()
CONF_DIR = str(PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else PROJECT_ROOT / "conf")


@dataclass
class PathsConfig:
    """Folders (group ``paths``)."""

    data_dir: str = MISSING  # where dataset.root lies by default
    runs_dir: str = MISSING  # where run folders lie


@dataclass
class TrainConfig:
    """Root of conf/train.yaml."""

    name: str = MISSING  # of the run: names its folder and its W&B group
    seed: int = MISSING  # of everything random
    init_from: str | None = None  # start from the weights of this checkpoint, with a fresh schedule
    resume: str | None = None  # go on with this run: its folder, or a checkpoint of it; auto: this one, if it was begun
    tags: list[str] = field(default_factory=list)  # for W&B
    study: str | None = None  # the ablation that this run belongs to: a file of conf/sweep/
    swept: list[str] = field(default_factory=list)  # keys whose values tell the runs of a study apart
    T_evals: list[int] = field(default_factory=list)  # EM iterations to evaluate the trained network with as well
    dataset: Any = MISSING  # a data module
    model: Any = MISSING  # the network, with the options of its head
    optimizer: Any = MISSING  # a torch.optim class, and rules for groups of parameters
    scheduler: Any = MISSING  # of the learning rate, per optimizer step
    loss: Any = MISSING
    trainer: Any = MISSING  # Lightning's Trainer and what surrounds it
    logger: dict[str, Any] = field(default_factory=dict)
    callbacks: dict[str, Any] = field(default_factory=dict)
    paths: PathsConfig = MISSING


@dataclass
class CheckpointConfig:
    """What evaluation and prediction share."""

    name: str = MISSING  # of the run: names its folder
    checkpoint: str = MISSING  # file or folder, ours or the authors'
    trust: bool = False  # the checkpoint may name classes that are not ours: it can then run code
    split: str | None = None  # evaluation: null is the split that training validated on; prediction: in place of input
    seed: int = 0
    dataset: Any = MISSING
    model: Any = MISSING
    inference: Any = MISSING
    paths: PathsConfig = MISSING


@dataclass
class EvalConfig(CheckpointConfig):
    """Root of conf/eval.yaml."""

    trainer: Any = MISSING


@dataclass
class PredictConfig(CheckpointConfig):
    """Root of conf/predict.yaml."""

    output: str = MISSING  # folder for the results
    input: str | None = None  # picture, video, folder, or pattern such as 'photos/*.jpg'
    save: list[str] = MISSING  # any of mask, overlay, probabilities, attention
    attention_bases: int | None = MISSING  # bases on a sheet of attention maps; null: all
    submission: str | None = None  # also write and check an archive for the server: voc | cityscapes | ade20k
    batch_size: int = MISSING  # pictures of one size, or frames, predicted together
    device: str = MISSING  # auto | cpu | cuda | cuda:1 | ...


@dataclass
class ComplexityConfig:
    """Root of conf/complexity.yaml."""

    name: str = MISSING
    size: Any = MISSING  # of the image: one number, or [height,width]
    num_classes: int = MISSING
    heads: bool = MISSING  # also what every head would cost
    json: str | None = MISSING  # file for the rows; null: only the table
    model: Any = MISSING


@dataclass
class DashboardConfig:
    """Root of conf/dashboard.yaml."""

    study: str | None = None  # a file of conf/sweep/
    project: str = MISSING  # of the runs in W&B, and of the dashboard
    entity: str | None = None  # user or team; null: the default one of the API key
    output: str | None = None  # write the specification to this file in place of W&B
    paths: PathsConfig = MISSING


@dataclass
class SearchConfig:
    """Root of conf/search.yaml."""

    n_trials: int = MISSING  # in all, those of an interrupted search included
    timeout: float | None = MISSING  # seconds after which no further trial starts
    seed: int = MISSING  # of the sampler
    startup_trials: int = MISSING  # drawn at random, and never stopped early
    warmup_steps: int = MISSING  # optimizer steps before which no trial is stopped
    output: str | None = MISSING  # folder of the search
    space: list[dict[str, Any]] = MISSING  # {key, choices} or {key, low, high, log}
    train: list[str] = MISSING  # overrides of every trial's training


@dataclass
class PrepareConfig:
    """Root of conf/prepare.yaml."""

    dataset: Any = MISSING  # a benchmark, of which name and root count, or all: every one below paths.data_dir
    source: str | None = None  # folder or address that holds the archives; null: their own addresses
    parts: list[str] | None = None  # archives to take; null: all
    dry_run: bool = False  # only say what would be done, and what disk it needs
    strict_counts: bool = True  # a split of another size than published is an error
    keep_archives: bool = False  # keep fetched archives once all is unpacked and checked
    paths: PathsConfig = MISSING


@dataclass
class InspectConfig:
    """Root of conf/inspect_data.yaml."""

    name: str = MISSING  # of the run: names its folder
    dataset: Any = MISSING
    split: str | None = None  # null: the split that training uses
    limit: int | None = None  # masks that are read for the figures, evenly spaced; null: all
    pictures: int = MISSING  # images on the contact sheet
    seed: int = 0  # of the choice of pictures
    paths: PathsConfig = MISSING


@dataclass
class ReportConfig:
    """Root of conf/report.yaml."""

    runs: Any = None  # folder below which runs lie, or a runs.jsonl; or a list of such
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
    corruptions: dict[str, Any] = MISSING  # strengths of each
    split: str | None = None  # null: the split that training validated on
    root: str | None = None  # folder of the data set; null: where it lay in training
    accelerator: str | None = None  # null: as in training, where there is one
    seed: int = 0  # of the noise
    paths: PathsConfig = MISSING


ROOTS: dict[str, type] = {
    "train": TrainConfig,
    "eval": EvalConfig,
    "predict": PredictConfig,
    "complexity": ComplexityConfig,
    "dashboard": DashboardConfig,
    "search": SearchConfig,
    "prepare": PrepareConfig,
    "inspect": InspectConfig,
    "report": ReportConfig,
    "robustness": RobustnessConfig,
}


def register() -> None:
    """Make the roots known to Hydra; called once by every script."""
    store = ConfigStore.instance()
    for name, root in ROOTS.items():
        store.store(name=f"{name}_schema", node=root)
    store.store(group="dataset", name="all", node={"name": "all", "root": None})  # of prepare.py


def last_checkpoint(runs_dir: str, name: str) -> str:
    """Last checkpoint of the newest run of a name; where there is none, a path that says what was looked for."""
    found = (Path(runs_dir) / name).glob("*/checkpoints/last.ckpt")
    pattern = Path(runs_dir) / name / "*" / "checkpoints" / "last.ckpt"
    return str(max(found, key=lambda path: path.stat().st_mtime, default=pattern))


def package_file(package: str, relative: str) -> str:
    """Path of a file inside an installed package, which is not imported.

    Raises:
        ConfigError: if the package or the file is not there.
    """
    path = find_package_file(package, relative)
    if path is not None:
        return str(path)
    raise ConfigError(f"no file {relative} in package {package!r}: pip install 'emanet[quickstart]'")


# When this module is imported, not by register(): a job that submitit sends to a cluster runs no script.
OmegaConf.register_new_resolver("project_root", lambda: str(PROJECT_ROOT), replace=True)
OmegaConf.register_new_resolver("package_file", package_file, replace=True)
OmegaConf.register_new_resolver("last_checkpoint", last_checkpoint, replace=True)
OmegaConf.register_new_resolver("gradient_for", lambda kind: "full" if kind == "backprop" else "none", replace=True)
