"""The loss of block-local learning, cut into what each forward and each feedback block trains on its own inputs.

The poster bounds the network's loss by a mean over the blocks' latent variables z_1 .. z_N,

    F = -log p(y|x) + 1/N sum_k KL(q_k || p_k)  >=  -log p(y|x),   q_k proportional to alpha_k beta_k,

where p_k is the true posterior of z_k. Term by term this is F_k = KL(q_k || alpha_k) - E_q[log p(y | z_k)], and
p(y | z_k) is what no block knows: it takes all the blocks above. Our cut lets a block and the messages around it
make a small model of their own, p_k(z, y | x) = alpha_k(z) beta_k(z | y) / Z_k, whose exact posterior is q_k:

    F_k = KL(q_k || alpha_k) - E_q[log beta_k(z | y)] + log Z_k = -log p_k(y | x),

the cross-entropy of a classifier whose scores are log sum_z alpha_k(z) beta_k(z | y). Forward block k lowers it
through alpha_k, feedback block k+1 through beta_k; each takes the other's message as it comes. It is a loss of its
own, no bound of the network's. How large a message may be tells two readings apart ("evidence", "likelihood").

The weights 1/N are left out: each block has an optimiser of its own. N blocks have N-1 latent variables here; the
last block's message is the target itself. In the categorical family its logarithm, one-hot, makes F_k
backpropagation's cross-entropy.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sedona_nb.errors import SedonaError, choose
from sedona_nb.families import Family
from sedona_nb.losses import cross_entropy

# evidence: beta_k(z|y) is a distribution of z. A message has a direction, no size; scores are agreements.
# likelihood: beta_k(z|y) stands for p(y|z_k), size included. With the true messages of a categorical chain Z_k is
#     1, and F_k is -log p(y|x) itself.
# sites: as evidence, but alpha is drawn towards a fixed q with the message sum_c (target_c - p_k(c|x)) beta_k(c).
#     For Gaussian variables that has evidence's gradient; for the others it has not.
# kl: of F_k only the part that needs no p(y|z), KL(q_k || alpha_k); messages shrink until they say nothing.
SPLITS = ("evidence", "likelihood", "sites", "kl")


@dataclass(frozen=True)
class Terms:
    """F_k of every row of a batch, in nats, in three parts, (B,) each."""

    kl: Tensor
    likelihood: Tensor
    normaliser: Tensor

    @property
    def evidence(self) -> Tensor:
        """-log p_k(y | x): KL(q || alpha) - E_q[log beta] + log Z, (B,)."""
        return self.kl - self.likelihood + self.normaliser


def scores(family: Family, alpha: Tensor, beta: Tensor, split: str = "evidence") -> Tensor:
    """log sum_z alpha(z) beta(z | y) of all classes, (B, classes); messages as in `terms`."""
    return (family.likelihood if split == "likelihood" else family.agreement)(alpha, beta)


def terms(family: Family, alpha: Tensor, beta: Tensor, labels: Tensor, split: str = "evidence") -> Terms:
    """The parts of F_k with the exact posterior q = alpha beta of the block's own model.

    Args:
        family: of the latent variable.
        alpha: natural parameters, (B, channels, positions).
        beta: messages of all classes, (classes, channels, positions).
        labels: (B,).
        split: "evidence" or "likelihood".

    Raises:
        SedonaError: messages that do not fit, or labels that are no classes.
    """
    choose(split, SPLITS[:2], "split")
    check_labels(labels, len(beta), len(alpha))
    normaliser = scores(family, alpha, beta, split).logsumexp(1)
    own = beta[labels]
    q = alpha + own
    mean = family.mean(q)
    likelihood = (own.masked_fill(mean == 0, 0.0) * mean).flatten(1).sum(1)  # own may be -inf where q has no mass
    if split == "evidence":  # makes beta a distribution of z
        likelihood = likelihood + family.log_partition(torch.zeros_like(own)) - family.log_partition(own)
    return Terms(family.kl(q, alpha), likelihood, normaliser)


def forward_loss(
    family: Family,
    alpha: Tensor,
    beta: Tensor,
    labels: Tensor,
    split: str = "evidence",
    smoothing: float = 0.0,
    convention: str = "uniform",
) -> Tensor:
    """What a forward block lowers; its gradient is for `alpha` alone.

    Args:
        family, alpha, beta, labels: as in `terms`.
        split: one of `SPLITS`.
        smoothing, convention: of the labels, as in `losses.cross_entropy`; "kl" has no place for them.

    Returns:
        mean over the batch, ().

    Raises:
        SedonaError: an unknown split, messages that do not fit, or labels that are no classes.
    """
    choose(split, SPLITS, "split")
    check_labels(labels, len(beta), len(alpha))
    beta = beta.detach()
    if split == "kl":
        return family.kl((alpha + beta[labels]).detach(), alpha).mean()
    found = scores(family, alpha, beta, split)
    if split != "sites":
        return cross_entropy(found, labels, smoothing, convention)
    fixed = found.detach().requires_grad_()
    (slope,) = torch.autograd.grad(cross_entropy(fixed, labels, smoothing, convention) * len(labels), fixed)
    site = torch.einsum("bc,cns->bns", -slope, beta)
    return family.kl(alpha.detach() + site, alpha).mean()


def feedback_loss(
    family: Family,
    alpha: Tensor,
    beta: Tensor,
    labels: Tensor,
    split: str = "evidence",
    smoothing: float = 0.0,
    convention: str = "uniform",
) -> Tensor:
    """What a feedback block lowers; its gradient is for `beta` alone. All else as in `forward_loss`."""
    choose(split, SPLITS, "split")
    check_labels(labels, len(beta), len(alpha))
    alpha = alpha.detach()
    if split == "kl":
        return family.kl(alpha + beta[labels], alpha).mean()
    return cross_entropy(scores(family, alpha, beta, split), labels, smoothing, convention)


def check_labels(labels: Tensor, classes: int, rows: int) -> None:
    """Refuse what is not a class index a row; on a GPU by its shape alone: to see a value is to wait for it.

    Raises:
        SedonaError: another type than int64, another shape than (rows,), no row at all, or an index outside.
    """
    if labels.dtype != torch.int64 or tuple(labels.shape) != (rows,) or not rows:
        was = f"labels {tuple(labels.shape)} of {str(labels.dtype).removeprefix('torch.')}"
        raise SedonaError(f"{was}; allowed: ({rows or 'at least 1'},) of int64, a class index each")
    if labels.device.type == "cpu" and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise SedonaError(f"a label outside the classes 0 .. {classes - 1}")
