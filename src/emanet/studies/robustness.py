"""How much a network loses when the input varies: its mIoU under noise, blur, other contrast and brightness."""

import logging
from collections.abc import Mapping, Sequence
from glob import glob
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from rich import box
from rich.console import Console
from rich.table import Table

from emanet.checkpoints.restore import read_stored, restore_network
from emanet.checkpoints.settings import stored_settings
from emanet.common.errors import ConfigError
from emanet.common.files import write_json
from emanet.common.provenance import command_line, git_state, hardware, versions
from emanet.config.instantiate import resolved
from emanet.config.rules import check
from emanet.config.schema import CONF_DIR
from emanet.data.corruptions import KINDS, Corruption
from emanet.studies.report.portable import portable, portable_text
from emanet.studies.report.robustness import Results, robustness_drawings, robustness_rows
from emanet.studies.report.studies import shown
from emanet.studies.report.style import styled, to_bytes
from emanet.studies.study import flat
from emanet.training.build import build_datamodule, build_inference, build_trainer, prepare_network
from emanet.training.callbacks.summary import named_scores
from emanet.training.task import SegmentationTask

log = logging.getLogger(__name__)

RESULTS = "robustness.json"

#: keys of a stored configuration that the command line may change, and by which of its own
ASKED = {"dataset.root": "root", "dataset.val_split": "split", "trainer.accelerator": "accelerator"}


def evaluate_robustness(cfg: DictConfig, run_dir: Path) -> dict[str, Any]:
    """Evaluate every checkpoint clean and under every corruption; write ``robustness.json``, print the means.

    What has been evaluated stands in the file after each checkpoint.

    Raises:
        ConfigError: for checkpoints that are not there, or corruptions that make no sense.
    """
    check(cfg)
    OmegaConf.resolve(cfg)
    corruptions = planned(resolved(cfg.corruptions), cfg.seed)
    if cfg.checkpoints is None:
        raise ConfigError("say which networks: checkpoints=[FILE,FILE] or checkpoints='PATTERN' is missing")
    paths = find_checkpoints(cfg.checkpoints)
    prepared = [(path, *configured(path, cfg)) for path in paths]  # mistakes show before the work begins
    content: dict[str, Any] = {
        "status": "running",
        "corruptions": {
            kind: {"unit": KINDS[kind].unit, "neutral": KINDS[kind].neutral}
            for kind in dict.fromkeys(corruption.kind for corruption in corruptions)
        },
        "networks": [],
        "seed": cfg.seed,
        "command": portable_text(command_line()),
        "versions": versions(),
        "git": git_state(),
    }
    for number, (path, settings, told) in enumerate(prepared, start=1):
        log.info("%d of %d: %s", number, len(paths), path)
        content["networks"].append(told | evaluate_network(path, settings, corruptions, run_dir))
        content["status"] = "finished" if number == len(paths) else "running"
        content["hardware"] = hardware(content["networks"][0]["device"])
        write_json(run_dir / RESULTS, content)
    show(Results(content), run_dir)
    return content


def planned(asked: Mapping[str, Any], seed: int) -> list[Corruption]:
    """The corruptions that are asked for; a neutral strength is left out, since the clean images are there anyway.

    Raises:
        ConfigError: for a kind or strength that makes no sense.
    """
    made = []
    for kind, strengths in asked.items():
        try:
            made += [Corruption(kind, float(strength), seed) for strength in strengths or []]
        except (TypeError, ValueError) as error:
            raise ConfigError(f"corruptions.{kind} must be a list of numbers, got {strengths!r}") from error
    made = [corruption for corruption in made if corruption.strength != KINDS[corruption.kind].neutral]
    if not made:
        raise ConfigError(f"corruptions holds no strength that changes anything; there are {', '.join(KINDS)}")
    return made


