"""What the heads of the runs cost, and which setting is the default: looked up once, and kept with the runs."""

import json
import logging
import shlex
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
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
    return [replace(r, costs=r.costs or head_costs(described(r)), default=r.default or default_of(r)) for r in runs]


def described(run: Run) -> str | None:
    """What the costs of a run depend on; ``None`` where it does not say it, or names what is not this package's."""
    model = {key: value for key, value in run.config.items() if key.startswith("model.") and key not in FREE}
    targets = [str(value) for key, value in model.items() if key.endswith("._target_")]
    classes, size = len(run.summary.get("val/iou") or {}), run.config.get("dataset.crop_size")
    foreign = "${" in json.dumps(model) or not all(target.startswith("emanet.") for target in targets)
    if foreign or not (targets and classes and isinstance(size, int)):  # a report runs nobody else's code
        return None
    return json.dumps([model, classes, size])


@cache
def head_costs(description: str | None) -> dict[str, Any] | None:
    """Costs of everything behind the backbone for one image of the size of a training crop.

    Returns:
        ``size`` (pixels), ``macs``, ``params`` and ``memory`` (bytes of activations) as in
        :class:`emanet.studies.complexity.Cost`; ``None`` for a network that this version cannot build.
    """
    if description is None:
        return None
    import torch  # takes seconds, and runs that were kept need none of this

    from emanet.config.instantiate import build
    from emanet.studies.complexity import measure, overheads

    model, classes, size = json.loads(description)
    cfg = OmegaConf.create({})
    for key, value in (model | {"model.pretrained": False}).items():
        OmegaConf.update(cfg, key, value)
    try:
        with torch.device("meta"):
            net = build(OmegaConf.to_container(cfg.model), "model", num_classes=classes)
        head = overheads(net, measure(net, size, size))[-1]
    except (EMANetError, OmegaConfBaseException, ValueError, RuntimeError) as error:
        log.warning("the costs of a network are left out: %s", str(error).splitlines()[0])
        return None
    return {"size": size, "macs": head.macs, "params": head.params, "memory": head.memory}


def default_of(run: Run) -> dict[str, Any] | None:
    """What the swept keys would be without the sweep; ``None`` where the command does not tell."""
    try:
        words = shlex.split(str(run.summary.get("command") or ""))
    except ValueError:
        words = []
    if not run.keys or len(words) < 2 or Path(words[1]).name != "train.py" or any("${" in word for word in words):
        return None
    left_out = {"sweep", "resume", "study", "swept", "seed", *run.keys}
    left_out |= {"head"} if "model.head" in run.keys else set()  # the group that writes this key
    given = [(word.partition("=")[0].lstrip("+~"), word) for word in words[2:] if "=" in word]
    kept = [word for key, word in given if key not in left_out and not key.startswith(("-", "hydra"))]
    values = composed(tuple(kept))
    return {key: values.get(key) for key in run.keys} if values else None


@cache
def composed(overrides: tuple[str, ...]) -> dict[str, Any]:
    """The configuration of a training, flat; empty where it cannot be composed."""
    try:
        within = GlobalHydra.instance().is_initialized()  # by the script
        with nullcontext() if within else initialize_config_dir(CONF_DIR, version_base="1.3"):
            values = flat(OmegaConf.to_container(compose("train", list(overrides)), resolve=False))
    except (HydraException, OmegaConfBaseException, EMANetError) as error:
        log.info("the default setting is not known: %s", str(error).splitlines()[0])
        return {}
    return values
