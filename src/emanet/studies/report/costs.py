"""What the heads of the runs cost, and which setting is the default: looked up once, and kept with the runs."""

import json
import logging
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from emanet.common.errors import EMANetError
from emanet.config.schema import CONF_DIR
from emanet.studies.runs import Run, flat

log = logging.getLogger(__name__)

#: keys that cost nothing
FREE = ("model.pretrained", "model.momentum", "model.dropout", "model.bn_momentum", "model.gradient")


def complete(runs: Sequence[Run]) -> list[Run]:
    """The runs with costs and default settings, where they can be found out and are not known yet."""
    known: dict[Any, Any] = {}
    done = []
    for run in runs:
        if run.costs is None and (key := cost_key(run)) is not None:
            if key not in known:
                known[key] = head_costs(run)
            run = replace(run, costs=known[key])
        if run.default is None and run.keys and (overrides := overrides_of(run)) is not None:
            if (overrides, run.keys) not in known:
                known[overrides, run.keys] = default_setting(overrides, run.keys)
            run = replace(run, default=known[overrides, run.keys])
        done.append(run)
    return done


def cost_key(run: Run) -> str | None:
    """What the costs of a run depend on; ``None`` where it does not say it, or names what is not this package's."""
    model = {key: value for key, value in run.config.items() if key.startswith("model.")}
    targets = [str(value) for key, value in model.items() if key.endswith("._target_")]
    classes, crop = len(run.summary.get("val/iou") or {}), run.config.get("dataset.crop_size")
    foreign = "${" in json.dumps(model) or not all(target.startswith("emanet.") for target in targets)
    if foreign or not (targets and classes and isinstance(crop, int)):  # a report runs nobody else's code
        return None
    return json.dumps([{key: value for key, value in model.items() if key not in FREE}, classes, crop])


def head_costs(run: Run) -> dict[str, Any] | None:
    """Costs of everything behind the backbone for one image of the size of a training crop.

    Returns:
        ``size`` (pixels), ``macs``, ``params`` and ``memory`` (bytes of activations) as in
        :class:`emanet.studies.complexity.Cost`; ``None`` for a network that this version cannot build.
    """
    import torch  # takes seconds, and runs that were kept need none of this

    from emanet.config.instantiate import build_network
    from emanet.studies.complexity import measure, overheads

    size = run.config["dataset.crop_size"]
    cfg = OmegaConf.create({})
    for key, value in (run.config | {"model.pretrained": False}).items():
        if key.startswith("model."):
            OmegaConf.update(cfg, key, value)
    try:
        with torch.device("meta"):
            net = build_network(cfg.model, len(run.summary["val/iou"]))
        head = overheads(net, measure(net, size, size))[-1]
    except (EMANetError, OmegaConfBaseException, ValueError, RuntimeError) as error:
        log.warning("%s: the costs of its network are left out: %s", run.name, str(error).splitlines()[0])
        return None
    return {"size": size, "macs": head.macs, "params": head.params, "memory": head.memory}


def overrides_of(run: Run) -> tuple[str, ...] | None:
    """What the command of a run set, the sweep and the swept keys left out; ``None`` for a command of another kind."""
    try:
        words = shlex.split(str(run.summary.get("command") or ""))
    except ValueError:
        return None
    if len(words) < 2 or Path(words[1]).name != "train.py" or any("${" in word for word in words):
        return None
    left_out = {"sweep", "resume", "study", "swept", "seed", *run.keys}
    given = [(word.partition("=")[0].lstrip("+~"), word) for word in words[2:] if "=" in word]
    return tuple(word for key, word in given if key not in left_out and not key.startswith(("-", "hydra")))


def default_setting(overrides: Sequence[str], keys: Sequence[str]) -> dict[str, Any] | None:
    """Values that the keys have without a sweep; ``None`` where they cannot be found out."""
    try:
        with initialize_config_dir(CONF_DIR, version_base="1.3"):
            cfg = compose("train", list(overrides))
    except (HydraException, OmegaConfBaseException, EMANetError) as error:
        log.info("the default setting is not known: %s", str(error).splitlines()[0])
        return None
    values = flat(OmegaConf.to_container(cfg, resolve=False))
    if values.get("model.gradient") is None:  # as EMANet spells out null
        values["model.gradient"] = "last" if values.get("model.head") == "ham" else "none"
    return {key: values.get(key) for key in keys}
