"""Checkpoints in the authors' layout, end to end against the independent float64 network of reference.py."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from emanet.checkpoints.reference import load_reference_checkpoint, to_reference_state_dict
from emanet.common.errors import WeightsError
from emanet.model.network import EMANet
from emanet.training.losses.nll import segmentation_loss
from reference import ReferenceNet, reference_loss, reference_state
from tiny import tiny_net

SMALL = {"channels": 32, "K": 8}  # the authors' widths are 512 and 64; the backbone's are fixed


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    """A checkpoint of a small head on ResNet-50."""
    return reference_state(50, **SMALL)


@pytest.fixture(scope="module")
def photo() -> Tensor:
    """Two images of 65x65."""
    return torch.randn(2, 3, 65, 65, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def in_float64(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same values in float64."""
    return {key: value.double() for key, value in state.items()}


@pytest.mark.parametrize(("output_stride", "T"), [(8, 3), (16, 3), (8, 1)])
def test_logits_in_evaluation_equal_the_references(state: dict, photo: Tensor, output_stride: int, T: int):
    net = load_reference_checkpoint(state, output_stride=output_stride, T=T).eval()
    with torch.no_grad():
        logits, mu = net(photo.float(), return_bases=True)
        expected, bases = ReferenceNet(in_float64(state), output_stride=output_stride, T=T)(photo)
    assert logits.shape == (2, 21, 65, 65)
    assert (logits - expected).abs().max() / expected.abs().max() < 1e-4
    assert (mu - bases).abs().max() < 1e-4


def test_logits_equal_the_references_at_the_authors_widths(photo: Tensor):
    state = reference_state(50, classes=7)
    net = load_reference_checkpoint({"net": state}).eval()
    with torch.no_grad():
        logits = net(photo[:1].float())
        expected, _ = ReferenceNet(in_float64(state))(photo[:1])
    assert (net.head.K, net.head.conv1.in_channels, net.num_classes) == (64, 512, 7)
    assert (logits - expected).abs().max() / expected.abs().max() < 1e-4


def test_one_training_forward_gives_the_references_loss_gradients_bases_and_statistics(state: dict, photo: Tensor):
    photo = photo[..., :33, :33]
    mask = torch.randint(0, 21, (2, 33, 33))
    mask[:, 20:] = 255
    net = load_reference_checkpoint(state).double().train()
    net.fc1[1].p = 0.0
    logits, mu = net(photo, return_bases=True)
    loss = segmentation_loss(logits, mask)
    loss.backward()
    net.head.update_bases(mu)

    leaves = in_float64(state)
    trained = [key for key in leaves if key.endswith(("weight", "bias")) and not key.startswith("emau.conv1")]
    for key in trained:
        leaves[key].requires_grad_()
    reference = ReferenceNet(leaves, training=True)
    expected_logits, bases = reference(photo)
    expected = reference_loss(expected_logits, mask)
    expected.backward()

    assert loss.item() == pytest.approx(expected.item(), rel=1e-10)
    ours = {theirs: parameter for theirs, parameter in reference_parameters(net) if parameter.requires_grad}
    assert ours.keys() == set(trained)
    for key, parameter in ours.items():
        scale = leaves[key].grad.abs().max()
        assert (parameter.grad - leaves[key].grad).abs().max() < 1e-7 * scale + 1e-14, key
    torch.testing.assert_close(net.head.mu, 0.9 * state["emau.mu"].double() + 0.1 * bases.mean(0, keepdim=True))
    after = to_reference_state_dict(net)
    assert len(reference.statistics) == 53 + 2 + 3  # of ResNet-50, two more in its deep stem, three in the head
    for key, (mean, var) in reference.statistics.items():
        for name, batch in (("running_mean", mean), ("running_var", var)):
            old = state[f"{key}.{name}"].double()
            torch.testing.assert_close(after[f"{key}.{name}"], old + 3e-4 * (batch - old), rtol=1e-9, atol=1e-12)


def reference_parameters(net: EMANet) -> list[tuple[str, nn.Parameter]]:
    """The network's own parameters under the authors' names, found by the address of their storage."""
    by_address = {value.data_ptr(): key for key, value in net.state_dict().items()}
    names = dict(zip(net.state_dict(), to_reference_state_dict(net), strict=True))
    return [(names[by_address[parameter.data_ptr()]], parameter) for parameter in net.parameters()]


