"""Lightning's Trainer as this project needs it, and what is done to the network before it trains."""

import inspect
import logging
import math
import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.callbacks import Checkpoint, ProgressBar
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.strategies import StrategyRegistry
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn

from emanet.common.checks import at_least_one, one_of
from emanet.common.errors import ConfigError
from emanet.training.checkpoint_io import SafeCheckpointIO
from emanet.training.distributed import SharedStatisticsDDPStrategy

PRECISIONS = ("auto", "32-true", "16-mixed", "bf16-mixed", "64-true")


class TrainerSetup:
    """How a network is trained or evaluated: the values of the group ``trainer``.

    Args:
        accelerator, devices: see Lightning's Trainer.
        oversubscribe: allow more processes than a machine without a GPU has cores.
        strategy: ``auto``, which is ``ddp`` on several devices; ``ddp`` averages running statistics and broadcasts no
            buffers, see :mod:`emanet.training.distributed`; any other of Lightning's is handed on untried.
        precision: ``32-true``, ``bf16-mixed``, ``16-mixed``, ``64-true``, or ``auto``: bf16-mixed where the
            hardware has it.
        max_steps: optimizer steps; -1: as many as ``max_epochs`` have.
        max_epochs: passes over the data, if they end before ``max_steps``; ``None``: no limit.
        accumulate_grad_batches: batches per optimizer step.
        val_every_n_steps: optimizer steps between validations.
        sync_batchnorm: ``None``: on where CUDA and more than one device.
        matmul_precision: of float32 products: ``highest``, ``high`` or ``medium``.
        channels_last: memory format of the network.
        compile: hand the network to torch.compile.
        options: of Lightning's Trainer.

    Raises:
        ValueError: for values out of range.
    """

    def __init__(
        self,
        *,
        accelerator: str = "auto",
        devices: int | str | list[int] = 1,
        oversubscribe: bool = False,
        strategy: str = "auto",
        precision: str = "32-true",
        max_steps: int = 30_000,
        max_epochs: int | None = None,
        accumulate_grad_batches: int = 1,
        val_every_n_steps: int = 2500,
        sync_batchnorm: bool | None = None,
        matmul_precision: str = "highest",
        channels_last: bool = True,
        compile: bool = False,
        **options: Any,
    ) -> None:
        at_least_one(accumulate_grad_batches=accumulate_grad_batches, val_every_n_steps=val_every_n_steps)
        at_least_one(**{key: options[key] for key in ("num_nodes", "log_every_n_steps") if key in options})
        one_of(PRECISIONS, precision=precision)
        one_of(("highest", "high", "medium"), matmul_precision=matmul_precision)
        if max_steps == -1 and (max_epochs is None or max_epochs < 1):
            raise ValueError(f"max_steps=-1 needs max_epochs of at least 1, got max_epochs={max_epochs}")
        if max_steps != -1:
            at_least_one(max_steps=max_steps, max_epochs=1 if max_epochs is None else max_epochs)
        for name in ("gradient_clip_val", "limit_train_batches"):
            if (value := options.get(name)) is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} must be null or more than 0, got {value}")
        if not re.fullmatch(r"auto|-1|[1-9]\d*|\d+(,\d+)*,?|\[\d+(, \d+)*\]", str(devices)) or devices in (0, "0"):
            raise ValueError(f"devices must be a number from 1 on, a list of numbers, -1 or auto, got {devices!r}")
        self.precision, self.sync_batchnorm, self.matmul_precision = precision, sync_batchnorm, matmul_precision
        self.channels_last, self.compile, self.oversubscribe = channels_last, compile, oversubscribe
        self.options: dict[str, Any] = {
            "accelerator": accelerator,
            "devices": devices,
            "strategy": strategy,
            "max_steps": max_steps,
            "max_epochs": -1 if max_epochs is None else max_epochs,
            "accumulate_grad_batches": accumulate_grad_batches,
            "val_check_interval": val_every_n_steps * accumulate_grad_batches,
            "num_sanity_val_steps": 0,
            **options,
        }

    @staticmethod
    def further_arguments(node: Mapping[str, Any]) -> Mapping[str, inspect.Parameter]:
        """What ``options`` may hold: Lightning's arguments, but for those that this class sets itself."""
        own: tuple[str, ...] = (
            "self",
            "callbacks",
            "logger",
            "plugins",
            "default_root_dir",
            "val_check_interval",
            "enable_checkpointing",
        )
        own += ("check_val_every_n_epoch", "use_distributed_sampler", "enable_model_summary", "enable_progress_bar")
        parameters = inspect.signature(L.Trainer.__init__).parameters
        return {name: parameter for name, parameter in parameters.items() if name not in own}

    def prepare(self, net: nn.Module) -> nn.Module:
        """Memory format and compilation of a network, in place (a wrapper would rename every key of a checkpoint)."""
        if self.channels_last:
            net.to(memory_format=torch.channels_last)
        if self.compile:
            net.compile()
        return net

    def trainer(self, run_dir: Path, *, callbacks: list[L.Callback], loggers: list[Logger]) -> L.Trainer:
        """The trainer of a run.

        Raises:
            ConfigError: for what Lightning refuses, in its words.
        """
        silence_known_warnings()
        torch.set_float32_matmul_precision(self.matmul_precision)
        StrategyRegistry.register("ddp", SharedStatisticsDDPStrategy, override=True)
        plugins: list[Any] = [SafeCheckpointIO()]
        if SLURMEnvironment.detect() and "TORCHELASTIC_RUN_ID" not in os.environ:
            # Lightning's own requeueing saves inside the signal handler, and waits for ever for a slow device
            plugins.append(SLURMEnvironment(auto_requeue=False))
        on_cuda = self.options["accelerator"] in ("auto", "gpu", "cuda") and torch.cuda.is_available()
        try:
            trainer = L.Trainer(
                precision=pick_precision(self.precision),  # type: ignore[arg-type]
                sync_batchnorm=on_cuda if self.sync_batchnorm is None else self.sync_batchnorm,
                **self.options,
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
            cores = max(2, os.cpu_count() or 1)
            if (
                isinstance(trainer.accelerator, CPUAccelerator)
                and trainer.num_devices > cores
                and not self.oversubscribe
            ):
                raise ValueError(
                    f"devices={trainer.num_devices} on {cores} cores: each would be a process with a network of its "
                    "own; +trainer.oversubscribe=true does it all the same"
                )
        except (ValueError, TypeError, RuntimeError, ImportError, MisconfigurationException) as error:
            raise ConfigError(f"trainer: {str(error).replace('Trainer.__init__()', 'Lightning')}") from error
        return trainer


def pick_precision(precision: str) -> str:
    """``auto`` is bfloat16 where the hardware multiplies it natively, else float32."""
    if precision != "auto":
        return precision
    if torch.cuda.is_available():
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16-mixed" if native else "32-true"


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
