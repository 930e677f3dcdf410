"""benchmarks/attention_unit.py: what it compares computes the same, its cases run, and floors count what is counted."""

import sys
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from emanet.model.emau import EMAU

sys.path.append(str(Path(__file__).resolve().parents[3] / "benchmarks"))

import attention_unit as unit
from attention_unit import Setting

SIDES = (33, 65, 257)


@pytest.mark.parametrize("training", [False, True])
def test_the_transcription_equals_the_unit_gradients_included(training: bool):
    ours = EMAU(6, K=3, T=2).double()
    nn.init.uniform_(ours.conv2[1].running_mean)
    plain = unit.Transcription(6, K=3, T=2).double()
    plain.load_state_dict(ours.state_dict())
    x, upstream = torch.randn(2, 2, 6, 4, 5, dtype=torch.float64)
    found: list[list[Tensor]] = []
    for net in (ours.train(training), plain.train(training)):
        leaf = x.clone().requires_grad_()
        y, mu = net(leaf)
        found.append([y, mu, *torch.autograd.grad(y, [leaf, *net.conv2.parameters()], upstream)])
        found[-1] += [net.conv2[1].running_mean, net.conv2[1].running_var]
    assert len(found[0]) == 8
    for got, expected in zip(*found, strict=True):
        assert expected.abs().max() > 1e-3
        torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize(
    "setting", [*unit.settings("cpu", 8, SIDES)], ids=lambda setting: "-".join(map(str, setting.case().values()))
)
def test_every_variant_of_every_case_runs(setting: Setting):
    tiny = replace(setting, side=4)
    names = unit.names(setting)
    assert names[:4] == ["auto", "auto channels_last", "transcription", "transcription channels_last"]
    for name in names:
        found = unit.prepare(name, tiny)()
        y = found if isinstance(found, Tensor) else found[0]  # in training the gradient of the input
        assert y.dtype == getattr(torch, setting.dtype)
        assert y.shape == ((setting.images, 8, 16) if setting.part == "em" else (setting.images, 8, 4, 4))
        assert y.isfinite().all()


@pytest.mark.parametrize("channels_last", ["", " channels_last"])
def test_a_call_repeats_and_each_layout_is_what_its_name_says(channels_last: str):
    for part in ("unit", "em"):
        call = unit.prepare(f"auto{channels_last}", Setting("cpu", side=6, channels=8, K=4, part=part))
        x = call.args[-1]
        assert x.is_contiguous(memory_format=torch.channels_last) is bool(channels_last)
        copy = x.clone()
        first, second = (call()[0].clone() for _ in range(2))
        assert torch.equal(first, second)
        assert torch.equal(x, copy)


def test_a_lower_precision_of_products_lasts_for_the_call_alone():
    seen: list[str] = []

    def call() -> None:
        seen.append(torch.get_float32_matmul_precision())
        if len(seen) == 2:
            raise RuntimeError("in the call")

    timed, before = unit.at_medium(call), torch.get_float32_matmul_precision()
    timed()
    with pytest.raises(RuntimeError, match="in the call"):
        timed()
    assert seen == ["medium", "medium"]
    assert torch.get_float32_matmul_precision() == before != "medium"


@pytest.mark.parametrize(
    ("name", "part", "training"),
    [
        *((name, "unit", training) for name in ("auto", "transcription", *unit.RIVALS) for training in (False, True)),
        *((name, "em", False) for name in ("auto", "transcription")),
    ],
)
def test_operations_are_what_pytorch_counts(name: str, part: str, training: bool, monkeypatch: pytest.MonkeyPatch):
    setting = Setting("cpu", side=5, images=2, channels=16, K=3, T=2, training=training, part=part)
    call = unit.prepare(name, setting)
    counter = FlopCounterMode(display=False)
    # The counter does not work within autograd.grad; the fused kernel's backward computes the scores anew.
    monkeypatch.setattr(torch.autograd, "grad", lambda y, inputs, upstream, allow_unused: y.backward(upstream))
    with counter, sdpa_kernel(SDPBackend.MATH):
        call()
    assert counter.get_total_flops() == unit.operations(name, setting)


def test_the_em_of_the_goal_moves_346_megabytes():
    goal = Setting("cuda", side=65, images=16, precision="bfloat16", part="em")
    assert unit.variant("triton", goal).bytes == 5 * 16 * 65**2 * 512 * 2 == 346_112_000
    assert unit.variant("triton", replace(goal, T=1)).bytes == 3 * 69_222_400


@pytest.mark.parametrize(
    ("name", "training", "passes"),
    [("auto", False, 8), ("auto", True, 16), ("non-local", False, 6), ("double attention", False, 3.5)],
)
def test_a_floor_counts_passes_over_the_features(name: str, training: bool, passes: float):
    setting = Setting("cpu", side=10, images=3, channels=4, training=training)
    assert unit.variant(name, setting).bytes == passes * 3 * 100 * 4 * 4


def cases(monkeypatch: pytest.MonkeyPatch, device: str, triton: bool = True) -> list[tuple[dict[str, Any], list[str]]]:
    """Cases of a default run, and their variants."""
    monkeypatch.setattr(unit, "launcher", lambda: object() if triton else None)
    return [(setting.case(), unit.names(setting)) for setting in unit.settings(device, 512, (33, 65, 97, 129, 257))]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_no_case_comes_twice_and_each_differs_from_the_base_in_one_factor(monkeypatch: pytest.MonkeyPatch, device: str):
    found = [case for case, _ in cases(monkeypatch, device)]
    assert len(found) == len([*groupby(found)]) == len({str(case) for case in found}) == 31
    base = found[2] | {"direction": "forward"}
    assert (base["side"], base["K"], base["T"], base["images"]) == (65, 64, 3, 16 if device == "cuda" else 2)
    for case in found:
        changed = {key for key in case if case[key] != base[key]} - {"direction", "part"}
        assert len(changed) <= 1 or (changed == {"side", "images"} and case["side"] == 257)


def test_a_gpu_runs_every_kernel_in_the_case_of_the_goal_and_the_rivals_beside_the_unit(
    monkeypatch: pytest.MonkeyPatch,
):
    goal = {"side": 65, "images": 16, "channels": 512, "K": 64, "T": 3, "precision": "bfloat16", "direction": "forward"}
    for part in ("em", "unit"):
        (names,) = [names for case, names in cases(monkeypatch, "cuda") if case == goal | {"part": part}]
        for kernel in ("auto", "torch", "triton", "transcription"):
            assert {kernel, f"{kernel} channels_last"} <= set(names)
        assert ({*unit.RIVALS} <= set(names)) is (part == "unit")
    for _, names in cases(monkeypatch, "cuda", triton=False):
        assert not any("triton" in name for name in names)


def test_a_cpu_tries_bfloat16_products_once_and_spares_rivals_the_longest_training(monkeypatch: pytest.MonkeyPatch):
    found = cases(monkeypatch, "cpu")
    medium = [case for case, names in found if "auto medium" in names]
    assert [(case["direction"], case["side"], case["precision"]) for case in medium] == [
        ("forward", 65, "float32"),
        ("training", 65, "float32"),
    ]
    rivals = {
        (case["direction"], case["side"]): "non-local" in names
        for case, names in found
        if case["part"] == "unit" and case["side"] != 65
    }
    assert rivals.pop(("training", 257)) is False
    assert len(rivals) == 7
    assert all(rivals.values())
