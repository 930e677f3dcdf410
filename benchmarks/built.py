"""What step.py measures: training steps and evaluations, built from conf/ as src/train.py builds them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count, cycle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from measure import Call
from omegaconf import DictConfig, OmegaConf
from parts import Laps, no_laps, watch
from torch import Tensor

from emanet.config.instantiate import build_network
from emanet.config.schema import CONF_DIR, register
from emanet.data.datamodule import SegmentationDataModule
from emanet.training.build import build_inference, build_task, pick_precision, prepare_network
from emanet.training.callbacks.guard import finite, gradients
from emanet.training.task import SegmentationTask

PHOTOGRAPHS = 28  # synthetic ones that a loading process reads in turn


@dataclass(frozen=True)
class Setting:
    """What is trained or evaluated, and where."""

    device: str
    network: str  #: timm's name of a ResNet at stride 8, or an experiment of conf/
    size: int
    images: int
    classes: int = 21

    @property
    def overrides(self) -> list[str]:
        """Of conf/train.yaml."""
        experiment = Path(CONF_DIR) / "experiment" / f"{self.network}.yaml"
        choice = f"experiment={self.network}" if experiment.is_file() else f"model.backbone={self.network}"
        return [choice, "model.pretrained=false", "callbacks=none"]

    def case(self, task: str) -> dict[str, Any]:
        """For the result file."""
        sizes = {name: getattr(self, name) for name in ("network", "size", "images", "classes")}
        return {"task": task, **sizes}


class Classes(SegmentationDataModule):
    """So many classes; of the images, see :func:`make_batch`."""

    splits = ()

    def __init__(self, number: int) -> None:
        super().__init__(root=".")
        self.class_names = tuple(map(str, range(number)))
        self.palette = np.zeros((number, 3), np.uint8)


def configure(overrides: list[str]) -> DictConfig:
    """conf/train.yaml with overrides."""
    register()
    with initialize_config_dir(CONF_DIR, version_base="1.3"):
        cfg = compose("train", overrides=overrides)
    OmegaConf.resolve(cfg)
    return cfg


def make_task(cfg: DictConfig, setting: Setting) -> SegmentationTask:
    """The task on its device, random weights; what it asks its trainer for, a stand-in says."""
    torch.manual_seed(0)
    net = prepare_network(cfg, build_network(cfg.model, setting.classes))
    task = build_task(cfg, net, Classes(setting.classes)).to(setting.device)
    trainer: Any = SimpleNamespace(
        accumulate_grad_batches=1,
        world_size=1,
        global_rank=0,
        current_epoch=0,
        precision=pick_precision(cfg.trainer.precision),
    )
    task._trainer = trainer
    task.log = lambda *_, **__: None  # type: ignore[method-assign, assignment]
    task.judge = look_later(task)
    return task


def look_later(task: SegmentationTask) -> Callable[[Tensor, Tensor], bool]:
    """What the guard does at most steps: find the verdict, and leave it on the device."""
    verdicts: list[Tensor] = []

    def judge(loss: Tensor, mu: Tensor) -> bool:
        verdicts[:] = [finite(mu, gradients(task)) & (loss.abs() <= 100)]
        return True

    return judge


def make_batch(setting: Setting) -> dict[str, Any]:
    """Random images, and masks of 64-pixel blocks with void borders."""
    draw, size = torch.Generator().manual_seed(0), setting.size
    image = torch.randn(setting.images, 3, size, size, generator=draw)
    coarse = torch.randint(0, setting.classes, (setting.images, size // 64 + 1, size // 64 + 1), generator=draw)
    mask = coarse.repeat_interleave(64, 1).repeat_interleave(64, 2)[:, :size, :size].clone()
    mask[:, ::64] = mask[:, :, ::64] = 255
    return {"image": image.to(setting.device), "mask": mask.to(setting.device)}


@contextmanager
def machine(cfg: DictConfig, task: SegmentationTask, *, tf32: bool = True) -> Iterator[None]:
    """The precision of a call: settings of the whole process, which variants take turns in, and autocast around."""
    torch.set_float32_matmul_precision(cfg.trainer.matmul_precision)
    torch.backends.cudnn.benchmark = bool(cfg.trainer.benchmark)
    torch.backends.cudnn.allow_tf32 = tf32
    with torch.autocast(task.device.type, torch.bfloat16, enabled=task.trainer.precision == "bf16-mixed"):
        yield


def training(overrides: list[str], setting: Setting, *, tf32: bool = True, laps: Laps = no_laps) -> Call:
    """A training step in Lightning's order, done once already; returns the batch's summed loss in units of an image."""
    cfg = configure([*setting.overrides, *overrides])
    task, batch, numbers = make_task(cfg, setting).train(), make_batch(setting), count()
    wanted: Any = task.configure_optimizers()
    optimizer, scheduler = wanted["optimizer"], wanted["lr_scheduler"]["scheduler"]

    def step() -> Tensor:
        laps.start()
        task.on_train_batch_start(batch, next(numbers))
        with machine(cfg, task, tf32=tf32):
            loss = task.training_step(batch, 0)
        optimizer.zero_grad()
        laps.lap("loss")
        loss.backward()
        laps.lap("backbone, backward")
        task.on_before_optimizer_step(optimizer)
        optimizer.step()
        scheduler.step()
        laps.lap("optimizer and bases")
        return loss.detach()

    if laps is not no_laps:
        watch(task.net, laps, before="loss")
    step()
    return step


def evaluation(upsample: str, look: str, setting: Setting, *, laps: Laps = no_laps) -> Call:
    """Predict an image as conf/eval/LOOK.yaml says and count it, done once already; returns the confusion matrix."""
    cfg = configure([*setting.overrides, "trainer.precision=32-true", "trainer.channels_last=false"])
    task, batch = make_task(cfg, setting).eval(), make_batch(setting)
    files = [OmegaConf.load(Path(CONF_DIR) / "inference" / f"{name}.yaml") for name in dict.fromkeys(("plain", look))]
    options: Any = OmegaConf.merge(*files, {"upsample": upsample})
    options.pop("defaults", None)
    task.inference = build_inference(options)

    @torch.inference_mode()
    def evaluate() -> Tensor:
        laps.start()
        task.metrics.reset()
        with machine(cfg, task):
            prediction = task.inference.predict(task.net, batch["image"])
        laps.lap("upsampling, classes")
        task.metrics.update(prediction, batch["mask"])
        laps.lap("confusion matrix")
        return task.metrics.confusion

    if laps is not no_laps:
        watch(task.net, laps, before="upsampling, classes")
    evaluate()
    return evaluate


def loading(folder: Path, setting: Setting) -> Call:
    """Read and augment a batch on one thread, as a process of the loader does; synthetic photographs of 500x375."""
    import cv2
    from input_pipeline import write_images
    from input_variants import ours

    cv2.setNumThreads(1)
    way, samples = ours(setting.size), cycle(write_images(folder, PHOTOGRAPHS, 500, 375, "palette"))
    seeds = way.seeds()

    def load() -> list[Any]:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        crops = [way.load(next(samples), next(seeds)) for _ in range(setting.images)]
        torch.set_num_threads(threads)
        return crops

    return load
