"""The loss of block-local learning, cut into what each forward and each feedback block trains on its own inputs.

The poster bounds the network's loss by a mean over the blocks' latent variables z_1 .. z_N,

    F = -log p(y|x) + 1/N sum_k KL(q_k || p_k)  >=  -log p(y|x),   q_k proportional to alpha_k beta_k,

where p_k is the true posterior of z_k. Term by term this is F_k = KL(q_k || alpha_k) - E_q[log p(y | z_k)], and
p(y | z_k) is what no block knows: it takes all the blocks above. Our cut puts beta_k, normalised over the
classes, in its place. A block and the messages around it then make a small model of their own, p_k(z, y | x)
proportional to alpha_k(z) beta_k(z | y), in which q_k is the exact posterior, and

    F_k = KL(q_k || alpha_k) - E_q[log beta_k(z | y)] + log Z_k = -log p_k(y | x),

the cross-entropy of the agreements of alpha_k with the messages of all classes. Forward block k lowers it through
alpha_k, feedback block k+1 through beta_k; each takes the other's message as it comes. With one block, beta is the
one-hot target and this is backpropagation's cross-entropy.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sedona_nb.errors import choose
from sedona_nb.families import Family
from sedona_nb.losses import cross_entropy

# evidence: both sides lower -log p_k(y|x), as above.
# sites: as evidence, but alpha is drawn towards a fixed posterior, whose message is the log-likelihood's slope.
# kl: nothing but KL(q_k || alpha_k), read literally; messages shrink until they say nothing, and learning stops.
SPLITS = ("evidence", "sites", "kl")


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


def terms(family: Family, alpha: Tensor, beta: Tensor, labels: Tensor) -> Terms:
    """The parts of F_k with the exact posterior q = alpha beta of the block's own model.

    Args:
        family: of the latent variable.
        alpha: natural parameters, (B, channels, positions).
        beta: messages of all classes, (classes, channels, positions).
        labels: (B,).
    """
    own = beta[labels]
    q, zero = alpha + own, torch.zeros_like(beta[:1])
    scale = family.log_partition(zero) - family.log_partition(own)  # makes beta a distribution of z
    likelihood = (own * family.mean(q)).flatten(1).sum(1) + scale
    return Terms(family.kl(q, alpha), likelihood, family.agreement(alpha, beta).logsumexp(1))


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
    """
    choose(split, SPLITS, "split")
    beta = beta.detach()
    if split == "kl":
        return family.kl((alpha + beta[labels]).detach(), alpha).mean()
    scores = family.agreement(alpha, beta)
    if split == "evidence":
        return cross_entropy(scores, labels, smoothing, convention)
    fixed = scores.detach().requires_grad_()
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
    """What a feedback block lowers; its gradient is for `beta` alone. Arguments as in `forward_loss`."""
    choose(split, SPLITS, "split")
    alpha = alpha.detach()
    if split == "kl":
        return family.kl(alpha + beta[labels], alpha).mean()
    return cross_entropy(family.agreement(alpha, beta), labels, smoothing, convention)
