"""The configuration that a checkpoint brings: what evaluation and prediction start from.

It is data that anybody may have written. It names classes of ours from a table, or is refused before anything is
imported; texts that Hydra would resolve are refused; what training alone needs is left out.
"""

from collections.abc import Mapping
from typing import Any

from omegaconf import OmegaConf

import emanet.data
from emanet.checkpoints.restore import read_stored
from emanet.common.errors import WeightsError
from emanet.config.instantiate import leaves
from emanet.config.schema import CONF_DIR
from emanet.model.heads import HEADS
from emanet.model.stored import refusing

TRAINER = "emanet.training.TrainerSetup"
#: what a data set of a checkpoint may be
DATASETS = [
    f"emanet.data.{name}"
    for home, names in emanet.data.HOMES.items()
    for name in names
    if home.startswith("datasets.") and isinstance(name, str)
]
#: keys of a data set that concern training, or would write where a file says
LEFT_OUT = ("extra_transforms", "cache")


def stored_settings(path: str, *, trust: bool = False) -> dict[str, Any]:
    """Configuration groups stored in a checkpoint; keys that an older or a foreign one lacks have our defaults.

    Args:
        path: of the checkpoint.
        trust: let it name classes that are not ours, whose code then runs.

    Raises:
        WeightsError: for a checkpoint that cannot be read, or that names what is not ours.
    """
    stored = read_stored(path, trust=trust).settings
    dataset = {key: value for key, value in (stored.get("dataset") or {}).items() if key not in LEFT_OUT}
    given = stored.get("trainer") or {}
    known = OmegaConf.load(f"{CONF_DIR}/trainer/default.yaml")
    trainer = {key: value for key, value in given.items() if key in known}
    groups = {"dataset": dataset, "model": stored["model"], "trainer": evaluating(trainer) if trainer else {}}
    vet(groups, path, trust=trust)
    files = {"model": ["model/emanet"], "trainer": ["trainer/default"]}
    if groups["model"].get("head", "ema") in HEADS:
        files["model"].append(f"head/{groups['model'].get('head', 'ema')}")
    for group, names in files.items():
        defaults = [OmegaConf.load(f"{CONF_DIR}/{name}.yaml") for name in names]
        with refusing(f"{path}: its settings of the {group} are of other types than ours"):
            merged = OmegaConf.merge(*defaults, groups[group])
            groups[group] = OmegaConf.to_container(merged, resolve=False)
    return stored | groups


def vet(groups: Mapping[str, Any], source: str, *, trust: bool) -> None:
    """Refuse what would be called, imported or resolved, and is not ours.

    Raises:
        WeightsError: names it, and what is allowed.
    """
    if not isinstance(groups["dataset"], Mapping) or not isinstance(groups["trainer"], Mapping):
        raise WeightsError(f"{source}: its settings of data set and trainer are no plain values")
    allowed = {"dataset._target_": DATASETS, "trainer._target_": [TRAINER]}
    for place, value in leaves({key: groups[key] for key in ("dataset", "trainer")}):
        if isinstance(value, str) and "${" in value:
            raise WeightsError(f"{source}: {place} holds {value[:60]!r}, which would be resolved: nothing of it was")
        if place.endswith("_target_") and value not in allowed.get(place, ()) and not trust:
            raise WeightsError(
                f"{source} asks for {place}={str(value)[:100]}, which is none of ours: nothing of it was imported\n"
                f"ours: {', '.join(allowed.get(place, ['none here']))}; trust=true takes other people's classes, whose "
                "code then runs"
            )


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
