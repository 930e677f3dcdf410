"""Predictions in Python: ``Predictor.from_checkpoint(path)(image) -> Prediction``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import nn

from emanet.checkpoints.restore import restore
from emanet.common.errors import ConfigError
from emanet.common.visual import Pixels
from emanet.data.transforms import Normalize
from emanet.inference.attention import base_maps
from emanet.inference.media import read_picture, to_rgb
from emanet.inference.views import PLAIN, Inference

Picture = str | Path | Image.Image | Pixels


@dataclass(frozen=True)
class Prediction:
    """What a network says about one image of h x w pixels."""

    mask: UInt8[np.ndarray, "h w"]  #: class of each pixel
    probabilities: Float[np.ndarray, "classes h w"] | None = None  #: if asked for
    attention: Float[np.ndarray, "k h2 w2"] | None = None  #: responsibility of each base for each feature, if asked for


class Predictor:
    """A network ready for pictures.

    Args:
        net: the network, with ``output_stride``; moved to ``device`` and set to evaluation.
        class_names: name of each class.
        palette: color of each class.
        mean, std: normalization of the input in units of 0..1, RGB.
        inference: scales, flip and sliding window.
        device: name of a torch device; ``auto``: an accelerator if there is one.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        class_names: Sequence[str],
        palette: UInt8[np.ndarray, "classes 3"],
        mean: Sequence[float],
        std: Sequence[float],
        inference: Inference = PLAIN,
        device: str = "auto",
    ) -> None:
        self.device = pick_device(device)
        net.to(memory_format=torch.channels_last)  # faster, equal up to rounding
        self.net: Any = net.to(self.device).eval()
        self.class_names, self.palette = tuple(class_names), palette
        self.inference = inference
        self._normalize = Normalize(mean, std)

    @classmethod
    def from_checkpoint(
        cls,
        checkpoint: str | Path,
        *,
        inference: Inference = PLAIN,
        device: str = "auto",
        model: Mapping[str, Any] | None = None,
        trust: bool = False,
    ) -> Self:
        """Rebuild the network of a checkpoint; see :mod:`emanet.checkpoints.restore` for what is read.

        Args:
            checkpoint: a file or folder.
            inference: scales, flip and sliding window.
            device: name of a torch device; ``auto``: an accelerator if there is one.
            model: arguments of the network that are to differ from those stored, such as ``{"T_eval": 5}``.
            trust: let the checkpoint name classes that are not ours, which can run code.
        """
        net, names, palette, mean, std = restore(checkpoint, model, trust=trust)
        return cls(net, class_names=names, palette=palette, mean=mean, std=std, inference=inference, device=device)

    def __call__(self, image: Picture, *, probabilities: bool = False, attention: bool = False) -> Prediction:
        """Predict one picture: a path, a Pillow image, or 8-bit RGB pixels (h, w, 3).

        Args:
            image: the picture, of any size.
            probabilities: also give the probabilities of all classes.
            attention: also give the responsibilities of the bases, as of one look at the whole image.
        """
        return self.batch([as_pixels(image)], probabilities=probabilities, attention=attention)[0]

    @torch.inference_mode()
    def batch(
        self, images: Sequence[Pixels], *, probabilities: bool = False, attention: bool = False
    ) -> list[Prediction]:
        """Predict several images of one size together; other sizes would need padding, which would enter the EM."""
        batch = torch.stack([torch.from_numpy(self._normalize(image)) for image in images]).to(self.device)
        if probabilities:
            scores = self.inference.probabilities(self.net, batch)
            masks = scores.argmax(1)
        else:
            scores, masks = None, self.inference.predict(self.net, batch)
        maps = base_maps(self.net, batch) if attention else None
        return [
            Prediction(
                masks[index].to(torch.uint8).cpu().numpy(),
                None if scores is None else scores[index].cpu().numpy(),
                None if maps is None else maps[index].cpu().numpy(),
            )
            for index in range(len(images))
        ]


def predict(checkpoint: str | Path, image: Picture, **options: Any) -> Prediction:
    """Predict one picture; for several, keep a :class:`Predictor`, which reads the checkpoint once.

    Args:
        checkpoint: see :meth:`Predictor.from_checkpoint`.
        image: see :meth:`Predictor.__call__`.
        options: of either.
    """
    wanted = {name: options.pop(name) for name in ("probabilities", "attention") if name in options}
    return Predictor.from_checkpoint(checkpoint, **options)(image, **wanted)


def as_pixels(image: Picture) -> Pixels:
    """Pixels of a picture, upright."""
    if isinstance(image, str | Path):
        return read_picture(Path(image).expanduser())
    return to_rgb(image) if isinstance(image, Image.Image) else image


def pick_device(name: str) -> torch.device:
    """The device of that name; ``auto`` is the first accelerator, else the processor.

    Raises:
        ConfigError: for a name that torch does not know, or a device that is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        raise ConfigError(f"device={name} cannot be used: {str(error).splitlines()[0]}") from error
    return device
