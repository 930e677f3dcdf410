"""Units behind fc0: each against an independent float64 reference, with the laws that its equations promise."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from emanet.model.heads.a2 import DoubleAttention
from emanet.model.heads.external import ExternalAttention
from emanet.model.heads.ham import Hamburger
from emanet.model.heads.nonlocal_ import NonLocal

B, C, H, W = 2, 8, 3, 5
N = H * W
UNITS: dict[str, Callable[[], nn.Module]] = {
    "nonlocal": lambda: NonLocal(C),
    "a2": lambda: DoubleAttention(C, c_m=3, c_n=2),
    "external": lambda: ExternalAttention(C, K=3),
    "ham": lambda: Hamburger(C, K=3, T=4),
}


def drawn(unit: nn.Module) -> nn.Module:
    """The unit in float64 and evaluation, with batch norms that do something."""
    for module in unit.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return unit.double().eval()


def arrays(unit: nn.Module) -> dict[str, np.ndarray]:
    """Its tensors, 1x1 kernels as matrices."""
    state = {key: value.detach().numpy() for key, value in unit.state_dict().items()}
    return {key: value[:, :, 0, 0] if value.ndim == 4 else value for key, value in state.items()}


def normed(weights: dict[str, np.ndarray], name: str, y: np.ndarray) -> np.ndarray:
    """A 1x1 convolution without bias and a batch norm in evaluation, of pixels (c, n)."""
    y = weights[f"{name}.conv.weight"] @ y
    mean, var = weights[f"{name}.bn.running_mean"], weights[f"{name}.bn.running_var"]
    y = (y - mean[:, None]) / np.sqrt(var[:, None] + 1e-5)
    return y * weights[f"{name}.bn.weight"][:, None] + weights[f"{name}.bn.bias"][:, None]


def softmax(scores: np.ndarray, axis: int) -> np.ndarray:
    """Shares that sum to 1 along an axis."""
    e = np.exp(scores - scores.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


def nonlocal_reference(w: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """Each pixel i gets the sum of g_j, weighted by the softmax over j of theta_i phi_j / sqrt(m)."""
    theta = w["theta.weight"] @ x + w["theta.bias"][:, None]
    phi, g = w["phi.weight"] @ x, w["g.weight"] @ x
    weights = softmax(np.einsum("mi,mj->ij", theta, phi) / np.sqrt(C // 2), axis=1)
    return x + normed(w, "out", np.einsum("ij,mj->mi", weights, g))


def a2_reference(w: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """Descriptors d are means of a over the pixels; each pixel gets its own mixture of them."""
    gather = softmax(w["b.weight"] @ x, axis=1)
    share = softmax(w["v.weight"] @ x + w["v.bias"][:, None], axis=0)
    descriptors = np.einsum("mj,dj->md", w["a.weight"] @ x, gather)
    return x + normed(w, "out", np.einsum("md,di->mi", descriptors, share))


def external_reference(w: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """Softmax over the pixels of each slot, then each pixel's weights over their sum."""
    shares = softmax(w["keys.weight"] @ w["conv1.weight"] @ x, axis=1)
    return np.maximum(x + normed(w, "conv2", w["values.weight"] @ (shares / shares.sum(axis=0))), 0)


def ham_reference(w: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """Lee and Seung's updates, codes before bases, from uniform bases of unit norm and a softmax over them."""
    pixels = np.maximum(w["lower.weight"] @ x + w["lower.bias"][:, None], 0)
    start = torch.rand(1, C, 3, generator=torch.Generator().manual_seed(0))[0].double().numpy()
    bases = start / (1e-6 + np.sqrt((start**2).sum(axis=0)))
    codes = softmax(np.einsum("cn,ck->nk", pixels, bases), axis=1)
    for _ in range(4):
        wanted, got = np.einsum("cn,ck->nk", pixels, bases), np.einsum("nj,cj,ck->nk", codes, bases, bases)
        codes = codes * wanted / (got + 1e-6)
        wanted, got = np.einsum("cn,nk->ck", pixels, codes), np.einsum("cj,nj,nk->ck", bases, codes, codes)
        bases = bases * wanted / (got + 1e-6)
    return np.maximum(x + normed(w, "upper", bases @ codes.T), 0)


REFERENCES = {
    "nonlocal": nonlocal_reference,
    "a2": a2_reference,
    "external": external_reference,
    "ham": ham_reference,
}


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_computes_what_its_equations_say(name: str):
    unit = drawn(UNITS[name]())
    x = torch.randn(B, C, H, W, dtype=torch.float64)
    expected = [REFERENCES[name](arrays(unit), image) for image in x.flatten(2).numpy()]
    torch.testing.assert_close(unit(x)[0].flatten(2), torch.from_numpy(np.stack(expected)), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", UNITS)
def test_permuting_the_pixels_permutes_the_output(name: str):
    unit = drawn(UNITS[name]())
    x = torch.randn(B, C, H, W, dtype=torch.float64)
    order = torch.randperm(N)
    shuffled, _ = unit(x.flatten(2)[..., order].view(x.shape))
    torch.testing.assert_close(shuffled.flatten(2), unit(x)[0].flatten(2)[..., order], rtol=1e-9, atol=1e-9)


def branch(unit: nn.Module, name: str, x: Tensor) -> Tensor:
    """What the unit's last convolution gets, (b, c, n)."""
    seen: list[Tensor] = []
    handle = unit.get_submodule(name).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    unit(x)
    handle.remove()
    return seen[0].flatten(2)


@pytest.mark.parametrize(("name", "last", "rank"), [("a2", "out", 2), ("external", "conv2", 3), ("ham", "upper", 3)])
def test_the_context_has_the_rank_of_descriptors_slots_or_bases(name: str, last: str, rank: int):
    unit = drawn(UNITS[name]())
    y = branch(unit, last, torch.randn(B, C, H, W, dtype=torch.float64))
    assert torch.linalg.matrix_rank(y).tolist() == [rank] * B


def test_a_non_local_block_is_the_identity_at_first_and_moves_away():
    unit = NonLocal(C).train()
    x = torch.randn(B, C, H, W)
    assert torch.equal(unit(x)[0], x)
    unit(x)[0].square().mean().backward()
    gamma = unit.out.bn.weight
    assert gamma.grad.abs().max() > 0
    with torch.no_grad():
        gamma -= gamma.grad
    assert not torch.equal(unit(x)[0], x)


def test_each_pixels_weights_of_the_memory_are_positive_and_sum_to_one():
    unit = drawn(UNITS["external"]())
    x = torch.randn(B, C, H, W, dtype=torch.float64)
    weights = unit.attend(x)
    torch.testing.assert_close(weights.sum(1), torch.ones(B, H, W, dtype=torch.float64))
    assert (weights > 0).all()
