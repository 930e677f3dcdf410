"""From the settled configuration to the objects of a training or an evaluation, one function for each."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from lightning.pytorch.loggers import Logger

from emanet.checkpoints.restore import Stored, check_classes, restore_network
from emanet.common.errors import ConfigError
from emanet.config.instantiate import build
from emanet.data.datamodule import SegmentationDataModule
from emanet.inference.views import PLAIN, Inference
from emanet.model.backbone import input_statistics
from emanet.model.network import EMANet
from emanet.training.losses import LossTerms
from emanet.training.optimizers import GroupedOptimizer
from emanet.training.task import SegmentationTask
from emanet.training.trainer import TrainerSetup

Config = Mapping[str, Any]


def build_data(cfg: Config, stage: str) -> SegmentationDataModule:
    """The data module, with the input statistics of the configured backbone and the files of a stage looked at.

    Raises:
        ConfigError: for values that make no sense.
        DatasetError: for files that are missing.
    """
    try:
        mean, std = input_statistics(cfg["model"]["backbone"])
    except ValueError as error:
        raise ConfigError(str(error)) from error
    node = {key: value for key, value in cfg["dataset"].items() if key != "name"}  # a label of the group
    data: SegmentationDataModule = build(node, "dataset", mean=mean, std=std, seed=cfg["seed"])
    if data.num_classes < 2:
        raise ConfigError(
            f"{data.name} has {data.num_classes} class: scores compare classes, so what is none of it is one as well\n"
            "set dataset.num_classes=2 (or name two) and number the masks 0 and 1"
        )
    data.prepare_data()
    data.setup(stage)
    if stage == "fit":
        check_transforms(node.get("extra_transforms") or [], node.get("crop_size", 64))
    return data


def check_transforms(nodes: Sequence[Config], size: int) -> None:
    """See that what a user adds to the augmentation gives what it gets: a crop of the same size and type.

    Raises:
        ConfigError: names the transform, what it gives, and what to do.
    """
    image, mask = np.full((size, size, 3), 127, np.uint8), np.zeros((size, size), np.uint8)
    image[::7] = 30
    for index, node in enumerate(nodes):
        transform = build(node, where := f"dataset.extra_transforms[{index}]")
        if hasattr(transform, "p"):
            transform.p = 1.0  # now it happens
        for _ in range(4):  # some draw what they do
            try:
                out = transform(image=image, mask=mask)
            except Exception as error:  # whatever a foreign transform cannot do
                raise ConfigError(f"{where} fails on a crop: {type(error).__name__}: {error}") from error
            for name, before in (("image", image), ("mask", mask)):
                after = out[name]
                if not isinstance(after, np.ndarray) or (after.dtype, after.shape) != (before.dtype, before.shape):
                    got = f"{type(after).__name__} of {getattr(after, 'dtype', '')} {tuple(after.shape)}"
                    raise ConfigError(
                        f"{where} ({node['_target_']}) turns the {name} of a crop, uint8 {before.shape}, into {got}\n"
                        "leave it out: crops keep size and type; scaling, normalization and tensors come anyway"
                    )


def build_optimizer(cfg: Config) -> GroupedOptimizer:
    """What makes the optimizer of a network: the partial call, and the rules of its groups."""
    node = {key: value for key, value in cfg["optimizer"].items() if key != "groups"}
    return GroupedOptimizer(build(node, "optimizer"), cfg["optimizer"].get("groups") or {})


def build_task(cfg: Config, net: EMANet, data: SegmentationDataModule, optimizer: GroupedOptimizer) -> SegmentationTask:
    """The training task; stores the configuration in its checkpoints."""
    loss: Callable[..., LossTerms] = build(
        cfg["loss"], "loss", num_classes=data.num_classes, ignore_index=data.ignore_index, class_names=data.class_names
    )
    return SegmentationTask(
        net,
        class_names=data.class_names,
        optimizer=optimizer,
        scheduler=build(cfg["scheduler"], "scheduler"),
        loss=loss,
        ignore_index=data.ignore_index,
        seed=cfg["seed"],
        palette=data.palette.tolist(),
        config=cfg,
    )


def build_trainer(
    cfg: Config, run_dir: Path, *, callbacks: list[L.Callback], loggers: list[Logger]
) -> tuple[TrainerSetup, L.Trainer]:
    """How the network is to be prepared, and Lightning's trainer."""
    setup: TrainerSetup = build(cfg["trainer"], "trainer")
    return setup, setup.trainer(run_dir, callbacks=callbacks, loggers=loggers)


def build_evaluation(
    cfg: Config,
    stored: Stored,
    run_dir: Path,
    *,
    data: SegmentationDataModule,
    inference: Inference = PLAIN,
    callbacks: list[L.Callback] | None = None,
) -> tuple[SegmentationTask, L.Trainer]:
    """The task and the trainer that evaluate a checkpoint's network: ``trainer.validate(task, data)``."""
    check_classes(stored, data.class_names)
    net = restore_network(stored, cfg["model"], num_classes=data.num_classes)
    setup, trainer = build_trainer(cfg, run_dir, callbacks=callbacks or [], loggers=[])
    task = SegmentationTask(
        setup.prepare(net),
        class_names=data.class_names,
        ignore_index=data.ignore_index,
        inference=inference,
        config={"name": stored.settings.get("name", cfg["name"]), "seed": stored.settings.get("seed")},
    )
    return task, trainer
