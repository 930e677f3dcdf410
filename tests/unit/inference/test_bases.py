"""What is measured of the bases: laws, hand numbers, and the EM of the NumPy reference."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from emanet.inference.bases import (
    SCALARS,
    Look,
    dead_bases,
    effective_bases,
    effective_rank,
    has_bases,
    look,
    measure,
    relative_entropy,
    similarity,
    turn,
)
from emanet.inference.similarity import COLD, HOT, cluster_order, similarity_picture
from emanet.model.emau import expectation_maximization, normalize
from emanet.model.mmseg import MMSegEMANet
from reference import numpy_e_step, numpy_m_step
from tiny import tiny_net


def rest(z: Tensor, mu: Tensor) -> Look:
    """An EM that has come to rest."""
    return Look(z, z, mu, mu, (1, len(z)))


# --- responsibilities -------------------------------------------------------------------------------------------------


def test_k_identical_bases_are_alike_equally_used_and_say_nothing_about_a_pixel():
    mu = torch.randn(5, 1, dtype=torch.float64).expand(5, 4)
    z, final = expectation_maximization(torch.randn(1, 5, 30, dtype=torch.float64), mu[None], T=3)
    scalars = measure([rest(z[0], final[0])], mu)
    for name, expected in {"entropy": 1, "effective": 4, "similarity": 1, "similarity_max": 1, "rank": 1}.items():
        assert scalars[f"bases/{name}"] == pytest.approx(expected), name
    assert scalars["bases/dead"] == scalars["bases/z_change"] == 0
    assert scalars["bases/change"] == pytest.approx(0, abs=1e-12)


def test_pixels_with_one_base_each_have_no_entropy():
    z = torch.eye(3, dtype=torch.float64)[torch.tensor([0, 0, 1, 2])]
    assert relative_entropy(z) == 0
    assert effective_bases(z.mean(0)) == pytest.approx(2**1.5)  # shares 1/2, 1/4, 1/4: 1.5 bits
    assert effective_bases(torch.tensor([0.0, 1.0])) == 1


def test_the_entropy_of_two_bases_in_hand_numbers():
    z = torch.tensor([[0.5, 0.5], [0.25, 0.75]], dtype=torch.float64)
    bits = -(0.25 * math.log2(0.25) + 0.75 * math.log2(0.75))
    assert relative_entropy(z) == pytest.approx((1 + bits) / 2)


def test_dead_is_less_than_a_tenth_of_an_equal_share():
    shares = torch.tensor([0.0, 0.019, 0.021, 0.46, 0.5])  # k=5: the bound is 0.02
    assert dead_bases(shares) == 2
    assert dead_bases(torch.tensor([math.nan, math.nan])) == 2


# --- bases ------------------------------------------------------------------------------------------------------------


def test_orthogonal_bases_are_unlike_and_span_as_many_directions_whatever_their_norms():
    mu = torch.diag(torch.tensor([1.0, 2.0, 0.1], dtype=torch.float64))
    assert similarity(mu) == (0, 0)
    assert effective_rank(mu) == pytest.approx(3)


def test_opposite_bases_are_as_similar_as_equal_ones():
    mu = torch.tensor([[1.0, -2.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    assert similarity(mu) == pytest.approx((1 / 3, 1))
    shares = torch.tensor([2 / 3, 1 / 3])  # of the squared singular values: 2 and 1
    assert effective_rank(mu) == pytest.approx(float(torch.special.entr(shares).sum().exp()))


def test_a_single_base_has_no_other_to_be_like():
    z = torch.ones(4, 1, dtype=torch.float64)
    scalars = measure([rest(z, torch.ones(3, 1, dtype=torch.float64))], torch.ones(3, 1, dtype=torch.float64))
    assert scalars["bases/similarity"] == scalars["bases/entropy"] == scalars["bases/dead"] == 0
    assert scalars["bases/effective"] == scalars["bases/rank"] == pytest.approx(1)


def test_bases_that_are_no_numbers_give_no_number_and_no_error():
    mu = torch.full((3, 2), math.nan, dtype=torch.float64)
    scalars = measure([rest(torch.full((4, 2), math.nan, dtype=torch.float64), mu)], mu, mu)
    assert math.isnan(scalars["bases/rank"])
    assert scalars["bases/dead"] == 2


def test_a_turn_is_the_distance_between_directions():
    mu = torch.tensor([[3.0, 1.0], [0.0, 1.0]])
    assert turn(mu, 0.1 * mu) == pytest.approx(0, abs=1e-6)
    assert turn(mu, -mu) == pytest.approx(2)
    assert turn(torch.tensor([[0.0], [7.0]]), torch.tensor([[2.0], [0.0]])) == pytest.approx(math.sqrt(2))


def test_drift_norm_and_z_change_in_hand_numbers():
    z, z_next = torch.tensor([[1.0, 0.0], [0.5, 0.5]]).double(), torch.tensor([[0.5, 0.5], [0.5, 0.5]]).double()
    mu = torch.tensor([[3.0, 0.0], [4.0, 2.0]]).double()
    seen = Look(z, z_next, mu, mu, (2, 1))
    scalars = measure([seen, seen], mu, torch.zeros_like(mu))
    assert scalars["bases/drift"] == scalars["bases/norm"] == pytest.approx((5 + 2) / 2)
    assert scalars["bases/z_change"] == pytest.approx((0.5 + 0) / 2)  # half of a responsibility moves, in one of two
    assert scalars.keys() == {f"bases/{name}" for name in SCALARS}
    assert measure([seen], mu).keys() == scalars.keys() - {"bases/drift"}


# --- a network --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("T", [1, 3])
def test_a_look_at_an_image_is_the_em_of_the_reference(T):
    net = tiny_net(T=5, T_eval=T).double().eval()
    image = torch.randn(1, 3, 40, 50, dtype=torch.float64)
    padded = torch.zeros(1, 3, 49, 65, dtype=torch.float64)
    padded[..., :40, :50] = image
    with torch.no_grad():
        x = net.head.conv1(net.fc0(net.backbone(padded)))[0].flatten(1).numpy()
    mu = before = net.head.mu[0].numpy()
    for _ in range(T):
        before = mu
        z = numpy_e_step(x, before)
        mu = numpy_m_step(x, z)
    seen = look(net, image)
    assert seen.size == (4, 5)
    for got, expected in [(seen.z, z), (seen.z_next, numpy_e_step(x, mu)), (seen.mu, mu), (seen.mu_before, before)]:
        np.testing.assert_allclose(got.numpy(), expected, atol=1e-9)
    np.testing.assert_array_equal(seen.maps[1].flatten().numpy(), seen.z[:, 1].numpy())


def test_an_em_that_starts_at_its_fixed_point_changes_nothing():
    net = tiny_net(T=1).double().eval()
    net.head.conv1.weight.data *= 1000  # as sure of its bases as a trained network
    image = torch.randn(1, 3, 129, 129, dtype=torch.float64)
    before = measure([look(net, image)], net.head.mu[0])
    net.head.T = 1000
    fixed = look(net, image).mu
    net.head.mu.copy_(normalize(fixed[None]))
    net.head.T = 1
    after = measure([look(net, image)], net.head.mu[0])
    assert after["bases/similarity_max"] < 0.99, "the bases have not become one"
    for name in ("bases/change", "bases/z_change"):
        assert before[name] > 0.05
        assert after[name] < 1e-6


def mmseg_net() -> MMSegEMANet:
    """mmsegmentation's network, whose unit has an EM of its own."""
    return MMSegEMANet(4, backbone="test_resnet", channels=8, output_stride=16, aux_weight=0.0)


