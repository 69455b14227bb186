"""Exponential families whose natural parameters the blocks of block-local learning send each other.

A message is a tensor (rows, channels, positions): one latent variable a row, made of independent parts. "gaussian"
(unit variance) and "bernoulli" have a part for every channel and position; "categorical" has a part a position,
whose states are the channels. In every family

    p(z) = h(z) exp(eta . T(z) - A(eta))

with natural parameters eta, sufficient statistics T, base measure h and log-partition function A, so that the
product of two messages is, up to its norm, the message with the sum of their parameters (poster, second equation).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor

from sedona_nb.errors import SedonaError, choose


class Family(ABC):
    """What block-local learning needs to know of a family; all sums run over the parts of a latent variable.

    A family has to say `_agreement`, and may say `_kl`; the methods without the underscore look at shapes first.
    """

    name: str

    @abstractmethod
    def log_partition(self, eta: Tensor) -> Tensor:
        """A(eta): (rows, channels, positions) -> (rows,)."""

    @abstractmethod
    def mean(self, eta: Tensor) -> Tensor:
        """The mean parameters E[T(z)], the gradient of A; shaped like `eta`."""

    def agreement(self, alpha: Tensor, beta: Tensor) -> Tensor:
        """log of E[beta(z) / h(z)] under alpha, up to the constant A(0), for all pairs of two lists of messages.

        R = A(alpha + beta) - A(alpha) - A(beta) + A(0): how well what comes forward and what comes back fit
        together; 0 where one of them says nothing. The size of beta is taken out: it is a distribution of z.

        Args:
            alpha: (B, channels, positions).
            beta: (C, channels, positions).

        Returns:
            (B, C).

        Raises:
            SedonaError: the messages are about different latent variables.
        """
        _same_variable(alpha, beta)
        return self._agreement(alpha, beta)

    def likelihood(self, alpha: Tensor, beta: Tensor) -> Tensor:
        """log of E[exp(beta . T(z))] under alpha: A(alpha + beta) - A(alpha), with beta's size; as `agreement`."""
        return self.agreement(alpha, beta) + self.log_partition(beta) - self.log_partition(torch.zeros_like(beta))

    def kl(self, q: Tensor, p: Tensor) -> Tensor:
        """KL(q || p) of the distributions with natural parameters `q` and `p`, row by row: (rows,).

        Raises:
            SedonaError: the messages are about different latent variables, or not equally many.
        """
        _same_variable(q, p)
        if len(q) != len(p):
            raise SedonaError(f"{len(q)} and {len(p)} distributions; allowed: as many on both sides")
        return self._kl(q, p)

    @abstractmethod
    def _agreement(self, alpha: Tensor, beta: Tensor) -> Tensor: ...

    def _kl(self, q: Tensor, p: Tensor) -> Tensor:
        inner = (self.mean(q) * (q - p)).flatten(1).sum(1)
        return inner - self.log_partition(q) + self.log_partition(p)


class Gaussian(Family):
    """Unit variance; T(z) = z, so the natural parameter is the mean."""

    name = "gaussian"

    def log_partition(self, eta: Tensor) -> Tensor:
        """Half the squared norm."""
        return 0.5 * eta.square().flatten(1).sum(1)

    def mean(self, eta: Tensor) -> Tensor:
        """`eta` itself."""
        return eta

    def _kl(self, q: Tensor, p: Tensor) -> Tensor:
        return 0.5 * (q - p).square().flatten(1).sum(1)  # nothing cancels, however far from zero both are

    def _agreement(self, alpha: Tensor, beta: Tensor) -> Tensor:
        """The inner product: messages act as the weights of a linear classifier."""
        return alpha.flatten(1) @ beta.flatten(1).T


class Bernoulli(Family):
    """z in {0, 1}; T(z) = z, so the natural parameter is the logit."""

    name = "bernoulli"

    def log_partition(self, eta: Tensor) -> Tensor:
        """Sum of log(1 + exp(eta))."""
        return F.softplus(eta).flatten(1).sum(1)

    def mean(self, eta: Tensor) -> Tensor:
        """The probability of 1."""
        return torch.sigmoid(eta)

    def _agreement(self, alpha: Tensor, beta: Tensor) -> Tensor:
        """Sum of log 2 (s(a) s(b) + s(-a) s(-b)): the chance that two coins show the same side, against 1/2."""
        a, b = alpha.flatten(1)[:, None], beta.flatten(1)[None]
        together = F.softplus(a + b) - F.softplus(a) - F.softplus(b) + math.log(2)
        return together.sum(2)


class Categorical(Family):
    """A state out of as many as there are channels; T(z) is one-hot, the natural parameters are logits.

    Logits may be -inf, for a state that is impossible.
    """

    name = "categorical"

    def log_partition(self, eta: Tensor) -> Tensor:
        """Sum over positions of the logsumexp over channels."""
        return eta.logsumexp(1).sum(1)

    def mean(self, eta: Tensor) -> Tensor:
        """The probabilities of the states."""
        return eta.softmax(1)

    def _kl(self, q: Tensor, p: Tensor) -> Tensor:
        """As for every family; states that q rules out count nothing, and get a gradient of zero."""
        log_q, log_p = q.log_softmax(1), p.log_softmax(1)
        distance = (log_q - log_p).masked_fill(log_q == -math.inf, 0.0)
        return (log_q.exp() * distance).flatten(1).sum(1)

    def _agreement(self, alpha: Tensor, beta: Tensor) -> Tensor:
        """Sum over positions of log n sum_i p_i q_i: the chance that two draws are equal, against 1/n."""
        a, b = alpha.log_softmax(1), beta.log_softmax(1)
        pairs = (a[:, None] + b[None]).logsumexp(2)  # (B, C, positions); exact where one state has all the mass
        return pairs.sum(2) + math.log(alpha.shape[1]) * alpha.shape[2]


FAMILIES: dict[str, Family] = {family.name: family for family in (Gaussian(), Bernoulli(), Categorical())}


def family(name: str) -> Family:
    """The family called `name`.

    Raises:
        SedonaError: an unknown name.
    """
    return FAMILIES[choose(name, FAMILIES, "family")]


def _same_variable(one: Tensor, other: Tensor) -> None:
    if one.dim() != 3 or one.shape[1:] != other.shape[1:]:
        shapes = f"messages {tuple(one.shape)} and {tuple(other.shape)}"
        raise SedonaError(f"{shapes}; allowed: (rows, channels, positions), alike but for the rows")
