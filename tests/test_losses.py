"""Label smoothing against its definition, and PredSim's similarities on cases worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from sedona_nb.errors import SedonaError
from sedona_nb.losses import CONVENTIONS, cross_entropy, predsim_loss, similarity_matrix, smoothed_targets


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("classes", [2, 10, 200])
def test_loss_is_the_cross_entropy_against_smoothed_targets(convention, classes):
    generator = torch.Generator().manual_seed(classes)
    scores = torch.randn(16, classes, generator=generator)
    labels = torch.randint(classes, (16,), generator=generator)
    targets = smoothed_targets(labels, classes, 0.1, convention)
    wanted = -(targets * F.log_softmax(scores, 1)).sum(1).mean()
    torch.testing.assert_close(cross_entropy(scores, labels, 0.1, convention), wanted)


def test_conventions_spread_over_all_classes_or_over_the_others():
    labels = torch.tensor([0])
    torch.testing.assert_close(smoothed_targets(labels, 5, 0.1, "uniform"), torch.tensor([[0.92] + [0.02] * 4]))
    torch.testing.assert_close(smoothed_targets(labels, 5, 0.1, "others"), torch.tensor([[0.9] + [0.025] * 4]))


def test_no_smoothing_is_plain_cross_entropy():
    scores, labels = torch.tensor([[0.0, math.log(3.0)]]), torch.tensor([1])
    assert cross_entropy(scores, labels, 0.0).item() == pytest.approx(math.log(4 / 3))


def test_similarities_of_opposite_equal_and_orthogonal_features():
    features = torch.tensor([[1.0, -1.0, 0, 0], [2.0, -2.0, 0, 0], [-1.0, 1.0, 0, 0], [0, 0, 1.0, -1.0]])
    wanted = torch.tensor([[1.0, 1, -1, 0], [1, 1, -1, 0], [-1, -1, 1, 0], [0, 0, 0, 1]])
    torch.testing.assert_close(similarity_matrix(features), wanted, atol=1e-6, rtol=0)


def test_maps_count_by_the_spread_of_each_channel():
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(6, 8, 4, 4, generator=generator)
    by_hand = torch.stack([torch.stack([channel.flatten().std() for channel in one]) for one in maps])
    torch.testing.assert_close(similarity_matrix(maps), similarity_matrix(by_hand))
    flat = maps[..., :1, :1]  # one pixel has no spread: the values themselves count
    torch.testing.assert_close(similarity_matrix(flat), similarity_matrix(flat.flatten(1)))


def test_predsim_loss_mixes_its_two_parts():
    generator = torch.Generator().manual_seed(1)
    scores, features = torch.randn(5, 3, generator=generator), torch.randn(5, 8, 2, 2, generator=generator)
    labels = torch.tensor([0, 1, 2, 1, 0])
    plain = F.cross_entropy(scores, labels)
    matching = (similarity_matrix(features) - similarity_matrix(F.one_hot(labels).float())).square().mean()
    assert predsim_loss(scores, features, labels).item() == pytest.approx((0.01 * plain + 0.99 * matching).item())
    assert predsim_loss(scores, features, labels, 0.0).item() == pytest.approx(plain.item())


def test_mistakes_are_refused():
    scores, labels = torch.zeros(2, 3), torch.zeros(2, dtype=torch.long)
    with pytest.raises(SedonaError, match="unknown label smoothing convention 'szegedy'; allowed: uniform"):
        cross_entropy(scores, labels, 0.1, "szegedy")
    with pytest.raises(SedonaError, match="too large"):
        cross_entropy(scores, labels, 0.9, "others")
