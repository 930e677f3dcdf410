"""Every head in the network: what it can be told, what it refuses; that it trains and is stored as the paper's."""

import ast
import inspect
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor, nn

from emanet import EMAU
from emanet.checkpoints.reference import to_reference_state_dict
from emanet.checkpoints.restore import read_weights, restore
from emanet.common.errors import ConfigError, WeightsError
from emanet.config.schema import CONF_DIR
from emanet.model import network
from emanet.model.backbone import Backbone
from emanet.model.heads import HEADS, check_head, options_of
from emanet.model.heads.layers import conv_bn_relu
from emanet.model.stored import Description
from tiny import CLASSES, NAMES, RecordingTask, assert_same, fit, joined, tiny_batch, tiny_net

RIVALS = tuple(name for name in HEADS if not issubclass(HEADS[name], EMAU))
HAVING = {option: [name for name in HEADS if option in options_of(name)] for option in ("K", "T_eval", "norm", "bins")}


# --- the paper's head is what it was ---------------------------------------------------------------------------------


def test_the_papers_network_draws_its_start_as_it_did_before_there_were_rivals():
    torch.manual_seed(0)
    head, backbone = EMAU(8, K=3), Backbone("test_resnet", output_stride=16)
    fc0, fc1, fc2 = conv_bn_relu(backbone.channels, 8), conv_bn_relu(8, 256), nn.Conv2d(256, CLASSES, 1)
    parts = {"backbone.": backbone, "fc0.": fc0, "head.": head, "fc1.0.": fc1, "fc2.": fc2}
    expected = {prefix + key: value for prefix, part in parts.items() for key, value in part.state_dict().items()}
    state = tiny_net().state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in state.items())


def test_the_network_never_asks_which_head_it_has():
    """No condition of its code, and no comparison, looks at the head's name, or at a name or class of ours."""
    tree = ast.parse(inspect.getsource(network))
    asked = {
        name
        for node in ast.walk(tree)
        for test in (
            [node.test] if isinstance(node, ast.If | ast.IfExp) else [node] if isinstance(node, ast.Compare) else []
        )
        for part in ast.walk(test)
        for name in (getattr(part, "id", None), getattr(part, "attr", None), getattr(part, "value", None))
        if isinstance(name, str)
    }
    assert "has_bases" in asked  # the walk sees what is asked
    assert not asked & {"head_name", *HEADS, *(kind.__name__ for kind in HEADS.values())}


# --- options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", HEADS)
def test_the_configuration_of_a_head_holds_its_options_at_the_constructors_defaults(name: str):
    text = (Path(CONF_DIR) / "head" / f"{name}.yaml").read_text(encoding="utf-8")
    assert text.startswith("# @package model\n")
    written = yaml.safe_load(text)
    assert written.pop("head") == name
    defaults = {
        key: list(p.default) if isinstance(p.default, tuple) else p.default for key, p in options_of(name).items()
    }
    assert written == defaults
    assert [type(value) for value in written.values()] == [type(defaults[key]) for key in written]


def test_there_is_a_file_for_every_head_and_none_besides():
    assert {path.stem for path in (Path(CONF_DIR) / "head").glob("*.yaml")} == set(HEADS)


