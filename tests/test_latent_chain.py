"""The enumerable chain, against sums over all paths and autograd through the whole chain."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from sedona_nb.errors import SedonaError
from sedona_nb.latent_chain import LatentChain, posterior

CHAINS = [((3,), 2), ((2, 4), 3), ((3, 2, 4, 3), 5)]


def paths(chain: LatentChain, label: int):
    """Every (z_1, .., z_N) with p(z_1, .., z_N, y|x): the slow way."""
    first, *others = chain.tables
    for path in itertools.product(*(range(table.shape[0]) for table in others)):
        chance = first[path[0]].item()
        for table, here, there in zip(others, path, (*path[1:], label), strict=True):
            chance *= table[here, there].item()
        yield path, chance


@pytest.mark.parametrize(("states", "classes"), CHAINS)
def test_messages_are_sums_over_paths(states, classes):
    chain = LatentChain.random(states, classes, seed=1)
    for label in range(classes):
        listed = list(paths(chain, label))
        total = sum(chance for _, chance in listed)
        assert chain.loss(label).item() == pytest.approx(-math.log(total), rel=1e-12)
        for k, (alpha, beta) in enumerate(zip(chain.alphas(), chain.betas(label), strict=False)):
            assert (alpha @ beta).item() == pytest.approx(total, rel=1e-12)  # at every boundary the same
            wanted = [sum(chance for path, chance in listed if path[k] == z) / total for z in range(states[k])]
            torch.testing.assert_close(posterior(alpha, beta), torch.tensor(wanted, dtype=torch.float64))


@pytest.mark.parametrize(("states", "classes"), CHAINS)
def test_bound_holds_and_is_tight_for_exact_messages(states, classes):
    for seed in range(25):
        chain = LatentChain.random(states, classes, seed)
        label = seed % classes
        loss, exact = chain.loss(label), chain.betas(label)
        torch.testing.assert_close(chain.bound(exact, label), loss.expand(len(states)))
        guess = [torch.rand(beta.shape, dtype=torch.float64) + 0.01 for beta in exact]
        assert (chain.bound(guess, label) > loss).all()


@pytest.mark.parametrize(("states", "classes"), CHAINS)
def test_exact_messages_make_local_gradients_those_of_the_loss(states, classes):
    chain = LatentChain.random(states, classes, seed=4)
    live = LatentChain(tuple(link.clone().requires_grad_() for link in chain.links))
    wanted = torch.autograd.grad(live.loss(1), live.links)
    found = chain.local_gradients(chain.betas(1), 1)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)
    silent = chain.local_gradients([torch.ones_like(beta) for beta in chain.betas(1)], 1)
    assert all(gradient.abs().max() < 1e-12 for gradient in silent[:-1])  # who hears nothing learns nothing


def test_links_that_do_not_join_are_refused():
    with pytest.raises(SedonaError, match=r"links \[\(3,\), \(2, 4\)\] do not join"):
        LatentChain((torch.zeros(3), torch.zeros(2, 4)))


@pytest.mark.parametrize("label", [-1, 3])
def test_labels_that_are_no_classes_are_refused(label):
    chain = LatentChain.random((2, 4), 3)
    exact = chain.betas(1)
    with_messages = (lambda y: chain.bound(exact, y), lambda y: chain.local_gradients(exact, y))
    for ask in (chain.loss, chain.betas, *with_messages):
        with pytest.raises(SedonaError, match=rf"label {label} is no class; allowed: 0 .. 2"):
            ask(label)


def test_a_message_for_every_latent_variable():
    chain = LatentChain.random((2, 4), 3)
    with pytest.raises(SedonaError, match="1 messages for 2 latent variables; allowed: one each"):
        chain.bound(chain.betas(1)[:1], 1)
