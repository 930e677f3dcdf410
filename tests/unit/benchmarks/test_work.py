"""What the benchmarks time: it computes what it should, and peers that compute something else are refused."""

import sys
from pathlib import Path
from typing import Any

import input as crops
import loss
import page
import peers
import pytest
import step
import torch
import yaml
from torch import Tensor, nn

import unit
from emanet import EMAU


def test_our_unit_equals_the_paper_s_equations_in_float64_gradients_included():
    ours, plain = EMAU(6, K=3, T=2).double(), unit.Equations(6, K=3, T=2).double()
    nn.init.uniform_(ours.conv2[1].running_mean)
    plain.load_state_dict(ours.state_dict())
    x, upstream = torch.randn(2, 2, 6, 4, 5, dtype=torch.float64)
    found: list[list[Tensor]] = []
    for net in (ours, plain):
        leaf = x.clone().requires_grad_()
        y, mu = net(leaf)
        trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
        found.append([y, mu, *torch.autograd.grad(y, [leaf, *trained], upstream), net.eval()(x)[0]])
    for got, expected in zip(*found, strict=True):
        assert expected.abs().max() > 1e-3
        torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-13)


def test_the_operations_of_the_folded_unit_are_those_counted_by_hand():
    # 2 images of 65x65 = 8450 pixels, 512 channels, 64 bases: 14 products with the bases, conv2, 3 x 2 of conv1
    by_hand = 14 * 8450 * 512 * 64 + 2 * 8450 * 512 * 512 + 2 * 3 * 2 * (2 * 512 * 512 * 64)
    assert unit.folded_gflop(2, 65) == pytest.approx(by_hand / 1e9)
    assert unit.folded_gflop(2, 65) == pytest.approx(8.7, abs=0.05)


def test_fast_is_what_the_preset_of_the_trainer_sets():
    folder = page.ROOT / "conf" / "trainer"
    default, fast = (yaml.safe_load((folder / f"{name}.yaml").read_text()) for name in ("default", "fast"))
    preset = default | fast
    assert (preset["precision"], preset["channels_last"], preset["matmul_precision"]) == ("auto", True, "high")
    fast = step.CONDITIONS["fast"]
    assert (fast.bfloat16, fast.layout) == (True, torch.channels_last)
    with fast.active("cpu"):
        assert torch.get_float32_matmul_precision() == "high"
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    with step.CONDITIONS["default"].active("cpu"):
        assert torch.get_float32_matmul_precision() == "highest"


def test_the_loss_of_a_step_is_the_mean_over_all_pixels_and_the_bases_move():
    net = step.Ours().kind(21, backbone="resnet18", multi_grid=None, channels=8, K=4, dropout=0.0).double()
    image, mask = torch.randn(2, 3, 33, 33).double(), loss.blocky_mask(2, 33, 33, 21)
    logits = net(image)
    expected = nn.functional.cross_entropy(logits, mask, ignore_index=255, reduction="sum") / mask.numel()
    (before,) = [buffer.clone() for name, buffer in net.named_buffers() if name.endswith(".mu")]
    torch.testing.assert_close(step.Ours().loss(net, image, mask), expected)
    (after,) = [buffer for name, buffer in net.named_buffers() if name.endswith(".mu")]
    assert not torch.equal(before, after)


@pytest.mark.parametrize("way", [crops.ours, crops.albumentations])
@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_each_way_gives_normalized_crops_with_labels_and_padding_about_zero(way: Any, scale: float, tmp_path: Path):
    names = crops.write_files(tmp_path, 4, 50, 38)
    ((image, mask),) = way(tmp_path, names, 33, scale)()
    assert (image.shape, image.dtype) == ((4, 3, 33, 33), torch.float32)
    assert (mask.shape, mask.dtype) == ((4, 33, 33), torch.int64)
    assert set(mask.unique().tolist()) <= {*range(21), 255}
    assert 0.1 < image.abs().max() < 2.7  # 0..255 by the means and deviations of ImageNet: -2.12 to 2.64
    assert (mask == 255).sum() == (0 if scale == 2 else 4 * (33 * 33 - 25 * 19))  # of 50x38, half is 25x19
    assert not (image.abs().amax(1)[mask == 255] > 0.03).any()  # 8-bit padding is not exactly 0


NETWORK = """
import settings
import torch
from bn_lib.nn.modules import SynchronizedBatchNorm2d
from emanet import EMANet as Ours, EMAU
from emanet.checkpoints.reference import to_reference_state_dict
from torch import nn

class EMANet(nn.Module):
    def __init__(self, n_classes, n_layers):
        super().__init__()
        torch.load(f"./models/resnet{n_layers}.pth")  # absent, like the authors' without its download
        self.norm = SynchronizedBatchNorm2d
        self.net = Ours(n_classes, backbone=f"resnet{n_layers}s", T=settings.STAGE_NUM)
        self.emau = next(part for part in self.net.modules() if isinstance(part, EMAU))

    def state_dict(self):
        return to_reference_state_dict(self.net)

    def forward(self, img, lbl=None):
        if lbl is None:
            return self.net(img)
        logits, mu = self.net(img, return_bases=True)
        return nn.functional.cross_entropy(logits, lbl, ignore_index=255, reduction="none").mean((1, 2)), mu
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout in the authors' layout, without their synchronized batch norm; with our network inside."""
    (tmp_path / "network.py").write_text(NETWORK)
    (tmp_path / "settings.py").write_text("STAGE_NUM = 3\n")
    return tmp_path


def test_a_peer_that_computes_what_ours_does_is_compared_and_another_is_refused(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # the second settings are as old as the first
    peer = peers.Authors(checkout)
    assert peer.module.SynchronizedBatchNorm2d is nn.BatchNorm2d
    assert not {"network", "settings", "bn_lib"} & sys.modules.keys()  # another checkout has modules of these names
    assert max(peers.differences(peer).values()) < 1e-12
    with step.CONDITIONS["fast"].active("cpu"):  # in which their bases are of another type than those of a batch
        assert peer.loss(peer.network(50, 21), torch.randn(2, 3, 33, 33), loss.blocky_mask(2, 33, 33, 21)) > 0
    (checkout / "settings.py").write_text("STAGE_NUM = 2\n")
    with pytest.raises(SystemExit, match=r"authors does not compute what ours does .*'unit': .*nothing is timed"):
        peers.differences(peers.Authors(checkout))


@pytest.mark.parametrize("read", [peers.Authors, peers.MMSegmentation])
def test_a_folder_without_the_peer_is_refused_by_name(read: Any, tmp_path: Path):
    with pytest.raises(SystemExit, match=f"error: --.* takes .*{tmp_path}"):
        read(tmp_path)


def test_peers_of_committed_results_computed_what_ours_does():
    for result in page.load(page.ROOT / "benchmarks" / "results").values():
        for name, found in result.get("differences", {}).items():
            assert found.keys() == {"unit", "logits", "loss"}, name
            assert max(found.values()) < peers.BOUND == 1e-9
