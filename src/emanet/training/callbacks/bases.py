"""How the bases do: scalars for every logger at each validation, pictures for Weights & Biases."""

from typing import Any

import lightning as L
import torch
from jaxtyping import Float
from torch import Tensor

from emanet.common.visual import Pixels, denormalize
from emanet.inference.attention import attention_sheet
from emanet.inference.bases import Look, cosines, has_bases, look, measure
from emanet.inference.similarity import similarity_picture
from emanet.training.callbacks.samples import ImageListener
from emanet.training.callbacks.wandb_media import Attempt, wandb_logger


class BasesMonitor(ImageListener):
    """Look at the attention unit on a few validation images, the same at every validation; other networks are ignored.

    All loggers get the scalars of :func:`emanet.inference.bases.measure`; W&B also gets ``bases/attention``, what each
    base is responsible for, and ``bases/cosines``, how alike the stored bases are. Runs on the first device alone: the
    network in evaluation waits for nobody.

    Args:
        n_images: number of images, evenly spread over the validation split.
        cell: longest side of a base's map in the pictures, in pixels.
        every_n_validations: log the pictures of every n-th validation; 0: none.
    """

    def __init__(self, *, n_images: int = 4, cell: int = 96, every_n_validations: int = 1) -> None:
        super().__init__(n_images)
        if every_n_validations < 0:
            raise ValueError(f"every_n_validations must be 0 (no pictures) or more, got {every_n_validations}")
        self.cell = cell
        self.every_n_validations = every_n_validations
        self._validations = 0
        self._previous: Tensor | None = None
        self._looks: list[Look] = []
        self._images: list[tuple[str, Pixels]] = []
        self._attempt = Attempt("pictures of the bases could not be logged")

    def listens(self, trainer: L.Trainer, pl_module: L.LightningModule) -> bool:
        """If there are bases."""
        return has_bases(pl_module.net)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Remember where the bases start; of a resumed run, they are remembered already."""
        if self._previous is None and has_bases(pl_module.net):
            self._previous = stored_bases(pl_module.net)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Choose the images."""
        super().on_validation_start(trainer, pl_module)
        self._looks, self._images = [], []

    def look(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: dict[str, Any], item: int
    ) -> None:
        """Run the EM on an image, in the precision of the run."""
        image = batch["image"][item : item + 1]
        with trainer.precision_plugin.forward_context():
            self._looks.append(look(pl_module.net, image))
        if self._shows(trainer):
            data: Any = trainer.datamodule  # type: ignore[attr-defined]
            pixels = denormalize(image[0].float().cpu().numpy(), tuple(data.mean), tuple(data.std))
            self._images.append((str(batch["name"][item]), pixels))

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the scalars, beside the scores of this validation."""
        if not self._looks:
            return
        stored = stored_bases(pl_module.net)
        scalars = measure(self._looks, stored, self._previous)
        # Of a single device, so nothing is synchronized; float32 as Lightning's own means are
        pl_module.log_dict(scalars, rank_zero_only=True)
        self._previous = stored

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the pictures."""
        if self._looks and self._shows(trainer):
            self._attempt(lambda: self._log_pictures(trainer, pl_module))
        self._validations += bool(self._looks)

    def _shows(self, trainer: L.Trainer) -> bool:
        """Whether somebody looks at the pictures of this validation."""
        every = self.every_n_validations
        return every > 0 and self._validations % every == 0 and wandb_logger(trainer) is not None

    def _log_pictures(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """A sheet for each image, bases in a fixed order so that W&B's slider shows them change; then the cosines."""
        logger = wandb_logger(trainer)
        if logger is None:
            return
        import wandb  # only where it is chosen

        net: Any = pl_module.net
        step = trainer.global_step
        sheets = []
        for (name, pixels), seen in zip(self._images, self._looks, strict=True):
            maps = seen.maps.float().numpy()
            title = f"{name}   step {step}"
            sheet = attention_sheet(pixels, maps, stride=net.output_stride, title=title, by_share=False, cell=self.cell)
            sheets.append(wandb.Image(sheet, caption=name, file_type="jpg"))
        shares = torch.cat([seen.z for seen in self._looks]).mean(dim=0)
        matrix = similarity_picture(cosines(stored_bases(net)).numpy(), shares.numpy(), title=f"step {step}")
        media = {"bases/attention": sheets, "bases/cosines": [wandb.Image(matrix)]}
        logger.log_metrics(media, step=step)  # type: ignore[arg-type]

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run measures the drift from."""
        return {"previous": self._previous, "validations": self._validations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self._previous, self._validations = state_dict["previous"], state_dict["validations"]


def stored_bases(net: Any) -> Float[Tensor, "c k"]:
    """The stored bases of a network, in float64 on the host."""
    return net.head.mu[0].detach().cpu().double()
