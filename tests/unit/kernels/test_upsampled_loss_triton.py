"""The loss's Triton kernels against PyTorch in float64: in Triton's interpreter, and on a GPU where there is one.

The interpreter shows that arithmetic, masks and offsets are right; nothing of races and speed.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

import loss_cases
from loss_cases import CASES, Case, inputs, reference, run

pytest.importorskip("triton", reason="Triton is there on Linux alone")

#: Largest error as a share of the largest value. float32: 2^-24 times a few operations on logits of some units and the
#: root of some hundred summands; where positions are no binary fractions, they too are rounded to 2^-24 of the side.
#: Large logits: the rounding of a logit is an error of the loss in absolute terms. The 16-bit types round the gradient.
SHARE = {torch.float32: 3e-6, torch.float16: 6e-4, torch.bfloat16: 5e-3}

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def start(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the worker."""
    command = [sys.executable, loss_cases.__file__, *arguments]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=280)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of all cases; if the worker crashed, of those before the crash."""
    path = tmp_path_factory.mktemp("loss")
    done = start(str(path), TRITON_INTERPRET="1")
    (path / "stderr").write_text(f"exit code {done.returncode}\n{done.stderr}")
    return path


def assert_near(case: Case, got: dict[str, Tensor]) -> None:
    """Equal to the float64 reference on the same, already rounded, logits."""
    low, mask, weights = inputs(case)
    for name, expected in reference(low, mask, weights, case.align_corners).items():
        share = SHARE[case.dtype if name == "gradient" else torch.float32]
        scale = max(1e-3, expected.abs().max().item())
        assert got[name].dtype == (case.dtype if name == "gradient" else torch.float32)
        torch.testing.assert_close(
            got[name].double(), expected, rtol=0, atol=share * scale, msg=lambda m, n=name: n + m
        )


@pytest.mark.parametrize("name", CASES)
def test_interpreted_kernels_equal_interpolation_and_cross_entropy(folder: Path, name: str):
    path = folder / f"{name}.pt"
    assert path.exists(), (folder / "stderr").read_text()[-3000:]
    assert_near(CASES[name], torch.load(path, weights_only=True))


def test_a_label_out_of_range_makes_its_pixels_loss_nan_rather_than_reading_elsewhere(folder: Path):
    (((known, high), (low, ignored)),) = torch.load(folder / "out of range.pt", weights_only=True).tolist()
    assert known == pytest.approx(0.6931472)
    assert high != high
    assert low != low
    assert ignored == 0


def test_the_kernels_compile_for_a_gpu():
    done = start("compile", "sm_90", TRITON_INTERPRET="0")
    assert done.returncode == 0, done.stderr[-3000:]
    names = [
        "pixel_losses fp32",
        "pixel_losses bf16",
        "row_gradients fp32",
        "row_gradients bf16",
        "column_gradients fp32",
    ]
    assert json.loads(done.stdout) == names


@needs_cuda
@pytest.mark.parametrize("name", CASES)
def test_kernels_on_a_gpu_equal_interpolation_and_cross_entropy(name: str):
    assert_near(CASES[name], run(CASES[name], "triton", "cuda"))


@needs_cuda
@pytest.mark.parametrize("dtype", SHARE)
@pytest.mark.parametrize(("classes", "align_corners"), [(21, True), (171, False)])
def test_kernels_at_full_size_repeat_to_the_last_bit_and_need_a_fifth_of_the_memory(
    classes: int, align_corners: bool, dtype: torch.dtype
):
    case = Case(classes, (65, 65), (513, 513), align_corners, b=4, dtype=dtype, weighted=True)
    got = run(case, "triton", "cuda")
    assert_near(case, got)
    again = run(case, "triton", "cuda")
    assert all(torch.equal(got[name], again[name]) for name in got)
    torch.cuda.reset_peak_memory_stats()
    run(case, "triton", "cuda")
    assert torch.cuda.max_memory_allocated() < case.b * classes * 513 * 513 * 4 * 3 / 5  # three copies at least
