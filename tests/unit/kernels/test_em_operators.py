"""The EM's PyTorch operators: their formulas, and that compilers take them. On a CPU they run the plain reference."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.library import opcheck

import compiled_em
from compiled_em import Fast
from emanet.emau import EMAU, e_step, expectation_maximization, m_step
from emanet.kernels import iterate, ops, reconstruct, reference
from reference import numpy_e_step, numpy_em

AUTO = torch.export.Dim.AUTO


def problem(dtype: torch.dtype = torch.float64, *, channels_last: bool = False, grad: bool = False) -> list[Tensor]:
    """Pixels (2, 5, 7) and two sets of bases (2, 3, 5)."""
    x = torch.randn(2, 7, 5, dtype=dtype).transpose(1, 2)
    x = x if channels_last else x.contiguous()
    return [x.requires_grad_(grad), *(torch.randn(2, 3, 5, dtype=dtype, requires_grad=grad) for _ in range(2))]


@pytest.mark.parametrize("norm", ["l2", "layer", "none"])
def test_the_reference_equals_numpys(norm: str):
    x, mu, target = problem()
    sums, weights = ops.em_statistics(x, mu, None)
    last, before = ops.em_iterations(x, mu, 3, norm)
    y = ops.em_reconstruct(x, mu, target, False)
    for i in range(2):
        pixels, bases = x[i].numpy(), mu[i].numpy().T
        z = numpy_e_step(pixels, bases)
        np.testing.assert_allclose(sums[i], z.T @ pixels.T, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(weights[i], z.sum(0), rtol=1e-12)
        np.testing.assert_allclose(last[i].T, numpy_em(pixels, bases, 3, norm)[1], rtol=1e-10, atol=1e-13)
        np.testing.assert_allclose(before[i].T, numpy_em(pixels, bases, 2, norm)[1], rtol=1e-10, atol=1e-13)
        np.testing.assert_allclose(y[i], target[i].numpy().T @ z.T, rtol=1e-12, atol=1e-14)


def test_sums_of_other_values_are_weighted_by_the_same_responsibilities():
    x, mu, _ = problem()
    values = torch.randn_like(x)
    sums, weights = ops.em_statistics(x, mu, values)
    z = e_step(x, mu.transpose(1, 2))
    torch.testing.assert_close(sums, (values @ z).transpose(1, 2))
    torch.testing.assert_close(weights, z.sum(1))


@pytest.mark.parametrize("channels_last", [False, True])
def test_gradients_of_the_operators_equal_finite_differences(channels_last: bool):
    x, mu, target = problem(channels_last=channels_last, grad=True)
    assert torch.autograd.gradcheck(lambda x, mu: ops.em_statistics(x, mu, None), (x, mu))
    for relu in (False, True):
        assert torch.autograd.gradcheck(lambda *args, relu=relu: ops.em_reconstruct(*args, relu), (x, mu, target))


@pytest.mark.parametrize("norm", ["l2", "layer", "none"])
@pytest.mark.parametrize("gradient", ["none", "last", "full"])
def test_the_fast_unit_has_the_gradients_of_the_plain_steps(gradient: str, norm: str):
    x, start, _ = problem(grad=True)
    mu = start.transpose(1, 2)
    z, plain = expectation_maximization(x, mu, T=3, norm=norm, gradient=gradient)
    before, fast = iterate(x, mu, T=3, norm=norm, gradient=gradient)
    torch.testing.assert_close(fast, plain, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(e_step(x, before.to(x.dtype)), z, rtol=1e-10, atol=1e-12)
    if gradient == "none":
        assert not fast.requires_grad
        return
    y_plain, y_fast = torch.relu(plain @ z.transpose(1, 2)), reconstruct(x, before, fast, relu=True)
    upstream = torch.randn_like(y_plain), torch.randn_like(plain)
    leaves = (x, start) if gradient == "full" else (x,)
    expected = torch.autograd.grad((y_plain, plain), leaves, upstream)
    got = torch.autograd.grad((y_fast, fast), leaves, upstream)
    assert min(grad.abs().max() for grad in expected) > 1e-3
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-11)


def test_the_gradient_of_all_iterations_equals_finite_differences():
    x, start, _ = problem(grad=True)

    def unit(x: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        before, mu = iterate(x, start.transpose(1, 2), T=3, norm="l2", gradient="full")
        return reconstruct(x, before, mu, relu=False), mu

    assert torch.autograd.gradcheck(unit, (x, start))


def test_nothing_of_the_size_of_the_responsibilities_is_kept_for_backward():
    kept: list[tuple[int, ...]] = []
    x, mu = torch.randn(1, 4, 1000, requires_grad=True), torch.randn(1, 4, 7)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(tuple(t.shape)) or t, lambda t: t):
        before, bases = iterate(x, mu, T=3, norm="l2", gradient="full")
        reconstruct(x, before, bases, relu=True)
    assert (1, 4, 1000) in kept
    assert not [shape for shape in kept if 1000 in shape and 7 in shape]


def test_other_values_have_no_gradient_and_say_so():
    x, mu, _ = problem(grad=True)
    with pytest.raises(NotImplementedError, match="for the sums of the pixels alone"):
        ops.em_statistics(x, mu, torch.ones_like(x))


# the check itself looks at the gradient of a copy that it made
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_operators_keep_what_pytorch_asks_of_operators(dtype: torch.dtype, channels_last: bool):
    x, mu, target = problem(dtype, channels_last=channels_last)
    weights = torch.randn(2, 3)
    opcheck(ops.em_statistics, (x, mu, torch.randn_like(x)))
    opcheck(ops.em_iterations, (x, mu, 1, "l2"))
    opcheck(ops.em_assignment_backward, (x, mu, x, target, weights, True))
    opcheck(ops.em_assignment_backward, (x, mu, x, target, None, False))
    x, mu, target = problem(dtype, channels_last=channels_last, grad=True)
    opcheck(ops.em_statistics, (x, mu, None))
    opcheck(ops.em_reconstruct, (x, mu, target, True))


def test_a_16_bit_input_is_summed_in_float32():
    x, mu = torch.full((1, 1, 4096), 1.0, dtype=torch.bfloat16), torch.zeros(1, 1, 1, dtype=torch.bfloat16)
    sums, weights = ops.em_statistics(x, mu, None)
    assert (sums.item(), weights.item(), sums.dtype) == (4096.0, 4096.0, torch.float32)  # bfloat16 stops at 256
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(ops.em_statistics(x.float(), mu, None)[0], sums)


def test_torch_compile_takes_the_operators_and_the_plain_unit_whole():
    """In a process of its own: compiled code cannot look into the checker of shapes that is on in this one."""
    worker = Path(compiled_em.__file__)
    done = subprocess.run([sys.executable, str(worker)], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    differences = json.loads(done.stdout)
    assert set(differences) == {"operators none", "operators full", "unit none", "unit full"}
    for name, (largest, *of_results) in differences.items():
        assert largest > 1e-2
        assert max(of_results) < 1e-5, name


def test_torch_export_takes_the_operators_for_any_size():
    net, x = Fast("none").eval(), torch.randn(2, 6, 4, 5)
    sizes = {"x": {0: torch.export.Dim("b", max=8), 2: torch.export.Dim("h", max=64)}}
    with torch.no_grad():
        program = torch.export.export(net, (x,), dynamic_shapes=sizes)
        names = {str(node.target) for node in program.graph.nodes}
        assert {"emanet.em_iterations.default", "emanet.em_reconstruct.default"} <= names
        larger = torch.randn(3, 6, 9, 5)
        torch.testing.assert_close(program.module()(larger), net(larger))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_an_exported_unit_is_plain_pytorch_for_any_size(memory_format: torch.memory_format):
    net, x = EMAU(6, K=3).eval(), torch.randn(2, 6, 4, 5).contiguous(memory_format=memory_format)
    with torch.no_grad():
        program = torch.export.export(net, (x,), dynamic_shapes={"x": {0: AUTO, 2: AUTO, 3: AUTO}})
        assert not [node for node in program.graph.nodes if "emanet" in str(node.target)]
        for size in ((1, 6, 1, 1), (3, 6, 9, 7)):
            other = torch.randn(size)
            torch.testing.assert_close(program.module()(other)[0], net(other)[0])


def test_the_finish_is_the_end_of_the_m_step():
    x, mu, _ = problem()
    z = e_step(x, mu.transpose(1, 2))
    for norm in ("l2", "layer", "none"):
        got = reference.finish(*reference.statistics(x, mu), norm)
        torch.testing.assert_close(got.transpose(1, 2), m_step(x, z, norm), rtol=1e-12, atol=1e-14)
