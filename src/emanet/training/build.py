"""From configuration to objects: the one place that knows both. Everything built here takes values, never a node."""

import logging
import os
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint, ProgressBar
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf

from emanet.common.errors import ConfigError
from emanet.config.instantiate import call_target, instantiate_all, resolved
from emanet.data.datamodule import SegmentationDataModule
from emanet.inference.views import Inference
from emanet.model.backbone import input_statistics
from emanet.model.network import EMANet
from emanet.training.checkpoint_io import SafeCheckpointIO
from emanet.training.distributed import ddp_strategy
from emanet.training.task import SegmentationTask

log = logging.getLogger(__name__)


def build_datamodule(cfg: DictConfig) -> SegmentationDataModule:
    """The data module, with the input statistics of the configured backbone; its files are not looked at yet."""
    try:
        mean, std = input_statistics(cfg.model.backbone)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    extra = [instantiate_all(node) for node in cfg.dataset.extra_transforms or []]
    dataset = OmegaConf.masked_copy(cfg.dataset, [key for key in cfg.dataset if key != "name"])  # a label of the group
    return call_target(dataset, extra_transforms=extra, mean=mean, std=std, seed=cfg.seed)


def build_inference(options: DictConfig) -> Inference:
    """How images are looked at, from the group ``inference``."""
    try:
        return call_target(options)
    except ConfigError as error:
        raise ConfigError(f"inference: {str(error).removeprefix('Inference: ')}") from error


def build_task(cfg: DictConfig, net: EMANet, datamodule: SegmentationDataModule) -> SegmentationTask:
    """The training task; stores the resolved configuration in its checkpoints."""
    weights = cfg.loss.class_weights
    if weights is not None and len(weights) != datamodule.num_classes:
        raise ConfigError(
            f"loss.class_weights must hold one weight for each of {datamodule.num_classes} classes, got {len(weights)}"
        )
    return SegmentationTask(
        net,
        class_names=datamodule.class_names,
        max_steps=cfg.trainer.max_steps,
        lr=cfg.optim.lr,
        sgd_momentum=cfg.optim.momentum,
        weight_decay=cfg.optim.weight_decay,
        backbone_lr_factor=cfg.optim.backbone_lr_factor,
        poly_power=cfg.optim.poly_power,
        lr_refresh=cfg.optim.lr_refresh,
        fused=cfg.optim.fused,
        reduction=cfg.loss.reduction,
        upsample=cfg.loss.upsample,
        class_weights=None if weights is None else list(weights),
        ohem_threshold=cfg.loss.ohem_threshold,
        ohem_min_kept=cfg.loss.ohem_min_kept,
        ignore_index=datamodule.ignore_index,
        seed=cfg.seed,
        palette=datamodule.palette.tolist(),
        config=resolved(cfg),
    )


def build_trainer(cfg: DictConfig, run_dir: Path, *, callbacks: list[L.Callback], loggers: list[Logger]) -> L.Trainer:
    """Lightning's Trainer with atomic checkpoints; it counts in optimizer steps, not in epochs."""
    silence_known_warnings()
    options = {str(key): value for key, value in resolved(cfg.trainer).items()}
    torch.set_float32_matmul_precision(options.pop("matmul_precision"))
    for key in ("channels_last", "compile", "cuda_graphs"):  # concern the network: see prepare_network
        options.pop(key)
    options["val_check_interval"] = options.pop("val_every_n_steps") * options["accumulate_grad_batches"]
    options["precision"] = pick_precision(options["precision"])
    on_cuda = options["accelerator"] in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    if cfg.trainer.cuda_graphs and not on_cuda:
        raise ConfigError("trainer.cuda_graphs=true needs a CUDA device, and none is used: set it to false")
    available = torch.cuda.device_count() if on_cuda else 1
    many = count_devices(options["devices"], available) * options["num_nodes"] > 1
    if options["sync_batchnorm"] is None:
        options["sync_batchnorm"] = many and on_cuda
    if many or options["strategy"] == "ddp":
        options["strategy"] = ddp_strategy()
    plugins: list[Any] = [SafeCheckpointIO()]
    try:
        if SLURMEnvironment.detect() and "TORCHELASTIC_RUN_ID" not in os.environ:
            # Lightning's own requeueing saves inside the signal handler, and waits for ever for a slow device
            plugins.append(SLURMEnvironment(auto_requeue=False))
        return L.Trainer(
            **options,
            max_epochs=-1,
            check_val_every_n_epoch=None,
            use_distributed_sampler=False,  # the data module shards: evaluation must not repeat images
            enable_model_summary=False,
            enable_progress_bar=any(isinstance(callback, ProgressBar) for callback in callbacks),
            enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
            callbacks=callbacks,
            logger=loggers,
            plugins=plugins,
            default_root_dir=run_dir,
        )
    except (ValueError, TypeError, RuntimeError, MisconfigurationException) as error:
        raise ConfigError(f"trainer: {error}") from error


def count_devices(devices: Any, available: int) -> int:
    """Number of devices that Lightning's ``devices`` asks for: a number, a list, or all (``auto`` and -1)."""
    if isinstance(devices, list):
        return len(devices)
    if str(devices) in ("auto", "-1"):
        return available
    text = str(devices)
    return len(text.strip(",").split(",")) if "," in text else int(text)


def prepare_network(cfg: DictConfig, net: EMANet) -> EMANet:
    """Memory format and compilation, in place."""
    if cfg.trainer.channels_last:
        net.to(memory_format=torch.channels_last)
    if cfg.trainer.compile:
        # In place: a wrapper would rename every key of the checkpoint. A graph is recorded for each shape, so images
        # of any size, as in validation, run without.
        graphs = {"triton.cudagraphs": True, "triton.cudagraph_skip_dynamic_graphs": True}
        net.compile(options=graphs if cfg.trainer.cuda_graphs else None)
    return net


def pick_precision(precision: str) -> str:
    """``auto`` is bfloat16 where the hardware multiplies it natively, else float32."""
    if precision != "auto":
        return precision
    if torch.cuda.is_available():
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = has_cpu_bfloat16()
    return "bf16-mixed" if native else "32-true"


def has_cpu_bfloat16() -> bool:
    """Whether this CPU has bfloat16 matrix instructions."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def silence_known_warnings() -> None:
    """Leave out Lightning's notices and warnings that are wrong or useless here; each with its reason."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        lightning_log = logging.getLogger(name)
        lightning_log.handlers.clear()  # Hydra's console shows them already
        lightning_log.setLevel(logging.WARNING)  # which devices there are not, ranks, and advertisements
    for message in (
        ".*recommended to use `self.log.*sync_dist=True.*",  # scores are reduced inside the metric, in int64
        ".*number of training batches .* is smaller than the logging interval.*",  # steps count here, not epochs
        ".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*",  # Lightning's own use of torch
        ".*The `srun` command is available.*",  # said on every workstation with Slurm's client
        ".*does not have many workers.*",  # dataset.num_workers is the user's choice
        ".*Checkpoint directory .* exists and is not empty.*",  # a resumed run goes on in its own folder
        ".*lr_scheduler.step.*before.*optimizer.step.*",  # a skipped float16 step
    ):
        warnings.filterwarnings("ignore", message)
