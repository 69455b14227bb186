"""Exponential families and the losses made of them, against torch.distributions, enumeration and autograd."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.distributions as tdist
import torch.nn.functional as F
from torch import Tensor

from sedona_nb.block_losses import SPLITS, feedback_loss, forward_loss, scores, terms
from sedona_nb.errors import SedonaError
from sedona_nb.families import FAMILIES, family
from sedona_nb.latent_chain import LatentChain

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


@pytest.mark.parametrize("kind", ["kl", "terms", "forward", "feedback"])
def test_impossible_states_leave_values_and_gradients_finite(kind):
    f, labels = family("categorical"), torch.tensor([1, 0, 2, 2])
    alpha = draw(ROWS, 1)[:, :, :1].requires_grad_()
    target = torch.eye(CHANNELS, dtype=torch.float64)[:, :, None].log().requires_grad_()
    if kind == "kl":
        value = f.kl(alpha + target[labels], alpha).sum()
    elif kind == "terms":
        value = terms(f, alpha, target, labels).likelihood.sum()
    else:
        value = (forward_loss if kind == "forward" else feedback_loss)(f, alpha, target, labels, "kl")
    assert torch.isfinite(value)
    gradients = torch.autograd.grad(value, [alpha, target], allow_unused=True)
    assert all(torch.isfinite(gradient).all() for gradient in gradients if gradient is not None)


def test_divergence_of_near_gaussians_far_from_zero_keeps_its_digits():
    generator = torch.Generator().manual_seed(0)
    p = 30 * torch.randn(4, 64, 2, generator=generator)
    q = p + 0.002 * torch.randn(p.shape, generator=generator)
    wanted = 0.5 * (q - p).double().square().sum((1, 2))
    torch.testing.assert_close(family("gaussian").kl(q, p).double(), wanted, rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", FAMILIES)
def test_likelihood_is_agreement_with_the_size_of_the_message(name):
    f, alpha, beta = family(name), draw(ROWS, 1), draw(CLASSES, 2)
    wanted = torch.stack([f.log_partition(alpha + b) - f.log_partition(alpha) for b in beta], 1)
    torch.testing.assert_close(f.likelihood(alpha, beta), wanted)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("shape", [(2, CHANNELS), (2, POSITIONS, CHANNELS), (2, CHANNELS, 1), (2, 1, 1)])
def test_messages_about_another_variable_are_refused(name, shape):
    f, alpha, other = family(name), draw(2, 1), torch.zeros(shape, dtype=torch.float64)
    for ask in (lambda: f.kl(alpha, other), lambda: f.agreement(alpha, other), lambda: f.likelihood(alpha, other)):
        with pytest.raises(SedonaError, match=r"allowed: \(rows, channels, positions\), alike but for the rows"):
            ask()
    with pytest.raises(SedonaError, match="2 and 1 distributions"):
        f.kl(alpha, alpha[:1])


def test_unknown_family_is_refused():
    with pytest.raises(SedonaError, match="unknown family 'gausian'; allowed: .*did you mean 'gaussian'"):
        family("gausian")


# -- the loss and its split --------------------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("split", ["evidence", "likelihood"])
def test_with_the_target_itself_as_message_it_is_backpropagation(split, smoothing):
    """N = 1, the exact posterior: the gradient of the scores is that of the cross-entropy."""
    alpha, labels = draw(ROWS, 1)[:, :, :1].requires_grad_(), torch.tensor([1, 0, 2, 2])
    target = torch.eye(CHANNELS, dtype=torch.float64)[:, :, None].log()
    wanted = F.cross_entropy(alpha[:, :, 0], labels, label_smoothing=smoothing)
    (slope,) = torch.autograd.grad(wanted, alpha)
    found = forward_loss(family("categorical"), alpha, target, labels, split, smoothing)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(torch.autograd.grad(found, alpha)[0], slope)


@pytest.mark.parametrize("states", [(3,), (2, 3), (4, 2, 5)])
def test_true_messages_make_the_likelihood_split_the_loss_of_the_whole_chain(states):
    """In value, at every boundary, and in the gradient of every link; messages as distributions of z do not."""
    f, off = family("categorical"), []
    for seed in range(20):
        chain = LatentChain.random(states, CLASSES, seed)
        alphas, betas = chain.alphas(), [chain.betas(label) for label in range(CLASSES)]
        for label in range(CLASSES):
            live = LatentChain(tuple(link.clone().requires_grad_() for link in chain.links))
            backprop = torch.autograd.grad(live.loss(label), live.links)
            for k in range(len(states)):
                own = chain.links[k].clone().requires_grad_()
                alpha = (own.softmax(-1) if k == 0 else alphas[k - 1] @ own.softmax(-1)).log()[None, :, None]
                messages = torch.stack([beta[k] for beta in betas]).log()[:, :, None]
                losses = {s: forward_loss(f, alpha, messages, torch.tensor([label]), s) for s in SPLITS[:2]}
                torch.testing.assert_close(losses["likelihood"], chain.loss(label))
                gradient = torch.autograd.grad(losses["likelihood"], own)[0]
                torch.testing.assert_close(gradient, backprop[k], rtol=1e-6, atol=1e-9)
                off.append(losses["evidence"].item() - chain.loss(label).item())
    assert min(off) < -0.1 < 0.1 < max(off)  # no bound of the network's loss: it lies on both sides


@pytest.mark.parametrize("split", ["evidence", "likelihood"])
@pytest.mark.parametrize("name", FAMILIES)
def test_terms_add_up_to_the_cross_entropy_of_the_scores(name, split):
    alpha, beta, labels = draw(ROWS, 1), draw(CLASSES, 2), torch.tensor([0, 4, 2, 2])
    wanted = F.cross_entropy(scores(family(name), alpha, beta, split), labels, reduction="none")
    found = terms(family(name), alpha, beta, labels, split)
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
def test_the_local_part_alone_makes_messages_fall_silent(name):
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


@pytest.mark.parametrize("name", ["bernoulli", "categorical"])
def test_sites_of_other_families_are_another_gradient(name):
    """The site is sum_c (target_c - share_c) beta_c; the loss towards it leads another way than the evidence."""
    f, labels = family(name), torch.tensor([0, 4, 2, 2])
    alpha, beta = draw(ROWS, 1).requires_grad_(), draw(CLASSES, 2)
    shares = f.agreement(alpha, beta).softmax(1).detach()
    site = torch.einsum("bc,cns->bns", F.one_hot(labels, CLASSES) - shares, beta)
    (wanted,) = torch.autograd.grad(f.kl(alpha.detach() + site, alpha).mean(), alpha)
    ours, other = (
        torch.autograd.grad(forward_loss(f, alpha, beta, labels, s), alpha)[0] for s in ("sites", "evidence")
    )
    torch.testing.assert_close(ours, wanted)
    assert 0.5 < F.cosine_similarity(ours.flatten(), other.flatten(), 0) < 0.99


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (torch.tensor([0.0, 1, 2, 3]), r"labels \(4,\) of float32; allowed: \(4,\) of int64"),
        (torch.tensor([0, 1, 2, 3], dtype=torch.int32), "of int32"),
        (torch.eye(4), r"labels \(4, 4\) of float32"),
        (torch.tensor([0, 1, 2]), r"labels \(3,\) of int64; allowed: \(4,\)"),
        (torch.tensor([0, 1, 2, CLASSES]), f"a label outside the classes 0 .. {CLASSES - 1}"),
        (torch.tensor([0, 1, 2, -100]), "a label outside the classes"),
        (torch.tensor([0, 1, 2, -1]), "a label outside the classes"),
    ],
)
def test_labels_that_are_no_class_indices_are_refused(labels, words):
    messages = family("gaussian"), draw(ROWS, 1), draw(CLASSES, 2)
    for loss in (terms, forward_loss, feedback_loss):
        with pytest.raises(SedonaError, match=words):
            loss(*messages, labels)
    for split in SPLITS:
        with pytest.raises(SedonaError, match=words):
            forward_loss(*messages, labels, split)
    with pytest.raises(SedonaError, match=r"labels \(0,\) of int64; allowed: \(at least 1,\)"):
        forward_loss(messages[0], messages[1][:0], messages[2], torch.zeros(0, dtype=torch.int64))


def test_unknown_split_is_refused():
    with pytest.raises(SedonaError, match="unknown split 'elbo'"):
        forward_loss(family("gaussian"), draw(1, 1), draw(2, 2), torch.tensor([0]), "elbo")
