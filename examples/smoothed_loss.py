"""A loss of one's own: cross-entropy with smoothed labels.

    python src/train.py --config-dir examples/conf loss=smoothed loss.loss.smoothing=0.2 ...

Any ``loss(logits, mask) -> number`` works inside ``emanet.training.losses.BatchLoss``: logits (b, classes, h, w) at the
size of the mask. ``ignore_index``, ``num_classes`` and ``class_names`` are handed to a constructor that names them.
"""

from torch import Tensor, nn


class SmoothedCrossEntropy(nn.Module):
    """Mean over the labeled pixels.

    Args:
        smoothing: share of a pixel's label that is spread over all classes.
        ignore_index: label without loss.
    """

    def __init__(self, *, smoothing: float = 0.1, ignore_index: int = 255) -> None:
        super().__init__()
        self.loss = nn.CrossEntropyLoss(ignore_index=ignore_index, label_smoothing=smoothing)

    def forward(self, logits: Tensor, mask: Tensor) -> Tensor:
        """The loss of a batch."""
        return self.loss(logits, mask)
