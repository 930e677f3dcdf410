"""Whole-image inference as the authors test; several scales and windows are in test_inference_multiscale.py."""

import pytest
import torch

from emanet.inference.views import pad_to_stride, predict_logits
from tiny import CLASSES, tiny_net


@pytest.mark.parametrize(
    ("side", "stride", "padded"),
    [(375, 8, 377), (500, 8, 505), (513, 8, 513), (1, 8, 1), (2, 8, 9), (375, 16, 385), (33, 32, 33)],
)
def test_sides_are_padded_to_the_next_size_that_is_one_modulo_the_stride(side: int, stride: int, padded: int):
    assert pad_to_stride(torch.zeros(1, 3, side, 9), stride).shape[2] == padded
    assert pad_to_stride(torch.zeros(1, 3, 9, side), stride).shape[3] == padded


def test_the_network_sees_the_padded_image():
    net = tiny_net().eval()
    image = torch.randn(1, 3, 30, 47)
    padded = torch.zeros(1, 3, 33, 49)
    padded[..., :30, :47] = image
    expected = net(padded)[..., :30, :47]
    logits = predict_logits(net, image)
    assert logits.shape == (1, CLASSES, 30, 47)
    assert torch.equal(logits, expected)
    assert not logits.requires_grad
