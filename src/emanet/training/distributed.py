"""DistributedDataParallel for a network whose batch norms are not synchronized: every rank's statistics count."""

from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel


class SharedStatisticsDDPStrategy(DDPStrategy):
    """DDP that sends rank 0's buffers once, at the start, and from then on averages running statistics.

    By default DDP overwrites every rank's buffers with rank 0's before each training forward and before the first
    forward of an evaluation. The running statistics are then those of rank 0's images alone, and a rank without a
    validation image would leave the others waiting. The bases need no broadcast: they move by the global mean (see
    :class:`~emanet.training.task.SegmentationTask`).
    """

    def configure_ddp(self) -> None:
        """Wrap the model, which sends rank 0's parameters and buffers to all; later forwards send no buffers."""
        super().configure_ddp()
        assert isinstance(self.model, DistributedDataParallel)
        # Set afterwards: the constructor's broadcast_buffers=False would also leave out the first sending, and is
        # deprecated since torch 2.14, whose forward_sync_buffers older versions do not know.
        self.model.broadcast_buffers = False

    def optimizer_step(self, *args: Any, **kwargs: Any) -> Any:
        """Step the optimizer, then average the running statistics: any rank can evaluate and save at any time."""
        output = super().optimizer_step(*args, **kwargs)
        assert self.lightning_module is not None
        average_running_statistics(self.lightning_module)
        return output


@torch.no_grad()
def average_running_statistics(model: nn.Module) -> None:
    """Replace each training batch norm's running mean and variance by their means over all ranks, in one message.

    Batch norms that synchronize themselves are left out. The mean of the ranks' variances leaves out how far the ranks'
    means lie apart, which SyncBN would count in.
    """
    statistics = running_statistics(model)
    if not statistics or not dist.is_initialized() or dist.get_world_size() == 1:
        return
    flat = torch.cat([value.flatten() for value in statistics])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for value, mean in zip(statistics, flat.split([value.numel() for value in statistics]), strict=True):
        value.copy_(mean.view_as(value))


def running_statistics(model: nn.Module) -> list[Tensor]:
    """Running means and variances that a training forward moves differently on each rank."""
    return [
        value
        for module in model.modules()
        if isinstance(module, _BatchNorm) and not isinstance(module, nn.SyncBatchNorm) and module.training
        for value in (module.running_mean, module.running_var)
        if value is not None
    ]