@pytest.mark.parametrize("build", [tiny_net, mmseg_net])
def test_a_look_leaves_the_network_and_the_random_state_as_they_are(build):
    net = build().eval()
    state = {key: value.clone() for key, value in net.state_dict().items()}
    settings, random = dict(net.head.__dict__), torch.get_rng_state()
    seen = look(net, torch.randn(1, 3, 33, 33, generator=torch.Generator()))
    assert seen.z.shape[1] == net.head.K
    torch.testing.assert_close(seen.z.sum(1), torch.ones(len(seen.z), dtype=torch.float64))
    assert net.head.__dict__ == settings
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)


def test_the_guide_explains_every_scalar():
    guide = (Path(__file__).parents[3] / "docs" / "tracking.md").read_text()
    explained = {
        name for row in re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| \d\.\.", guide, re.M) for name in row.split(", ")
    }
    assert explained == {f"`{name}`" for name in SCALARS}


def test_only_a_network_with_the_papers_unit_has_bases():
    assert has_bases(tiny_net())
    assert not has_bases(tiny_net(head="fcn"))
    assert not has_bases(nn.Conv2d(3, 3, 1))


# --- the picture ------------------------------------------------------------------------------------------------------


def two_groups() -> np.ndarray:
    """Cosines of bases of two groups, even and odd numbers, unlike each other."""
    group = np.arange(10) % 2
    return np.where(group[:, None] == group, 0.9, -0.5) + 0.1 * np.eye(10)


def test_similar_bases_stand_together():
    order = cluster_order(two_groups())
    assert sorted(order) == list(range(10))
    assert len(set(order[:5] % 2)) == len(set(order[5:] % 2)) == 1
    assert cluster_order(np.eye(2)).tolist() == [0, 1]


def test_the_picture_has_a_block_for_each_group_and_a_bar_for_each_share():
    shares = np.full(10, 0.05)
    shares[0] = 0.55
    picture = np.asarray(similarity_picture(two_groups(), shares, title="step 4"))
    expected = {0.9: np.array([247, 247, 247]) * 0.1 + np.array(HOT) * 0.9, -0.5: (np.array([247] * 3) + COLD) / 2}
    area = {value: (np.abs(picture - color).max(axis=2) <= 1).sum() for value, color in expected.items()}
    assert area[0.9] == pytest.approx(40 * 1600, rel=0.02)  # cells of 40 x 40: two blocks of 25, less the diagonal
    assert area[-0.5] == pytest.approx(50 * 1600, rel=0.02)
    bars = (picture[:, 472:] == COLD).all(axis=2).sum(axis=1)  # of the shares, right of the matrix
    assert bars.max() >= 139
    assert np.median(bars[bars > 0]) == pytest.approx(140 * 0.05 / 0.55, abs=2)


@pytest.mark.parametrize("k", [1, 2, 256])
def test_any_number_of_bases_can_be_drawn(k):
    picture = similarity_picture(np.eye(k), np.full(k, 1 / k))
    assert picture.width < 1000
    assert picture.height < 800
