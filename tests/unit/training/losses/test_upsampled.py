"""Cross-entropy of upsampled logits in blocks, against PyTorch's interpolation and cross-entropy."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from emanet.studies.complexity import LiveMemory
from emanet.training.losses import blocks as upsampled_loss_blocks
from emanet.training.losses import upsampled as upsampled_loss
from emanet.training.losses.blocks import in_blocks, taps
from emanet.training.losses.upsampled import (
    pick,
    upsampled_cross_entropy,
    upsampled_losses,
)
from loss_cases import CASES, Case, inputs, reference, run

SIZES = [
    ((5, 7), (33, 49)),  # an input row every 8 output rows
    ((5, 7), (34, 50)),
    ((9, 8), (5, 4)),
    ((1, 1), (7, 9)),
    ((4, 1), (4, 20)),
    ((5, 7), (5, 7)),
]


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several parts and blocks even of little."""
    monkeypatch.setattr(upsampled_loss_blocks, "BLOCK", 400)


def example(dtype: torch.dtype = torch.float64, **options) -> tuple[Tensor, Tensor, Tensor]:
    """Logits that ask for a gradient, a mask with ignored pixels, class weights."""
    low, mask, weights = inputs(Case(4, (5, 7), (33, 49), b=3, weighted=True, **options))
    assert weights is not None
    return low.to(dtype).requires_grad_(), mask, weights.to(dtype)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize(("low", "size"), SIZES)
