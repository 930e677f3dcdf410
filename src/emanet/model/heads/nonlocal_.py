"""Non-local block: every pixel attends to every other one."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from emanet.common.checks import at_least_one
from emanet.model.heads.layers import conv_bn


class NonLocal(nn.Module):
    r"""Embedded-Gaussian non-local block (Wang, Girshick, Gupta, He 2018, arXiv 1711.07971).

    .. math::
        y = x + \mathrm{BN}(W_z\,g(x)\,\mathrm{softmax}(\theta(x)^T \phi(x) / \sqrt{m})^T)

    with m = c / 2 inner channels, as published. The published formula has no root of m; most implementations of the
    block divide by it, and without it 256 channels saturate the softmax. The last batch norm starts with scale 0, as
    published: the block is the identity at first. Of the three embeddings only theta has a bias: the softmax takes out
    phi's, and the batch norm g's.

    Args:
        channels: channels c of the input and of the output.
    """

    def __init__(self, channels: int = 512) -> None:
        super().__init__()
        at_least_one(channels=channels)
        inner = max(channels // 2, 1)
        self.theta = nn.Conv2d(channels, inner, 1)
        self.phi = nn.Conv2d(channels, inner, 1, bias=False)
        self.g = nn.Conv2d(channels, inner, 1, bias=False)
        self.out = conv_bn(inner, channels)
        nn.init.zeros_(self.out.get_parameter("bn.weight"))

    def forward(self, x: Float[Tensor, "b c h w"]) -> tuple[Float[Tensor, "b c h w"], None]:
        """The input and what its pixels attend to."""
        query, key, value = (as_tokens(conv(x)) for conv in (self.theta, self.phi, self.g))
        y = F.scaled_dot_product_attention(query, key, value)  # never holds n x n weights
        return x + self.out(y.squeeze(1).transpose(1, 2).unflatten(2, x.shape[-2:])), None


def as_tokens(x: Float[Tensor, "b m h w"]) -> Float[Tensor, "b 1 n m"]:
    """Pixels as one head's tokens; side by side in memory, else the fused kernels are passed over."""
    return x.flatten(2).transpose(1, 2).unsqueeze(1).contiguous()
