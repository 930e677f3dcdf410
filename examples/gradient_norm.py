"""A callback of one's own: the norm of the gradients as a metric.

    python src/train.py --config-dir examples/conf 'callbacks=[default,gradient_norm]' ...

Lightning's hooks say when it is called; ``run_dir`` is handed to a constructor that names it.
"""

from typing import Any

import lightning as L
import torch


class LogGradientNorm(L.Callback):
    """Log ``train/gradient_norm``, the Euclidean norm over all parameters.

    Args:
        every_n_steps: optimizer steps between two of them.
    """

    def __init__(self, *, every_n_steps: int = 10) -> None:
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps must be at least 1, got {every_n_steps}")
        self.every_n_steps = every_n_steps

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any) -> None:
        """The gradients are those of the whole step here."""
        if trainer.global_step % self.every_n_steps == 0:
            norms = [parameter.grad.norm() for parameter in pl_module.parameters() if parameter.grad is not None]
            pl_module.log("train/gradient_norm", torch.stack(norms).norm())
