"""A head of one's own: each channel is weighted by the mean of the image (squeeze and excitation).

    python src/train.py --config-dir examples/conf head=gated model.reduction=8 ...

A head is ``head(x) -> (y, mu)``: features (b, channels, h, w) behind fc0, and ``None`` where it has no bases. Its
constructor's arguments are the keys of conf/head/gated.yaml. Name ``in_channels`` to get the backbone's features in
place of fc0's (and say ``self.out_channels``), or ``output_stride`` to be told it.
"""

import torch
from torch import Tensor, nn


class GatedHead(nn.Module):
    """y = x * sigmoid(W2 relu(W1 mean(x))).

    Args:
        channels: of the input and of the output.
        reduction: by which the inner layer is narrower.
    """

    def __init__(self, channels: int = 512, *, reduction: int = 16) -> None:
        super().__init__()
        if not 1 <= reduction <= channels:
            raise ValueError(f"reduction must be 1..{channels}, got reduction={reduction}")
        inner = channels // reduction
        self.gate = nn.Sequential(nn.Linear(channels, inner), nn.ReLU(), nn.Linear(inner, channels), nn.Sigmoid())

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        """The features, each channel weighted."""
        return x * self.gate(torch.mean(x, dim=(2, 3)))[:, :, None, None], None