def find_checkpoints(asked: Any) -> list[Path]:
    """The checkpoints of a list of files and patterns, in order, each once.

    Raises:
        ConfigError: for an entry that matches nothing.
    """
    found: dict[Path, None] = {}
    for entry in asked if OmegaConf.is_list(asked) or isinstance(asked, (list, tuple)) else [asked]:
        path = Path(str(entry)).expanduser()
        matching = [path] if path.exists() else sorted(map(Path, glob(str(path), recursive=True)))
        if not matching:
            raise ConfigError(f"checkpoints={entry}: nothing there; give files, or a pattern in quotes")
        found |= dict.fromkeys(matching)
    return list(found)


def configured(path: Path, cfg: DictConfig) -> tuple[DictConfig, dict[str, Any]]:
    """What :func:`emanet.cli.jobs.evaluate` gets for this checkpoint, and which network it is.

    Raises:
        ConfigError: for a checkpoint that does not say what it was trained on, or lacks the key of the label.
    """
    stored = stored_settings(str(path))
    if not stored.get("dataset"):
        raise ConfigError(f"{path} does not say what it was trained on; checkpoints of our training do")
    plain = OmegaConf.load(f"{CONF_DIR}/inference/plain.yaml")
    settings = OmegaConf.create({group: stored[group] for group in ("dataset", "model", "trainer")})
    settings = OmegaConf.create({**settings, "inference": plain, "seed": 0})
    for key, name in ASKED.items():
        if cfg[name] is not None:
            OmegaConf.update(settings, key, cfg[name])
    check(settings)
    values = flat(stored) | flat(settings)
    if cfg.label is not None and cfg.label not in values:
        raise ConfigError(f"label={cfg.label}: {path} has no such key in its configuration; model.K is one")
    told = {
        "label": shown(portable(values.get(cfg.label or "name"))),
        "name": values.get("name"),
        "seed": stored.get("seed"),
        "checkpoint": "/".join(path.parts[-4:]) if path.parent.name == "checkpoints" else path.name,
        "dataset": values.get("dataset.name"),
        "split": values.get("dataset.val_split"),
    }
    return settings, told


def evaluate_network(
    path: Path, settings: DictConfig, corruptions: Sequence[Corruption], run_dir: Path
) -> dict[str, Any]:
    """Scores of one checkpoint."""
    datamodule = build_datamodule(settings)
    datamodule.prepare_data()
    datamodule.setup("validate")
    net = restore_network(read_stored(path), resolved(settings.model), num_classes=datamodule.num_classes)
    task = SegmentationTask(
        prepare_network(settings, net),
        class_names=datamodule.class_names,
        max_steps=1,
        inference=build_inference(settings.inference),
    )
    trainer = build_trainer(settings, run_dir, callbacks=[], loggers=[])
    scores = []
    for corruption in (None, *corruptions):
        datamodule.corrupt = corruption
        trainer.validate(task, datamodule, verbose=False)
        how = {"corruption": corruption.kind, "strength": corruption.strength} if corruption else {"corruption": None}
        scores.append(how | named_scores(task.metrics.compute(), task.class_names))
        words = f"{corruption.kind} {corruption.strength:g}" if corruption else "clean"
        log.info("%s: val/miou %.4f", words, task.validation["val/miou"])
    images = len(datamodule.samples(datamodule.stage_splits["validate"]))
    return {"images": images, "device": trainer.strategy.root_device.type, "scores": scores}


def show(results: Results, run_dir: Path) -> None:
    """Print the means over seeds, and draw them."""
    console = Console()
    for kind in results.kinds:
        header, *rows = robustness_rows(results, kind)
        table = Table(*header, title=f"{kind}: mIoU (%)", box=box.SIMPLE_HEAD, pad_edge=False)
        for row in rows:
            table.add_row(*row)
        console.print(table)
    with styled():
        for drawing in robustness_drawings(results):
            (run_dir / f"{drawing.name}.svg").write_bytes(to_bytes(drawing.figure, "svg"))
    console.print(f"results in {run_dir}", highlight=False, soft_wrap=True, markup=False)
