"""The command line before Hydra reads it: paths as the shell gives them, resumed runs, stored configuration."""

import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from emanet.cli.launch import in_lightning_child, place_process
from emanet.common.errors import ConfigError
from emanet.common.processes import quote
from emanet.training.resume import AUTO, COMMAND, kept_command

#: keys that hold paths: quoted for Hydra, whose grammar has its own use for blanks, ``=``, braces, letters beyond ASCII
PATHS = {"checkpoint", "checkpoints", "init_from", "input", "notes", "output", "page", "root", "runs", "source"}
PATHS |= {"dataset.root", "dataset.class_file", "dataset.cache", "hydra.run.dir", "hydra.sweep.dir"}
PATHS |= {"paths.data_dir", "paths.runs_dir"}
PLAIN = re.compile(r"[\w./\\:@%~+*-]*|.*\$\{.*", re.ASCII)  # what Hydra takes as it is; interpolations are Hydra's own


def argument(name: str, argv: Sequence[str]) -> str | None:
    """Value of ``name=VALUE`` on the command line, without quotes; ``None`` if it is not there."""
    values = [item.partition("=")[2] for item in argv if item.partition("=")[0].lstrip("+") == name]
    return values[-1].strip("'\"") if values else None


def quoted(item: str) -> str:
    """An argument as Hydra takes it; one that is quoted is taken as it is."""
    key, equals, value = item.partition("=")
    if key.lstrip("+") not in PATHS or not equals or value in ("", "null") or re.fullmatch(r"""'.*'|".*\"""", value):
        return item
    if value.startswith("[") and value.endswith("]"):
        if {*value} & {"'", '"'}:
            return item
        items = [part.strip() for part in value[1:-1].split(",") if part.strip()]
        return f"{key}=[{','.join(map(quote, items))}]"
    if key.lstrip("+") in ("checkpoint", "input", "output") or not PLAIN.fullmatch(value):
        return f"{key}={quote(value if '$' in value else str(Path(value).expanduser()))}"
    return item


def prepare(argv: list[str]) -> list[str]:
    """Quote paths, and let the working directory and the parent of ``--config-dir`` hold modules of the user's own."""
    places = [Path.cwd()]
    for before, item in zip(["", *argv], argv, strict=False):
        if before in ("--config-dir", "-cd"):
            places.append(Path(item).resolve().parent)
        elif item.startswith("--config-dir="):
            places.append(Path(item.partition("=")[2]).resolve().parent)
    sys.path += [str(place) for place in places if str(place) not in sys.path]
    swept = {"--multirun", "-m"} & {*argv}  # a list of paths is then one of several runs
    return [argv[0], *(item if swept and "," in item else quoted(item) for item in argv[1:])]


def prepare_train(argv: list[str]) -> list[str]:
    """Complete the command of a resumed run, or of a process that torchrun or Slurm started beside others."""
    return place_process(expand_resume(prepare(argv)))


def expand_resume(argv: list[str]) -> list[str]:
    """Turn ``resume=RUN`` into the whole command of that run, so that going on takes one argument.

    ``RUN`` is a run folder or a checkpoint inside one. The overrides that started it come first, those given now
    after them; the run goes on in its own folder.

    Raises:
        ConfigError: if there is no run.
    """
    target = argument("resume", argv)
    if target in (None, "", "null", AUTO) or in_lightning_child():  # which has it expanded
        return argv
    folder = find_run(Path(str(target)))
    stored = kept_command(folder) or read_overrides(folder / ".hydra" / "overrides.yaml")
    given = [item for item in argv[1:] if argument("resume", [item]) is None]
    names = {item.partition("=")[0].lstrip("+~") for item in given}
    kept = [item for item in stored if str(item).partition("=")[0].lstrip("+~") not in names | {"resume"}]
    place = str(Path(str(target)).expanduser().resolve())
    own = [f"resume={quote(place)}", f"hydra.run.dir={quote(str(folder))}", "hydra.mode=RUN"]  # also if part of a sweep
    return [argv[0], *kept, *given, *own]


def read_overrides(path: Path) -> list[Any]:
    """The command of a run; waits for a first process that is just writing it again."""
    for _ in range(50):
        stored = OmegaConf.load(path)
        if OmegaConf.is_list(stored):  # an empty file is none
            return list(stored)
        time.sleep(0.1)
    raise ConfigError(f"{path} does not hold the command of a run: give the whole command, with resume=PATH")


def find_run(target: Path) -> Path:
    """The run folder that ``target``, a folder or a checkpoint inside one, belongs to."""
    target = target.expanduser().resolve()
    for folder in (target, *target.parents[:2]):
        if (folder / COMMAND).is_file() or (folder / ".hydra" / "overrides.yaml").is_file():
            return folder
    raise ConfigError(f"resume={target}: no run there; give a run folder (it holds .hydra/ and checkpoints/)")


def asks_for_help(argv: Sequence[str]) -> bool:
    """Whether nothing is to be run: ``--help``, ``--cfg`` and the like."""
    return any(item.startswith("-") for item in argv[1:])


def prepare_eval(argv: list[str]) -> list[str]:
    """Make the configuration stored in ``checkpoint=PATH`` known to Hydra as dataset, model and trainer ``stored``.

    So ``python src/eval.py checkpoint=PATH`` needs nothing else, and every key of it can be overridden as usual.
    Weights from elsewhere bring their model; the trainer is then our default, the data set is to be named.
    """
    if argument("checkpoint", argv) is None and not asks_for_help(argv):
        raise ConfigError("say which checkpoint: checkpoint=PATH is missing")
    register_stored(argv)
    return prepare(argv)


def prepare_predict(argv: list[str]) -> list[str]:
    """The same, and a complaint about what is missing in one go."""
    if not asks_for_help(argv):
        lacking = [name for name in ("checkpoint", "output") if not argument(name, argv)]
        if not (argument("input", argv) or argument("split", argv)):
            lacking.append("input (a picture, video, folder or pattern)")
        if lacking:
            raise ConfigError(f"say what to predict: {', '.join(lacking)} is missing; see the head of src/predict.py")
    register_stored(argv)
    return prepare(argv)


def register_stored(argv: Sequence[str]) -> None:
    """Make dataset, model and trainer ``stored`` known to Hydra; without a checkpoint they are empty."""
    checkpoint = argument("checkpoint", argv)
    stored: dict[str, Any] = {}
    if checkpoint:
        from emanet.checkpoints.settings import stored_settings  # importing torch takes seconds

        stored = stored_settings(checkpoint, trust=argument("trust", argv) == "true")
    for group in ("dataset", "model", "trainer"):
        ConfigStore.instance().store(group=group, name="stored", node=OmegaConf.create(stored.get(group, {})))


def prepare_search(argv: list[str]) -> list[str]:
    """Put what stands after ``--`` where the search finds it: the overrides of every trial's training."""
    if "--" not in argv:
        return prepare(argv)
    place = argv.index("--")
    after = prepare([argv[0], *argv[place + 1 :]])[1:]
    return [*prepare(argv[:place]), f"train=[{','.join(quote(item) for item in after)}]"]
