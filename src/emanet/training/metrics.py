"""mIoU and its kin from one confusion matrix, summed in int64 over the whole split and all devices."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchmetrics import Metric

MOST_LABELS = 1024  # an ignore label below this has a row of counts of its own


class SegmentationScores(NamedTuple):
    """Scores of a split; a class absent from truth and prediction has IoU NaN and is left out of the means."""

    miou: Tensor  #: mean IoU over the classes that occur in truth or prediction
    pixel_accuracy: Tensor  #: share of labeled pixels that are right
    mean_accuracy: Tensor  #: mean recall over the classes that occur in the truth
    iou: Tensor  #: (classes,) IoU of each class
    classes_averaged: Tensor  #: number of classes in the mean IoU


def confusion_matrix(
    prediction: Tensor, mask: Tensor, num_classes: int, ignore_index: int = 255
) -> Int[Tensor, "classes classes"]:
    """Count pixels by (true class, predicted class) in int64; pixels with the ignore label are not counted.

    Raises:
        ValueError: for labels of unequal shapes, that are no integers, or outside 0..num_classes-1 and not the ignore
            label.
    """
    kinds = [labels.is_floating_point() or labels.is_complex() for labels in (prediction, mask)]
    if prediction.shape != mask.shape or any(kinds):
        got = " and ".join(f"{str(labels.dtype)[6:]} {tuple(labels.shape)}" for labels in (prediction, mask))
        raise ValueError(f"predicted and true labels must be integers of one shape, got {got}")
    if not mask.numel():
        return torch.zeros(num_classes, num_classes, dtype=torch.int64, device=mask.device)
    truth, ignored_row = mask, ignore_index
    if not 0 <= ignore_index < MOST_LABELS:  # then the first label that is no class stands for it
        check_truth(mask, num_classes, ignore_index)
        truth, ignored_row = mask.masked_fill(mask == ignore_index, num_classes), num_classes
    rows = max(num_classes, ignored_row + 1)
    low, high = bounds(truth)
    if low < 0 or high >= rows:
        check_truth(mask, num_classes, ignore_index)
    check_labels("predicted", prediction, num_classes, ignore_index)
    # A row for every label, the ignored one included: that costs less than telling its pixels apart (FACTS section 6).
    cells = torch.add(prediction.long(), truth, alpha=num_classes)
    counts = torch.bincount(cells.flatten(), minlength=rows * num_classes).view(rows, num_classes)
    counts[ignored_row] = 0
    if counts[num_classes:].any():
        check_truth(mask, num_classes, ignore_index)
    return counts[:num_classes]


def check_truth(mask: Tensor, num_classes: int, ignore_index: int) -> None:
    """Refuse true labels that are neither a class nor the ignore label."""
    check_labels("true", mask.masked_fill(mask == ignore_index, 0), num_classes, ignore_index)


def check_labels(kind: str, labels: Tensor, num_classes: int, ignore_index: int) -> None:
    """Refuse labels outside 0..num_classes-1."""
    low, high = bounds(labels)
    if low < 0 or high >= num_classes:
        raise ValueError(
            f"labels must lie in 0..{num_classes - 1}, or be {ignore_index} (ignored) in the truth, "
            f"got {kind} labels from {low} to {high}"
        )


def bounds(labels: Tensor) -> tuple[int, int]:
    """Smallest and largest label."""
    low, high = labels.aminmax()
    return int(low), int(high)


def scores_from_confusion(confusion: Int[Tensor, "classes classes"]) -> SegmentationScores:
    """Derive all scores from a confusion matrix with the truth in rows."""
    counts = confusion.cpu().double()  # not every accelerator has float64
    hits, truth, predicted = counts.diagonal(), counts.sum(1), counts.sum(0)
    iou = hits / (truth + predicted - hits)  # 0 / 0 = NaN: the class occurs nowhere
    return SegmentationScores(
        miou=iou.nanmean(),
        pixel_accuracy=hits.sum() / truth.sum(),
        mean_accuracy=(hits / truth).nanmean(),
        iou=iou,
        classes_averaged=(~iou.isnan()).sum(),
    )


class SegmentationMetrics(Metric):
    """A split's scores, accumulated batch by batch; synchronized over devices as a sum of int64 counts."""

    full_state_update = False
    confusion: Tensor

    def __init__(self, num_classes: int, *, ignore_index: int = 255) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.add_state(
            "confusion",
            torch.zeros(num_classes, num_classes, dtype=torch.int64),
            dist_reduce_fx="sum",
            persistent=False,
        )

    def update(self, prediction: Int[Tensor, "b h w"], mask: Int[Tensor, "b h w"]) -> None:
        """Count a batch of predicted and true classes."""
        self.confusion += confusion_matrix(prediction, mask, self.num_classes, self.ignore_index)

    def compute(self) -> SegmentationScores:
        """Scores of everything counted since the last reset."""
        return scores_from_confusion(self.confusion)

    def named_scores(self, class_names: list[str], prefix: str = "val") -> dict[str, Float[Tensor, ""]]:
        """Flat ``{"val/miou": ..., "val/iou/<class>": ...}`` as the loggers take them."""
        scores = self.compute()
        named = {f"{prefix}/{name}": value.double() for name, value in scores._asdict().items() if name != "iou"}
        return named | {f"{prefix}/iou/{name}": value for name, value in zip(class_names, scores.iou, strict=True)}
