"""What is refused before the first step, in words."""

import pytest

from emanet.common.errors import ConfigError
from emanet.training.build import build_data, check_transforms


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"_target_": "albumentations.Normalize", "p": 0.01}, r"turns the image .* into ndarray of float32"),
        ({"_target_": "albumentations.ToFloat"}, r"turns the image .* into ndarray of float32"),
        (
            {"_target_": "albumentations.pytorch.ToTensorV2"},
            r"turns the image .* into Tensor of torch.uint8 \(3, 9, 9\)",
        ),
        (
            {"_target_": "albumentations.RandomScale", "scale_limit": [0.5, 0.5]},
            r"into ndarray of uint8 \(1\d, 1\d, 3\)",
        ),
        ({"_target_": "albumentations.CenterCrop", "height": 4, "width": 4}, r"into ndarray of uint8 \(4, 4, 3\)"),
        ({"_target_": "albumentations.RandomCrop", "height": 20, "width": 20}, "fails on a crop: CropSizeError"),
        (
            {"_target_": "albumentations.OneOf", "transforms": [{"_target_": "albumentations.ToFloat"}]},
            r"turns the image .* into ndarray of float32",
        ),
    ],
)
def test_a_transform_that_changes_size_or_type_of_a_crop_is_refused(node: dict, message: str):
    fine = {"_target_": "albumentations.HorizontalFlip"}
    with pytest.raises(ConfigError, match=rf"dataset\.extra_transforms\[1\].*{message}"):
        check_transforms([fine, node], 9)
    check_transforms([fine, {"_target_": "albumentations.RandomRotate90"}], 9)


def test_one_class_is_refused_with_the_way_out(tmp_path):
    dataset = {"_target_": "emanet.data.Folder", "root": str(tmp_path), "num_classes": 1}
    with pytest.raises(ConfigError, match=r"has 1 class: .*\n.*num_classes=2"):
        build_data({"model": {"backbone": "resnet18"}, "dataset": dataset, "seed": 0}, "fit")
