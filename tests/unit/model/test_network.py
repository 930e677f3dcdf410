"""The network: the paper's counts and sizes, its parts in order, and its refusals."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import emanet.model
from emanet import EMANet
from tiny import CLASSES, tiny_net


def millions(module: nn.Module) -> float:
    """Parameters in millions, frozen ones included."""
    return sum(p.numel() for p in module.parameters()) / 1e6


@pytest.mark.parametrize(("backbone", "whole", "body"), [("resnet50s", 34.781, 23.632), ("resnet101s", 53.774, 42.624)])
def test_parameters_are_as_many_as_the_authors(backbone: str, whole: float, body: float):
    with torch.device("meta"):
        net = EMANet(21, backbone=backbone)
    assert millions(net) == pytest.approx(whole, abs=5e-4)
    assert millions(net.backbone) == pytest.approx(body, abs=5e-4)
    assert millions(net) - millions(net.backbone) == pytest.approx(11.150, abs=1e-3)
    assert millions(net.head) == pytest.approx(0.526, abs=5e-4)
    assert net.head.mu.numel() / 1e6 == pytest.approx(0.033, abs=5e-4)


def test_the_defaults_are_the_papers_network():
    with torch.device("meta"):
        net = EMANet(21)
    assert net.backbone.name == "resnet101s"
    assert net.output_stride == 8
    assert (net.head.K, net.head.T, net.head.momentum, net.head.norm) == (64, 3, 0.9, "l2")
    assert (net.head.maintenance, net.head.gradient) == ("moving_average", "none")
    assert net.fc0.conv.weight.shape == (512, 2048, 3, 3)
    assert net.fc1[0].conv.weight.shape == (256, 512, 3, 3)
    assert net.fc2.weight.shape == (21, 256, 1, 1)
    assert net.fc0.conv.bias is net.fc1[0].conv.bias is None
    assert isinstance(net.fc1[1], nn.Dropout2d)
    assert net.fc1[1].p == 0.1


def test_the_package_hands_out_its_public_names_and_imports_each_when_it_is_asked_for():
    code = (
        "import sys, emanet.model as m; assert 'torch' not in sys.modules; m.EMAU; assert 'timm' not in sys.modules; "
        "print(*(getattr(m, name).__class__.__name__ for name in m.__all__))"
    )
    source = Path(emanet.__file__).parents[1]
    given = {"check": True, "capture_output": True, "text": True, "cwd": source}
    found = subprocess.run([sys.executable, "-c", code], **given).stdout.split()
    assert dict(zip(emanet.model.__all__, found, strict=True))["HEADS"] == "dict"
    with pytest.raises(AttributeError, match=r"'emanet\.model' has no attribute 'nothing'"):
        _ = emanet.model.nothing


@pytest.mark.parametrize("momentum", [3e-4, 0.1])
def test_every_batch_norm_gets_the_momentum(momentum: float):
    norms = [m for m in tiny_net(bn_momentum=momentum).modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert len(norms) > 10
    assert {norm.momentum for norm in norms} == {momentum}


@pytest.mark.parametrize("size", [(33, 33), (65, 49), (64, 50)])
def test_logits_at_the_size_of_the_image_are_those_before_upsampled(size: tuple[int, int]):
    net = tiny_net().eval()
    image = torch.randn(2, 3, *size)
    logits, mu = net(image, return_bases=True)
    low, again = net(image, return_bases=True, low=True)
    assert (logits.shape, mu.shape) == ((2, CLASSES, *size), (2, 8, 3))
    assert torch.equal(mu, again)
    assert all(map(torch.equal, (net(image), net(image, low=True)), (logits, low)))
    assert torch.equal(F.interpolate(low, size, mode="bilinear", align_corners=net.align_corners), logits)
    if size[0] % 16 == size[1] % 16 == 1:  # a size of one modulo the stride keeps the corners
        torch.testing.assert_close(logits[..., ::16, ::16], low, rtol=1e-4, atol=1e-5)


def test_the_parts_are_applied_in_the_papers_order():
    net = tiny_net().eval()
    image = torch.randn(1, 3, 33, 33)
    x = net.fc0.bn(net.fc0.conv(net.backbone(image))).relu()
    x, _ = net.head(x)
    x = net.fc2(net.fc1[0].bn(net.fc1[0].conv(x)).relu())
    torch.testing.assert_close(net(image), F.interpolate(x, (33, 33), mode="bilinear", align_corners=True))


def test_the_gradient_reaches_every_trainable_parameter_and_the_bases_stay():
    net = tiny_net(gradient="last").train()
    before = net.head.mu.clone()
    net(torch.randn(2, 3, 33, 33)).square().mean().backward()
    assert all(p.grad is not None for p in net.parameters() if p.requires_grad)
    assert torch.equal(net.head.mu, before)


def test_channels_last_gives_the_same_logits():
    net = tiny_net().eval()
    image = torch.randn(2, 3, 33, 33)
    expected = net(image)
    net = net.to(memory_format=torch.channels_last)
    got = net(image.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_bfloat16_autocast_trains_and_keeps_the_bases_in_float32():
    net = tiny_net().train()
    with torch.autocast("cpu", torch.bfloat16):
        logits, mu = net(torch.randn(2, 3, 33, 33), return_bases=True)
    logits.float().square().mean().backward()
    net.head.update_bases(mu)
    assert net.head.mu.dtype == torch.float32
    assert net.head.mu.isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 0}, "num_classes must be at least 1, got num_classes=0"),
        ({"bn_momentum": 1.5}, "bn_momentum is a share, 0..1, got bn_momentum=1.5"),
        ({"K": 0}, "K must be at least 1, got K=0"),
        ({"backbone": "resnet101z"}, "unknown backbone 'resnet101z'"),
        ({"output_stride": 4}, "output_stride must be one of .* got 4"),
    ],
)
def test_senseless_values_are_refused(options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        EMANet(**{"num_classes": 3, "backbone": "test_resnet", "output_stride": 16, "channels": 8, "K": 3, **options})


def test_skips_join_finer_features_before_the_classifier():
    net = tiny_net(skips=[8, 4], skip_channels=5).eval()
    image = torch.randn(2, 3, 65, 49)
    low, mu = net(image, return_bases=True, low=True)
    assert low.shape == (2, CLASSES, 17, 13)  # stride 4, the finest
    *finer, features = net.backbone.levels(image)
    assert [tuple(x.shape[2:]) for x in finer] == [(17, 13), (9, 7)]
    plain = tiny_net().eval()
    plain.load_state_dict(net.state_dict() | {k: v for k, v in plain.state_dict().items() if "fc2" in k}, strict=False)
    assert torch.equal(plain.backbone(image), features)  # the deepest level is as without skips
    assert torch.equal(plain(image, return_bases=True)[1], mu)
    y = net.skips.reduce(net.fc1(net.head(net.fc0(features))[0]))
    up = [F.interpolate(x, size=(17, 13), mode="bilinear", align_corners=True) for x in (y, finer[1], image)]
    expected = net.fc2(net.skips.mix(torch.cat([up[0], finer[0], *up[1:]], dim=1)))
    torch.testing.assert_close(low, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"skips": [3]}, r"skips must be among the strides \[2, 4, 8\] of backbone 'test_resnet', got \[3\]"),
        ({"skips": [16]}, "skips must be among the strides"),
        ({"skips": [4], "skip_channels": 0}, "must be at least 1, got .*skip_channels=0"),
    ],
)
def test_skips_that_the_backbone_has_not_are_refused(options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        tiny_net(**options)
