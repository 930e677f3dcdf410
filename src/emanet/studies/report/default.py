"""Which setting of a study is the default: what its command gives without the sweep."""

import logging
import shlex
from contextlib import nullcontext
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


def default_of(run: Run) -> dict[str, Any] | None:
    """What the swept keys would be without the sweep; ``None`` where the command does not tell."""
    command = str(run.summary.get("command") or "")
    try:
        words = [] if "${" in command or ".." in command else shlex.split(command)  # of this package's groups alone
    except ValueError:
        words = []
    if not run.keys or len(words) < 2 or Path(words[1]).name != "train.py":
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
            config: Any = OmegaConf.to_container(compose("train", list(overrides)), resolve=False)
    except (HydraException, OmegaConfBaseException, EMANetError) as error:
        log.info("the default setting is not known: %s", str(error).splitlines()[0])
        return {}
    return flat(config)
