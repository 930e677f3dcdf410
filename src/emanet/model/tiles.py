"""Exact EM over an image that comes in pieces."""

from collections.abc import Callable, Iterable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from emanet.common.checks import at_least_one
from emanet.model.emau import EPS, Norm, e_step, normalize

Tiles = Iterable[Tensor] | Callable[[], Iterable[Tensor]]


@torch.no_grad()
def expectation_maximization_over_tiles(
    tiles: Tiles, mu: Float[Tensor, "b c k"], *, T: int = 3, norm: Norm = "l2"
) -> tuple[Float[Tensor, "b c k"], Float[Tensor, "b c k"]]:
    """EM over all pixels of an image given in tiles: the bases of the whole image up to rounding.

    The statistics of an M-step, sums weighted by responsibilities, add up over disjoint sets of pixels. So any
    partition gives the same bases, and memory holds one tile and the sums (in float64, where the device has it),
    however large the image.

    Args:
        tiles: pixels (b, c, n_i) of disjoint pieces, of any sizes, empty ones included: a collection that can be gone
            through ``T`` times, or a function that returns a new iterable each time.
        mu: the bases to start from.
        T: iterations, each a pass over the tiles.
        norm: normalization of the bases after each M-step, as in :func:`emanet.model.emau.normalize`.

    Returns:
        The last bases, and the ones before them: the responsibilities of a tile are ``e_step(tile, before)``, its
        reconstruction is ``mu`` times their transpose.

    Raises:
        ValueError: for T below 1, an iterator (it would be used up after the first pass), no tile at all, or a tile
            that does not go with the bases.
    """
    at_least_one(T=T)
    if isinstance(tiles, Iterator):
        raise ValueError(
            f"tiles are gone through T={T} times, and {type(tiles).__name__} gives them once: pass a list, or a "
            "function that returns a new iterator each time"
        )
    wide = torch.float32 if mu.device.type == "mps" else torch.float64
    bases = before = mu.to(wide)
    for _ in range(T):
        sums = torch.zeros_like(bases)
        weights = torch.zeros_like(bases[:, :1])
        tile = None
        for tile in tiles() if callable(tiles) else tiles:
            if tile.ndim != 3 or tile.shape[:2] != mu.shape[:2]:
                expected = "{}, {}, n".format(*mu.shape)
                raise ValueError(
                    f"a tile must be pixels of shape ({expected}), as the bases say, got {tuple(tile.shape)}"
                )
            pixels = tile.to(torch.promote_types(tile.dtype, torch.float32))
            z = e_step(pixels, bases.to(pixels.dtype))
            sums += pixels @ z
            weights += z.sum(dim=1, keepdim=True)
        if tile is None:
            raise ValueError("no tiles: there must be at least one")
        before, bases = bases, normalize(sums / (EPS + weights), norm)
    return bases.to(mu.dtype), before.to(mu.dtype)
