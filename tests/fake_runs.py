"""Run folders with invented results, in the layout that training leaves behind. Nothing in them was measured."""

import json
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from emanet.config.schema import CONF_DIR, register

CLASSES = ("invented a", "invented b", "invented c")
OVERRIDES = (
    "name=invented",
    "model.backbone=test_resnet",
    "model.pretrained=false",
    "model.output_stride=16",
    "model.channels=8",
    "model.K=4",
    "dataset.crop_size=33",
    "trainer.max_steps=100",
)
COMMAND = f"python src/train.py {' '.join(OVERRIDES)}"


@cache
def base_config() -> str:
    """The configuration that all invented runs start from, as YAML."""
    register()
    with initialize_config_dir(CONF_DIR, version_base="1.3"):
        cfg = compose("train", list(OVERRIDES))
    kept = {key: value for key, value in cfg.items() if key not in ("hydra", "callbacks", "logger")}
    cfg = OmegaConf.create(OmegaConf.to_container(OmegaConf.masked_copy(cfg, list(kept)), resolve=True))
    return OmegaConf.to_yaml(cfg)


def invented_config(study: str | None, values: Mapping[str, Any], seed: int) -> Any:
    """The configuration of one run."""
    cfg = OmegaConf.create(base_config())
    cfg.study = study
    cfg.swept = [*values, "seed"] if study else []
    cfg.seed = seed
    for key, value in values.items():
        OmegaConf.update(cfg, key, value)
    return cfg


def invented_summary(miou: float | None, seed: int, **changes: Any) -> dict[str, Any]:
    """A summary.json; ``changes`` replace entries."""
    return {
        "status": "finished",
        "error": None,
        "val/miou": miou,
        "val/pixel_accuracy": None if miou is None else min(1.0, miou + 0.2),
        "val/mean_accuracy": miou,
        "val/classes_averaged": 3,
        "val/iou": dict.fromkeys(CLASSES, miou),
        "steps": 100,
        "seconds": 50.0,
        "seconds_total": 60.0,
        "images_per_second": 25.0,
        "name": "invented",
        "dataset": "voc",
        "seed": seed,
        "command": f"{COMMAND} sweep=invented",
        "parameters": {"total": 1000, "trainable": 900, "backbone": 600, "head": 400},
        "precision": "32-true",
        "versions": {"emanet": "0.1.0", "torch": "9.9.9", "numpy": "9.9"},
        "hardware": {"cpu": "Invented CPU", "cores": 2, "threads": 2, "gpus": [], "devices": 1, "system": "Linux"},
        "git": {"commit": "0123456789abcdef0123456789abcdef01234567", "dirty": False},
    } | changes


def write_run(
    folder: Path,
    miou: float | None,
    *,
    study: str | None = "invented",
    values: Mapping[str, Any] | None = None,
    seed: int = 0,
    evaluations: Mapping[str, float] | None = None,
    **changes: Any,
) -> Path:
    """A run folder; without a score it has no summary."""
    folder.mkdir(parents=True)
    OmegaConf.save(invented_config(study, values or {}, seed), folder / "config.yaml")
    if miou is not None or changes:
        (folder / "summary.json").write_text(json.dumps(invented_summary(miou, seed, **changes)))
    if evaluations is not None:
        scores = {T: {"val/miou": value, "val/iou": {}} for T, value in evaluations.items()}
        (folder / "evaluations.json").write_text(json.dumps({"T_eval": scores}))
    return folder


def write_sweep(root: Path, key: str, scores: Mapping[Any, Iterable[float]], *, study: str = "invented") -> Path:
    """A sweep over one key: scores of seeds 0, 1, ... by value of the key."""
    for value, of_seeds in scores.items():
        for seed, miou in enumerate(of_seeds):
            name = f"{key.rpartition('.')[2]}={value}_seed={seed}"
            write_run(root / name, miou, study=study, values={key: value}, seed=seed)
    return root
