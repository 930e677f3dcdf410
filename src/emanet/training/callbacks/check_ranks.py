"""Assert during training that all devices hold the same network."""

from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from torch import Tensor

from emanet.common.checks import at_least_one
from emanet.common.errors import EMANetError

WORDS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  #: integers by bytes per element


class DivergedRanksError(EMANetError):
    """Devices whose networks are no longer the same: a defect, or broken hardware."""


class CheckRanks(L.Callback):
    """Stop when bases, weights or running statistics differ between devices in a single bit.

    Args:
        every_n_steps: optimizer steps between two comparisons.
    """

    def __init__(self, *, every_n_steps: int = 100) -> None:
        at_least_one(every_n_steps=every_n_steps)
        self.every_n_steps = every_n_steps
        self._seen_step = 0

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Compare after every n-th optimizer step."""
        step = trainer.global_step
        if step == self._seen_step:
            return
        self._seen_step = step
        if step % self.every_n_steps == 0 and trainer.world_size > 1:
            different = differing_tensors(pl_module.state_dict())
            if different:
                shown = ", ".join(different[:5]) + (f" and {len(different) - 5} more" if len(different) > 5 else "")
                raise DivergedRanksError(
                    f"step {step}: the devices no longer hold the same network; different are {shown}. Results from "
                    "here on would be wrong: go on from an earlier checkpoint, and please report it"
                )


@torch.no_grad()
def differing_tensors(state: dict[str, Tensor]) -> list[str]:
    """Names of the tensors whose bits are not the same on all ranks; the same answer on every rank."""
    sums = torch.stack([checksum(tensor) for tensor in state.values()])
    low, high = sums.clone(), sums.clone()
    dist.all_reduce(low, dist.ReduceOp.MIN)
    dist.all_reduce(high, dist.ReduceOp.MAX)
    return [name for name, differs in zip(state, (low != high).tolist(), strict=True) if differs]


def checksum(tensor: Tensor) -> Tensor:
    """A 64-bit sum over a tensor's bits, in which positions count; stays on the device."""
    words = tensor.detach().contiguous().flatten().view(WORDS[tensor.element_size()]).long()
    return (words * torch.arange(1, 2 * words.numel(), 2, device=words.device)).sum()
