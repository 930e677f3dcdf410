"""The loss against hand numbers, PyTorch, and plain loops."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from emanet.training.losses import blocks as upsampled_loss_blocks
from emanet.training.losses import upsampled as upsampled_loss
from emanet.training.losses.nll import hard_pixels, loss_terms, segmentation_loss, upsampled_loss_terms


def example(ignored: float = 0.3) -> tuple[Tensor, Tensor]:
    """Logits of 4 classes and a mask with ignored pixels."""
    logits = torch.randn(2, 4, 5, 6, dtype=torch.float64, requires_grad=True)
    mask = torch.randint(0, 4, (2, 5, 6))
    mask[torch.rand(mask.shape) < ignored] = 255
    return logits, mask


def test_four_pixels_by_hand():
    # Three labeled pixels with p(true) = 1/2, 1/4, 1 and one ignored.
    p = torch.tensor([[1 / 2, 1 / 2], [3 / 4, 1 / 4], [1.0, 0.0], [0.3, 0.7]], dtype=torch.float64)
    logits = p.log().clamp(min=-50).T.reshape(1, 2, 2, 2)
    mask = torch.tensor([[[0, 1], [0, 255]]])
    total = math.log(2) + math.log(4)
    assert segmentation_loss(logits, mask).item() == pytest.approx(total / 4)
    assert segmentation_loss(logits, mask, reduction="valid_pixels").item() == pytest.approx(total / 3)


def test_all_pixels_divides_by_ignored_ones_too():
    logits, mask = example()
    losses = F.cross_entropy(logits, mask, ignore_index=255, reduction="none")
    torch.testing.assert_close(segmentation_loss(logits, mask), losses.mean())
    terms = loss_terms(logits, mask)
    assert terms.denominator == mask.numel()
    torch.testing.assert_close(terms.total, losses.sum())


@pytest.mark.parametrize("weights", [None, [1.0, 0.5, 2.0, 4.0]])
def test_valid_pixels_is_pytorchs_mean(weights: list[float] | None):
    logits, mask = example()
    weight = None if weights is None else torch.tensor(weights, dtype=torch.float64)
    got = segmentation_loss(logits, mask, reduction="valid_pixels", class_weights=weight)
    torch.testing.assert_close(got, F.cross_entropy(logits, mask, weight=weight, ignore_index=255))


def test_class_weights_scale_each_pixels_loss():
    logits, mask = example(ignored=0)
    weights = torch.tensor([1.0, 0.5, 2.0, 4.0], dtype=torch.float64)
    losses = F.cross_entropy(logits, mask, reduction="none") * weights[mask]
    torch.testing.assert_close(segmentation_loss(logits, mask, class_weights=weights), losses.mean())


def test_another_ignore_label_is_respected():
    logits, mask = example(ignored=0)
    expected = F.cross_entropy(logits, mask, ignore_index=2)
    torch.testing.assert_close(segmentation_loss(logits, mask, reduction="valid_pixels", ignore_index=2), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("options", [{}, {"reduction": "valid_pixels"}, {"ohem_threshold": 0.7}])
def test_a_batch_without_any_label_has_loss_and_gradient_zero(options: dict, dtype: torch.dtype):
    logits = torch.randn(2, 4, 5, 6, dtype=dtype, requires_grad=True)
    loss = segmentation_loss(logits, torch.full((2, 5, 6), 255), **options)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_the_gradient_is_softmax_minus_truth_over_all_pixels():
    logits, mask = example()
    segmentation_loss(logits, mask).backward()
    truth = F.one_hot(torch.where(mask == 255, 0, mask), 4).permute(0, 3, 1, 2)
    expected = (logits.softmax(1) - truth) * (mask != 255).unsqueeze(1) / mask.numel()
    torch.testing.assert_close(logits.grad, expected.detach())


def plain_ohem(logits: Tensor, mask: Tensor, threshold: float, min_kept: int) -> Tensor:
    """Mined mean loss with sorting and loops: the pixels below the threshold, but the min_kept hardest at least."""
    probabilities = logits.softmax(1)
    pixels = [
        (probabilities[b, mask[b, i, j], i, j].item(), -probabilities[b, mask[b, i, j], i, j].log())
        for b, i, j in (mask != 255).nonzero().tolist()
    ]
    pixels.sort(key=lambda pixel: pixel[0])
    kept = [loss for rank, (p, loss) in enumerate(pixels) if p <= threshold or rank < min_kept]
    return torch.stack(kept).mean()


@pytest.mark.parametrize(
    ("threshold", "min_kept"), [(0.7, 1), (0.1, 1), (0.1, 12), (0.01, 30), (0.5, 10_000), (1.0, 1)]
)
def test_mining_equals_a_plain_reference(threshold: float, min_kept: int):
    logits, mask = example()
    got = segmentation_loss(logits, mask, ohem_threshold=threshold, ohem_min_kept=min_kept)
    torch.testing.assert_close(got, plain_ohem(logits, mask, threshold, min_kept))


def test_mining_never_keeps_an_ignored_pixel():
    logits, mask = example(ignored=0.9)
    keep = hard_pixels(logits, mask, ignore_index=255, threshold=0.5, min_kept=10_000)
    assert keep.any()
    assert torch.equal(keep, mask != 255)


OPTIONS = [
    {},
    {"reduction": "valid_pixels"},
    {"class_weights": [1.0, 0.5, 2.0, 4.0]},
    {"reduction": "valid_pixels", "class_weights": [1.0, 0.5, 2.0, 0.0]},
    {"ohem_threshold": 0.4, "ohem_min_kept": 1},
    {"ohem_threshold": 0.01, "ohem_min_kept": 300, "class_weights": [1.0, 0.5, 2.0, 4.0]},
    {"ignore_index": 2},
]


def low_example(options: dict) -> tuple[Tensor, Tensor, dict]:
    """Logits at an eighth of the mask's resolution, and the options with weights as a tensor."""
    low = torch.randn(2, 4, 4, 5, dtype=torch.float64, requires_grad=True)
    mask = torch.randint(0, 4, (2, 25, 33))
    mask[torch.rand(mask.shape) < 0.3] = options.get("ignore_index", 255)
    weights = options.get("class_weights")
    return low, mask, options | ({"class_weights": torch.tensor(weights, dtype=torch.float64)} if weights else {})


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("options", OPTIONS)
def test_upsampling_with_the_loss_equals_upsampling_first(
    options: dict, align_corners: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(upsampled_loss, "SMALL", 0)
    monkeypatch.setattr(upsampled_loss_blocks, "BLOCK", 300)
    low, mask, options = low_example(options)
    logits = F.interpolate(low, size=(25, 33), mode="bilinear", align_corners=align_corners)
    expected = loss_terms(logits, mask, **options)
    (gradient,) = torch.autograd.grad(expected.total, low)
    for upsample in ("auto", "blocks", "full"):
        got = upsampled_loss_terms(low, mask, align_corners=align_corners, upsample=upsample, **options)
        torch.testing.assert_close(got.total, expected.total, rtol=1e-12, atol=0)
        assert torch.equal(got.denominator, expected.denominator)
        torch.testing.assert_close(torch.autograd.grad(got.total, low)[0], gradient, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("upsample", ["full", "auto"])
def test_full_upsampling_is_that_of_the_network_to_the_last_bit(upsample: str):
    low, mask, _ = low_example({})
    logits = F.interpolate(low.float(), size=(25, 33), mode="bilinear", align_corners=True)
    got = upsampled_loss_terms(low.float(), mask, align_corners=True, upsample=upsample)  # auto: few logits
    assert torch.equal(got.total, loss_terms(logits, mask).total)


@pytest.mark.parametrize("options", [{}, {"reduction": "valid_pixels"}, {"ohem_threshold": 0.7}])
def test_without_any_label_the_upsampled_loss_and_its_gradient_are_zero(options: dict, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(upsampled_loss, "SMALL", 0)
    low, mask, _ = low_example({})
    total, count = upsampled_loss_terms(low, torch.full_like(mask, 255), align_corners=True, **options)
    (gradient,) = torch.autograd.grad(total, low)
    assert total == 0
    assert not gradient.any()
    assert count == (0 if options else mask.numel())
