"""What the heads of the runs cost, and which setting is the default: looked up once, and kept with the runs."""

import json
import logging
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from emanet.common.errors import EMANetError
from emanet.config.network import build_network
from emanet.config.schema import CONF_DIR
from emanet.studies.complexity import measure, overheads
from emanet.studies.report.runs import Run

log = logging.getLogger(__name__)

WITHOUT_COST = (
    "pretrained",
    "momentum",
    "dropout",
    "bn_momentum",
    "gradient",
)  # keys of the model


def complete(runs: Sequence[Run]) -> list[Run]:
    """The runs with costs and default settings, where they can be found out and are not known yet."""
    costs: dict[str, dict[str, Any] | None] = {}
    defaults: dict[Any, dict[str, Any]] = {}
    done = []
    for run in runs:
        if run.costs is None and (key := cost_key(run)) is not None:
            if key not in costs:
                costs[key] = head_costs(run)
            run = replace(run, costs=costs[key])
        if run.default is None and run.keys:
            overrides = overrides_of(run)
            if (overrides, run.keys) not in defaults:
                defaults[overrides, run.keys] = {} if overrides is None else default_settings(overrides, run.keys)
            run = replace(run, default=defaults[overrides, run.keys] or None)
        done.append(run)
    return done


# --- costs ----------------------------------------------------------------------------------------------------------


def model_of(run: Run) -> dict[str, Any]:
    """The arguments of its network."""
    return {key.removeprefix("model."): value for key, value in run.config.items() if key.startswith("model.")}


def cost_key(run: Run) -> str | None:
    """What the costs of a run depend on; ``None`` where the run does not say it."""
    model, crop = model_of(run), run.config.get("dataset.crop_size")
    classes = len(run.summary.get("val/iou") or {})
    if not model or not classes or not isinstance(crop, int):
        return None
    return json.dumps([{key: model[key] for key in sorted(model) if key not in WITHOUT_COST}, classes, crop])


def head_costs(run: Run) -> dict[str, Any] | None:
    """Costs of everything behind the backbone for one image of the size of a training crop.

    Returns:
        ``size`` (pixels), ``macs``, ``params`` and ``memory`` (bytes of activations) as in
        :class:`emanet.studies.complexity.Cost`; ``None`` for a network that this version cannot build.
    """
    size = run.config["dataset.crop_size"]
    model = OmegaConf.create(model_of(run) | {"pretrained": False})
    try:
        with torch.device("meta"):
            net = build_network(model, len(run.summary["val/iou"]))
        head = overheads(net, measure(net, size, size))[-1]
    except (EMANetError, OmegaConfBaseException, ValueError, RuntimeError) as error:
        log.warning("%s: the costs of its network are left out: %s", run.name, str(error).splitlines()[0])
        return None
    return {"size": size, "macs": head.macs, "params": head.params, "memory": head.memory}


# --- default settings -----------------------------------------------------------------------------------------------


def overrides_of(run: Run) -> tuple[str, ...] | None:
    """What the command of a run set, the sweep and the swept keys left out; ``None`` for a command of another kind."""
    try:
        words = shlex.split(str(run.summary.get("command") or ""))
    except ValueError:
        return None
    if len(words) < 2 or Path(words[1]).name != "train.py":
        return None
    left_out = {"sweep", "resume", "study", "swept", "seed", *run.keys}
    given = [word for word in words[2:] if "=" in word and not word.startswith(("-", "hydra"))]
    return tuple(word for word in given if word.partition("=")[0].lstrip("+~") not in left_out)


def meaning(cfg: DictConfig, key: str) -> Any:
    """A value of a configuration, as a sweep would spell it."""
    value = OmegaConf.select(cfg, key)
    if key == "model.gradient" and value is None:
        return "last" if cfg.model.head == "ham" else "none"
    return value


def default_settings(overrides: Sequence[str], keys: Sequence[str]) -> dict[str, Any]:
    """Values that the keys have without a sweep; empty where they cannot be found out."""
    try:
        if GlobalHydra.instance().is_initialized():
            cfg = compose("train", list(overrides))
        else:
            with initialize_config_dir(CONF_DIR, version_base="1.3"):
                cfg = compose("train", list(overrides))
        return {key: meaning(cfg, key) for key in keys}
    except (HydraException, OmegaConfBaseException, EMANetError) as error:
        log.info("the default setting is not known: %s", str(error).splitlines()[0])
        return {}
