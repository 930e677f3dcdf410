"""The unit against the laws that it obeys, in float64, and against the NumPy reference."""

import math

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError
from torch import Tensor, nn
from torch.func import functional_call

from emanet.model.emau import EMAU, e_step, expectation_maximization, m_step, normalize
from reference import numpy_em, numpy_unit, numpy_update

CHANNELS, BASES = 6, 3


def unit(**options: object) -> EMAU:
    """A small unit in float64 whose batch norm has drawn statistics, in evaluation mode."""
    net = EMAU(CHANNELS, **{"K": BASES, **options}).double().eval()
    bn = net.conv2[1]
    for tensor, start in ((bn.weight, 0.5), (bn.bias, -0.5), (bn.running_mean, -0.5), (bn.running_var, 0.5)):
        nn.init.uniform_(tensor, start, start + 1)
    return net


def features(batch: int = 2, height: int = 4, width: int = 5) -> Tensor:
    """Input of the unit."""
    return torch.randn(batch, CHANNELS, height, width, dtype=torch.float64)


def pixels(batch: int = 2, n: int = 20) -> tuple[Tensor, Tensor]:
    """Flat pixels and bases for the bare steps."""
    x = torch.randn(batch, CHANNELS, n, dtype=torch.float64)
    return x, normalize(torch.randn(batch, CHANNELS, BASES, dtype=torch.float64))


def as_numpy(net: EMAU) -> dict[str, np.ndarray]:
    """The unit's state for the reference."""
    return {key: value.detach().numpy().copy() for key, value in net.state_dict().items()}


def graph_nodes(y: Tensor) -> set[str]:
    """Names of the operations in the autograd graph of y."""
    names, pending = set(), [y.grad_fn]
    while pending:
        node = pending.pop()
        if node is not None and node not in names:
            names.add(node.name())
            pending += [parent for parent, _ in node.next_functions]
    return names


# --- E-step and M-step ----------------------------------------------------------------------------------------------


def test_responsibilities_of_every_pixel_sum_to_one():
    x, mu = pixels()
    z = e_step(x * 10, mu)
    assert (z > 0).all()
    torch.testing.assert_close(z.sum(2), torch.ones(2, 20, dtype=torch.float64), rtol=0, atol=1e-14)


def test_responsibilities_are_the_softmax_at_temperature_one():
    x = torch.tensor([[[1.0], [0.0]]], dtype=torch.float64)
    mu = torch.tensor([[[0.0, math.log(3)], [5.0, 7.0]]], dtype=torch.float64)
    torch.testing.assert_close(e_step(x, mu)[0, 0], torch.tensor([0.25, 0.75], dtype=torch.float64))


def test_bases_after_an_m_step_have_unit_norm_up_to_the_added_eps():
    x, mu = pixels()
    z = e_step(x, mu)
    raw = torch.linalg.vector_norm(m_step(x, z, "none"), dim=1)
    got = torch.linalg.vector_norm(m_step(x, z), dim=1)
    torch.testing.assert_close(got, raw / (raw + 1e-6), rtol=1e-14, atol=0)
    assert (got < 1).all()


def test_m_step_is_the_weighted_mean_of_the_pixels_with_the_eps_added_to_the_weights():
    x = torch.tensor([[[1.0, 3.0]]], dtype=torch.float64)
    z = torch.tensor([[[1.0, 0.0], [3.0, 0.0]]], dtype=torch.float64)  # the second base holds no pixel
    expected = torch.tensor([[[(1 * 1 + 3 * 3) / (4 + 1e-6), 0.0]]], dtype=torch.float64)
    torch.testing.assert_close(m_step(x, z, "none"), expected, rtol=1e-14, atol=0)


