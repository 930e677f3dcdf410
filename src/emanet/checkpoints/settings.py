"""The configuration that a checkpoint brings: what evaluation and prediction start from."""

from typing import Any

from omegaconf import OmegaConf

from emanet.checkpoints.restore import read_stored
from emanet.config.schema import CONF_DIR
from emanet.model.heads import HEADS


def stored_settings(path: str, *, trust: bool = False) -> dict[str, Any]:
    """Configuration groups stored in a checkpoint; keys that an older or a foreign one lacks have our defaults."""
    stored = read_stored(path).settings
    if "trainer" in stored:
        stored = stored | {"trainer": evaluating(stored["trainer"])}
    model = stored.get("model", {})
    files = {"model": ["model/emanet"], "trainer": ["trainer/default"]}
    if model.get("head", "ema") in HEADS:
        files["model"].append(f"head/{model.get('head', 'ema')}")
    for group, names in files.items():
        defaults = [OmegaConf.load(f"{CONF_DIR}/{name}.yaml") for name in names]
        stored = stored | {group: OmegaConf.merge(*defaults, stored.get(group, {}))}
    return stored


def evaluating(trainer: dict[str, Any]) -> dict[str, Any]:
    """The trainer of a run as an evaluation starts from it: one device, which may be another machine's.

    Precision, memory format and the like stay, since they decide the last digits.
    """
    here = {"devices": 1, "num_nodes": 1, "strategy": "auto"}
    if trainer.get("accelerator") != "cpu":
        here["accelerator"] = "auto"
    if trainer.get("limit_val_batches") == 0:  # a run without validation
        here["limit_val_batches"] = None
    return trainer | here
