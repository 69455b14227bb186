"""A chain of discrete latent variables, small enough to enumerate: block-local learning without approximations.

    chain = LatentChain.random(states=(3, 4), classes=2, seed=0)
    chain.alphas()          # p(z_1|x), p(z_2|x), p(y|x): the forward messages
    chain.betas(label=1)    # p(y|z_1), p(y|z_2): the feedback messages, as exact as they can be

x -> z_1 -> .. -> z_N -> y, for one input x. Every link is a table of scores whose softmax along the last axis is a
conditional distribution; the first has no rows, since x is given. In this chain the poster's bound and its local
terms can be worked out without any approximation.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sedona_nb.errors import SedonaError
from sedona_nb.seeds import torch_generator


@dataclass(frozen=True)
class LatentChain:
    """Scores of the links.

    Attributes:
        links: (S_1,), (S_1, S_2), .., (S_N, classes), float64; link k is what "forward block" k has to learn.
    """

    links: tuple[Tensor, ...]

    def __post_init__(self) -> None:
        shapes = [tuple(link.shape) for link in self.links]
        fits = all(one[-1] == two[0] and len(two) == 2 for one, two in zip(shapes, shapes[1:], strict=False))
        if len(shapes) < 2 or len(shapes[0]) != 1 or not fits:
            raise SedonaError(f"links {shapes} do not join; allowed: (S,), then tables (S, S'), (S', S''), ..")

    @classmethod
    def random(cls, states: tuple[int, ...], classes: int, seed: int = 0, scale: float = 1.5) -> LatentChain:
        """A chain with normal scores.

        Args:
            states: of z_1 .. z_N.
            classes: of y.
            seed: of the scores.
            scale: their standard deviation.
        """
        generator = torch_generator(seed, "latent chain")
        sizes = (*states, classes)
        shapes = [sizes[:1], *zip(sizes, sizes[1:], strict=False)]
        return cls(tuple(scale * torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes))

    @property
    def tables(self) -> tuple[Tensor, ...]:
        """p(z_1|x), p(z_2|z_1), .., p(y|z_N)."""
        return tuple(link.softmax(-1) for link in self.links)

    def alphas(self) -> list[Tensor]:
        """p(z_k|x) for k = 1 .. N, and p(y|x): alpha_k is the expectation of p(z_k|z_{k-1}) under alpha_{k-1}."""
        first, *others = self.tables
        found = [first]
        for table in others:
            found.append(found[-1] @ table)
        return found

    def betas(self, label: int) -> list[Tensor]:
        """p(y|z_k) for k = 1 .. N, from the target backwards.

        Raises:
            SedonaError: the label is no class.
        """
        self._check(label)
        found = [self.tables[-1][:, label]]
        for table in reversed(self.tables[1:-1]):
            found.append(table @ found[-1])
        return found[::-1]

    def loss(self, label: int) -> Tensor:
        """L = -log p(y|x), ().

        Raises:
            SedonaError: the label is no class.
        """
        self._check(label)
        return -self.alphas()[-1][label].log()

    def bound(self, betas: list[Tensor], label: int) -> Tensor:
        """F_k of every latent variable with the posterior q_k proportional to alpha_k times `betas[k]`, (N,).

        F_k = KL(q_k || alpha_k) - E_q[log p(y|z_k)] = -log p(y|x) + KL(q_k || p(z_k|x, y)); their mean is the
        poster's F. Any positive messages are allowed.

        Raises:
            SedonaError: the label is no class, or there is not a message for every latent variable.
        """
        latents = len(self.links) - 1
        if len(betas) != latents:
            raise SedonaError(f"{len(betas)} messages for {latents} latent variables; allowed: one each")
        found = []
        for alpha, beta, exact in zip(self.alphas()[:-1], betas, self.betas(label), strict=True):
            q = posterior(alpha, beta)
            found.append((q * (q.log() - alpha.log() - exact.log())).sum())
        return torch.stack(found)

    def local_gradients(self, betas: list[Tensor], label: int) -> list[Tensor]:
        """What each forward block learns from its messages alone, a gradient a link.

        Link k lowers KL(q_k || alpha_k) with q_k held fixed and alpha_{k-1} as it came; the last link the
        cross-entropy of the target. With exact betas these are the gradients of the loss itself.

        Raises:
            SedonaError: the label is no class.
        """
        self._check(label)
        gradients = []
        alphas = [alpha.detach() for alpha in self.alphas()]
        for k, link in enumerate(self.links):
            own = link.detach().requires_grad_()
            alpha = own.softmax(-1) if k == 0 else alphas[k - 1] @ own.softmax(-1)
            if k < len(betas):
                q = posterior(alphas[k], betas[k])
                local = (q * (q.log() - alpha.log())).sum()
            else:
                local = -alpha[label].log()
            gradients.append(torch.autograd.grad(local, own)[0])
        return gradients

    def _check(self, label: int) -> None:
        classes = self.links[-1].shape[1]
        if not 0 <= label < classes:
            raise SedonaError(f"label {label} is no class; allowed: 0 .. {classes - 1}")


def posterior(alpha: Tensor, beta: Tensor) -> Tensor:
    """alpha times beta, normalised, (states,)."""
    product = alpha * beta
    return product / product.sum()