@pytest.mark.parametrize(("option", "heads"), HAVING.items())
@pytest.mark.parametrize("name", HEADS)
def test_an_option_is_taken_by_its_heads_and_refused_by_the_others_with_their_names(
    name: str, option: str, heads: list[str]
):
    options = {"channels": 8, option: "l2" if option == "norm" else (1, 2) if option == "bins" else 5}
    if name in heads:
        check_head(name, options)
        return
    told = rf"^head={name} has no option .*\b{option}\b.*: it takes channels"
    with pytest.raises(ValueError, match=told):
        tiny_net(head=name, **options)
    with pytest.raises(ValueError, match=rf"{told}.*; {option} belongs to head={', '.join(heads)}$"):
        check_head(name, options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head": "fcn", "K": 8, "surprise": 1}, r"^head=fcn has no option K and surprise: it takes channels$"),
        (
            {"head": "fcn", "K": 8, "T": 3},
            r"head=fcn has no option K and T: .*; K and T belongs to head=ema, ham, ema_mms",
        ),
        ({"head": "fnc"}, r"head must be one of ema, fcn, nonlocal, a2, .*, got head='fnc'"),
        ({"head": "no.such.Head"}, r"head=no\.such\.Head cannot be imported: No module named 'no'"),
        ({"head": "emanet.Nothing"}, r"head=emanet\.Nothing cannot be imported"),
        ({"head": "ham", "T": 0}, "T=0"),
        ({"head": "ham", "gradient": "none"}, "gradient must be last or full, got gradient='none'"),
        ({"head": "external", "K": 0}, "K=0"),
        ({"head": "psp", "channels": 0}, "channels=0"),
        ({"head": "psp", "bins": (1, 0)}, r"bins\[1\] must be at least 1, got bins\[1\]=0"),
        ({"head": "deeplabv3", "dilations": (0, 1)}, r"dilations\[0\] must be at least 1, got dilations\[0\]=0"),
        ({"head": "a2", "c_m": 0, "c_n": 0}, "c_m and c_n must be at least 1, got c_m=0, c_n=0"),
        ({"head": "nonlocal", "channels": 0}, "channels must be at least 1, got channels=0"),
        ({"head": "ham", "T_eval": 0}, "T_eval must be at least 1, got T_eval=0"),
    ],
)
def test_senseless_values_are_refused_by_the_network_and_by_the_check_before_it(options: dict, message: str):
    others = {"channels": 8, **options}
    with pytest.raises(ValueError, match=message):
        check_head(others.pop("head"), others)
    with pytest.raises(ValueError, match=message):
        network.EMANet(CLASSES, backbone="test_resnet", output_stride=16, **options)


def test_checking_a_head_draws_no_random_number():
    expected = torch.rand(1, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    for name in HEADS:
        check_head(name, {"channels": 8})
    assert torch.equal(torch.rand(1), expected)


def test_options_reach_the_layers():
    ham = tiny_net(head="ham", K=5, T=2, T_eval=4, gradient="full").head
    assert (ham.K, ham.T, ham.T_eval, ham.gradient) == (5, 2, 4, "full")
    assert tiny_net(head="external", K=5).head.keys.out_channels == 5
    a2 = tiny_net(head="a2", c_m=3, c_n=5).head
    assert (a2.a.out_channels, a2.b.out_channels, a2.v.out_channels, a2.out.conv.in_channels) == (3, 5, 5, 3)
    aspp = tiny_net(head="deeplabv3", dilations=[4, 8]).head  # at output stride 16: half of what is said of 8
    assert [branch.conv.dilation[0] for branch in aspp.branches[:-1]] == [1, 2, 4]
    psp = tiny_net(head="psp", bins=[1, 5]).head
    assert [level.bins for level in psp.pyramid] == [1, 5]


# --- a user's own -----------------------------------------------------------------------------------------------------


class Scale(nn.Module):
    """A unit behind fc0."""

    def __init__(self, channels: int, *, factor: float = 2.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels, 1, 1), factor))

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        return x * self.weight, None


class Reduce(nn.Module):
    """A head that takes fc0's place, of another width than ``channels``."""

    def __init__(self, in_channels: int, *, channels: int = 8, output_stride: int = 8) -> None:
        super().__init__()
        self.out_channels, self.output_stride = channels // 2, output_stride
        self.conv = nn.Conv2d(in_channels, self.out_channels, 1)

    def forward(self, features: Tensor) -> tuple[Tensor, None]:
        return self.conv(features), None


def test_a_unit_of_the_users_stands_behind_fc0_and_takes_its_own_options():
    net = tiny_net(head=Scale, factor=3.0).eval()
    plain = tiny_net(head="fcn").eval()
    plain.load_state_dict({key: value for key, value in net.state_dict().items() if key != "head.weight"})
    with torch.no_grad():
        plain.fc0.bn.weight *= 3  # a ReLU lets a positive factor through
        plain.fc0.bn.bias *= 3
    image = torch.randn(2, 3, 33, 33)
    torch.testing.assert_close(net(image), plain(image))
    assert (net.head_name, net.has_bases) == (f"{__name__}.Scale", False)
    with pytest.raises(
        ValueError, match="head=Scale has no option K: it takes channels, factor; K belongs to head=ema, ham"
    ):
        tiny_net(head=Scale, K=3)


