"""Implementations of EMANet that lie in folders, for peers.py: the authors' layout, and any module with a factory.

Nothing of theirs stands here: they are imported from where they lie, and run.
"""

import importlib
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from implementations import CHANNELS, CLASSES, DEPTH, OURS, Implementation, K, Net, T, paper_net, take_over
from torch import Tensor, nn

from emanet.checkpoints.reference import to_reference_state_dict
from emanet.common.errors import ConfigError

SYNCHRONISED = "bn_lib.nn.modules"  # the authors' batch norm over several GPUs; on one device PyTorch's


def checkout(text: str) -> Implementation:
    """From ``NAME=FOLDER``, a checkout in the authors' layout, or ``NAME=FOLDER:MODULE:FACTORY``, any other.

    ``FACTORY()`` gives a module that takes images (b, 3, h, w) to logits of 21 classes, at any resolution.

    Raises:
        ConfigError: for a text, a folder or a module that is not what is expected; says what that is.
    """
    name, equals, rest = text.partition("=")
    path, *target = rest.split(":")
    if not (equals and name and path) or len(target) not in (0, 2):
        raise ConfigError(f"--checkout takes NAME=FOLDER or NAME=FOLDER:MODULE:FACTORY, got {text!r}")
    folder = Path(path).resolve()
    if not folder.is_dir():
        raise ConfigError(f"--checkout {name}: there is no folder {folder}")
    return any_checkout(name, folder, *target) if target else authors_checkout(name, folder)


# --- the authors' -----------------------------------------------------------------------------------------------------


def authors_checkout(name: str, folder: Path) -> Implementation:
    """The layout of XiaLiPKU/EMANet: ``network.py`` with ``EMAU`` and ``EMANet``, ``settings.py`` beside it."""
    if absent := [file for file in ("network.py", "settings.py") if not (folder / file).is_file()]:
        raise ConfigError(
            f"--checkout {name}: expected a checkout of XiaLiPKU/EMANet, with network.py and settings.py, but {folder} "
            f"lacks {' and '.join(absent)}; for another layout give {name}=FOLDER:MODULE:FACTORY"
        )

    def network() -> Net:
        with patch.object(torch, "load", return_value={}):  # ImageNet weights from a fixed path: ours replace them
            net = part(name, authors_module(name, folder), "EMANet")(CLASSES, DEPTH)
        take_over(net, to_reference_state_dict(paper_net()), name)
        return net

    def unit() -> nn.Module:
        found, our_unit = part(name, authors_module(name, folder), "EMAU")(CHANNELS, K, T), OURS.unit
        assert our_unit
        take_over(found, our_unit().state_dict(), name)
        return found

    def logits(net: Net, image: Tensor) -> Tensor:
        return net(image)

    def loss(net: Net, image: Tensor, mask: Tensor) -> Tensor:
        return net(image, mask)[0].mean()

    def origin() -> dict[str, Any]:
        return {"commit": commit(folder), "batch_norm": authors_module(name, folder).norm_layer.func.__module__}

    return Implementation(name, network, logits, loss, unit=unit, counterpart=OURS, origin=origin)


@cache
def authors_module(name: str, folder: Path) -> ModuleType:
    """Their ``network``; with PyTorch's batch norm where their synchronized one cannot be imported."""
    with imports_from(folder):
        try:
            importlib.import_module(SYNCHRONISED)
        except ImportError:
            names = SYNCHRONISED.split(".")
            for depth in range(1, len(names) + 1):
                sys.modules[".".join(names[:depth])] = module = ModuleType(".".join(names[:depth]))
            module.SynchronizedBatchNorm2d = nn.BatchNorm2d  # type: ignore[attr-defined]
        return imported(name, "network")


# --- any --------------------------------------------------------------------------------------------------------------


def any_checkout(name: str, folder: Path, module: str, factory: str) -> Implementation:
    """A module and a factory in it. Nothing is known of its weights, so its results are not compared with ours."""

    def network() -> Net:
        with imports_from(folder):
            net = part(name, imported(name, module), factory)()
        if not isinstance(net, nn.Module):
            raise ConfigError(f"--checkout {name}: {module}.{factory}() must give a torch.nn.Module, got {type(net)}")
        return net

    def logits(net: Net, image: Tensor) -> Tensor:
        found = net(image)
        while isinstance(found, list | tuple) and found:
            found = found[0]
        if not isinstance(found, Tensor) or found.ndim != 4 or found.shape[1] != CLASSES:
            got = tuple(found.shape) if isinstance(found, Tensor) else type(found)
            raise ConfigError(f"--checkout {name}: expected logits of shape (b, {CLASSES}, height, width), got {got}")
        return F.interpolate(found, size=image.shape[-2:], mode="bilinear", align_corners=True)

    def loss(net: Net, image: Tensor, mask: Tensor) -> Tensor:
        return F.cross_entropy(logits(net, image), mask, ignore_index=255)

    return Implementation(name, network, logits, loss, origin=lambda: {"commit": commit(folder)})


@contextmanager
def imports_from(folder: Path) -> Iterator[None]:
    """Look for modules in a folder first, and forget them afterwards: others may have the same names."""
    names = {path.stem for path in folder.iterdir()} | {SYNCHRONISED.split(".")[0]}

    def taken_out() -> dict[str, ModuleType]:
        return {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] in names}

    others = taken_out()
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        taken_out()
        sys.modules.update(others)


def imported(name: str, module: str) -> ModuleType:
    """Import a module of a checkout; say which failed, and why."""
    try:
        return importlib.import_module(module)
    except Exception as error:  # other people's code
        raise ConfigError(f"--checkout {name}: cannot import {module}: {type(error).__name__}: {error}") from error


def part(name: str, module: ModuleType, attribute: str) -> Any:
    """Something of a module; say what it has if that is missing."""
    if not callable(found := getattr(module, attribute, None)):
        there = ", ".join(key for key, value in vars(module).items() if isinstance(value, type)) or "no class"
        raise ConfigError(f"--checkout {name}: {module.__name__} has no {attribute}; it has {there}")
    return found


def commit(folder: Path) -> str:
    """Commit of a checkout, marked if files differ from it; ``unknown`` for a folder that is no repository itself."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False)
        return done.stdout.strip()

    top = git("rev-parse", "--show-toplevel")
    if not top or Path(top).resolve() != folder:
        return "unknown"
    return git("describe", "--always", "--abbrev=40", "--dirty") or "unknown"
