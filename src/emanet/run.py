"""The jobs behind the scripts: train a network, evaluate a checkpoint."""

import logging
from pathlib import Path

import lightning as L
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from emanet.build import (
    build_datamodule,
    build_network,
    build_task,
    build_trainer,
    instantiate_all,
    prepare_network,
    resolved,
)
from emanet.callbacks import RunProgress
from emanet.callbacks.summary import print_scores
from emanet.config import check
from emanet.errors import ConfigError
from emanet.interop import load_reference_checkpoint
from emanet.network import EMANet
from emanet.task import SegmentationTask
from emanet.tracking import build_loggers
from emanet.weights import load_weights, read_checkpoint

log = logging.getLogger(__name__)


def train(cfg: DictConfig, run_dir: Path) -> float | None:
    """Train as configured; return the mIoU of the final validation, for a sweeper.

    Whatever can be wrong is looked at in order of cost: values, files on disk, weights, devices.
    """
    check(cfg)
    OmegaConf.resolve(cfg)
    L.seed_everything(cfg.seed, workers=True, verbose=False)
    datamodule = build_datamodule(cfg)
    datamodule.prepare_data()
    datamodule.setup("fit")
    net = build_network(cfg.model, datamodule.num_classes)
    if cfg.init_from is not None:
        content = read_checkpoint(cfg.init_from)
        fresh = load_weights(net, content, source=f"init_from={cfg.init_from}", replaceable="fc2.")
        log.info("weights from %s%s", cfg.init_from, f", a new classifier ({', '.join(fresh)})" if fresh else "")
    task = build_task(cfg, prepare_network(cfg, net), datamodule)
    if rank_zero_only.rank == 0:
        run_dir.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(OmegaConf.create(resolved(cfg)), run_dir / "config.yaml")
    loggers = build_loggers(
        resolved(cfg.logger),
        run_dir=run_dir,
        config=resolved(cfg),
        name=run_dir.name,
        group=cfg.name,
        job_type="train",
        tags=list(cfg.tags),
    )
    trainer = build_trainer(cfg, run_dir, callbacks=instantiate_all(cfg.callbacks), loggers=loggers)
    trainer.fit(task, datamodule, ckpt_path=find_checkpoint(cfg.resume))
    miou = trainer.callback_metrics.get("val/miou")
    return None if miou is None else float(miou)


def find_checkpoint(resume: str | None) -> Path | None:
    """The checkpoint to go on from: the one given, or the last one of the run folder given."""
    if resume is None:
        return None
    path = Path(resume).expanduser()
    if path.is_dir():
        path = path / "checkpoints" / "last.ckpt"
    if not path.is_file():
        raise ConfigError(f"resume={resume}: no checkpoint at {path}; the run had not saved one yet: start it again")
    return path


def evaluate(cfg: DictConfig, run_dir: Path) -> dict[str, float]:
    """Evaluate a checkpoint as training validates; print and return the scores.

    The network, the data and the trainer are those stored in the checkpoint, with what the command line overrides.
    """
    check(cfg)
    OmegaConf.resolve(cfg)
    checkpoint = read_checkpoint(cfg.checkpoint)
    if not cfg.dataset:
        raise ConfigError(f"{cfg.checkpoint} does not say what it was trained on: add dataset=NAME")
    if cfg.split is not None:
        cfg.dataset.val_split = cfg.split
    datamodule = build_datamodule(cfg)
    datamodule.prepare_data()
    datamodule.setup("validate")
    net = rebuild_network(cfg, checkpoint, datamodule.num_classes)
    task = SegmentationTask(prepare_network(cfg, net), class_names=datamodule.class_names, max_steps=1)
    trainer = build_trainer(cfg, run_dir, callbacks=[RunProgress()], loggers=[])
    trainer.validate(task, datamodule, verbose=False)
    print_scores(task.metrics.compute(), task.class_names)
    stored = checkpoint.get("validation", {}).get("val/miou")
    print(f"val/miou {task.validation['val/miou']!r}" + (f" (stored: {stored!r})" if stored is not None else ""))
    return task.validation


def rebuild_network(cfg: DictConfig, checkpoint: dict, num_classes: int) -> EMANet:
    """The network of a checkpoint: one of ours, or one in the authors' layout."""
    if "hyper_parameters" not in checkpoint:
        return load_reference_checkpoint(checkpoint)
    cfg.model.pretrained = False  # the checkpoint holds the backbone's weights too
    net = build_network(cfg.model, num_classes)
    load_weights(net, checkpoint, source=str(cfg.checkpoint))
    return net
