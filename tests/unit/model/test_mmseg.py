"""mmsegmentation's EMANet: equal to that package's own outputs (golden file), and to the paper's where it is set so."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from emanet import EMANet
from emanet.checkpoints.mmseg import load_mmseg_checkpoint
from emanet.common.errors import WeightsError
from emanet.config.schema import CONF_DIR
from emanet.model.emau import EMAU
from emanet.model.mmseg import MMSegEMANet
from golden.make_mmseg_golden import GOLDEN, IMAGE_SHAPE, draw, draw_all, sample

PAPERS = {"eps": "added", "normalize_mean": False, "concat": False, "align_corners": True, "aux_weight": 0.0}


@pytest.fixture(scope="module")
def golden() -> dict:
    return json.loads(GOLDEN.read_text())


@pytest.fixture(scope="module")
def state(golden) -> dict[str, torch.Tensor]:
    """A checkpoint under mmsegmentation's names."""
    return {
        key: value.float() if value.is_floating_point() else value for key, value in draw_all(golden["shapes"]).items()
    }


@pytest.fixture
def net(state) -> MMSegEMANet:
    """Our network with those weights, computing in float64 as the golden file's did, without dropout."""
    net = load_mmseg_checkpoint(state).double()
    for module in net.modules():
        if isinstance(module, nn.Dropout2d):
            module.p = 0.0
    return net


def assert_equal(ours: torch.Tensor, golden: list[float]) -> None:
    assert len(golden) >= 200
    assert np.abs(golden).max() > 1e-3
    np.testing.assert_allclose(sample(ours), golden, rtol=1e-9, atol=1e-10)


def test_logits_equal_mmsegmentations(net, golden):
    with torch.no_grad():
        assert_equal(net(draw("image", IMAGE_SHAPE)), golden["eval/logits"])


def test_a_training_step_sees_the_same_logits_auxiliary_logits_and_leaves_the_same_bases(net, golden):
    with torch.no_grad():
        logits, mu, auxiliary = net.train()(draw("image", IMAGE_SHAPE), return_bases=True)
        net.head.update_bases(mu)
    assert_equal(logits, golden["train/logits"])
    assert_equal(auxiliary, golden["train/aux_logits"])
    assert_equal(net.head.mu, golden["train/bases_after"])


def test_with_every_option_at_the_papers_value_it_is_the_papers_network():
    paper = EMANet(5, backbone="resnet18", channels=32, K=8, multi_grid=None).eval()
    ported = MMSegEMANet(5, backbone="resnet18", channels=32, K=8, bn_momentum=3e-4, **PAPERS).eval()
    ported.load_state_dict(paper.state_dict())
    image = torch.randn(2, 3, 49, 65)
    logits, mu = paper(image, return_bases=True)
    torch.testing.assert_close(ported(image, return_bases=True), (logits, mu), rtol=0, atol=0)
    paper.head.update_bases(mu)
    ported.head.update_bases(mu)
    assert torch.equal(paper.head.mu, ported.head.mu)


@pytest.mark.parametrize("option", ["eps", "normalize_mean", "concat", "align_corners", "aux_weight"])
def test_each_named_option_changes_something(option):
    torch.manual_seed(0)
    base = MMSegEMANet(3, backbone="resnet18", channels=16, K=4, **PAPERS).double()
    port = {"eps": "floor", "normalize_mean": True, "concat": True, "align_corners": False, "aux_weight": 0.4}
    other = MMSegEMANet(3, backbone="resnet18", channels=16, K=4, **PAPERS | {option: port[option]}).double()
    other.load_state_dict(base.state_dict(), strict=False)
    image = torch.randn(2, 3, 33, 33, dtype=torch.float64)
    outputs = []
    for net in (base, other):
        torch.manual_seed(1)
        out = net.train()(image, return_bases=True)
        net.head.update_bases(out[1])
        outputs.append((*out, net.head.mu))
    assert len(outputs[0]) != len(outputs[1]) or any(not torch.equal(a, b) for a, b in zip(*outputs, strict=True))


@pytest.mark.parametrize("align_corners", [True, False])
def test_logits_before_upsampling_are_those_that_are_upsampled(align_corners: bool):
    net = MMSegEMANet(4, backbone="resnet18", channels=8, K=3, dropout=0.0, align_corners=align_corners)
    image = torch.randn(2, 3, 33, 33)
    expected = net.eval()(image)
    up = nn.functional.interpolate(net(image, low=True), (33, 33), mode="bilinear", align_corners=align_corners)
    assert torch.equal(up, expected)
    logits, _, auxiliary = net.train()(image, return_bases=True)
    for full, low in zip((logits, auxiliary), net(image, return_bases=True, low=True)[::2], strict=True):
        up = nn.functional.interpolate(low, (33, 33), mode="bilinear", align_corners=align_corners)
        assert torch.equal(up, full)


