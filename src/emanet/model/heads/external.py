"""External attention: pixels attend to two small memories that are learned, the same for all images."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from emanet.common.checks import at_least_one
from emanet.model.heads.layers import conv_bn


class ExternalAttention(nn.Module):
    r"""External attention (Guo, Liu, Mu, Hu 2021, arXiv 2105.02358), between the two 1x1 convolutions of a unit.

    .. math::
        a = \mathrm{softmax}_n(M_k^T W_1 x), \quad z = a / \sum_k a, \quad
        y = \mathrm{ReLU}(x + \mathrm{BN}(W_2 M_v z))

    The double normalization: a softmax over the pixels, then each pixel's row of K weights is divided by its sum. The
    first convolution has no bias: it would be the same for all pixels, and the softmax takes that out.

    Args:
        channels: channels c of the input and of the output.
        K: slots of each memory.
    """

    def __init__(self, channels: int = 512, *, K: int = 64) -> None:
        super().__init__()
        at_least_one(channels=channels, K=K)
        self.conv1 = nn.Conv2d(channels, channels, 1, bias=False)
        self.keys = nn.Conv2d(channels, K, 1, bias=False)  # memory M_k
        self.values = nn.Conv2d(K, channels, 1, bias=False)  # memory M_v
        self.conv2 = conv_bn(channels, channels)

    def attend(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h w"]:
        """Weights of the slots; each pixel's sum to 1."""
        scores = self.keys(self.conv1(x))
        # exp(log a) / sum_k exp(log a) is a / sum_k a, and divides by no small number
        weights = torch.softmax(torch.log_softmax(scores.flatten(2), dim=2), dim=1)
        return weights.view(scores.shape)

    def forward(self, x: Float[Tensor, "b c h w"]) -> tuple[Float[Tensor, "b c h w"], None]:
        """The input and each pixel's mixture of the second memory's slots."""
        return torch.relu(x + self.conv2(self.values(self.attend(x)))), None
