"""Which implementation of the EM runs, and that those without Triton are equal to the last bit."""

import pytest
import torch
from torch import Tensor, nn

from emanet.complexity import LiveMemory
from emanet.emau import EMAU, check_options, e_step, expectation_maximization
from emanet.kernels import choice, iterate_in_place, pick
from emanet.mmseg import MMSegEMAU


class OnCuda:
    """What the choice looks at, of pixels on a GPU."""

    is_cuda = True
    device = torch.device("cuda")

    def __init__(self, dtype: torch.dtype, channels: int = 512) -> None:
        self.dtype = dtype
        self.shape = (2, channels, 100)

    def element_size(self) -> int:
        return self.dtype.itemsize


class Launcher:
    """A launcher of kernels on a machine with a GPU."""

    INTERPRETED = False


@pytest.fixture
def plain_pick(monkeypatch: pytest.MonkeyPatch):
    """The choice without the check of its arguments, on a machine with Triton."""
    monkeypatch.setattr(choice, "_launchers", [Launcher])
    monkeypatch.setattr(choice, "obstacle", choice.obstacle.__wrapped__)
    return pick.__wrapped__


@pytest.mark.parametrize(
    ("kernel", "dtype", "channels", "k", "expected"),
    [
        ("auto", torch.bfloat16, 512, 64, "triton"),
        ("auto", torch.float16, 512, 256, "triton"),
        ("auto", torch.float32, 512, 64, "torch"),
        ("auto", torch.float64, 512, 64, "torch"),
        ("auto", torch.bfloat16, 1025, 64, "torch"),
        ("auto", torch.bfloat16, 512, 257, "torch"),
        ("torch", torch.bfloat16, 512, 64, "torch"),
        ("triton", torch.float32, 512, 64, "triton"),
    ],
)
def test_on_cuda_16_bit_pixels_go_to_triton_once_it_is_proven_unless_told_otherwise(
    plain_pick, monkeypatch, kernel: str, dtype: torch.dtype, channels: int, k: int, expected: str
):
    if kernel == "auto":
        assert plain_pick(kernel, OnCuda(dtype, channels), k) == "torch"
    monkeypatch.setattr(choice, "PROVEN_ON_CUDA", True)
    assert plain_pick(kernel, OnCuda(dtype, channels), k) == expected