def test_layer_norm_gives_each_base_mean_zero_and_variance_one():
    x, mu = pixels()
    bases = m_step(100 * x, e_step(x, mu), "layer")
    torch.testing.assert_close(bases.mean(1), torch.zeros(2, BASES, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(bases.var(1, correction=0), torch.ones(2, BASES, dtype=torch.float64), rtol=0, atol=1e-3)


@pytest.mark.parametrize("norm", ["l2", "layer", "none"])
@pytest.mark.parametrize("T", [1, 2, 3, 7])
def test_T_iterations_equal_the_numpy_reference(T: int, norm: str):
    x, mu = pixels()
    z_got, mu_got = expectation_maximization(x, mu, T=T, norm=norm)
    for image in range(2):
        z, bases = numpy_em(x[image].numpy(), mu[image].numpy(), T, norm)
        np.testing.assert_allclose(z_got[image].numpy(), z, rtol=1e-11, atol=1e-14)
        np.testing.assert_allclose(mu_got[image].numpy(), bases, rtol=1e-11, atol=1e-14)


def test_the_last_responsibilities_come_from_the_bases_before_the_last_m_step():
    x, mu = pixels()
    _, before = expectation_maximization(x, mu, T=2)
    z, after = expectation_maximization(x, mu, T=3)
    torch.testing.assert_close(z, e_step(x, before), rtol=0, atol=0)
    torch.testing.assert_close(after, m_step(x, z), rtol=0, atol=0)
    assert (z - e_step(x, after)).abs().max() > 1e-4


def test_bases_without_their_batch_axis_are_refused_instead_of_broadcast():
    x, mu = pixels(batch=2)
    with pytest.raises(TypeCheckError, match="mu"):
        e_step(x, mu[:1])


def test_an_input_with_other_channels_is_refused():
    with pytest.raises((TypeCheckError, RuntimeError)):
        unit()(torch.randn(1, CHANNELS + 1, 4, 4, dtype=torch.float64))


# --- the whole unit -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["l2", "layer", "none"])
@pytest.mark.parametrize("T", [1, 3])
def test_the_unit_equals_the_numpy_reference_in_evaluation(T: int, norm: str):
    net, x = unit(T=T, norm=norm), features()
    y, mu = net(x)
    expected = numpy_unit(as_numpy(net), x.numpy(), T=T, norm=norm)
    np.testing.assert_allclose(y.detach().numpy(), expected.y, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(mu.numpy(), expected.mu, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(net.attend(x)[0].numpy(), expected.z, rtol=1e-10, atol=1e-12)


def test_the_unit_equals_the_numpy_reference_in_training_running_statistics_and_update_included():
    net, x = unit().train(), features()
    net.conv2[1].momentum = 3e-4
    before = as_numpy(net)
    y, mu = net(x)
    net.update_bases(mu)
    after = as_numpy(net)
    expected = numpy_unit(before, x.numpy(), training=True)
    n = x.numel() // CHANNELS
    np.testing.assert_allclose(y.detach().numpy(), expected.y, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(after["mu"], numpy_update(before["mu"], expected.mu, 0.9), rtol=1e-12)
    for name, batch in (("mean", expected.bn_mean), ("var", expected.bn_var * n / (n - 1))):
        key = f"conv2.1.running_{name}"
        np.testing.assert_allclose(after[key], (1 - 3e-4) * before[key] + 3e-4 * batch, rtol=1e-12)


def test_the_output_does_not_depend_on_the_order_of_the_bases():
    net, x = unit(), features()
    y, mu = net(x)
    order = torch.tensor([2, 0, 1])
    net.mu.copy_(net.mu[:, :, order])
    y_permuted, mu_permuted = net(x)
    torch.testing.assert_close(y_permuted, y, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(mu_permuted, mu[:, :, order], rtol=1e-12, atol=1e-14)


def test_permuting_the_pixels_permutes_the_output():
    net, x = unit(), features(height=4, width=5)
    order = torch.randperm(20)
    shuffled = x.flatten(2)[..., order].view_as(x)
    y, mu = net(x)
    y_shuffled, mu_shuffled = net(shuffled)
    torch.testing.assert_close(y_shuffled.flatten(2), y.flatten(2)[..., order], rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(mu_shuffled, mu, rtol=1e-12, atol=1e-14)


def test_the_reconstruction_has_rank_at_most_K():
    net = EMAU(8, K=3).double()
    z, mu = net.attend(torch.randn(1, 8, 5, 6, dtype=torch.float64))
    reconstruction = mu[0] @ z[0].T
    assert reconstruction.shape == (8, 30)
    assert torch.linalg.matrix_rank(reconstruction) == 3


def test_images_of_a_batch_do_not_influence_each_other_in_evaluation():
    net, x = unit(), features(batch=3)
    torch.testing.assert_close(net(x)[0][1:2], net(x[1:2])[0], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("training", [True, False])
def test_forward_leaves_the_input_and_the_stored_bases_bit_equal(training: bool):
    net, x = unit().train(training), features()
    bases, copy = net.mu.clone(), x.clone()
    net(x)
    assert torch.equal(net.mu, bases)
    assert torch.equal(x, copy)


@pytest.mark.parametrize("gradient", ["none", "last", "full"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_folding_conv1_into_the_bases_equals_computing_it(layout: torch.memory_format, gradient: str):
    net = unit(gradient=gradient).train().to(memory_format=layout)
    x = features(height=9, width=11).contiguous(memory_format=layout).requires_grad_()
    upstream_z, upstream_mu = torch.randn(2, 99, BASES).double(), torch.randn(2, CHANNELS, BASES).double()
    seen: list[torch.Size] = []
    net.conv1.register_forward_hook(lambda _module, args, _y: seen.append(args[0].shape))
    folded, written = net.attend(x), net.run_em(net.conv1(x).flatten(2))
    assert len(seen) == 1  # what is written out here
    for got, expected in zip(folded, written, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-14)
    if gradient != "none":
        leaves = [x, net.conv1.weight, net.conv1.bias]
        got, expected = (
            torch.autograd.grad((z * upstream_z).sum() + (mu * upstream_mu).sum(), leaves)
            for z, mu in (folded, written)
        )
        for a, b in zip(got, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_conv1_is_computed_where_the_pixels_are_fewer_than_the_bases_that_it_would_be_folded_into():
    net, seen = unit(), []
    net.conv1.register_forward_hook(lambda _module, args, _y: seen.append(args[0].shape[-1]))
    for width in (18, 19):  # 2 T K = 18
        net(features(height=1, width=width))
    assert seen == [18]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_folding_keeps_the_precision_of_the_paper_s_size(dtype: torch.dtype):
    torch.manual_seed(3)
    exact, x = EMAU().double().eval(), torch.randn(1, 512, 33, 33, dtype=torch.float64).relu_()
    net = EMAU().eval()
    net.load_state_dict(exact.state_dict())
    net, x = net.to(dtype), x.to(dtype)
    _, mu = exact(x.double())
    folded, written = (
        (bases.double() - mu).norm() / mu.norm() for bases in (net(x)[1], net.run_em(net.conv1(x).flatten(2))[1])
    )
    assert folded < {torch.float32: 2e-6, torch.bfloat16: 0.01}[dtype]
    assert folded < 2 * written


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")  # PyTorch's own, at first use
def test_transforms_of_functions_see_through_the_unit():
    net, x = unit(), features(batch=3)

    def attended(image: Tensor) -> Tensor:
        return net(image[None])[0][0]

    single = torch.stack([attended(image) for image in x])
    torch.testing.assert_close(torch.vmap(attended)(x), single, rtol=1e-12, atol=1e-14)
    image, direction, step = x[0], torch.randn_like(x[0]), 1e-6
    _, tangent = torch.func.jvp(attended, (image,), (direction,))
    difference = (attended(image + step * direction) - attended(image - step * direction)) / (2 * step)
    torch.testing.assert_close(tangent, difference.detach(), rtol=1e-6, atol=1e-7)  # no_grad hides nothing forward


def test_a_hook_on_every_module_keeps_what_it_saw():
    net, x = unit(), features()
    kept: list[tuple[Tensor, Tensor]] = []
    remember = torch.nn.modules.module.register_module_forward_hook
    with remember(lambda _m, _i, y: kept.append((y, y.clone())) if isinstance(y, Tensor) else None):
        net(x)
    assert kept
    assert all(torch.equal(seen, copy) for seen, copy in kept)


def test_T_eval_counts_in_evaluation_only():
    net, x = unit(T=1, T_eval=4), features()
    weights, flat = net.mu.expand(2, -1, -1), net.conv1(x).flatten(2).detach()
    torch.testing.assert_close(net(x)[1], expectation_maximization(flat, weights, T=4)[1])
    torch.testing.assert_close(net.train()(x)[1], expectation_maximization(flat, weights, T=1)[1])


# --- start and maintenance of the bases -----------------------------------------------------------------------------


def test_the_start_is_the_authors():
    net = EMAU(512)
    assert (net.K, net.T, net.momentum) == (64, 3, 0.9)
    assert net.conv1.weight.std().item() == pytest.approx(0.0625, abs=5e-4)
    assert net.conv2[0].weight.std().item() == pytest.approx(0.0625, abs=5e-4)
    bias = net.conv1.bias.abs().max().item()  # PyTorch's default: uniform within 1 / sqrt(512)
    assert 0.04 < bias <= 1 / math.sqrt(512)
    assert net.conv2[0].bias is None
    norms = torch.linalg.vector_norm(net.mu, dim=1)
    torch.testing.assert_close(norms, torch.ones(1, 64))
    assert net.mu.shape == (1, 512, 64)
    assert net.mu.mean().abs() < 1e-3
    assert sum(p.numel() for p in net.parameters()) == 2 * 512**2 + 3 * 512


@pytest.mark.parametrize(("momentum", "expected"), [(0.9, 1.2), (1.0, 1.0), (0.0, 3.0), (0.99, 1.02)])
def test_an_update_keeps_the_share_momentum_of_the_old_bases_and_takes_the_rest_from_the_mean(
    momentum: float, expected: float
):
    net = unit(momentum=momentum)
    net.mu.fill_(1.0)
    address = net.mu.data_ptr()
    net.update_bases(torch.stack([torch.full((CHANNELS, BASES), value).double() for value in (2.0, 4.0)]))
    torch.testing.assert_close(net.mu, torch.full_like(net.mu, expected))
    assert net.mu.data_ptr() == address  # in place: a re-assigned buffer is not synchronized


def test_stored_bases_are_not_normalized_again():
    net = unit()
    net.update_bases(normalize(torch.randn(2, CHANNELS, BASES, dtype=torch.float64)))
    assert (torch.linalg.vector_norm(net.mu, dim=1) < 0.999).all()


@pytest.mark.parametrize(("maintenance", "gradient"), [("none", "none"), ("backprop", "full")])
def test_bases_that_are_fixed_or_trained_by_gradient_do_not_move_by_an_update(maintenance: str, gradient: str):
    net = unit(maintenance=maintenance, gradient=gradient)
    before = net.mu.detach().clone()
    net.update_bases(torch.full((1, CHANNELS, BASES), 3.0, dtype=torch.float64))
    assert torch.equal(net.mu, before)


def test_the_bases_are_part_of_the_state_dict():
    assert "mu" in dict(EMAU(4, K=2).named_buffers())
    assert "mu" in dict(EMAU(4, K=2, maintenance="backprop", gradient="full").named_parameters())
    assert EMAU(4, K=2).state_dict().keys() == EMAU(4, K=2, maintenance="none").state_dict().keys()


# --- gradient -------------------------------------------------------------------------------------------------------


def test_without_gradient_the_input_is_reached_through_the_residual_alone_and_no_graph_is_kept():
    net, x = unit(gradient="none").train(), features().requires_grad_()
    y, mu = net(x)
    upstream = torch.randn_like(y)
    assert not mu.requires_grad
    assert "SoftmaxBackward0" not in graph_nodes(y)
    assert not any("Bmm" in name for name in graph_nodes(y))
    y.backward(upstream)
    torch.testing.assert_close(x.grad, upstream * (y > 0), rtol=0, atol=0)
    assert net.conv2[0].weight.grad.abs().max() > 0
    assert net.conv1.weight.grad is None


@pytest.mark.parametrize("gradient", ["none", "last", "full"])
def test_conv1_is_frozen_exactly_where_no_gradient_can_reach_it(gradient: str):
    net = unit(gradient=gradient).train()
    net(features())[0].square().sum().backward()
    trained = gradient != "none"
    assert net.conv1.weight.requires_grad is net.conv1.bias.requires_grad is trained
    for parameter in net.parameters():
        reached = parameter.grad is not None and bool(parameter.grad.abs().max() > 0)
        assert reached is parameter.requires_grad


@pytest.mark.parametrize(("gradient", "T"), [("full", 1), ("full", 3), ("last", 1)])
def test_the_gradient_reaches_bases_that_are_trained_by_it(gradient: str, T: int):
    net = unit(maintenance="backprop", gradient=gradient, T=T).train()
    net(features())[0].square().sum().backward()
    assert net.mu.grad.abs().max() > 1e-6


def test_the_last_iteration_alone_is_one_iteration_from_detached_bases():
    x, mu = pixels()
    weights_z, weights_mu = torch.randn(2, 20, BASES).double(), torch.randn(2, CHANNELS, BASES).double()

    def gradient_of(T: int, mode: str, start: Tensor) -> Tensor:
        leaf = x.clone().requires_grad_()
        z, bases = expectation_maximization(leaf, start, T=T, gradient=mode)
        ((z * weights_z).sum() + (bases * weights_mu).sum()).backward()
        return leaf.grad

    _, detached = expectation_maximization(x, mu, T=2)
    one_step = gradient_of(1, "full", detached)
    torch.testing.assert_close(gradient_of(3, "last", mu), one_step, rtol=1e-12, atol=1e-14)
    assert (gradient_of(3, "full", mu) - one_step).abs().max() > 1e-3


@pytest.mark.parametrize("norm", ["l2", "layer", "none"])
def test_the_full_gradient_of_the_iterations_equals_finite_differences(norm: str):
    x = torch.randn(1, 3, 4, dtype=torch.float64, requires_grad=True)
    mu = torch.randn(1, 3, 2, dtype=torch.float64, requires_grad=True)

    def run(x: Tensor, mu: Tensor) -> tuple[Tensor, Tensor]:
        return expectation_maximization(x, mu, T=3, norm=norm, gradient="full")

    assert torch.autograd.gradcheck(run, (x, mu))


def test_the_full_gradient_of_the_whole_unit_equals_finite_differences():
    net = EMAU(3, K=2, maintenance="backprop", gradient="full").double().eval()
    names = [name for name, _ in net.named_parameters()]
    x = torch.randn(1, 3, 2, 2, dtype=torch.float64, requires_grad=True)

    def run(x: Tensor, *parameters: Tensor) -> Tensor:
        return functional_call(net, dict(zip(names, parameters, strict=True)), (x,))[0]

    assert "mu" in names
    assert torch.autograd.gradcheck(run, (x, *(p.detach().clone().requires_grad_() for p in net.parameters())))


def test_no_graph_is_kept_under_no_grad_even_where_a_gradient_is_configured():
    with torch.no_grad():
        y, mu = unit(gradient="full")(features())
    assert not y.requires_grad
    assert not mu.requires_grad


# --- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 0}, "must be at least 1, got channels=0"),
        ({"K": 0}, "must be at least 1, got K=0"),
        ({"T": 0}, "must be at least 1, got T=0, T_eval=0"),
        ({"T_eval": 0}, "must be at least 1, got T_eval=0"),
        ({"momentum": 1.5}, "momentum is a share, 0..1, got momentum=1.5"),
        ({"momentum": -0.1}, "got momentum=-0.1"),
        ({"momentum": math.nan}, "got momentum=nan"),
        ({"maintenance": "backprop"}, "with gradient=none and T=3 none reaches them: set gradient=full"),
        ({"maintenance": "backprop", "gradient": "last"}, "with gradient=last and T=3 none reaches them"),
    ],
)
def test_settings_without_sense_are_refused_with_what_was_got(options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        EMAU(**{"channels": CHANNELS, "K": BASES} | options)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("norm", "l1", "norm must be one of l2, layer, none, got norm='l1'"),
        ("maintenance", "ema", "one of moving_average, backprop, none, got maintenance='ema'"),
        ("gradient", "all", "gradient must be one of none, last, full, got gradient='all'"),
    ],
)
def test_an_unknown_switch_is_refused_with_the_known_ones(name: str, value: str, message: str):
    # Without the import hook: beartype, on in tests only, would refuse the constructor's argument first.
    with pytest.raises(ValueError, match=message):
        EMAU.__init__.__wrapped__(nn.Module.__new__(EMAU), 1, **{name: value})