def test_losses_and_gradient_equal_pytorchs_in_float64(small_blocks, low, size, align_corners: bool, weighted: bool):
    case = Case(4, low, size, align_corners, b=3, weighted=weighted)
    logits, mask, weights = inputs(case)
    logits = logits.double().requires_grad_()
    options = {"align_corners": align_corners, "class_weights": weights}
    total = upsampled_cross_entropy(logits, mask, **options)
    (gradient,) = torch.autograd.grad(total, logits)
    expected = reference(logits, mask, weights, align_corners)
    torch.testing.assert_close(total, expected["total"], rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient, expected["gradient"], rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(upsampled_losses(logits, mask, **options), expected["losses"], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", CASES)
def test_losses_and_gradient_in_float32_and_below_equal_float64_up_to_rounding(small_blocks, name: str):
    case = CASES[name]
    low, mask, weights = inputs(case)
    got = run(case)
    for key, expected in reference(low, mask, weights, case.align_corners).items():
        # 2^-24 times a few operations and the root of some hundred summands; a 16-bit gradient is rounded once
        eps = torch.finfo(case.dtype if key == "gradient" else torch.float32).eps
        scale = max(1e-3, expected.abs().max().item())
        torch.testing.assert_close(got[key].double(), expected, rtol=0, atol=max(2e-6, eps) * scale)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32_and_the_gradient_rounded_once(small_blocks, dtype: torch.dtype):
    low, mask, weights = example(dtype)
    wide = low.detach().float().requires_grad_()
    results = []
    for logits in (low, wide):
        total = upsampled_cross_entropy(logits, mask, align_corners=True, class_weights=weights.float())
        results.append((total, torch.autograd.grad(total * 0.25, logits)[0]))
    (half_total, half), (total, gradient) = results
    assert torch.equal(half_total, total)
    assert torch.equal(half, gradient.to(dtype))


def test_a_float16_gradient_is_rounded_after_its_scale(small_blocks):
    """A gradient that float16 alone would round to 0 survives the scale of mixed precision."""
    low = torch.tensor([[[[20.0]], [[0.0]]]], dtype=torch.float16, requires_grad=True)
    total = upsampled_cross_entropy(low, torch.zeros(1, 2, 2, dtype=torch.int64), align_corners=True)
    (total * 2.0**24).backward()
    expected = 4 * torch.sigmoid(torch.tensor(-20.0, dtype=torch.float64)).item() * 2**24
    assert low.grad[0, 1].item() == pytest.approx(expected, rel=1e-3)
    assert torch.tensor(expected / 2**24).half() == 0


def test_neither_autocast_nor_matmul_precision_change_a_bit(small_blocks):
    low, mask, weights = example(torch.float32)
    results = []
    for precision, autocast in (("highest", False), ("medium", False), ("highest", True)):
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision(precision)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            total = upsampled_cross_entropy(low, mask, align_corners=False, class_weights=weights)
        results.append((total, torch.autograd.grad(total, low)[0]))
        torch.set_float32_matmul_precision(before)
    for total, gradient in results[1:]:
        assert torch.equal(total, results[0][0])
        assert torch.equal(gradient, results[0][1])


def test_the_layout_of_the_logits_changes_nothing(small_blocks):
    low, mask, _ = example(torch.float32)
    expected = upsampled_cross_entropy(low, mask, align_corners=True)
    (gradient,) = torch.autograd.grad(expected, low)
    padded = F.pad(low.detach(), (1, 2, 3, 4))[:, :, 3:-4, 1:-2]
    for other in (low.detach().contiguous(memory_format=torch.channels_last), padded):
        leaf = other.requires_grad_()
        total = upsampled_cross_entropy(leaf, mask, align_corners=True)
        assert torch.equal(total, expected)
        assert torch.equal(torch.autograd.grad(total, leaf)[0], gradient)


def test_the_size_of_the_blocks_changes_the_result_by_rounding_alone(monkeypatch: pytest.MonkeyPatch):
    low, mask, weights = example()
    totals = []
    for block in (2**19, 1, 3000):
        monkeypatch.setattr(upsampled_loss_blocks, "BLOCK", block)
        total = upsampled_cross_entropy(low, mask, align_corners=True, class_weights=weights)
        totals.append((total.detach(), torch.autograd.grad(total, low)[0]))
    for total, gradient in totals[1:]:
        torch.testing.assert_close(total, totals[0][0], rtol=1e-13, atol=0)
        torch.testing.assert_close(gradient, totals[0][1], rtol=1e-12, atol=1e-14)


def test_the_number_of_threads_changes_no_bit(small_blocks):
    low, mask, weights = example(torch.float32)
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        total = upsampled_cross_entropy(low, mask, align_corners=False, class_weights=weights)
        results.append((total.detach(), torch.autograd.grad(total, low)[0]))
        assert torch.get_num_threads() == threads
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(other, results[0], strict=True))


def test_nothing_is_lost_without_a_gradient(small_blocks):
    low, mask, _ = example()
    with torch.no_grad():
        total = upsampled_cross_entropy(low, mask, align_corners=True)
    assert not total.requires_grad
    torch.testing.assert_close(total, reference(low, mask, None, True)["total"])
    assert not upsampled_losses(low, mask, align_corners=True).requires_grad


def test_another_ignore_label_is_respected(small_blocks):
    low, mask, _ = example(ignored=0.0)
    total = upsampled_cross_entropy(low, mask, align_corners=True, ignore_index=2)
    torch.testing.assert_close(total, reference(low, mask.masked_fill(mask == 2, 255), None, True)["total"])


def test_nan_logits_are_nan_losses_of_labeled_pixels_alone_as_in_pytorch(small_blocks):
    low, mask, _ = example()
    with torch.no_grad():
        low[0, 1, 0, 0] = torch.nan
    losses = upsampled_losses(low, mask, align_corners=True)
    assert losses.isnan().any()
    assert not losses[mask == 255].any()
    torch.testing.assert_close(losses, reference(low, mask, None, True)["losses"], equal_nan=True)


@pytest.mark.parametrize("label", [4, 254, -1])
def test_a_label_out_of_range_is_an_error(small_blocks, label: int):
    low, mask, _ = example()
    mask[1, 2, 3] = label
    with pytest.raises(RuntimeError, match=f"index {label} is out of bounds"):
        upsampled_cross_entropy(low, mask, align_corners=True)


def test_memory_is_under_a_fifth_of_that_of_interpolating_first():
    low, mask, _ = inputs(Case(59, (65, 65), (513, 513), b=1))
    with LiveMemory(low, mask) as live:
        before = live.peak
        leaf = low.requires_grad_()
        logits = F.interpolate(leaf, size=(513, 513), mode="bilinear", align_corners=True)
        F.cross_entropy(logits, mask, ignore_index=255, reduction="sum").backward()
        naive = live.peak - before
    del logits
    with LiveMemory(low, mask) as live:
        before = live.peak
        in_blocks(low.detach(), mask, None, True, 255, True)
        ours = live.peak - before
    assert naive > 3 * 59 * 513 * 513 * 4
    assert ours < naive / 5


def test_taps_by_hand():
    first, share = taps(3, 5, True, torch.float64)
    assert (first.tolist(), share.tolist()) == ([0, 0, 1, 1, 2], [0, 0.5, 0, 0.5, 0])
    first, share = taps(2, 4, False, torch.float64)  # positions -0.25 (moved to 0), 0.25, 0.75, 1.25
    assert (first.tolist(), share.tolist()) == ([0, 0, 0, 1], [0, 0.25, 0.75, 0.25])


def test_auto_is_the_fastest_that_was_measured(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(upsampled_loss, "SMALL", 3 * 4 * 5 * 2)
    low, mask, more = torch.zeros(2, 3, 2, 2), torch.zeros(2, 4, 5).long(), torch.zeros(2, 4, 6).long()
    assert [pick("auto", low, size) for size in (mask, more)] == ["full", "blocks"]
    assert pick("auto", low.to("meta"), more.to("meta")) == "full"
    assert [pick(name, low, mask) for name in ("full", "blocks")] == ["full", "blocks"]


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")  # PyTorch's own, at first use
def test_second_derivatives_and_forward_mode_equal_finite_differences(small_blocks):
    low, mask, weights = inputs(Case(3, (2, 3), (9, 13), weighted=True))
    low, weights = low.double().requires_grad_(), weights.double()

    def loss(low: Tensor) -> Tensor:
        return upsampled_cross_entropy(low, mask, align_corners=True, class_weights=weights)

    assert torch.autograd.gradcheck(loss, low, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(loss, low)