@pytest.mark.parametrize(("depth", "name"), [(101, "resnet101s"), (152, "resnet152s")])
def test_the_depth_is_read_off_the_third_stage(depth: int, name: str):
    with torch.device("meta"):
        net = EMANet(5, backbone=name, channels=16, K=4)
    state = {key: torch.zeros(value.shape) for key, value in to_reference_state_dict(net).items()}
    loaded = load_reference_checkpoint(state)
    assert loaded.backbone.name == name
    assert (loaded.num_classes, loaded.head.K, loaded.fc0.conv.out_channels) == (5, 4, 16)
    assert state.keys() == to_reference_state_dict(loaded).keys()


def bare(state: dict) -> dict:
    return state


def wrapped(state: dict) -> dict:
    return {"net": state, "iter": 30_000, "optim": {"lr": [0.0]}}


def prefixed(state: dict) -> dict:
    return {"net": {f"module.{key}": value for key, value in state.items()}}


def with_counters(state: dict) -> dict:
    counters = {
        key.replace("running_mean", "num_batches_tracked"): torch.tensor(30_000)
        for key in state
        if "running_mean" in key
    }
    return {"net": state | counters}


@pytest.mark.parametrize("layout", [bare, wrapped, prefixed, with_counters])
def test_every_layout_of_the_file_is_read(state: dict, layout: Callable[[dict], dict], tmp_path: Path):
    torch.save(layout(state), tmp_path / "final.pth")
    net = load_reference_checkpoint(tmp_path / "final.pth")
    assert not any(value.is_meta for value in net.state_dict().values())
    ours = to_reference_state_dict(net)
    assert all(torch.equal(ours[key], value) for key, value in state.items())


def test_the_loaded_network_is_ready_to_train_like_a_built_one(state: dict):
    net, built = load_reference_checkpoint(state), EMANet(21, backbone="resnet50s", **SMALL)
    assert [(n, p.requires_grad) for n, p in net.named_parameters()] == [
        (n, p.requires_grad) for n, p in built.named_parameters()
    ]
    assert [n for n, _ in net.named_buffers()] == [n for n, _ in built.named_buffers()]
    assert {m.momentum for m in net.modules() if isinstance(m, nn.BatchNorm2d)} == {3e-4}
    assert net.training


def test_training_the_network_leaves_the_callers_tensors(state: dict):
    net = load_reference_checkpoint(state)
    before = state["fc2.weight"].clone()
    with torch.no_grad():
        net.fc2.weight.add_(1)
    assert torch.equal(state["fc2.weight"], before)


def test_half_precision_weights_become_float32(state: dict):
    net = load_reference_checkpoint({key: value.half() for key, value in state.items()})
    assert {value.dtype for value in net.state_dict().values()} == {torch.float32, torch.int64}


def without(state: dict, key: str) -> dict:
    return {name: value for name, value in state.items() if name != key}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: without(s, "fc1.0.bn.running_var"), r"missing keys: fc1\.0\.bn\.running_var; unexpected keys: none"),
        (lambda s: without(s, "emau.mu"), r"no checkpoint of the authors' code: it lacks emau\.mu; .*extractor\.0\.0"),
        (
            lambda s: s | {"extractor.0.0.weight": torch.zeros(32, 3, 3, 3)},
            r"other shapes: backbone\.body\.conv1\.0\.weight \(32, 3, 3, 3\) instead of \(64, 3, 3, 3\)\.",
        ),
        (lambda s: s | {"emau.mu": torch.zeros(32, 8)}, r"emau\.mu of shape \(1, channels, K\).*got \(32, 8\)"),
        (
            lambda s: {k: v for k, v in s.items() if not k.startswith("extractor.6.5.")},
            "extractor.6, has 5 blocks; ResNet-50, 101 and 152 have 6, 23, 36",
        ),
        (lambda s: {"net": {"epoch": 3}}, "holds no tensors"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(state: dict, change: Callable[[dict], dict], message: str):
    with pytest.raises(WeightsError, match=message):
        load_reference_checkpoint(change(dict(state)))


def test_a_network_the_authors_do_not_have_is_not_written():
    with pytest.raises(WeightsError, match=r"resnet50s, resnet101s, resnet152s only, got 'test_resnet'"):
        to_reference_state_dict(tiny_net())
