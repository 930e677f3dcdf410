"""Schedules: the rate at each step, by hand."""

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

from emanet.training import schedulers


def rates(name: str, steps: int, **options: Any) -> list[float]:
    """Share of the base rate at each step."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = getattr(schedulers, name)(optimizer, **options)
    seen = []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return seen


def test_the_papers_rate_is_refreshed_every_tenth_iteration_counted_from_one():
    factors = rates("poly", 30, max_steps=30_000)
    assert factors[:9] == [1.0] * 9
    assert factors[9:19] == [(1 - 10 / 30_000) ** 0.9] * 10
    assert factors[19:29] == [(1 - 20 / 30_000) ** 0.9] * 10
    assert factors[29] == (1 - 30 / 30_000) ** 0.9
    short = rates("poly", 40, max_steps=40)
    assert short[38] == pytest.approx((10 / 40) ** 0.9)
    assert short[39] == 0.0


def test_the_rate_of_poly_never_rises_and_stays_zero_behind_the_end():
    factors = rates("poly", 40, max_steps=25, refresh=1, power=2.0)
    assert all(0 <= later <= earlier <= 1 for earlier, later in pairwise(factors))
    assert factors[12] == pytest.approx((1 - 13 / 25) ** 2)
    assert factors[24:] == [0.0] * 16


def test_cosine_and_linear_go_from_the_base_rate_to_their_final_share_at_the_last_step():
    assert rates("cosine", 5, max_steps=5) == pytest.approx([(1 + math.cos(math.pi * i / 4)) / 2 for i in range(5)])
    assert rates("linear", 5, max_steps=5, final=0.2) == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2])
    assert rates("cosine", 3, max_steps=3, final=0.5) == pytest.approx([1.0, 0.75, 0.5])
    assert rates("constant", 3) == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("name", ["poly", "cosine", "linear", "constant"])
def test_every_schedule_can_warm_up(name: str):
    length = {} if name == "constant" else {"max_steps": 12}
    warm, cold = rates(name, 12, warmup_steps=4, **length), rates(name, 12, **length)

    assert warm[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert warm[-1] == pytest.approx(cold[-1])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("poly", {"refresh": 0}, "refresh must be at least 1, got refresh=0"),
        ("poly", {"power": -1.0}, "power must be 0 or more, got power=-1.0"),
        ("cosine", {"final": 2.0}, "final is a share, 0..1, got final=2.0"),
        ("linear", {"warmup_steps": -1}, r"warmup_steps must be 0 \(none\) or more, got warmup_steps=-1"),
    ],
)
def test_senseless_values_are_refused(name: str, options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        rates(name, 1, max_steps=10, **options)
