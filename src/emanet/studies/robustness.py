"""How much networks lose when the input varies: their mIoU under noise, blur, other contrast and brightness."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from glob import glob
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from emanet.checkpoints.restore import read_stored
from emanet.checkpoints.settings import stored_settings
from emanet.common.errors import ConfigError, EMANetError
from emanet.common.files import write_json
from emanet.common.provenance import command_line, git_state, hardware, versions
from emanet.common.seeding import mix
from emanet.config.rules import check
from emanet.data.transforms import blurred, relit
from emanet.studies.runs import flat
from emanet.training.build import build_data, build_evaluation
from emanet.training.callbacks.summary import named_scores

try:
    import pandas as pd
    from matplotlib.figure import Figure
except ImportError as error:
    raise EMANetError(f"robustness needs {error.name}: pip install 'emanet[report]'") from error

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
    """Evaluate every checkpoint clean and corrupted; write robustness.json, .csv and .svg, print the means.

    What has been evaluated stands in the first file after each checkpoint.

    Raises:
        ConfigError: for checkpoints that are not there, or corruptions that make no sense.
    """
    corruptions = planned(cfg["corruptions"])
    prepared = [configured(path, cfg) for path in find_checkpoints(cfg["checkpoints"])]
    facts = {"command": command_line(), "seed": cfg["seed"], "versions": versions(), "git": git_state()}
    networks: list[dict[str, Any]] = []
    for number, (settings, told) in enumerate(prepared, start=1):
        log.info("%d of %d: %s", number, len(prepared), told["checkpoint"])
        networks.append(told | evaluate_network(told["checkpoint"], settings, corruptions, cfg["seed"], run_dir))
        status = "finished" if number == len(prepared) else "running"
        write_json(run_dir / "robustness.json", {"status": status} | facts | {"networks": networks})
    show(networks, run_dir)


def planned(asked: Mapping[str, Any]) -> list[tuple[str, float]]:
    """The corruptions that are asked for; a neutral strength is left out, since clean images are evaluated anyway.

    Raises:
        ConfigError: for a kind or strength that makes no sense.
    """
    made = []
    for kind, strengths in asked.items():
        if kind not in KINDS:
            raise ConfigError(f"corruptions are {', '.join(KINDS)}, got {kind!r}")
        try:
            made += [(kind, float(strength)) for strength in strengths or () if strength != KINDS[kind][1]]
        except (TypeError, ValueError) as error:
            raise ConfigError(f"corruptions.{kind} must be a list of numbers, got {strengths!r}") from error
        if not all(0 <= strength < float("inf") for _, strength in made):
            raise ConfigError(f"corruptions.{kind} must hold strengths of 0 or more, got {strengths}")
    if not made:
        raise ConfigError(f"corruptions holds no strength that changes anything; there are {', '.join(KINDS)}")
    return made


def find_checkpoints(asked: str | Sequence[str] | None) -> list[Path]:
    """The checkpoints of a list of files and patterns, in order, each once.

    Raises:
        ConfigError: for an entry that matches nothing.
    """
    if not asked:
        raise ConfigError("say which networks: checkpoints=[FILE,FILE] or checkpoints='PATTERN' is missing")
    found: dict[Path, None] = {}
    for entry in [asked] if isinstance(asked, str) else asked:
        path = Path(entry).expanduser()
        matching = [path] if path.exists() else sorted(map(Path, glob(str(path), recursive=True)))
        if not matching:
            raise ConfigError(f"checkpoints={entry}: nothing there; give files, or a pattern in quotes")
        found |= dict.fromkeys(matching)
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
    path: str, settings: Mapping[str, Any], corruptions: Sequence[tuple[str, float]], seed: int, run_dir: Path
) -> dict[str, Any]:
    """Scores of one checkpoint, the clean ones first, and where they were computed."""
    data = build_data(settings, "validate")
    task, trainer = build_evaluation(settings, read_stored(path), run_dir, data=data)
    scores = []
    hows: list[dict[str, Any]] = [{}, *({"kind": kind, "strength": strength} for kind, strength in corruptions)]
    for how in hows:
        data.corrupt = partial(corrupted, **how, seed=seed) if how else None
        trainer.validate(task, data, verbose=False)
        found = named_scores(task.metrics.compute(), task.class_names)
        scores.append({"corruption": how.get("kind"), "strength": how.get("strength")} | found)
        log.info("%s: val/miou %s", how or "clean", found["val/miou"])
    return {"hardware": hardware(trainer.strategy.root_device.type), "scores": scores}


def show(networks: Sequence[Mapping[str, Any]], run_dir: Path) -> None:
    """Print and draw the means over the networks of one label; a clean score stands at the neutral strength."""
    names = ("label", "seed", "corruption", "strength", "val/miou")
    frame = pd.DataFrame([network | score for network in networks for score in network["scores"]])[[*names]]
    kinds = list(frame.corruption.dropna().unique())
    clean = [frame[frame.corruption.isna()].assign(corruption=kind, strength=KINDS[kind][1]) for kind in kinds]
    frame = pd.concat([*clean, frame.dropna(subset="corruption")])
    frame.to_csv(run_dir / "robustness.csv", index=False)
    figure = Figure(figsize=(3.2 * len(kinds), 3), layout="constrained")
    axes = figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
    for kind, ax in zip(kinds, axes, strict=True):
        found = frame[frame.corruption == kind].groupby(["strength", "label"], sort=True)["val/miou"]
        table = 100 * found.agg(["mean", "std"]).unstack("label")
        print(f"{kind} ({KINDS[kind][0]}): mIoU in %, mean and standard deviation over the networks of a label")
        print(table.dropna(axis=1, how="all").to_string(float_format="{:.2f}".format), end="\n\n")
        for label in table["mean"]:
            ax.errorbar(table.index, table["mean", label], table["std", label].fillna(0), marker="o", label=label)
        ax.set(title=kind, xlabel=KINDS[kind][0])
    axes[0].set_ylabel("mIoU (%)")
    axes[0].legend()
    figure.savefig(run_dir / "robustness.svg")
    print(f"results in {run_dir}")
