"""What the scripts share: readable errors, going on with a run, and configuration that comes from a checkpoint."""

import functools
import logging
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError

from emanet.cli.launch import in_lightning_child, needs_own_process, place_process, run_alone, write_result
from emanet.common.errors import ConfigError, EMANetError
from emanet.common.interrupts import InterruptedRunError
from emanet.common.processes import quote
from emanet.config.schema import TrainerConfig, register
from emanet.studies.study import record_failure
from emanet.training.resume import AUTO

log = logging.getLogger(__name__)


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

    In a study (sweep=NAME) the failure of a run is recorded in its folder, and the others go on; in another sweep the
    error is raised for the sweeper. A job on several devices gets a process of its own.
    """

    @functools.wraps(job)
    def wrapped(cfg: DictConfig) -> Any:
        try:
            return run_alone() if needs_own_process(cfg) else write_result(job(cfg))
        except InterruptedRunError as error:
            log.error("%s", error)
            sys.exit(0 if in_lightning_child() else error.exit_code)  # else the first process is killed in its exit
        except Exception as error:
            mistake = isinstance(error, (EMANetError, InterpolationResolutionError))
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                if OmegaConf.select(cfg, "study") is None:
                    raise
                record_failure(run_dir(), error)
                log.error("%s: %s", run_dir(), error, exc_info=not mistake)
                return None
            if not mistake:
                raise
            if isinstance(error, EMANetError):
                log.error("%s", error)
                sys.exit(error.exit_code)
            log.error("%s", str(error).splitlines()[0])  # the other lines are OmegaConf's own
            sys.exit(1)

    return wrapped


def run_dir() -> Path:
    """Folder of this run."""
    return Path(HydraConfig.get().runtime.output_dir)


def argument(name: str, argv: Sequence[str]) -> str | None:
    """Value of ``name=VALUE`` on the command line, without quotes; ``None`` if it is not there."""
    values = [item.partition("=")[2] for item in argv if item.partition("=")[0].lstrip("+") == name]
    return values[-1].strip("'\"") if values else None


def prepare_train(argv: list[str]) -> list[str]:
    """Complete the command of a resumed run, or of a process that torchrun or Slurm started beside others."""
    return place_process(expand_resume(argv))


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
    stored = read_overrides(folder / ".hydra" / "overrides.yaml")
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
        if (folder / ".hydra" / "overrides.yaml").is_file():
            return folder
    raise ConfigError(f"resume={target}: no run there; give a run folder (it holds .hydra/ and checkpoints/)")


def register_checkpoint(argv: list[str]) -> list[str]:
    """Make the configuration stored in ``checkpoint=PATH`` known to Hydra as dataset, model and trainer ``stored``.

    So ``python src/eval.py checkpoint=PATH`` needs nothing else, and every key of it can be overridden as usual.
    Weights from elsewhere bring their model; the trainer is then our default, the data set is to be named.
    """
    path = argument("checkpoint", argv)
    register_stored(path)
    if path is None and not any(item.startswith("-") for item in argv[1:]):  # --help and the like need none
        raise ConfigError("say which checkpoint: checkpoint=PATH is missing")
    rest = [item for item in argv if item.partition("=")[0] != "checkpoint"]
    return [*rest, f"checkpoint={quote(path)}"] if path else argv


def register_stored(checkpoint: str | None) -> None:
    """Make dataset, model and trainer ``stored`` known to Hydra; without a checkpoint they are empty."""
    stored = {}
    if checkpoint:
        from emanet.checkpoints.settings import stored_settings  # importing torch takes seconds

        stored = stored_settings(checkpoint)
    store = ConfigStore.instance()
    schemas: dict[str, Any] = {"trainer": TrainerConfig}
    for group in ("dataset", "model", "trainer"):
        node = OmegaConf.structured(schemas[group]) if group in schemas else OmegaConf.create({})
        store.store(group=group, name="stored", node=OmegaConf.merge(node, stored.get(group, {})))


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
    register_stored(paths["checkpoint"])
    return [*rest, *quoted]


def prepare_search(argv: list[str]) -> list[str]:
    """Put what stands after ``--`` where the search finds it: the overrides of every trial's training."""
    if "--" not in argv:
        return argv
    place = argv.index("--")
    return [*argv[:place], f"train=[{','.join(quote(item) for item in argv[place + 1 :])}]"]
