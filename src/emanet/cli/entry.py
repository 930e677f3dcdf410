"""What the scripts share: from Hydra's configuration to a job, and from a mistake to a readable error."""

import functools
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from emanet.cli.launch import in_lightning_child, needs_own_process, run_alone, write_result
from emanet.common.console import print_patiently
from emanet.common.errors import EMANetError
from emanet.common.interrupts import InterruptedRunError
from emanet.common.processes import end_with_parent
from emanet.config.schema import register

log = logging.getLogger(__name__)


def start(main: Callable[[], Any], prepare: Callable[[list[str]], list[str]]) -> None:
    """Run a script: register the schema, let ``prepare`` look at the command line, hand over to Hydra."""
    print_patiently()
    end_with_parent()
    register()
    try:
        sys.argv = prepare(sys.argv)
    except EMANetError as error:
        sys.exit(f"error: {error}")
    main()


def entry_point(job: Callable[[dict[str, Any]], Any]) -> Callable[[DictConfig], Any]:
    """Hand a job the settled configuration; end a run on a user's mistake with its message alone and exit code 1.

    In a study (sweep=NAME) the failure of a run is recorded in its folder, and the others go on; in another sweep the
    error is raised for the sweeper. A job on several devices gets a process of its own.
    """

    @functools.wraps(job)
    def wrapped(cfg: DictConfig) -> Any:
        from emanet.config.rules import settle  # after the configuration stands: importing torch takes seconds

        try:
            settled = settle(cfg)
            return run_alone() if needs_own_process(settled) else write_result(job(settled))
        except InterruptedRunError as error:
            log.error("%s", error)
            sys.exit(0 if in_lightning_child() else error.exit_code)  # else the first process is killed in its exit
        except Exception as error:
            mistake = isinstance(error, EMANetError)
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                if cfg.get("study") is None:
                    raise
                from emanet.studies.study import record_failure

                record_failure(run_dir(), error)
                log.error("%s: %s", run_dir(), error, exc_info=not mistake)
                return None
            if not isinstance(error, EMANetError):
                raise
            log.error("%s", error)
            sys.exit(error.exit_code)

    return wrapped


def run_dir() -> Path:
    """Folder of this run."""
    return Path(HydraConfig.get().runtime.output_dir)
