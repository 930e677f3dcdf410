"""Every head in the network: what it costs, what it refuses; that it trains and is stored as the paper's."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from emanet import EMAU, EMANet
from emanet.checkpoints.reference import to_reference_state_dict
from emanet.checkpoints.restore import read_weights, restore
from emanet.common.errors import ConfigError, WeightsError
from emanet.config.schema import PROJECT_ROOT
from emanet.inference.attention import base_maps
from emanet.model.backbone import Backbone
from emanet.model.heads import EMA, EMA_KEYS, HEADS, NAMES, build_head, check_asked, check_head
from emanet.model.heads.layers import conv_bn_relu
from emanet.model.hub import Description
from emanet.model.mmseg import MMSegEMANet
from emanet.studies.complexity import Cost, build_on_meta, head_costs, measure, overheads
from tiny import CLASSES, RecordingTask, assert_same, fit, joined, tiny_batch, tiny_net
from tiny import NAMES as CLASS_NAMES

RIVALS = tuple(HEADS)


# --- the paper's head is what it was ---------------------------------------------------------------------------------


def test_the_papers_network_has_the_tensors_that_it_had_before_there_were_rivals():
    """The golden digest is that of ``tiny_net()`` of commit 12ba10f, the last one without ``head``: made by the same
    lines from its state dict. Keys and shapes outside the backbone, in order."""
    state = tiny_net(head="ema").state_dict()
    listed = [f"{key} {tuple(value.shape)}" for key, value in state.items() if not key.startswith("backbone.")]
    digest = hashlib.sha256("\n".join(listed).encode()).hexdigest()
    assert digest == "96928d67c4090fcf7ffec790c6f4876d8031bbcb62c9cac528e9bf0e0899acdf"
    # of the unit's values too, which torch's generator alone decides: they are drawn first
    unit = hashlib.sha256()
    for key, value in state.items():
        if key.startswith("emau."):
            unit.update(key.encode() + str(tuple(value.shape)).encode() + value.numpy().tobytes())
    assert unit.hexdigest() == "0ef787bc8c72b4c532476735890e5a0abe50fa3ef40dfec7878aec1313209410"


def test_the_papers_network_draws_its_start_as_it_did_before_there_were_rivals():
    torch.manual_seed(0)
    emau = EMAU(8, K=3)
    backbone = Backbone("test_resnet", output_stride=16)
    fc0, fc1, fc2 = conv_bn_relu(backbone.channels, 8), conv_bn_relu(8, 256), nn.Conv2d(256, CLASSES, 1)
    parts = {"backbone.": backbone, "fc0.": fc0, "emau.": emau, "fc1.0.": fc1, "fc2.": fc2}
    expected = {prefix + key: value for prefix, part in parts.items() for key, value in part.state_dict().items()}
    state = tiny_net().state_dict()
    assert list(state) == list(expected)
    assert all(torch.equal(value, expected[key]) for key, value in state.items())


# --- costs ------------------------------------------------------------------------------------------------------------


def conv(c_in: int, c_out: int, n: int, kernel: int = 1) -> tuple[int, int]:
    """Parameters and multiply-accumulates of a convolution without bias and its batch norm, over n features."""
    weights = c_in * c_out * kernel**2
    return weights + 2 * c_out, weights * n + 2 * c_out * n


def linear(c_in: int, c_out: int, n: int, bias: int = 1) -> tuple[int, int]:
    """The same of a 1x1 convolution without norm (adding its bias counts nothing)."""
    return c_in * c_out + bias * c_out, c_in * c_out * n


def by_hand(name: str, *, D: int, N: int, c: int, K: int, T: int) -> tuple[int, int]:
    """Parameters and multiply-accumulates of a head over N features of D channels, from its description."""
    m, q, w = c // 2, c // 4, c // 2
    unit = {
        "fcn": [],
        "nonlocal": [linear(c, m, N), *2 * [linear(c, m, N, bias=0)], *2 * [(0, N * N * m)], conv(m, c, N)],
        "a2": [linear(c, q, N), *2 * [linear(c, q, N, bias=0)], *2 * [(0, N * q * q)], conv(q, c, N)],
        "external": [linear(c, c, N, bias=0), linear(c, K, N, bias=0), linear(K, c, N, bias=0), conv(c, c, N)],
        # x^T D, then per update x^T D, D^T D, C (D^T D), x C, C^T C, D (C^T C), then D C^T
        "ham": [
            linear(c, c, N),
            (0, N * c * K),
            (0, T * (N * c * K + K * c * K + N * K * K + N * c * K + K * N * K + c * K * K)),
            (0, N * c * K),
            conv(c, c, N),
        ],
    }
    if name == "psp":
        parts = [*(conv(D, D // 4, bins**2) for bins in (1, 2, 3, 6)), conv(2 * D, c, N, 3)]
    elif name == "deeplabv3":
        parts = [conv(D, w, N), *3 * [conv(D, w, N, 3)], conv(D, w, 1), conv(5 * w, w, N)]
    else:
        parts = [conv(D, c, N, 3), *unit[name]]
    return sum(params for params, _ in parts), sum(macs for _, macs in parts)


@pytest.mark.parametrize("c", [64, 32])
@pytest.mark.parametrize("name", RIVALS)
def test_a_head_costs_what_its_description_says(name: str, c: int):
    net = build_on_meta(num_classes=21, backbone="test_resnet", output_stride=8, head=name, channels=c, K=7, T=2)
    costs = measure(net, 65, 41)
    rows = {row.name: row for row in [*costs, *overheads(net, costs)]}
    n = 9 * 6
    head = by_hand(name, D=net.backbone.channels, N=n, c=c, K=7, T=2)
    assert (rows["overhead as published"].params, rows["overhead as published"].macs) == head
    fc1, fc2 = conv(c // 2 if name == "deeplabv3" else c, 256, n, 3), linear(256, 21, n)
    assert (rows["fc1"].params, rows["fc1"].macs) == fc1
    assert rows["overhead, whole head"].params == head[0] + fc1[0] + fc2[0]
    assert rows["overhead, whole head"].macs == head[1] + fc1[1] + fc2[1]
    assert rows["total"].params == sum(parameter.numel() for parameter in net.parameters())


@pytest.fixture(scope="module")
def table() -> dict[str, Cost]:
    """What ``python src/complexity.py heads=true`` adds, by row."""
    model: Any = OmegaConf.load(PROJECT_ROOT / "conf" / "model" / "emanet.yaml")
    model.pretrained = False
    return {row.name: row for row in head_costs(model, 21, 513, 513)}


def test_deeplabv3_and_the_paper_cost_what_is_published(table):
    """At 513x513 (FACTS section 2)."""
    rows = [table[f"{name}: overhead as published"] for name in ("deeplabv3", "ema")]
    assert [(round(row.macs / 1e9, 1), round(row.params / 1e6, 1)) for row in rows] == [(63.4, 15.5), (43.1, 10.0)]


def test_attention_between_all_pixels_is_counted_and_not_held_in_memory(table):
    row, n = table["nonlocal: overhead as published"], 65 * 65
    assert row.macs == by_hand("nonlocal", D=2048, N=n, c=512, K=64, T=3)[1]
    # features, fc0's output, queries, keys, values, one of their copies, the result: and no weights of all pairs
    assert row.memory < 4 * n * (2048 + 512 + 7 * 256) + 4 * n**2 // 2


def test_the_page_of_the_heads_says_what_the_script_measures(table):
    page = (PROJECT_ROOT / "docs" / "heads.md").read_text(encoding="utf-8")
    lines = [line.strip("|").split("|") for line in page.splitlines() if line.startswith("| `")]
    told = {cells[0].strip(" `"): [cell.strip() for cell in cells] for cells in lines if len(cells) == 8}
    assert list(told) == list(NAMES)
    for name, cells in told.items():
        counts = [table[f"{name}: overhead{way}"] for way in (" as published", ", whole head")]
        expected = [text for row in counts for text in (f"{row.params / 1e6:.3f}", f"{row.macs / 1e9:.2f}")]
        assert cells[-4:] == expected, name
        keys = {key for key in EMA_KEYS if re.search(rf"`{key}`", cells[3])}
        assert keys == (set(EMA_KEYS) if name == EMA else set(HEADS[name].takes) & set(EMA_KEYS)), name


# --- keys and values --------------------------------------------------------------------------------------------------

KNOWN = {"ham": {"K", "T", "T_eval", "gradient"}, "external": {"K"}, EMA: set(EMA_KEYS)}


@pytest.mark.parametrize("key", EMA_KEYS)
@pytest.mark.parametrize("name", NAMES)
def test_a_key_is_taken_by_the_heads_that_know_it_and_refused_by_the_others(name: str, key: str):
    if key in KNOWN.get(name, ()):
        check_asked(name, [key, "channels", "backbone"])
        return
    owners = [head for head in NAMES if key in KNOWN.get(head, ())]
    with pytest.raises(ConfigError) as caught:
        check_asked(name, ["channels", key])
    assert f"model.head={name} does not know the key {key} ({', '.join(owners)})" in str(caught.value)


def test_all_keys_that_a_head_does_not_know_are_named_at_once_and_other_keys_are_left_to_others():
    with pytest.raises(ConfigError, match=r"the key K \(ema, ham, external\) and norm \(ema\): leave it out"):
        check_asked("fcn", ["norm", "dropout", "K"])
    check_asked("no such head", ["K"])
    check_asked("fcn", [])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head": "fnc"}, "head must be one of ema, fcn, nonlocal, a2, ham, external, psp, deeplabv3, got head='fnc'"),
        ({"head": "ham", "T": 0}, "T=0"),
        ({"head": "ham", "gradient": "none"}, "gradient must be last or full, got gradient='none'"),
        ({"head": "external", "K": 0}, "K=0"),
        ({"head": "psp", "channels": 0}, "channels=0"),
    ],
)
def test_senseless_values_are_refused_by_the_network_and_by_the_check_before_it(options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        tiny_net(**options)
    head = options["head"]
    with pytest.raises(ValueError, match=message):
        check_head(head, **{"channels": 8, **{key: value for key, value in options.items() if key != "head"}})


def test_checking_a_head_draws_no_random_number():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    for name in RIVALS:
        check_head(name, 8, K=3, T=3, T_eval=None, gradient=None)
    assert torch.equal(torch.rand(1), expected)


def test_options_reach_the_heads_that_know_them_and_no_gradient_means_the_heads_own():
    ham = build_head("ham", 16, 8, K=5, T=2, T_eval=4, gradient="full", output_stride=8).head
    assert (ham.K, ham.T, ham.T_eval, ham.gradient) == (5, 2, 4, "full")
    assert build_head("ham", 16, 8, gradient=None).head.gradient == "last"
    assert tiny_net(gradient=None).head.gradient == "none"
    assert build_head("external", 16, 8, K=5).head.keys.out_channels == 5
    aspp = build_head("deeplabv3", 16, 8, output_stride=16).head
    dilations = [branch.conv.dilation[0] for branch in aspp.branches[:4]]
    assert dilations == [1, 6, 12, 18]


def test_mmsegmentations_network_has_the_papers_head_alone():
    with pytest.raises(ValueError, match="head=ema alone, got head='fcn': use model=emanet"):
        MMSegEMANet(3, backbone="test_resnet", head="fcn")
    options: dict[str, Any] = {"backbone": "test_resnet", "output_stride": 16, "channels": 8, "aux_weight": 0.0}
    assert MMSegEMANet(3, head="ema", gradient=None, **options).head.gradient == "none"


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
def test_a_head_has_no_bases_and_sees_all_sizes(name: str):
    net = tiny_net(head=name).eval()
    image = torch.randn(2, 3, 33, 49)
    logits, mu = net(image, return_bases=True)
    assert logits.shape == (2, CLASSES, 33, 49)
    assert mu.shape == (2, 0, 0)
    assert torch.equal(net(image), logits)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    net.update_bases(mu)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    torch.testing.assert_close(net(image[:1]), logits[:1], rtol=1e-4, atol=1e-5)  # the other image plays no part


def test_the_papers_head_moves_its_bases_through_the_network():
    net = tiny_net()
    mu = torch.randn(2, 8, 3)
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
    net = tiny_net(head=name, T_eval=5).eval()
    net.description = Description("mine", CLASS_NAMES, palette=[[i, i, i] for i in range(CLASSES)])
    image = torch.randn(1, 3, 33, 33)
    net.save_pretrained(tmp_path)
    restored = restore(tmp_path).net
    assert type(restored.head) is type(net.head)
    assert torch.equal(restored(image), net(image))
    card = (tmp_path / "README.md").read_text()
    assert f"the head {name} in place of the attention unit" in card
    assert read_weights(tmp_path).keys() == net.state_dict().keys()


def test_a_folder_that_was_saved_before_there_were_heads_holds_the_papers(tmp_path: Path):
    net = tiny_net().eval()
    net.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["model"].pop("head") == "ema"
    config["model"]["gradient"] = "none"
    (tmp_path / "config.json").write_text(json.dumps(config))
    image = torch.randn(1, 3, 33, 33)
    assert torch.equal(EMANet.from_pretrained(tmp_path)(image), net(image))


def test_a_key_that_the_stored_head_does_not_know_is_refused_when_it_is_loaded(tmp_path: Path):
    net = tiny_net(head="external")
    net.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="head=external does not know the key T_eval"):
        EMANet.from_pretrained(tmp_path, T_eval=5)
    with pytest.raises(ConfigError, match="head=external does not know the key T_eval"):
        restore(tmp_path, {"T_eval": 5})
    assert restore(tmp_path, {"T_eval": None, "K": 3}).net.head.keys.out_channels == 3  # as stored


def test_bare_weights_of_a_rival_are_read_as_ours(tmp_path: Path):
    net = tiny_net(head="fcn")
    torch.save(net.state_dict(), tmp_path / "bare.pth")
    assert read_weights(tmp_path / "bare.pth").keys() == net.state_dict().keys()


def test_what_needs_bases_says_that_a_rival_has_none():
    net = tiny_net(head="nonlocal")
    with pytest.raises(ConfigError, match=r"bases \(head=ema\), got EMANet with another head: leave attention out"):
        base_maps(net, torch.randn(1, 3, 33, 33))
    with pytest.raises(WeightsError, match="head=ema only"):
        to_reference_state_dict(net)
