"""What a GPU alone can show of the Triton kernels: their arithmetic in bfloat16, on the tensor cores, at full size."""

import pytest
import torch
from torch import Tensor

from emanet.emau import EMAU, expectation_maximization, expectation_maximization_over_tiles, normalise
from emanet.kernels import iterate, reconstruct

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

#: As a share of the largest value, see test_em_triton.py; sums here have thousands of terms.
TOLERANCE = {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 3e-2}


@pytest.fixture(autouse=True)
def exact_products():
    """float32 products in float32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


def pixels(dtype: torch.dtype, b: int, c: int, n: int, k: int, channels_last: bool) -> tuple[Tensor, Tensor]:
    """Pixels and bases as the unit meets them: logits of some units, assignments neither hard nor flat."""
    x = 2 * torch.randn(b, n, c, device="cuda").to(dtype).transpose(1, 2)
    mu = normalise(torch.randn(b, c, k, device="cuda"))
    return (x if channels_last else x.contiguous()), mu


def assert_near(got: Tensor, expected: Tensor, share: float) -> None:
    """Equal up to a share of the largest value."""
    torch.testing.assert_close(got.double(), expected, rtol=0, atol=share * expected.abs().max().item())


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(
    ("b", "c", "n", "k"), [(2, 512, 4225, 64), (1, 256, 1089, 64), (1, 1024, 300, 256), (2, 48, 77, 5), (1, 16, 1, 1)]
)
def test_one_iteration_and_the_reconstruction_equal_float64s(
    b: int, c: int, n: int, k: int, dtype: torch.dtype, channels_last: bool
):
    x, mu = pixels(dtype, b, c, n, k, channels_last)
    before, last = iterate(x, mu, T=1, norm="l2", gradient="none")
    z, exact = expectation_maximization(x.double(), mu.to(dtype).double(), T=1)
    assert_near(last, exact, TOLERANCE[dtype])
    y = reconstruct(x, before, last, relu=True)
    assert y.stride() == x.stride()
    assert_near(y, torch.relu(exact @ z.transpose(1, 2)), TOLERANCE[dtype])


@pytest.mark.parametrize("gradient", ["none", "last", "full"])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_the_unit_equals_the_plain_one_in_float64_gradients_included(dtype: torch.dtype, gradient: str):
    torch.manual_seed(0)
    fast = EMAU(64, K=8, T=2, gradient=gradient, kernel="triton").cuda().to(dtype)
    plain = EMAU(64, K=8, T=2, gradient=gradient, kernel="torch").cuda().to(dtype).double()
    plain.load_state_dict(fast.state_dict())
    x, upstream = torch.randn(2, 2, 64, 21, 19, device="cuda").to(dtype)
    found = []
    for net in (fast, plain):
        leaf = x.to(net.mu.dtype).requires_grad_()
        y, mu = net.eval()(leaf)
        y.backward(upstream.to(y.dtype))
        found.append([y, mu, leaf.grad, *(p.grad for p in net.parameters() if p.grad is not None)])
    for got, expected in zip(*found, strict=True):
        assert_near(got, expected, 4 * TOLERANCE[dtype])


def test_a_run_repeats_to_the_last_bit():
    x, mu = pixels(torch.bfloat16, 2, 512, 4225, 64, True)
    first, second = (iterate(x, mu, T=3, norm="l2", gradient="none")[1] for _ in range(2))
    assert torch.equal(first, second)


def test_the_iterations_need_memory_for_sums_alone():
    x, mu = pixels(torch.bfloat16, 2, 512, 129 * 129, 64, True)
    iterate(x, mu, T=3, norm="l2", gradient="none")
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    start = torch.cuda.memory_allocated()
    iterate(x, mu, T=3, norm="l2", gradient="none")
    programs = torch.cuda.get_device_properties(0).multi_processor_count + 2
    assert torch.cuda.max_memory_allocated() - start < 1.5 * programs * 512 * 64 * 4


def test_tiles_give_the_bases_of_the_whole_image():
    x, mu = pixels(torch.bfloat16, 1, 512, 10_000, 64, True)
    tiled, _ = expectation_maximization_over_tiles(x.split(999, dim=2), mu, kernel="triton")
    _, whole = iterate(x, mu, T=3, norm="l2", gradient="none")
    assert_near(tiled, whole.double(), 1e-3)


def test_torch_compile_gives_the_same():
    net = EMAU(64, K=8).cuda().eval().bfloat16()
    x = torch.randn(2, 64, 17, 17, device="cuda", dtype=torch.bfloat16)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(net)(x)[0], net(x)[0], rtol=2e-2, atol=2e-2)
