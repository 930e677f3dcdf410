"""Double attention: gather features into a few descriptors, and give each pixel its mixture of them."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from emanet.common.checks import at_least_one
from emanet.model.heads.layers import conv_bn


class DoubleAttention(nn.Module):
    r"""Double attention block (Chen, Kalantidis, Li, Yan, Feng 2018, A^2-Nets, arXiv 1810.11579).

    .. math::
        G = A(x)\,\mathrm{softmax}_n(B(x))^T, \quad Z = G\,\mathrm{softmax}_{c_n}(V(x)), \quad
        y = x + \mathrm{BN}(W Z)

    A, B and V are 1x1 convolutions to c_m, c_n and c_n channels. The first softmax runs over the pixels (gather), the
    second over the c_n descriptors (distribute). Only V has a bias: the batch norm takes out A's, and the first softmax
    B's.

    Args:
        channels: channels c of the input and of the output.
        c_m: channels of a descriptor; ``None``: a quarter of the channels (our choice).
        c_n: number of descriptors; ``None``: a quarter of the channels (our choice).
    """

    def __init__(self, channels: int = 512, *, c_m: int | None = None, c_n: int | None = None) -> None:
        super().__init__()
        quarter = max(channels // 4, 1)
        c_m = quarter if c_m is None else c_m
        c_n = quarter if c_n is None else c_n
        at_least_one(channels=channels, c_m=c_m, c_n=c_n)
        self.a = nn.Conv2d(channels, c_m, 1, bias=False)
        self.b = nn.Conv2d(channels, c_n, 1, bias=False)
        self.v = nn.Conv2d(channels, c_n, 1)
        self.out = conv_bn(c_m, channels)

    def forward(self, x: Float[Tensor, "b c h w"]) -> tuple[Float[Tensor, "b c h w"], None]:
        """The input and each pixel's mixture of the image's descriptors."""
        maps = torch.softmax(self.b(x).flatten(2), dim=2)  # (b, c_n, n), each map sums to 1
        vectors = torch.softmax(self.v(x).flatten(2), dim=1)  # (b, c_n, n), each pixel's weights sum to 1
        descriptors = self.a(x).flatten(2) @ maps.transpose(1, 2)  # (b, c_m, c_n)
        return x + self.out((descriptors @ vectors).unflatten(2, x.shape[-2:])), None
