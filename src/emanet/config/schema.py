"""The configuration's schema: type and meaning of every key. The values live in conf/.

Hydra checks names and types when it composes; :mod:`emanet.config.rules` refuses senseless values before anything heavy
starts.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf

from emanet.common.errors import ConfigError
from emanet.common.packages import find_package_file

PROJECT_ROOT = Path(__file__).resolve().parents[3]
CONF_DIR = str(PROJECT_ROOT / "conf")


@dataclass
class OptimConfig:
    """SGD and its schedule (group ``optim``)."""

    lr: float = MISSING  # base rate; biases run at twice it
    momentum: float = MISSING  # optimizer: share of the old step direction
    weight_decay: float = MISSING  # of convolution weights only
    backbone_lr_factor: float = MISSING  # the backbone's share of the rate; 1 is the authors'
    poly_power: float = MISSING  # rate = lr * (1 - step / max_steps) ** poly_power
    lr_refresh: int = MISSING  # steps between refreshes of the rate
    fused: bool | None = MISSING  # update all parameters in one kernel; null: on CUDA, except in 16-mixed


@dataclass
class LossConfig:
    """The loss (group ``loss``)."""

    reduction: str = MISSING  # all_pixels (the authors': ignored pixels count in the mean) | valid_pixels
    upsample: str = MISSING  # of the logits: auto | full (beforehand) | blocks (never at full size)
    class_weights: list[float] | None = MISSING  # one per class; null: 1
    ohem_threshold: float | None = MISSING  # keep pixels whose true class is less probable; null: all
    ohem_min_kept: int = MISSING  # but at least this many per device batch


@dataclass
class TrainerConfig:
    """Lightning's Trainer and what surrounds it (group ``trainer``)."""

    accelerator: str = MISSING  # auto | cpu | gpu
    devices: Any = MISSING  # number, list or auto
    num_nodes: int = MISSING
    strategy: str = MISSING  # auto | ddp
    precision: str = MISSING  # 32-true | bf16-mixed | 16-mixed | 64-true | auto (bf16-mixed where hardware has it)
    max_steps: int = MISSING  # optimizer steps
    accumulate_grad_batches: int = MISSING  # batches per optimizer step
    gradient_clip_val: float | None = MISSING  # largest gradient norm; null: no clipping
    val_every_n_steps: int = MISSING  # optimizer steps between validations
    limit_train_batches: Any = MISSING  # per epoch: a number, a share, or null for all
    limit_val_batches: Any = MISSING
    num_sanity_val_steps: int = MISSING
    log_every_n_steps: int = MISSING
    sync_batchnorm: bool | None = MISSING  # null: on where CUDA and more than one device
    deterministic: bool = MISSING  # refuse non-deterministic kernels
    benchmark: bool | None = MISSING  # let cuDNN try kernels
    channels_last: bool = MISSING  # memory format of network and images
    compile: bool = MISSING  # torch.compile the network
    cuda_graphs: bool = MISSING  # of the compiled network: replay its kernels instead of launching each
    matmul_precision: str = MISSING  # of float32 products: highest | high | medium
    profiler: str | None = MISSING  # simple | advanced | pytorch
    detect_anomaly: bool = MISSING


@dataclass
class InferenceConfig:
    """How images are looked at (group ``inference``): the arguments of :class:`emanet.inference.Inference`."""

    _target_: str = MISSING
    scales: list[float] = MISSING  # factors of the image's sides; probabilities are averaged over them
    flip: bool = MISSING  # look at the mirrored image as well
    window: int | None = MISSING  # side in pixels of sliding windows; null: whole images
    stride: int | None = MISSING  # pixels between windows; null: two thirds of the window


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
    dataset: Any = MISSING
    model: Any = MISSING
    optim: OptimConfig = MISSING
    loss: LossConfig = MISSING
    trainer: TrainerConfig = MISSING
    logger: dict[str, Any] = field(default_factory=dict)
    callbacks: dict[str, Any] = field(default_factory=dict)
    paths: PathsConfig = MISSING


@dataclass
class EvalConfig:
    """Root of conf/eval.yaml."""

    name: str = MISSING  # of the run: names its folder
    checkpoint: str = MISSING  # of a run, or in the authors' layout
    split: str | None = None  # null: the split that training validated on
    seed: int = 0
    dataset: Any = MISSING
    model: Any = MISSING
    trainer: TrainerConfig = MISSING
    inference: InferenceConfig = MISSING
    paths: PathsConfig = MISSING


@dataclass
class PredictConfig:
    """Root of conf/predict.yaml."""

    name: str = MISSING
    checkpoint: str = MISSING  # file or folder, ours or the authors'
    output: str = MISSING  # folder for the results
    input: str | None = None  # picture, video, folder, or pattern such as 'photos/*.jpg'
    split: str | None = None  # in place of input: a split of the data set
    save: list[str] = MISSING  # any of mask, overlay, probabilities, attention
    attention_bases: int | None = MISSING  # bases on a sheet of attention maps; null: all
    submission: str | None = None  # also write and check an archive for the server: voc | cityscapes | ade20k
    batch_size: int = MISSING  # pictures of one size, or frames, predicted together
    device: str = MISSING  # auto | cpu | cuda | cuda:1 | ...
    seed: int = 0
    dataset: Any = MISSING
    model: Any = MISSING
    inference: InferenceConfig = MISSING
    paths: PathsConfig = MISSING


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


def register() -> None:
    """Make the schema known to Hydra; called once by every script."""
    store = ConfigStore.instance()
    store.store(name="train_schema", node=TrainConfig)
    store.store(name="eval_schema", node=EvalConfig)
    store.store(name="predict_schema", node=PredictConfig)
    store.store(name="complexity_schema", node=ComplexityConfig)
    store.store(name="search_schema", node=SearchConfig)
    store.store(name="dashboard_schema", node=DashboardConfig)
    OmegaConf.register_new_resolver("last_checkpoint", last_checkpoint, replace=True)


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
    raise ConfigError(f"no file {relative} in package {package!r}: install it with  pip install -e '.[quickstart]'")


# When this module is imported, not by register(): a job that submitit sends to a cluster runs no script.
OmegaConf.register_new_resolver("project_root", lambda: str(PROJECT_ROOT), replace=True)
OmegaConf.register_new_resolver("package_file", package_file, replace=True)
OmegaConf.register_new_resolver("gradient_for", lambda kind: "full" if kind == "backprop" else "none", replace=True)
