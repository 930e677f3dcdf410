"""mIoU and its kin from one confusion matrix, summed in int64 over the whole split and all devices."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchmetrics import Metric


class SegmentationScores(NamedTuple):
    """Scores of a split; a class absent from truth and prediction has IoU NaN and is left out of the means."""

    miou: Tensor  #: mean IoU over the classes that occur in truth or prediction
    pixel_accuracy: Tensor  #: share of labelled pixels that are right
    mean_accuracy: Tensor  #: mean recall over the classes that occur in the truth
    iou: Tensor  #: (classes,) IoU of each class
    classes_averaged: Tensor  #: number of classes in the mean IoU


def confusion_matrix(
    prediction: Int[Tensor, "*size"], mask: Int[Tensor, "*size"], num_classes: int, ignore_index: int = 255
) -> Int[Tensor, "classes classes"]:
    """Count pixels by (true class, predicted class) in int64; pixels with the ignore label are not counted.

    Raises:
        ValueError: for a true or predicted label outside 0..num_classes-1 that is not the ignore label.
    """
    ignored = mask == ignore_index
    rows = mask.masked_fill(ignored, 0).long()
    for kind, labels in (("true", rows), ("predicted", prediction)):
        low, high = (int(bound) for bound in labels.aminmax())
        if low < 0 or high >= num_classes:
            raise ValueError(
                f"labels must lie in 0..{num_classes - 1}, or be {ignore_index} (ignored) in the truth, "
                f"got {kind} labels from {low} to {high}"
            )
    # Ignored pixels go into one extra row, which costs less than selecting the others first (FACTS section 6).
    cells = rows.masked_fill_(ignored, num_classes).mul_(num_classes).add_(prediction)
    counts = torch.bincount(cells.flatten(), minlength=(num_classes + 1) * num_classes)
    return counts[: num_classes * num_classes].view(num_classes, num_classes)


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
    """A split's scores, accumulated batch by batch; synchronised over devices as a sum of int64 counts."""

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
