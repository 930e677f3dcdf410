"""The attention unit with mmsegmentation's two differences (FACTS section 2)."""

from typing import Any, Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from emanet.common.checks import one_of
from emanet.model.emau import EMAU, e_step
from emanet.model.projection import Projection, weighted_sums

Eps = Literal["added", "floor"]


class MMSegEMAU(EMAU):
    """The unit of mmsegmentation; with ``eps="added"`` and ``normalize_mean=False`` it is the paper's.

    Args:
        channels: channels c of the input and of the output.
        K, T, T_eval, momentum: see :class:`~emanet.model.emau.EMAU`.
        eps: what keeps a division by a norm finite. ``added``: 1e-6 is added, as the authors do; ``floor``: the norm
            is at least 1e-12, as ``torch.nn.functional.normalize`` does.
        normalize_mean: L2-normalize the batch's mean bases before the moving average takes them in.

    Raises:
        ValueError: for values out of range.
    """

    def __init__(
        self,
        channels: int = 512,
        *,
        K: int = 64,
        T: int = 3,
        T_eval: int | None = None,
        momentum: float = 0.9,
        eps: str = "floor",
        normalize_mean: bool = True,
    ) -> None:
        super().__init__(channels, K=K, T=T, T_eval=T_eval, momentum=momentum)
        one_of(Eps, eps=eps)
        self.eps: Any = eps
        self.normalize_mean = normalize_mean

    def run_em(
        self, x: Float[Tensor, "b c n"], projection: Projection | None = None
    ) -> tuple[Float[Tensor, "b n k"], Float[Tensor, "b c k"]]:
        """EM from the stored bases, with norms bounded from below instead of raised."""
        if self.eps == "added":
            return super().run_em(x, projection)
        z, mu = x.new_empty(0), self.mu.expand(len(x), -1, -1)
        for _ in range(self.iterations):
            z = e_step(x, mu, projection)
            mu = F.normalize(weighted_sums(x, F.normalize(z, p=1.0, dim=1), projection), dim=1)
        return z, mu

    def update_bases(self, mu: Float[Tensor, "b c k"]) -> None:
        """Move the stored bases towards the batch's mean, normalized first if so configured."""
        mean = mu.mean(dim=0, keepdim=True)
        super().update_bases(F.normalize(mean, dim=1) if self.normalize_mean else mean)
