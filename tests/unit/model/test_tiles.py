"""EM over tiles against EM over the whole image."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from emanet.model.emau import e_step, expectation_maximization, normalize
from emanet.model.tiles import expectation_maximization_over_tiles


def image(dtype: torch.dtype = torch.float64, n: int = 100) -> tuple[Tensor, Tensor]:
    """Pixels (2, 8, n) and bases (2, 8, 3)."""
    return torch.randn(2, 8, n, dtype=dtype), normalize(torch.randn(2, 8, 3, dtype=dtype))


@pytest.mark.parametrize("norm", ["l2", "layer", "none"])
@pytest.mark.parametrize("T", [1, 3, 6])
@pytest.mark.parametrize("sizes", [[100], [50, 50], [1, 60, 0, 39], [1] * 100])
def test_any_tiling_gives_the_bases_of_the_whole_image(sizes: list[int], T: int, norm: str):
    x, start = image()
    tiles = x.split(sizes, dim=2)
    mu, before = expectation_maximization_over_tiles(tiles, start, T=T, norm=norm)
    z, whole = expectation_maximization(x, start, T=T, norm=norm)
    torch.testing.assert_close(mu, whole, rtol=1e-10, atol=1e-12)
    responsibilities = torch.cat([e_step(tile, before) for tile in tiles], dim=1)
    torch.testing.assert_close(responsibilities, z, rtol=1e-10, atol=1e-12)


def test_float32_tiles_are_summed_as_exactly_as_a_whole_image_in_float64():
    x, start = image(torch.float32, n=20_000)
    mu, _ = expectation_maximization_over_tiles(x.split(64, dim=2), start)
    exact = expectation_maximization(x.double(), start.double())[1]
    assert mu.dtype == torch.float32
    torch.testing.assert_close(mu, exact.float(), rtol=0, atol=5e-7)


def test_a_function_reads_the_tiles_anew_for_each_iteration_and_one_at_a_time():
    x, start = image()
    passes, alive, most = 0, 0, 0

    def read() -> Iterator[Tensor]:
        nonlocal passes, alive, most
        passes += 1
        for tile in x.split(30, dim=2):
            alive += 1
            most = max(most, alive)
            yield tile.clone()
            alive -= 1

    mu, _ = expectation_maximization_over_tiles(read, start, T=4)
    assert (passes, most) == (4, 1)
    torch.testing.assert_close(mu, expectation_maximization(x, start, T=4)[1], rtol=1e-10, atol=1e-12)


def test_no_gradient_is_followed():
    x, start = image()
    assert not expectation_maximization_over_tiles([x.requires_grad_()], start)[0].requires_grad


def test_a_generator_is_refused_since_it_is_used_up_after_one_pass():
    x, start = image()
    with pytest.raises(ValueError, match="gone through T=3 times, and generator gives them once: pass a list, or a"):
        expectation_maximization_over_tiles((tile for tile in [x]), start)


def test_no_tiles_and_tiles_of_other_shapes_are_refused():
    x, start = image()
    with pytest.raises(ValueError, match="no tiles: there must be at least one"):
        expectation_maximization_over_tiles([], start)
    with pytest.raises(
        ValueError, match=r"a tile must be pixels of shape \(2, 8, n\), as the bases say, got \(2, 7, 100\)"
    ):
        expectation_maximization_over_tiles([x, x[:, :7]], start)
    with pytest.raises(ValueError, match="T must be at least 1, got T=0"):
        expectation_maximization_over_tiles([x], start, T=0)
