"""Cheap searches against brute force: even cuts over all cuts, the best of a few over all ways to draw them."""

from __future__ import annotations

from itertools import combinations
from statistics import fmean

import numpy as np
import pytest

from sedona_nb.baselines import best_of, even_cost, evenly, layer_operations
from sedona_nb.costs import build_on_meta, multiply_accumulates
from sedona_nb.errors import SedonaError
from sedona_nb.networks import NetworkConfig


def dearest(costs, splits) -> float:
    edges = (0, *splits, len(costs))
    return max(sum(costs[before:last]) for before, last in zip(edges, edges[1:], strict=False))


def all_cuts(count: int, num_blocks: int):
    return combinations(range(1, count), num_blocks - 1)


def by_definition(costs, num_blocks: int) -> tuple[int, ...]:
    """The docstring's order of preference, by recursion: the layers below the last split are cut evenly, too."""
    if num_blocks == 1:
        return ()
    candidates = [
        (*by_definition(costs[:last], num_blocks - 1), last) for last in range(num_blocks - 1, len(costs))
    ]
    return min(candidates, key=lambda splits: (dearest(costs, splits), splits))


@pytest.mark.parametrize("seed", range(30))
def test_no_cut_has_a_cheaper_dearest_block(seed):
    random = np.random.default_rng(seed)
    count = int(random.integers(1, 10))
    whole = random.integers(1, 7, count).tolist()  # many ties
    broken = (2.0 ** random.normal(size=count)).tolist()
    for num_blocks in range(1, count + 1):
        for costs in (whole, broken):
            splits = evenly(costs, num_blocks)
            assert len(splits) == num_blocks - 1
            assert all(type(split) is int for split in splits)
            assert list(splits) == sorted(set(splits))
            best = min(dearest(costs, cut) for cut in all_cuts(count, num_blocks))
            assert dearest(costs, splits) == pytest.approx(best, rel=1e-12)
        assert evenly(whole, num_blocks) == by_definition(whole, num_blocks)


def test_even_cuts_by_hand():
    assert evenly([1, 1, 1, 1], 2) == (2,)
    assert evenly([1, 1, 1, 1], 4) == (1, 2, 3)
    assert evenly([9, 1, 1, 1], 2) == (1,)
    assert evenly([1, 1, 1, 9], 3) == (1, 3)
    assert evenly([1, 1, 1, 1, 100], 3) == (2, 4)  # (1, 4) and (3, 4) cost as much, and are less even below
    assert evenly([5], 1) == ()
    assert evenly([0, 0, 0], 2) == (1,)


@pytest.mark.parametrize("num_blocks", [0, 4, -1])
def test_a_number_of_blocks_out_of_range_is_refused(num_blocks):
    with pytest.raises(SedonaError, match=r"allowed.*1\.\.3"):
        evenly([1, 2, 3], num_blocks)


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("name", ["vgg11", "vgg19", "resnet18", "resnet50", "resnet152"])
def test_operations_of_layers_and_classifier_are_those_of_the_network(name, size):
    config = NetworkConfig(name, 1 / 8)
    for variant in ("before_cut", "after_cut") if name.startswith("vgg") else (None,):
        base = build_on_meta(lambda c=config, v=variant: NetworkConfig(c.name, c.width, pool=v).build(10, size, 3))
        counts = layer_operations(base, (3, size, size))
        assert len(counts) == base.num_layers
        assert min(counts) > 0
        assert sum(counts) == multiply_accumulates(base, (3, size, size))


def test_even_cuts_of_the_papers_networks():
    cut = even_cost(NetworkConfig("vgg19"), 4)
    assert (cut.splits, cut.heads, cut.num_layers, cut.source) == ((5, 8, 11), ("aux1",) * 3, 16, "even cost")
    assert even_cost(NetworkConfig("resnet50"), 4, head="aux2").heads == ("aux2",) * 3
    assert even_cost(NetworkConfig("resnet50"), 4).splits == (4, 8, 12)
    assert even_cost(NetworkConfig("vgg19"), 2).splits == (7,)
    for name in ("vgg19", "resnet50"):
        base = build_on_meta(lambda n=name: NetworkConfig(n).build(10, 32, 3))
        counts = layer_operations(base, (3, 32, 32))
        best = min(all_cuts(16, 4), key=lambda cut: dearest(counts, cut))
        assert even_cost(NetworkConfig(name), 4).splits == best
    with pytest.raises(SedonaError, match="unknown head 'aux9'"):
        even_cost(NetworkConfig("vgg19"), 4, head="aux9")


def test_pictures_of_another_size_move_the_cut():
    base = build_on_meta(lambda: NetworkConfig("resnet50").build(10, 224, 3))
    counts = layer_operations(base, (3, 224, 224))
    found = even_cost(NetworkConfig("resnet50"), 4, image_size=224).splits
    assert found == by_definition(counts, 4) == (3, 7, 12)
    assert dearest(counts, found) == dearest(counts, (2, 7, 12))  # a tie: this one is earlier and less even below
    assert dearest(counts, found) == min(dearest(counts, cut) for cut in all_cuts(16, 4))
    assert even_cost(NetworkConfig("vgg19"), 4, in_channels=1).splits == (5, 8, 11)


# -- the best of a few random ones -------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(10))
def test_best_of_is_the_mean_over_all_ways_to_draw(seed):
    random = np.random.default_rng(seed)
    count = int(random.integers(1, 8))
    validation = random.integers(0, 4 if seed % 2 else 1000, count).tolist()  # with equals, and without
    test = random.normal(50, 5, count).tolist()
    for budget in range(1, count + 1):
        drawn = [
            min(subset, key=lambda run: (validation[run], run)) for subset in combinations(range(count), budget)
        ]
        assert best_of(validation, test, budget) == pytest.approx(fmean(test[run] for run in drawn), rel=1e-12)


def test_best_of_one_is_the_mean_and_best_of_all_the_best_by_validation():
    validation, test = [30.0, 10.0, 20.0, 10.0], [1.0, 7.0, 3.0, 2.0]
    assert best_of(validation, test, 1) == pytest.approx(fmean(test))
    assert best_of(validation, test, 4) == 7.0  # not the best by test; of two equals the earlier
    assert best_of([5.0], [8.0], 1) == 8.0


@pytest.mark.parametrize(
    ("validation", "test", "budget"), [([1, 2], [1, 2], 0), ([1, 2], [1, 2], 3), ([1], [1, 2], 1), ([], [], 1)]
)
def test_a_budget_out_of_range_is_refused(validation, test, budget):
    with pytest.raises(SedonaError, match=r"allowed: 1\.\.N of as many of both") as caught:
        best_of(validation, test, budget)
    assert "\n" not in str(caught.value)
