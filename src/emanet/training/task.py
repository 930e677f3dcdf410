"""The training task: loss, metrics, optimizer, and the update of the bases over all devices."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from emanet.common.errors import ConfigError, DatasetError
from emanet.common.seeding import mix
from emanet.inference.views import PLAIN, Inference
from emanet.training.losses import NLL, LossTerms
from emanet.training.metrics import SegmentationMetrics
from emanet.training.optimizers import GroupedOptimizer
from emanet.training.resume import check_continuation
from emanet.training.schedulers import poly

Batch = dict[str, Any]


class SegmentationTask(L.LightningModule):
    """Train a network under the paper's recipe (FACTS section 3), or any other.

    Gradients, loss and bases are those of *one* batch made of all images of an optimizer step, over every device and
    accumulated batch, whatever their sizes: each is summed first and divided by the global denominator at the step.

    Args:
        net: the network; ``net(image, return_bases=True, low=True) -> (logits_low, mu)``, ``net.align_corners``,
            ``net.aux_weights`` and ``net.update_bases(mu)``.
        class_names: name of each class, for the metric keys.
        optimizer: makes the optimizer of a network; ``None``: the paper's.
        scheduler: makes its schedule, ``scheduler(optimizer, max_steps=...)``; ``None``: the paper's.
        loss: ``loss(logits_low, mask, align_corners=...) -> LossTerms``; ``None``: the paper's.
        ignore_index: label without score.
        seed: of the randomness inside the network (dropout).
        inference: how validation looks at images.
        palette: color of each class (r, g, b); stored beside the names, for predictions without the data set.
        config: the resolved run configuration as plain containers; stored in every checkpoint, so that a checkpoint
            alone is enough to rebuild network and data.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        class_names: Sequence[str],
        optimizer: GroupedOptimizer | None = None,
        scheduler: Callable[..., LRScheduler] | None = None,
        loss: Callable[..., LossTerms] | None = None,
        ignore_index: int = 255,
        seed: int = 0,
        inference: Inference = PLAIN,
        palette: Sequence[Sequence[int]] | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.net: Any = net
        self.class_names = list(class_names)
        self.optimizer = optimizer or GroupedOptimizer(partial(SGD, lr=9e-3, momentum=0.9, weight_decay=1e-4))
        self.scheduler = scheduler or poly
        self.loss: Any = loss or NLL(ignore_index=ignore_index)
        self.optimizer.freeze(net)
        self.metrics = SegmentationMetrics(len(self.class_names), ignore_index=ignore_index)
        self.save_hyperparameters(dict(config or {}))
        self.seed = seed
        self.inference = inference
        self.palette = palette
        #: step and scores of the last validation, stored beside the weights
        self.validation: dict[str, int | float] = {}
        self.judge: Callable[[Tensor, Tensor], bool] | None = None  #: (loss, bases) of a step -> whether it is taken
        self._window: StepWindow | None = None

    # --- training ---------------------------------------------------------------------------------------------------

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seed dropout from the position in the run: a resumed run needs no stored generator state."""
        torch.manual_seed(mix(self.seed, self.current_epoch, batch_idx, self.global_rank))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the batch's summed loss in units of one image; :meth:`on_before_optimizer_step` divides it."""
        image, mask = batch["image"], batch["mask"]
        # At the resolution of the features; auxiliary: logits of further heads, if any.
        try:
            logits_low, mu, *auxiliary = self.net(image, return_bases=True, low=True)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise ConfigError(
                f"{len(image)} image(s) of {tuple(image.shape[-2:])} leave a batch norm one value per channel\n"
                "give each device and accumulated batch two images, or raise dataset.crop_size"
            ) from error
        total, count = self.loss_terms(logits_low, mask)
        for weight, extra in zip(self.net.aux_weights if auxiliary else (), auxiliary, strict=True):
            total = total + weight * self.loss_terms(extra, mask).mean() * count
        # A constant on all devices; keeps the loss at a size that float16 can scale.
        pixels_per_image = mask.shape[-2] * mask.shape[-1]
        if self._window is None:
            self._window = StepWindow(mu, total.detach(), pixels_per_image)
        self._window.add(total.detach(), count, len(mask), None if mu is None else mu.detach())
        return total / pixels_per_image

    def loss_terms(self, logits_low: Tensor, mask: Tensor) -> LossTerms:
        """Loss of logits at the resolution of the features."""
        return self.loss(logits_low, mask, align_corners=self.net.align_corners)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Turn the accumulated gradients into those of the global mean loss, and move the bases once."""
        window, self._window = self._window, None
        if window is None:
            return
        loss, count, mean_mu = window.reduce()
        # Lightning has divided by the accumulated batches and DDP by the devices: undo both.
        scale = window.pixels_per_image * self.trainer.accumulate_grad_batches * self.trainer.world_size / count
        gradients = [p.grad for p in self.net.parameters() if p.grad is not None]
        torch._foreach_mul_(gradients, scale.to(gradients[0].dtype))
        # Nothing here may wait for the device: prog_bar=True fetches a value at every step, a number is copied there.
        self.log("train/loss", loss)
        self.log("train/lr", torch.tensor(optimizer.param_groups[0]["lr"], dtype=torch.float32))
        if self.judge is None or self.judge(loss, mean_mu):
            self.net.update_bases(mean_mu if mean_mu.numel() else None)
        else:  # without gradients the optimizer moves nothing, by momentum and weight decay neither
            optimizer.zero_grad(set_to_none=True)

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Ask to stop after the last step: Lightning then validates once more, whatever the interval."""
        if self.trainer.global_step >= self.trainer.estimated_stepping_batches:
            self.trainer.should_stop = True

    def configure_optimizers(self) -> Any:
        """The optimizer, and its schedule per optimizer step."""
        optimizer: Optimizer = self.optimizer(self.net)
        named = arguments_of(self.scheduler)
        length = {"max_steps": int(self.trainer.estimated_stepping_batches)} if "max_steps" in named else {}
        scheduler = self.scheduler(optimizer, **length)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    # --- evaluation -------------------------------------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        """Start a new confusion matrix."""
        self.metrics.reset()

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Count one batch of whole images; returns the predicted classes (b, h, w) for the callbacks."""
        if not batch["image"].isfinite().all():
            raise DatasetError(f"the input holds NaN or infinite values: {', '.join(batch.get('name', []))}")
        prediction = self.inference.predict(self.net, batch["image"])
        self.metrics.update(prediction, batch["mask"])
        return prediction

    def on_validation_epoch_end(self) -> None:
        """Log the scores of the whole split, over all devices."""
        scores = self.metrics.named_scores(self.class_names)
        self.log_dict(scores)
        self.validation = {"step": self.trainer.global_step} | {key: float(value) for key, value in scores.items()}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the last validation, for a later evaluation to be compared with, and what the classes are called."""
        checkpoint["validation"] = self.validation
        checkpoint["classes"] = {"names": self.class_names, "palette": self.palette}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Know the last validation again; a training goes on only as it was."""
        self.validation = checkpoint.get("validation", {})
        if self._trainer is not None and self._trainer.state.fn == "fit":
            check_continuation(checkpoint, self.hparams)


def arguments_of(function: Callable[..., Any]) -> set[str]:
    """Names that a function, or a partial call, still takes."""
    given = function.keywords if isinstance(function, partial) else {}
    return inspect.signature(function).parameters.keys() - given.keys()


class StepWindow:
    """Sums over the batches of one optimizer step on this device, and their reduction over all devices."""

    def __init__(self, mu: Tensor | None, total: Tensor, pixels_per_image: int) -> None:
        self.pixels_per_image = pixels_per_image
        mu = total.new_zeros(1, 0) if mu is None else mu  # without bases an empty sum
        self.mu_sum = torch.zeros_like(mu[0], dtype=torch.promote_types(mu.dtype, torch.float32))
        self.numbers = self.mu_sum.new_zeros(3)  # loss total, loss count, images

    def add(self, total: Tensor, count: Tensor, images: int, mu: Tensor | None) -> None:
        """Add a batch: its loss terms, its number of images and their final bases (b, c, k)."""
        if mu is not None:
            self.mu_sum += mu.sum(0)
        self.numbers += torch.stack([total, count, total.new_full((), images)])

    def reduce(self) -> tuple[Tensor, Tensor, Tensor]:
        """Global mean loss, what it was divided by, and the mean bases (1, c, k), empty where there are none."""
        flat = torch.cat([self.mu_sum.flatten(), self.numbers])
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(flat)
        total, count, images = flat[-3:]
        count = torch.where(count > 0, count, 1.0)  # a step without any counted pixel has loss 0 and no gradient
        return total / count, count, (flat[:-3] / images).view(1, *self.mu_sum.shape)
