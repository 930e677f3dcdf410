"""How much networks lose when the input varies: their mIoU under noise, blur, other contrast and brightness."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from glob import glob
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import UInt8

from emanet.checkpoints.restore import read_stored
from emanet.checkpoints.settings import stored_settings
from emanet.common.errors import ConfigError
from emanet.common.files import write_json
from emanet.common.provenance import command_line, git_state, hardware, versions
from emanet.common.seeding import mix
from emanet.config.rules import check
from emanet.data.transforms import blurred, relit
from emanet.studies.runs import flat
from emanet.training.build import build_data, build_evaluation
from emanet.training.callbacks.summary import named_scores

log = logging.getLogger(__name__)

Pixels = UInt8[np.ndarray, "h w 3"]

#: unit of the strength of each kind of corruption, and the strength that changes nothing
KINDS = {
    "noise": ("standard deviation in gray levels", 0.0),
    "blur": ("standard deviation in pixels", 0.0),
    "contrast": ("factor", 1.0),
    "brightness": ("factor", 1.0),
}


def corrupted(image: Pixels, name: str, *, kind: str, strength: float, seed: int = 0) -> Pixels:
    """An image as every network sees it: of the name alone comes what is random, the same draws at every strength."""
    if kind != "noise":
        return blurred(image, strength) if kind == "blur" else relit(image, **{kind: strength})
    digest = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")
    noise = np.random.default_rng(mix(seed, digest)).standard_normal(image.shape, dtype=np.float32)
    # not albumentations' GaussNoise: it cuts fractions off towards 0, so that its 10 levels are 9.6
    return np.clip(np.rint(image + np.float32(strength) * noise), 0, 255).astype(np.uint8)


def evaluate_robustness(cfg: Mapping[str, Any], run_dir: Path) -> None:
    """Evaluate every checkpoint clean and corrupted; write robustness.json, print the means.

    What has been evaluated stands in the file after each checkpoint.

    Raises:
        ConfigError: for checkpoints that are not there, or corruptions that make no sense.
    """
    corruptions = planned(cfg["corruptions"])
    prepared = [configured(path, cfg) for path in find_checkpoints(cfg["checkpoints"])]
    facts = {"command": command_line(), "seed": cfg["seed"], "versions": versions(), "git": git_state()}
    rows: list[dict[str, Any]] = []
    for number, (settings, told) in enumerate(prepared, start=1):
        log.info("%d of %d: %s", number, len(prepared), told["checkpoint"])
        rows += evaluate_network(told, settings, corruptions, cfg["seed"], run_dir)
        status = "finished" if number == len(prepared) else "running"
        write_json(run_dir / "robustness.json", {"status": status} | facts | {"scores": rows})
    show(pd.DataFrame(rows))
    print(f"scores in {run_dir / 'robustness.json'}")


def planned(asked: Mapping[str, Any]) -> list[tuple[str, float]]:
    """The corruptions that are asked for; a neutral strength is left out, since clean images are evaluated anyway.

    Raises:
        ConfigError: for a kind or strength that makes no sense.
    """
    made = []
    for kind, strengths in asked.items():
        sensible = kind in KINDS and isinstance(strengths, list)
        if not sensible or not all(isinstance(one, (int, float)) and 0 <= one < float("inf") for one in strengths):
            known = ", ".join(KINDS)
            raise ConfigError(f"corruptions hold lists of strengths of 0 or more for {known}; got {kind}: {strengths}")
        made += [(kind, float(strength)) for strength in strengths if strength != KINDS[kind][1]]
    if not made:
        raise ConfigError(f"corruptions holds no strength that changes anything; there are {', '.join(KINDS)}")
    return made


def find_checkpoints(asked: str | Sequence[str] | None) -> list[Path]:
    """The checkpoints of a list of files and patterns, in order, each once.

    Raises:
        ConfigError: for an entry that matches nothing.
    """
    found: dict[Path, None] = {}
    for entry in [asked] if isinstance(asked, str) else asked or []:
        path = Path(entry).expanduser()
        matching = [path] if path.exists() else sorted(map(Path, glob(str(path), recursive=True)))
        if not matching:
            raise ConfigError(f"checkpoints={entry}: nothing there; give files, or a pattern in quotes")
        found |= dict.fromkeys(matching)
    if not found:
        raise ConfigError("say which networks: checkpoints=[FILE,FILE] or checkpoints='PATTERN' is missing")
    return list(found)


def configured(path: Path, cfg: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The configuration that a checkpoint is evaluated with, and which network it is.

    Raises:
        ConfigError: for a checkpoint that does not say what it was trained on, or lacks the key of the label.
    """
    stored = stored_settings(str(path))
    if not stored.get("dataset"):
        raise ConfigError(f"{path} does not say what it was trained on; checkpoints of our training do")
    settings = {group: stored[group] for group in ("dataset", "model", "trainer")} | {"seed": 0, "name": cfg["name"]}
    asked = {"root": ("dataset", "root"), "split": ("dataset", "val_split"), "accelerator": ("trainer", "accelerator")}
    for name, (group, key) in asked.items():
        if cfg[name] is not None:
            settings[group] = settings[group] | {key: cfg[name]}
    check(settings)
    label, values = cfg["label"] or "name", flat(stored) | flat(settings | {"name": stored.get("name")})
    if label not in values:
        raise ConfigError(f"label={label}: {path} has no such key in its configuration; model.K is one")
    told = {"label": str(values[label]), "seed": stored.get("seed"), "checkpoint": str(path)}
    return settings, told | {"dataset": values["dataset.name"], "split": values["dataset.val_split"]}


def evaluate_network(
    told: Mapping[str, Any],
    settings: Mapping[str, Any],
    corruptions: Sequence[tuple[str, float]],
    seed: int,
    run_dir: Path,
) -> list[dict[str, Any]]:
    """Scores of one checkpoint, a row for the clean images and one for each corruption."""
    data = build_data(settings, "validate")
    task, trainer = build_evaluation(settings, read_stored(told["checkpoint"]), run_dir, data=data)
    rows = []
    hows: list[tuple[Any, Any]] = [(None, None), *corruptions]
    for kind, strength in hows:
        data.corrupt = partial(corrupted, kind=kind, strength=strength, seed=seed) if kind else None
        trainer.validate(task, data, verbose=False)
        found = named_scores(task.metrics.compute(), task.class_names)
        rows.append({**told, "corruption": kind, "strength": strength, **found})
        log.info("%s %s: val/miou %s", kind or "clean", strength or "", found["val/miou"])
    return [row | {"hardware": hardware(trainer.strategy.root_device.type)} for row in rows]


def show(scores: pd.DataFrame) -> None:
    """Print the means over the networks of one label; a clean score stands at the neutral strength."""
    clean, others = scores[scores.corruption.isna()], scores.dropna(subset="corruption")
    for kind, found in others.groupby("corruption", sort=False):
        unit, neutral = KINDS[str(kind)]
        cells = pd.concat([clean.assign(strength=neutral), found]).groupby(["strength", "label"])["val/miou"]
        table = (100 * cells.agg(["mean", "std"])).unstack("label").dropna(axis=1, how="all")
        print(f"{kind} ({unit}): mIoU in %, mean and standard deviation over the networks of a label")
        print(table.to_string(float_format="{:.2f}".format), end="\n\n")
