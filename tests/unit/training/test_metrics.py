"""Scores from one confusion matrix, against a count by hand and against torchmetrics."""

import pytest
import torch
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from emanet.training.metrics import SegmentationMetrics, confusion_matrix, scores_from_confusion


def counted(num_classes: int, *batches: tuple[Tensor, Tensor]) -> SegmentationMetrics:
    """Metrics of some batches of (prediction, mask)."""
    metrics = SegmentationMetrics(num_classes)
    for prediction, mask in batches:
        metrics.update(prediction, mask)
    return metrics


def random_batches(num_classes: int, present: int, batches: int = 3) -> list[tuple[Tensor, Tensor]]:
    """Batches of (prediction, mask) in which only the first classes occur and some pixels are ignored."""
    masks = [torch.randint(0, present, (2, 9, 7)) for _ in range(batches)]
    predictions = [torch.where(torch.rand(m.shape) < 0.6, m, torch.randint(0, present, m.shape)) for m in masks]
    for mask in masks:
        mask[torch.rand(mask.shape) < 0.2] = 255
    return list(zip(predictions, masks, strict=True))


def test_a_case_counted_by_hand_with_an_absent_class_and_ignored_pixels():
    # Classes 0..3; class 3 occurs nowhere; class 2 is never predicted right; two pixels are ignored.
    mask = torch.tensor([[[0, 0, 0, 1], [1, 1, 2, 255], [255, 0, 1, 1]]])
    prediction = torch.tensor([[[0, 0, 1, 1], [1, 0, 1, 3], [2, 0, 1, 1]]])
    metrics = counted(4, (prediction, mask))
    assert metrics.confusion.tolist() == [[3, 1, 0, 0], [1, 4, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]
    scores = metrics.compute()
    assert scores.iou[:3].tolist() == pytest.approx([3 / 5, 4 / 7, 0 / 1])
    assert scores.iou[3].isnan()
    assert scores.miou.item() == pytest.approx((3 / 5 + 4 / 7 + 0) / 3)
    assert scores.pixel_accuracy.item() == pytest.approx(7 / 10)
    assert scores.mean_accuracy.item() == pytest.approx((3 / 4 + 4 / 5 + 0) / 3)
    assert scores.classes_averaged == 3


def test_a_class_that_is_only_predicted_counts_with_iou_zero():
    scores = counted(3, (torch.tensor([[[0, 2]]]), torch.tensor([[[0, 0]]]))).compute()
    assert scores.iou[0] == 0.5
    assert scores.iou[1].isnan()
    assert scores.iou[2] == 0
    assert scores.miou == 0.25
    assert scores.mean_accuracy == 0.5  # recall exists for classes of the truth only


@pytest.mark.parametrize("present", [6, 4])
def test_scores_equal_torchmetrics(present: int):
    batches = random_batches(6, present)
    scores = counted(6, *batches).compute()
    others = {
        "miou": MulticlassJaccardIndex(6, average="macro", ignore_index=255),
        "pixel_accuracy": MulticlassAccuracy(6, average="micro", ignore_index=255),
        "mean_accuracy": MulticlassAccuracy(6, average="macro", ignore_index=255),
    }
    per_class = MulticlassJaccardIndex(6, average="none", ignore_index=255)
    for prediction, mask in batches:
        per_class.update(prediction, mask)
        for other in others.values():
            other.update(prediction, mask)
    for name, other in others.items():
        assert getattr(scores, name).item() == pytest.approx(other.compute().item(), rel=1e-6), name
    torch.testing.assert_close(scores.iou[:present], per_class.compute()[:present].double(), rtol=1e-6, atol=0)
    assert scores.iou[present:].isnan().all()
    assert scores.classes_averaged == present


def test_counts_add_up_over_batches_of_any_size_and_a_reset_forgets_them():
    batches = random_batches(5, 5)
    metrics = counted(5, *batches)
    predictions, masks = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert torch.equal(metrics.confusion, confusion_matrix(predictions, masks, 5))
    assert torch.equal(metrics.confusion, sum(confusion_matrix(*batch, 5) for batch in batches))
    metrics.reset()
    assert not metrics.confusion.any()


@pytest.mark.parametrize("label", [-1, 4, 5, 20, 254, 256])
def test_a_true_label_out_of_range_is_an_error_that_names_it(label: int):
    mask = torch.tensor([[0, 1, 255, label]])
    with pytest.raises(ValueError, match=rf"labels must lie in 0\.\.3, or be 255 .*true labels from .*{label}"):
        confusion_matrix(torch.zeros_like(mask), mask, 4)


@pytest.mark.parametrize("label", [-1, 4, 255])
def test_a_predicted_label_out_of_range_is_an_error_that_names_it(label: int):
    with pytest.raises(ValueError, match=rf"predicted labels from .*{label}"):
        confusion_matrix(torch.tensor([[0, label]]), torch.tensor([[0, 0]]), 4)


def test_counts_above_two_to_the_24_are_exact():
    big = 2**24  # float32 loses single pixels from here on
    metrics = SegmentationMetrics(2)
    metrics.confusion += torch.tensor([[big, 0], [0, 0]])
    metrics.update(torch.zeros(1, 1, 3, dtype=torch.int64), torch.zeros(1, 1, 3, dtype=torch.int64))
    metrics.update(torch.ones(1, 1, 1, dtype=torch.int64), torch.zeros(1, 1, 1, dtype=torch.int64))
    assert metrics.confusion.tolist() == [[big + 3, 1], [0, 0]]
    assert metrics.confusion.dtype == torch.int64
    assert metrics.compute().pixel_accuracy.item() == (big + 3) / (big + 4)


def test_an_empty_split_has_no_score_rather_than_zero():
    scores = scores_from_confusion(torch.zeros(3, 3, dtype=torch.int64))
    assert scores.miou.isnan()
    assert scores.classes_averaged == 0


def test_scores_are_named_as_the_loggers_take_them():
    metrics = counted(2, (torch.tensor([[[0, 1]]]), torch.tensor([[[0, 0]]])))
    named = metrics.named_scores(["sky", "sea"], prefix="test")
    assert {name: value.item() for name, value in named.items()} == {
        "test/miou": 0.25,
        "test/pixel_accuracy": 0.5,
        "test/mean_accuracy": 0.5,
        "test/classes_averaged": 2.0,
        "test/iou/sky": 0.5,
        "test/iou/sea": 0.0,
    }
    with pytest.raises(ValueError, match="zip"):
        metrics.named_scores(["sky"])


@pytest.mark.parametrize("ignore_index", [-1, -100, 4, 6, 1000, 1024, 10**9])
def test_every_ignore_label_gives_the_same_counts(ignore_index: int):
    (prediction, mask), *_ = random_batches(4, 4)
    expected = confusion_matrix(prediction, mask, 4)
    other = mask.masked_fill(mask == 255, ignore_index)
    assert torch.equal(confusion_matrix(prediction, other, 4, ignore_index=ignore_index), expected)
    assert expected.sum() == (mask != 255).sum()
    other[0, 0, 0] = 5
    with pytest.raises(ValueError, match=f"be {ignore_index} .ignored. .* got true labels from 0 to 5"):
        confusion_matrix(prediction, other, 4, ignore_index=ignore_index)


def test_labels_of_16_bits_are_counted_in_64():
    (prediction, mask), *_ = random_batches(200, 200)  # 200 * 255 needs 16 bits and a sign
    small = confusion_matrix(prediction.short(), mask.short(), 200)
    assert small.dtype == torch.int64
    assert torch.equal(small, confusion_matrix(prediction, mask, 200))


@pytest.mark.parametrize(
    ("prediction", "mask", "got"),
    [
        (torch.zeros(1, 4, 4).long(), torch.zeros(4, 4, 4).long(), r"int64 \(1, 4, 4\) and int64 \(4, 4, 4\)"),
        (torch.zeros(2, 1).long(), torch.zeros(2, 8).long(), r"int64 \(2, 1\) and int64 \(2, 8\)"),
        (torch.zeros(2, 2).long(), torch.zeros(2, 2), r"int64 \(2, 2\) and float32 \(2, 2\)"),
        (torch.zeros(2, 2).half(), torch.zeros(2, 2).long(), r"float16 \(2, 2\) and int64 \(2, 2\)"),
    ],
)
def test_labels_of_unequal_shapes_and_those_that_are_no_integers_are_refused(
    prediction: Tensor, mask: Tensor, got: str
):
    """Broadcast, 16 pixels would count as 64."""
    with pytest.raises(ValueError, match=f"must be integers of one shape, got {got}"):
        confusion_matrix(prediction, mask, 3)


@pytest.mark.parametrize("ignore_index", [255, -100])
def test_an_empty_batch_counts_nothing(ignore_index: int):
    nothing = torch.zeros(0, 4, 4, dtype=torch.int64)
    assert torch.equal(confusion_matrix(nothing, nothing, 3, ignore_index), torch.zeros(3, 3, dtype=torch.int64))
