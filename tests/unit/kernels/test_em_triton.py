"""The Triton kernels, run by Triton's interpreter in a process of their own, against float64 references.

The interpreter shows that the arithmetic, masks and offsets are right. It shows nothing of races, of bfloat16 products
(it cannot multiply them: bfloat16 is read, widened and written here) and of speed.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import triton_cases
from reference import numpy_e_step, numpy_em
from triton_cases import CASES, Case, T, inputs, unit_and_input

pytest.importorskip("triton", reason="Triton is there on Linux alone")

WORKER = Path(triton_cases.__file__)
#: Largest error of a result, as a share of its largest value. float32: 2^-24 times the root of some hundred terms, with
#: room. The 16-bit types round once more, 2^-11 and 2^-8, each of z, the bases and the result; the reference starts
#: from the same rounded inputs.
TOLERANCE = {torch.float32: 3e-6, torch.float16: 2e-3, torch.bfloat16: 1e-2}


def start(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the worker."""
    command = [sys.executable, str(WORKER), *arguments]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=280)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of all cases; if the worker crashed, of those before the crash."""
    path = tmp_path_factory.mktemp("triton")
    done = start(str(path), TRITON_INTERPRET="1")
    (path / "stderr").write_text(f"exit code {done.returncode}\n{done.stderr}")
    return path


def results(folder: Path, name: str) -> dict:
    """What the worker left of a case."""
    path = folder / f"{name}.pt"
    assert path.exists(), (folder / "stderr").read_text()[-3000:]
    return torch.load(path, weights_only=True)


def assert_near(got: Tensor, expected: np.ndarray | Tensor, share: float) -> None:
    """Equal up to a share of the largest value."""
    expected = torch.as_tensor(expected)
    assert got.shape == expected.shape
    scale = max(1e-3, expected.abs().max().item())
    torch.testing.assert_close(got.double(), expected.double(), rtol=0, atol=share * scale)


def expected_forward(case: Case) -> dict[str, np.ndarray]:
    """The forward operations of a case by NumPy, image by image."""
    x, values, mu, target, _ = (tensor.double().numpy() for tensor in inputs(case).values())
    found: dict[str, list[np.ndarray]] = {}
    for i in range(case.b):
        z = numpy_e_step(x[i], mu[i].T)
        # "before" of T iterations is what T - 1 end with
        before, last = (numpy_em(x[i], mu[i].T, rounds, case.norm)[1].T for rounds in (T - 1, T))
        y = target[i].T @ z.T
        one = {"sums": z.T @ x[i].T, "weights": z.sum(0), "value_sums": z.T @ values[i].T, "y": y}
        for name, value in (one | {"relu": np.maximum(y, 0), "last": last, "before": before}).items():
            found.setdefault(name, []).append(value)
    return {name: np.stack(images) for name, images in found.items()}


@pytest.mark.parametrize("name", CASES)
def test_statistics_iterations_and_reconstruction_equal_numpys(folder: Path, name: str):
    case, got = CASES[name], results(folder, name)
    for key, expected in expected_forward(case).items():
        assert got[key].isfinite().all()
        # Three rounds feed their rounding into the next softmax.
        factor = 10 if key in ("last", "before") else 1
        assert_near(got[key], expected, factor * TOLERANCE[case.dtype])


@pytest.mark.parametrize("name", CASES)
def test_gradients_equal_those_of_autograd_in_float64(folder: Path, name: str):
    case, got = CASES[name], results(folder, name)
    x, values, mu, target, grad_weights = (tensor.double() for tensor in inputs(case).values())
    x, mu = x.requires_grad_(), mu.requires_grad_()
    z = torch.softmax(x.transpose(1, 2) @ mu.transpose(1, 2), dim=2)
    statistics = (z.transpose(1, 2) @ x.transpose(1, 2) * target).sum() + (z.sum(1) * grad_weights).sum()
    grad_x, grad_mu = torch.autograd.grad(statistics, (x, mu), retain_graph=True)
    (rebuilt,) = torch.autograd.grad(((z @ target).transpose(1, 2) * values).sum(), x)
    # Logits of some 1e4 are known to 1e-3 in float32, and so is z of a pixel between two bases.
    share = TOLERANCE[case.dtype] if case.scale == 1 else 1e-3
    for key, expected in (("step_grad_x", grad_x), ("step_grad_mu", grad_mu), ("rebuilt_grad_x", rebuilt)):
        assert_near(got[key], expected, share)


@pytest.mark.parametrize("name", CASES)
def test_results_have_the_type_and_the_layout_of_the_pixels(folder: Path, name: str):
    case, got = CASES[name], results(folder, name)
    like = torch.empty_like(inputs(case)["x"])
    for key in ("y", "relu", "step_grad_x"):
        assert got[key].dtype == case.dtype
        assert got[key].stride() == like.stride()
    assert {got[key].dtype for key in ("sums", "weights", "last", "before", "step_grad_mu")} == {torch.float32}


def test_large_logits_assign_each_pixel_to_one_base(folder: Path):
    x, _, mu, *_ = inputs(CASES["large logits"]).values()
    nearest = (mu[0].double() @ x[0].double()).argmax(0)
    counts = torch.bincount(nearest, minlength=8).float()
    torch.testing.assert_close(results(folder, "large logits")["weights"][0], counts, rtol=0, atol=1e-3)


@pytest.mark.parametrize("gradient", ["none", "last", "full"])
def test_the_unit_with_the_kernels_equals_plain_pytorch_in_float64_gradients_included(folder: Path, gradient: str):
    got = results(folder, f"unit {gradient}")
    x, unit, upstream = unit_and_input(gradient, "torch", torch.float64)
    y, mu = unit(x)
    ((y * upstream).sum() + (mu * mu.detach()).sum() * (gradient != "none")).backward()
    expected = {"y": y.detach(), "mu": mu.detach(), "x": x.grad, "z": unit.attend(x)[0].detach()}
    expected |= {name: p.grad for name, p in unit.named_parameters() if p.grad is not None}
    assert expected.keys() == got.keys()
    assert ("conv1.weight" in got) is (gradient != "none")
    assert ("mu" in dict(unit.named_parameters())) is (gradient == "full")
    for name, value in expected.items():
        assert_near(got[name], value, 2e-5)


def test_what_the_kernels_do_not_take_is_refused_by_name(folder: Path):
    said = results(folder, "refusals")["said"]
    assert "float32, bfloat16 or float16, got torch.float64; set kernel=auto" in said["float64"]
    assert "up to 1024 channels and 256 bases, got channels=1025, K=2" in said["channels"]
    assert "got channels=4, K=257" in said["bases"]


def test_no_pixels_have_no_weight(folder: Path):
    sums, weights, y = results(folder, "refusals")["none"]
    assert (sums.shape, weights.shape, y.shape) == ((2, 3, 8), (2, 3), (2, 8, 0))
    assert not sums.any()
    assert not weights.any()


def test_a_plan_that_does_not_fit_is_followed_by_a_smaller_one_which_is_remembered(folder: Path):
    found = results(folder, "refusals")
    assert found["results"] == ["done", "done"]
    *larger, first, second = found["tried"]
    assert larger
    assert min(larger) > 16
    assert (first, second) == (16, 16)


def shared_and_products(target: str, tmp_path: Path) -> dict[str, dict]:
    """What the kernels need of a kind of GPU, at the paper's size in bfloat16."""
    done = start("compile", target, TRITON_CACHE_DIR=str(tmp_path), TRITON_INTERPRET="0")
    assert done.returncode == 0, done.stderr[-3000:]
    return {found.pop("kernel"): found for found in json.loads(done.stdout)}


def test_the_kernels_compile_for_an_h100_and_fit_on_it(tmp_path: Path):
    found = shared_and_products("sm_90", tmp_path)
    assert len(found) == 4
    assert max(need["shared"] for need in found.values()) <= 227 * 1024
    assert all(need["products"] > 0 for name, need in found.items() if name != "finish_kernel")  # on the tensor cores


@pytest.mark.slow
def test_the_kernels_compile_for_an_a100(tmp_path: Path):
    assert len(shared_and_products("sm_80", tmp_path)) == 4
