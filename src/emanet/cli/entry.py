"""What the scripts share: from a command line to a job, and from a mistake to a readable error."""

import logging
import os
import pkgutil
import sys
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from emanet.cli import arguments
from emanet.cli.launch import in_lightning_child, needs_own_process, run_alone, write_result
from emanet.common.console import print_patiently
from emanet.common.errors import EMANetError
from emanet.common.interrupts import InterruptedRunError
from emanet.common.processes import end_with_parent
from emanet.config.schema import CONF_DIR, register

log = logging.getLogger(__name__)

#: what each script runs with its configuration and its folder, and what completes its command line
JOBS = {
    "train": ("emanet.cli.jobs:train", arguments.prepare_train),
    "eval": ("emanet.cli.jobs:evaluate", arguments.prepare_eval),
    "predict": ("emanet.cli.jobs:predict", arguments.prepare_predict),
    "search": ("emanet.cli.jobs:search", arguments.prepare_search),
    "inspect_data": ("emanet.cli.jobs:inspect_data", arguments.prepare),
    "prepare": ("emanet.cli.entry:get_ready", arguments.prepare),
    "report": ("emanet.studies.report.build:write_report", arguments.prepare),
    "complexity": ("emanet.studies.complexity:report", arguments.prepare),
    "robustness": ("emanet.studies.robustness:evaluate_robustness", arguments.prepare),
    "dashboard": ("emanet.cli.entry:show_study", arguments.prepare),
}


def start(name: str) -> None:
    """Run a script: register the schema, complete the command line, hand over to Hydra."""
    job, prepare = JOBS[name]
    print_patiently()
    end_with_parent()
    register()
    os.environ["HYDRA_MAIN_MODULE"] = f"emanet.{name}"  # Hydra names the log after it
    try:
        sys.argv = prepare(sys.argv)
    except EMANetError as error:
        sys.exit(f"error: {error}")
    hydra.main(version_base="1.3", config_path=CONF_DIR, config_name=name)(partial(run, job))()


def run(job: str, cfg: DictConfig) -> Any:
    """Hand a job the settled configuration; end a run on a user's mistake with its message alone and exit code 1.

    In a study (sweep=NAME) the failure of a run is recorded in its folder, and the others go on; in another sweep the
    error is raised for the sweeper. A job on several devices gets a process of its own.
    """
    from emanet.config.rules import settle  # after the configuration stands: importing torch takes seconds

    folder = Path(HydraConfig.get().runtime.output_dir)
    try:
        settled = settle(cfg)
        if needs_own_process(settled):
            return run_alone()
        function = pkgutil.resolve_name(job)
        return write_result(function(settled, *([folder] if "run_dir" in signature(function).parameters else [])))
    except InterruptedRunError as error:
        log.error("%s", error)
        sys.exit(0 if in_lightning_child() else error.exit_code)  # else the first process is killed in its exit
    except Exception as caught:
        reason = missing_extra(caught) or caught
        mistake = isinstance(reason, EMANetError)
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            if cfg.get("study") is None:
                raise
            from emanet.studies.study import record_failure

            record_failure(folder, reason)
            log.error("%s: %s", folder, reason, exc_info=not mistake)
            return None
        if not isinstance(reason, EMANetError):
            raise
        log.error("%s", reason)
        sys.exit(reason.exit_code)


def missing_extra(error: Exception) -> EMANetError | None:
    """What to install, where a job needs a package that only an extra brings."""
    from emanet.config.instantiate import remedy

    package = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    return EMANetError(f"this needs {package}{remedy(package)}") if remedy(package) else None


class FolderCheck(Callback):
    """Refuses names that lead elsewhere and places that cannot be, before Hydra makes the folder of a run or sweep."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """For a run."""
        self.check(config, "run")

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """For a sweep."""
        self.check(config, "sweep")

    def check(self, config: DictConfig, kind: str) -> None:
        """End with what is wrong; Hydra prints the errors of a callback as warnings."""
        from emanet.config.rules import wrong_values

        try:
            if lines := [*wrong_values({"name": config.name, "study": config.get("study")})]:
                sys.exit(f"error: {lines[0]}")
            Path(config.hydra[kind].dir).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            sys.exit(f"error: no folder can be made at hydra.{kind}.dir={error.filename}: {error.strerror}")
        except OmegaConfBaseException as error:
            sys.exit(f"error: {str(error).splitlines()[0]}")


def get_ready(cfg: dict[str, Any]) -> None:
    """Prepare one benchmark, or all."""
    from emanet.data.preparing.job import prepare

    dataset, paths = cfg.pop("dataset"), cfg.pop("paths")
    prepare(dataset["name"], data_dir=paths["data_dir"], root=dataset["root"], **cfg)


def show_study(cfg: dict[str, Any]) -> None:
    """Build the workspace of a study, and say where it is."""
    from emanet.studies.dashboard import publish

    print(publish(cfg))