def test_a_head_of_the_users_that_reads_the_backbone_takes_fc0s_place():
    net = tiny_net(head=f"{__name__}.Reduce", channels=12).eval()  # by its import path, as in a configuration file
    assert type(net.head).__name__ == "Reduce"
    assert isinstance(net.fc0, nn.Identity)
    assert (net.head.conv.in_channels, net.head.output_stride) == (net.backbone.channels, 16)
    assert net.fc1[0].conv.in_channels == 6
    image = torch.randn(1, 3, 33, 33)
    expected = net.fc2(net.fc1(net.head.conv(net.backbone(image))))
    assert torch.equal(net(image, low=True), expected)


# --- in the harness ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RIVALS)
def test_the_gradient_reaches_every_parameter(name: str):
    """DDP refuses parameters without a gradient; a non-local block's inner ones are zero at the first step alone."""
    task = RecordingTask(tiny_net(head=name), frozen_bn=False)
    fit(task, [tiny_batch(2, seed=1), tiny_batch(2, seed=2), tiny_batch(2, seed=3)])
    parameters = dict(task.net.named_parameters())
    assert any(key.startswith("head.") for key in parameters) or name == "fcn"
    assert all(set(gradients) == set(parameters) for gradients in task.gradients)
    for key in parameters:  # more than what rounding leaves of a zero
        assert max(float(gradients[key].abs().max()) for gradients in task.gradients) > 1e-9, key


@pytest.mark.parametrize("name", [name for name in RIVALS if name not in ("psp", "deeplabv3", "ham")])
def test_accumulating_batches_equals_one_big_batch_without_bases_too(name: str):
    """Not of heads whose result depends on the batch: a Hamburger draws its bases anew for each."""
    step = (tiny_batch(1, seed=1, ignored=0.8), tiny_batch(3, seed=2))
    whole, cut = RecordingTask(tiny_net(head=name)), RecordingTask(tiny_net(head=name))
    fit(whole, [joined(*step)])
    fit(cut, list(step), accumulate_grad_batches=2)
    assert_same(cut.result(), whole.result())


@pytest.mark.parametrize("name", RIVALS)
def test_a_rival_has_no_bases_and_sees_all_sizes(name: str):
    net = tiny_net(head=name).eval()
    image = torch.randn(2, 3, 33, 49)
    logits, mu = net(image, return_bases=True)
    assert logits.shape == (2, CLASSES, 33, 49)
    assert mu is None
    assert not net.has_bases
    assert torch.equal(net(image), logits)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    net.update_bases(mu)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    torch.testing.assert_close(net(image[:1]), logits[:1], rtol=1e-4, atol=1e-5)  # the other image plays no part
    with pytest.raises(ValueError, match=f"head={name} has no bases"):
        net.attend(image)
    with pytest.raises(WeightsError, match="head=ema only"):
        to_reference_state_dict(net)


def test_the_papers_head_moves_its_bases_through_the_network_and_shows_what_it_attends_to():
    net = tiny_net().eval()
    image, mu = torch.randn(2, 3, 33, 49), torch.randn(2, 8, 3)
    attention = net.attend(image)
    assert (net.has_bases, attention.size, attention.z.shape) == (True, (3, 4), (2, 12, 3))
    torch.testing.assert_close(attention.mu, net(image, return_bases=True)[1])
    expected = 0.9 * net.head.mu + 0.1 * mu.mean(0, keepdim=True)
    net.update_bases(mu)
    torch.testing.assert_close(net.head.mu, expected)


@pytest.mark.parametrize("name", RIVALS)
def test_bfloat16_trains_every_head(name: str):
    task = RecordingTask(tiny_net(head=name), frozen_bn=False)
    task.float()
    fit(task, [tiny_batch(2, seed=seed, dtype=torch.float32) for seed in range(2)], precision="bf16-mixed")
    assert len(task.losses) == 2
    assert all(value.isfinite().all() for value in task.net.state_dict().values())


@pytest.mark.parametrize("name", RIVALS)
def test_a_saved_folder_brings_the_head_back(name: str, tmp_path: Path):
    net = tiny_net(head=name).eval()
    net.description = Description("mine", NAMES, palette=[[i, i, i] for i in range(CLASSES)])
    image = torch.randn(1, 3, 33, 33)
    net.save_pretrained(tmp_path)
    restored = restore(tmp_path).net
    assert type(restored.head) is type(net.head)
    assert torch.equal(restored(image), net(image))
    assert f"the head {name} in place of the attention unit" in (tmp_path / "README.md").read_text()
    assert read_weights(tmp_path).keys() == net.state_dict().keys()
    with pytest.raises(ConfigError, match=f"head={name} has no option momentum"):
        restore(tmp_path, {"momentum": 0.5})
