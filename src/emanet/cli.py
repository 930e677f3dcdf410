"""What the scripts share: readable errors, going on with a run, and configuration that comes from a checkpoint."""

import functools
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from emanet.config import CONF_DIR, MMSegModelConfig, ModelConfig, TrainerConfig, register
from emanet.errors import ConfigError, EMANetError

log = logging.getLogger(__name__)

MODEL_SCHEMAS = {"emanet.mmseg.MMSegEMANet": MMSegModelConfig}  #: of networks with more arguments than EMANet


def start(main: Callable[[], Any], prepare: Callable[[list[str]], list[str]]) -> None:
    """Run a script: register the schema, let ``prepare`` look at the command line, hand over to Hydra."""
    register()
    try:
        sys.argv = prepare(sys.argv)
    except EMANetError as error:
        sys.exit(f"error: {error}")
    main()


def entry_point(job: Callable[[DictConfig], Any]) -> Callable[[DictConfig], Any]:
    """End a run on a user's mistake with its message alone and exit code 1.

    In a sweep the error is raised instead, so that one bad job does not take the others with it.
    """

    @functools.wraps(job)
    def wrapped(cfg: DictConfig) -> Any:
        try:
            return job(cfg)
        except EMANetError as error:
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                raise
            log.error("%s", error)
            sys.exit(1)

    return wrapped


def run_dir() -> Path:
    """Folder of this run."""
    return Path(HydraConfig.get().runtime.output_dir)


def argument(name: str, argv: Sequence[str]) -> str | None:
    """Value of ``name=VALUE`` on the command line, without quotes; ``None`` if it is not there."""
    values = [item.partition("=")[2] for item in argv if item.partition("=")[0].lstrip("+") == name]
    return values[-1].strip("'\"") if values else None


def expand_resume(argv: list[str]) -> list[str]:
    """Turn ``resume=RUN`` into the whole command of that run, so that going on takes one argument.

    ``RUN`` is a run folder or a checkpoint inside one. The overrides that started it come first, those given now
    after them; the run goes on in its own folder.

    Raises:
        ConfigError: if there is no run.
    """
    target = argument("resume", argv)
    if target in (None, "", "null") or "LOCAL_RANK" in os.environ:  # a rank started by Lightning has it expanded
        return argv
    folder = find_run(Path(str(target)))
    stored = list(OmegaConf.load(folder / ".hydra" / "overrides.yaml"))
    given = [item for item in argv[1:] if argument("resume", [item]) is None]
    names = {item.partition("=")[0].lstrip("+~") for item in given}
    kept = [item for item in stored if str(item).partition("=")[0].lstrip("+~") not in names | {"resume"}]
    return [argv[0], *kept, *given, f"resume='{Path(str(target)).expanduser().resolve()}'", f"hydra.run.dir='{folder}'"]


def find_run(target: Path) -> Path:
    """The run folder that ``target``, a folder or a checkpoint inside one, belongs to."""
    target = target.expanduser().resolve()
    for folder in (target, *target.parents[:2]):
        if (folder / ".hydra" / "overrides.yaml").is_file():
            return folder
    raise ConfigError(f"resume={target}: no run there; give a run folder (it holds .hydra/ and checkpoints/)")


def register_checkpoint(argv: list[str]) -> list[str]:
    """Make the configuration stored in ``checkpoint=PATH`` known to Hydra as dataset, model and trainer ``stored``.

    So ``python src/eval.py checkpoint=PATH`` needs nothing else, and every key of it can be overridden as usual.
    Weights from elsewhere bring their model; the trainer is then our default, the data set is to be named.
    """
    path = argument("checkpoint", argv)
    stored = stored_settings(path) if path else {}
    store = ConfigStore.instance()
    model = stored.get("model", {})
    schemas: dict[str, Any] = {"model": MODEL_SCHEMAS.get(model.get("_target_"), ModelConfig), "trainer": TrainerConfig}
    for group in ("dataset", "model", "trainer"):
        node = OmegaConf.structured(schemas[group]) if group in schemas else OmegaConf.create({})
        store.store(group=group, name="stored", node=OmegaConf.merge(node, stored.get(group, {})))
    return argv


def prepare_predict(argv: list[str]) -> list[str]:
    """Take paths as the shell gives them: quoted for Hydra, whose grammar has its own use for blanks, ``=`` and braces.

    Raises:
        ConfigError: if the checkpoint, the output, or what to predict is missing.
    """
    if not any(item.startswith("-") for item in argv[1:]):  # --help and the like need nothing
        lacking = [name for name in ("checkpoint", "output") if not argument(name, argv)]
        if not (argument("input", argv) or argument("split", argv)):
            lacking.append("input (a picture, video, folder or pattern)")
        if lacking:
            raise ConfigError(f"say what to predict: {', '.join(lacking)} is missing; see the head of src/predict.py")
    paths = {name: argument(name, argv) for name in ("checkpoint", "input", "output")}
    rest = [item for item in argv if item.partition("=")[0] not in paths]
    quoted = [f"{name}={quote(str(Path(path).expanduser()))}" for name, path in paths.items() if path]
    return register_checkpoint([*rest, *quoted])


def quote(text: str) -> str:
    """A string as Hydra's command line takes it, whatever it holds."""
    escaped = text.replace("\\'", "\\\\'").replace("'", "\\'")
    return f"'{escaped}'"


def stored_settings(path: str) -> dict[str, Any]:
    """Configuration groups stored in a checkpoint."""
    from emanet.restore import read_stored  # importing torch takes seconds

    return {"trainer": OmegaConf.load(f"{CONF_DIR}/trainer/default.yaml")} | read_stored(path).settings
