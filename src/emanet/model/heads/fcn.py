"""No attention at all: what every other head is to be compared with."""

from jaxtyping import Float
from torch import Tensor, nn

from emanet.common.checks import at_least_one


class Plain(nn.Module):
    """Hands on what fc0 gives.

    Args:
        channels: channels of the input and of the output.
    """

    def __init__(self, channels: int = 512) -> None:
        super().__init__()
        at_least_one(channels=channels)

    def forward(self, x: Float[Tensor, "b c h w"]) -> tuple[Float[Tensor, "b c h w"], None]:
        """The input."""
        return x, None
