"""Where a run goes on: the newest checkpoint that is whole."""

import logging
import os
import zipfile
from pathlib import Path

from emanet.common.errors import ConfigError
from emanet.training.checkpoint_io import CheckpointError

log = logging.getLogger(__name__)

AUTO = "auto"


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
    if found is None:
        raise ConfigError(f"resume={resume}: no checkpoint at {path}; the run had not saved one yet: start it again")
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
