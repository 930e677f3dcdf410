"""Optimizers: who is in which group at which rate, and steps by hand."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from emanet.common.errors import ConfigError
from emanet.training.optimizers import PAPER, GroupedOptimizer
from tiny import tiny_net

SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.01)


def groups_of(net: nn.Module, **rules: Any) -> dict[str, dict[str, Any]]:
    """The paper's groups and further rules, by name."""
    made = GroupedOptimizer(SGD, PAPER | rules)
    made.freeze(net)
    return {group["name"]: group for group in made(net).param_groups}


@pytest.mark.parametrize("options", [{}, {"gradient": "full"}, {"gradient": "full", "maintenance": "backprop"}])
def test_every_trainable_parameter_is_in_exactly_one_group(options: dict):
    net = tiny_net(**options)
    grouped = [id(p) for group in groups_of(net).values() for p in group["params"]]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {id(p) for p in net.parameters() if p.requires_grad}


def test_each_group_has_its_rate_and_decay():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1, bias=False))
    groups = groups_of(net)
    expected = {
        "weights": ([net[0].weight, net[2].weight], 0.1, 0.01),
        "norms": ([net[1].weight], 0.1, 0.0),
        "biases": ([net[0].bias, net[1].bias], 0.2, 0.0),
    }
    assert groups.keys() == expected.keys()
    for name, (parameters, lr, decay) in expected.items():
        assert [id(p) for p in groups[name]["params"]] == [id(p) for p in parameters]
        assert (groups[name]["lr"], groups[name]["weight_decay"]) == (lr, decay)


def test_bases_that_are_trained_do_not_decay():
    net = tiny_net(gradient="full", maintenance="backprop")
    (group,) = [group for group in groups_of(net).values() if any(p is net.head.mu for p in group["params"])]
    assert group["weight_decay"] == 0


def test_a_step_is_sgd_with_momentum_and_decay_by_hand():
    net = nn.Conv2d(1, 1, 1)
    optimizer = GroupedOptimizer(partial(SGD, weight_decay=0.5))(net)
    w, b = net.weight.item(), net.bias.item()
    velocity_w = velocity_b = 0.0
    for _ in range(3):
        optimizer.zero_grad()
        (2 * net.weight.sum() + 3 * net.bias.sum()).backward()
        optimizer.step()
        velocity_w = 0.9 * velocity_w + 2 + 0.5 * w
        velocity_b = 0.9 * velocity_b + 3
        w, b = w - 0.1 * velocity_w, b - 0.2 * velocity_b
    assert net.weight.item() == pytest.approx(w, rel=1e-5)
    assert net.bias.item() == pytest.approx(b, rel=1e-5)


def two_parts() -> nn.ModuleDict:
    """A backbone of two layers and a reduction."""
    backbone = nn.ModuleDict({"layer1": nn.Conv2d(3, 4, 1), "layer2": nn.Conv2d(4, 4, 1)})
    fc0 = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
    return nn.ModuleDict({"backbone": backbone, "fc0": fc0})


def test_rules_by_name_multiply_rates_and_those_that_change_nothing_make_no_group():
    same = groups_of(two_parts(), backbone={"name": "backbone.*", "lr_factor": 1.0})
    assert [(group["lr"], group["weight_decay"]) for group in same.values()] == [(0.1, 0.01), (0.2, 0.0), (0.1, 0.0)]
    slower = groups_of(
        two_parts(),
        backbone={"name": "backbone.*", "lr_factor": 0.1},
        first={"name": "backbone.layer1.*", "lr_factor": 0.5, "weight_decay": 0.3},
    )
    found = {name: (round(g["lr"], 9), g["weight_decay"], len(g["params"])) for name, g in slower.items()}
    assert found == {
        "backbone+first": (0.005, 0.3, 1),
        "biases+backbone+first": (0.01, 0.3, 1),
        "backbone": (0.01, 0.01, 1),
        "biases+backbone": (0.02, 0.0, 1),
        "weights": (0.1, 0.01, 1),
        "biases": (0.2, 0.0, 2),
        "norms": (0.1, 0.0, 1),
    }


def test_a_frozen_part_is_in_no_group_and_takes_no_gradient():
    net = two_parts()
    groups = groups_of(net, frozen={"name": "backbone.layer1.*", "freeze": True})
    frozen = list(net["backbone"]["layer1"].parameters())
    assert not {id(p) for p in frozen} & {id(p) for group in groups.values() for p in group["params"]}
    assert not any(p.requires_grad for p in frozen)
    assert net["backbone"]["layer2"].weight.requires_grad


def test_an_optimizer_without_decay_keeps_its_own_default():
    (group,) = GroupedOptimizer(partial(torch.optim.Adam, lr=0.1), {})(nn.Conv2d(1, 1, 1)).param_groups
    assert (group["lr"], group["weight_decay"]) == (0.1, 0)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"kind": "scale"}, r"optimizer\.groups\.mine: kind must be one of weight, norm, bias, None, got kind='scale'"),
        ({"lr": 3}, r"optimizer\.groups\.mine: .*got an unexpected keyword argument 'lr'"),
        ({"lr_factor": -1.0}, r"optimizer\.groups\.mine: lr_factor must be 0 or more, got lr_factor=-1.0"),
        ({"name": "bakbone.*"}, r"groups\.mine\.name=bakbone\.\* fits no parameter: there are backbone\.\*, fc0\.\*"),
        ({"freeze": True}, r"optimizer\.groups freezes every parameter"),
    ],
)
def test_a_rule_without_sense_is_refused_by_its_name(rule: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        groups_of(two_parts(), mine=rule)
