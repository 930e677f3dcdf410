"""A device that computes on the CPU and notes who waits for it: for what a GPU would be waited for, without one.

Its tensors hide CPU tensors, so every step from a device's value to the host is visible: reading one (``float``,
``if``), moving one, sizes that depend on values, and copies to the device that are not declared ``non_blocking``.
To be used in a process of its own: a device's name cannot be taken back.
"""

import json
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

NAME = "far"
READS = {"aten::_local_scalar_dense", "aten::equal", "aten::nonzero", "aten::masked_select", "aten::_unique2"}


class FarBackend(_DummyBackendModule):
    """What PyTorch asks a device for."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        """Precisions of autocast."""
        return [torch.bfloat16]


class FarTensor(torch.Tensor):
    """A tensor of the device, around its value on the CPU."""

    value: torch.Tensor

    @staticmethod
    def __new__(cls, value: torch.Tensor) -> "FarTensor":
        layout: dict[str, Any] = {"strides": value.stride(), "storage_offset": value.storage_offset()}
        tensor = torch.Tensor._make_wrapper_subclass(cls, value.shape, dtype=value.dtype, device=f"{NAME}:0", **layout)
        tensor.value = value
        return tensor

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{function} outside of FarDevice")

    def tolist(self) -> Any:
        """As of a GPU's tensor: through the CPU."""
        return self.cpu().tolist()


class FarDevice(TorchDispatchMode):
    """While active, ``device="far"`` works; ``waits`` says from where it was waited for."""

    def __init__(self) -> None:
        super().__init__()
        _setup_privateuseone_for_python_backend(NAME, FarBackend())
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(1, device=...) is a copy, and is seen
        self.waits: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator on the hidden tensors."""
        kwargs = dict(kwargs or {})
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, FarTensor)]
        device = kwargs.get("device")
        gives_far = bool(inputs) if device is None else torch.device(device).type == NAME
        if device is not None and gives_far:
            kwargs["device"] = "cpu"
        if waits(function.name().partition(".")[0], args, kwargs, bool(inputs), gives_far):
            self.waits.append(caller())
        bare_args, bare_kwargs = tree_map_only(FarTensor, lambda tensor: tensor.value, (args, kwargs))
        result = function(*bare_args, **bare_kwargs)
        if not gives_far:
            return result
        known = {id(tensor.value): tensor for tensor in inputs}  # an operator in place returns what it was given

        def hidden(tensor: torch.Tensor) -> FarTensor:
            return known[id(tensor)] if id(tensor) in known else FarTensor(tensor)

        return tree_map_only(torch.Tensor, hidden, result)


def waits(name: str, args: Any, kwargs: dict[str, Any], from_far: bool, to_far: bool) -> bool:
    """Whether an operator makes the host wait for the device."""
    if name in READS or (name == "aten::index" and any(is_boolean(index) for index in args[1])):
        return from_far
    if name == "aten::_to_copy":
        return from_far != to_far and not (to_far and kwargs.get("non_blocking"))
    if name == "aten::copy_":
        into_far = isinstance(args[0], FarTensor)
        declared = kwargs.get("non_blocking") or (len(args) > 2 and args[2])
        return into_far != isinstance(args[1], FarTensor) and not (into_far and declared)
    return False


def is_boolean(index: Any) -> bool:
    """Whether an index selects by value, so that the size of the result must be fetched."""
    return index is not None and index.dtype == torch.bool


def caller() -> str:
    """The innermost line outside of torch and of this file."""
    for frame in reversed(traceback.extract_stack()):
        if not any(part in frame.filename for part in ("/torch/", __file__, "apply_func.py", "<")):
            return f"{Path(frame.filename).name}:{frame.name}"
    return "?"


class FarAccelerator(CPUAccelerator):
    """To Lightning the device is a CPU."""

    def setup_device(self, device: torch.device) -> None:
        """Take any."""


class FarStrategy(SingleDeviceStrategy):
    """Trains on the device."""

    def __init__(self) -> None:
        super().__init__(device=torch.device(NAME, 0), accelerator=FarAccelerator())

    def teardown(self) -> None:
        """Leave the network where it is: the process is about to end."""


class Watch(L.Callback):
    """Write who waited during each training batch, and until the next one began, to a JSON file."""

    def __init__(self, device: FarDevice, path: Path) -> None:
        self.device, self.path = device, path
        self.batches: list[list[str]] = []
        self.devices: set[str] = set()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """A batch begins; what came since the last one began belongs to that."""
        if self.devices:
            self.batches.append(self.device.waits.copy())
        self.device.waits.clear()
        self.devices |= {tensor.device.type for tensor in (batch["image"], *pl_module.parameters())}

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write."""
        self.path.write_text(json.dumps({"batches": self.batches, "devices": sorted(self.devices)}))


def train_there(path: str) -> None:
    """Have src/train.py, in this process, train on the device, and write its waits to a file."""
    from emanet import build

    device = FarDevice()
    device.__enter__()
    trainer: Callable[..., L.Trainer] = L.Trainer

    def far_trainer(**options: Any) -> L.Trainer:
        for name in ("accelerator", "devices", "num_nodes", "strategy"):
            options.pop(name)
        return trainer(
            **options | {"strategy": FarStrategy(), "callbacks": [Watch(device, Path(path)), *options["callbacks"]]}
        )

    build.L.Trainer = far_trainer  # type: ignore[misc, assignment]
