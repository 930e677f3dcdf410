"""The loss against hand numbers, PyTorch, and plain loops."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from emanet.training.losses import blocks as upsampled_loss_blocks
from emanet.training.losses import upsampled as upsampled_loss
from emanet.training.losses.nll import NLL, OHEM, segmentation_loss
from emanet.training.losses.terms import BatchLoss, LossTerms, WeightedSum


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


@pytest.mark.parametrize("ignore_index", [255, 2])
@pytest.mark.parametrize("weights", [None, [1.0, 0.5, 2.0, 4.0]])
@pytest.mark.parametrize("reduction", ["all_pixels", "valid_pixels"])
def test_the_mean_is_pytorchs_or_that_over_ignored_pixels_too(reduction: str, weights: list | None, ignore_index: int):
    logits, mask = example()
    mask[mask == 255] = ignore_index
    loss = NLL(reduction=reduction, class_weights=weights, ignore_index=ignore_index).double()
    options = {"weight": loss.class_weights, "ignore_index": ignore_index}
    expected = F.cross_entropy(logits, mask, **options)
    if reduction == "all_pixels":
        expected = F.cross_entropy(logits, mask, **options, reduction="none").mean()
    torch.testing.assert_close(loss(logits, mask).mean(), expected)


LOSSES = {"all": NLL(), "valid": NLL(reduction="valid_pixels"), "mined": OHEM()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", LOSSES)
def test_a_batch_without_any_label_has_loss_and_gradient_zero(name: str, dtype: torch.dtype):
    logits = torch.randn(2, 4, 5, 6, dtype=dtype, requires_grad=True)
    loss = LOSSES[name](logits, torch.full((2, 5, 6), 255)).mean()
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


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
    got = OHEM(threshold=threshold, min_kept=min_kept)(logits, mask).mean()
    torch.testing.assert_close(got, plain_ohem(logits, mask, threshold, min_kept))


VARIANTS = [
    NLL(),
    NLL(reduction="valid_pixels"),
    NLL(class_weights=[1.0, 0.5, 2.0, 4.0]),
    NLL(reduction="valid_pixels", class_weights=[1.0, 0.5, 2.0, 0.0]),
    OHEM(threshold=0.4, min_kept=1),
    OHEM(threshold=0.01, min_kept=300, class_weights=[1.0, 0.5, 2.0, 4.0]),
    NLL(ignore_index=2),
]


def low_example(ignore_index: int = 255) -> tuple[Tensor, Tensor]:
    """Logits at an eighth of the mask's resolution."""
    low = torch.randn(2, 4, 4, 5, dtype=torch.float64, requires_grad=True)
    mask = torch.randint(0, 4, (2, 25, 33))
    mask[torch.rand(mask.shape) < 0.3] = ignore_index
    return low, mask


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("loss", VARIANTS)
def test_upsampling_with_the_loss_equals_upsampling_first(
    loss: NLL, align_corners: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(upsampled_loss, "SMALL", 0)
    monkeypatch.setattr(upsampled_loss_blocks, "BLOCK", 300)
    loss.double()
    low, mask = low_example(loss.ignore_index)
    logits = F.interpolate(low, size=(25, 33), mode="bilinear", align_corners=align_corners)
    loss.upsample = "full"
    expected = loss(logits, mask)
    (gradient,) = torch.autograd.grad(expected.total, low)
    for upsample in ("auto", "blocks", "full"):
        loss.upsample = upsample
        got = loss(low, mask, align_corners=align_corners)
        torch.testing.assert_close(got.total, expected.total, rtol=1e-12, atol=0)
        assert torch.equal(got.denominator, expected.denominator)
        torch.testing.assert_close(torch.autograd.grad(got.total, low)[0], gradient, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reduction": "mean"}, "reduction must be one of all_pixels, valid_pixels, got reduction='mean'"),
        ({"upsample": "half"}, "upsample must be one of auto, full, blocks, got upsample='half'"),
        ({"class_weights": [1.0, -1.0]}, r"class_weights must be numbers of 0 or more, got \[1.0, -1.0\]"),
        ({"class_weights": [1.0], "num_classes": 3}, "one weight for each of 3 classes, got 1"),
    ],
)
def test_senseless_options_are_refused_with_what_was_got(options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        NLL(**options)


# --- losses that are no sum over pixels, and sums of losses -----------------------------------------------------------


def test_a_librarys_loss_sees_upsampled_logits_and_its_denominator_is_the_pixels():
    low, mask = low_example()

    def mean_square(logits: Tensor, mask: Tensor) -> Tensor:
        return logits.square().mean()

    logits = F.interpolate(low.float(), size=(25, 33), mode="bilinear", align_corners=False)
    terms = BatchLoss(mean_square)(low.float(), mask, align_corners=False)
    torch.testing.assert_close(terms.mean(), logits.square().mean())
    assert terms.denominator == mask.numel()


def test_a_weighted_sum_by_hand():
    def given(total: float, denominator: float):
        return BatchLossOf(LossTerms(torch.tensor(total), torch.tensor(denominator)))

    loss = WeightedSum({"a": 2.0, "b": 0.5}, a=given(6.0, 3.0), b=given(8.0, 4.0))
    total, denominator = loss(torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, dtype=torch.int64))
    assert denominator == 3.0
    assert total == pytest.approx(3.0 * (2.0 * 2.0 + 0.5 * 2.0))  # each with its own mean


class BatchLossOf(torch.nn.Module):
    """A loss that is already known."""

    def __init__(self, terms: LossTerms) -> None:
        super().__init__()
        self.terms = terms

    def forward(self, *_: Tensor, align_corners: bool) -> LossTerms:
        return self.terms


def test_a_sum_must_name_each_of_its_losses():
    with pytest.raises(ValueError, match="must name each loss, got weights for a and the losses b"):
        WeightedSum({"a": 1.0}, b=NLL())
    with pytest.raises(ValueError, match="weights must be 0 or more"):
        WeightedSum({"a": -1.0}, a=NLL())


@pytest.mark.parametrize("name", ["dice", "focal", "lovasz"])
def test_the_kept_librarys_losses_are_least_for_the_truth_and_ignore_ignored_pixels(name: str):
    pytest.importorskip("segmentation_models_pytorch")
    from composing import settled
    from emanet.config.instantiate import build

    loss = build(settled(f"loss={name}")["loss"], "loss", ignore_index=255, num_classes=4)
    mask = torch.randint(0, 4, (2, 9, 9))
    mask[:, :2] = 255
    right = 20.0 * (2 * F.one_hot(mask.clamp(max=3), 4).permute(0, 3, 1, 2).float() - 1)
    changed = right.clone()
    changed[:, :, :2] = torch.randn(2, 4, 2, 9)  # where it is ignored
    best, same, worse = (loss(logits, mask).mean() for logits in (right, changed, torch.zeros_like(right)))
    torch.testing.assert_close(best, same)
    assert best < 0.01 < worse
