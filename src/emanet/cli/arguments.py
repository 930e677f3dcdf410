"""The command line before Hydra reads it: paths as the shell gives them, resumed runs, stored configuration."""

import os
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra._internal.utils import get_args_parser
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf

from emanet.cli.launch import in_lightning_child, place_process
from emanet.cli.replay import check_stored, stored_overrides
from emanet.common.errors import ConfigError
from emanet.common.processes import quote
from emanet.config.schema import CONF_DIR
from emanet.training.resume import AUTO, COMMAND, kept_command

#: keys that hold paths: texts, whatever they look like
PATHS = {"checkpoint", "checkpoints", "init_from", "input", "notes", "output", "page", "root", "runs", "source"}
PATHS |= {"dataset.root", "dataset.class_file", "dataset.cache", "hydra.run.dir", "hydra.sweep.dir"}
PATHS |= {"paths.data_dir", "paths.runs_dir"}


def argument(name: str, argv: Sequence[str]) -> str | None:
    """Value of ``name=VALUE`` on the command line, without quotes; ``None`` if it is not there."""
    values = [item.partition("=")[2] for item in argv if item.partition("=")[0].lstrip("+") == name]
    return values[-1].strip("'\"") if values else None


def flags(argv: Sequence[str]) -> Namespace:
    """Hydra's own options on the command line, such as ``--config-dir``."""
    return get_args_parser().parse_known_args(argv[1:])[0]


def quoted(item: str, *, swept: bool = False) -> str:
    """An argument as Hydra takes it: quoted where its grammar cannot read the value, or reads a path as no text.

    That grammar has its own use for blanks, ``=``, braces, brackets and letters beyond ASCII.
    """
    key, equals, value = item.partition("=")
    try:
        read = OverridesParser.create().parse_override(item).value()
        if key.lstrip("+") not in PATHS or isinstance(read, str | list | dict | None) or swept:
            return item
    except HydraException:
        if item.startswith("-") or not equals:
            return item
    is_list = value.startswith("[") and value.endswith("]")
    parts = value[1:-1].split(",") if is_list else value.split(",") if swept else [value]
    expanded = ",".join(quote(os.path.expanduser(part.strip() if len(parts) > 1 else part)) for part in parts)
    return f"{key}=[{expanded}]" if is_list else f"{key}={expanded}"


def prepare(argv: list[str]) -> list[str]:
    """Quote values, and let the working directory and the parent of ``--config-dir`` hold modules of the user's own."""
    for group in (item.removesuffix("=null") for item in argv[1:] if item.endswith("=null")):
        if Path(CONF_DIR, group).is_dir():
            raise ConfigError(f"{group}=null: give a file of conf/{group}/, or ~{group} to leave an optional one out")
    asked = flags(argv)
    places = [Path.cwd()] + ([Path(asked.config_dir).resolve().parent] if asked.config_dir else [])
    sys.path += [str(place) for place in places if str(place) not in sys.path]
    return [argv[0], *(quoted(item, swept=asked.multirun) for item in argv[1:])]


def prepare_train(argv: list[str]) -> list[str]:
    """Complete the command of a resumed run, or of a process that torchrun or Slurm started beside others."""
    return place_process(prepare(expand_resume(argv)))


def expand_resume(argv: list[str]) -> list[str]:
    """Turn ``resume=RUN`` into the whole command of that run, so that going on takes one argument.

    ``RUN`` is a run folder or a checkpoint inside one. The overrides that started it come first, those given now
    after them; the run goes on in its own folder. With ``trust=true`` they may name whatever they like.

    Raises:
        ConfigError: if there is no run, or one whose command does more than set values and choose files of ours.
    """
    target = argument("resume", argv)
    if target in (None, "", "null", AUTO) or in_lightning_child():  # which has it expanded
        return argv
    folder = find_run(Path(str(target)))
    stored = kept_command(folder) or stored_overrides(folder)
    if argument("trust", argv) != "true":
        check_stored(stored, folder, flags(argv).config_dir)
    given = [item for item in argv[1:] if item.partition("=")[0].lstrip("+") not in ("resume", "trust")]
    names = {item.partition("=")[0].lstrip("+~") for item in given}
    kept = [item for item in stored if item.partition("=")[0].lstrip("+~") not in names | {"resume"}]
    place = str(Path(str(target)).expanduser().resolve())
    own = [f"resume={quote(place)}", f"hydra.run.dir={quote(str(folder))}", "hydra.mode=RUN"]  # also if part of a sweep
    return [argv[0], *kept, *given, *own]


def find_run(target: Path) -> Path:
    """The run folder that ``target``, a folder or a checkpoint inside one, belongs to."""
    target = target.expanduser().resolve()
    for folder in (target, *target.parents[:2]):
        if (folder / COMMAND).is_file() or (folder / ".hydra" / "overrides.yaml").is_file():
            return folder
    raise ConfigError(f"resume={target}: no run there; give a run folder (it holds .hydra/ and checkpoints/)")


def prepare_eval(argv: list[str]) -> list[str]:
    """Make the configuration stored in ``checkpoint=PATH`` known to Hydra as dataset, model and trainer ``stored``.

    So ``python src/eval.py checkpoint=PATH`` needs nothing else, and every key of it can be overridden as usual.
    Weights from elsewhere bring their model; the trainer is then our default, the data set is to be named.
    """
    return with_stored(argv, {"checkpoint": ("checkpoint",)})


def prepare_predict(argv: list[str]) -> list[str]:
    """The same, and a complaint about what is missing in one go."""
    needed = {"checkpoint": ("checkpoint",), "output": ("output",)}
    return with_stored(argv, needed | {"input (a picture, video, folder or pattern)": ("input", "split")})


def with_stored(argv: list[str], needed: Mapping[str, Sequence[str]]) -> list[str]:
    """The command line of a job on a checkpoint; one of each group of arguments is needed, unless help is asked for."""
    lacking = [what for what, names in needed.items() if not any(argument(name, argv) for name in names)]
    if lacking and not any(item.startswith("-") for item in argv[1:]):
        raise ConfigError(f"{', '.join(lacking)} is missing: KEY=VALUE, see the head of {argv[0]}")
    checkpoint = argument("checkpoint", argv)
    stored: dict[str, Any] = {}
    if checkpoint:
        from emanet.checkpoints.settings import stored_settings  # importing torch takes seconds

        stored = stored_settings(checkpoint, trust=argument("trust", argv) == "true")
    for group in ("dataset", "model", "trainer"):
        ConfigStore.instance().store(group=group, name="stored", node=OmegaConf.create(stored.get(group, {})))
    return prepare(argv)


def prepare_search(argv: list[str]) -> list[str]:
    """Put what stands after ``--`` where the search finds it: the overrides of every trial's training."""
    if "--" not in argv:
        return prepare(argv)
    place = argv.index("--")
    after = prepare([argv[0], *argv[place + 1 :]])[1:]
    return [*prepare(argv[:place]), f"train=[{','.join(quote(item) for item in after)}]"]
