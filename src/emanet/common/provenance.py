"""Where a result comes from: versions, hardware, git commit, command line."""

import os
import platform
import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("emanet", "lightning", "timm", "albumentations", "torchmetrics", "hydra-core", "numpy")


def versions() -> dict[str, str | None]:
    """Versions of Python and of the packages that a result can depend on; ``None`` for one that is not installed."""
    exact = {"python": platform.python_version(), "torch": torch.__version__}  # with the build, such as +cu130
    return exact | {name: installed_version(name) for name in PACKAGES}


def installed_version(package: str) -> str | None:
    """Version of an installed package, read without importing it."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def hardware(device_type: str = "cpu", devices: int = 1) -> dict[str, Any]:
    """The processor, and the accelerators that a run on ``devices`` devices of this type uses."""
    affinity = getattr(os, "sched_getaffinity", None)
    gpus = []
    if device_type == "cuda":
        gpus = [torch.cuda.get_device_name(index) for index in range(min(devices, torch.cuda.device_count()))]
    return {
        "cpu": cpu_name(),
        "cores": len(affinity(0)) if affinity else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": gpus,
        "devices": devices,
        "system": platform.platform(),
    }


def cpu_name() -> str:
    """Model name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def git_state(package: Path | None = None) -> dict[str, Any] | None:
    """Commit of this source tree, and whether it has been changed since; ``None`` outside a clone of the project.

    A package that was installed inside somebody else's repository is no clone: its commit would say nothing.
    """
    package = (package or Path(__file__).parents[1]).resolve()
    root = _git(package, "rev-parse", "--show-toplevel")
    if root is None or (Path(root) / "src" / package.name).resolve() != package:
        return None
    commit = _git(package, "rev-parse", "HEAD")
    if commit is None:
        return None
    return {"commit": commit, "dirty": bool(_git(package, "status", "--porcelain"))}


def command_line() -> str:
    """The command that started this process, ready to be pasted into a shell."""
    return shlex.join(["python", *sys.argv])


def _git(folder: Path, *arguments: str) -> str | None:
    """Output of a git command, or ``None`` if it fails or there is no git."""
    try:
        result = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()
