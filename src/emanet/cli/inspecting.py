"""The job behind ``src/inspect_data.py``."""

import logging
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from emanet.common.console import progress_bar
from emanet.config.instantiate import call_target
from emanet.config.rules import check
from emanet.data.datamodule import SegmentationDataModule
from emanet.data.inspection import contact_sheet, inspect, report, write_weights, written

log = logging.getLogger(__name__)


def inspect_split(cfg: DictConfig, folder: Path) -> None:
    """Print the figures of a split; write ``sheet.png``, ``report.txt``, ``class_weights.yaml`` to the run folder."""
    check(cfg)
    OmegaConf.resolve(cfg)
    datamodule: SegmentationDataModule = call_target(cfg.dataset, extra_transforms=[], seed=cfg.seed)
    datamodule.prepare_data()
    split = cfg.split or datamodule.stage_splits["fit"]
    with progress_bar(Console(), "reading masks", unit="images") as tick:
        found = inspect(datamodule, split, limit=cfg.limit, tick=tick)
    text = report(found)
    print(text)
    (folder / "report.txt").write_text(text + "\n", encoding="utf-8")
    contact_sheet(datamodule, split, pictures=cfg.pictures, seed=cfg.seed).save(folder / "sheet.png")
    print(f"\nlook at       {folder / 'sheet.png'}")
    if found.read:
        write_weights(found, folder / "class_weights.yaml")
        print(f"class weights {folder / 'class_weights.yaml'}")
        if len(found.class_names) <= 32:
            print(f"              train with  'loss.class_weights={written(found.class_weights())}'")
