"""The Hamburger's factorization: its laws, its gradient, and bases that are random and yet repeatable."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from emanet.model.heads.ham import Hamburger, factorize, update

B, C, N, K = 2, 6, 20, 3


def drawn() -> tuple[Tensor, Tensor]:
    """Pixels and bases without negative numbers, float64."""
    return torch.rand(B, C, N, dtype=torch.float64), torch.rand(B, C, K, dtype=torch.float64)


def test_no_update_makes_the_approximation_worse_and_no_factor_turns_negative():
    x, bases = drawn()
    codes = torch.rand(B, N, K, dtype=torch.float64)
    errors = []
    for _ in range(30):
        bases, codes = update(x, bases, codes)
        errors.append(torch.linalg.matrix_norm(x - bases @ codes.transpose(1, 2)).sum().item())
        assert bases.min() >= 0
        assert codes.min() >= 0
    assert all(after <= before + 1e-6 for before, after in pairwise(errors))
    assert errors[-1] < 0.95 * errors[0]


def test_an_exact_factorization_stays_as_it_is():
    _, bases = drawn()
    codes = torch.rand(B, N, K, dtype=torch.float64) + 0.5
    bases = bases + 0.5
    again = update(bases @ codes.transpose(1, 2), bases, codes)
    torch.testing.assert_close(again, (bases, codes), rtol=1e-5, atol=1e-5)  # up to the constant in the divisors


def gradients(gradient: str, T: int = 3) -> Tensor:
    """Of a sum of squares of the approximation, by the pixels."""
    torch.manual_seed(5)
    x, bases = drawn()
    x.requires_grad_()
    found, codes = factorize(x, bases, T=T, gradient=gradient)
    (found @ codes.transpose(1, 2)).square().sum().backward()
    assert x.grad is not None
    return x.grad


def test_the_one_step_gradient_is_that_of_the_last_update_from_the_others_result():
    torch.manual_seed(5)
    x, bases = drawn()
    with torch.no_grad():
        bases, codes = factorize(x, bases, T=2)
    x.requires_grad_()
    found, codes = update(x, bases, codes)
    (found @ codes.transpose(1, 2)).square().sum().backward()
    torch.testing.assert_close(gradients("last"), x.grad)


def test_the_full_gradient_is_the_slope_of_the_whole_factorization():
    torch.manual_seed(5)
    x, bases = drawn()
    assert torch.autograd.gradcheck(lambda x: factorize(x, bases, T=3, gradient="full")[0], (x.requires_grad_(),))
    assert not torch.allclose(gradients("full"), gradients("last"))


def test_evaluation_starts_every_time_and_in_every_process_from_the_same_bases():
    x = torch.randn(2, C, 4, 5)
    torch.manual_seed(1)
    unit = Hamburger(C, K=K).eval()
    first, mu = unit(x)
    assert mu is None
    torch.manual_seed(2)
    other = Hamburger(C, K=K).eval()
    other.load_state_dict(unit.state_dict())  # strictly: the fixed bases are no part of it
    assert torch.equal(other(x)[0], first)
    torch.testing.assert_close(other(x[1:])[0], first[1:])  # whatever images it is looked at with
    assert "bases" not in unit.state_dict()


def test_training_draws_bases_from_torchs_generator_so_that_a_seed_repeats_a_step():
    x = torch.randn(2, C, 4, 5)
    unit = Hamburger(C, K=K).train()
    outputs = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        outputs.append(unit(x)[0])
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])


def test_building_one_draws_the_same_numbers_wherever_its_bases_come_from():
    """The fixed bases have a generator of their own: they take no number from the one that initializes weights."""
    torch.manual_seed(0)
    torch.nn.Conv2d(C, C, 1), torch.nn.Conv2d(C, C, 1, bias=False)
    expected = torch.rand(1)
    torch.manual_seed(0)
    Hamburger(C, K=K)
    assert torch.equal(torch.rand(1), expected)


def test_evaluation_may_take_another_number_of_updates():
    x = torch.randn(1, C, 4, 5)
    torch.manual_seed(0)
    three, five = Hamburger(C, K=K, T=3), Hamburger(C, K=K, T=3, T_eval=5)
    five.load_state_dict(three.state_dict())
    assert not torch.equal(five.eval()(x)[0], three.eval()(x)[0])
    five.T_eval = None
    assert torch.equal(five(x)[0], three(x)[0])
    assert (three.iterations, Hamburger(C, T=3, T_eval=5).train().iterations) == (3, 3)


def test_large_activations_stay_finite_in_float16_autocast():
    """Sums over all pixels of squares of 300 pass 65504, float16's largest number: the factorization avoids it."""
    unit = Hamburger(4, K=2).eval()
    with torch.no_grad():
        unit.lower.weight.copy_(torch.eye(4)[:, :, None, None])
    with torch.autocast("cpu", torch.float16):
        y, _ = unit(torch.full((1, 4, 30, 30), 300.0))
    assert y.isfinite().all()


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_the_fixed_bases_lie_where_the_weights_do(device: str):
    with torch.device(device):
        unit = Hamburger(C, K=K)
    assert unit.bases.device.type == device
    assert unit(torch.zeros(1, C, 2, 2, device=device))[0].shape == (1, C, 2, 2)
