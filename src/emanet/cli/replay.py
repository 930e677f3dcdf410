"""The command of an earlier run, which going on with it repeats.

A run folder may come from somebody else. Its command is data: it may set values and choose files of ours, and whatever
would call, import or resolve anything else is refused by name before Hydra sees it.
"""

import re
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf

from emanet.common.errors import ConfigError
from emanet.config.instantiate import leaves
from emanet.config.schema import CONF_DIR


def stored_overrides(folder: Path) -> list[str]:
    """The command of a run as text; waits for a first process that is just writing it again.

    Raises:
        ConfigError: if it is not there in whole.
    """
    path = folder / ".hydra" / "overrides.yaml"
    for _ in range(50):
        stored = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
        if isinstance(stored, list):  # an empty file is none
            return [str(item) for item in stored]
        time.sleep(0.1)
    raise ConfigError(f"{path} does not hold the command of a run: give the whole command, with resume=PATH")


def check_stored(overrides: Iterable[str], folder: Path, config_dir: str | None = None) -> None:
    """Refuse a command that would do more than set values and choose files.

    Args:
        overrides: the stored command.
        folder: of the run, for the message.
        config_dir: the user's own files, named on the command line of now.

    Raises:
        ConfigError: names the first override that is refused, why, and the way for runs of one's own.
    """
    names, targets = defaultdict(set), set()
    for root in filter(None, (CONF_DIR, config_dir)):
        for path in Path(root).rglob("*.yaml"):
            names[path.parent.relative_to(root).as_posix()].add(path.stem)
            targets |= set(re.findall(r"_target_: *([\w.]+)", path.read_text(encoding="utf-8")))
    for item in overrides:
        if reason := refusal(item, names, targets):
            raise ConfigError(
                f"{folder} was started with {item[:100]!r}, which {reason}: nothing of it was done\n"
                f"if this run is yours: resume={folder} trust=true, and whatever it names may run"
            )


def refusal(item: str, names: dict[str, set[str]], targets: set[str]) -> str | None:
    """Why an override is not repeated; ``None`` if it is."""
    from emanet.model.heads import HEADS  # importing torch takes seconds

    try:
        override = OverridesParser.create().parse_override(item)
    except HydraException:
        return "is not KEY=VALUE"
    key, value = str(override.key_or_group), override.value()
    if re.match(r"hydra\b", key):
        return "is for Hydra itself"
    chosen = value if isinstance(value, list) else [value]
    if key in names and any(isinstance(name, str) and name not in names[key] for name in chosen):
        return f"chooses a file that is not in conf/{key}/"
    for place, leaf in leaves({key: value}):
        if "_target_" in place and leaf not in targets:
            return "names what is none of ours"
        if place.endswith("head") and leaf not in HEADS and leaf not in names["head"]:
            return "names a head that is none of ours"
        if not (leaf is None or isinstance(leaf, str | int | float)):
            return "is no plain value"
        if isinstance(leaf, str) and "${" in leaf and ":" in leaf:
            return "would be resolved"
    return None
