"""A 1x1 convolution and the BatchNorm behind it as one affine map, from moments of the input; and the way back.

With mean and covariance V of the P input channels, z = W h has mean W hbar and variance diag(W V W^T), so that

    BatchNorm(W h) = A h + b,      A = diag(gamma r) W,      b = beta - gamma r mu,      r = 1/sqrt(variance + eps)

and for tangents, with C the cross-covariance of h and hd and c = r (diag(W C W^T) + diag(W V W'^T)):

    A hd + A2 h + b2,   A2 = diag(D2) W + diag(gamma r) W',   b2 = beta' - gamma r m1 - D2 mu,
    D2 = r (gamma' - gamma r c),   m1 = W hdbar + W' hbar

Everything is done for m convolutions at once; W is (m, channels, P), moments are (m, P) and (m, P, P). Matrices
are given transposed, as tails use them: [A; b] (m, P+1, channels) and [A2; b2; A] (m, 2P+1, channels). `pull`
takes their gradients to those of weights and moments.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import grad


class FoldedPlain:
    """The map of a plain pass, with its derivative by hand.

    Attributes:
        matrices: [A; b], in a list.
        mean, variance: of z, (m, channels).
    """

    def __init__(self, moments: list[Tensor], inputs: list[Tensor], eps: float):
        self.moments, self.inputs = moments, inputs
        (w, gamma, beta), (mean, covariance) = inputs, moments
        self.wv = w @ covariance
        self.variance = (self.wv * w).sum(2)
        self.r = (self.variance + eps).rsqrt()
        self.mean, self.c1 = _times(w, mean), gamma * self.r
        a, b = self.c1[..., None] * w, beta - self.c1 * self.mean
        self.matrices = [torch.cat([a.mT, b[:, None]], 1)]

    def pull(self, gradients: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Gradients of `matrices` -> those of (W, gamma, beta) and of (mean, covariance)."""
        (w, gamma, _), (mean, _) = self.inputs, self.moments
        to_a, to_b = gradients[0][:, :-1].mT, gradients[0][:, -1]
        to_c1 = (to_a * w).sum(2) - to_b * self.mean
        to_mu = -self.c1 * to_b
        to_variance = -0.5 * to_c1 * gamma * self.r**3
        to_w = (self.c1[..., None] * to_a).addcmul_(to_mu[..., None], mean[:, None])
        to_w.addcmul_(to_variance[..., None], self.wv, value=2)
        return [to_w, to_c1 * self.r, to_b], [_times(w.mT, to_mu), w.mT @ (to_variance[..., None] * w)]


class FoldedDual:
    """The map of a dual pass; its derivative is left to autograd. Attributes as in `FoldedPlain`."""

    def __init__(self, moments: list[Tensor], inputs: list[Tensor], directions: list[Tensor], eps: float):
        with torch.enable_grad():
            self.leaves = [value.detach().requires_grad_() for value in (*inputs, *moments)]
            w, gamma, beta, mean, covariance, mean_d, cross = self.leaves
            dw, dgamma, dbeta = directions
            wv = w @ covariance
            variance = (wv * w).sum(2)
            r = (variance + eps).rsqrt()
            mu, c1 = _times(w, mean), gamma * r
            a, b = c1[..., None] * w, beta - c1 * mu
            c = r * (((w @ cross) * w).sum(2) + (wv * dw).sum(2))
            d2 = r * (dgamma - c1 * c)
            a2 = d2[..., None] * w + c1[..., None] * dw
            b2 = dbeta - c1 * (_times(w, mean_d) + _times(dw, mean)) - d2 * mu
            self.folded = [torch.cat([a.mT, b[:, None]], 1), torch.cat([a2.mT, b2[:, None], a.mT], 1)]
        self.matrices = [matrix.detach() for matrix in self.folded]
        self.mean, self.variance = mu.detach(), variance.detach()

    def pull(self, gradients: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Gradients of `matrices` -> those of (W, gamma, beta) and of (mean, covariance, mean_d, cross)."""
        found = grad(self.folded, self.leaves, gradients)
        return list(found[:3]), list(found[3:])


def _times(matrices: Tensor, vectors: Tensor) -> Tensor:
    """(m, a, b) times (m, b) -> (m, a)."""
    return (matrices @ vectors[..., None])[..., 0]
