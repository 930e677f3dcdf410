"""Where a run goes on: the newest checkpoint that is whole."""

import logging
import os
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig

from emanet.common.errors import ConfigError
from emanet.common.files import locked, read_json, write_json
from emanet.common.processes import own_rank, quote
from emanet.training.checkpoint_io import CheckpointError

log = logging.getLogger(__name__)

AUTO = "auto"
COMMAND = "command.json"  #: in the run folder: the overrides that started the run; Hydra's own file is not atomic
#: what an epoch cannot be gone on with if it changes: positions count batches
COUNTED = ("dataset.batch_size", "dataset.drop_last", "dataset.train_split", "trainer.accumulate_grad_batches")
PATHS = ("dataset.root", "dataset.class_file", "dataset.cache", "init_from")


@contextmanager
def exclusive(run_dir: Path) -> Iterator[None]:
    """Have a run folder for this job alone, and keep its command there.

    Raises:
        ConfigError: if another process is at work in it.
    """
    if own_rank() != 0:  # the first process has it for all of them
        yield
        return
    try:
        with locked(run_dir / ".run.lock"):
            if kept_command(run_dir) is None:
                keep_command(run_dir)
            yield
    except BlockingIOError as error:
        raise ConfigError(
            f"{run_dir} is at work: {error} trains in it, and two runs in one folder would mix\n"
            "wait for that one to end, or give this one a folder of its own: hydra.run.dir=FOLDER"
        ) from error


def keep_command(run_dir: Path) -> None:
    """Keep the overrides of this run; of a resumed one, once it is known that it can go on with them."""
    if HydraConfig.initialized():
        write_json(run_dir / COMMAND, {"overrides": list(map(anchored, HydraConfig.get().overrides.task))})


def kept_command(run_dir: Path) -> list[str] | None:
    """The overrides that started a run; ``None`` of a folder that keeps none."""
    kept = (read_json(run_dir / COMMAND) or {}).get("overrides")
    return [str(item) for item in kept] if isinstance(kept, list) else None


def anchored(override: str) -> str:
    """An override whose path does not depend on the working directory."""
    key, _, value = override.partition("=")
    value = value.strip("'\"")
    relative = key.lstrip("+") in PATHS and value not in ("", "null") and "$" not in value
    return f"{key}={quote(absolute(value))}" if relative else override


def absolute(path: str) -> str:
    """A path from the root on, so that it is found from any working directory; what is no path stays."""
    place = Path(path).expanduser().absolute()
    return str(place) if place.exists() else path


def with_absolute_paths(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration whose paths are found from any working directory, as a run stores it."""
    result = dict(cfg)
    for key in PATHS:
        section, _, name = key.rpartition(".")
        holder = result[section] if section else result
        if isinstance(value := holder.get(name), str):
            changed = dict(holder) | {name: absolute(value)}
            result = result | {section: changed} if section else changed
    return result


def check_continuation(checkpoint: dict[str, Any], now: Mapping[str, Any]) -> None:
    """See that a checkpoint can be gone on from with this configuration, also in the middle of an epoch.

    Raises:
        ConfigError: for settings that change which images an epoch still has to show.
    """
    before = leaves(checkpoint.get("hyper_parameters", {}))
    different = {
        key: (before[key], value) for key, value in leaves(now).items() if key in before and before[key] != value
    }
    told = {key: f"{key}: {old} -> {new}" for key, (old, new) in different.items() if key != "resume"}
    if counted := [told[key] for key in COUNTED if key in told]:
        raise ConfigError(
            f"this run cannot go on with another {', '.join(counted)}: images of its epoch would come twice or never\n"
            "keep it, or start a new run from its weights: init_from=CHECKPOINT"
        )
    if told:
        log.info("going on with other settings: %s", ", ".join(told.values()))
    loop = checkpoint.get("loops", {}).get("fit_loop", {})
    epochs, batches = (loop.get(name, {}) for name in ("epoch_progress", "epoch_loop.batch_progress"))
    for counts in (
        (epochs.get("current", {}), epochs.get("total", {})) if not batches.get("is_last_batch", True) else ()
    ):
        # Lightning counts the epoch in which the last step was taken as done, and would leave out its other images
        counts["processed"] = counts["completed"] = min(counts["processed"], counts["started"] - 1)


def leaves(config: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """Values of a nested configuration by their dotted keys."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        found |= leaves(value, f"{where}{key}.") if isinstance(value, Mapping) else {f"{where}{key}": value}
    return found


def find_checkpoint(resume: str | None, run_dir: Path) -> Path | None:
    """The checkpoint to go on from, or ``None`` to start.

    Args:
        resume: a run folder; a checkpoint file; ``auto``: this run's own last checkpoint if there is one; null: start,
            or go on as ``auto`` does if a scheduler has restarted this job.
        run_dir: folder of this run.

    Raises:
        ConfigError: if there is nothing to go on from, or a run that would be overwritten.
        CheckpointError: if every candidate is damaged.
    """
    own = run_dir / "checkpoints"
    if resume is None and not was_restarted():
        if any(own.glob("*.ckpt")):
            raise ConfigError(
                f"{run_dir} holds the checkpoints of a run already: resume=auto goes on with it, another "
                "hydra.run.dir starts a new one"
            )
        return None
    if resume in (None, AUTO):
        return newest_whole(own)
    path = Path(str(resume)).expanduser()
    if path.is_file():
        if not is_whole(path):
            raise CheckpointError(
                f"{path} is damaged; resume={find_root(path)} takes the newest whole checkpoint there"
            )
        return path
    found = newest_whole(path / "checkpoints" if (path / "checkpoints").is_dir() else path)
    if found is None and path.resolve() != run_dir.resolve():
        raise ConfigError(f"resume={resume}: no checkpoint at {path}; the run had not saved one yet: start it again")
    if found is None:
        log.warning("%s had not saved a checkpoint yet: starting from the beginning", run_dir)
    return found


def newest_whole(folder: Path) -> Path | None:
    """``last.ckpt``, or if that is damaged the newest other checkpoint that is not; ``None`` if there is none at all.

    Raises:
        CheckpointError: if there are checkpoints, all damaged.
    """
    files = sorted(folder.glob("*.ckpt"), key=lambda path: (path.name == "last.ckpt", path.stat().st_mtime))
    damaged: list[Path] = []
    for path in reversed(files):
        if is_whole(path):
            if damaged:
                log.warning("%s is damaged: going on from %s instead", ", ".join(map(str, damaged)), path)
            return path
        damaged.append(path)
    if damaged:
        raise CheckpointError(f"every checkpoint in {folder} is damaged: {', '.join(path.name for path in damaged)}")
    return None


def is_whole(path: Path) -> bool:
    """Whether a checkpoint, a zip file as PyTorch writes it, has all its parts with the right checksums."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (zipfile.BadZipFile, EOFError):
        return False


def find_root(checkpoint: Path) -> Path:
    """Run folder of a checkpoint."""
    return checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint.parent


def was_restarted() -> bool:
    """Whether Slurm (a requeue) or torchrun (a failed process) has started this job before."""
    counts = (os.environ.get(name, "0") for name in ("SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT"))
    return any(count.isdigit() and int(count) > 0 for count in counts)