def test_without_triton_cuda_is_left_to_pytorch_and_triton_is_refused(plain_pick, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(choice, "_launchers", [None])
    assert plain_pick("auto", OnCuda(torch.bfloat16), 64) == "torch"
    with pytest.raises(ValueError, match="needs the package triton, which is not installed; set kernel=auto"):
        plain_pick("triton", OnCuda(torch.bfloat16), 64)


def test_on_a_cpu_triton_is_refused_with_the_device(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(choice, "_launchers", [Launcher])
    unit = EMAU(4, K=2, kernel="triton")
    for call in (unit, unit.attend):
        with pytest.raises(ValueError, match=r"kernel=triton cannot run here: it needs a CUDA device, got .* on cpu"):
            call(torch.zeros(1, 4, 2, 2))


def test_on_a_cpu_temporaries_are_saved_where_nobody_needs_them():
    x = torch.zeros(1, 4, 3)
    assert pick("auto", x, 2) == "torch"  # autograd may want them
    with torch.no_grad():
        assert pick("auto", x, 2) == "in_place"
        assert pick("torch", x, 2) == "torch"


@pytest.mark.parametrize("norm", ["l2", "layer", "none"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("channels_last", [False, True])
def test_in_place_iterations_equal_the_plain_steps_to_the_last_bit(norm: str, dtype: torch.dtype, channels_last: bool):
    from emanet.emau import normalise

    x = torch.randn(2, 70, 16, dtype=dtype).transpose(1, 2)
    x = x if channels_last else x.contiguous()
    mu = normalise(torch.randn(2, 16, 5, dtype=dtype))
    expected = expectation_maximization(x, mu, T=3, norm=norm)
    got = iterate_in_place(x, mu, T=3, normalise=lambda mu: normalise(mu, norm))
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


def units(**options: object) -> tuple[EMAU, EMAU]:
    """The unit by itself, and told to be plain PyTorch."""
    torch.manual_seed(0)
    net = EMAU(12, K=4, **options)
    plain = EMAU(12, K=4, **options, kernel="torch")
    plain.load_state_dict(net.state_dict())
    return net, plain


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_the_unit_without_temporaries_equals_the_plain_one_to_the_last_bit(
    training: bool, autocast: bool, memory_format: torch.memory_format
):
    x = torch.randn(2, 12, 5, 7).contiguous(memory_format=memory_format)
    outputs = []
    for net in units():
        net.train(training)
        leaf = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            y, mu = net(leaf)
            z, _ = net.attend(x)
        y.float().square().sum().backward()
        outputs.append((mu, z, y, leaf.grad, net.conv2[0].weight.grad))
    for index, (got, expected) in enumerate(zip(*outputs, strict=True)):
        assert got.dtype == expected.dtype
        if index < 2 or memory_format == torch.contiguous_format:
            assert torch.equal(got, expected)
        else:  # conv2 gets its input in another layout, and adds up in another order
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_the_reconstruction_takes_no_memory_but_conv1s_output():
    net, plain = units()
    storages = []
    for unit in (net, plain):
        pixels = unit.conv1(torch.randn(2, 12, 5, 7)).flatten(2)
        with torch.no_grad():
            storages.append(unit.reestimate(pixels)[0].data_ptr() == pixels.data_ptr())
    assert storages == [True, False]


def test_without_gradient_two_tensors_as_large_as_the_input_are_alive_at_most():
    net, x = units()[0].eval(), torch.randn(2, 12, 32, 32)
    live = LiveMemory(x)
    live.exclude(net)
    with torch.no_grad(), live:
        net(x)
    assert 2 * x.nbytes <= live.peak - x.nbytes < 2.1 * x.nbytes  # bases and batch norm's statistics are small


@pytest.mark.parametrize("batch", [1, 2])
def test_conv2_gets_the_layout_of_the_input(batch: int):
    net, _ = units()
    seen: list[tuple[int, ...]] = []
    net.conv2[0].register_forward_pre_hook(lambda module, args: seen.append(args[0].stride()))
    for memory_format in (torch.contiguous_format, torch.channels_last):
        x = torch.randn(batch, 12, 5, 7).contiguous(memory_format=memory_format)
        net(x)
        assert seen.pop() == x.stride()


def test_what_a_hook_kept_of_conv1_is_not_written_over():
    net, _ = units()
    kept: list[Tensor] = []
    net.conv1.register_forward_hook(lambda module, args, output: kept.append(output))
    x = torch.randn(1, 12, 3, 3)
    net(x)
    assert torch.equal(kept[0], nn.functional.conv2d(x, net.conv1.weight, net.conv1.bias))


def test_an_input_that_passes_conv1_unchanged_is_not_written_over():
    net, _ = units()
    net.conv1 = nn.Identity()
    x = torch.randn(1, 12, 3, 3)
    copy = x.clone()
    net(x)
    assert torch.equal(x, copy)


def test_the_exported_and_the_traced_unit_are_plain(monkeypatch: pytest.MonkeyPatch):
    x = torch.zeros(1, 4, 3)
    with torch.no_grad():
        for where in ((torch.compiler, "is_exporting"), (torch.compiler, "is_compiling"), (torch.jit, "is_tracing")):
            with monkeypatch.context() as patch:
                patch.setattr(*where, lambda: True)
                assert pick("auto", x, 2) == "torch"


def test_mmsegmentations_floor_has_no_triton_kernel():
    with pytest.raises(ValueError, match="eps=floor has no Triton kernel: set kernel=auto"):
        MMSegEMAU(4, K=2, kernel="triton")
    assert MMSegEMAU(4, K=2, eps="added", kernel="triton").kernel == "triton"


@pytest.mark.parametrize("eps", ["floor", "added"])
def test_mmsegmentations_unit_without_temporaries_equals_its_plain_one(eps: str):
    torch.manual_seed(0)
    net = MMSegEMAU(12, K=4, eps=eps)
    plain = MMSegEMAU(12, K=4, eps=eps, kernel="torch")
    plain.load_state_dict(net.state_dict())
    x = torch.randn(2, 12, 5, 7)
    for got, expected in zip(net(x), plain(x), strict=True):
        assert torch.equal(got, expected)


def test_an_unknown_kernel_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="kernel must be one of auto, torch, triton, got kernel='cuda'"):
        check_options(
            channels=1, K=1, T=1, T_eval=None, momentum=0.9, norm="l2", maintenance="none", gradient="none",
            renormalise=False, kernel="cuda",
        )  # fmt: skip


def test_responsibilities_of_the_unit_are_the_e_steps():
    net, _ = units(T=1)
    x = torch.randn(1, 12, 4, 4)
    with torch.no_grad():
        expected = e_step(net.conv1(x).flatten(2), net.mu)
    torch.testing.assert_close(net.attend(x)[0], expected, rtol=0, atol=0)
