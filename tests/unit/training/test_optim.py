"""The paper's optimizer: who is in which group, and the rate at each iteration."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from emanet.training.optim import build_optimizer, parameter_groups, poly_factor
from tiny import tiny_net


@pytest.mark.parametrize("options", [{}, {"gradient": "full"}, {"gradient": "full", "maintenance": "backprop"}])
def test_every_trainable_parameter_is_in_exactly_one_group(options: dict):
    net = tiny_net(**options)
    grouped = [id(p) for group in parameter_groups(net, lr=1.0, weight_decay=0.1) for p in group["params"]]
    trainable = [id(p) for p in net.parameters() if p.requires_grad]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == set(trainable)


def test_each_group_has_its_rate_and_decay():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1, bias=False))
    groups = {group["name"]: group for group in parameter_groups(net, lr=0.1, weight_decay=0.01)}
    expected = {
        "weights": ([net[0].weight, net[2].weight], 0.1, 0.01),
        "norm_weights": ([net[1].weight], 0.1, 0.0),
        "biases": ([net[0].bias, net[1].bias], 0.2, 0.0),
    }
    assert groups.keys() == expected.keys()
    for name, (parameters, lr, decay) in expected.items():
        assert [id(p) for p in groups[name]["params"]] == [id(p) for p in parameters]
        assert (groups[name]["lr"], groups[name]["weight_decay"]) == (lr, decay)


def test_bases_that_are_trained_do_not_decay():
    net = tiny_net(gradient="full", maintenance="backprop")
    (group,) = [
        group
        for group in parameter_groups(net, lr=0.1, weight_decay=0.01)
        if any(p is net.emau.mu for p in group["params"])
    ]
    assert group["weight_decay"] == 0


def test_a_frozen_conv1_is_in_no_group():
    net = tiny_net()
    grouped = {id(p) for group in parameter_groups(net, lr=0.1, weight_decay=0.01) for p in group["params"]}
    assert id(net.emau.conv1.weight) not in grouped
    assert id(net.emau.conv1.bias) not in grouped


def test_the_rate_is_refreshed_every_tenth_iteration_counted_from_one():
    factors = [poly_factor(iteration - 1, max_steps=30_000) for iteration in range(1, 31)]
    assert factors[:9] == [1.0] * 9
    assert factors[9:19] == [(1 - 10 / 30_000) ** 0.9] * 10
    assert factors[19:29] == [(1 - 20 / 30_000) ** 0.9] * 10
    assert factors[29] == (1 - 30 / 30_000) ** 0.9
    assert poly_factor(29_989, max_steps=30_000) == pytest.approx((10 / 30_000) ** 0.9)
    assert poly_factor(29_998, max_steps=30_000) == pytest.approx((10 / 30_000) ** 0.9)
    assert poly_factor(29_999, max_steps=30_000) == 0.0


def test_the_rate_never_rises_and_never_leaves_zero_to_one():
    factors = [poly_factor(step, max_steps=25, refresh=1, power=2.0) for step in range(40)]
    assert all(0 <= later <= earlier <= 1 for earlier, later in pairwise(factors))
    assert factors[12] == pytest.approx((1 - 13 / 25) ** 2)


def test_every_group_follows_the_schedule_from_its_own_rate():
    net = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1))
    optimizer, scheduler = build_optimizer(
        net, lr=0.5, momentum=0.9, weight_decay=1e-4, max_steps=4, power=1.0, refresh=1
    )
    seen = []
    for _ in range(4):
        seen.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    torch.testing.assert_close(
        torch.tensor(seen), torch.tensor([[0.375, 0.375, 0.75], [0.25, 0.25, 0.5], [0.125, 0.125, 0.25], [0, 0, 0]])
    )
    assert {group["momentum"] for group in optimizer.param_groups} == {0.9}


def test_a_step_is_sgd_with_momentum_and_decay_by_hand():
    net = nn.Conv2d(1, 1, 1)
    optimizer, scheduler = build_optimizer(net, lr=0.1, momentum=0.9, weight_decay=0.5, max_steps=1000)
    w, b = net.weight.item(), net.bias.item()
    velocity_w = velocity_b = 0.0
    for _ in range(3):
        optimizer.zero_grad()
        (2 * net.weight.sum() + 3 * net.bias.sum()).backward()
        optimizer.step()
        scheduler.step()
        velocity_w = 0.9 * velocity_w + 2 + 0.5 * w
        velocity_b = 0.9 * velocity_b + 3
        w, b = w - 0.1 * velocity_w, b - 0.2 * velocity_b
    assert net.weight.item() == pytest.approx(w, rel=1e-5)
    assert net.bias.item() == pytest.approx(b, rel=1e-5)


def test_one_fused_kernel_steps_as_one_parameter_after_the_other():
    results = []
    for fused in (False, True):
        net = tiny_net().double()
        optimizer, scheduler = build_optimizer(
            net, lr=0.1, momentum=0.9, weight_decay=1e-2, max_steps=20, refresh=1, fused=fused
        )
        generator = torch.Generator().manual_seed(0)
        for _ in range(5):
            for parameter in net.parameters():
                gradient = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.grad = gradient if parameter.requires_grad else None
            optimizer.step()
            scheduler.step()
        assert {group["fused"] for group in optimizer.param_groups} == {fused}
        results.append([parameter.detach() for parameter in net.parameters()])
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-14)


def test_the_backbone_has_groups_of_its_own_only_where_its_rate_differs():
    net = nn.ModuleDict({"backbone": nn.Conv2d(3, 4, 1), "fc0": nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))})
    same = parameter_groups(net, lr=0.1, weight_decay=0.01)
    assert [group["name"] for group in same] == ["weights", "norm_weights", "biases"]
    slower = parameter_groups(net, lr=0.1, weight_decay=0.01, backbone_lr_factor=0.1)
    assert {
        group["name"]: (round(group["lr"], 9), group["weight_decay"], len(group["params"])) for group in slower
    } == {
        "weights": (0.1, 0.01, 1),
        "norm_weights": (0.1, 0.0, 1),
        "biases": (0.2, 0.0, 2),
        "backbone_weights": (0.01, 0.01, 1),
        "backbone_biases": (0.02, 0.0, 1),
    }
