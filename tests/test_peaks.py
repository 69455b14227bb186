"""The peak of live tensors, on programs whose storages can be counted by hand."""

from __future__ import annotations

import pytest
import torch
from toys import toy_batch, toy_relaxed

from sedona_nb import bilevel
from sedona_nb.bilevel import InnerConfig, Problem
from sedona_nb.peaks import PeakMemory

MEGABYTE = 2**20


def ones(count: int = MEGABYTE // 4) -> torch.Tensor:
    return torch.ones(count)


def test_what_is_dropped_does_not_count_any_more():
    with PeakMemory() as memory:
        a = ones()
        b = a + 1
        del a
        c = b * 2
        assert memory.now == 2 * MEGABYTE
        del b, c
        assert memory.now == 0
    assert memory.peak == 2 * MEGABYTE


def test_what_was_there_before_views_and_in_place_operations_do_not_count():
    before = ones()
    with PeakMemory() as memory:
        before.add_(1)
        parts = [before.view(2, -1), before[:10], before.detach(), *before.split(1000)]
        torch.add(before, 1, out=before)
    assert memory.peak == 0
    assert parts


def test_several_results_of_one_operation_count_each():
    with PeakMemory() as memory:
        values, places = ones(1000).view(10, 100).max(1)
    assert memory.now == values.nbytes + places.nbytes
    assert memory.peak == memory.now + 4000


def test_what_autograd_keeps_counts_until_its_graph_goes():
    w = ones().requires_grad_()
    with PeakMemory() as memory:
        value = (w.exp().sin()).sum()  # exp and sin each keep a tensor of this size
        assert memory.now - value.nbytes >= MEGABYTE
        (gradient,) = torch.autograd.grad(value, w)
        del value
        assert memory.now == gradient.nbytes
    assert memory.peak >= 3 * MEGABYTE  # backward counts as well


@pytest.mark.parametrize("backend", bilevel.BACKENDS)
def test_a_hypergradient_is_the_same_while_it_is_counted_and_leaves_nothing(backend):
    relaxed = toy_relaxed("vgg").train()
    generator = torch.Generator().manual_seed(0)
    weights = bilevel.initial_weights(relaxed)
    batches = [toy_batch(generator) for _ in range(2)]
    decisions = torch.zeros(3, 2), torch.zeros(3, 4)
    problem = Problem(relaxed, weights, *decisions, batches, toy_batch(generator), 0.05, InnerConfig(steps=2))
    plain = bilevel.hypergradient(problem, backend=backend)
    with PeakMemory() as memory:
        found = bilevel.hypergradient(problem, backend=backend)
    assert torch.equal(found.alpha, plain.alpha)
    assert memory.peak > sum(value.nbytes for value in weights.parameters.values())
    assert memory.now < 0.5 * memory.peak