def test_gradients_reach_the_auxiliary_head_and_not_conv1():
    net = MMSegEMANet(3, backbone="resnet26", channels=16, K=4).train()
    logits, _, auxiliary = net(torch.randn(2, 3, 33, 33), return_bases=True)
    (logits.sum() + auxiliary.sum()).backward()
    without = {name for name, parameter in net.named_parameters() if parameter.grad is None}
    assert without == {"head.conv1.weight", "head.conv1.bias"}


def test_the_configuration_builds_the_port(golden):
    conf = Path(CONF_DIR)
    options = {
        **yaml.safe_load((conf / "model" / "emanet_mmseg.yaml").read_text()),
        **yaml.safe_load((conf / "head" / "ema_mmseg.yaml").read_text()),
    }
    assert options.pop("_target_") == f"{MMSegEMANet.__module__}.MMSegEMANet"
    assert {"override /head@_global_.head": "ema_mmseg"} in options.pop("defaults")
    with torch.device("meta"):
        net = MMSegEMANet(19, **options | {"backbone": "resnet50c", "pretrained": False})
    buffers = ("running_mean", "running_var", "num_batches_tracked", "bases")
    peer = sum(math.prod(shape) for name, shape in golden["shapes"].items() if not name.endswith(buffers))
    assert sum(p.numel() for p in net.parameters()) == peer
    assert {module.momentum for module in net.modules() if isinstance(module, nn.BatchNorm2d)} == {0.1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eps": "none"}, "eps must be one of added, floor, got eps='none'"),
        ({"aux_weight": -1.0}, "aux_weight must be 0 .* got -1"),
        ({"norm": "layer"}, "head=ema_mmseg has no option norm: .*; norm belongs to head=ema$"),
        ({"backbone": "test_vit", "output_stride": 16}, "layer3, which 'test_vit' lacks: set aux_weight=0"),
        ({"skips": [4]}, "skips are not joined where an auxiliary head is trained: set aux_weight=0"),
    ],
)
def test_senseless_values_are_refused(options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        MMSegEMANet(3, **{"backbone": "resnet18", "channels": 8, "K": 3} | options)


def test_a_checkpoint_says_its_own_size_parts_and_classes(state):
    with_meta = {
        "state_dict": state,
        "meta": {"CLASSES": [f"c{i}" for i in range(19)], "PALETTE": [[i, 0, 0] for i in range(19)]},
    }
    net = load_mmseg_checkpoint(with_meta)
    assert (net.backbone.name, net.num_classes, net.head.K, net.aux_weights) == ("resnet50c", 19, 64, (0.4,))
    assert net.description.class_names[3] == "c3"
    bare = {
        key: value for key, value in state.items() if not key.startswith(("auxiliary_head.", "decode_head.conv_cat"))
    }
    net = load_mmseg_checkpoint(bare)
    assert net.aux is None
    assert net.fc_cat is None
    assert net.description is None


def test_a_file_is_converted_to_a_folder_of_ours(state, tmp_path):
    torch.save(
        {"state_dict": state, "meta": {"dataset_meta": {"classes": tuple("abcdefghijklmnopqrs")}}}, tmp_path / "m.pth"
    )
    load_mmseg_checkpoint(tmp_path / "m.pth").save_pretrained(tmp_path / "out")
    net = EMANet.from_pretrained(tmp_path / "out")
    assert type(net) is MMSegEMANet
    assert isinstance(net.head, EMAU)
    assert torch.equal(net.head.mu, state["decode_head.ema_module.bases"])
    assert net.description.class_names[:2] == ["a", "b"]


class Hostile:
    """Pickled, it would run code when read."""

    def __reduce__(self):
        return (print, ("executed",))


def test_a_file_that_pickles_objects_is_refused_with_the_way_out_and_nothing_runs(state, tmp_path, capsys):
    torch.save({"state_dict": {}, "message_hub": Hostile()}, tmp_path / "new.pth")
    with pytest.raises(WeightsError, match=r"(?s)was refused.*weights_only=False.*weights.pth"):
        load_mmseg_checkpoint(tmp_path / "new.pth")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("decode_head.conv_seg.weight", "lacks decode_head.conv_seg.weight"),
        ("decode_head.bottleneck.bn.bias", "missing keys: fc1.0.bn.bias; unexpected keys: none"),
    ],
)
def test_tensors_that_are_missing_are_named(state, key, message):
    with pytest.raises(WeightsError, match=message):
        load_mmseg_checkpoint({name: value for name, value in state.items() if name != key})
