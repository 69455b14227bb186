"""Exponential families and the losses made of them, against torch.distributions, enumeration and autograd."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.distributions as tdist
import torch.nn.functional as F
from torch import Tensor

from sedona_nb.block_losses import SPLITS, feedback_loss, forward_loss, terms
from sedona_nb.errors import SedonaError
from sedona_nb.families import FAMILIES, family

CHANNELS, POSITIONS, ROWS, CLASSES = 3, 2, 4, 5
DISCRETE = ("bernoulli", "categorical")


def draw(rows: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 1.5 * torch.randn(rows, CHANNELS, POSITIONS, generator=generator, dtype=torch.float64)


def reference(name: str, eta: Tensor) -> tdist.Distribution:
    """torch's distribution of one variable a row."""
    if name == "gaussian":
        return tdist.Independent(tdist.Normal(eta, 1.0), 2)
    if name == "bernoulli":
        return tdist.Independent(tdist.Bernoulli(logits=eta), 2)
    return tdist.Independent(tdist.Categorical(logits=eta.transpose(1, 2)), 1)


def states(name: str) -> Tensor:
    """All values of T(z), (states, channels, positions)."""
    if name == "bernoulli":
        rows = itertools.product((0.0, 1.0), repeat=CHANNELS * POSITIONS)
        return torch.tensor(list(rows), dtype=torch.float64).view(-1, CHANNELS, POSITIONS)
    rows = itertools.product(range(CHANNELS), repeat=POSITIONS)
    return F.one_hot(torch.tensor(list(rows)), CHANNELS).double().transpose(1, 2)


def table(name: str, eta: Tensor) -> Tensor:
    """log p of every state, (rows, states), by its definition alone."""
    scores = torch.einsum("rnp,snp->rs", eta, states(name))
    return scores - scores.logsumexp(1, keepdim=True)


@pytest.mark.parametrize("name", FAMILIES)
def test_kl_and_mean_are_those_of_torch(name):
    q, p = draw(ROWS, 1), draw(ROWS, 2)
    wanted = tdist.kl_divergence(reference(name, q), reference(name, p))
    torch.testing.assert_close(family(name).kl(q, p), wanted, rtol=1e-12, atol=1e-12)
    assert family(name).kl(q, q).abs().max() < 1e-12
    if name != "categorical":
        torch.testing.assert_close(family(name).mean(q), reference(name, q).mean)


@pytest.mark.parametrize("name", FAMILIES)
def test_mean_is_the_gradient_of_the_log_partition(name):
    eta = draw(ROWS, 3).requires_grad_()
    (slope,) = torch.autograd.grad(family(name).log_partition(eta).sum(), eta)
    torch.testing.assert_close(family(name).mean(eta), slope)


@pytest.mark.parametrize("name", DISCRETE)
def test_posterior_is_the_sum_of_natural_parameters(name):
    alpha, beta = draw(ROWS, 1), draw(ROWS, 2)
    joint = table(name, alpha) + table(name, beta)
    posterior = joint - joint.logsumexp(1, keepdim=True)
    torch.testing.assert_close(table(name, alpha + beta), posterior)


def test_gaussian_posterior_is_the_sum_of_natural_parameters():
    # h(z) is the density of N(0, 1) up to its norm, so alpha beta / h is the product of two natural parameters.
    z = torch.linspace(-12, 12, 20_001, dtype=torch.float64)
    a, b = 0.7, -1.9
    normal = lambda mean: tdist.Normal(torch.tensor(mean, dtype=torch.float64), 1.0).log_prob(z)  # noqa: E731
    product = normal(a) + normal(b) - normal(0.0)
    density = product.exp() / torch.trapezoid(product.exp(), z)
    torch.testing.assert_close(density, normal(a + b).exp(), atol=1e-9, rtol=0)


@pytest.mark.parametrize("name", DISCRETE)
def test_agreement_is_the_expectation_of_the_other_message(name):
    alpha, beta = draw(ROWS, 1), draw(CLASSES, 2)
    even = table(name, torch.zeros(1, CHANNELS, POSITIONS, dtype=torch.float64))
    wanted = (table(name, alpha)[:, None] + table(name, beta)[None] - even).logsumexp(2)
    torch.testing.assert_close(family(name).agreement(alpha, beta), wanted)


