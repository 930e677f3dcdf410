"""Whole-image inference as the authors test; several scales and windows are in test_inference_multiscale.py."""

import pytest
import torch
from torch import Tensor, nn

from emanet.inference.views import pad_to_stride, predict_logits
from tiny import CLASSES, tiny_net


@pytest.mark.parametrize(
    ("side", "stride", "padded"),
    [(375, 8, 377), (500, 8, 505), (513, 8, 513), (1, 8, 1), (2, 8, 9), (375, 16, 385), (33, 32, 33)],
)
def test_sides_are_padded_to_the_next_size_that_is_one_modulo_the_stride(side: int, stride: int, padded: int):
    assert pad_to_stride(torch.zeros(1, 3, side, 9), stride).shape[2] == padded
    assert pad_to_stride(torch.zeros(1, 3, 9, side), stride).shape[3] == padded


def test_padding_is_zero_at_the_right_and_at_the_bottom():
    image = torch.randn(2, 3, 6, 10)
    padded = pad_to_stride(image, 8)
    assert padded.shape == (2, 3, 9, 17)
    assert torch.equal(padded[..., :6, :10], image)
    assert not padded[..., 6:, :].any()
    assert not padded[..., :, 10:].any()


class PositionNet(nn.Module):
    """Each pixel's logit is its position, so that a resized or shifted answer shows."""

    output_stride = 8

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        assert height % 8 == width % 8 == 1
        return (
            torch.arange(height * width, dtype=torch.float32)
            .view(1, 1, height, width)
            .expand(image.shape[0], 2, -1, -1)
        )


def test_logits_are_cropped_back_and_never_resized():
    logits = predict_logits(PositionNet(), torch.zeros(2, 3, 6, 10))
    expected = torch.arange(6).unsqueeze(1) * 17 + torch.arange(10)
    assert logits.shape == (2, 2, 6, 10)
    assert torch.equal(logits[1, 0], expected.float())


def test_the_network_sees_the_padded_image():
    net = tiny_net().eval()
    image = torch.randn(1, 3, 30, 47)
    expected = net(nn.functional.pad(image, (0, 2, 0, 3)))[..., :30, :47]
    logits = predict_logits(net, image)
    assert logits.shape == (1, CLASSES, 30, 47)
    assert torch.equal(logits, expected)
    assert not logits.requires_grad
