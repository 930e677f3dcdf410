"""Whole-image inference as the authors test; several scales and windows are in test_inference_multiscale.py."""

import pytest
import torch

from emanet.inference.attention import base_maps
from emanet.inference.bases import look
from emanet.inference.views import PLAIN, pad_to_stride, predict_classes, predict_logits
from emanet.model.mmseg import MMSegEMANet
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


@pytest.mark.parametrize("size", [(64, 128), (60, 90)])
def test_mmsegmentations_network_sees_the_image_as_it_is(size: tuple[int, int]):
    """Its corners are not aligned: padded to one modulo the stride, 12% of the pixels would change their class."""
    net = MMSegEMANet(CLASSES, backbone="test_resnet", channels=8, K=3, output_stride=16, aux_weight=0.0).eval()
    image = torch.randn(1, 3, *size)
    logits = net(image)
    assert torch.equal(predict_logits(net, image), logits)
    assert torch.equal(predict_classes(net, image), logits.argmax(1))
    assert torch.equal(PLAIN.probabilities(net, image), logits.softmax(1))
    features = (-(-size[0] // 16), -(-size[1] // 16))
    assert base_maps(net, image).shape[-2:] == look(net, image).size == features
    aligned = MMSegEMANet(CLASSES, backbone="test_resnet", channels=8, K=3, aux_weight=0.0, align_corners=True).eval()
    assert torch.equal(predict_logits(aligned, image), aligned(pad_to_stride(image, 8))[..., : size[0], : size[1]])