@pytest.mark.parametrize("name", FAMILIES)
def test_agreement_is_made_of_log_partitions(name):
    alpha, beta = draw(ROWS, 1), draw(CLASSES, 2)
    a = family(name).log_partition
    rows = []
    for b in beta:
        rows.append(a(alpha + b) - a(alpha) - a(b[None]) + a(torch.zeros_like(b[None])))
    found = family(name).agreement(alpha, beta)
    torch.testing.assert_close(found, torch.stack(rows, 1), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(family(name).agreement(beta, alpha), found.T)  # neither side comes first
    assert family(name).agreement(alpha, torch.zeros_like(beta)).abs().max() < 1e-12


def test_categorical_takes_impossible_states():
    alpha = torch.zeros(2, CHANNELS, 1, dtype=torch.float64)
    alpha[:, :, 0] = torch.tensor([[1.0, 2.0, 0.5], [0.0, 0.0, 3.0]])
    target = torch.full((CHANNELS, CHANNELS, 1), -math.inf, dtype=torch.float64)
    target.diagonal(dim1=0, dim2=1).fill_(0.0)
    found = family("categorical").agreement(alpha, target)
    torch.testing.assert_close(found - math.log(CHANNELS), alpha[:, :, 0].log_softmax(1))
    labels = torch.tensor([1, 0])
    kl = family("categorical").kl(target[labels], alpha)
    torch.testing.assert_close(kl, F.cross_entropy(alpha[:, :, 0], labels, reduction="none"))


def test_unknown_family_is_refused():
    with pytest.raises(SedonaError, match="unknown family 'gausian'; allowed: .*did you mean 'gaussian'"):
        family("gausian")


# -- the loss and its split --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
def test_terms_add_up_to_the_cross_entropy_of_agreements(name):
    alpha, beta, labels = draw(ROWS, 1), draw(CLASSES, 2), torch.tensor([0, 4, 2, 2])
    wanted = F.cross_entropy(family(name).agreement(alpha, beta), labels, reduction="none")
    found = terms(family(name), alpha, beta, labels)
    torch.testing.assert_close(found.evidence, wanted)
    assert (found.kl >= 0).all()


@pytest.mark.parametrize("name", DISCRETE)
def test_evidence_bounds_hold_for_any_posterior_and_are_tight_for_ours(name):
    """KL(q || alpha) - E_q[log beta] + log Z >= -log p(y|x), by enumeration; equal where q adds the parameters."""
    alpha, beta, labels = draw(ROWS, 1), draw(CLASSES, 2), torch.tensor([0, 4, 2, 2])
    even = table(name, torch.zeros(1, CHANNELS, POSITIONS, dtype=torch.float64))
    log_alpha, log_beta = table(name, alpha), table(name, beta) - even
    joint = log_alpha[:, None] + log_beta[None]  # (rows, classes, states)
    wanted = -(joint.logsumexp(2).log_softmax(1)[torch.arange(ROWS), labels])

    def bound(log_q: Tensor) -> Tensor:
        q = log_q.exp()
        return (q * (log_q - log_alpha - log_beta[labels])).sum(1) + joint.logsumexp((1, 2))

    torch.testing.assert_close(bound(table(name, alpha + beta[labels])), wanted)
    torch.testing.assert_close(terms(family(name), alpha, beta, labels).evidence, wanted)
    for seed in range(20):
        assert (bound(table(name, draw(ROWS, 100 + seed))) > wanted).all()


@pytest.mark.parametrize("name", FAMILIES)
def test_forward_gradient_is_free_phase_minus_clamped_phase(name):
    f, labels = family(name), torch.tensor([0, 4, 2, 2])
    alpha, beta = draw(ROWS, 1).requires_grad_(), draw(CLASSES, 2)
    (found,) = torch.autograd.grad(forward_loss(f, alpha, beta, labels) * ROWS, alpha)
    shares = f.agreement(alpha, beta).softmax(1)
    clamped = torch.stack([f.mean(alpha + b) for b in beta], 1)  # (rows, classes, channels, positions)
    free = (shares[:, :, None, None] * clamped).sum(1)
    torch.testing.assert_close(found, free - clamped[torch.arange(ROWS), labels])


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("name", FAMILIES)
def test_each_side_trains_its_own_message(name, split):
    labels = torch.tensor([0, 4, 2, 2])
    for loss, own in ((forward_loss, 0), (feedback_loss, 1)):
        messages = [draw(ROWS, 1).requires_grad_(), draw(CLASSES, 2).requires_grad_()]
        loss(family(name), *messages, labels, split).backward()
        assert messages[own].grad.abs().sum() > 0
        assert messages[1 - own].grad is None


def test_sites_of_a_gaussian_give_the_gradient_of_the_evidence():
    f, labels = family("gaussian"), torch.tensor([0, 4, 2, 2])
    alpha, beta = draw(ROWS, 1).requires_grad_(), draw(CLASSES, 2)
    for smoothing in (0.0, 0.1):
        one, other = (
            torch.autograd.grad(forward_loss(f, alpha, beta, labels, s, smoothing), alpha)[0]
            for s in ("evidence", "sites")
        )
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", FAMILIES)
def test_literal_split_makes_messages_fall_silent(name):
    """Why "kl" is not the default: what lowers KL(q || alpha) through beta is to say nothing."""
    f, labels = family(name), torch.arange(CLASSES)
    alpha, beta = draw(CLASSES, 1), draw(CLASSES, 2).requires_grad_()
    spread = lambda b: (b - b.mean((1, 2), keepdim=True)).abs().max().item()  # noqa: E731
    before = spread(beta.detach()) if name == "categorical" else beta.abs().max().item()
    optimizer = torch.optim.SGD([beta], 1.0)
    for _ in range(2_000):
        optimizer.zero_grad()
        feedback_loss(f, alpha, beta, labels, "kl").backward()
        optimizer.step()
    after = beta.detach()
    after = (after - after.mean(1, keepdim=True)).abs().max() if name == "categorical" else after.abs().max()
    assert after < 0.05 * before


def test_unknown_split_is_refused():
    with pytest.raises(SedonaError, match="unknown split 'elbo'"):
        forward_loss(family("gaussian"), draw(1, 1), draw(2, 2), torch.tensor([0]), "elbo")
