"""How the bases do: scalars for every logger at each validation, pictures for Weights & Biases."""

from typing import Any

import lightning as L
import torch
from jaxtyping import Float
from torch import Tensor

from emanet.common.visual import Pixels
from emanet.inference.attention import attention_sheet
from emanet.inference.bases import Look, cosines, has_bases, look, measure
from emanet.inference.similarity import similarity_picture
from emanet.training.callbacks.samples import ImageListener, pixels_of
from emanet.training.callbacks.wandb_media import showing, wandb_logger


class BasesMonitor(ImageListener):
    """Look at the attention unit on a few validation images, the same at every validation; other networks are ignored.

    All loggers get the scalars of :func:`emanet.inference.bases.measure`; W&B also gets ``bases/attention``, what each
    base is responsible for, and ``bases/cosines``, how alike the stored bases are. Runs on the first device alone: the
    network in evaluation waits for nobody.

    Args:
        n_images: number of images, evenly spread over the validation split.
        cell: longest side of a base's map in the pictures, in pixels.
    """

    def __init__(self, *, n_images: int = 4, cell: int = 96) -> None:
        super().__init__(n_images, cell)
        self._previous: Tensor | None = None
        self._looks: list[Look] = []
        self._images: list[tuple[str, Pixels]] = []

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
        if wandb_logger(trainer) is not None:
            self._images.append((str(batch["name"][item]), pixels_of(batch, item, trainer.datamodule)))  # type: ignore[attr-defined]

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
        """Log a sheet for each image, bases in a fixed order so that W&B's slider shows change; then the cosines."""
        if not self._images:
            return
        import wandb  # only where it is chosen

        net: Any = pl_module.net
        with showing(trainer, "pictures of the bases") as log_media:
            sheets = []
            for (name, pixels), seen in zip(self._images, self._looks, strict=True):
                title = f"{name}   step {trainer.global_step}"
                options = {"stride": net.output_stride, "title": title, "by_share": False, "cell": self.size}
                sheet = attention_sheet(pixels, seen.maps.float().numpy(), **options)
                sheets.append(wandb.Image(sheet, caption=name, file_type="jpg"))
            shares = torch.cat([seen.z for seen in self._looks]).mean(dim=0)
            title = f"step {trainer.global_step}"
            matrix = similarity_picture(cosines(stored_bases(net)).numpy(), shares.numpy(), title=title)
            log_media({"bases/attention": sheets, "bases/cosines": [wandb.Image(matrix)]})

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run measures the drift from."""
        return {"previous": self._previous}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self._previous = state_dict["previous"]


def stored_bases(net: Any) -> Float[Tensor, "c k"]:
    """The stored bases of a network, in float64 on the host."""
    return net.head.mu[0].detach().cpu().double()
