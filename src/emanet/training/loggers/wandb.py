"""Weights & Biases: online, offline, never in the way of a run."""

import logging
import netrc
import os
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import wandb
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from emanet.common.checks import at_least_one, one_of

log = logging.getLogger(__name__)

WANDB_MODES = ("online", "offline", "disabled")
WATCHED = ("gradients", "all")


class RunWandbLogger(WandbLogger):
    """Lightning's W&B logger, but the configuration goes to W&B once, when the run starts, and checkpoints as they end.

    Args:
        watched: ``gradients``, ``all`` (of them and the parameters) or ``None``: what is logged as histograms.
        watch_every: batches between two of them.
        upload: whether the best and the last checkpoint become artifacts at the end of training.
        options: see Lightning.
    """

    def __init__(
        self, *, watched: str | None = None, watch_every: int = 100, upload: bool = False, **options: Any
    ) -> None:
        super().__init__(**options)
        self._wandb_init.pop("anonymous", None)  # Lightning passes it always, and W&B warns of it
        self.watched, self.watch_every, self.upload = watched, watch_every, upload

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace) -> None:
        """Nothing: see above."""

    @rank_zero_only
    def log_graph(self, model: Any, input_array: Any = None) -> None:
        """Watch the network; Lightning hands it over here when it lies on its device."""
        if self.watched is not None:
            self.watch(model.net, log=self.watched, log_freq=self.watch_every, log_graph=False)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Hand the checkpoints of a finished training to W&B: an artifact with a version for each, named as its file.

        The files are read where they lie, by ``wandb sync`` too if the run is offline.
        """
        for name in ("best", "last") if self.upload and status == "success" else ():
            path = Path(self.save_dir or "") / "checkpoints" / f"{name}.ckpt"
            try:
                artifact = wandb.Artifact(f"model-{self.experiment.id}", type="model")
                artifact.add_file(str(path), policy="immutable")
                self.experiment.log_artifact(artifact, aliases=[name])
            except Exception as error:
                log.warning("W&B: %s was not taken as an artifact: %s: %s", path, type(error).__name__, error)

    @rank_zero_only
    def summarize(self, values: Mapping[str, Any]) -> None:
        """Put values beside the last ones of the metrics in the run's summary."""
        try:
            self.experiment.summary.update(dict(values))
        except Exception as error:
            log.warning("W&B: the summary was not written: %s: %s", type(error).__name__, error)

    def close(self, exit_code: int = 0) -> None:
        """End the open W&B run, so that the next job of a sweep in this process gets its own."""
        if wandb.run is not None:
            wandb.finish(exit_code=exit_code)

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The W&B run."""
        return super().experiment


def wandb_run(
    run_dir: Path,
    *,
    name: str | None = None,
    group: str | None = None,
    job_type: str | None = None,
    tags: Sequence[str] = (),
    config: Mapping[str, Any] | None = None,
    project: str = "emanet",
    entity: str | None = None,
    mode: str = "online",
    log_model: bool = False,
    watch: str | None = None,
    watch_every_n_batches: int = 100,
    init_timeout: float = 30.0,
    finish_timeout: float = 300.0,
) -> RunWandbLogger | None:
    """Start a W&B run, offline if it cannot be online; an offline run is uploaded later with ``wandb sync``.

    Args:
        run_dir: folder of the run; W&B's files go to ``wandb/`` in it.
        name, group, job_type, tags, config: of the run.
        project, entity: where the run appears in W&B; no entity means the user's default one.
        mode: ``online``, ``offline`` (opens no network connection) or ``disabled``.
        log_model: upload the best and the last checkpoint as artifacts at the end of training.
        watch: histograms of the ``gradients``, or of ``all`` gradients and parameters; ``None``: none.
        watch_every_n_batches: batches between two of them.
        init_timeout: seconds that the server has to answer at the start.
        finish_timeout: seconds that the upload of the rest may take at the end.

    Returns:
        The logger; ``None`` if it is disabled, or if W&B cannot be used at all.

    Raises:
        ValueError: for another mode, or something else to watch.
    """
    one_of((None, *WATCHED), watch=watch)
    at_least_one(watch_every_n_batches=watch_every_n_batches)
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # it would report its own errors home, offline too
    mode = {"dryrun": "offline", "run": "online"}.get(mode, mode)  # W&B's older names, met in WANDB_MODE
    one_of(WANDB_MODES, mode=mode)
    if mode == "disabled":
        return None
    if mode == "online" and not has_credentials():
        log.warning(
            "W&B: no API key was found (WANDB_API_KEY, or `wandb login`), so this run is tracked offline; upload it "
            "later with `wandb sync`. logger.wandb.mode=offline silences this"
        )
        mode = "offline"
    options: dict[str, Any] = {"name": name, "group": group, "job_type": job_type, "tags": list(tags)}
    options |= {"config": dict(config or {}), "project": project, "entity": entity, "save_dir": run_dir}
    options |= {"watched": watch, "watch_every": watch_every_n_batches, "upload": log_model}
    if getattr(rank_zero_only, "rank", 0) != 0:  # only the first process talks to W&B
        return RunWandbLogger(**options, mode=mode)
    limits: dict[str, Any] = {"init_timeout": init_timeout, "finish_timeout": finish_timeout}
    known = {key: value for key, value in limits.items() if key in wandb.Settings.model_fields}  # to this version
    options["settings"] = wandb.Settings(**known)
    if mode == "online":
        id_file = run_dir / "wandb" / "run_id"  # a resumed run goes on as the same run in W&B
        known_id = id_file.read_text(encoding="utf-8") if id_file.is_file() else None
        try:
            logger = start_wandb(RunWandbLogger(**options, id=known_id, mode=mode))
            id_file.parent.mkdir(exist_ok=True)
            id_file.write_text(str(logger.experiment.id), encoding="utf-8")
            return logger
        except Exception as error:  # whatever goes wrong between here and the server
            log.warning("W&B cannot be reached, so this run is tracked offline: %s", str(error).splitlines()[0])
    try:
        return start_wandb(RunWandbLogger(**options, mode="offline"))
    except Exception as error:
        log.warning("W&B cannot be used at all, training goes on without it: %s: %s", type(error).__name__, error)
        return None


def start_wandb(logger: RunWandbLogger) -> RunWandbLogger:
    """Start the run of a logger now, and not when training has begun; end one that an earlier job left open."""
    if wandb.run is not None:
        wandb.finish()
    _ = logger.experiment  # starts it
    return logger


def has_credentials() -> bool:
    """Whether W&B would find an API key without asking for one; W&B's own look-up prompts, and so blocks a job."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    known = wandb.setup().settings
    if known.api_key:
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL") or known.base_url).netloc
    candidates = [os.environ.get("NETRC"), "~/.netrc", "~/_netrc"]
    path = next((p for p in (Path(c).expanduser() for c in candidates if c) if p.is_file()), None)
    try:
        entry = netrc.netrc(path).authenticators(host) if path else None
    except (netrc.NetrcParseError, OSError):
        return False
    return bool(entry and entry[2])
